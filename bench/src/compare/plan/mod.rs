//! What the comparison runs and what it claims: the workloads, their order, and the ratio each figure should reach.
//!
//! A [`Plan`] belongs to a number of members: [`single`] and [`cluster`] are the two. Workloads that share the life of a
//! server, or of a cluster, are in one [`Session`].

mod cluster;
mod single;

use super::servers::Ending;
use crate::table;

/// The workloads and claims for one number of members.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Members of each server.
    pub(crate) members: usize,
    /// In the order in which they run.
    pub(crate) workloads: &'static [Workload],
    /// Every row of the table, in order.
    pub(crate) claims: &'static [Claim],
}

/// The plan for `members` members: one, or a cluster.
pub(crate) fn of(members: u64) -> &'static Plan {
    if members == 1 { &single::PLAN } else { &cluster::PLAN }
}

/// One start of a server or a cluster, with the workloads that run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Keys: idle memory, puts, ranges, transactions.
    Keys,
    /// Streams: watches and leases.
    Streams,
    /// The v2 API.
    V2,
    /// Many keys: memory, restart and disk.
    Large,
    /// Leaders that end under load.
    Failover,
    /// A member that missed many writes.
    CatchUp,
}

/// All sessions, in order; a plan uses some of them.
pub(crate) const SESSIONS: [Session; 6] =
    [Session::Keys, Session::Streams, Session::V2, Session::Large, Session::Failover, Session::CatchUp];

/// A workload of the comparison.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its name in tables and for `--only`.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// The session it belongs to.
    pub(crate) session: Session,
    /// What to do.
    pub(crate) kind: Kind,
}

/// What a workload does; `clients x connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits and reads the memory of a server that holds nothing.
    Idle,
    /// Random puts.
    Put { clients: usize, connections: usize },
    /// Random ranges of `limit` keys.
    Range { clients: usize, connections: usize, limit: u64, is_serializable: bool },
    /// Ranges of one key while 256 clients put.
    Mixed,
    /// Compare and put.
    Txn { clients: usize, connections: usize },
    /// Transactions of 64 puts.
    Fill,
    /// Watchers on one key or on as many keys as watchers.
    Watch { watchers: usize, keys: u64, writers: usize },
    /// Lease keepalives.
    Lease { leases: usize, clients: usize },
    /// Random reads of single keys through the v2 API.
    V2Get { clients: usize },
    /// Random writes through it.
    V2Put { clients: usize },
    /// Long polls of it that one write ends; latency is that of the last answer.
    V2Polls { polls: usize },
    /// Memory, restart and disk with many keys.
    Large,
    /// Ranges of one key, linearizable, through members that are not the leader.
    RangeFollowers { clients: usize, connections: usize },
    /// The leader ends while clients put.
    Failover(Ending),
    /// A stopped member starts again and gets what it missed.
    CatchUp,
}

/// A figure that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Operations a second.
    Throughput,
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Server CPU for one operation.
    ServerCpu,
    /// Generator CPU for one operation.
    GeneratorCpu,
    /// Resident memory.
    Rss,
    /// Bytes written to the disk for one operation.
    Written,
    /// Allocated blocks of the data directory.
    Disk,
    /// SIGTERM, then start to first served read.
    RestartTerminated,
    /// SIGKILL, then start to first served read.
    RestartKilled,
    /// Without an acknowledged put after a leader's end, in election timeouts: one value for each end.
    Outage,
    /// The longest of a round.
    OutageMax,
    /// From the start of a member until it has applied what the leader had by then.
    CatchUp,
    /// Log entries that it missed.
    EntriesMissed,
}

impl Metric {
    /// Its name in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Throughput => "ops/s",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::ServerCpu => "server CPU/op",
            Self::GeneratorCpu => "generator CPU/op",
            Self::Rss => "RSS",
            Self::Written => "written/op",
            Self::Disk => "data on disk",
            Self::RestartTerminated => "restart (TERM)",
            Self::RestartKilled => "restart (KILL)",
            Self::Outage => "outage p50 (x election timeout)",
            Self::OutageMax => "outage max (x election timeout)",
            Self::CatchUp => "catch-up",
            Self::EntriesMissed => "log entries missed",
        }
    }

    /// Whether more is better.
    pub(crate) fn is_rate(self) -> bool {
        self == Self::Throughput
    }

    /// Writes a value in the metric's unit: operations a second, microseconds, bytes, or none.
    pub(crate) fn format(self, value: f64) -> String {
        match self {
            Self::Throughput | Self::Outage | Self::OutageMax | Self::EntriesMissed => table::number(value),
            Self::Rss | Self::Written | Self::Disk => table::bytes(value),
            Self::P50
            | Self::P99
            | Self::ServerCpu
            | Self::GeneratorCpu
            | Self::RestartTerminated
            | Self::RestartKilled
            | Self::CatchUp => table::micros(value),
        }
    }
}

/// What the ratio of a figure should be: ours divided by etcd's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The workload.
    pub(crate) workload: &'static str,
    /// The figure.
    pub(crate) metric: Metric,
    /// The ratio that must be reached, and the one that is aimed at; `None` for figures that only inform.
    pub(crate) bounds: Option<(f64, f64)>,
}

const fn claim(workload: &'static str, metric: Metric, floor: f64, goal: f64) -> Claim {
    Claim { workload, metric, bounds: Some((floor, goal)) }
}

const fn note(workload: &'static str, metric: Metric) -> Claim {
    Claim { workload, metric, bounds: None }
}

impl Plan {
    /// The workloads that `only` names, or all.
    ///
    /// # Errors
    /// A name is unknown.
    pub(crate) fn select(&self, only: &[String]) -> Result<Vec<&'static Workload>, String> {
        if let Some(unknown) = only.iter().find(|name| !self.workloads.iter().any(|workload| workload.name == **name)) {
            let names: Vec<_> = self.workloads.iter().map(|workload| workload.name).collect();
            let members = self.members;
            return Err(format!("unknown workload {unknown}; choose from {} (--members {members})", names.join(", ")));
        }
        let is_chosen = |workload: &&Workload| only.is_empty() || only.iter().any(|name| workload.name == *name);
        Ok(self.workloads.iter().filter(is_chosen).collect())
    }

    /// The list of workloads and claims that `--list` prints.
    pub(crate) fn list(&self) -> String {
        let mut table = table::Table::new(&["workload", "floor / goal (ours to etcd's)", "what it does"]).left(&[1, 2]);
        for workload in self.workloads {
            let claims: Vec<_> = self.claims.iter().filter(|claim| claim.workload == workload.name).collect();
            let mut lines: Vec<_> = claims.iter().filter_map(|claim| claim.promise()).collect();
            if lines.is_empty() {
                lines.extend(claims.iter().map(|claim| format!("{}: no claim", claim.metric.label())));
            }
            for (number, line) in lines.into_iter().enumerate() {
                let first = |text: &str| if number == 0 { text.to_owned() } else { String::new() };
                table.row(vec![first(workload.name), line, first(workload.about)]);
            }
        }
        table.render()
    }
}

impl Claim {
    /// Floor and goal as text.
    fn promise(&self) -> Option<String> {
        let sign = if self.metric.is_rate() { ">=" } else { "<=" };
        self.bounds.map(|(floor, goal)| format!("{} {sign}{floor}x / {sign}{goal}x", self.metric.label()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_has_its_workload_and_every_workload_a_claim() {
        for plan in [of(1), of(3)] {
            for claim in plan.claims {
                assert!(plan.workloads.iter().any(|workload| workload.name == claim.workload), "{claim:?}");
                if let Some((floor, goal)) = claim.bounds {
                    assert_eq!(goal > floor, claim.metric.is_rate(), "{claim:?}");
                }
            }
            for workload in plan.workloads {
                // Outages are reported without a promise.
                let is_claim = |claim: &&Claim| {
                    claim.workload == workload.name
                        && (claim.bounds.is_some() || matches!(workload.kind, Kind::Failover(_)))
                };
                assert!(plan.claims.iter().any(|claim| is_claim(&claim)), "{workload:?}");
                assert!(SESSIONS.contains(&workload.session));
                assert!(plan.list().contains(workload.about));
            }
        }
    }

    #[test]
    fn workloads_are_selected_by_name() {
        let plan = of(1);
        assert_eq!(plan.select(&[]).map(|all| all.len()), Ok(plan.workloads.len()));
        let chosen = plan.select(&["lease".to_owned(), "put-1".to_owned()]).expect("known names");
        assert_eq!(chosen.iter().map(|workload| workload.name).collect::<Vec<_>>(), ["put-1", "lease"]);
        assert!(plan.select(&["nope".to_owned()]).expect_err("unknown").contains("put-1000"));
        assert!(plan.select(&["catch-up".to_owned()]).is_err(), "a workload of clusters");
        assert_eq!(of(3).select(&["catch-up".to_owned()]).map(|chosen| chosen.len()), Ok(1));
    }
}
