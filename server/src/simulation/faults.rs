//! What goes wrong, chosen from the seed: parts of the network, power, processes, the calendar; disks ([`disk`]),
//! snapshots on their way ([`snapshot`]). And members that come and go ([`members`]).

mod disk;
mod members;
mod snapshot;

use super::disk::Latency;
use super::network::Weather;
use super::random::Random;
use super::report::{Kind, note};
use super::{Cluster, runtime};
use std::time::Duration;

/// Lets things go wrong until the cluster is told to end, then makes everything well again.
pub(crate) async fn rage(cluster: Cluster, mut random: Random) {
    if cluster.setup.has_learner {
        members::add(&cluster, &mut random, true).await;
    }
    while !cluster.is_over() {
        tokio::time::sleep(random.duration(Duration::from_millis(100), Duration::from_secs(1))).await;
        match cluster.setup.faults {
            Faults::Power => power_fault(&cluster, &mut random).await,
            Faults::Snapshots => snapshot::fault(&cluster, &mut random).await,
            Faults::Splits if random.happens(0.6) => {
                split(&cluster, &mut random);
                tokio::time::sleep(Duration::from_secs(2)).await;
                cluster.network().heal();
            }
            Faults::Splits => one_fault(&cluster, &mut random).await,
            Faults::All => any_fault(&cluster, &mut random).await,
        }
    }
    cluster.network().heal();
    for id in cluster.members() {
        let machine = cluster.machine(id);
        let mut machine = machine.lock().await;
        machine.mend();
        machine.set_latency(Latency::UpTo(Duration::from_millis(2)));
    }
    for id in cluster.members() {
        cluster.start(id).await;
    }
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Faults {
    All,
    /// Power and slow disks.
    Power,
    /// Members fall behind, and what they are sent then breaks off.
    Snapshots,
    /// The network falls into two parts, often.
    Splits,
}

async fn any_fault(cluster: &Cluster, random: &mut Random) {
    match random.below(20) {
        0..=2 => members::change(cluster, random).await,
        3..=5 => disk::fault(cluster, random).await,
        6..=8 => snapshot::fault(cluster, random).await,
        9 => set_calendar(cluster, random),
        _ => one_fault(cluster, random).await,
    }
}

/// Nobody's data, and no lease, may depend on the calendar.
fn set_calendar(cluster: &Cluster, random: &mut Random) {
    let seconds = random.below(1 << 32) as u64;
    note!(cluster.trace(), "the calendar is set to {seconds}");
    cluster.tally().count(Kind::CalendarJump);
    runtime::set_calendar(seconds);
}

async fn one_fault(cluster: &Cluster, random: &mut Random) {
    let members = cluster.members();
    let (one, other) = (*random.pick(&members), *random.pick(&members));
    let network = cluster.network();
    match random.below(14) {
        0 => {
            note!(cluster.trace(), "{one} is cut off");
            for other in members {
                network.cut(one, other);
                network.cut(other, one);
            }
        }
        1 => {
            note!(cluster.trace(), "{one} does not reach {other}");
            network.cut(one, other);
        }
        2 => {
            note!(cluster.trace(), "{one} is heard by nobody");
            for other in members {
                network.cut(one, other);
            }
        }
        3 => {
            let delay = random.duration(Duration::from_millis(2), Duration::from_millis(400));
            network.set_weather(Weather { loss: random.fraction() * 0.2, delay });
        }
        4 | 5 => network.heal(),
        6 => {
            let most = random.duration(Duration::from_millis(1), Duration::from_millis(300));
            let latency = if random.happens(0.3) { Latency::None } else { Latency::UpTo(most) };
            let everywhere = random.happens(0.5);
            if latency != Latency::None {
                cluster.tally().count(Kind::SlowDisk);
            }
            for member in members.into_iter().filter(|member| everywhere || *member == one) {
                note!(cluster.trace(), "the disks of {member} take {latency:?}");
                cluster.machine(member).lock().await.set_latency(latency);
            }
        }
        7 | 8 => cluster.crash(one).await,
        9 => crash_all(cluster).await,
        10 => split(cluster, random),
        11 => cluster.kill(one).await,
        _ => {
            for member in members {
                if random.happens(0.7) {
                    cluster.start(member).await;
                }
            }
        }
    }
}

/// Two parts that do not reach each other.
fn split(cluster: &Cluster, random: &mut Random) {
    let (here, there): (Vec<u64>, Vec<u64>) = cluster.members().into_iter().partition(|_| random.happens(0.5));
    note!(cluster.trace(), "{here:?} and {there:?} are apart");
    for one in &here {
        for other in &there {
            cluster.network().cut(*one, *other);
            cluster.network().cut(*other, *one);
        }
    }
}

/// Slow disks, and no power anywhere while they are slow.
async fn power_fault(cluster: &Cluster, random: &mut Random) {
    let slow = random.duration(Duration::from_millis(20), Duration::from_millis(300));
    for member in cluster.members() {
        cluster.machine(member).lock().await.set_latency(Latency::UpTo(slow));
    }
    tokio::time::sleep(random.duration(Duration::from_millis(300), Duration::from_millis(1500))).await;
    crash_all(cluster).await;
    for member in cluster.members() {
        cluster.machine(member).lock().await.set_latency(Latency::UpTo(Duration::from_millis(2)));
        cluster.start(member).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
}

async fn crash_all(cluster: &Cluster) {
    note!(cluster.trace(), "the power is gone everywhere");
    cluster.tally().count(Kind::CrashOfAll);
    for member in cluster.members() {
        cluster.crash(member).await;
    }
}
