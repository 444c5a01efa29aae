//! Checks of this host: a data directory, the disk below it, and the SRV records that its resolver finds.

use super::DoctorArgs;
use crate::people::status::facts::{Facts, Seen};
use crate::people::status::findings::{Finding, sync_level};
use crate::people::status::metrics::shown_seconds;
use crate::people::status::screen::shown_bytes;
use rustix::fs::{fdatasync, statvfs};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What others may not: anything.
const OTHERS_MODE: u32 = 0o077;

/// Writes that the disk is asked to sync, as large as a small log entry is with its padding.
const SYNCS: usize = 200;
const SYNC_BYTES: usize = 4096;

/// A disk that is very slow is known to be after this time.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// The checks that are asked for.
pub(super) async fn checks(args: &DoctorArgs, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let quota = facts.answers().filter_map(Seen::quota_bytes).max();
    if let Some(path) = args.data_dir.clone() {
        let wal = args.wal_dir.clone().unwrap_or_else(|| path.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let mut findings = directory(&path, quota);
            if wal != path {
                findings.extend(directory(&wal, None));
            }
            findings.push(syncs(&wal));
            findings
        });
        findings.extend(checked.await.unwrap_or_default());
    }
    if let Some(domain) = &args.srv_domain {
        findings.extend(records(domain, args.srv_name.as_deref()).await);
    }
    findings
}

/// Who may look into a directory, and how much room it has.
fn directory(path: &Path, quota: Option<u64>) -> Vec<Finding> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return vec![Finding::fail(
                "directory",
                format!("{shown}: {error}"),
                "name a member's directory of this host",
            )];
        }
    };
    if !metadata.is_dir() {
        return vec![Finding::fail(
            "directory",
            format!("{shown} is no directory"),
            "name a member's directory of this host",
        )];
    }
    let mode = metadata.mode() & 0o777;
    let mut findings = vec![if mode & OTHERS_MODE == 0 {
        Finding::pass("CIS 1.1.11", format!("only its owner may look into {shown}"))
    } else {
        Finding::fail(
            "CIS 1.1.11",
            format!("others may look into {shown}: its mode is {mode:o}"),
            format!("chmod 700 {shown}"),
        )
    }];
    findings.push(if metadata.uid() == 0 {
        Finding::warn(
            "CIS 1.1.12",
            format!("{shown} belongs to root, so the member runs as root"),
            "run the member as a user of its own, and give that user the directory",
        )
    } else {
        Finding::pass("CIS 1.1.12", format!("{shown} belongs to the user with the id {}", metadata.uid()))
    });
    if let (Some(quota), Ok(space)) = (quota, statvfs(path)) {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let what = format!("{} are free below {shown}, and the quota is {}", shown_bytes(free), shown_bytes(quota));
        findings.push(if free < quota {
            Finding::warn("space", what, "make room: a full disk stops the member, which the quota is there to prevent")
        } else {
            Finding::pass("space", what)
        });
    }
    findings
}

/// How long the disk takes to keep a small write, in nearly all cases.
fn syncs(path: &Path) -> Finding {
    let seconds = match measure(path) {
        Ok(seconds) => seconds,
        Err(error) => {
            let what = format!("the disk below {} cannot be tried: {error}", path.display());
            return Finding::warn("disk here", what, "give the command as a user that may write there");
        }
    };
    let what = format!(
        "99 of 100 syncs of {SYNC_BYTES} bytes below {} take at most {}",
        path.display(),
        shown_seconds(seconds)
    );
    let remedy = "give the log a faster disk, or one that others do not use";
    Finding::of(sync_level(seconds), "disk here", what, remedy)
}

/// The 99th percentile of the times of syncs, in seconds.
fn measure(path: &Path) -> std::io::Result<f64> {
    // Nothing of it is left, whatever happens.
    let mut file = tempfile::tempfile_in(path)?;
    let block = [0x5a; SYNC_BYTES];
    let begun = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && begun.elapsed() < SYNC_LIMIT {
        file.write_all(&block)?;
        let before = Instant::now();
        fdatasync(&file)?;
        times.push(before.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[(times.len() * 99).div_ceil(100).saturating_sub(1)])
}

/// What DNS says of the records that members and clients look for.
async fn records(domain: &str, service_name: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, service) in [("members", "etcd-server"), ("clients", "etcd-client")] {
        let mut found = Vec::new();
        let mut failures = Vec::new();
        for name in discovery::srv_names(service, service_name.unwrap_or_default(), domain) {
            match discovery::srv_records(&name, &discovery::Options::default()).await {
                Ok(targets) => found.extend(targets.into_iter().map(|(host, port)| format!("{host}:{port}"))),
                Err(reason) => failures.push(format!("{name}: {reason}")),
            }
        }
        findings.push(if found.is_empty() {
            Finding::fail(
                "DNS SRV",
                format!("no records name the {what} ({})", failures.join("; ")),
                "create them, or check the domain, --srv-name and /etc/resolv.conf",
            )
        } else {
            Finding::pass("DNS SRV", format!("the {what} are {}", found.join(", ")))
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::status::findings::Level;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let set = |mode| std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let of = |check: &str, quota| {
            let findings = super::directory(directory.path(), quota);
            findings.into_iter().find(|finding| finding.check == check)
        };
        set(0o700);
        assert_eq!(of("CIS 1.1.11", None).unwrap().level, Level::Pass);
        set(0o750);
        let finding = of("CIS 1.1.11", None).unwrap();
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.what.ends_with("its mode is 750") && finding.remedy.starts_with("chmod 700 "), "{finding:?}");
        assert_eq!(of("space", Some(1)).unwrap().level, Level::Pass);
        assert_eq!(of("space", Some(u64::MAX)).unwrap().level, Level::Warn);
        assert_eq!(of("space", None), None);
        let missing = super::directory(&directory.path().join("none"), None);
        assert!(missing.len() == 1 && missing[0].level == Level::Fail, "{missing:?}");
    }

    #[test]
    fn the_disk_is_tried_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let finding = syncs(directory.path());
        assert!(finding.what.starts_with("99 of 100 syncs of 4096 bytes below "), "{finding:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let missing = syncs(&directory.path().join("none"));
        assert!(missing.level == Level::Warn && missing.what.contains("cannot be tried"), "{missing:?}");
    }
}
