//! Decides who this member is: at the first start from the flags and the other members, later from what the data
//! directory says.
//!
//! Ids are etcd's, see [`discovery::id`]. They are written down before anything else, together with the members of a new
//! cluster, so that a start that was cut off is taken up again, and flags that change later change nothing.
//!
//! Only the start that writes the identity may found a cluster of one, or the next one if it was cut off: the file has
//! its name only when the founding is in the log. Who lost the log later must not found the cluster a second time, beside
//! the members that were added since.
//!
//! Four ways: a member with an identity goes on with it; one that is to found a cluster finds itself in the list of its
//! members; one that is to join asks the members of the cluster who it is; one that is to find out does so in `assembly`. Whether a member without a log may use its
//! identity is decided in `newcomer`.

use crate::assembly::{self, JoinToken, Place};
use crate::config::{Config, InitialClusterState};
use crate::data_dir::remedy;
use crate::node::Identity;
use crate::peer::describe::{self, Described};
use crate::raft::types::Peer;
use crate::tls::PeerConnector;
use discovery::{InitialCluster, Me, id};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Where the identity is, below the data directory.
pub(crate) const FILE: &str = "IDENTITY";

/// Its extension until it may have its name.
const UNSETTLED: &str = "new";

/// Why the identity is not known.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}{}", remedy(source))]
    Io {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file does not say who this member is.
    #[error(
        "{path} does not hold a cluster id and a member id as written; restore the file, or the member from a snapshot"
    )]
    Damaged {
        /// The file.
        path: String,
    },
    /// The list of members cannot be had, or this member is not in it.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// The cluster knows this member as one that ran before.
    #[error(
        "member {member_id:x} has already been bootstrapped: {peer} knows it, but {} has none of its data; start it \
         with the data directory that it had, or remove the member, add it again and start it with \
         --initial-cluster-state=existing and an empty data directory",
        data_dir
    )]
    AlreadyBootstrapped {
        /// The member.
        member_id: u64,
        /// Who knows it.
        peer: String,
        /// The data directory.
        data_dir: String,
    },
    /// Nobody of the cluster to join answers.
    #[error(
        "cannot fetch cluster info from peer urls: {reasons}; start the members of the cluster, and list them in \
         --initial-cluster (use --initial-cluster-state=new to make a new cluster)"
    )]
    NobodyAnswers {
        /// What each said.
        reasons: String,
    },
    /// The cluster to join has other members than the list.
    #[error(
        "error validating peerURLs: {reason}; the cluster has {}, --initial-cluster has {listed}: list exactly those, \
         and add this member with `member add` first",
        members
    )]
    OtherMembers {
        /// What differs.
        reason: String,
        /// The members of the cluster.
        members: String,
        /// The list.
        listed: String,
    },
    /// The secret of members that join by themselves is not one.
    #[error("{path} does not hold a join token: write one line of visible ASCII characters into it")]
    JoinToken {
        /// The file.
        path: String,
    },
    /// The mark that a cluster was founded cannot be read.
    #[error(
        "{path} does not hold a cluster id in hexadecimal digits: write that of the cluster, or empty the file to found a new one"
    )]
    Mark {
        /// The file.
        path: String,
    },
    /// There was a cluster, and this member would found a second one.
    #[error(
        "cluster {cluster_id:x} was founded before, as {path} says, and no data of it is here: restore a member from a \
         snapshot or from its volume; or empty that file to found a new cluster without the data"
    )]
    WasFounded {
        /// The cluster that there was.
        cluster_id: u64,
        /// The file that says so.
        path: String,
    },
    /// There was a cluster, and this member would be part of another one.
    #[error(
        "cluster {marked:x} was founded before, as {path} says, and this member would be part of cluster {cluster_id:x}: \
         restore a member of the former, or empty that file to go on without its data"
    )]
    MarkedOther {
        /// Whose part it would be.
        cluster_id: u64,
        /// The cluster that there was.
        marked: u64,
        /// The file that says so.
        path: String,
    },
    /// The cluster runs a newer version.
    #[error("incompatible with current running cluster: it has version {cluster}, this member {own}: upgrade it first")]
    TooOld {
        /// Version of the cluster.
        cluster: String,
        /// Version of this member.
        own: String,
    },
}

/// Who this member is, and with whom it founds its cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) identity: Identity,
    /// The members of a new cluster; none when this member joined one.
    pub(crate) founders: BTreeMap<u64, Peer>,
    /// This member is to found a cluster of one, and never has: [`settle`] is due once it has.
    pub(crate) founds_alone: bool,
    /// It may turn out that there is a cluster already: nothing is written, [`write_settled`] is due when it takes part.
    pub(crate) is_assumed: bool,
}

/// Reads the identity, or finds it out and writes it at the first start. That may take long; `place` has what it waits
/// for.
///
/// # Errors
/// The file cannot be read, written or understood; there is none and the flags, or the other members, do not say who
/// this member is.
pub(crate) async fn begin(
    data_dir: &Path,
    config: &Config,
    connector: &PeerConnector,
    place: &Place,
) -> Result<Beginning, BootstrapError> {
    let path = data_dir.join(FILE);
    let io = |action, source| BootstrapError::Io { action, path: path.display().to_string(), source };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| BootstrapError::Damaged { path: path.display().to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(cut_off) = cut_off(&path) {
                return Ok(cut_off);
            }
            place.waits("this member has no data and finds out who its cluster's members are".to_owned());
            let beginning = match config.initial_cluster_state {
                InitialClusterState::New => found(&listed(config).await?, &config.name),
                InitialClusterState::Existing => {
                    join(&listed(config).await?, data_dir, &config.name, connector).await?
                }
                InitialClusterState::Auto => assemble(config, connector, place).await?,
            };
            if beginning.is_assumed {
                return Ok(beginning);
            }
            write(&path, &beginning).map_err(|source| io("write", source))?;
            if !beginning.founds_alone {
                name(&path).map_err(|source| io("write", source))?;
            }
            Ok(beginning)
        }
        Err(source) => Err(io("read", source)),
    }
}

/// Becomes one of the founders if it is listed, or part of the cluster that lets it in.
async fn assemble(config: &Config, connector: &PeerConnector, place: &Place) -> Result<Beginning, BootstrapError> {
    // What cannot be used from the start is an error; later it is what the member waits for.
    JoinToken::read(config.join_token_file.as_deref())?;
    assembly::Mark::new(config).cluster_id()?;
    if !assembly::is_founder(config) {
        return Ok(Beginning::joined(assembly::join(config, connector, place).await));
    }
    let beginning = found(&listed(config).await?, &config.name);
    if beginning.founds_alone {
        assembly::Mark::new(config).check_founding()?;
    }
    Ok(Beginning { is_assumed: !beginning.founds_alone, ..beginning })
}

impl Beginning {
    /// That of a member which a cluster let in under this identity.
    pub(crate) fn joined(identity: Identity) -> Self {
        Self { identity, founders: BTreeMap::new(), founds_alone: false, is_assumed: false }
    }
}

/// What a start wrote that was to found a cluster of one, and may not have come to it.
fn cut_off(path: &Path) -> Option<Beginning> {
    // Not whole, or not there: that start has not begun a log.
    let beginning = parse(&fs::read(path.with_extension(UNSETTLED)).ok()?)?;
    (beginning.founders.len() == 1).then_some(Beginning { founds_alone: true, ..beginning })
}

/// Gives the identity its name: the founding of a cluster of one is durable in the log.
///
/// # Errors
/// The file cannot be renamed.
pub(crate) fn settle(data_dir: &Path) -> Result<(), BootstrapError> {
    let path = data_dir.join(FILE);
    let failed = |source| BootstrapError::Io { action: "write", path: path.display().to_string(), source };
    name(&path).map_err(failed)
}

/// The peer URLs of the other members as far as they are known without a log: those that found the cluster, or, for a
/// member that joins, those in the list that the flags lead to.
///
/// # Errors
/// The list can not be had.
pub(crate) async fn others(beginning: &Beginning, config: &Config) -> Result<Vec<String>, BootstrapError> {
    if !beginning.founders.is_empty() {
        let others = beginning.founders.iter().filter(|(id, _)| **id != beginning.identity.member_id);
        return Ok(others.flat_map(|(_, peer)| peer.peer_urls.clone()).collect());
    }
    if config.initial_cluster_state == InitialClusterState::Auto {
        return Ok(assembly::seeds(config));
    }
    let cluster = listed(config).await?;
    let others = cluster.members.into_iter().filter(|member| member.name != config.name);
    Ok(others.flat_map(|member| member.peer_urls).collect())
}

/// The members that the flags lead to.
async fn listed(config: &Config) -> Result<InitialCluster, BootstrapError> {
    let me = Me { name: config.name.clone(), peer_urls: config.initial_advertise_peer_urls.clone() };
    Ok(discovery::resolve(&config.founding, &me, &discovery::Options::default()).await?)
}

/// This member's peer URLs, as the list has them: discovery made sure that it does.
fn own_urls<'a>(cluster: &'a InitialCluster, name: &str) -> &'a [String] {
    cluster.members.iter().find(|member| member.name == name).map_or(&[], |member| &member.peer_urls)
}

/// Becomes one of the members that make a new cluster. Whether it was one before is asked when its log is open
/// (`newcomer`).
pub(crate) fn found(cluster: &InitialCluster, name: &str) -> Beginning {
    let own_urls = own_urls(cluster, name);
    let identity = Identity { cluster_id: cluster.cluster_id(), member_id: id::member_id(own_urls, &cluster.token) };
    let founders = cluster
        .member_ids()
        .iter()
        .zip(&cluster.members)
        .map(|(id, member)| (*id, Peer { peer_urls: member.peer_urls.clone(), joins_as_voter: true }))
        .collect();
    let founds_alone = cluster.members.len() == 1;
    Beginning { identity, founders, founds_alone, is_assumed: false }
}

/// Becomes a member that somebody added to a running cluster.
async fn join(
    cluster: &InitialCluster,
    data_dir: &Path,
    name: &str,
    connector: &PeerConnector,
) -> Result<Beginning, BootstrapError> {
    let others: Vec<String> = cluster
        .members
        .iter()
        .filter(|member| member.name != name)
        .flat_map(|member| member.peer_urls.clone())
        .collect();
    let (mut answers, mut reasons) = (Vec::new(), Vec::new());
    for (url, described) in describe::all(&others, connector).await {
        match described {
            Ok(described) => answers.push((url, described)),
            Err(reason) => reasons.push(format!("{url}: {reason}")),
        }
    }
    if answers.is_empty() && reasons.is_empty() {
        reasons.push("--initial-cluster lists no other member".to_owned());
    }
    let nobody = BootstrapError::NobodyAnswers { reasons: reasons.join(", ") };
    let identity =
        recognize(cluster, own_urls(cluster, name), &answers, data_dir).map_err(|why| why.unwrap_or(nobody))?;
    Ok(Beginning::joined(identity))
}

/// Finds this member by all answers. Each list may be old, so that one of them has this member is enough.
///
/// # Errors
/// Why none of them lets it join; nothing if there are none.
fn recognize(
    cluster: &InitialCluster,
    own: &[String],
    answers: &[(String, Described)],
    data_dir: &Path,
) -> Result<Identity, Option<BootstrapError>> {
    let mut refusal = None;
    for (_, described) in answers {
        let found = find(cluster, own, described);
        match found.and_then(|identity| check_new(identity, answers, data_dir).map(|()| identity)) {
            Ok(identity) => return Ok(identity),
            // What is known of this member says more than that a list lacks it.
            Err(error) if refusal.is_none() || !matches!(error, BootstrapError::OtherMembers { .. }) => {
                refusal = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// Refuses what did happen, though only one of the others may have heard of it.
fn check_new(identity: Identity, answers: &[(String, Described)], data_dir: &Path) -> Result<(), BootstrapError> {
    let of_its_cluster = answers.iter().filter(|(_, described)| described.cluster_id == identity.cluster_id);
    for (peer, described) in of_its_cluster {
        if described.saw_started(identity.member_id) {
            return Err(BootstrapError::AlreadyBootstrapped {
                member_id: identity.member_id,
                peer: peer.clone(),
                data_dir: data_dir.display().to_string(),
            });
        }
        described.check_version().map_err(|(cluster, own)| BootstrapError::TooOld { cluster, own })?;
    }
    Ok(())
}

/// Finds this member in one member's list.
fn find(cluster: &InitialCluster, own: &[String], described: &Described) -> Result<Identity, BootstrapError> {
    let sorted = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    let other = |reason: String| {
        let members: Vec<String> = described.members.iter().map(|member| member.peer_urls.join(",")).collect();
        BootstrapError::OtherMembers { reason, members: members.join(" "), listed: cluster.to_string() }
    };
    if described.members.len() != cluster.members.len() {
        return Err(other("member count is unequal".to_owned()));
    }
    for member in &cluster.members {
        if !described.members.iter().any(|known| sorted(&known.peer_urls) == sorted(&member.peer_urls)) {
            return Err(other(format!("unmatched member while checking PeerURLs {}", member.peer_urls.join(","))));
        }
    }
    // Invariant: it was matched above.
    let Some(member) = described.members.iter().find(|known| sorted(&known.peer_urls) == sorted(own)) else {
        return Err(other("this member is not in it".to_owned()));
    };
    Ok(Identity { cluster_id: described.cluster_id, member_id: member.id })
}

/// The file's text: the ids, the founders, and a checksum of those lines. A flipped bit makes one id into another.
fn format(beginning: &Beginning) -> String {
    let Identity { cluster_id, member_id } = beginning.identity;
    let mut text = format!("cluster_id: {cluster_id:016x}\nmember_id: {member_id:016x}\n");
    for (id, peer) in &beginning.founders {
        // Invariant: a String grows.
        writeln!(text, "founder: {id:016x} {}", peer.peer_urls.join(",")).expect("invariant: a String grows");
    }
    let sum = crc32c::crc32c(text.as_bytes());
    format!("{text}sum: {sum:08x}\n")
}

fn parse(bytes: &[u8]) -> Option<Beginning> {
    let text = str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let mut id = |name: &str| u64::from_str_radix(lines.next()?.strip_prefix(name)?.trim(), 16).ok();
    let identity = Identity { cluster_id: id("cluster_id:")?, member_id: id("member_id:")? };
    let mut founders = BTreeMap::new();
    for line in lines {
        let Some(founder) = line.strip_prefix("founder: ") else { break };
        let (id, urls) = founder.split_once(' ')?;
        let peer_urls = urls.split(',').map(str::to_owned).collect();
        founders.insert(u64::from_str_radix(id, 16).ok()?, Peer { peer_urls, joins_as_voter: true });
    }
    let beginning = Beginning { identity, founders, founds_alone: false, is_assumed: false };
    (text == format(&beginning)).then_some(beginning)
}

/// Writes the identity of a member whose log has begun.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_settled(data_dir: &Path, beginning: &Beginning) -> Result<(), BootstrapError> {
    let path = data_dir.join(FILE);
    let failed = |source| BootstrapError::Io { action: "write", path: path.display().to_string(), source };
    write(&path, beginning).and_then(|()| name(&path)).map_err(failed)
}

/// Writes the file beside its name, durably.
fn write(path: &Path, beginning: &Beginning) -> std::io::Result<()> {
    let mut file = fs::File::create(path.with_extension(UNSETTLED))?;
    file.write_all(format(beginning).as_bytes())?;
    file.sync_all()?;
    sync_parent(path)
}

/// Gives it its name, so that it is there whole or not at all.
fn name(path: &Path) -> std::io::Result<()> {
    fs::rename(path.with_extension(UNSETTLED), path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::describe::{DescribedMember, Knowledge};

    fn config(args: &[&str]) -> Config {
        let args = args.iter().map(ToString::to_string);
        match crate::config::load(args, []) {
            Ok(crate::config::Command::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_first_start_decides() {
        let dir = tempfile::tempdir().unwrap();
        let new = config(&["--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
        let existing = config(&[
            "--initial-advertise-peer-urls=http://127.0.0.2:2380",
            "--initial-cluster=default=http://127.0.0.2:2380",
            "--initial-cluster-state=existing",
        ]);
        let refused =
            begin(dir.path(), &existing, &PeerConnector::plain(), &Place::default()).await.unwrap_err().to_string();
        assert!(refused.contains("--initial-cluster lists no other member"), "{refused}");
        let first = begin(dir.path(), &new, &PeerConnector::plain(), &Place::default()).await.unwrap();
        assert!(first.founds_alone);
        assert_eq!(
            begin(dir.path(), &existing, &PeerConnector::plain(), &Place::default()).await.unwrap(),
            first,
            "it was cut off"
        );
        settle(dir.path()).unwrap();
        let first = Beginning { founds_alone: false, ..first };
        assert_eq!(begin(dir.path(), &existing, &PeerConnector::plain(), &Place::default()).await.unwrap(), first);
        let written = fs::read(dir.path().join(FILE)).unwrap();
        for (byte, bit) in (0..written.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut damaged = written.clone();
            damaged[byte] ^= 1 << bit;
            assert!(parse(&damaged).is_none(), "bit {bit} of byte {byte}: {:?}", String::from_utf8_lossy(&damaged));
        }
        let ids_only = written.len() - "sum: 00000000\n".len();
        assert!(parse(&written[..ids_only]).is_none(), "without the checksum");
        fs::write(dir.path().join(FILE), "cluster_id: x\n").unwrap();
        assert!(matches!(
            begin(dir.path(), &new, &PeerConnector::plain(), &Place::default()).await,
            Err(BootstrapError::Damaged { .. })
        ));
    }

    #[tokio::test]
    async fn founders_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let list = "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2,b=http://127.0.0.1:3";
        let b = config(&[list, "--name=b", "--initial-advertise-peer-urls=http://127.0.0.1:3,http://127.0.0.1:2"]);
        let first = begin(dir.path(), &b, &PeerConnector::plain(), &Place::default()).await.unwrap();
        assert_eq!(first.founders.len(), 2);
        assert!(!first.founds_alone);
        assert_eq!(first.founders[&first.identity.member_id].peer_urls, ["http://127.0.0.1:2", "http://127.0.0.1:3"]);
        let written = fs::read(dir.path().join(FILE)).unwrap();
        assert_eq!(parse(&written), Some(first));
    }

    #[tokio::test]
    async fn who_is_not_listed_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        for (args, expected) in [
            (
                &["--initial-cluster=a=http://127.0.0.1:1"][..],
                "couldn't find local name \"default\" in the initial cluster configuration",
            ),
            (
                &["--initial-cluster=default=http://127.0.0.1:1"],
                "--initial-cluster has default=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://localhost:2380",
            ),
        ] {
            let refused = begin(dir.path(), &config(args), &PeerConnector::plain(), &Place::default())
                .await
                .unwrap_err()
                .to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    /// What a member of cluster 9 says: the other one, and this one as `mine`.
    fn described(mine: &[(u64, &str, &str)]) -> Described {
        let others = [(1, "http://a:1", "a")];
        let members = others.iter().chain(mine).map(|(id, url, name)| DescribedMember {
            is_learner: false,
            id: *id,
            peer_urls: vec![(*url).to_owned()],
            name: (*name).to_owned(),
            client_urls: vec![],
        });
        Described {
            cluster_id: 9,
            member_id: 1,
            knowledge: Knowledge::Own,
            cluster_version: "3.5.0".to_owned(),
            members: members.collect(),
        }
    }

    /// Who this member is by these answers.
    fn recognized(answers: &[&Described]) -> Result<u64, String> {
        let listed = InitialCluster::parse("a=http://a:1,b=http://b:1", "t").unwrap();
        let answers: Vec<(String, Described)> = answers
            .iter()
            .enumerate()
            .map(|(number, answer)| (format!("http://p{number}:1"), (*answer).clone()))
            .collect();
        match recognize(&listed, &["http://b:1".to_owned()], &answers, Path::new("/d")) {
            Ok(identity) => {
                assert_eq!(identity.cluster_id, 9);
                Ok(identity.member_id)
            }
            Err(refusal) => Err(refusal.map_or_else(String::new, |refusal| refusal.to_string())),
        }
    }

    #[test]
    fn a_joining_member_finds_itself() {
        let new = described(&[(2, "http://b:1", "")]);
        assert_eq!(recognized(&[]), Err(String::new()));
        assert_eq!(recognized(&[&new]), Ok(2));
        let ran = described(&[(2, "http://b:1", "b")]);
        assert!(
            recognized(&[&ran]).unwrap_err().contains("member 2 has already been bootstrapped: http://p0:1 knows it")
        );
        let other = described(&[(2, "http://c:1", "")]);
        assert!(recognized(&[&other]).unwrap_err().contains("unmatched member"));
        assert!(recognized(&[&described(&[])]).unwrap_err().contains("member count is unequal"));
        let newer = Described { cluster_version: "99.0.0".to_owned(), ..new };
        assert!(recognized(&[&newer]).unwrap_err().contains("upgrade it first"));
    }

    #[test]
    fn a_joining_member_believes_nobody_alone() {
        let new = described(&[(2, "http://b:1", "")]);
        let (before_it, longer) = (described(&[]), described(&[(2, "http://b:1", "b"), (3, "http://c:1", "c")]));
        // Whose list is from before it was added, or after another one was, does not matter.
        assert_eq!(recognized(&[&before_it, &new]), Ok(2));
        assert_eq!(recognized(&[&new, &before_it]), Ok(2));
        for answers in [[&new, &longer], [&longer, &new]] {
            assert!(recognized(&answers).unwrap_err().contains("member 2 has already been bootstrapped"));
        }
        assert!(recognized(&[&before_it, &longer]).unwrap_err().contains("member count is unequal"));
        let newer = Described { cluster_version: "99.0.0".to_owned(), ..before_it.clone() };
        assert!(recognized(&[&new, &newer]).unwrap_err().contains("upgrade it first"));
        // Of another cluster.
        assert_eq!(recognized(&[&Described { cluster_id: 8, ..longer.clone() }, &new]), Ok(2));
        // The member that was removed, and is added again under another id.
        let former = described(&[(4, "http://b:1", "b")]);
        assert_eq!(recognized(&[&former, &new]), Ok(2));
        assert!(recognized(&[&before_it, &former]).unwrap_err().contains("member 4 has already been bootstrapped"));
    }
}
