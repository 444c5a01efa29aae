//! `check perf` and `check datascale`: a load of etcdctl's sizes, and whether the cluster bears it.

use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::{Failure, code, text_of};
use crate::print::line;
use crate::progress;
use api::etcdserverpb::CompactionRequest;
use client::{Client, Options, message};
use go::strconv;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The names of the workloads, as short as they can be.
const LOADS: &[&str] = &["s", "m", "l", "xl"];

const AUTO_COMPACT: Flag = Flag::switch("auto-compact", "Compact storage with last revision after test is finished.");
const AUTO_DEFRAG: Flag = Flag::switch("auto-defrag", "Defragment storage after test is finished.");
const PERF_LOAD: Flag = Flag::string(
    "load",
    "s",
    "The performance check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
)
.one_of(LOADS);
const PERF_PREFIX: Flag =
    Flag::string("prefix", "/etcdctl-check-perf/", "The prefix for writing the performance check's keys.");
const SCALE_LOAD: Flag = Flag::string(
    "load",
    "s",
    "The datascale check's workload model. Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
)
.one_of(LOADS);
const SCALE_PREFIX: Flag =
    Flag::string("prefix", "/etcdctl-check-datascale/", "The prefix for writing the datascale check's keys.");

/// How long `perf` writes.
const PERF_SECONDS: u64 = 60;

/// How long a deletion, a compaction or a defragmentation may take afterwards: as long as there is anybody who waits.
const CLEAN_UP_LIMIT: Duration = Duration::from_mins(10);
const PERF_KEY_BYTES: usize = 256;
const PERF_VALUE_BYTES: usize = 1024;
const SCALE_KEY_BYTES: usize = 512;
const SCALE_VALUE_BYTES: usize = 512;
/// What etcdctl says of a key and its value together.
const SCALE_KV_BYTES: usize = 1024;

/// More than this share of the load must be reached.
const THROUGHPUT_MIN: f64 = 0.9;
/// The slowest write, and the standard deviation, in seconds.
const SLOWEST_MAX: f64 = 0.5;
const DEVIATION_MAX: f64 = 0.1;

/// A load.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// Writes a second.
    rate: u64,
    /// Keys of `datascale`.
    keys: u64,
}

pub(crate) const COMMAND: Command = Command {
    name: "check",
    usage: "<subcommand>",
    short: "commands for checking properties of the etcd cluster",
    group: Group::Cluster,
    commands: &[&DATASCALE, &PERF],
    ..Command::NONE
};

const DATASCALE: Command = Command {
    name: "datascale",
    usage: "[options]",
    short: "Check the memory usage of holding data for different workloads on a given server endpoint.",
    long: "If no endpoint is provided, localhost will be used. If multiple endpoints are provided, first endpoint will be used.",
    flags: &[AUTO_COMPACT, AUTO_DEFRAG, SCALE_LOAD, SCALE_PREFIX],
    run: Some(|context| Box::pin(datascale(context))),
    ..Command::NONE
};

const PERF: Command = Command {
    name: "perf",
    usage: "[options]",
    short: "Check the performance of the etcd cluster",
    flags: &[AUTO_COMPACT, AUTO_DEFRAG, PERF_LOAD, PERF_PREFIX],
    run: Some(|context| Box::pin(perf(context))),
    ..Command::NONE
};

fn load(name: &str) -> Result<Load, Failure> {
    match name {
        "s" | "small" => Ok(Load { clients: 50, rate: 150, keys: 10_000 }),
        "m" | "medium" => Ok(Load { clients: 200, rate: 1000, keys: 100_000 }),
        "l" | "large" => Ok(Load { clients: 500, rate: 8000, keys: 1_000_000 }),
        "xl" | "xLarge" => Ok(Load { clients: 1000, rate: 15_000, keys: 3_000_000 }),
        _ => Err(Failure::new(code::BAD_FEATURE, format!("unknown load option {name}"))),
    }
}

/// What the writes took.
#[derive(Default)]
struct Report {
    seconds: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

/// How fast writes are made, and for how long.
#[derive(Clone, Copy)]
struct Pace {
    /// Writes a second at most.
    rate: u64,
    /// After it no more are begun, however many are left.
    limit: Duration,
}

/// Writes with many clients at once.
struct Writers {
    clients: Vec<Client>,
    prefix: Vec<u8>,
    key_bytes: usize,
    value_bytes: usize,
    bar: ProgressBar,
}

async fn perf(mut context: Context) -> Result<(), Failure> {
    let load = load(&context.string(&PERF_LOAD))?;
    let clients = connect(&mut context, load).await?;
    let prefix = context.string(&PERF_PREFIX);
    ensure_empty(&clients[0], &prefix, context.personality().program()).await?;
    let writers = Writers {
        clients,
        prefix: prefix.clone().into_bytes(),
        key_bytes: PERF_KEY_BYTES,
        value_bytes: PERF_VALUE_BYTES,
        bar: progress::seconds(PERF_SECONDS),
    };
    let begun = Instant::now();
    let pace = Pace { rate: load.rate, limit: Duration::from_secs(PERF_SECONDS) };
    let report = writers.write(PERF_SECONDS * load.rate, Some(pace)).await;
    let took = begun.elapsed().as_secs_f64();
    let cleaned = clean_up(&mut context, &prefix).await;
    with_verdict(cleaned, judge(&report, took, load))
}

/// The verdict, which what goes wrong afterwards does not take away.
fn with_verdict(cleaned: Result<(), Failure>, verdict: Result<(), Failure>) -> Result<(), Failure> {
    if let (Err(Failure { text: Some(text), .. }), Err(_)) = (&cleaned, &verdict) {
        tell!("Error: {text}");
    }
    verdict.and(cleaned)
}

/// Prints etcdctl's verdicts.
fn judge(report: &Report, took: f64, load: Load) -> Result<(), Failure> {
    let mut is_good = print_errors(report)?;
    let mut verdict = |is_met: bool, good: String, bad: String| {
        is_good &= is_met;
        line(if is_met { &good } else { &bad })
    };
    let (count, total) = (report.seconds.len() as f64, report.seconds.iter().sum::<f64>());
    let rate = count / took.max(f64::MIN_POSITIVE);
    let shown = rate as u64 + 1;
    verdict(
        rate / load.rate as f64 > THROUGHPUT_MIN,
        format!("PASS: Throughput is {shown} writes/s"),
        format!("FAIL: Throughput too low: {shown} writes/s"),
    )?;
    let slowest = report.seconds.iter().copied().fold(0.0, f64::max);
    verdict(
        slowest <= SLOWEST_MAX,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    )?;
    let mean = total / count.max(1.0);
    let deviation =
        (report.seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum::<f64>() / count.max(1.0)).sqrt();
    verdict(
        deviation <= DEVIATION_MAX,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    )?;
    line(if is_good { "PASS" } else { "FAIL" })?;
    if is_good { Ok(()) } else { Err(Failure::silent(code::ERROR)) }
}

/// True if there were none.
fn print_errors(report: &Report) -> Result<bool, Failure> {
    if report.errors.is_empty() {
        return Ok(true);
    }
    line("FAIL: too many errors")?;
    for (error, count) in &report.errors {
        line(&format!("FAIL: ERROR({error}) -> {count}"))?;
    }
    Ok(false)
}

async fn datascale(mut context: Context) -> Result<(), Failure> {
    let load = load(&context.string(&SCALE_LOAD))?;
    let clients = connect(&mut context, load).await?;
    let prefix = context.string(&SCALE_PREFIX);
    ensure_empty(&clients[0], &prefix, context.personality().program()).await?;
    let before = resident_bytes(&mut context).await.map_err(unread("before"))?;
    line(&format!(
        "Start data scale check for work load [{} key-value pairs, {SCALE_KV_BYTES} bytes per key-value, {} concurrent clients].",
        load.keys, load.clients
    ))?;
    let writers = Writers {
        clients,
        prefix: prefix.clone().into_bytes(),
        key_bytes: SCALE_KEY_BYTES,
        value_bytes: SCALE_VALUE_BYTES,
        bar: progress::count(load.keys, "keys"),
    };
    let report = writers.write(load.keys, None).await;
    let after = resident_bytes(&mut context).await.map_err(unread("after"))?;
    let cleaned = clean_up(&mut context, &prefix).await;
    let verdict = print_errors(&report).and_then(|is_good| {
        if !is_good {
            return Err(Failure::silent(code::ERROR));
        }
        let used = (after - before) / f64::from(1 << 20);
        line(&format!("PASS: Approximate system memory used : {used:.2} MB."))
    });
    with_verdict(cleaned, verdict)
}

/// The failure to read what a process has in memory, which is said on standard output.
fn unread(when: &'static str) -> impl FnOnce(anyhow::Error) -> Failure {
    move |_| {
        let text = format!("FAIL: Could not read process_resident_memory_bytes {when} the put operations.");
        line(&text).err().unwrap_or_else(|| Failure::silent(code::ERROR))
    }
}

/// A client of its own for each writer, as that many programs would have.
async fn connect(context: &mut Context, load: Load) -> Result<Vec<Client>, Failure> {
    context.connect().await?;
    let endpoints = context.endpoints();
    let options = context.options(&endpoints).await?;
    (0..load.clients).map(|_| Client::new(&options).map_err(Failure::from)).collect()
}

async fn ensure_empty(client: &Client, prefix: &str, program: &str) -> Result<(), Failure> {
    let mut request = message::get_prefix(prefix.to_owned());
    request.limit = 1;
    if client.range(request).await?.kvs.is_empty() {
        return Ok(());
    }
    let quoted = strconv::quote(prefix.as_bytes());
    let text = format!("prefix {quoted} has keys. Delete with {program} del --prefix {prefix} first");
    Err(Failure::new(code::INVALID_INPUT, text))
}

impl Writers {
    /// Writes so many keys, as far as the pace allows it.
    async fn write(&self, count: u64, pace: Option<Pace>) -> Report {
        let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let report = Arc::new(Mutex::new(Report::default()));
        let mut tasks = JoinSet::new();
        for client in &self.clients {
            let (client, next, report, bar) =
                (client.clone(), Arc::clone(&next), Arc::clone(&report), self.bar.clone());
            let (prefix, key_bytes, value) = (self.prefix.clone(), self.key_bytes, vec![0; self.value_bytes]);
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    if let Some(Pace { rate, limit }) = pace {
                        sleep_until(begun + Duration::from_nanos(number * 1_000_000_000 / rate)).await;
                        if begun.elapsed() >= limit {
                            return;
                        }
                    }
                    let sent = Instant::now();
                    let put = client.put(message::put(key(&prefix, key_bytes, seed ^ number), value.clone())).await;
                    let seconds = sent.elapsed().as_secs_f64();
                    let mut report = report.lock().await;
                    match put {
                        Ok(_) => report.seconds.push(seconds),
                        Err(error) => *report.errors.entry(text_of(&error)).or_default() += 1,
                    }
                    if pace.is_none() {
                        bar.inc(1);
                        continue;
                    }
                    bar.set_position(begun.elapsed().as_secs());
                    let done = report.seconds.len();
                    bar.set_message(format!("{done} writes {:.0}/s", done as f64 / begun.elapsed().as_secs_f64()));
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        self.bar.finish_and_clear();
        std::mem::take(&mut *report.lock().await)
    }
}

/// The prefix, a number that is another one for every key, and zeros.
fn key(prefix: &[u8], bytes: usize, number: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.resize(prefix.len() + bytes, 0);
    key
}

/// What the first endpoint's process has in memory.
async fn resident_bytes(context: &mut Context) -> anyhow::Result<f64> {
    let endpoint = context.endpoints().swap_remove(0);
    let metrics = context.http_get(&endpoint, "/metrics").await?;
    let found = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    Ok(found.ok_or_else(|| anyhow::anyhow!("not among the metrics"))?.trim().parse()?)
}

async fn clean_up(context: &mut Context, prefix: &str) -> Result<(), Failure> {
    let endpoints = context.endpoints();
    let options = Options { request_timeout: CLEAN_UP_LIMIT, ..context.options(&endpoints).await? };
    let client = Client::new(&options)?;
    let deleted = client.delete(message::delete_prefix(prefix.to_owned())).await?;
    if context.switch(&AUTO_COMPACT) {
        let revision = deleted.header.map_or(0, |header| header.revision);
        line(&format!("Compacting with revision {revision}"))?;
        client.compact(CompactionRequest { revision, physical: true }).await?;
        line(&format!("Compacted with revision {revision}"))?;
    }
    if context.switch(&AUTO_DEFRAG) {
        for (endpoint, given) in endpoints.iter().zip(&options.endpoints) {
            let quoted = strconv::quote(endpoint.as_bytes());
            line(&format!("Defragmenting {quoted}"))?;
            Client::new(&Options { endpoints: vec![given.clone()], ..options.clone() })?.defragment().await?;
            line(&format!("Defragmented {quoted}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_written_in_time_is_left() {
        const COUNT: u64 = 1_000_000;
        // Nobody listens there: a write takes longer than its place in the pace.
        let options = Options {
            endpoints: vec!["127.0.0.1:1".to_owned()],
            request_timeout: Duration::from_millis(100),
            ..Options::default()
        };
        let writers = Writers {
            clients: vec![Client::new(&options).unwrap()],
            prefix: Vec::new(),
            key_bytes: 8,
            value_bytes: 8,
            bar: ProgressBar::hidden(),
        };
        let pace = Pace { rate: 1_000_000, limit: Duration::from_millis(300) };
        let report = tokio::time::timeout(Duration::from_mins(1), writers.write(COUNT, Some(pace))).await.unwrap();
        let failed: u64 = report.errors.values().sum();
        assert!(failed > 0 && failed < COUNT && report.seconds.is_empty(), "{failed}");
    }

    #[test]
    fn a_verdict_stays_whatever_comes_behind_it() {
        let failed = |code| Err(Failure::silent(code));
        let code = |cleaned, verdict| with_verdict(cleaned, verdict).map_err(|failure| failure.code);
        assert_eq!(code(failed(7), failed(1)), Err(1));
        assert_eq!(code(failed(7), Ok(())), Err(7));
        assert_eq!(code(Ok(()), failed(1)), Err(1));
    }
}
