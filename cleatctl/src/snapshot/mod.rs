//! `snapshot save`, `status` and `restore`.

mod save;

use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::Failure;
use crate::founder::{
    DATA_DIR, INITIAL_ADVERTISE_PEER_URLS, INITIAL_CLUSTER, INITIAL_CLUSTER_TOKEN, NAME, WAL_DIR, founder,
};
use crate::print::{self, Format, Printer};
use crate::scratch::Scratch;
use crate::{migrate, people, progress};
use anyhow::{Result, ensure};
use bolt::etcd::Summary;
use bolt::{Database, OpenOptions};
use serde::Serialize;
use serde_json::json;
use server::offline::{Begun, Founder, SnapshotFile};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use store::{HashKv, Reader};

/// Revisions by which a restored store is ahead of its snapshot, unless it is told otherwise: more than any cluster
/// writes between a snapshot and its loss. etcdctl does not move it.
const BUMP_REVISION: Flag = Flag::int(
    "bump-revision",
    "1000000000",
    "How much to increase the latest revision after restore, so that whoever saw the revisions after the snapshot notices",
)
.cleat();
const MARK_COMPACTED: Flag = Flag::switch(
    "mark-compacted",
    "Mark the latest revision after restore as the point of scheduled compaction (always done when the revision is increased)",
)
.cleat();
const SKIP_HASH_CHECK: Flag =
    Flag::switch("skip-hash-check", "Ignore snapshot integrity hash value (required if copied from data directory)");
const INITIAL_MEMORY_MAP_SIZE: Flag = Flag::uint(
    "initial-memory-map-size",
    "0",
    "Initial memory map size of the database in bytes (taken, and without effect: there is no such map)",
)
.later();

pub(crate) const COMMAND: Command = Command {
    name: "snapshot",
    usage: "<subcommand>",
    short: "Manages etcd node snapshots",
    group: Group::Data,
    commands: &[&RESTORE, &SAVE, &STATUS],
    ..Command::NONE
};

const RESTORE: Command = Command {
    name: "restore",
    usage: "<filename> [options]",
    short: "Restores an etcd member snapshot to an etcd directory",
    flags: &[
        BUMP_REVISION,
        DATA_DIR,
        INITIAL_ADVERTISE_PEER_URLS,
        INITIAL_CLUSTER,
        INITIAL_CLUSTER_TOKEN,
        INITIAL_MEMORY_MAP_SIZE,
        MARK_COMPACTED,
        NAME,
        SKIP_HASH_CHECK,
        WAL_DIR,
    ],
    run: Some(|context| Box::pin(restore(context))),
    ..Command::NONE
};

const SAVE: Command = Command {
    name: "save",
    usage: "<filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    run: Some(|context| Box::pin(save::save(context))),
    ..Command::NONE
};

const STATUS: Command = Command {
    name: "status",
    usage: "<filename>",
    short: "Gets backend snapshot status of a given file",
    long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.
The items in the lists are hash, revision, total keys, total size.
",
    run: Some(|context| Box::pin(async move { status(context) })),
    ..Command::NONE
};

/// What `status` says, with etcdctl's names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    hash: u32,
    revision: i64,
    total_key: usize,
    total_size: u64,
}

/// Prints what is in a snapshot file: of etcd's as etcdctl does, and of Cleat's the same. The hash of those is the `HashKV` of the store at its revision, which every member that
/// has this revision gives, too.
fn status(mut context: Context) -> Result<(), Failure> {
    // etcdctl looks at it only where it connects.
    if !context.is_etcdctl() {
        context.read_environment()?;
    }
    let [file] = &*context.args else {
        return Err(Failure::bad_args("snapshot status requires exactly one argument"));
    };
    let printer = context.printer()?;
    print(printer, &read_status(&PathBuf::from(file))?)
}

fn read_status(file: &Path) -> Result<Status> {
    // etcdctl's words for the usual mistake.
    std::fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("stat {}: no such file or directory", file.display()),
        _ => anyhow::anyhow!("stat {}: {error}", file.display()),
    })?;
    if let Ok(database) = Database::open(file, OpenOptions { verify_digest: false, ..OpenOptions::default() }) {
        let bar = progress::file("reading", database.pages() * u64::from(database.page_size()));
        let Summary { hash, revision, entries, bytes, .. } =
            database.summary_telling(&|bytes| bar.set_position(bytes))?;
        progress::finish(&bar);
        let total_key = usize::try_from(entries).unwrap_or(usize::MAX);
        return Ok(Status { hash, revision, total_key, total_size: bytes });
    }
    let snapshot = open(file, true)?;
    let scratch = Scratch::new()?;
    let reader = unpack(&snapshot, &scratch)?;
    let hash = hash_of(&reader, 0)?;
    let store = reader.status();
    let total_size = std::fs::metadata(file)?.len();
    Ok(Status { hash: hash.hash, revision: store.revision, total_key: store.keys, total_size })
}

fn print(printer: Printer, status: &Status) -> Result<(), Failure> {
    let Status { hash, revision, total_key, total_size } = status;
    let row = vec![format!("{hash:x}"), revision.to_string(), total_key.to_string(), print::bytes(*total_size)];
    match printer.format {
        Format::Simple => printer.simple(|out| out.line(row.join(", "))),
        Format::Json => print::line(&serde_json::to_string(status).map_err(anyhow::Error::from)?),
        Format::Fields => Printer::fields(|out| {
            out.plain("Hash", hash);
            out.plain("Revision", revision);
            out.plain("Keys", total_key);
            out.plain("Size", total_size);
        }),
        Format::Table => print::out(print::table(&["hash", "revision", "total keys", "total size"], &[row]).as_bytes()),
        Format::Protobuf => Err(printer.unsupported()),
    }
}

/// Makes the data directory of a member of a new cluster.
async fn restore(context: Context) -> Result<(), Failure> {
    let [file] = &*context.args else {
        return Err(Failure::bad_args("snapshot restore requires exactly one argument"));
    };
    let file = PathBuf::from(file);
    let is_bumped = !context.is_etcdctl();
    let bump_revision = if is_bumped { u64::try_from(context.int(&BUMP_REVISION)).unwrap_or_default() } else { 0 };
    if bump_revision == 0 && context.switch(&MARK_COMPACTED) {
        return Err(anyhow::anyhow!("--mark-compacted goes with a --bump-revision above 0").into());
    }
    let founder = founder(&context, bump_revision);
    let skip_hash_check = context.switch(&SKIP_HASH_CHECK);
    if context.is_etcdctl() {
        log("restoring snapshot", &[("path", &file.display()), ("data-dir", &founder.data_dir.display())]);
    }
    let mut rest = None;
    let begun = server::offline::begin(&founder, |database| {
        // What the member is to be is looked at first, as by etcdctl.
        ensure!(file.exists(), "open {}: no such file or directory", file.display());
        let snapshot = open(&file, skip_hash_check)?;
        // The hash is checked.
        let of_etcd = Database::open(&file, OpenOptions { verify_digest: false, ..OpenOptions::default() });
        match of_etcd {
            Ok(of_etcd) => migrate::fill_from(of_etcd, database)?,
            Err(_) => import(&snapshot, database)?,
        }
        rest = Some(progress::running(REST));
        Ok::<_, anyhow::Error>(())
    });
    let begun = begun.await;
    drop(rest);
    let begun = begun?;
    if !context.is_etcdctl() {
        return say_begun(&file, &founder, &begun);
    }
    let (cluster, member) = (format!("{:x}", begun.cluster_id), format!("{:x}", begun.member_id));
    let urls = founder.initial_advertise_peer_urls.join(",");
    log("added member", &[("cluster-id", &cluster), ("added-peer-id", &member), ("added-peer-peer-urls", &urls)]);
    log("restored snapshot", &[("path", &file.display()), ("data-dir", &founder.data_dir.display())]);
    Ok(())
}

/// A line as etcdctl logs them, on standard error.
fn log(msg: &str, fields: &[(&str, &dyn Display)]) {
    let ts = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let fields = fields.iter().map(|(name, value)| format!(",\"{name}\":{}", json!(value.to_string())));
    tell!("{{\"level\":\"info\",\"ts\":{ts},\"msg\":{}{}}}", json!(msg), fields.collect::<String>());
}

/// What is done to a store when it is there.
pub(crate) const REST: &str = "making a member of it";

/// [`SnapshotFile::open`], with a progress bar.
pub(crate) fn open(file: &Path, skip_hash_check: bool) -> Result<SnapshotFile> {
    let bar = progress::file("checking", std::fs::metadata(file).map_or(0, |metadata| metadata.len()));
    let opened = SnapshotFile::open_telling(file, skip_hash_check, &|bytes| bar.set_position(bytes))?;
    progress::finish(&bar);
    Ok(opened)
}

/// [`SnapshotFile::import`], with a progress bar.
pub(crate) fn import(snapshot: &SnapshotFile, database: &Path) -> Result<()> {
    let bar = progress::file("reading", snapshot.bytes);
    snapshot.import(database, &|bytes| bar.set_position(bytes))?;
    progress::finish(&bar);
    Ok(())
}

/// The store of a snapshot, in a temporary file.
pub(crate) fn unpack(snapshot: &SnapshotFile, scratch: &Scratch) -> Result<Reader> {
    let database = scratch.file("store.redb");
    let unpacked = import(snapshot, &database).and_then(|()| open_copy(&database));
    unpacked.map_err(|error| scratch.explain(Some(snapshot.bytes), error))
}

/// Opens a store of which nothing but this reader is needed.
pub(crate) fn open_copy(database: &Path) -> Result<Reader> {
    let (_writer, _flusher, reader) = store::open(database, store::Options::default())?;
    Ok(reader)
}

/// The hash of a history up to a revision, 0 for all of it.
pub(crate) fn hash_of(reader: &Reader, revision: i64) -> Result<HashKv> {
    let _hashing = progress::running("hashing");
    reader.hash_kv(revision).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Says what was made of a file or directory, and how to start it.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn say_begun(from: &Path, founder: &Founder, begun: &Begun) -> Result<(), Failure> {
    let Begun { cluster_id, member_id, store } = begun;
    let compacted = if founder.bump_revision > 0 { ", with everything before it compacted" } else { "" };
    let (from, name, revision) = (from.display(), &founder.name, store.revision);
    people::say(&format!(
        "{from} is now member {member_id:x} ({name}) of the new cluster {cluster_id:x}, at revision {revision}{compacted}"
    ));
    print::line(&format!("start it with --name {name} --data-dir {}", founder.data_dir.display()))
}
