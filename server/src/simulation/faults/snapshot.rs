//! A member falls so far behind that it needs a snapshot, and while that is on its way something happens.

use super::super::Cluster;
use super::super::member::{DiskFault, Which};
use super::super::random::Random;
use super::super::report::{Kind, note};
use std::time::Duration;

/// How long a snapshot is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
pub(super) async fn fault(cluster: &Cluster, random: &mut Random) {
    let behind = *random.pick(&cluster.members());
    let is_cut_off = random.happens(0.5);
    for other in cluster.members() {
        if other != behind {
            cluster.start(other).await;
        } else if !is_cut_off {
            cluster.crash(other).await;
        }
        if is_cut_off {
            // Its watchers and readers go on.
            cluster.network().cut(behind, other);
            cluster.network().cut(other, behind);
        }
    }
    // The others need time to elect, to write, to flush and to purge.
    tokio::time::sleep(random.duration(Duration::from_secs(2), Duration::from_secs(4))).await;
    if is_cut_off {
        cluster.network().heal();
    }
    cluster.start(behind).await;
    for _ in 0..random.below(3) {
        let Some((from, to)) = wait(cluster).await else { return };
        tokio::time::sleep(random.duration(Duration::from_micros(1), Duration::from_millis(12))).await;
        strike(cluster, random, (from, to)).await;
    }
}

/// Who sends a snapshot to whom, once somebody does.
async fn wait(cluster: &Cluster) -> Option<(u64, u64)> {
    let mut waited = Duration::ZERO;
    while waited < PATIENCE && !cluster.is_over() {
        if let Some(between) = cluster.network().snapshot_under_way() {
            return Some(between);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        waited += Duration::from_millis(1);
    }
    None
}

async fn strike(cluster: &Cluster, random: &mut Random, (from, to): (u64, u64)) {
    let is_under_way = cluster.network().snapshot_under_way() == Some((from, to));
    let count = |kind| {
        if is_under_way {
            cluster.tally().count(kind);
        }
    };
    let short = random.duration(Duration::from_millis(1), Duration::from_millis(1500));
    match random.below(10) {
        0 => {
            count(Kind::CrashInSnapshot);
            cluster.crash(to).await;
        }
        1 => {
            count(Kind::CrashInSnapshot);
            cluster.kill(to).await;
        }
        2 => {
            count(Kind::CrashInSnapshot);
            cluster.crash(from).await;
        }
        3 => {
            // While it fills the new database, or puts it in the place of the old one.
            cluster.break_disk(to, Which::Store, DiskFault::Power(random.below(400) as u32)).await;
            tokio::time::sleep(short).await;
            cluster.mend(to).await;
        }
        4 => {
            cluster.break_disk(to, Which::Store, DiskFault::Full(random.below(2 << 20) as u64)).await;
            tokio::time::sleep(short).await;
            cluster.mend(to).await;
        }
        way => {
            note!(cluster.trace(), "the way of the snapshot from {from} to {to} is cut");
            count(Kind::CutInSnapshot);
            cluster.network().cut(from, to);
            if way % 2 == 0 {
                cluster.network().cut(to, from);
            }
            tokio::time::sleep(short).await;
            cluster.network().heal();
        }
    }
    tokio::time::sleep(short).await;
    cluster.start(from).await;
    cluster.start(to).await;
}
