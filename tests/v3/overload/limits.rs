//! Limits of one user's requests, and of calls that wait.

use super::{PASSWORD, add_users};
use ::http::Request;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, RangeRequest};
use api::v3electionpb::LeaderRequest;
use api::v3lockpb::LockRequest;
use harness::http;
use harness::{Client, Kind, Options, Server, with_token};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

fn read() -> RangeRequest {
    RangeRequest { key: "a".into(), ..RangeRequest::default() }
}

fn is_limited(error: &Status) -> bool {
    error.code() == Code::ResourceExhausted && error.message() == "etcdserver: too many requests"
}

const RATE: u32 = 2;
const BURST: u32 = 60;
const ASKED: u32 = 200;

/// Asks as fast as it can, and returns how many were admitted. `otherwise` says what an answer is that is no refusal.
async fn ask(client: &Client, token: Option<&str>, otherwise: fn(&Result<(), Status>) -> bool) -> Result<u32> {
    let mut admitted = 0;
    for _ in 0..ASKED {
        let answer = client.kv.clone().range(with_token(read(), token)).await.map(drop);
        match &answer {
            Err(error) if is_limited(error) => {}
            answer if otherwise(answer) => admitted += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(admitted)
}

/// As many as come back in the time since then, begun ones included.
fn admitted_since(then: Instant) -> u32 {
    (then.elapsed().as_secs_f64() * f64::from(RATE)).ceil() as u32 + 1
}

/// As many as the limit allows since `began`, with what was left of the burst.
fn check_admitted(admitted: u32, left: u32, began: Instant) -> Result<()> {
    let most = BURST + admitted_since(began);
    ensure!((left..=most).contains(&admitted), "{admitted} of {left} to {most} requests were admitted");
    Ok(())
}

/// Over JSON it is the same user who has spent the burst, or another.
async fn over_json(server: &Server, spent: &str, other: &str) -> Result<()> {
    let post = async |token: &str| {
        let body = http::full(r#"{"key":"YQ=="}"#);
        let request = Request::post("/v3/kv/range").header("authorization", token).body(body)?;
        http::send(&server.endpoint(), request).await
    };
    let mut refused = post(spent).await?;
    // One comes back every half a second, perhaps by now.
    for _ in 0..BURST / 2 {
        if refused.status == 429 {
            break;
        }
        refused = post(spent).await?;
    }
    ensure!(refused.status == 429, "{refused:?}");
    ensure!(refused.json()?["message"] == "etcdserver: too many requests", "{refused:?}");
    ensure!(post(other).await?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_its_own_share_of_requests() -> Result<()> {
    let flags = [
        format!("--user-rate-limit={RATE}"),
        format!("--user-rate-limit-burst={BURST}"),
        "--bcrypt-cost=4".to_owned(),
        "--log-format=json".to_owned(),
    ];
    let server = Server::start_with(Kind::Cleat, Options { flags: flags.to_vec(), ..Options::default() }).await?;
    let mut client = server.client().await?;
    client.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await?;
    add_users(&client, &["ann", "bob"]).await?;
    let began = Instant::now();
    let (ann, bob) = (client.login("ann", PASSWORD).await?, client.login("bob", PASSWORD).await?);
    let root = client.login("root", PASSWORD).await?;

    check_admitted(ask(&client, Some(&ann), Result::is_ok).await?, BURST, began)?;
    let spent = Instant::now();
    // Others have theirs, and root needs none.
    client.kv.range(with_token(read(), Some(&bob))).await.context("another user")?;
    ensure!(ask(&client, Some(&root), Result::is_ok).await? == ASKED, "root has a limit");
    // Those without a user share that of their address, which the founding and the logins have used a part of.
    let is_nobody = |answer: &Result<(), Status>| {
        answer.as_ref().is_err_and(|error| error.message() == "etcdserver: user name is empty")
    };
    check_admitted(ask(&client, None, is_nobody).await?, 1, began)?;
    // A wrong token is no way to another's share.
    let wrong = |answer: &Result<(), Status>| answer.as_ref().is_err_and(|error| error.code() == Code::Unauthenticated);
    ensure!(ask(&client, Some("none.1"), wrong).await? < ASKED / 2);
    client.kv.range(with_token(read(), Some(&bob))).await.context("another user")?;

    let admitted = ask(&client, Some(&ann), Result::is_ok).await?;
    ensure!(admitted <= admitted_since(spent), "{admitted} requests after the burst was spent");
    over_json(&server, &ann, &bob).await?;

    // Leases live on.
    for _ in 0..2 * BURST {
        let renewal = with_token(tokio_stream::once(LeaseKeepAliveRequest { id: 7 }), Some(&ann));
        let answer = client.lease.lease_keep_alive(renewal).await?.into_inner().next().await;
        ensure!(answer.context("an answer")??.ttl == 600);
    }

    let (_, _, metrics) = http::get(&server.client_url(), "/metrics").await?;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("cleat_requests_rate_limited_total "));
    ensure!(counted.context("the metric")?.parse::<f64>()? >= f64::from(ASKED - BURST) / 2.0, "{counted:?}");
    let lines = |log: &str| log.lines().filter(|line| line.contains("above the rate of --user-rate-limit")).count();
    let told = async {
        while lines(&server.log()) == 0 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.context("no line")?;
    let log = server.log();
    ensure!(log.contains("user ann"), "{}", server.log_tail());
    ensure!(lines(&log) as u64 <= 1 + began.elapsed().as_secs() / 10, "{} lines", lines(&log));
    Ok(())
}

/// Calls of Lock and Election that may wait at the same time.
const WAITING: usize = 16_384;
const ON_A_CONNECTION: usize = 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_others_are_bounded() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let client = server.client().await?;
    let mut waiting = Vec::new();
    for _ in 0..WAITING / ON_A_CONNECTION {
        let client = server.client().await?;
        let observing = (0..ON_A_CONNECTION).map(|_| {
            let mut election = client.election.clone();
            async move { election.observe(LeaderRequest { name: "nobody".into() }).await }
        });
        for stream in futures::future::join_all(observing).await {
            waiting.push(stream?.into_inner());
        }
    }
    ensure!(waiting.len() == WAITING);
    let ask = async || {
        // Another one each time: who got one before has it still.
        let lock = LockRequest { name: rand::random::<u64>().to_string().into(), lease: 0 };
        let (mut lock_client, mut election) = (client.lock.clone(), client.election.clone());
        let observed = election.observe(LeaderRequest { name: "nobody".into() }).await.map(drop);
        [lock_client.lock(lock).await.map(drop), observed]
    };
    for refused in ask().await {
        let error = refused.err().context("one call too many")?;
        ensure!((error.code(), error.message()) == (Code::Unknown, "etcdserver: too many requests"), "{error:?}");
    }
    // Others are served, and a place that is given up is there for the next.
    client.kv.clone().range(read()).await?;
    waiting.truncate(WAITING - 2);
    let again = async {
        while ask().await.iter().any(Result::is_err) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.context("no place is free again")
}
