//! What is done to files while no member uses them: hashes of a history, a look at a log, defragmentation.

use crate::cli::{Command, Flag, Group, Origin};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::print::{self, Format, Printer};
use anyhow::{Context as _, Result, ensure};
use server::data_dir::DataDir;
use server::offline::SnapshotFile;
use server::raft::wal;
use std::path::{Path, PathBuf};
use store::HashKv;

const REV: Flag = Flag::int("rev", "0", "maximum revision to hash (0 for all revisions)").later();
const RECORDS: Flag = Flag::switch("records", "List every record").cleat();

/// Where a member has its store and its log, in its data directory.
const DATABASE: &str = "member/store.redb";
const LOG: &str = "member/wal";

pub(crate) const HASHKV: Command = Command {
    name: "hashkv",
    usage: "<snapshot or data directory>",
    short: "Prints the KV history hash of a given file",
    long: "It is the hash that `endpoint hashkv` prints of a member with the same history up to the same revision, after the same
compaction. The member of a data directory must not run.",
    origin: Origin::Later,
    group: Group::Data,
    flags: &[REV],
    run: Some(|context| Box::pin(async move { hashkv(&context) })),
    ..Command::NONE
};

pub(crate) const WAL: Command = Command {
    name: "wal",
    usage: "<subcommand>",
    short: "Looks at a member's log",
    origin: Origin::Cleat,
    group: Group::Data,
    commands: &[&INSPECT],
    ..Command::NONE
};

const INSPECT: Command = Command {
    name: "inspect",
    usage: "<data directory or log directory>",
    short: "Checks every record of a log, and names the first damaged one",
    long: "Changes nothing. The log of a running member may appear to end in a write that was cut off.",
    origin: Origin::Cleat,
    flags: &[RECORDS],
    run: Some(|context| Box::pin(async move { inspect_log(&context) })),
    ..Command::NONE
};

fn hashkv(context: &Context) -> Result<(), Failure> {
    let [path] = &*context.args else {
        return Err(Failure::bad_args("hashkv takes one snapshot or data directory"));
    };
    let printer = context.printer()?;
    print_hash(printer, &hash(Path::new(path), context.int(&REV))?)
}

fn hash(path: &Path, revision: i64) -> Result<HashKv> {
    let open = |database: &Path| -> Result<HashKv> {
        let (_writer, _flusher, reader) = store::open(database, store::Options::default())?;
        reader.hash_kv(revision).map_err(|error| anyhow::anyhow!("{error}"))
    };
    if path.is_dir() {
        let (_lock, database) = unused(path)?;
        return open(&database);
    }
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let database = directory.path().join("store.redb");
    SnapshotFile::open(path, true)?.import(&database)?;
    open(&database)
}

/// The database of a data directory, and the lock that keeps a member from using it.
fn unused(data_dir: &Path) -> Result<(DataDir, PathBuf)> {
    let database = data_dir.join(DATABASE);
    ensure!(database.exists(), "{} is no data directory of a member: {DATABASE} is missing", data_dir.display());
    Ok((DataDir::open(data_dir)?, database))
}

fn print_hash(printer: Printer, found: &HashKv) -> Result<(), Failure> {
    let HashKv { hash, revision: hash_revision, compacted: compact_revision, .. } = found;
    let row = vec![hash.to_string(), hash_revision.to_string(), compact_revision.to_string()];
    match printer.format {
        Format::Simple => printer.simple(|out| out.line(row.join(", "))),
        Format::Fields => Printer::fields(|out| {
            out.plain("Hash", hash);
            out.plain("Hash revision", hash_revision);
            out.plain("Compact revision", compact_revision);
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                json.member("hash", hash);
                json.member("hashRevision", hash_revision);
                json.member("compactRevision", compact_revision);
            });
        }),
        Format::Table => print::out(print::table(&["hash", "hash revision", "compact revision"], &[row]).as_bytes()),
        Format::Protobuf => Err(printer.unsupported()),
    }
}

fn inspect_log(context: &Context) -> Result<(), Failure> {
    let [path] = &*context.args else {
        return Err(Failure::bad_args("wal inspect takes one data directory or log directory"));
    };
    let path = PathBuf::from(path);
    let log = Some(path.join(LOG)).filter(|log| log.is_dir()).unwrap_or(path);
    if !log.is_dir() {
        return Err(Failure::new(code::ERROR, format!("{} is no directory", log.display())));
    }
    let (shows, mut lines, mut records) = (context.switch(&RECORDS), String::new(), 0_u64);
    let inspected = wal::inspect(&log, |record| {
        records += 1;
        if shows {
            let segment = record.segment.file_name().unwrap_or_default().display();
            let (kind, term, index) = (record.kind, record.term, record.index);
            lines += &format!(
                "{segment} {:#x} {kind} term {term} index {index}, {} bytes\n",
                record.offset, record.payload_len
            );
        }
    });
    print::out(lines.as_bytes())?;
    match inspected {
        Ok(summary) => {
            let end = summary.end.map_or_else(String::new, |(segment, offset)| {
                format!(", ends in {} at {offset:#x}", segment.file_name().unwrap_or_default().display())
            });
            let torn = if summary.is_torn {
                "; a write that was cut off stands behind the end, the next start removes it"
            } else {
                ""
            };
            print::line(&format!("{records} records, none is damaged{end}{torn}"))
        }
        Err(error) => {
            print::line(&format!("{records} records are whole up to the damage"))?;
            Err(anyhow::Error::from(error).into())
        }
    }
}

/// Gives back what the database of a member that does not run has free.
pub(crate) fn defrag(data_dir: &Path) -> Result<(), Failure> {
    let done = unused(data_dir).and_then(|(_lock, database)| {
        let before = std::fs::metadata(&database)?.len();
        let (_writer, mut flusher, _reader) = store::open(&database, store::Options::default())?;
        flusher.defragment()??;
        Ok((before, std::fs::metadata(&database)?.len()))
    });
    match done {
        Ok((before, after)) => {
            eprintln!("{} before, {} after", print::bytes(before), print::bytes(after));
            Ok(())
        }
        Err(error) => {
            eprintln!("Failed to defragment etcd data[{}] ({error:#})", data_dir.display());
            Err(Failure::silent(code::ERROR))
        }
    }
}
