//! What goes wrong, chosen from the seed: parts of the network, power, disks.

use super::Cluster;
use super::disk::Latency;
use super::network::Weather;
use super::random::Random;
use super::report::note;
use api::cleatpb::membership_change::Change;
use api::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest};
use std::time::Duration;

/// Lets things go wrong until the cluster is told to end, then makes everything well again.
pub(crate) async fn rage(cluster: Cluster, mut random: Random) {
    if cluster.setup.has_learner {
        add(&cluster, &mut random, true).await;
    }
    while !cluster.is_over() {
        tokio::time::sleep(random.duration(Duration::from_millis(100), Duration::from_millis(1500))).await;
        if cluster.setup.only_power {
            power_fault(&cluster, &mut random).await;
        } else if cluster.setup.has_learner && random.happens(0.6) {
            split(&cluster, &mut random);
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.network().heal();
        } else if !cluster.setup.has_learner && random.happens(0.15) {
            membership_change(&cluster, &mut random).await;
        } else {
            one_fault(&cluster, &mut random).await;
        }
    }
    cluster.network().heal();
    for id in cluster.members() {
        cluster.machine(id).lock().await.set_latency(Latency::UpTo(Duration::from_millis(2)));
        cluster.start(id).await;
    }
}

async fn one_fault(cluster: &Cluster, random: &mut Random) {
    let members = cluster.members();
    let (one, other) = (*random.pick(&members), *random.pick(&members));
    let network = cluster.network();
    match random.below(13) {
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
            for member in members.into_iter().filter(|member| everywhere || *member == one) {
                note!(cluster.trace(), "the disks of {member} take {latency:?}");
                cluster.machine(member).lock().await.set_latency(latency);
            }
        }
        7 | 8 => cluster.crash(one).await,
        10 => split(cluster, random),
        9 => {
            note!(cluster.trace(), "the power is gone everywhere");
            for member in members {
                cluster.crash(member).await;
            }
        }
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
    note!(cluster.trace(), "the power is gone everywhere");
    for member in cluster.members() {
        cluster.crash(member).await;
    }
    for member in cluster.members() {
        cluster.machine(member).lock().await.set_latency(Latency::UpTo(Duration::from_millis(2)));
        cluster.start(member).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Adds, promotes or removes a member, or moves leadership.
async fn membership_change(cluster: &Cluster, random: &mut Random) {
    let Some(process) = cluster.pick(random) else { return };
    let members = cluster.members();
    let id = *random.pick(&members);
    match random.below(4) {
        0 if members.len() as u64 <= cluster.setup.members && !cluster.setup.purges => {
            let is_learner = random.happens(0.3);
            add(cluster, random, is_learner).await;
        }
        1 if members.len() > 3 => {
            let removed = process.members.change(Change::Remove(MemberRemoveRequest { id })).await;
            note!(cluster.trace(), "remove {id}: {removed:?}");
            if removed.is_ok() {
                tokio::time::sleep(random.duration(Duration::from_millis(1), Duration::from_secs(2))).await;
                cluster.scrap(id).await;
            }
        }
        2 => {
            let promoted = process.members.change(Change::Promote(MemberPromoteRequest { id })).await;
            note!(cluster.trace(), "promote {id}: {promoted:?}");
        }
        _ => {
            let moved = process.members.move_leader(id).await;
            note!(cluster.trace(), "lead {id}: {moved:?}");
        }
    }
}

/// Adds a member and starts it.
async fn add(cluster: &Cluster, random: &mut Random, is_learner: bool) {
    let url = format!("http://n{}:2380", random.below(1 << 20));
    let request = MemberAddRequest { peer_urls: vec![url], is_learner };
    for _ in 0..20 {
        if cluster.is_over() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(process) = cluster.pick(random) else { continue };
        let added = process.members.change(Change::Add(request.clone())).await;
        note!(cluster.trace(), "add a member: {added:?}");
        let Ok(id) = added else { continue };
        cluster.build(id).await;
        if cluster.setup.learner_votes {
            cluster.network().count_votes_of(id);
        }
        return;
    }
}
