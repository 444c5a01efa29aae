//! `snapshot save`, `status` and `restore`.

mod save;

pub(crate) use save::save;

use crate::args::{Format, RestoreArgs};
use crate::print;
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use server::offline::SnapshotFile;
use std::path::Path;

/// What `status` says, with etcdctl's names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    hash: u32,
    revision: i64,
    total_key: usize,
    total_size: u64,
}

/// Prints what is in a snapshot file. The hash is the `HashKV` of the store at its revision, which every member that
/// has this revision gives, too.
pub(crate) fn status(file: &Path, format: Format) -> Result<()> {
    // etcdctl's words for the usual mistake.
    std::fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("stat {}: no such file or directory", file.display()),
        _ => anyhow::anyhow!("stat {}: {error}", file.display()),
    })?;
    let snapshot = SnapshotFile::open(file, true)?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let database = directory.path().join("store.redb");
    snapshot.import(&database)?;
    let (_writer, _flusher, reader) = store::open(&database, store::Options::default())?;
    let hash = reader.hash_kv(0).map_err(|error| anyhow::anyhow!("{error}"))?;
    let store = reader.status();
    let total_size = std::fs::metadata(file)?.len();
    let status = Status { hash: hash.hash, revision: store.revision, total_key: store.keys, total_size };
    let Status { hash, revision, total_key, total_size } = status;
    let size = print::bytes(total_size);
    print::line(&match format {
        Format::Simple => format!("{hash:x}, {revision}, {total_key}, {size}"),
        Format::Json => serde_json::to_string(&status)?,
        Format::Fields => {
            format!("\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_key}\n\"Size\" : {total_size}")
        }
        Format::Table => print::table(&[
            ("HASH", format!("{hash:x}")),
            ("REVISION", revision.to_string()),
            ("TOTAL KEYS", total_key.to_string()),
            ("TOTAL SIZE", size),
        ]),
    })
}

/// Makes the data directory of a member of a new cluster.
pub(crate) async fn restore(args: RestoreArgs) -> Result<()> {
    let RestoreArgs { file, skip_hash_check, bump_revision, mark_compacted, founder } = args;
    ensure!(bump_revision > 0 || !mark_compacted, "--mark-compacted goes with a --bump-revision above 0");
    ensure!(file.exists(), "stat {}: no such file or directory", file.display());
    let founder = founder.founder(bump_revision);
    let begun = server::offline::begin(&founder, |database| {
        Ok::<_, anyhow::Error>(SnapshotFile::open(&file, skip_hash_check)?.import(database)?)
    });
    let begun = begun.await?;
    print::begun(&file, &founder, &begun)
}
