//! The plan for one member of each server.
//!
//! The ranges come right after the puts on purpose, because some servers read more slowly then.

use super::{Claim, Kind, Metric, Plan, Session, Workload, claim, note};

/// Everything that one member is measured with.
pub(super) const PLAN: Plan = Plan { members: 1, workloads: &WORKLOADS, claims: &CLAIMS };

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

const fn v2(name: &'static str, about: &'static str, kind: Kind) -> Workload {
    Workload { name, about, session: Session::V2, kind }
}

/// All workloads, in the order in which they run.
const WORKLOADS: [Workload; 20] = [
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
    v2("v2-put-64", "64 clients write one key at a time through the v2 API", Kind::V2Put { clients: 64 }),
    v2("v2-get-64", "64 clients read one key at a time through the v2 API", Kind::V2Get { clients: 64 }),
    v2(
        "v2-polls",
        "10,000 long polls of the v2 API that one write ends: the last one's answer",
        Kind::V2Polls { polls: 10_000 },
    ),
    Workload {
        name: "large",
        about: "memory, restart and disk with --large-keys keys",
        session: Session::Large,
        kind: Kind::Large,
    },
];

/// Every row of the comparison's table, in order.
const CLAIMS: [Claim; 60] = [
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
    claim("v2-put-64", Metric::Throughput, 2.0, 2.5),
    claim("v2-put-64", Metric::ServerCpu, 0.5, 0.35),
    claim("v2-put-64", Metric::P99, 0.5, 0.35),
    claim("v2-get-64", Metric::Throughput, 2.0, 2.5),
    claim("v2-get-64", Metric::ServerCpu, 0.5, 0.35),
    claim("v2-get-64", Metric::P99, 0.5, 0.35),
    claim("v2-polls", Metric::P50, 0.5, 0.4),
    note("v2-polls", Metric::ServerCpu),
    claim("large", Metric::Rss, 0.35, 0.2),
    claim("large", Metric::RestartTerminated, 0.4, 0.2),
    claim("large", Metric::RestartKilled, 0.4, 0.2),
    claim("large", Metric::Written, 1.0, 0.7),
    claim("large", Metric::Disk, 1.2, 1.0),
    note("large", Metric::Throughput),
];
