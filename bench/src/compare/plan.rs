//! What the comparison runs and what it claims: the workloads, their order, and the ratio each figure should reach.
//!
//! Workloads that share a server's life are in one [`Session`]; the ranges come right after the puts on purpose, because
//! some servers read more slowly then.

use crate::table;

/// One start of a server, with the workloads that run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Keys: idle memory, puts, ranges, transactions.
    Keys,
    /// Streams: watches and leases.
    Streams,
    /// Many keys: memory, restart and disk.
    Large,
}

/// All sessions, in order.
pub(crate) const SESSIONS: [Session; 3] = [Session::Keys, Session::Streams, Session::Large];

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
    /// Memory, restart and disk with many keys.
    Large,
}

const fn put(name: &'static str, about: &'static str, clients: usize, connections: usize) -> Workload {
    Workload { name, about, session: Session::Keys, kind: Kind::Put { clients, connections } }
}

const fn range(
    name: &'static str,
    about: &'static str,
    (clients, connections): (usize, usize),
    limit: u64,
    is_serializable: bool,
) -> Workload {
    Workload { name, about, session: Session::Keys, kind: Kind::Range { clients, connections, limit, is_serializable } }
}

/// All workloads, in the order in which they run.
pub(crate) const WORKLOADS: [Workload; 17] = [
    Workload { name: "idle", about: "memory of a fresh server", session: Session::Keys, kind: Kind::Idle },
    put("put-1", "1 client puts", 1, 1),
    put("put-64", "64 clients put over 8 connections", 64, 8),
    put("put-256", "256 clients put over 16 connections", 256, 16),
    put("put-1000", "1,000 clients put over 64 connections", 1_000, 64),
    range("range-lin-64", "64 clients read one key, linearizable", (64, 8), 1, false),
    range("range-lin-1000", "1,000 clients read one key, linearizable", (1_000, 64), 1, false),
    range("range-ser-64", "64 clients read one key, serializable", (64, 8), 1, true),
    range("range-ser-1000", "1,000 clients read one key, serializable", (1_000, 64), 1, true),
    range("range-1000-keys", "16 clients read 1,000 keys at a time", (16, 8), 1_000, false),
    Workload {
        name: "mixed",
        about: "8 clients read one key, linearizable, while 256 put at full speed",
        session: Session::Keys,
        kind: Kind::Mixed,
    },
    Workload {
        name: "txn-256",
        about: "256 clients compare and put",
        session: Session::Keys,
        kind: Kind::Txn { clients: 256, connections: 16 },
    },
    Workload {
        name: "fill",
        about: "16 clients write new keys by transactions of 64 puts",
        session: Session::Keys,
        kind: Kind::Fill,
    },
    Workload {
        name: "watch-1-key",
        about: "1,000 watchers on one key, 64 streams",
        session: Session::Streams,
        kind: Kind::Watch { watchers: 1_000, keys: 1, writers: 4 },
    },
    Workload {
        name: "watch-10000-keys",
        about: "10,000 watchers on 10,000 keys, 64 streams",
        session: Session::Streams,
        kind: Kind::Watch { watchers: 10_000, keys: 10_000, writers: 64 },
    },
    Workload {
        name: "lease",
        about: "64 clients keep 1,000 leases alive",
        session: Session::Streams,
        kind: Kind::Lease { leases: 1_000, clients: 64 },
    },
    Workload {
        name: "large",
        about: "memory, restart and disk with --large-keys keys",
        session: Session::Large,
        kind: Kind::Large,
    },
];

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
        }
    }

    /// Whether more is better.
    pub(crate) fn is_rate(self) -> bool {
        self == Self::Throughput
    }

    /// Writes a value in the metric's unit: operations a second, microseconds or bytes.
    pub(crate) fn format(self, value: f64) -> String {
        match self {
            Self::Throughput => table::number(value),
            Self::Rss | Self::Written | Self::Disk => table::bytes(value),
            Self::P50
            | Self::P99
            | Self::ServerCpu
            | Self::GeneratorCpu
            | Self::RestartTerminated
            | Self::RestartKilled => table::micros(value),
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

/// Every row of the comparison's table, in order.
pub(crate) const CLAIMS: [Claim; 52] = [
    claim("idle", Metric::Rss, 0.5, 0.3),
    claim("put-1", Metric::P50, 0.7, 0.55),
    claim("put-64", Metric::Throughput, 1.7, 2.5),
    claim("put-64", Metric::ServerCpu, 0.5, 0.35),
    claim("put-64", Metric::P99, 0.7, 0.4),
    claim("put-64", Metric::Written, 1.0, 0.7),
    note("put-64", Metric::GeneratorCpu),
    claim("put-256", Metric::Throughput, 1.7, 2.5),
    claim("put-256", Metric::ServerCpu, 0.5, 0.35),
    claim("put-256", Metric::P99, 0.7, 0.4),
    claim("put-256", Metric::Written, 1.0, 0.7),
    note("put-256", Metric::GeneratorCpu),
    claim("put-1000", Metric::Throughput, 1.7, 2.5),
    claim("put-1000", Metric::ServerCpu, 0.5, 0.35),
    claim("put-1000", Metric::P99, 0.7, 0.4),
    claim("put-1000", Metric::Written, 1.0, 0.7),
    note("put-1000", Metric::GeneratorCpu),
    claim("range-lin-64", Metric::Throughput, 1.7, 2.5),
    claim("range-lin-64", Metric::ServerCpu, 0.5, 0.35),
    note("range-lin-64", Metric::P99),
    note("range-lin-64", Metric::GeneratorCpu),
    claim("range-lin-1000", Metric::Throughput, 1.7, 2.5),
    claim("range-lin-1000", Metric::ServerCpu, 0.5, 0.35),
    note("range-lin-1000", Metric::P99),
    claim("range-ser-64", Metric::Throughput, 1.7, 2.5),
    claim("range-ser-64", Metric::ServerCpu, 0.5, 0.35),
    note("range-ser-64", Metric::P99),
    claim("range-ser-1000", Metric::Throughput, 1.7, 2.5),
    claim("range-ser-1000", Metric::ServerCpu, 0.5, 0.35),
    note("range-ser-1000", Metric::P99),
    claim("range-1000-keys", Metric::Throughput, 2.0, 4.0),
    note("range-1000-keys", Metric::ServerCpu),
    claim("mixed", Metric::P99, 0.3, 0.1),
    note("mixed", Metric::Throughput),
    claim("txn-256", Metric::Throughput, 1.7, 2.5),
    note("txn-256", Metric::ServerCpu),
    claim("fill", Metric::Throughput, 3.0, 4.0),
    note("fill", Metric::ServerCpu),
    claim("watch-1-key", Metric::Throughput, 2.0, 4.0),
    claim("watch-1-key", Metric::P99, 0.5, 0.25),
    note("watch-1-key", Metric::ServerCpu),
    claim("watch-10000-keys", Metric::Throughput, 2.0, 4.0),
    claim("watch-10000-keys", Metric::P99, 0.5, 0.25),
    note("watch-10000-keys", Metric::ServerCpu),
    claim("lease", Metric::Throughput, 2.0, 3.0),
    note("lease", Metric::ServerCpu),
    claim("large", Metric::Rss, 0.35, 0.2),
    claim("large", Metric::RestartTerminated, 0.4, 0.2),
    claim("large", Metric::RestartKilled, 0.4, 0.2),
    claim("large", Metric::Written, 1.0, 0.7),
    claim("large", Metric::Disk, 1.2, 1.0),
    note("large", Metric::Throughput),
];

/// The workloads that `only` names, or all.
///
/// # Errors
/// A name is unknown.
pub(crate) fn select(only: &[String]) -> Result<Vec<&'static Workload>, String> {
    if let Some(unknown) = only.iter().find(|name| !WORKLOADS.iter().any(|workload| workload.name == **name)) {
        let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        return Err(format!("unknown workload {unknown}; choose from {}", names.join(", ")));
    }
    let is_chosen = |workload: &&Workload| only.is_empty() || only.iter().any(|name| workload.name == *name);
    Ok(WORKLOADS.iter().filter(is_chosen).collect())
}

/// The list of workloads and claims that `--list` prints.
pub(crate) fn list() -> String {
    let mut table = table::Table::new(&["workload", "floor / goal (ours to etcd's)", "what it does"]).left(&[1, 2]);
    for workload in &WORKLOADS {
        let bounds = |claim: &Claim| {
            let sign = if claim.metric.is_rate() { ">=" } else { "<=" };
            claim.bounds.map(|(floor, goal)| format!("{} {sign}{floor}x / {sign}{goal}x", claim.metric.label()))
        };
        let claims: Vec<_> = CLAIMS.iter().filter(|claim| claim.workload == workload.name).filter_map(bounds).collect();
        for (number, claim) in claims.into_iter().enumerate() {
            let first = |text: &str| if number == 0 { text.to_owned() } else { String::new() };
            table.row(vec![first(workload.name), claim, first(workload.about)]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_has_its_workload_and_every_workload_a_claim() {
        for claim in &CLAIMS {
            assert!(WORKLOADS.iter().any(|workload| workload.name == claim.workload), "{claim:?}");
            if let Some((floor, goal)) = claim.bounds {
                assert_eq!(goal > floor, claim.metric.is_rate(), "{claim:?}");
            }
        }
        for workload in &WORKLOADS {
            assert!(
                CLAIMS.iter().any(|claim| claim.workload == workload.name && claim.bounds.is_some()),
                "{workload:?}"
            );
            assert!(list().contains(workload.about));
        }
    }

    #[test]
    fn workloads_are_selected_by_name() {
        assert_eq!(select(&[]).map(|all| all.len()), Ok(WORKLOADS.len()));
        let chosen = select(&["lease".to_owned(), "put-1".to_owned()]).expect("known names");
        assert_eq!(chosen.iter().map(|workload| workload.name).collect::<Vec<_>>(), ["put-1", "lease"]);
        assert!(select(&["nope".to_owned()]).expect_err("unknown").contains("put-1000"));
    }
}
