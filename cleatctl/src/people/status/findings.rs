//! What facts mean: what is in order, what is not, and what to do about it.
//!
//! [`live`] is about how the cluster is now, which `status` tells as well; [`setup`] about how it was set up.

use super::facts::{Admission, Facts, Member, Seen, Stranger};
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
    /// One of this level, without what to do if there is nothing to do.
    pub(crate) fn of(level: Level, check: &'static str, what: impl Into<String>, remedy: &str) -> Self {
        let remedy = if level == Level::Pass { "" } else { remedy };
        Self { level, check, what: what.into(), remedy: remedy.to_owned() }
    }

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

/// How bad it is to be so many entries behind the leader.
pub(crate) fn lag_level(entries: u64) -> Level {
    match entries {
        LAG_FAIL.. => Level::Fail,
        LAG_WARN.. => Level::Warn,
        _ => Level::Pass,
    }
}

/// etcd's own limits for a disk, <https://etcd.io/docs/v3.5/faq/>, and one at which elections are in danger.
const SYNC_WARN_SECONDS: f64 = 0.010;
const SYNC_FAIL_SECONDS: f64 = 0.100;
const COMMIT_WARN_SECONDS: f64 = 0.025;

/// How bad it is that syncs take so long.
pub(crate) fn sync_level(seconds: f64) -> Level {
    level(seconds > SYNC_WARN_SECONDS, seconds > SYNC_FAIL_SECONDS)
}

const QUOTA_WARN: f64 = 0.80;
const QUOTA_FAIL: f64 = 0.95;

/// How bad it is to have used so much of the quota, from 0 to 1.
pub(crate) fn quota_level(used: f64) -> Level {
    level(used >= QUOTA_WARN, used >= QUOTA_FAIL)
}

const EXPIRY_WARN_DAYS: i64 = 30;

/// How bad it is that a certificate has so many days left.
pub(crate) fn expiry_level(days: i64) -> Level {
    level(days < EXPIRY_WARN_DAYS, days < 0)
}

fn level(warns: bool, fails: bool) -> Level {
    match (warns, fails) {
        (_, true) => Level::Fail,
        (true, false) => Level::Warn,
        (false, false) => Level::Pass,
    }
}

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
    for stranger in &facts.strangers {
        findings.push(of_stranger(stranger));
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
        findings.push(no_majority(facts, answering, voters));
    } else if voters > 0 && answering == voters && facts.silent_endpoints.is_empty() && facts.strangers.is_empty() {
        let learners = facts.members.len() - voters;
        let learners =
            if learners > 0 { format!(", and {}", count(learners, "learner", "learners")) } else { String::new() };
        findings.push(Finding::pass(
            "members",
            format!("{answering} of {}{learners}", count(voters, "voter answers", "voters answer")),
        ));
    }
}

fn of_stranger(stranger: &Stranger) -> Finding {
    let Stranger { endpoint, id, other_cluster } = stranger;
    match other_cluster {
        Some(cluster) => Finding::fail(
            "members",
            format!("{endpoint} is a member of another cluster, {cluster:x}"),
            "take it out of --endpoints: what is written there is not written here",
        ),
        None => Finding::fail(
            "members",
            format!("{endpoint} answers as {id:x}, which is no member of the cluster"),
            "take it out of --endpoints, and end it: it was removed, or has the data of another member",
        ),
    }
}

/// Too few voters answer. Whoever knows a leader shows that the others are there, but not for this host.
fn no_majority(facts: &Facts, answering: usize, voters: usize) -> Finding {
    let what = format!("{answering} of {voters} voters answer, which is no majority");
    if facts.answers().any(|seen| seen.status.leader != 0) {
        return Finding::fail(
            "members",
            format!("{what}, though a leader is known: the others may run where this host does not reach them"),
            "look at the way from here to the others, and whether they run",
        );
    }
    Finding::fail(
        "members",
        format!("{what}: nothing can be written"),
        "start members until most of them answer; if most are lost for good, restore a snapshot or use --force-new-cluster",
    )
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
        let is_refusal = ["permission denied", "user name is empty"].iter().any(|refusal| reason.contains(refusal));
        let remedy =
            if is_refusal { "look again with a user that may" } else { "let a majority of the members answer" };
        findings.push(Finding::warn("alarms", format!("the alarms cannot be read: {reason}"), remedy));
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
    let level = quota_level(used);
    let what = if level == Level::Fail { format!("{what}: soon nothing can be written") } else { what };
    findings.push(Finding::of(level, "quota", what, remedy));
}

fn lag(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some((member, lag)) = worst(facts, |seen| facts.lag(seen)) else { return };
    let what = format!("{} is {lag} entries behind the leader", member.shown_name());
    let remedy = "its disk or its network is slower than the writes: look at its disk's figures, or write less";
    findings.push(match lag_level(lag) {
        Level::Pass => Finding::pass("raft", "no member is far behind the leader"),
        level => Finding::of(level, "raft", what, remedy),
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
        findings.push(Finding::of(sync_level(seconds), "disk", what, remedy));
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
    let level = expiry_level(days);
    let what = match level {
        Level::Fail => format!("{whose} has ended on {date}"),
        Level::Warn => format!("{whose} ends in {days} days, on {date}"),
        Level::Pass => format!("the first to end is {whose}, on {date}"),
    };
    findings.push(Finding::of(level, "certificates", what, remedy));
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
    let (mut tried, mut closed) = (0, 0);
    for member in &facts.members {
        tried += member.peer_ports.len();
        for (url, outcome) in &member.peer_ports {
            let Err(reason) = outcome else { continue };
            closed += 1;
            findings.push(Finding::warn(
                "ports",
                format!("{}'s peer URL {url} takes no connection from here: {reason}", member.shown_name()),
                "members must reach it, this host need not: look at firewalls and at --listen-peer-urls",
            ));
        }
    }
    if tried > 0 && closed == 0 {
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

/// Who is let in. What could not be tried is not judged: only if everything was refused that could let somebody in, all is
/// well.
fn callers(facts: &Facts, findings: &mut Vec<Finding>) {
    clients(facts, findings);
    let peers = Admissions::of(facts, true);
    if !peers.let_in.is_empty() {
        findings.push(Finding::warn(
            "CIS 2.5",
            format!("{} takes connections without a certificate", peers.let_in.join(", ")),
            "require certificates between members: --peer-client-cert-auth, --peer-trusted-ca-file",
        ));
    } else if peers.is_closed(facts, |member| &member.peer_urls) {
        findings.push(Finding::pass("CIS 2.5", "members must show a certificate to each other"));
    }
}

fn clients(facts: &Facts, findings: &mut Vec<Finding>) {
    const PASS: &str = "clients must show a certificate or be a user";
    let urls = || facts.members.iter().flat_map(|member| &member.client_urls);
    let tried = Admissions::of(facts, false);
    if facts.is_auth_enabled == Some(true) {
        if urls().any(|url| url.starts_with("https://") || is_exposed(url)) {
            findings.push(Finding::pass("CIS 2.2", PASS));
        }
        return;
    }
    let open: Vec<&str> =
        tried.let_in.iter().copied().chain(urls().map(String::as_str).filter(|url| is_exposed(url))).collect();
    if open.is_empty() {
        if tried.is_closed(facts, |member| &member.client_urls) {
            findings.push(Finding::pass("CIS 2.2", PASS));
        }
        return;
    }
    let what = match facts.is_auth_enabled {
        Some(_) => format!("whoever reaches {} may read and write everything", open.join(", ")),
        None => format!(
            "whoever reaches {} needs no certificate, and whether it must be a user cannot be told",
            open.join(", ")
        ),
    };
    findings.push(Finding::warn(
        "CIS 2.2",
        what,
        "serve https and require certificates (--client-cert-auth, --trusted-ca-file), or enable users (`cleatctl auth enable`)",
    ));
}

/// What became of requests without a certificate.
struct Admissions<'a> {
    let_in: Vec<&'a str>,
    refused: Vec<&'a str>,
}

impl<'a> Admissions<'a> {
    /// At the peer URLs, or at all others.
    fn of(facts: &'a Facts, of_peers: bool) -> Self {
        let of = |wanted: &Admission| -> Vec<&'a str> {
            let tried = facts.members.iter().flat_map(|member| {
                member.admissions.iter().filter(move |(url, _)| member.peer_urls.contains(url) == of_peers)
            });
            tried.filter(|(_, admission)| admission == wanted).map(|(url, _)| url.as_str()).collect()
        };
        Self { let_in: of(&Admission::LetIn), refused: of(&Admission::Refused) }
    }

    /// True if there is TLS, and every URL with it has refused who showed no certificate.
    fn is_closed(&self, facts: &Facts, urls: fn(&Member) -> &[String]) -> bool {
        let mut with_tls = facts.members.iter().flat_map(urls).filter(|url| url.starts_with("https://")).peekable();
        with_tls.peek().is_some() && with_tls.all(|url| self.refused.contains(&url.as_str()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::status::samples::healthy;

    fn of(findings: &[Finding], check: &str) -> Vec<(Level, String)> {
        let found = findings.iter().filter(|finding| finding.check == check);
        found.map(|finding| (finding.level, finding.what.clone())).collect()
    }

    #[test]
    fn limits_are_where_cells_and_findings_have_them() {
        assert_eq!([999, 1000, 4999, 5000].map(lag_level), [Level::Pass, Level::Warn, Level::Warn, Level::Fail]);
        assert_eq!([0.79, 0.80, 0.95].map(quota_level), [Level::Pass, Level::Warn, Level::Fail]);
        assert_eq!([0.010, 0.011, 0.101].map(sync_level), [Level::Pass, Level::Warn, Level::Fail]);
        assert_eq!([30, 29, 0, -1].map(expiry_level), [Level::Pass, Level::Warn, Level::Warn, Level::Fail]);
    }

    #[test]
    fn what_was_not_tried_is_not_judged() {
        let mut facts = healthy();
        let passes =
            |facts: &Facts, check: &str| of(&setup(facts), check).iter().any(|(level, _)| *level == Level::Pass);
        assert!(["CIS 2.2", "CIS 2.5", "ports"].iter().all(|check| passes(&facts, check)));
        // A closed peer port, whether its member answers or not.
        facts.members[0].seen = Err("refused".to_owned());
        facts.members[0].peer_ports[0].1 = Err("refused".to_owned());
        facts.members[0].admissions.truncate(1);
        assert!(passes(&facts, "CIS 2.2") && !passes(&facts, "CIS 2.5") && !passes(&facts, "ports"));
        assert_eq!(of(&setup(&facts), "ports").len(), 1);
        assert_eq!(of(&setup(&facts), "CIS 2.5"), []);
        facts.members[1].admissions[0].1 = Admission::Unknown("no answer".to_owned());
        assert_eq!(of(&setup(&facts), "CIS 2.2"), []);
        // Nothing is tried by a look that is not of the setup.
        let mut facts = healthy();
        facts.members.iter_mut().for_each(|member| (member.peer_ports, member.admissions) = Default::default());
        assert!(!["CIS 2.2", "CIS 2.5", "ports"].iter().any(|check| passes(&facts, check)));
    }

    #[test]
    fn one_open_member_is_enough() {
        let what = |facts: &Facts| of(&setup(facts), "CIS 2.2");
        let mut facts = healthy();
        // The others require certificates.
        facts.members[2].client_urls = vec!["http://10.0.0.3:2379".to_owned()];
        facts.members[2].admissions.remove(0);
        let open = "whoever reaches http://10.0.0.3:2379 may read and write everything";
        assert_eq!(what(&facts), [(Level::Warn, open.to_owned())]);
        facts.is_auth_enabled = None;
        assert!(matches!(&what(&facts)[..], [(Level::Warn, what)] if what.ends_with("cannot be told")));
        facts.is_auth_enabled = Some(true);
        assert!(matches!(&what(&facts)[..], [(Level::Pass, _)]));
    }

    #[test]
    fn strangers_and_members_elsewhere_are_told_apart() {
        let mut facts = healthy();
        facts.strangers.push(Stranger { endpoint: "10.0.0.8:2379".to_owned(), id: 0xab, other_cluster: Some(0xcd) });
        let told = of(&live(&facts), "members");
        assert_eq!(told, [(Level::Fail, "10.0.0.8:2379 is a member of another cluster, cd".to_owned())]);
        let mut facts = healthy();
        facts.members[..2].iter_mut().for_each(|member| member.seen = Err("no route".to_owned()));
        let no_majority = |facts: &Facts| of(&live(facts), "members").pop().unwrap().1;
        assert!(!no_majority(&facts).contains("nothing can be written"), "{}", no_majority(&facts));
        facts.members[2].seen.as_mut().unwrap().status.leader = 0;
        assert!(no_majority(&facts).ends_with("nothing can be written"), "{}", no_majority(&facts));
    }
}
