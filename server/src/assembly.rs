//! How a member finds its place by itself: `--initial-cluster-state=auto`.
//!
//! A member with data goes on with it. One without asks the members that `--initial-cluster` lists:
//!
//! - A cluster with data that answers lets it join, or take the place of the member of its name, whose data is lost
//!   (`cluster/join.rs`). It then starts under the id that it got, as any member that was added.
//! - If there is none, and the list has this member, it founds the cluster together with a majority of the listed ones
//!   that have no data either, as `newcomer` decides; unless the file of `--initial-cluster-id-file` says that there was
//!   a cluster once.
//! - Else it goes on asking.
//!
//! Nothing is written before that is decided. What a member waits for is kept in [`Place`], for probes.

use crate::bootstrap::BootstrapError;
use crate::config::Config;
use crate::node::Identity;
use crate::peer::describe::{self, Described};
use crate::peer::join;
use crate::tls::PeerConnector;
use rand::seq::SliceRandom as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Between attempts to join, at first and at most.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After this time an attempt asks nobody else: what was heard meanwhile may be worth more.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Bytes that are read of a token's or an id's file.
const FILE_BYTES: usize = 4096;

/// Peer URLs that others name, asked beside those that are listed.
const NAMED_URLS_MAX: usize = 64;

/// Longest reason that a probe is told.
const REASON_BYTES: usize = 2048;

/// Whether this member has its place in a cluster, and what it waits for until then.
#[derive(Debug, Default)]
pub(crate) struct Place(parking_lot::Mutex<Option<String>>);

impl Place {
    /// It has none yet, and this is why.
    pub(crate) fn waits(&self, mut why: String) {
        why.truncate(why.floor_char_boundary(REASON_BYTES));
        *self.0.lock() = Some(why);
    }

    /// It has its place.
    pub(crate) fn is_found(&self) {
        *self.0.lock() = None;
    }

    /// # Errors
    /// What it waits for.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.0.lock().clone().map_or(Ok(()), Err)
    }
}

/// What members show that join by themselves.
pub(crate) struct JoinToken(String);

impl JoinToken {
    pub(crate) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// Reads the file of `--join-token-file`; none without the flag.
    ///
    /// # Errors
    /// It cannot be read, or has no token.
    pub(crate) fn read(file: Option<&Path>) -> Result<Option<Self>, BootstrapError> {
        let Some(path) = file else { return Ok(None) };
        let text = read(path).map_err(|source| io(path, source))?.unwrap_or_default();
        let is_token = !text.is_empty() && text.len() < FILE_BYTES && text.chars().all(|c| c.is_ascii_graphic());
        if !is_token {
            return Err(BootstrapError::JoinToken { path: path.display().to_string() });
        }
        Ok(Some(Self::new(text)))
    }

    /// Compares digests, so that the time that it takes says nothing of the token.
    pub(crate) fn is(&self, shown: &str) -> bool {
        Sha256::digest(&self.0) == Sha256::digest(shown)
    }

    /// The value of the header that shows it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// The text of a small file without the white space around it; none if there is no such file.
fn read(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes[..bytes.len().min(FILE_BYTES)]).trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn io(path: &Path, source: std::io::Error) -> BootstrapError {
    BootstrapError::Io { action: "read", path: path.display().to_string(), source }
}

/// The mark that a cluster was founded once, kept where it outlives the data directories.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Option<PathBuf>);

impl Mark {
    pub(crate) fn new(config: &Config) -> Self {
        Self(config.initial_cluster_id_file.clone())
    }

    /// The id of the cluster that there was; none if nobody knows of one.
    ///
    /// # Errors
    /// The file cannot be read, or says something else.
    pub(crate) fn cluster_id(&self) -> Result<Option<u64>, BootstrapError> {
        let Some(path) = &self.0 else { return Ok(None) };
        match read(path).map_err(|source| io(path, source))?.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => u64::from_str_radix(text, 16)
                .map(Some)
                .map_err(|_| BootstrapError::Mark { path: path.display().to_string() }),
        }
    }

    /// Refuses to found a cluster where there was one.
    ///
    /// # Errors
    /// There was one, or the mark cannot be read.
    pub(crate) fn check_founding(&self) -> Result<(), BootstrapError> {
        match (self.cluster_id()?, &self.0) {
            (Some(cluster_id), Some(path)) => {
                Err(BootstrapError::WasFounded { cluster_id, path: path.display().to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to be part of another cluster than the one that there was.
    ///
    /// # Errors
    /// It names another one, or cannot be read.
    pub(crate) fn check_cluster(&self, cluster_id: u64) -> Result<(), BootstrapError> {
        match (self.cluster_id()?, &self.0) {
            (Some(marked), Some(path)) if marked != cluster_id => {
                Err(BootstrapError::MarkedOther { cluster_id, marked, path: path.display().to_string() })
            }
            _ => Ok(()),
        }
    }
}

/// The members to ask: the peer URLs that `--initial-cluster` lists for others.
pub(crate) fn seeds(config: &Config) -> Vec<String> {
    let discovery::Source::Static(cluster) = &config.founding else { return Vec::new() };
    let others = cluster.members.iter().filter(|member| member.name != config.name);
    others.flat_map(|member| member.peer_urls.clone()).collect()
}

/// True if this member is one of those that may found the cluster.
pub(crate) fn is_founder(config: &Config) -> bool {
    let discovery::Source::Static(cluster) = &config.founding else { return false };
    cluster.members.iter().any(|member| member.name == config.name)
}

/// True if an answer comes from a cluster that has been founded.
pub(crate) fn has_cluster(described: &Described) -> bool {
    described.members.iter().any(describe::DescribedMember::is_started)
}

/// Asks until a cluster has let this member in, however long that takes, and keeps in `place` why it does not.
pub(crate) async fn join(config: &Config, connector: &PeerConnector, place: &Place) -> Identity {
    let seeds = seeds(config);
    let mut pause = PAUSE;
    place.waits(format!("this member has no data, and asks {} whether it may join", seeds.join(", ")));
    loop {
        match attempt(config, &seeds, connector).await {
            Ok(identity) => return identity,
            Err(reasons) => {
                tracing::warn!(
                    ?reasons,
                    "this member has no data and is not in --initial-cluster: it waits for a cluster that it may join"
                );
                let reasons = reasons.join("; ");
                place.waits(format!("this member has no data and waits for a cluster that it may join; {reasons}"));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Asks once for a place in the cluster that the seeds belong to.
///
/// # Errors
/// What each said, or that the token or the mark cannot be read: both may be replaced meanwhile.
pub(crate) async fn attempt(
    config: &Config,
    seeds: &[String],
    connector: &PeerConnector,
) -> Result<Identity, Vec<String>> {
    let began = Instant::now();
    let unreadable = |error: BootstrapError| vec![error.to_string()];
    let token = JoinToken::read(config.join_token_file.as_deref()).map_err(unreadable)?;
    let expected = Mark::new(config).cluster_id().map_err(unreadable)?;
    let (mut askable, mut named) = (Vec::new(), BTreeSet::new());
    let (mut clusters, mut reasons) = (BTreeSet::new(), Vec::new());
    for (url, answer) in describe::all(seeds, connector).await {
        match answer {
            Err(reason) => reasons.push(format!("{url}: {reason}")),
            Ok(described) if !has_cluster(&described) => reasons.push(format!("{url}: has no data either")),
            Ok(described) if expected.is_some_and(|expected| expected != described.cluster_id) => {
                let id = described.cluster_id;
                reasons.push(format!("{url}: it is of cluster {id:x}, not the one in --initial-cluster-id-file"));
            }
            Ok(described) => {
                clusters.insert(described.cluster_id);
                let others = described.members.into_iter().filter(|member| member.name != config.name);
                named.extend(others.flat_map(|member| member.peer_urls));
                askable.push(url);
            }
        }
    }
    if clusters.len() > 1 {
        let ids: Vec<String> = clusters.iter().map(|id| format!("{id:x}")).collect();
        return Err(vec![format!("the listed members are of different clusters: {}", ids.join(", "))]);
    }
    // Each passes it on to the leader; one that does not reach the leader must not always be the first.
    askable.shuffle(&mut rand::rng());
    let further = named.into_iter().filter(|url| !askable.contains(url)).take(NAMED_URLS_MAX);
    let urls: Vec<String> = askable.iter().cloned().chain(further).collect();
    for url in &urls {
        if began.elapsed() >= ATTEMPT {
            break;
        }
        let (name, own) = (&config.name, &config.initial_advertise_peer_urls);
        match join::ask(url, name, own, token.as_ref(), connector).await {
            Ok(identity) if clusters.contains(&identity.cluster_id) => return Ok(identity),
            Ok(identity) => reasons.push(format!("{url}: it is of cluster {:x}", identity.cluster_id)),
            Err(join::NotJoined::Refused(reason)) => {
                reasons.push(format!("{url}: {reason}"));
                break;
            }
            Err(join::NotJoined::NotAsked(reason)) => reasons.push(format!("{url}: {reason}")),
        }
    }
    Err(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_forbids_to_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let mark = Mark(Some(path.clone()));
        assert!(mark.check_founding().is_ok(), "there is none");
        std::fs::write(&path, "\n").unwrap();
        assert!(mark.check_founding().is_ok(), "it is empty");
        std::fs::write(&path, "cafe\n").unwrap();
        assert_eq!(mark.cluster_id().unwrap(), Some(0xcafe));
        let refused = mark.check_founding().unwrap_err().to_string();
        assert!(refused.contains("cafe") && refused.contains(&path.display().to_string()), "{refused}");
        assert!(mark.check_cluster(0xcafe).is_ok());
        let refused = mark.check_cluster(0xbeef).unwrap_err().to_string();
        assert!(refused.contains("cafe") && refused.contains("beef"), "{refused}");
        std::fs::write(&path, "who knows").unwrap();
        assert!(mark.check_founding().is_err(), "what cannot be read forbids, too");
        assert!(mark.check_cluster(0xcafe).is_err(), "what cannot be read forbids, too");
        assert!(Mark(None).check_founding().is_ok() && Mark(None).check_cluster(1).is_ok());
    }

    #[test]
    fn a_place_says_what_it_waits_for() {
        let place = Place::default();
        assert_eq!(place.check(), Ok(()));
        place.waits("ü".repeat(REASON_BYTES));
        assert_eq!(place.check().unwrap_err().len(), REASON_BYTES);
        place.waits("for others".to_owned());
        assert_eq!(place.check(), Err("for others".to_owned()));
        place.is_found();
        assert_eq!(place.check(), Ok(()));
    }
}
