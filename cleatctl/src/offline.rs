//! What is done to files while no member uses them: hashes of a history, a look at a log, defragmentation.

use crate::cli::{Command, Flag, Group, Origin};
use crate::context::Context;
use crate::failure::{Failure, code, whole, without_numbers};
use crate::people::{self, Terminal};
use crate::print::{self, Format, Printer};
use crate::scratch::Scratch;
use crate::{progress, snapshot};
use anyhow::{Context as _, Result, ensure};
use server::data_dir::DataDir;
use server::raft::wal;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use store::HashKv;

const REV: Flag = Flag::int("rev", "0", "maximum revision to hash (0 for all revisions)").later();
const RECORDS: Flag = Flag::switch("records", "List every record").cleat();

/// Where a member has its store and its log, in its data directory.
const DATABASE: &str = "member/store.redb";
const LOG: &str = "member/wal";

/// So much of a file is copied between two pictures of the bar.
const COPY_BYTES: u64 = 8 << 20;

pub(crate) const HASHKV: Command = Command {
    name: "hashkv",
    usage: "<snapshot or data directory>",
    short: "Prints the KV history hash of a given file",
    long: "It is the hash that `endpoint hashkv` prints of a member with the same history up to the same revision, after the same
compaction. The member of a data directory must not run; nothing in the directory is changed. What stands in the member's log
and was not flushed to its store yet is not counted: stop the member, which flushes it. It is read from a copy: as much as the
store has must be free in the system's temporary directory, or in the one that TMPDIR names.",
    origin: Origin::Later,
    group: Group::Data,
    flags: &[REV],
    run: Some(|context| Box::pin(async move { hashkv(context) })),
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

/// Lines are printed when they are so many.
const LINES_BYTES: usize = 64 << 10;

fn hashkv(mut context: Context) -> Result<(), Failure> {
    context.read_environment()?;
    let [path] = &*context.args else {
        return Err(Failure::bad_args("hashkv takes one snapshot or data directory"));
    };
    let printer = context.printer()?;
    print_hash(printer, &hash(Path::new(path), context.int(&REV))?)
}

fn hash(path: &Path, revision: i64) -> Result<HashKv> {
    let scratch = Scratch::new()?;
    let reader = if path.is_dir() {
        // A store that is opened is written to: one of an earlier format, or of a member that was killed.
        let _lock = DataDir::hold(path)?;
        let (database, copy) = (database_of(path)?, scratch.file("store.redb"));
        let needed = std::fs::metadata(&database)?.len();
        copy_file(&database, &copy, needed)
            .and_then(|()| snapshot::open_copy(&copy))
            .map_err(|error| scratch.explain(Some(needed), error))?
    } else {
        snapshot::unpack(&snapshot::open(path, true)?, &scratch)?
    };
    snapshot::hash_of(&reader, revision)
}

fn copy_file(from: &Path, to: &Path, bytes: u64) -> Result<()> {
    let bar = progress::file("copying", bytes);
    let from = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut to = File::create_new(to)?;
    // Piece by piece through the kernel, which has a shorter way for whole files.
    while std::io::copy(&mut (&from).take(COPY_BYTES), &mut to)? > 0 {
        bar.set_position((&from).stream_position()?);
    }
    progress::finish(&bar);
    Ok(())
}

/// The database of a data directory.
fn database_of(data_dir: &Path) -> Result<PathBuf> {
    let database = data_dir.join(DATABASE);
    ensure!(database.exists(), "{} is no data directory of a member: {DATABASE} is missing", data_dir.display());
    Ok(database)
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
    let (mut file, mut printed) = (None, Ok(()));
    let inspected = wal::inspect(&log, |record| {
        records += 1;
        if !shows || printed.is_err() {
            return;
        }
        if file.as_deref() != Some(record.segment) {
            lines += &format!("{}\n", record.segment.file_name().unwrap_or_default().display());
            file = Some(record.segment.to_owned());
        }
        let (offset, kind, term, index) = (record.offset, record.kind, record.term, record.index);
        lines += &format!("{offset:>10} {kind} term {term} index {index}, {} bytes\n", record.payload_len);
        // A log has any number of them.
        if lines.len() >= LINES_BYTES {
            printed = print::out(std::mem::take(&mut lines).as_bytes());
        }
    });
    printed?;
    print::out(lines.as_bytes())?;
    match inspected {
        Ok(summary) => {
            let end = summary.end.map_or_else(String::new, |(segment, offset)| {
                format!(", ends in {} at offset {offset}", segment.file_name().unwrap_or_default().display())
            });
            let torn = if summary.is_torn {
                "; a write that was cut off stands behind the end, the next start removes it"
            } else {
                ""
            };
            let text = format!("{records} records, none is damaged{end}{torn}");
            print::line(&people::fit(&text, Terminal::detect().width))
        }
        Err(error) => {
            print::line(&format!("{records} records are whole up to the damage"))?;
            Err(Failure::new(code::ERROR, told(&error)))
        }
    }
}

/// What is wrong with a log, and what to do about it as every error for a person has it.
fn told(error: &wal::WalError) -> String {
    let text = without_numbers(&error.to_string());
    match (error, text.rsplit_once("; ")) {
        (wal::WalError::Damaged { .. }, Some((damage, remedy))) => format!("{damage}\n  do:   {remedy}"),
        _ => text,
    }
}

/// Where a member of etcd has its store, in its data directory.
const DATABASE_OF_ETCD: &str = "member/snap/db";

/// Gives back what the database of a member that does not run has free.
pub(crate) fn defrag(data_dir: &Path, is_etcdctl: bool) -> Result<(), Failure> {
    let has_store = [DATABASE, DATABASE_OF_ETCD].iter().any(|database| data_dir.join(database).exists());
    let done = database_of(data_dir).and_then(|database| {
        let _lock = DataDir::open(data_dir)?;
        let before = std::fs::metadata(&database)?.len();
        let (_writer, mut flusher, _reader) = store::open(&database, store::Options::default())?;
        flusher.defragment()??;
        Ok((before, std::fs::metadata(&database)?.len()))
    });
    match done {
        Ok((before, after)) => {
            tell!("{} before, {} after", print::bytes(before), print::bytes(after));
            Ok(())
        }
        Err(error) => {
            let text = format!("Failed to defragment etcd data[{}] ({})", data_dir.display(), whole(&error));
            tell!("{}", people::fit(&text, Terminal::width_of_errors().filter(|_| !is_etcdctl)));
            // etcdctl panics where there is nothing.
            Err(Failure::silent(if is_etcdctl && !has_store { code::PANIC } else { code::ERROR }))
        }
    }
}
