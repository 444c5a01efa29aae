//! Members that hold other data than the rest are found and named, and nobody else is.

use crate::{CLUSTERS, rounds};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
    RangeRequest,
};
use harness::{Client, Cluster, Place, Subject};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const WRITE_PAUSE: Duration = Duration::from_millis(5);
const KEYS: usize = 50;
const BEFORE: &[u8] = b"as the log has it";
const AFTER: &[u8] = b"as nobody wrote it";

/// docs/format.md: the revision of a block's first change, and the changes.
const REVISIONS: TableDefinition<'static, &[u8; 12], &[u8]> = TableDefinition::new("revisions");
/// Before the changes of a block, the number of them; before a change's row, its revision and the row's length; before its
/// key-value, a checksum of revision and key-value.
const HEAD_BYTES: usize = 4;
const REVISION_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;
const SUM_BYTES: usize = 4;

/// Changes one value in a database, so that nothing about it shows that but the value.
fn alter(data_dir: &Path) -> Result<()> {
    let database = Database::open(data_dir.join("member/store.redb"))?;
    let (first, mut block) = {
        let read = database.begin_read()?;
        let table = read.open_table(REVISIONS)?;
        let mut blocks = table.iter()?.filter_map(|row| {
            let (first, block) = row.ok()?;
            let has_value = block.value().windows(BEFORE.len()).any(|bytes| bytes == BEFORE);
            has_value.then(|| (*first.value(), block.value().to_vec()))
        });
        blocks.next().context("there is no such value")?
    };
    let mut change = HEAD_BYTES;
    loop {
        let row = change + REVISION_BYTES + LENGTH_BYTES;
        let length = block.get(row - LENGTH_BYTES..row).context("no change has the value")?;
        let length = u32::from_be_bytes(length.try_into()?) as usize;
        let kv = row + SUM_BYTES..row + length;
        if let Some(at) = block[kv.clone()].windows(BEFORE.len()).position(|bytes| bytes == BEFORE) {
            // Of the same length, so that the message around it stays one.
            block[kv.start + at..][..BEFORE.len()].copy_from_slice(&AFTER[..BEFORE.len()]);
            let sum = crc32c::crc32c(&block[change..change + REVISION_BYTES]);
            let sum = crc32c::crc32c_append(sum, &block[kv]).to_be_bytes();
            block[row..row + SUM_BYTES].copy_from_slice(&sum);
            break;
        }
        change = row + length;
    }
    let write = database.begin_write()?;
    write.open_table(REVISIONS)?.insert(&first, block.as_slice())?;
    write.commit()?;
    Ok(())
}

/// A cluster with some keys, one of whose members has been altered and does not run.
async fn altered(flags: &[&str]) -> Result<(Cluster, usize)> {
    let mut cluster = Cluster::start_with(&Subject::under_test()?, Place::Loopback, 3, flags).await?;
    let victim = cluster.follower().await?;
    let mut client = cluster.client(cluster.leader().await?).await?;
    for n in 0..KEYS {
        client.kv.put(PutRequest { key: format!("k{n}").into(), value: BEFORE.into(), ..Default::default() }).await?;
    }
    cluster.agree().await?;
    cluster.terminate(victim).await?;
    alter(&cluster.data_dir(victim))?;
    Ok((cluster, victim))
}

async fn corrupt(client: &mut Client) -> Result<Vec<u64>> {
    let request = AlarmRequest { action: AlarmAction::Get as i32, member_id: 0, alarm: AlarmType::Corrupt as i32 };
    let alarms = client.maintenance.alarm(request).await?.into_inner().alarms;
    Ok(alarms.iter().map(|AlarmMember { member_id, .. }| *member_id).collect())
}

async fn wait_corrupt(client: &mut Client) -> Result<Vec<u64>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let raised = corrupt(client).await?;
        if !raised.is_empty() {
            return Ok(raised);
        }
        ensure!(Instant::now() < deadline, "no alarm is raised");
        tokio::time::sleep(POLL).await;
    }
}

async fn id(cluster: &Cluster, member: usize) -> Result<u64> {
    Ok(cluster.status(member).await?.header.context("a header")?.member_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_member_does_not_serve() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let (mut cluster, victim) = altered(&["--corrupt-check-time=0s", "--compact-hash-check-time=0s"]).await?;
    cluster.spawn(victim)?;
    let status = cluster.wait_exit(victim).await?;
    ensure!(!status.success(), "it ends as if all were well");
    let log = cluster.server(victim).log();
    ensure!(log.contains("the data of this member is not that of the others"), "{}", cluster.logs());
    // The others go on.
    let mut client = cluster.client(cluster.leader().await?).await?;
    client.kv.put(PutRequest { key: "after".into(), ..Default::default() }).await?;
    ensure!(corrupt(&mut client).await?.is_empty());
    Ok(())
}

/// Starts the altered member without the check at a start, and sees that the alarm names it.
async fn named(flags: &[&str], mut provoke: impl AsyncFnMut(&mut Client) -> Result<()>) -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let flags = [&["--experimental-initial-corrupt-check=false"], flags].concat();
    let (mut cluster, victim) = altered(&flags).await?;
    cluster.restart(victim).await?;
    let victim = id(&cluster, victim).await?;
    let mut client = cluster.client(cluster.leader().await?).await?;
    provoke(&mut client).await?;
    let raised = wait_corrupt(&mut client).await.with_context(|| cluster.logs())?;
    ensure!(raised == [victim], "{victim:x} was altered, the alarm names {raised:x?}\n{}", cluster.logs());
    refuses(&mut client).await
}

/// What etcd 3.4 refuses and serves while the alarm is raised.
async fn refuses(client: &mut Client) -> Result<()> {
    let put = client.kv.put(PutRequest { key: "x".into(), ..Default::default() }).await.map(drop);
    let delete = client.kv.delete_range(DeleteRangeRequest { key: "x".into(), ..Default::default() }).await.map(drop);
    let compact = client.kv.compact(CompactionRequest { revision: 2, physical: false }).await.map(drop);
    let grant = client.lease.lease_grant(LeaseGrantRequest { ttl: 100, id: 0 }).await.map(drop);
    for answer in [put, delete, compact, grant] {
        let status = answer.expect_err("it is refused");
        ensure!((status.code(), status.message()) == (Code::DataLoss, "etcdserver: corrupt cluster"), "{status}");
    }
    client.kv.range(RangeRequest { key: "k0".into(), ..Default::default() }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_regular_check_names_an_altered_member() -> Result<()> {
    named(&["--corrupt-check-time=300ms", "--compact-hash-check-time=0s"], async |_| Ok(())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_after_a_compaction_names_an_altered_member() -> Result<()> {
    named(&["--corrupt-check-time=0s", "--compact-hash-check-time=300ms"], async |client| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(corrupt(client).await?.is_empty(), "there was no compaction to check after");
        client.kv.compact(CompactionRequest { revision: 10, physical: true }).await?;
        Ok(())
    })
    .await
}

/// Members that are checked all the time, under load, while others are killed, fall behind and get snapshots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_members_are_never_called_wrong() -> Result<()> {
    const FLAGS: &[&str] = &[
        "--corrupt-check-time=50ms",
        "--compact-hash-check-time=50ms",
        "--snapshot-count=50",
        "--snapshot-catchup-entries=10",
    ];
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start_with(&Subject::under_test()?, Place::Loopback, 3, FLAGS).await?;
    let mut writers = JoinSet::new();
    for member in cluster.members() {
        writers.spawn(write(cluster.url(member), member));
    }
    for _ in 0..rounds()? {
        let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
        cluster.kill(follower)?;
        let mut client = cluster.client(leader).await?;
        for _ in 0..200 {
            client.kv.put(PutRequest { key: "checked".into(), ..Default::default() }).await?;
        }
        cluster.restart(follower).await?;
        for _ in 0..5 {
            let put = client.kv.put(PutRequest { key: "checked".into(), ..Default::default() }).await?.into_inner();
            let revision = put.header.context("a header")?.revision - 5;
            client.kv.compact(CompactionRequest { revision, physical: false }).await?;
            tokio::time::sleep(POLL).await;
        }
        cluster.wait_healthy().await?;
        cluster.kill(leader)?;
        cluster.restart(leader).await?;
        cluster.wait_healthy().await?;
        let raised = corrupt(&mut cluster.client(cluster.leader().await?).await?).await?;
        ensure!(raised.is_empty(), "the alarm names {raised:x?}\n{}", cluster.logs());
    }
    writers.shutdown().await;
    cluster.agree().await?;
    let logs = cluster.whole_logs().concat();
    ensure!(logs.contains("it is the same"), "nothing was compared");
    ensure!(!logs.contains("is not the same") && !logs.contains("not that of the others"), "{}", cluster.logs());
    Ok(())
}

/// Writes through a member, over and over, for as long as the test lasts.
async fn write(url: String, member: usize) {
    loop {
        if let Ok(mut client) = Client::connect(&url).await {
            for key in (0..100).cycle() {
                let (key, value) = (format!("{member}/{key}").into(), vec![b'v'; 100].into());
                if client.kv.put(PutRequest { key, value, ..Default::default() }).await.is_err() {
                    break;
                }
                tokio::time::sleep(WRITE_PAUSE).await;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
