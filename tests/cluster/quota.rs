//! NOSPACE in a cluster: whoever raised it clears it, and the lowest quota counts.

use anyhow::{Result, ensure};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, PutRequest};
use harness::{Cluster, Place, Subject};
use std::time::{Duration, Instant};
use tonic::Code;

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);
const QUOTA_BYTES: usize = 1 << 20;
/// Of one value: less than what must be free again before an alarm is cleared.
const VALUE_BYTES: usize = QUOTA_BYTES / 40;
/// More than the quota.
const PUTS: usize = 50;

fn put(key: usize) -> PutRequest {
    PutRequest { key: format!("{key:02}").into(), value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() }
}

async fn id(cluster: &Cluster, member: usize) -> Result<u64> {
    Ok(cluster.status(member).await?.header.unwrap_or_default().member_id)
}

/// Waits until the alarms, asked of this member, are those of these ids.
async fn alarms_become(cluster: &Cluster, member: usize, expected: &[u64]) -> Result<()> {
    let mut client = cluster.client(member).await?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let alarms = client.maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
        let found: Vec<u64> = alarms.iter().map(|alarm| alarm.member_id).collect();
        ensure!(alarms.iter().all(|alarm| alarm.alarm() == AlarmType::Nospace), "{alarms:?}");
        if found == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{found:?} instead of {expected:?}\n{}", cluster.logs());
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_clears_what_it_raised() -> Result<()> {
    let flag = format!("--quota-backend-bytes={QUOTA_BYTES}");
    let cluster = Cluster::start_with(&Subject::under_test()?, Place::Loopback, 3, &[&flag]).await?;
    let follower = cluster.follower().await?;
    let mut client = cluster.client(follower).await?;
    let mut refused = None;
    for key in 0..PUTS {
        if let Err(status) = client.kv.put(put(key)).await {
            refused = Some(status);
            break;
        }
    }
    ensure!(refused.as_ref().is_some_and(|it| it.code() == Code::ResourceExhausted), "{refused:?}");
    alarms_become(&cluster, follower, &[id(&cluster, follower).await?]).await?;
    let all = DeleteRangeRequest { key: "0".into(), range_end: "a".into(), ..Default::default() };
    let revision = client.kv.delete_range(all).await?.into_inner().header.unwrap_or_default().revision;
    client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    alarms_become(&cluster, follower, &[]).await?;
    client.kv.put(put(0)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lowest_quota_counts() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 3).await?;
    let follower = cluster.follower().await?;
    cluster.options_mut(follower).flags.push(format!("--quota-backend-bytes={QUOTA_BYTES}"));
    cluster.kill(follower)?;
    cluster.restart(follower).await?;
    let leader = cluster.leader().await?;
    let mut client = cluster.client(leader).await?;
    for key in 0..PUTS {
        // The alarm may come before the last.
        if let Err(status) = client.kv.put(put(key)).await {
            ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
        }
    }
    let id = id(&cluster, follower).await?;
    alarms_become(&cluster, leader, &[id]).await?;
    let refused = client.kv.put(put(0)).await.expect_err("a member is full");
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    // What an operator says stands until more comes in.
    let disarm =
        AlarmRequest { action: AlarmAction::Deactivate as i32, member_id: id, alarm: AlarmType::Nospace as i32 };
    client.maintenance.alarm(disarm).await?;
    client.kv.put(put(0)).await?;
    Ok(())
}
