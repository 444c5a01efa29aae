//! Revocations, renewals and alarms beside more puts than the disk takes.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
};
use harness::flood::{Flood, revision};
use harness::slow_disk::SlowDisk;
use harness::{Kind, Options, Server};
use std::time::Duration;
use tokio_stream::StreamExt as _;

/// What each sync of the log takes longer.
const SYNC: Duration = Duration::from_millis(100);
/// So that a busy machine loses no request, which may take five seconds and two of these.
const ELECTION: &str = "--election-timeout=5000";
const CONNECTIONS: usize = 5;
/// Puts that may be ahead of what is urgent: those of the entries that were on their way. Thousands wait.
const AHEAD_MAX: i64 = 1500;
const ROUNDS: i64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_renewals_and_alarms_pass_a_full_queue() -> Result<()> {
    let options = Options { flags: vec![ELECTION.to_owned()], ..Options::default() };
    let server = Server::start_with(Kind::Cleat, options).await?;
    let mut client = server.client().await?;
    for id in 1..=ROUNDS + 1 {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await?;
        client.kv.put(PutRequest { key: format!("lease/{id}").into(), lease: id, ..Default::default() }).await?;
    }
    let slow = SlowDisk::attach(server.pid()?, SYNC).await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(server.client().await?);
    }
    let flood = Flood::start(&connections);
    for id in 1..=ROUNDS {
        flood.refuses().await?;
        let before = revision(&client).await?;
        let revoked = client.lease.lease_revoke(LeaseRevokeRequest { id }).await.context("a revocation")?;
        let ahead = revoked.into_inner().header.unwrap_or_default().revision - before;
        ensure!(ahead < AHEAD_MAX, "{ahead} puts were ahead of a revocation");
        let key = RangeRequest { key: format!("lease/{id}").into(), ..Default::default() };
        ensure!(client.kv.range(key).await?.into_inner().kvs.is_empty(), "the key outlives its lease");

        let renewal = tokio_stream::once(LeaseKeepAliveRequest { id: ROUNDS + 1 });
        let kept = client.lease.lease_keep_alive(renewal).await?.into_inner().next().await.context("an answer")??;
        ensure!(kept.ttl == 600, "{kept:?}");

        let before = revision(&client).await?;
        for action in [AlarmAction::Activate, AlarmAction::Deactivate] {
            let alarm = AlarmRequest { action: action as i32, member_id: 0, alarm: AlarmType::Nospace as i32 };
            client.maintenance.alarm(alarm).await.context("an alarm")?;
        }
        let ahead = revision(&client).await? - before;
        ensure!(ahead < 2 * AHEAD_MAX, "{ahead} puts were ahead of two alarms");
    }
    drop(slow);
    flood.end().await;
    Ok(())
}
