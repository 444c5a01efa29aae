//! Disks that are full or refuse, and power that goes between two operations.

use super::super::Cluster;
use super::super::disk::{Broken, Errno};
use super::super::member::{DiskFault, Which};
use super::super::random::Random;
use std::time::Duration;

/// How long it is waited for the process to end.
const PATIENCE: Duration = Duration::from_secs(4);

/// Breaks a disk of a member until its process has ended, and perhaps beyond its next start.
pub(super) async fn fault(cluster: &Cluster, random: &mut Random) {
    let id = *random.pick(&cluster.members());
    cluster.start(id).await;
    let which = if random.happens(0.7) { Which::Log } else { Which::Store };
    let fault = choose(random, which);
    cluster.break_disk(id, which, fault).await;
    wait_for_end(cluster, id).await;
    if matches!(fault, DiskFault::Power(_)) {
        cluster.mend(id).await;
        return;
    }
    if random.happens(0.5) {
        // Comes back to the same disk, and stays or ends again.
        cluster.start(id).await;
        tokio::time::sleep(random.duration(Duration::from_millis(1), Duration::from_secs(1))).await;
    }
    if random.happens(0.4) {
        cluster.crash(id).await;
    }
    cluster.mend(id).await;
    if random.happens(0.7) {
        cluster.start(id).await;
    }
}

fn choose(random: &mut Random, which: Which) -> DiskFault {
    let errno = if random.happens(0.5) { Errno::Io } else { Errno::NoSpace };
    match random.below(4) {
        0 => DiskFault::Full(random.below(if which == Which::Log { 16 << 10 } else { 256 << 10 }) as u64),
        1 => DiskFault::Broken(Broken::Writes, errno),
        2 => DiskFault::Broken(Broken::Syncs, errno),
        _ => DiskFault::Power(random.below(60) as u32),
    }
}

async fn wait_for_end(cluster: &Cluster, id: u64) {
    let mut waited = Duration::ZERO;
    while waited < PATIENCE && !cluster.is_over() && cluster.runs(id).await {
        tokio::time::sleep(Duration::from_millis(50)).await;
        waited += Duration::from_millis(50);
        cluster.machine(id).lock().await.check_ended();
    }
}
