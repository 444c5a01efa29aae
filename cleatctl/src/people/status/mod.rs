//! `status`: the cluster on one screen, with what to do about each problem; `--watch` keeps it there.
//!
//! `gather` asks the members for [`facts`], [`findings`] says what they mean, `screen` draws both.

pub(crate) mod facts;
pub(crate) mod findings;
pub(crate) mod gather;
pub(crate) mod metrics;
pub(crate) mod screen;

#[cfg(test)]
pub(crate) mod samples;

use crate::people::terminal::Terminal;
use crate::people::{Format, Session, print, print_in_passing};
use anyhow::{Result, bail};
use facts::{Facts, Member, Stranger};
use findings::{Finding, Level, live};
use gather::{Depth, Observer};
use metrics::Metrics;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Moves to the upper left, and clears what is below what is drawn there next.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct StatusArgs {
    /// Look again and again, until it is interrupted.
    pub(crate) is_watch: bool,
    /// Between two looks.
    pub(crate) interval: Duration,
}

/// Shows the status, once or again and again.
///
/// # Errors
/// Nobody answers.
pub(crate) async fn status(session: &Session, args: &StatusArgs) -> Result<()> {
    let observer = Observer::new(&session.options, Depth::Live)?;
    let mut before = BTreeMap::new();
    loop {
        let facts = observer.look().await;
        let nobody = facts.answers().next().is_none();
        let shown = if args.is_watch { newest(&facts, &mut before) } else { facts };
        let findings = live(&shown);
        // Who watches has nobody to watch for any more; one look says by its exit code, too, whether somebody answers.
        let print = if args.is_watch { print } else { print_in_passing };
        if session.format == Format::Json {
            print(&format!("{}\n", as_json(&shown, &findings)))?;
        } else if args.is_watch && session.terminal.width.is_some() {
            // The window may have another size by now.
            let terminal = Terminal { width: Terminal::detect().width, ..session.terminal };
            print(&frame(&screen::render(&shown, &findings, &terminal), Terminal::height()))?;
        } else {
            print(&screen::render(&shown, &findings, &session.terminal))?;
        }
        if !args.is_watch {
            if nobody {
                bail!("no member answers; check --endpoints, and the certificates if they have TLS");
            }
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
        if session.terminal.width.is_none() && session.format == Format::Text {
            print("\n")?;
        }
    }
}

/// What is measured anew from time to time.
struct Baseline {
    /// What counts from now on is since this one.
    from: Metrics,
    /// What was measured before it; of the first one, all that there is.
    recent: Metrics,
}

/// Facts whose times are recent ones: those of at least so many measurements as tell something, which may take several looks.
fn newest(facts: &Facts, before: &mut BTreeMap<u64, Baseline>) -> Facts {
    let mut newest = facts.clone();
    for member in &mut newest.members {
        let Ok(seen) = &mut member.seen else { continue };
        let Ok(metrics) = &mut seen.metrics else { continue };
        let Some(baseline) = before.get_mut(&member.id) else {
            before.insert(member.id, Baseline { from: metrics.clone(), recent: metrics.clone() });
            continue;
        };
        let since = metrics.since(&baseline.from);
        if since.p99(metrics::LOG_SYNC).is_some() {
            *baseline = Baseline { from: metrics.clone(), recent: since };
        }
        metrics.take_histograms(&baseline.recent);
    }
    newest
}

/// A screen drawn over the one before, as many lines as there are.
fn frame(screen: &str, height: Option<usize>) -> String {
    let room = height.unwrap_or(usize::MAX).saturating_sub(1).max(1);
    let mut frame = HOME.to_owned();
    for line in screen.lines().take(room) {
        frame.push_str(line);
        frame.push_str(CLEAR_LINE);
        frame.push('\n');
    }
    frame.push_str(CLEAR_BELOW);
    frame
}

/// Facts and findings for programs.
pub(crate) fn as_json(facts: &Facts, findings: &[Finding]) -> Value {
    let member = |member: &Member| {
        let certificates: Vec<Value> = member
            .certificates
            .iter()
            .map(|certificate| match &certificate.ends {
                Ok(ends) => json!({ "url": certificate.url, "not_after": ends }),
                Err(reason) => json!({ "url": certificate.url, "error": reason }),
            })
            .collect();
        let mut value = json!({
            "id": format!("{:x}", member.id), "name": member.name, "learner": member.is_learner,
            "peer_urls": member.peer_urls, "client_urls": member.client_urls, "certificates": certificates,
        });
        match &member.seen {
            Err(reason) => value["error"] = reason.as_str().into(),
            Ok(seen) => {
                let metrics = seen.metrics.as_ref().ok();
                value["endpoint"] = seen.endpoint.as_str().into();
                value["program"] = seen.program.as_deref().into();
                value["version"] = seen.status.version.as_str().into();
                value["leader"] = format!("{:x}", seen.status.leader).into();
                value["term"] = seen.status.raft_term.into();
                value["raft_index"] = seen.status.raft_index.into();
                value["raft_applied_index"] = seen.status.raft_applied_index.into();
                value["raft_lag"] = facts.lag(seen).into();
                value["db_size"] = seen.status.db_size.into();
                value["db_size_in_use"] = seen.status.db_size_in_use.into();
                value["quota"] = seen.quota_bytes().into();
                let sync = metrics.and_then(|metrics| metrics.p99(metrics::LOG_SYNC));
                value["log_sync_p99_seconds"] = sync.into();
                value["clock_ahead_seconds"] = seen.clock_ahead_seconds.into();
            }
        }
        value
    };
    let stranger = |stranger: &Stranger| {
        let cluster = stranger.other_cluster.map(|id| format!("{id:x}"));
        json!({ "endpoint": stranger.endpoint, "member": format!("{:x}", stranger.id), "other_cluster": cluster })
    };
    let alarms: Vec<Value> =
        facts.alarms.iter().map(|(id, name)| json!({ "member": format!("{id:x}"), "alarm": name })).collect();
    json!({
        "time": facts.now, "members": facts.members.iter().map(member).collect::<Vec<_>>(), "alarms": alarms,
        "silent_endpoints": facts.silent_endpoints.iter().map(|(endpoint, reason)| json!({ "endpoint": endpoint, "error": reason })).collect::<Vec<_>>(),
        "strangers": facts.strangers.iter().map(stranger).collect::<Vec<_>>(),
        "findings": findings_as_json(findings),
    })
}

/// Findings for programs.
pub(crate) fn findings_as_json(findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| json!({ "level": finding.level.name(), "check": finding.check, "what": finding.what, "remedy": finding.remedy });
    findings.iter().map(finding).collect()
}

/// The worst of them.
pub(crate) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Pass)
}

#[cfg(test)]
mod tests {
    use super::samples::{healthy, troubled};
    use super::*;
    use crate::people::snapshots::assert_recorded;

    #[test]
    fn programs_get_the_same_facts() {
        let facts = troubled();
        assert_recorded("status-json", &format!("{:#}\n", as_json(&facts, &live(&facts))));
        assert_eq!(worst(&live(&healthy())), Level::Pass);
        assert_eq!(worst(&live(&facts)), Level::Fail);
    }

    #[test]
    fn a_frame_covers_the_one_before_and_fits() {
        assert_eq!(frame("a\nb\n", None), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(frame("a\nb\nc\n", Some(2)), "\x1b[Ha\x1b[K\n\x1b[J");
    }

    #[test]
    fn a_watch_shows_what_is_new() {
        let sync = |slow: u32, all: u32| {
            let name = metrics::LOG_SYNC;
            Metrics::parse(&format!("{name}_bucket{{le=\"0.001\"}} {}\n{name}_bucket{{le=\"1\"}} {all}\n", all - slow))
        };
        let with = |metrics: Metrics| {
            let mut facts = healthy();
            facts.members.truncate(1);
            facts.members[0].seen.as_mut().unwrap().metrics = Ok(metrics);
            facts
        };
        let p99 = |facts: &Facts| facts.members[0].answer()?.metrics.as_ref().ok()?.p99(metrics::LOG_SYNC);
        let mut before = BTreeMap::new();
        assert_eq!(p99(&newest(&with(sync(500, 1000)), &mut before)), Some(1.0));
        // Too few since then: all of them count, and then those together that came little by little.
        assert_eq!(p99(&newest(&with(sync(500, 1060)), &mut before)), Some(1.0));
        assert_eq!(p99(&newest(&with(sync(500, 1120)), &mut before)), Some(0.001));
        assert_eq!(p99(&newest(&with(sync(550, 1170)), &mut before)), Some(0.001));
        assert_eq!(p99(&newest(&with(sync(600, 1220)), &mut before)), Some(1.0));
    }
}
