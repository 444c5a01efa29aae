//! Requests of the largest size reach all members: forwarded, replicated, and in a snapshot.

use anyhow::{Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::{Cluster, Place, Subject};

/// Above what a member takes from others without a flag.
const REQUEST_BYTES: usize = 12 << 20;
const FLAGS: [&str; 3] = ["--max-request-bytes=12582912", "--snapshot-count=20", "--quota-backend-bytes=1073741824"];
/// Beside the value in a request.
const FRAMING_BYTES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn largest_requests_reach_all_members() -> Result<()> {
    let subject = Subject::under_test()?;
    let mut cluster = Cluster::start_with(&subject, Place::Loopback, 3, &FLAGS).await?;
    let value = vec![b'v'; REQUEST_BYTES - FRAMING_BYTES];
    for (key, member) in [("leader", cluster.leader().await?), ("follower", cluster.follower().await?)] {
        let put = PutRequest { key: key.into(), value: value.clone().into(), ..Default::default() };
        cluster.client(member).await?.kv.put(put).await?;
    }
    // Enough entries that the log before them goes.
    let leader = cluster.leader().await?;
    let mut client = cluster.client(leader).await?;
    for _ in 0..50 {
        client.kv.put(PutRequest { key: "small".into(), ..Default::default() }).await?;
    }
    cluster.add().await?;
    for member in cluster.members() {
        for key in ["leader", "follower"] {
            let range = RangeRequest { key: key.into(), ..Default::default() };
            let found = cluster.client(member).await?.kv.range(range).await?.into_inner();
            let is_same = found.kvs.first().is_some_and(|kv| kv.value == value);
            ensure!(is_same, "member {member} has another value of {key:?}\n{}", cluster.logs());
        }
    }
    Ok(())
}
