//! Flags, commands and environment: etcdctl's names.

use crate::password;
use anyhow::{Result, ensure};
use client::{Options, TlsOptions, User};
use server::offline::Founder;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What a cluster is called that nobody gave a name. etcd's word.
const DEFAULT_NAME: &str = "default";
const DEFAULT_TOKEN: &str = "etcd-cluster";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";

/// Revisions by which a restored store is ahead of its snapshot, unless it is told otherwise: more than any cluster
/// writes between a snapshot and its loss.
const BUMP_REVISION: u64 = 1_000_000_000;

/// The command line of Cleat, for Cleat and etcd clusters.
#[derive(Debug, clap::Parser)]
#[command(name = "cleatctl", disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// gRPC endpoints, tried in this order
    #[arg(long, global = true, env = "ETCDCTL_ENDPOINTS", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub(crate) endpoints: Vec<String>,
    /// Authorities that the server's certificate must come from
    #[arg(long, global = true, env = "ETCDCTL_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, global = true, env = "ETCDCTL_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, env = "ETCDCTL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Accept any server certificate: whoever is on the way can read and change everything
    #[arg(long, global = true, env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY")]
    insecure_skip_tls_verify: bool,
    /// Whose requests these are. Without a password it is asked for
    #[arg(long, global = true, env = "ETCDCTL_USER", value_name = "NAME[:PASSWORD]", hide_env_values = true)]
    user: Option<Secret>,
    /// The password; --user is then the name alone. Everybody on this machine sees it among the processes: better leave
    /// it out, and it is asked for
    #[arg(long, global = true, env = "ETCDCTL_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    password: Option<Secret>,
    /// Longest time for making a connection
    #[arg(long, global = true, env = "ETCDCTL_DIAL_TIMEOUT", value_parser = duration, default_value = "2s")]
    dial_timeout: Duration,
    /// Longest time for a command, but for those that transfer a whole store
    #[arg(long, global = true, env = "ETCDCTL_COMMAND_TIMEOUT", value_parser = duration, default_value = "5s")]
    command_timeout: Duration,
    /// Output format
    #[arg(short, long, global = true, env = "ETCDCTL_WRITE_OUT", value_enum, default_value = "simple")]
    pub(crate) write_out: Format,
}

/// A text that has, or may have, a password in it.
#[derive(Clone)]
struct Secret(String);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Table,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Manage snapshots of a store
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Take data from etcd, or give it back
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Store a member's snapshot in a file
    Save {
        /// The file; it appears once the snapshot is whole and checked
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what is in a snapshot file
    Status {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make the data directory of a member of a new cluster from a snapshot file
    ///
    /// Every member of the new cluster is restored from the same file with the same flags, but for its own --name,
    /// --initial-advertise-peer-urls and --data-dir. Start each with the directory that was made.
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MigrateCommand {
    /// Make the data directory of a member of a new cluster from etcd's data
    ///
    /// Keys with their history, leases, users and roles. Every member of the new cluster is made from the same source with the
    /// same flags, but for its own --name, --initial-advertise-peer-urls and --data-dir.
    FromEtcd(FromEtcdArgs),
    /// Make a file from a snapshot that `etcdctl snapshot restore` takes
    ToEtcd {
        /// The snapshot, of `cleatctl snapshot save`
        #[arg(value_name = "SNAPSHOT")]
        snapshot: PathBuf,
        /// The file to make
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Copy the keys of a v2 API to the v3 API of --endpoints. Without --yes it only says what it would do
    ///
    /// Files become keys, and the time that they have left a lease, which keys that expire together share. What the target
    /// has already is left as it is: run it again after an interruption, and once more when nobody writes to the source any
    /// more.
    V2ToV3(V2ToV3Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct V2ToV3Args {
    /// Endpoints of the v2 API, tried in this order; --endpoints by default
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    pub(crate) source_endpoints: Vec<String>,
    /// User of the v2 API
    #[arg(long, value_name = "NAME:PASSWORD", env = "ETCDCTL_USERNAME", hide_env_values = true)]
    pub(crate) source_user: Option<SourceUser>,
    /// The directory to copy
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    pub(crate) source_prefix: String,
    /// What keys begin with instead of --source-prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) target_prefix: Option<String>,
    /// Hidden keys to copy, too, which no listing shows: paths, or names to look for in every directory, as _config
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    pub(crate) hidden: Vec<String>,
    /// Replace keys that have another value
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Write
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// Only say what would be written, which is what happens without --yes
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FromEtcdArgs {
    /// A snapshot of `etcdctl snapshot save`, or the data directory of a member that does not run
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// Where that member's log is, if not in its data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) source_wal_dir: Option<PathBuf>,
    /// Go on with a revision so much higher, and count everything before as compacted. Not needed when etcd was stopped
    /// before its data was taken
    #[arg(long, value_name = "REVISIONS", default_value_t = 0)]
    pub(crate) bump_revision: u64,
    #[command(flatten)]
    pub(crate) founder: FounderArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Restore a file without a hash, or with another one
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// Go on with a revision so much higher, so that whoever saw the revisions after the snapshot notices. With 0,
    /// watchers and caches may silently miss changes
    #[arg(long, value_name = "REVISIONS", default_value_t = BUMP_REVISION)]
    pub(crate) bump_revision: u64,
    /// Count everything before the new revision as compacted. Always done when the revision is moved up
    #[arg(long)]
    pub(crate) mark_compacted: bool,
    #[command(flatten)]
    pub(crate) founder: FounderArgs,
}

/// The member of a new cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct FounderArgs {
    /// The directory to make, NAME.etcd by default
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the log will be, if not in the data directory; start the member with the same flag
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// The member's name
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// NAME=URL of every member of the new cluster, one for each peer URL; NAME=URL of this one by default
    #[arg(long, value_name = "NAME=URL,...")]
    initial_cluster: Option<String>,
    /// What tells the new cluster from others with the same members
    #[arg(long, value_name = "TOKEN", default_value = DEFAULT_TOKEN)]
    initial_cluster_token: String,
    /// This member's peer URLs
    #[arg(long, value_name = "URL,...", value_delimiter = ',', default_value = DEFAULT_PEER_URL)]
    initial_advertise_peer_urls: Vec<String>,
}

impl Global {
    /// What a client is made from. Asks for the password if it must.
    ///
    /// # Errors
    /// There is no password, or nobody that it is for.
    pub(crate) async fn client_options(&self) -> Result<Options> {
        let tls = TlsOptions {
            ca_file: self.cacert.clone(),
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            server_name: None,
            insecure_skip_verify: self.insecure_skip_tls_verify,
        };
        Ok(Options {
            endpoints: self.endpoints.clone(),
            tls: (tls != TlsOptions::default()).then_some(tls),
            user: self.user().await?,
            dial_timeout: self.dial_timeout,
            request_timeout: self.command_timeout,
            ..Options::default()
        })
    }

    /// As etcdctl reads the flags: an empty one is none, and next to `--password` a colon belongs to the name.
    async fn user(&self) -> Result<Option<User>> {
        let given = |secret: &Option<Secret>| secret.as_ref().map(|s| s.0.clone()).filter(|text| !text.is_empty());
        let Some(user) = given(&self.user) else {
            ensure!(given(&self.password).is_none(), "a password is given for nobody; name the user with --user");
            return Ok(None);
        };
        if let Some(password) = given(&self.password) {
            return Ok(Some(User { name: user, password }));
        }
        Ok(Some(match user.split_once(':') {
            Some((name, password)) => User { name: name.to_owned(), password: password.to_owned() },
            None => User { name: user, password: password::ask().await? },
        }))
    }
}

impl FounderArgs {
    /// The member to make, with a revision that is moved up.
    pub(crate) fn founder(self, bump_revision: u64) -> Founder {
        let own = || self.initial_advertise_peer_urls.iter().map(|url| format!("{}={url}", self.name));
        Founder {
            initial_cluster: self.initial_cluster.clone().unwrap_or_else(|| own().collect::<Vec<_>>().join(",")),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(format!("{}.etcd", self.name))),
            wal_dir: self.wal_dir,
            name: self.name,
            initial_cluster_token: self.initial_cluster_token,
            initial_advertise_peer_urls: self.initial_advertise_peer_urls,
            bump_revision,
        }
    }
}

/// The user of a v2 API. Without a password it is refused later: what clap refuses it shows, and it may be the password.
#[derive(Clone, Debug)]
pub(crate) struct SourceUser(pub(crate) User);

impl From<&str> for SourceUser {
    fn from(text: &str) -> Self {
        let (name, password) = text.split_once(':').unwrap_or((text, ""));
        Self(User { name: name.to_owned(), password: password.to_owned() })
    }
}

/// Go's form of a duration, as far as somebody writes it: `5s`, `100ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration; write 5s, 100ms or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, unit_and_rest) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let letters = unit_and_rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit_and_rest.len());
        let (unit, after) = unit_and_rest.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = after;
    }
    if total.is_zero() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::{Args, duration};
    use clap::{CommandFactory as _, Parser as _};
    use std::time::Duration;

    /// Name and password that flags mean, and everything that is printed of them.
    async fn user(flags: &[&str]) -> (Result<Option<(String, String)>, String>, String) {
        let args = Args::try_parse_from([&["cleatctl", "snapshot", "save", "file"], flags].concat()).unwrap();
        let user = args.global.user().await;
        let printed = format!("{args:?} {user:?}");
        (user.map(|user| user.map(|user| (user.name, user.password))).map_err(|error| error.to_string()), printed)
    }

    #[tokio::test]
    async fn users_are_read_as_etcdctl_reads_them() {
        let is = |name: &str, password: &str| Ok(Some((name.to_owned(), password.to_owned())));
        for (flags, expected) in [
            (&[][..], Ok(None)),
            (&["--user", ""], Ok(None)),
            (&["--user", "root:s3cret"], is("root", "s3cret")),
            (&["--user", "root:s3cret:more"], is("root", "s3cret:more")),
            (&["--user", "root:"], is("root", "")),
            (&["--user", "root", "--password", "s3cret"], is("root", "s3cret")),
            (&["--user", "ro:ot", "--password=s3cret"], is("ro:ot", "s3cret")),
            (&["--password", "s3cret"], Err("a password is given for nobody; name the user with --user".to_owned())),
        ] {
            let (user, printed) = user(flags).await;
            assert_eq!(user, expected, "{flags:?}");
            assert!(!printed.contains("s3cret"), "{printed}");
        }
    }

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, millis) in [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "0s", "-1s", "1s5", "1e99h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
