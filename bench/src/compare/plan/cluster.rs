//! The plan for three members of each server on one machine.
//!
//! Connections are multiples of the members they go to, so that every member serves the same share.

use super::{Claim, Kind, Metric, Plan, Session, Workload, claim, note};
use crate::compare::servers::Ending;

/// Everything that a cluster is measured with.
pub(super) const PLAN: Plan = Plan { members: 3, workloads: &WORKLOADS, claims: &CLAIMS };

const fn put(name: &'static str, about: &'static str, clients: usize, connections: usize) -> Workload {
    Workload { name, about, session: Session::Keys, kind: Kind::Put { clients, connections } }
}

const fn range(name: &'static str, about: &'static str, clients: usize, connections: usize) -> Workload {
    Workload { name, about, session: Session::Keys, kind: Kind::RangeFollowers { clients, connections } }
}

const fn failover(name: &'static str, about: &'static str, ending: Ending) -> Workload {
    Workload { name, about, session: Session::Failover, kind: Kind::Failover(ending) }
}

const WORKLOADS: [Workload; 8] = [
    put("put-64", "64 clients put through all members over 9 connections", 64, 9),
    put("put-256", "256 clients put through all members over 18 connections", 256, 18),
    put("put-1000", "1,000 clients put through all members over 63 connections", 1_000, 63),
    range("range-followers-64", "64 clients read one key, linearizable, through the followers", 64, 8),
    range("range-followers-256", "256 clients read one key, linearizable, through the followers", 256, 16),
    failover("failover-kill", "SIGKILL of the leader: time until the others acknowledge a put", Ending::Kill),
    failover("failover-term", "SIGTERM of the leader: longest time without an acknowledged put", Ending::Terminate),
    Workload {
        name: "catch-up",
        about: "a member that missed --catch-up-keys puts starts again",
        session: Session::CatchUp,
        kind: Kind::CatchUp,
    },
];

const CLAIMS: [Claim; 27] = [
    claim("put-64", Metric::Throughput, 1.6, 2.5),
    claim("put-64", Metric::P99, 0.7, 0.4),
    note("put-64", Metric::ServerCpu),
    note("put-64", Metric::Written),
    note("put-64", Metric::GeneratorCpu),
    claim("put-256", Metric::Throughput, 1.6, 2.5),
    claim("put-256", Metric::P99, 0.7, 0.4),
    note("put-256", Metric::ServerCpu),
    note("put-256", Metric::Written),
    claim("put-1000", Metric::Throughput, 1.6, 2.5),
    claim("put-1000", Metric::P99, 0.7, 0.4),
    note("put-1000", Metric::ServerCpu),
    note("put-1000", Metric::Written),
    note("put-1000", Metric::Rss),
    claim("range-followers-64", Metric::Throughput, 2.0, 3.0),
    note("range-followers-64", Metric::P99),
    note("range-followers-64", Metric::ServerCpu),
    claim("range-followers-256", Metric::Throughput, 2.0, 3.0),
    note("range-followers-256", Metric::P99),
    note("range-followers-256", Metric::ServerCpu),
    note("failover-kill", Metric::Outage),
    note("failover-kill", Metric::OutageMax),
    note("failover-term", Metric::Outage),
    note("failover-term", Metric::OutageMax),
    claim("catch-up", Metric::CatchUp, 0.5, 0.3),
    note("catch-up", Metric::EntriesMissed),
    note("catch-up", Metric::Throughput),
];
