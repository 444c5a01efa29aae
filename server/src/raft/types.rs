//! openraft's generics, closed once, and the encoding of what raft replicates.
//!
//! The rest of the member names raft things through the aliases below, so that an openraft upgrade
//! is felt in `raft/` only. The encodings are shared by the log on disk, the wire between members and
//! the state machine's stored membership; `docs/format.md` describes them.
//!
//! Nothing here does I/O or knows how an entry travels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::steps::ApplyTimes;
use api::cleatpb::Batch;
use openraft::alias;
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_std;
use prost::Message;

/// What openraft's tasks run on.
#[cfg(not(test))]
type Runtime = openraft::impls::TokioRuntime;
/// The same, and what is random follows from a seed in a simulation.
#[cfg(test)]
type Runtime = crate::simulation::runtime::Runtime;

/// The type configuration of every raft type in this member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    // One leader per term, as in etcd, so that `raft_term` means the same thing.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, Peer>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = Runtime;
    type ErrorSource = openraft::AnyError;
}

/// Position in the raft log: term of the leader that wrote the entry, and index.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// The term of an elected leader, as it stands in a [`LogId`].
pub type CommittedLeaderId = alias::CommittedLeaderIdOf<TypeConfig>;
/// Who was voted for, or leads, in which term.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// A vote, or with `committed` an established leadership.
pub type Vote = alias::VoteOf<TypeConfig>;
/// One entry of the raft log.
pub type Entry = alias::EntryOf<TypeConfig>;
/// What an entry carries: nothing (a new leader's first entry), commands or a membership.
pub type EntryContent = alias::PayloadOf<TypeConfig>;
/// Voters, learners and their peer URLs.
pub type Membership = openraft::Membership<u64, Peer>;
/// A [`Membership`] with the position of the entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// First and last position held by the log.
pub type LogState = openraft::LogState<TypeConfig>;
/// Told when an append is durable.
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;
/// Position and membership that a snapshot stands for.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// The raft node, with `S` as its state machine.
pub type Raft<S> = openraft::Raft<TypeConfig, S>;

/// Builds the [`LogId`] of `index` written by the leader of `term`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// The commands of one log entry, decoded. Clones share them, so the log's memory, replication and
/// apply hold the same batch, and a leader never decodes what it proposed.
///
/// `Debug` and `Display` show no key, value or password.
#[derive(Clone, PartialEq)]
pub struct Payload(Arc<Batch>);

impl Payload {
    /// Wraps a batch. Its `bytes` fields must own their memory (see `api`'s crate documentation).
    pub fn new(batch: Batch) -> Self {
        Self(Arc::new(batch))
    }

    /// The commands, in the order in which they are applied.
    pub fn batch(&self) -> &Batch {
        &self.0
    }

    /// Bytes that [`Self::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    /// Appends the encoded batch to `buf`.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        // Invariant: encoding fails only when the buffer cannot grow, and a Vec can.
        self.0.encode(buf).expect("invariant: a Vec grows");
    }

    /// Decodes a batch. Every `bytes` field is copied out of `encoded`, so that a stored key does
    /// not pin the buffer it came in.
    ///
    /// # Errors
    /// When `encoded` is not a batch.
    pub fn decode(encoded: &[u8]) -> Result<Self, prost::DecodeError> {
        Batch::decode(encoded).map(Self::new)
    }
}

impl From<Batch> for Payload {
    fn from(batch: Batch) -> Self {
        Self::new(batch)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.commands.len())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({self})")
    }
}

/// The answer to one command.
pub type Outcome = store::Outcome;

/// The answers to the commands of one entry, in their order. Empty for entries without commands.
#[derive(Default)]
pub struct Outcomes {
    /// The answers.
    pub outcomes: Vec<Outcome>,
    /// When the entry was applied, with its batch.
    pub applied: Option<ApplyTimes>,
    /// Who the entry was forwarded to; 0 for nobody.
    pub leader: u64,
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outcomes({})", self.outcomes.len())
    }
}

/// What the membership knows of a member besides its id. Names and client URLs are published by the
/// member itself and live in the state machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Added as a voter: while raft still lists it as a learner, it becomes a voter as soon as it has
    /// caught up. A member that was added as a learner stays one until it is promoted.
    pub joins_as_voter: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_urls.join(","))
    }
}

/// A stored membership that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Not the expected message.
    #[error("malformed membership: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The message is well formed, its content contradicts itself.
    #[error("inconsistent membership: {0}")]
    Inconsistent(String),
}

/// Appends the encoding of `membership` to `buf`.
pub fn encode_membership(membership: &Membership, buf: &mut Vec<u8>) {
    // Invariant: encoding fails only when the buffer cannot grow, and a Vec can.
    MembershipMessage::from(membership).encode(buf).expect("invariant: a Vec grows");
}

/// Reads what [`encode_membership`] wrote.
///
/// # Errors
/// [`MembershipError`], when the bytes are not a membership or a voter is not among the members.
pub fn decode_membership(encoded: &[u8]) -> Result<Membership, MembershipError> {
    MembershipMessage::decode(encoded)?.try_into()
}

/// Encodes a membership together with the position of its entry.
pub fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let log_id = stored.log_id().map(|id| LogIdMessage { term: id.leader_id.term, index: id.index });
    StoredMembershipMessage { log_id, membership: Some(stored.membership().into()) }.encode_to_vec()
}

/// Reads what [`encode_stored_membership`] wrote.
///
/// # Errors
/// [`MembershipError`], as for [`decode_membership`].
pub fn decode_stored_membership(encoded: &[u8]) -> Result<StoredMembership, MembershipError> {
    let message = StoredMembershipMessage::decode(encoded)?;
    let log_id = message.log_id.map(|id| log_id(id.term, id.index));
    Ok(StoredMembership::new(log_id, message.membership.unwrap_or_default().try_into()?))
}

#[derive(Clone, PartialEq, Message)]
struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMembershipMessage {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdMessage>,
    #[prost(message, optional, tag = "2")]
    membership: Option<MembershipMessage>,
}

/// More than one set of voters stands for a change in two steps (joint consensus).
#[derive(Clone, PartialEq, Message)]
struct MembershipMessage {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VotersMessage>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct VotersMessage {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, repeated, tag = "2")]
    peer_urls: Vec<String>,
    #[prost(bool, tag = "3")]
    joins_as_voter: bool,
}

impl From<&Membership> for MembershipMessage {
    fn from(membership: &Membership) -> Self {
        let voters = membership.get_joint_config().iter();
        let members = membership.nodes().map(|(id, peer)| MemberMessage {
            id: *id,
            peer_urls: peer.peer_urls.clone(),
            joins_as_voter: peer.joins_as_voter,
        });
        Self {
            voters: voters.map(|ids| VotersMessage { ids: ids.iter().copied().collect() }).collect(),
            members: members.collect(),
        }
    }
}

impl TryFrom<MembershipMessage> for Membership {
    type Error = MembershipError;

    fn try_from(message: MembershipMessage) -> Result<Self, MembershipError> {
        let voters: Vec<BTreeSet<u64>> = message.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
        let members: BTreeMap<u64, Peer> = message
            .members
            .into_iter()
            .map(|m| (m.id, Peer { peer_urls: m.peer_urls, joins_as_voter: m.joins_as_voter }))
            .collect();
        Self::new(voters, members).map_err(|e| MembershipError::Inconsistent(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cleatpb::{Command, command::Op};
    use api::etcdserverpb::PutRequest;

    fn peer(url: &str, joins_as_voter: bool) -> Peer {
        Peer { peer_urls: vec![url.to_owned()], joins_as_voter }
    }

    #[test]
    fn stored_membership_survives_encoding() {
        let nodes =
            BTreeMap::from([(1, peer("http://a:2380", true)), (2, Peer::default()), (u64::MAX, peer("b", false))]);
        for voters in [vec![BTreeSet::from([1, 2])], vec![BTreeSet::from([1]), BTreeSet::from([1, u64::MAX])]] {
            let membership = Membership::new(voters, nodes.clone()).unwrap();
            for at in [None, Some(log_id(3, 7))] {
                let stored = StoredMembership::new(at, membership.clone());
                assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)).unwrap(), stored);
            }
        }
        let empty = StoredMembership::default();
        assert_eq!(decode_stored_membership(&encode_stored_membership(&empty)).unwrap(), empty);
    }

    #[test]
    fn voter_without_member_is_refused() {
        let message = MembershipMessage { voters: vec![VotersMessage { ids: vec![9] }], members: vec![] };
        let error = decode_membership(&message.encode_to_vec()).unwrap_err();
        assert!(matches!(error, MembershipError::Inconsistent(_)), "{error}");
        assert!(matches!(decode_membership(&[0xff; 3]).unwrap_err(), MembershipError::Malformed(_)));
    }

    #[test]
    fn payload_survives_encoding_and_hides_its_values() {
        let put = PutRequest { key: "key".into(), value: "hunter2".into(), ..Default::default() };
        let command = Command { header: None, op: Some(Op::Put(put)) };
        let payload = Payload::new(Batch { commands: vec![command], origin: None });
        let mut encoded = Vec::new();
        payload.encode(&mut encoded);
        assert_eq!(encoded.len(), payload.encoded_len());
        assert_eq!(Payload::decode(&encoded).unwrap(), payload);
        let entry = Entry { log_id: log_id(1, 2), payload: EntryContent::Normal(payload) };
        assert_eq!(entry.to_string(), "1.2:normal:1 commands");
        assert!(!format!("{entry:?}").contains("hunter2"));
    }
}
