//! Snapshots on their way to the place where they are kept, and back.

use crate::cluster;
use crate::place::{Place, name_at};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Attempts to find a cluster, before a member is made from a snapshot.
const ASKED: u32 = 3;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The snapshot, of `cleatctl snapshot save`. It is not there any more afterwards
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A directory, or `s3://BUCKET/PREFIX` with address and keys in AWS's variables
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// How many snapshots to keep there
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u16).range(1..))]
    keep_last: u16,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    /// A directory, or `s3://BUCKET/PREFIX` with address and keys in AWS's variables
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Name of the snapshot
    #[arg(long, value_name = "NAME", default_value = "latest")]
    snapshot: String,
    /// The server's configuration file, which says where its data is
    #[arg(long, value_name = "FILE")]
    config_file: PathBuf,
    /// The member's name
    #[arg(long)]
    name: String,
    /// This member's peer URLs
    #[arg(long, value_name = "URL,...")]
    initial_advertise_peer_urls: String,
    /// NAME=URL of every member of the new cluster
    #[arg(long, env = "ETCD_INITIAL_CLUSTER", value_name = "NAME=URL,...")]
    initial_cluster: String,
    /// Revisions by which the store is ahead of the snapshot
    #[arg(long, value_name = "REVISIONS", default_value_t = 1_000_000_000)]
    bump_revision: u64,
}

/// Stores a snapshot, and then deletes the oldest beyond those that are kept: never before the new one is there.
///
/// # Errors
/// The snapshot cannot be stored, or an old one not be deleted.
pub(crate) async fn store(args: &StoreArgs) -> Result<()> {
    let place = Place::parse(&args.to)?;
    // A job that is run again after it stored its file has nothing left to store.
    if args.file.exists() {
        let size = std::fs::metadata(&args.file)?.len();
        ensure!(size > 0, "{} is empty", args.file.display());
        let name = name_at(chrono::Utc::now());
        place.put(&args.file, &name).await?;
        // Best effort: what is left of it goes with its volume.
        drop(std::fs::remove_file(&args.file));
        say!("stored {name}, {size} bytes, in {}", args.to);
    } else {
        say!("{} is not there: it was stored before", args.file.display());
    }
    let names = place.list().await?;
    for name in &names[..names.len().saturating_sub(args.keep_last.into())] {
        place.delete(name).await?;
        say!("deleted {name}");
    }
    Ok(())
}

/// What is needed of the server's configuration.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    initial_cluster_token: String,
}

/// Makes a member's directory from a snapshot, if it has none and no cluster answers.
///
/// # Errors
/// The snapshot cannot be had, or is none.
pub(crate) async fn restore(args: &RestoreArgs) -> Result<()> {
    let file = &args.config_file;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let config: Config = serde_saphyr::from_str(&text).with_context(|| format!("{}", file.display()))?;
    if has_entries(&config.data_dir) {
        say!("{} has data: nothing is restored", config.data_dir.display());
        return Ok(());
    }
    if cluster_answers(&args.cluster).await? {
        say!("the cluster is there already: nothing is restored, this member joins it");
        return Ok(());
    }
    let place = Place::parse(&args.from)?;
    let parent = config.data_dir.parent().context("the data directory has no parent")?;
    let fetched = parent.join(".restore.db");
    let snapshot = place.fetch(&args.snapshot, &fetched).await?;
    // An earlier attempt may have left a part, which `cleatctl` would refuse to write into.
    let making = parent.join(".restore");
    remove_directory(&making)?;
    if let Some(wal) = &config.wal_dir {
        remove_directory(wal)?;
    }
    let mut command = Command::new(beside("cleatctl")?);
    command.args(["snapshot", "restore"]).arg(&snapshot).arg("--data-dir").arg(&making);
    command.args(["--name", &args.name, "--initial-cluster", &args.initial_cluster]);
    command.args(["--initial-cluster-token", &config.initial_cluster_token]);
    command.args(["--initial-advertise-peer-urls", &args.initial_advertise_peer_urls]);
    command.args(["--bump-revision", &args.bump_revision.to_string()]);
    if let Some(wal) = &config.wal_dir {
        command.arg("--wal-dir").arg(wal);
    }
    // The environment is the job's: endpoints and users are no business of a restore.
    let status = command.kill_on_drop(true).status().await.context("cannot run cleatctl")?;
    if !status.success() {
        bail!("cleatctl cannot restore {}: {status}", snapshot.display());
    }
    std::fs::rename(&making, &config.data_dir).context("cannot give the restored directory its name")?;
    // Best effort: it is a copy.
    drop(std::fs::remove_file(&fetched));
    say!("restored {} to {}", args.snapshot, config.data_dir.display());
    Ok(())
}

fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove_directory(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Another program of the image.
fn beside(program: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe().context("cannot tell where this program is")?.with_file_name(program))
}

/// True if the endpoints lead to a cluster with a leader.
async fn cluster_answers(args: &cluster::ClusterArgs) -> Result<bool> {
    let client = args.client_of(None)?;
    for attempt in 1..=ASKED {
        match client.member_list().await {
            Ok(_) => return Ok(true),
            // A cluster that asks who we are is one.
            Err(error) if !error.may_pass() => return Ok(true),
            Err(_) if attempt < ASKED => tokio::time::sleep(cluster::PAUSE).await,
            Err(_) => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_go_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["20200101T000000Z.db", "20200102T000000Z.db", "20200103T000000Z.db", "mine.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let file = dir.path().join(".incoming");
        std::fs::write(&file, "new").unwrap();
        let to = dir.path().to_str().unwrap().to_owned();
        let args = StoreArgs { file, to, keep_last: 2 };
        for _ in 0..2 {
            store(&args).await.unwrap();
            let names = Place::parse(&args.to).unwrap().list().await.unwrap();
            assert_eq!((names.len(), names[0].as_str()), (2, "20200103T000000Z.db"));
            assert!(dir.path().join("mine.txt").exists());
        }
        std::fs::write(&args.file, "").unwrap();
        assert!(store(&args).await.unwrap_err().to_string().contains("is empty"));
    }
}
