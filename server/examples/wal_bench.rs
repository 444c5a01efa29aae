//! Measures the raft log alone: durable appends of one entry after another, and of many at once.
//!
//! `cargo run --release -p cleat-server --example wal_bench -- DIR`

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::cleatpb::{Batch, Command, command::Op};
use api::etcdserverpb::PutRequest;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use server::raft::log_store::{LogStore, LogStoreOptions};
use server::raft::types::{Entry, EntryContent, Payload, TypeConfig, log_id};

const RUN: Duration = Duration::from_secs(4);
const VALUE_BYTES: usize = 256;
/// Appends that are waited for at the same time.
const IN_FLIGHT: usize = 2;

fn entry(index: u64) -> Entry {
    let put = PutRequest { key: vec![b'k'; 30].into(), value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() };
    let batch = Batch { commands: vec![Command { header: None, op: Some(Op::Put(put)) }], origin: None };
    Entry { log_id: log_id(1, index), payload: EntryContent::Normal(Payload::new(batch)) }
}

async fn run(store: &mut LogStore, next: &mut u64, entries: u64, in_flight: usize) -> anyhow::Result<String> {
    let mut waiting = VecDeque::new();
    let mut took = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < RUN {
        let (done, durable) = TypeConfig::oneshot();
        waiting.push_back((Instant::now(), durable));
        store.append((*next..*next + entries).map(entry), IOFlushed::signal(done)).await?;
        *next += entries;
        if waiting.len() >= in_flight
            && let Some((since, durable)) = waiting.pop_front()
        {
            durable.await??;
            took.push(since.elapsed());
        }
    }
    let rate = (took.len() as u64 * entries) as f64 / begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    store.purge(log_id(1, *next - 1)).await?;
    Ok(format!("{entries} entries x {in_flight}: {rate:.0} entries/s, p50 {p50:.0?}, p99 {p99:.0?}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("wal-bench"), PathBuf::from);
    let opening = Instant::now();
    let mut store = LogStore::open(&dir, LogStoreOptions::default())?;
    let mut report = vec![format!("open: {:.0?}", opening.elapsed())];
    let mut next = 0;
    for (entries, in_flight) in [(1, 1), (8, 1), (64, 1), (64, IN_FLIGHT), (512, IN_FLIGHT)] {
        report.push(run(&mut store, &mut next, entries, in_flight).await?);
    }
    let stats = store.stats();
    report.push(format!("{} syncs, {} MiB written", stats.syncs(), stats.bytes_written() >> 20));
    let closing = Instant::now();
    drop(store);
    report.push(format!("close: {:.0?}", closing.elapsed()));
    let opening = Instant::now();
    drop(LogStore::open(&dir, LogStoreOptions::default())?);
    report.push(format!("open and close again: {:.0?}", opening.elapsed()));
    eprintln!("{}", report.join("\n"));
    Ok(())
}
