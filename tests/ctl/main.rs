//! `cleatctl`, called `etcdctl`, beside etcd's own etcdctl 3.4: the same scripts with both tools, on etcd and on Cleat; the
//! same random command lines on one server; the same pages.
//!
//! What differs, and why, is in `docs/operations/cleatctl.md`.

mod pages;
mod random;

use anyhow::Result;
use harness::Kind;
use harness::transcript::check_tools;

/// Tests of one script: on etcd, and on Cleat.
macro_rules! same_tools {
    ($($name:ident: $file:literal;)*) => {
        $(
            mod $name {
                use super::{Kind, Result, check_tools};

                const SCRIPT: &str = include_str!($file);

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_etcd() -> Result<()> {
                    check_tools(Kind::Etcd, SCRIPT).await
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_cleat() -> Result<()> {
                    check_tools(Kind::Cleat, SCRIPT).await
                }
            }
        )*
    };
}

same_tools! {
    alarms: "../v3/scripts/alarm.txt";
    auth: "../v3/scripts/auth.txt";
    cluster: "../v3/scripts/cluster.txt";
    elections: "../v3/scripts/elect.txt";
    keys: "../v3/scripts/kv.txt";
    leases: "../v3/scripts/lease.txt";
    locks: "../v3/scripts/lock.txt";
    maintenance: "../v3/scripts/maintenance.txt";
    mirrors: "../v3/scripts/mirror.txt";
    offline: "../v3/scripts/offline.txt";
    snapshots: "../v3/scripts/snapshot.txt";
    transactions: "../v3/scripts/txn.txt";
    urls: "../v3/scripts/url.txt";
    watches: "../v3/scripts/watch.txt";
    recorded: "scripts/recorded.txt";
    command_lines: "scripts/lines.txt";
    refusals: "scripts/refused.txt";
    v2_auth: "../v2/scripts/auth.txt";
    v2_cluster: "../v2/scripts/cluster.txt";
    v2_keys: "../v2/scripts/keys.txt";
    v2_watches: "../v2/scripts/watch.txt";
    v2_lines: "scripts/lines_v2.txt";
}
