//! Decides who this member is: at the first start from the flags, later from what the data directory says.
//!
//! Ids are etcd's: a member id is the first eight bytes of SHA-1 over its peer URLs and the cluster token, a cluster
//! id the same over the member ids. They are written down before anything else, so that a start that was cut off is
//! taken up again, and flags that change later change nothing.

use crate::config::{Config, InitialClusterState};
use crate::data_dir::remedy;
use crate::node::Identity;
use sha1::{Digest, Sha1};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where the identity is, below the data directory.
pub(crate) const FILE: &str = "IDENTITY";

/// Why the identity is not known.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}{}", remedy(source))]
    Io {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The flags ask to join a cluster, and there is no member here yet.
    #[error(
        "--initial-cluster-state=existing is not supported yet: {} has no member's data, and only a new cluster can be made",
        data_dir.display()
    )]
    Join {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The file does not say who this member is.
    #[error(
        "{path} does not hold a cluster id and a member id as written; restore the file, or the member from a snapshot"
    )]
    Damaged {
        /// The file.
        path: String,
    },
}

/// Reads the identity, or makes and writes it at the first start.
///
/// # Errors
/// The file cannot be read, written or understood, or there is none and the flags ask to join a cluster.
pub(crate) fn identity(data_dir: &Path, config: &Config) -> Result<Identity, BootstrapError> {
    let path = data_dir.join(FILE);
    let io = |action, source| BootstrapError::Io { action, path: path.display().to_string(), source };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| BootstrapError::Damaged { path: path.display().to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if config.initial_cluster_state == InitialClusterState::Existing {
                return Err(BootstrapError::Join { data_dir: data_dir.to_owned() });
            }
            let member_id = member_id(&config.initial_advertise_peer_urls, &config.initial_cluster_token);
            let identity = Identity { cluster_id: cluster_id(&[member_id]), member_id };
            write(&path, identity).map_err(|source| io("write", source))?;
            Ok(identity)
        }
        Err(source) => Err(io("read", source)),
    }
}

/// The id of a member of the first cluster.
fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    first_eight_bytes(sorted.into_iter().chain([token]).map(str::as_bytes))
}

fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    first_eight_bytes(sorted.iter().map(|id| id.to_be_bytes()))
}

fn first_eight_bytes(parts: impl Iterator<Item = impl AsRef<[u8]>>) -> u64 {
    let mut digest = Sha1::new();
    for part in parts {
        digest.update(part);
    }
    let digest: [u8; 20] = digest.finalize().into();
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// The file's text: the ids, and a checksum of those two lines. A flipped bit makes one id into another.
fn format(identity: Identity) -> String {
    let ids = format!("cluster_id: {:016x}\nmember_id: {:016x}\n", identity.cluster_id, identity.member_id);
    let sum = crc32c::crc32c(ids.as_bytes());
    format!("{ids}sum: {sum:08x}\n")
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    let text = str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let mut id = |name: &str| u64::from_str_radix(lines.next()?.strip_prefix(name)?.trim(), 16).ok();
    let identity = Identity { cluster_id: id("cluster_id:")?, member_id: id("member_id:")? };
    (text == format(identity)).then_some(identity)
}

/// Writes the file beside its name and renames it, so that it is there whole or not at all.
fn write(path: &Path, identity: Identity) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(format(identity).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        // What etcd 3.4.23 reports for its default flags.
        let member = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(member, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id(&[member]), 0xcdf8_1819_4e3a_8c32);
    }

    fn config(args: &[&str]) -> Config {
        let args = args.iter().map(ToString::to_string);
        match crate::config::load(args, []) {
            Ok(crate::config::Command::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_start_decides() {
        let dir = tempfile::tempdir().unwrap();
        let new = config(&["--initial-advertise-peer-urls=http://a:2380"]);
        let existing = config(&["--initial-advertise-peer-urls=http://b:2380", "--initial-cluster-state=existing"]);
        let refused = identity(dir.path(), &existing).unwrap_err();
        assert!(
            refused.to_string().starts_with("--initial-cluster-state=existing is not supported yet: "),
            "{refused}"
        );
        let first = identity(dir.path(), &new).unwrap();
        assert_eq!(identity(dir.path(), &existing).unwrap(), first);
        let written = fs::read(dir.path().join(FILE)).unwrap();
        for (byte, bit) in (0..written.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut damaged = written.clone();
            damaged[byte] ^= 1 << bit;
            assert!(parse(&damaged).is_none(), "bit {bit} of byte {byte}: {:?}", String::from_utf8_lossy(&damaged));
        }
        let ids_only = written.len()
            - "sum: 00000000
"
            .len();
        assert!(parse(&written[..ids_only]).is_none(), "without the checksum");
        fs::write(dir.path().join(FILE), "cluster_id: x\n").unwrap();
        assert!(matches!(identity(dir.path(), &new), Err(BootstrapError::Damaged { .. })));
    }
}
