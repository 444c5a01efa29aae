//! One flipped bit, anywhere in what a stopped member left on disk, or a file that was cut: the next start refuses with
//! a message, or the member has every key with its value.
//!
//! Only damage in the very last write to the log cannot be told from a write that a crash cut off; what that write
//! alone held may be missing then (docs/format.md). `CLEAT_FLIP_ROUNDS` sets how many bits are flipped in each file,
//! `CLEAT_FLIP_SEED` or else `CLEAT_FIRST_SEED` which ones.

use super::{refused_in_order, says};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use harness::seeds::number;
use harness::{Client, Kind, Options, Server};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const DEFAULT_ROUNDS: usize = 4;
const PAGE: usize = 4096;
/// The header of a segment, and of a record (docs/format.md).
const SEGMENT_HEADER: usize = 64;
const RECORD_HEADER: usize = 36;

/// Everything that a client can see.
#[derive(Clone, Debug, PartialEq)]
struct Contents {
    revision: i64,
    keys: Vec<KeyValue>,
    /// Over all history up to the revision.
    hash: u32,
}

impl Contents {
    async fn read(client: &mut Client) -> Result<Self> {
        let all = Bytes::from_static(b"\0");
        let request = RangeRequest { key: all.clone(), range_end: all, ..Default::default() };
        let found = client.kv.range(request).await?.into_inner();
        let revision = found.header.context("the answer has a header")?.revision;
        let hash = client.maintenance.hash_kv(HashKvRequest { revision }).await?.into_inner().hash;
        Ok(Self { revision, keys: found.kvs, hash })
    }
}

/// One file of a stopped member.
struct Kept {
    path: PathBuf,
    len: u64,
    /// Up to the last byte that is not a zero.
    used: Vec<u8>,
}

impl Kept {
    fn read(path: PathBuf) -> Result<Self> {
        let mut used = fs::read(&path)?;
        let len = used.len() as u64;
        let end = used.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        used.truncate(end);
        Ok(Self { path, len, used })
    }

    fn restore(&self) -> Result<()> {
        let mut file = File::create(&self.path)?;
        file.write_all(&self.used)?;
        Ok(file.set_len(self.len)?)
    }

    /// The bytes of the last write to a segment of the log.
    fn last_write(&self) -> Range<usize> {
        let u32_at = |at: usize| {
            let bytes: [u8; 4] = std::array::from_fn(|i| self.used.get(at + i).copied().unwrap_or_default());
            u32::from_le_bytes(bytes) as usize
        };
        let (mut at, mut write) = (SEGMENT_HEADER, SEGMENT_HEADER);
        while at < self.used.len() {
            write = u32_at(at + 4);
            at += RECORD_HEADER + u32_at(at);
        }
        write..at
    }

    /// A byte of a page that is in use.
    fn used_byte(&self, rng: &mut StdRng) -> usize {
        loop {
            let at = rng.random_range(0..self.used.len());
            let page = at / PAGE * PAGE..self.used.len().min(at / PAGE * PAGE + PAGE);
            if self.used[page].iter().any(|byte| *byte != 0) {
                return at;
            }
        }
    }
}

/// A stopped member, and what its next start must serve.
struct Stopped {
    server: Server,
    log: Kept,
    database: Kept,
    contents: Contents,
    /// Without the last write.
    before_last: Contents,
    /// Whether the database holds what the log holds.
    is_flushed: bool,
}

fn put(key: String, value: String) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

async fn fill(client: &mut Client, part: &str) -> Result<()> {
    for batch in 0..15 {
        let key = |n: u32| (format!("{part}/{batch:02}/{n:03}"), format!("value {n} {}", "x".repeat(n as usize)));
        let puts = (0..100)
            .map(key)
            .map(|(key, value)| RequestOp { request: Some(request_op::Request::RequestPut(put(key, value))) });
        client.kv.txn(TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
    for n in 0..50 {
        client.kv.put(put(format!("{part}/single"), format!("version {n}"))).await?;
    }
    Ok(())
}

impl Stopped {
    /// Half of the keys are in the database and the log. The other half is in the log alone after a kill; after an
    /// ordered stop it is in both.
    async fn make(kill: bool) -> Result<Self> {
        let flags = vec!["--backend-batch-interval=1h".to_owned()];
        let mut server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
        fill(&mut server.client().await?, "early").await?;
        server.terminate().await?;
        server.restart().await?;
        let mut client = server.client().await?;
        fill(&mut client, "late").await?;
        let before_last = Contents::read(&mut client).await?;
        client.kv.put(put("last".to_owned(), "of all".to_owned())).await?;
        let contents = Contents::read(&mut client).await?;
        ensure!(contents.keys.len() == 3_003, "{} keys", contents.keys.len());
        if kill {
            server.kill()?;
        } else {
            server.terminate().await?;
        }
        let member = server.data_dir().join("member");
        let mut segments = Vec::new();
        for item in fs::read_dir(member.join("wal"))? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "wal") {
                segments.push(path);
            } else {
                fs::remove_file(path)?;
            }
        }
        let [log] = <[PathBuf; 1]>::try_from(segments).ok().context("the log has one segment")?;
        let (log, database) = (Kept::read(log)?, Kept::read(member.join("store.redb"))?);
        Ok(Self { server, log, database, contents, before_last, is_flushed: !kill })
    }

    /// Flips a bit and starts. True when the start was refused.
    async fn start_with_flip(&mut self, file: &Path, at: usize, bit: u8) -> Result<bool> {
        let in_last_write = file == self.log.path && self.log.last_write().contains(&at);
        let may_miss_last = in_last_write && !self.is_flushed;
        let flip = |damaged: &File| {
            let mut byte = [0];
            damaged.read_exact_at(&mut byte, at as u64)?;
            damaged.write_all_at(&[byte[0] ^ 1 << bit], at as u64)
        };
        self.start_damaged(file, may_miss_last, flip).await
    }

    /// Damages a file and starts. True when the start was refused.
    async fn start_damaged(
        &mut self,
        file: &Path,
        may_miss_last: bool,
        damage: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<bool> {
        self.log.restore()?;
        self.database.restore()?;
        damage(&File::options().read(true).write(true).open(file)?)?;
        let printed_before = self.server.log().len();
        self.server.spawn()?;
        let started = self.server.wait_ready().await;
        let status = self.server.exit_status()?;
        let is_refused = match (started, status) {
            (Ok(()), None) => {
                let found = Contents::read(&mut self.server.client().await?).await?;
                if found != self.contents && !(may_miss_last && found == self.before_last) {
                    bail!("served other contents: {}", difference(&self.contents, &found));
                }
                false
            }
            (_, Some(status)) => {
                ensure!(status.code().is_some_and(|code| code != 0), "ended with {status}: {}", self.server.log_tail());
                true
            }
            (Err(error), None) => return Err(error),
        };
        self.server.kill()?;
        let log = self.server.log();
        let printed = &log[printed_before..];
        ensure!(!printed.contains("panicked"), "panicked:\n{printed}");
        if is_refused {
            refused_in_order(printed)?;
            says(printed, &[&file.display().to_string(), "restore"])?;
        }
        Ok(is_refused)
    }
}

/// In a few words: thousands of keys tell nobody anything.
fn difference(expected: &Contents, found: &Contents) -> String {
    let first = expected.keys.iter().zip(&found.keys).find(|(expected, found)| expected != found);
    format!(
        "revision {} instead of {}, {} keys instead of {}, hash {} instead of {}, first difference {first:?}",
        found.revision,
        expected.revision,
        found.keys.len(),
        expected.keys.len(),
        found.hash,
        expected.hash
    )
}

async fn flip_bits(kill: bool) -> Result<()> {
    let seed = number("CLEAT_FLIP_SEED")?.or(number("CLEAT_FIRST_SEED")?).unwrap_or_else(|| rand::rng().random());
    let rounds = number("CLEAT_FLIP_ROUNDS")?.map_or(DEFAULT_ROUNDS, |rounds| rounds as usize);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stopped = Stopped::make(kill).await?;
    let (log, database) = (stopped.log.path.clone(), stopped.database.path.clone());
    let last_write = stopped.log.last_write();
    ensure!(last_write.end == stopped.log.used.len().max(last_write.end), "the log was not understood");
    ensure!(last_write.len() >= RECORD_HEADER, "the last write was not found: {last_write:?}");

    let mut flips = vec![(&log, rng.random_range(0..SEGMENT_HEADER)), (&database, rng.random_range(0..320))];
    for _ in 0..rounds {
        flips.push((&log, rng.random_range(SEGMENT_HEADER..last_write.start)));
        flips.push((&database, stopped.database.used_byte(&mut rng)));
    }
    for _ in 0..rounds.div_ceil(2) {
        flips.push((&log, rng.random_range(last_write.clone())));
    }
    let mut refused = 0;
    for (file, at) in &flips {
        let bit = rng.random_range(0..8);
        let outcome = stopped.start_with_flip(file, *at, bit).await;
        let is_refused = outcome.with_context(|| {
            format!("CLEAT_FLIP_SEED={seed} CLEAT_FLIP_ROUNDS={rounds}: bit {bit} of byte {at} of {}", file.display())
        })?;
        let in_records = *file == &log && *at < last_write.start;
        ensure!(is_refused || !in_records, "damage at byte {at} of the log was not noticed (seed {seed})");
        refused += usize::from(is_refused);
    }
    eprintln!("seed {seed}: {refused} of {} starts were refused", flips.len());
    Ok(())
}

#[tokio::test]
async fn files_that_were_cut() -> Result<()> {
    let mut stopped = Stopped::make(true).await?;
    let (log, database) = (stopped.log.path.clone(), stopped.database.path.clone());
    let (used, last_write) = (stopped.log.used.len(), stopped.log.last_write());
    let half = stopped.database.used.len() / 2;
    for (file, len) in [(&log, 0), (&log, used / 2), (&log, last_write.start), (&log, used + PAGE), (&database, half)] {
        let refused = stopped.start_damaged(file, false, |file| file.set_len(len as u64)).await;
        let refused = refused.with_context(|| format!("{} cut after {len} bytes", file.display()))?;
        ensure!(refused, "{} was cut after {len} bytes, and nobody noticed", file.display());
    }
    // The log has everything since the beginning.
    stopped.start_damaged(&database, false, |file| file.set_len(0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_after_an_ordered_stop() -> Result<()> {
    flip_bits(false).await
}

#[tokio::test]
async fn a_flipped_bit_after_a_kill() -> Result<()> {
    flip_bits(true).await
}
