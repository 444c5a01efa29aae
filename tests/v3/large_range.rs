//! Answers larger than the memory that a member may take for one.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, RangeResponse};
use harness::{Kind, Server};
use http::uri::PathAndQuery;
use std::time::Duration;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Endpoint;

/// All values together, MiB; a longer run sets `CLEAT_LARGE_RANGE_MIB`.
const MIB: usize = 64;
const VALUE_BYTES: usize = 1 << 20;
/// What the member may take for large answers beyond what it takes for small ones: the same for any number of values.
const GROWTH_KIB: u64 = 40 << 10;
/// Values of a small answer.
const FEW: usize = 4;
/// Answers at the same time.
const AT_ONCE: usize = 3;
const DEADLINE: Duration = Duration::from_mins(1);

fn values() -> Result<usize> {
    std::env::var("CLEAT_LARGE_RANGE_MIB").map_or(Ok(MIB), |mib| mib.parse().context("CLEAT_LARGE_RANGE_MIB"))
}

/// A field of the process's status, KiB.
fn memory(server: &Server, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()?.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
}

/// From here on `VmHWM` is the peak.
fn forget_peak(server: &Server) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{}/clear_refs", server.pid()?.as_raw_nonzero()), "5")?)
}

fn value(n: usize, generation: u8) -> Vec<u8> {
    let mut value = vec![generation; VALUE_BYTES];
    value[..8].copy_from_slice(&n.to_be_bytes());
    value
}

fn everything() -> RangeRequest {
    RangeRequest { key: "large/".into(), range_end: "large0".into(), ..Default::default() }
}

fn check(answer: &RangeResponse, keys: impl Iterator<Item = usize>, generation: u8) -> Result<()> {
    let keys: Vec<usize> = keys.collect();
    ensure!(answer.kvs.len() == keys.len(), "{} keys", answer.kvs.len());
    for (kv, n) in answer.kvs.iter().zip(keys) {
        ensure!(kv.key == format!("large/{n:05}"), "key {n} is {:?}", kv.key);
        ensure!(kv.value == value(n, generation), "the value of key {n}");
    }
    Ok(())
}

/// Waits until what the writes have left to do is done, which takes memory, too.
async fn rest(server: &Server) -> Result<()> {
    let mut last = memory(server, "VmRSS:")?;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = memory(server, "VmRSS:")?;
        if now.abs_diff(last) < 1 << 10 {
            break;
        }
        last = now;
    }
    Ok(())
}

/// The memory that the member has at most while it tells the same in small answers, KiB: with all that its caches keep of
/// what was read.
async fn peak_of_small_answers(server: &Server, values: usize) -> Result<u64> {
    let client = server.client().await?;
    forget_peak(server)?;
    for (generation, revision) in [(2, 0), (1, 1 + values as i64)] {
        for first in (0..values).step_by(FEW) {
            let range =
                RangeRequest { key: format!("large/{first:05}").into(), limit: FEW as i64, revision, ..everything() };
            let answers = (0..AT_ONCE).map(|_| {
                let (mut kv, range) = (client.kv.clone(), range.clone());
                tokio::spawn(async move { kv.range(range).await })
            });
            for answer in futures::future::join_all(answers).await {
                check(&answer??.into_inner(), first..values.min(first + FEW), generation)?;
            }
        }
    }
    memory(server, "VmHWM:")
}

/// The memory that the member has at most while it gives large answers, KiB.
async fn peak_of_large_answers(server: &Server, values: usize) -> Result<u64> {
    let mut client = server.client().await?;
    let old = 1 + values as i64;
    forget_peak(server)?;
    let answers = (0..AT_ONCE).map(|_| {
        let mut kv = client.kv.clone();
        tokio::spawn(async move { kv.range(everything()).await })
    });
    for answer in futures::future::join_all(answers).await {
        let answer = answer??.into_inner();
        check(&answer, 0..values, 2)?;
        let header = answer.header.context("no header")?;
        ensure!((answer.count, answer.more, header.revision) == (values as i64, false, 1 + 2 * values as i64));
    }
    // An old revision, backwards, and a limit that cuts.
    let limit = values as i64 - 10;
    let backwards = RangeRequest { revision: old, limit, sort_order: SortOrder::Descend as i32, ..everything() };
    let answer = client.kv.range(backwards).await?.into_inner();
    check(&answer, (10..values).rev(), 1)?;
    ensure!(answer.count == values as i64 && answer.more, "count {} more {}", answer.count, answer.more);
    // What the client gets is small, what the server looks at is not.
    let keys = client.kv.range(RangeRequest { keys_only: true, ..everything() }).await?.into_inner();
    ensure!(keys.kvs.len() == values && keys.kvs.iter().all(|kv| kv.value.is_empty()));
    memory(server, "VmHWM:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_takes_no_more_memory_than_a_small_one() -> Result<()> {
    let values = values()?;
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for generation in [1, 2] {
        for n in 0..values {
            let key = format!("large/{n:05}");
            let put = PutRequest { key: key.into(), value: value(n, generation).into(), ..Default::default() };
            client.kv.put(put).await?;
        }
    }

    rest(&server).await?;
    let small = peak_of_small_answers(&server, values).await?;
    let grown = peak_of_large_answers(&server, values).await?.saturating_sub(small);
    ensure!(grown < GROWTH_KIB, "{grown} KiB for answers of {values} MiB");

    let by_value = RangeRequest { sort_target: SortTarget::Value as i32, ..everything() };
    let error = client.kv.range(by_value).await.expect_err("it needs all values at once");
    ensure!(error.code() == Code::ResourceExhausted && error.message().contains("sorted by value"), "{error}");
    Ok(())
}

/// The answer is of one revision, and whole, whatever happens to the store before its client reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_the_revision_that_it_asked_for() -> Result<()> {
    const VALUES: usize = 40;
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let put = |n: usize, generation| PutRequest {
        key: format!("large/{n:05}").into(),
        value: value(n, generation).into(),
        ..Default::default()
    };
    for n in 0..VALUES {
        client.kv.put(put(n, 1)).await?;
    }
    // Once the head of the answer is there nobody polls the connection: it has a runtime that stands still.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let url = server.client_url();
    let slow = std::thread::spawn(move || -> Result<RangeResponse> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut grpc =
                Grpc::new(Endpoint::from_shared(url)?.connect().await?).max_decoding_message_size(usize::MAX);
            grpc.ready().await?;
            let codec = tonic_prost::ProstCodec::default();
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
            let call = grpc.server_streaming(tonic::Request::new(everything()), path, codec).await?;
            begun.send(())?;
            stopped.recv_timeout(DEADLINE)?;
            call.into_inner().message().await?.context("no answer")
        })
    });
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(DEADLINE)).await??;
    let mut revision = 0;
    for n in 0..VALUES {
        revision = client.kv.put(put(n, 2)).await?.into_inner().header.map_or(0, |header| header.revision);
    }
    client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    stop.send(())?;
    let answer = tokio::task::spawn_blocking(move || slow.join()).await?.map_err(|_| anyhow::anyhow!("panic"))??;
    check(&answer, 0..VALUES, 1)
}
