//! `snapshot save`, `status` and `restore`.

use crate::args::{Format, Global, RestoreArgs};
use crate::print;
use anyhow::{Context as _, Result, bail, ensure};
use client::Client;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use server::offline::SnapshotFile;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;

/// A member that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Only the owner may read what a store contains.
const PRIVATE_FILE: u32 = 0o600;

/// Stores a snapshot of the member behind the only endpoint in `file`.
pub(crate) async fn save(global: &Global, file: &Path) -> Result<()> {
    let [endpoint] = &*global.endpoints else {
        bail!("snapshot must be requested to one selected node, not multiple [{}]", global.endpoints.join(" "));
    };
    let client = Client::new(&global.client_options())?;
    let part = PathBuf::from(format!("{}.part", file.display()));
    let started = Instant::now();
    let downloaded = download(&client, &part).await;
    let bytes = match downloaded {
        Ok(bytes) => bytes,
        Err(error) => {
            // Best effort: the next attempt overwrites it.
            drop(std::fs::remove_file(&part));
            return Err(error.context(format!("cannot save a snapshot of {}", client::without_user(endpoint))));
        }
    };
    std::fs::rename(&part, file).with_context(|| format!("cannot write {}", file.display()))?;
    sync_directory(file)?;
    let took = started.elapsed();
    eprintln!("{} in {:.1} s from {}", print::bytes(bytes), took.as_secs_f64(), client::without_user(endpoint));
    print::line(&format!("Snapshot saved at {}", file.display()))
}

/// Writes the stream and checks it. Returns how many bytes it has.
async fn download(client: &Client, part: &Path) -> Result<u64> {
    let context = || format!("cannot write {}", part.display());
    let mut pieces = client.snapshot().await?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(part);
    let file = file.as_mut().map_err(|error| anyhow::anyhow!("{error}")).with_context(context)?;
    let progress = progress_bar();
    let mut bytes = 0;
    loop {
        let Ok(next) = tokio::time::timeout(STALL, pieces.next()).await else {
            bail!("no part of it has come for {} s", STALL.as_secs());
        };
        let Some(piece) = next else { break };
        let piece = piece?;
        file.write_all(&piece.blob).with_context(context)?;
        bytes += piece.blob.len() as u64;
        progress.set_length(bytes + piece.remaining_bytes);
        progress.set_position(bytes);
    }
    progress.finish_and_clear();
    file.sync_all().with_context(context)?;
    // The sum comes last: a stream that was cut off has none.
    SnapshotFile::open(part, false).context("what was received is not whole")?;
    Ok(bytes)
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn sync_directory(file: &Path) -> Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(|| format!("{}", directory.display()))
}

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
