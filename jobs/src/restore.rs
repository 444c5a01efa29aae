//! A new cluster that begins with a snapshot.
//!
//! The first member that `--initial-cluster` lists restores, and begins a cluster of one; the others join it as any member
//! does that is added. So one snapshot is restored however many members ask for `latest`, and nobody who comes late is left out.
//! Until the mark of `initial-cluster-id-file` holds the id of that cluster the others are held back: members that find each
//! other without data would found an empty one. Once it holds an id, nothing is ever restored.

use crate::cluster;
use crate::place::Place;
use anyhow::{Context as _, Result, bail, ensure};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// Attempts to find a cluster, before a member is made from a snapshot.
const ASKED: u32 = 3;

/// What is restored that is not whole.
const MAKING: &str = ".restore";
/// Its log, on a volume that may be the same one.
const MAKING_LOG: &str = ".restore-wal";
/// The same, whole: it only lacks its names.
const MADE: &str = ".restored";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
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
    /// NAME=URL of every member of the new cluster. The first one restores, the others join it
    #[arg(long, env = "ETCD_INITIAL_CLUSTER", value_name = "NAME=URL,...")]
    initial_cluster: String,
    /// Revisions by which the store is ahead of the snapshot
    #[arg(long, value_name = "REVISIONS", default_value_t = 1_000_000_000)]
    bump_revision: u64,
}

/// What is needed of the server's configuration.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    initial_cluster_token: String,
    initial_cluster_id_file: Option<PathBuf>,
}

/// Makes the first member's directory from a snapshot, if it has none and there is no cluster. For another member it waits
/// until there is one.
///
/// # Errors
/// The snapshot cannot be had, or is none; nobody has restored within `--wait`; a file cannot be read that says whether there
/// is something to lose.
pub(crate) async fn restore(args: &Args) -> Result<()> {
    let file = &args.config_file;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let config: Config = serde_saphyr::from_str(&text).with_context(|| format!("{}", file.display()))?;
    if has_entries(&config.data_dir)? {
        say!("{} has data: nothing is restored", config.data_dir.display());
        return Ok(());
    }
    let places = Places::of(&config)?;
    let (first, alone) = first_member(&args.initial_cluster)?;
    if args.name != first {
        return wait_for_mark(&config, first, Duration::from_secs(args.cluster.wait)).await;
    }
    if let Some(id) = marked(&config)? {
        say!("there is a cluster already, {id}: nothing is restored, this member joins it");
        return Ok(());
    }
    if cluster_answers(&args.cluster).await? {
        say!("the cluster is there already: nothing is restored, this member joins it");
        return Ok(());
    }
    if !has_entries(&places.made)? {
        make(args, &config, &places, &alone).await?;
    }
    places.name(&config)?;
    say!("restored {} to {}", args.snapshot, config.data_dir.display());
    Ok(())
}

/// Directories on the volumes of the data and of the log. What is made there gets its name when it is whole, so an attempt
/// that is cut off anywhere is gone on with, or made anew.
struct Places {
    fetched: PathBuf,
    making: PathBuf,
    made: PathBuf,
    wal_making: Option<PathBuf>,
}

impl Places {
    fn of(config: &Config) -> Result<Self> {
        let parent = config.data_dir.parent().context("the data directory has no parent")?;
        if let Some(wal) = config.wal_dir.as_ref().filter(|wal| wal.starts_with(&config.data_dir)) {
            let (wal, data) = (wal.display(), config.data_dir.display());
            bail!(
                "the wal-dir {wal} is in the data-dir {data}: nothing can be restored there; move it out, or leave it out"
            );
        }
        let wal = config.wal_dir.as_ref().map(|wal| wal.parent().context("the directory of the log has no parent"));
        Ok(Self {
            fetched: parent.join(".restore.db"),
            making: parent.join(MAKING),
            made: parent.join(MADE),
            wal_making: wal.transpose()?.map(|parent| parent.join(MAKING_LOG)),
        })
    }

    /// Gives what is whole the names that the server knows, the data last.
    fn name(&self, config: &Config) -> Result<()> {
        if let (Some(made), Some(wal)) = (&self.wal_making, &config.wal_dir)
            && has_entries(made)?
        {
            rename(made, wal).context("cannot give the restored log its name")?;
        }
        rename(&self.made, &config.data_dir).context("cannot give the restored directory its name")?;
        // Best effort: it is a copy.
        drop(std::fs::remove_file(&self.fetched));
        Ok(())
    }
}

/// Fetches the snapshot, and makes a member of it that is its whole cluster.
async fn make(args: &Args, config: &Config, places: &Places, alone: &str) -> Result<()> {
    if let Some(wal) = config.wal_dir.as_ref()
        && has_entries(wal)?
    {
        bail!(
            "{} has a log, and {} has no data: nothing is restored over what may be needed; move the log away if it is not",
            wal.display(),
            config.data_dir.display()
        );
    }
    let snapshot = Place::parse(&args.from)?.fetch(&args.snapshot, &places.fetched).await?;
    // An earlier attempt may have left a part, which `cleatctl` would refuse to write into.
    remove_directory(&places.making)?;
    let mut command = Command::new(beside("cleatctl")?);
    command.args(["snapshot", "restore"]).arg(&snapshot).arg("--data-dir").arg(&places.making);
    command.args(["--name", &args.name, "--initial-cluster", alone]);
    command.args(["--initial-cluster-token", &config.initial_cluster_token]);
    command.args(["--initial-advertise-peer-urls", &args.initial_advertise_peer_urls]);
    command.args(["--bump-revision", &args.bump_revision.to_string()]);
    if let Some(wal) = &places.wal_making {
        remove_directory(wal)?;
        command.arg("--wal-dir").arg(wal);
    }
    // The environment is the job's: endpoints and users are no business of a restore.
    let status = command.kill_on_drop(true).status().await.context("cannot run cleatctl")?;
    if !status.success() {
        bail!("cleatctl cannot restore {}: {status}", snapshot.display());
    }
    rename(&places.making, &places.made).context("cannot name what was restored")
}

/// Gives a directory another name in the same parent, so that it has it after a crash, too.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    // A name alone has an empty one.
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

/// The name of the first member in a list, and the part of the list that is about it.
fn first_member(list: &str) -> Result<(&str, String)> {
    let entries = || list.split(',').filter_map(|entry| entry.split_once('=').map(|(name, _)| (name, entry)));
    let (first, _) = entries().next().with_context(|| format!("--initial-cluster {list:?} lists nobody"))?;
    let own: Vec<&str> = entries().filter(|(name, _)| *name == first).map(|(_, entry)| entry).collect();
    Ok((first, own.join(",")))
}

/// The id in the mark, if there is one.
fn marked(config: &Config) -> Result<Option<String>> {
    let Some(path) = &config.initial_cluster_id_file else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|id| !id.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the mark in {}", path.display())),
    }
}

/// Returns when the mark holds an id.
async fn wait_for_mark(config: &Config, first: &str, limit: Duration) -> Result<()> {
    ensure!(
        config.initial_cluster_id_file.is_some(),
        "only {first} restores, and without initial-cluster-id-file nobody else knows when it has: restore one member"
    );
    let end = Instant::now() + limit;
    say!("{first} restores; this member joins it when the mark says that there is a cluster");
    loop {
        if let Some(id) = marked(config)? {
            say!("{first} has begun the cluster {id}: this member joins it");
            return Ok(());
        }
        ensure!(Instant::now() < end, "{first} has begun no cluster within {limit:?}: its log says why");
        tokio::time::sleep(cluster::PAUSE).await;
    }
}

/// True if there is something in a directory. One that is not there has nothing; one that cannot be read may have.
fn has_entries(directory: &Path) -> Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
    }
}

fn remove_directory(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
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
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// A member with volumes in a directory, and nobody to ask.
    struct Member {
        dir: tempfile::TempDir,
    }

    impl Member {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name).display().to_string();
            let text = format!(
                "data-dir: {}\nwal-dir: {}\ninitial-cluster-token: t\ninitial-cluster-id-file: {}\nname: x\n",
                at("data/member"),
                at("wal/member"),
                at("cluster-id")
            );
            std::fs::write(dir.path().join("cleat.yaml"), text).unwrap();
            for volume in ["data", "wal"] {
                std::fs::create_dir(dir.path().join(volume)).unwrap();
            }
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// What the restore of a member says, without waiting for others.
        async fn restore(&self, name: &str) -> Result<()> {
            let line = format!(
                "restore --endpoints 127.0.0.1:1 --wait 0 --from {} --config-file {} --name {name} \
                 --initial-advertise-peer-urls http://{name}:1 --initial-cluster m-0=http://m-0:1,m-1=http://m-1:1",
                self.dir.path().display(),
                self.path("cleat.yaml").display()
            );
            restore(&Line::try_parse_from(line.split_whitespace()).unwrap().args).await
        }
    }

    #[test]
    fn the_first_member_is_restored_alone() {
        assert_eq!(first_member("a=http://a:1,b=http://b:1").unwrap(), ("a", "a=http://a:1".to_owned()));
        let two_urls = first_member("a=http://a:1,b=http://b:1,a=http://a:2").unwrap();
        assert_eq!(two_urls, ("a", "a=http://a:1,a=http://a:2".to_owned()));
        assert!(first_member("").is_err());
    }

    #[tokio::test]
    async fn others_wait_for_the_mark() {
        let member = Member::new();
        let error = member.restore("m-1").await.unwrap_err().to_string();
        assert!(error.contains("m-0 has begun no cluster"), "{error}");
        std::fs::write(member.path("cluster-id"), "cafe\n").unwrap();
        member.restore("m-1").await.unwrap();
        assert!(!member.path("data/member").exists());
    }

    #[tokio::test]
    async fn nothing_is_restored_where_something_may_be_lost() {
        let member = Member::new();
        std::fs::create_dir(member.path("wal/member")).unwrap();
        std::fs::write(member.path("wal/member/0.wal"), "log").unwrap();
        let error = member.restore("m-0").await.unwrap_err().to_string();
        assert!(error.contains("has a log"), "{error}");
        assert!(member.path("wal/member/0.wal").exists());
        // A mark with an id.
        std::fs::write(member.path("cluster-id"), "cafe").unwrap();
        member.restore("m-0").await.unwrap();
        // What cannot be read as a directory is not empty.
        std::fs::remove_file(member.path("cluster-id")).unwrap();
        std::fs::write(member.path("data/member"), "").unwrap();
        let error = format!("{:#}", member.restore("m-0").await.unwrap_err());
        assert!(error.contains("cannot read") && error.contains("data/member"), "{error}");
    }

    #[tokio::test]
    async fn what_was_made_and_not_named_is_named() {
        let member = Member::new();
        for name in ["data/.restored", "wal/.restore-wal"] {
            std::fs::create_dir(member.path(name)).unwrap();
            std::fs::write(member.path(name).join("file"), name).unwrap();
        }
        member.restore("m-0").await.unwrap();
        for name in ["data", "wal"] {
            assert!(member.path(name).join("member/file").exists(), "{name}");
        }
        member.restore("m-0").await.unwrap();
    }

    #[tokio::test]
    async fn one_volume_is_enough_and_a_log_within_the_data_is_refused() {
        let member = Member::new();
        let config = |wal: &str| {
            let (data, wal) = (member.path("data/member"), member.path(wal));
            let text = format!(
                "data-dir: {}\nwal-dir: {}\ninitial-cluster-token: t\nname: x\n",
                data.display(),
                wal.display()
            );
            std::fs::write(member.path("cleat.yaml"), text).unwrap();
        };
        config("data/member/wal");
        let error = member.restore("m-0").await.unwrap_err().to_string();
        assert!(error.contains("data/member/wal is in the data-dir"), "{error}");
        config("data/log");
        for name in ["data/.restored", "data/.restore-wal"] {
            std::fs::create_dir(member.path(name)).unwrap();
            std::fs::write(member.path(name).join("file"), name).unwrap();
        }
        member.restore("m-0").await.unwrap();
        let read = |name: &str| std::fs::read_to_string(member.path(name)).unwrap();
        assert_eq!(read("data/member/file"), "data/.restored");
        assert_eq!(read("data/log/file"), "data/.restore-wal");
        // Nothing is to be restored any more, so nothing is refused.
        config("data/member/wal");
        member.restore("m-0").await.unwrap();
        // A part of each can be there at once.
        config("data/log");
        let text = std::fs::read_to_string(member.path("cleat.yaml")).unwrap();
        let places = Places::of(&serde_saphyr::from_str(&text).unwrap()).unwrap();
        assert_ne!(Some(&places.making), places.wal_making.as_ref());
    }
}
