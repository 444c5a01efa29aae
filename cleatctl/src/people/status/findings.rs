//! What facts mean: what is in order, what is not, and what to do about it.
//!
//! [`live`] is about how the cluster is now, which `status` tells as well; [`setup`] about how it was set up.

use super::facts::{Facts, Member, Seen};
use super::metrics::{COMMIT, LOG_SYNC, Metrics, shown_seconds};
use super::screen::{days_left, shown_date};
use crate::people::text::count;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Pass,
    Warn,
    Fail,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was looked at.
    pub(crate) check: &'static str,
    /// What was seen.
    pub(crate) what: String,
    /// What to do; empty if there is nothing to do.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn pass(check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Pass, check, what: what.into(), remedy: String::new() }
    }

    pub(crate) fn warn(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, check, what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, check, what: what.into(), remedy: remedy.into() }
    }
}

/// etcd refuses writes of a member that is so many entries behind with applying; a fifth is worth a look.
const LAG_FAIL: u64 = 5000;
const LAG_WARN: u64 = 1000;

/// etcd's own limits for a disk, <https://etcd.io/docs/v3.5/faq/>, and one at which elections are in danger.
const SYNC_WARN_SECONDS: f64 = 0.010;
const SYNC_FAIL_SECONDS: f64 = 0.100;
const COMMIT_WARN_SECONDS: f64 = 0.025;

const QUOTA_WARN: f64 = 0.80;
const QUOTA_FAIL: f64 = 0.95;

const EXPIRY_WARN_DAYS: i64 = 30;

/// Seconds. An answer tells its time in whole ones.
const CLOCK_WARN: i64 = 2;
const CLOCK_FAIL: i64 = 60;

const FILES_WARN: f64 = 0.80;

/// Elections are rare: more than one an hour has a cause.
const CHANGES_MIN: f64 = 4.0;
const CHANGES_PER_HOUR: f64 = 1.0;

/// How the cluster is.
pub(crate) fn live(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    members(facts, &mut findings);
    leader(facts, &mut findings);
    alarms(facts, &mut findings);
    quota(facts, &mut findings);
    lag(facts, &mut findings);
    disk(facts, &mut findings);
    certificates(facts, &mut findings);
    clocks(facts, &mut findings);
    findings
}

fn members(facts: &Facts, findings: &mut Vec<Finding>) {
    if let Some(reason) = &facts.list_failure {
        findings.push(Finding::warn(
            "members",
            format!("the list of members cannot be read: {reason}"),
            "give all endpoints with --endpoints: only those are looked at",
        ));
    }
    for (endpoint, reason) in &facts.silent_endpoints {
        findings.push(Finding::fail(
            "members",
            format!("{endpoint} does not answer: {reason}"),
            "check the endpoint, and that the member runs",
        ));
    }
    let voters = facts.voters().count();
    let answering = facts.voters().filter(|member| member.seen.is_ok()).count();
    for member in &facts.members {
        let Err(reason) = &member.seen else { continue };
        let name = member.shown_name();
        findings.push(if member.name.is_empty() {
            Finding::warn(
                "members",
                format!("{name} was added and has not started yet"),
                format!("start it with --initial-cluster-state existing, or `cleatctl member remove {:x}`", member.id),
            )
        } else {
            Finding::fail(
                "members",
                format!("{name} does not answer: {reason}"),
                format!(
                    "start it, or open the way to it; if it is lost for good, `cleatctl member remove {:x}` and add a new one",
                    member.id
                ),
            )
        });
    }
    if voters > 0 && answering < voters / 2 + 1 && facts.list_failure.is_none() {
        findings.push(Finding::fail(
            "members",
            format!("{answering} of {voters} voters answer, which is no majority: nothing can be written"),
            "start members until most of them answer; if most are lost for good, restore a snapshot or use --force-new-cluster",
        ));
    } else if voters > 0 && answering == voters && facts.silent_endpoints.is_empty() {
        let learners = facts.members.len() - voters;
        let learners =
            if learners > 0 { format!(", and {}", count(learners, "learner", "learners")) } else { String::new() };
        findings.push(Finding::pass(
            "members",
            format!("{answering} of {} answer{learners}", count(voters, "voter", "voters")),
        ));
    }
}

fn leader(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut known: Vec<u64> = facts.answers().map(|seen| seen.status.leader).collect();
    if known.is_empty() {
        return;
    }
    known.sort_unstable();
    known.dedup();
    findings.push(match known.as_slice() {
        [0] => Finding::fail(
            "leader",
            "no member knows a leader: nothing can be written",
            "look at the members that do not answer, and at the network between members (peer URLs)",
        ),
        [id] => {
            let name = facts.members.iter().find(|member| member.id == *id);
            Finding::pass("leader", name.map_or_else(|| format!("{id:x}"), Member::shown_name))
        }
        _ if known.contains(&0) => {
            let without =
                facts.members.iter().filter(|member| member.answer().is_some_and(|seen| seen.status.leader == 0));
            let names: Vec<_> = without.map(Member::shown_name).collect();
            Finding::fail(
                "leader",
                format!("{} knows no leader, though others do", names.join(", ")),
                "look at the network between it and the others (peer URLs), and at its log",
            )
        }
        _ => Finding::warn(
            "leader",
            "the members name different leaders",
            "an election may be under way: look again; if it stays so, the endpoints may be of different clusters",
        ),
    });
    changes(facts, findings);
}

/// A leader that changes often.
fn changes(facts: &Facts, findings: &mut Vec<Finding>) {
    for member in &facts.members {
        let Some(Ok(metrics)) = member.answer().map(|seen| &seen.metrics) else { continue };
        let changes = metrics.value("etcd_server_leader_changes_seen_total").unwrap_or(0.0);
        let Some(started) = metrics.value("process_start_time_seconds") else { continue };
        let hours = ((facts.now as f64 - started) / 3600.0).max(1.0);
        if changes >= CHANGES_MIN && changes / hours > CHANGES_PER_HOUR {
            let what =
                format!("{} has seen {changes:.0} changes of the leader in {hours:.0} hours", member.shown_name());
            let remedy = "look for a slow disk or network, or give members more time with --election-timeout";
            findings.push(Finding::warn("leader", what, remedy));
            return;
        }
    }
}

fn alarms(facts: &Facts, findings: &mut Vec<Finding>) {
    if let Some(reason) = &facts.alarm_failure {
        findings.push(Finding::warn(
            "alarms",
            format!("the alarms cannot be read: {reason}"),
            "look again with a user that may",
        ));
        return;
    }
    for (id, alarm) in &facts.alarms {
        let name =
            facts.members.iter().find(|member| member.id == *id).map_or_else(|| format!("{id:x}"), Member::shown_name);
        let remedy = match alarm.as_str() {
            "NOSPACE" => {
                "`cleatctl compaction REVISION`, `cleatctl defrag` for each endpoint, then `cleatctl alarm disarm`; a larger \
                 --quota-backend-bytes gives more room"
            }
            "CORRUPT" => {
                "do not disarm it: stop this member, remove it, and add it again without its data; see which hash differs with \
                 `cleatctl endpoint hashkv --cluster`"
            }
            _ => "look into the member's log",
        };
        findings.push(Finding::fail("alarms", format!("{name} has raised {alarm}"), remedy));
    }
    if facts.alarms.is_empty() && facts.answers().next().is_some() {
        findings.push(Finding::pass("alarms", "none"));
    }
}

/// The worst of the members by some number, with its name.
fn worst<N: PartialOrd>(facts: &Facts, number: impl Fn(&Seen) -> Option<N>) -> Option<(&Member, N)> {
    let mut worst: Option<(&Member, N)> = None;
    for member in &facts.members {
        if let Some(number) = member.answer().and_then(&number)
            && worst.as_ref().is_none_or(|(_, most)| number > *most)
        {
            worst = Some((member, number));
        }
    }
    worst
}

fn quota(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some((member, used)) = worst(facts, Seen::quota_used) else { return };
    let Some(seen) = member.answer() else { return };
    let what = format!("{}'s database has {:.0} % of its quota", member.shown_name(), used * 100.0);
    let is_sparse = seen.status.db_size_in_use.saturating_mul(2) < seen.status.db_size;
    let remedy = if is_sparse {
        "less than half of it is in use: `cleatctl defrag` gives the rest back"
    } else {
        "compact the history (--auto-compaction-retention does it by itself), delete what is not needed, or raise --quota-backend-bytes"
    };
    findings.push(match used {
        used if used >= QUOTA_FAIL => Finding::fail("quota", format!("{what}: soon nothing can be written"), remedy),
        used if used >= QUOTA_WARN => Finding::warn("quota", what, remedy),
        _ => Finding::pass("quota", what),
    });
}

fn lag(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some((member, lag)) = worst(facts, |seen| facts.lag(seen)) else { return };
    let what = format!("{} is {lag} entries behind the leader", member.shown_name());
    let remedy = "its disk or its network is slower than the writes: look at its disk's figures, or write less";
    findings.push(match lag {
        LAG_FAIL.. => Finding::fail("raft", what, remedy),
        LAG_WARN.. => Finding::warn("raft", what, remedy),
        _ => Finding::pass("raft", "no member is far behind the leader"),
    });
}

fn p99(seen: &Seen, name: &str) -> Option<f64> {
    seen.metrics.as_ref().ok().and_then(|metrics: &Metrics| metrics.p99(name))
}

fn disk(facts: &Facts, findings: &mut Vec<Finding>) {
    for member in &facts.members {
        if let Some(Err(reason)) = member.answer().map(|seen| &seen.metrics) {
            findings.push(Finding::warn(
                "metrics",
                format!("{}'s /metrics cannot be read: {reason}", member.shown_name()),
                "without them nothing is known of its disk; look whether its client URL answers HTTP",
            ));
        }
    }
    if let Some((member, seconds)) = worst(facts, |seen| p99(seen, LOG_SYNC)) {
        let name = member.shown_name();
        let what = if seconds.is_finite() {
            format!("99 of 100 syncs of {name}'s log took at most {}", shown_seconds(seconds))
        } else {
            format!("more than one of 100 syncs of {name}'s log took longer than is measured")
        };
        let remedy = "give the log a disk of its own (--wal-dir), a faster one, or one that others do not use";
        findings.push(if seconds > SYNC_FAIL_SECONDS {
            Finding::fail("disk", what, remedy)
        } else if seconds > SYNC_WARN_SECONDS {
            Finding::warn("disk", what, remedy)
        } else {
            Finding::pass("disk", what)
        });
    }
    if let Some((member, seconds)) = worst(facts, |seen| p99(seen, COMMIT))
        && seconds > COMMIT_WARN_SECONDS
    {
        let what =
            format!("99 of 100 commits of {}'s database took at most {}", member.shown_name(), shown_seconds(seconds));
        findings.push(Finding::warn("disk", what, "a faster disk for the data directory, or larger and fewer writes"));
    }
}

fn certificates(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut first: Option<(String, i64)> = None;
    for member in &facts.members {
        for certificate in &member.certificates {
            let name = member.shown_name();
            match &certificate.ends {
                Err(reason) => findings.push(Finding::warn(
                    "certificates",
                    format!("{name}'s certificate at {} cannot be seen: {reason}", certificate.url),
                    "look whether the URL is right and reachable from here",
                )),
                Ok(ends) => {
                    if first.as_ref().is_none_or(|(_, earliest)| ends < earliest) {
                        first = Some((format!("{name}'s certificate at {}", certificate.url), *ends));
                    }
                }
            }
        }
    }
    let Some((whose, ends)) = first else { return };
    let days = days_left(facts.now, ends);
    let date = shown_date(ends);
    let remedy = "put a new certificate in place of the old files: they are read again without a restart";
    findings.push(if days < 0 {
        Finding::fail("certificates", format!("{whose} has ended on {date}"), remedy)
    } else if days < EXPIRY_WARN_DAYS {
        Finding::warn("certificates", format!("{whose} ends in {days} days, on {date}"), remedy)
    } else {
        Finding::pass("certificates", format!("the first to end is {whose}, on {date}"))
    });
}

fn clocks(facts: &Facts, findings: &mut Vec<Finding>) {
    let ahead = |seen: &Seen| seen.clock_ahead_seconds.map(i64::abs);
    let Some((member, seconds)) = worst(facts, ahead) else { return };
    let is_ahead = member.answer().and_then(|seen| seen.clock_ahead_seconds).is_some_and(|ahead| ahead > 0);
    let direction = if is_ahead { "ahead of" } else { "behind" };
    let what = format!("{}'s clock is {seconds} seconds {direction} the one here", member.shown_name());
    let remedy =
        "run a time service (chrony, systemd-timesyncd) on every host; certificates and v2 TTLs go by the clock";
    findings.push(if seconds > CLOCK_FAIL {
        Finding::fail("clock", what, remedy)
    } else if seconds > CLOCK_WARN {
        Finding::warn("clock", what, remedy)
    } else {
        Finding::pass("clock", "the members' clocks and the one here agree")
    });
}

/// How the cluster was set up, with the points of the CIS benchmark for etcd that can be seen from outside.
pub(crate) fn setup(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    size(facts, &mut findings);
    versions(facts, &mut findings);
    ports(facts, &mut findings);
    encryption(facts, &mut findings);
    callers(facts, &mut findings);
    files(facts, &mut findings);
    findings
}

fn size(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.list_failure.is_some() {
        return;
    }
    let voters = facts.voters().count();
    let tolerates = voters.saturating_sub(1) / 2;
    findings.push(match voters {
        0 => return,
        1 => Finding::warn("size", "one member: when it fails, everything stops", "run three members, on three hosts"),
        n if n % 2 == 0 => Finding::warn(
            "size",
            format!("{n} voters tolerate {}, no more than {} would", count(tolerates, "failure", "failures"), n - 1),
            "run an odd number of voters: add one or remove one",
        ),
        n => Finding::pass("size", format!("{n} voters tolerate {}", count(tolerates, "failure", "failures"))),
    });
}

fn versions(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut versions: Vec<String> =
        facts.answers().map(|seen| seen.program.clone().unwrap_or_else(|| seen.status.version.clone())).collect();
    versions.sort();
    versions.dedup();
    match versions.as_slice() {
        [] => {}
        [one] => findings.push(Finding::pass("versions", format!("every member is {one}"))),
        many => findings.push(Finding::warn(
            "versions",
            format!("the members are of different versions: {}", many.join(", ")),
            "finish the upgrade, one member after the other",
        )),
    }
}

fn ports(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut is_open = false;
    for member in &facts.members {
        is_open |= member.closed_peer_ports.is_empty() && !member.peer_urls.is_empty();
        for (url, reason) in &member.closed_peer_ports {
            findings.push(Finding::warn(
                "ports",
                format!("{}'s peer URL {url} takes no connection from here: {reason}", member.shown_name()),
                "members must reach it, this host need not: look at firewalls and at --listen-peer-urls",
            ));
        }
    }
    if is_open && facts.members.iter().all(|member| member.closed_peer_ports.is_empty()) {
        findings.push(Finding::pass("ports", "every member's peer URLs take connections"));
    }
}

/// True for a URL whose traffic can be read on its way.
fn is_exposed(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
    host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn encryption(facts: &Facts, findings: &mut Vec<Finding>) {
    let exposed = |urls: fn(&Member) -> &[String]| -> Vec<String> {
        facts.members.iter().flat_map(urls).filter(|url| is_exposed(url)).cloned().collect()
    };
    let clients = exposed(|member| &member.client_urls);
    let peers = exposed(|member| &member.peer_urls);
    if facts.members.is_empty() || facts.list_failure.is_some() {
        return;
    }
    findings.push(if clients.is_empty() {
        Finding::pass("CIS 2.1", "client traffic is encrypted, or stays on its host")
    } else {
        Finding::warn(
            "CIS 2.1",
            format!("client traffic is not encrypted at {}", clients.join(", ")),
            "serve https: --cert-file, --key-file, and https URLs",
        )
    });
    findings.push(if peers.is_empty() {
        Finding::pass("CIS 2.4", "traffic between members is encrypted, or stays on its host")
    } else {
        Finding::warn(
            "CIS 2.4",
            format!("traffic between members is not encrypted at {}", peers.join(", ")),
            "serve https: --peer-cert-file, --peer-key-file, --peer-trusted-ca-file, and https peer URLs",
        )
    });
}

/// Who is let in.
fn callers(facts: &Facts, findings: &mut Vec<Finding>) {
    let open = |is_peer: bool| -> Vec<&str> {
        let of = |member: &'_ Member, url: &String| member.peer_urls.contains(url) == is_peer;
        facts
            .members
            .iter()
            .flat_map(|m| m.open_urls.iter().filter(move |url| of(m, url)))
            .map(String::as_str)
            .collect()
    };
    let has_tls = |urls: fn(&Member) -> &[String]| {
        facts.members.iter().any(|member| urls(member).iter().any(|url| url.starts_with("https://")))
    };
    let is_auth_enabled = facts.is_auth_enabled == Some(true);
    if has_tls(|member| &member.client_urls) {
        let open = open(false);
        findings.push(if open.is_empty() || is_auth_enabled {
            Finding::pass("CIS 2.2", "clients must show a certificate or be a user")
        } else {
            Finding::warn(
                "CIS 2.2",
                format!("whoever reaches {} may read and write everything", open.join(", ")),
                "require certificates (--client-cert-auth, --trusted-ca-file), or enable users (`cleatctl auth enable`)",
            )
        });
    } else if facts.members.iter().any(|member| member.client_urls.iter().any(|url| is_exposed(url)))
        && !is_auth_enabled
    {
        findings.push(Finding::warn(
            "CIS 2.2",
            "whoever reaches a client URL may read and write everything",
            "serve https and require certificates (--client-cert-auth, --trusted-ca-file), or enable users",
        ));
    }
    if has_tls(|member| &member.peer_urls) {
        let open = open(true);
        findings.push(if open.is_empty() {
            Finding::pass("CIS 2.5", "members must show a certificate to each other")
        } else {
            Finding::warn(
                "CIS 2.5",
                format!("{} takes connections without a certificate", open.join(", ")),
                "require certificates between members: --peer-client-cert-auth, --peer-trusted-ca-file",
            )
        });
    }
}

fn files(facts: &Facts, findings: &mut Vec<Finding>) {
    let used = |seen: &Seen| {
        let metrics = seen.metrics.as_ref().ok()?;
        Some(metrics.value("process_open_fds")? / metrics.value("process_max_fds").filter(|max| *max > 0.0)?)
    };
    let Some((member, used)) = worst(facts, used) else { return };
    let what = format!("{} has {:.0} % of the files open that it may", member.shown_name(), used * 100.0);
    findings.push(if used > FILES_WARN {
        Finding::warn(
            "files",
            what,
            "raise the limit (ulimit -n, LimitNOFILE), or look for clients that leave connections open",
        )
    } else {
        Finding::pass("files", what)
    });
}
