//! Shows what is in a file of etcd, or makes a copy of it that `etcdctl snapshot restore` takes.
//!
//! ```text
//! cargo run --example inspect -- FILE             a snapshot, or the db of a member that does not run
//! cargo run --example inspect -- DIRECTORY        the data directory of a member that does not run
//! cargo run --example inspect -- FILE COPY        a copy without free pages, with a SHA-256
//! ```

#![allow(clippy::print_stdout, reason = "what it is for")]

use anyhow::{Context, Result, bail};
use bolt::etcd::Meta;
use bolt::{Database, Member, OpenOptions, WriteOptions, Writer};
use std::path::Path;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [path] if Path::new(path).is_dir() => show_member(Path::new(path)),
        [path] => show(&open(path)?),
        [path, to] => copy(&open(path)?, Path::new(to)),
        _ => bail!("usage: inspect FILE | DIRECTORY | FILE COPY"),
    }
}

fn open(path: &str) -> Result<Database> {
    Database::open(Path::new(path), OpenOptions::default()).with_context(|| path.to_owned())
}

fn show_member(path: &Path) -> Result<()> {
    let member = Member::open(path, None, OpenOptions::default())?;
    show(member.database())?;
    let (metadata, bounds, pending) = (member.log().metadata(), member.log().bounds(), member.pending()?);
    println!("member         {:x} of cluster {:x}", metadata.member_id, metadata.cluster_id);
    println!("log            to index {}, term {}", bounds.last, bounds.state.term);
    println!("applied        {}", member.applied());
    println!("committed      {}", member.committed());
    println!("not in the db  {} committed entries, {} of them changes", pending.entries, pending.changes);
    println!("uncertain      {} entries", pending.unknown);
    if let Some(torn) = member.log().torn() {
        println!("torn           {} at offset {}", torn.path.display(), torn.offset);
    }
    Ok(())
}

fn show(database: &Database) -> Result<()> {
    let check = database.check()?;
    let summary = database.summary()?;
    let hash_kv = database.hash_kv(0)?;
    let meta: Meta = database.settings()?;
    println!("pages          {} of {} bytes, {} free", check.used + check.free, database.page_size(), check.free);
    println!("free list      {}", if check.has_freelist { "yes" } else { "no" });
    println!("SHA-256        {:?}", database.snapshot());
    println!("hash           {:x}", summary.hash);
    println!("hash of keys   {} at revision {}", hash_kv.hash, hash_kv.revision);
    println!("compacted      {}", hash_kv.compacted);
    println!("raft index     {}", meta.consistent_index.unwrap_or(0));
    println!("{:<20} {:>10} {:>14}", "BUCKET", "ENTRIES", "BYTES");
    for bucket in summary.buckets {
        println!("{:<20} {:>10} {:>14}", bucket.name, bucket.entries, bucket.bytes);
    }
    Ok(())
}

fn copy(database: &Database, to: &Path) -> Result<()> {
    let mut writer = Writer::create(to, &WriteOptions::default())?;
    for name in database.buckets() {
        let name = String::from_utf8(name?.to_vec()).context("a bucket's name is not text")?;
        writer.bucket(&name)?;
        for entry in database.bucket(&name)?.into_iter().flatten() {
            let entry = entry?;
            writer.put(&entry.key, &entry.value)?;
        }
    }
    Ok(writer.finish()?)
}
