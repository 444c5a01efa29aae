//! Where another member leads, the line about a slow request says how long that took, and who it was.

use anyhow::{Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::{Cluster, Kind, Place, Subject};
use serde_json::Value;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Waits for the line about a call.
async fn line(cluster: &Cluster, member: usize, method: &str) -> Result<Value> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let log = cluster.server(member).log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_it = |line: &Value| line["msg"] == "request took too long" && line["method"] == method;
        if let Some(found) = lines.find(|line| is_it(line) && line["key"] == "far") {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "no line about {method}:\n{log}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followers_line_has_the_time_of_the_leader() -> Result<()> {
    let flags = ["--warning-unary-request-duration=1ns", "--log-format=json"];
    let cluster = Cluster::start_with(&Subject::of(Kind::Cleat)?, Place::Loopback, 3, &flags).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let leading = cluster.status(leader).await?.leader;
    let mut client = cluster.client(follower).await?;
    client.kv.put(PutRequest { key: "far".into(), ..Default::default() }).await?;
    client.kv.range(RangeRequest { key: "far".into(), ..Default::default() }).await?;
    let put = line(&cluster, follower, "/etcdserverpb.KV/Put").await?;
    let steps = put["steps"].as_str().unwrap_or_default();
    ensure!(steps.contains(", forward ") && steps.contains(", apply ") && !steps.contains("replicate"), "{put}");
    ensure!(put["leader"] == format!("{leading:x}"), "{put}");
    let range = line(&cluster, follower, "/etcdserverpb.KV/Range").await?;
    ensure!(range["steps"].as_str().is_some_and(|steps| steps.contains(", read_barrier ")), "{range}");
    Ok(())
}
