//! Raft's requests and answers as the messages of `peer.proto`, and back.
//!
//! What comes from the wire is checked here: an entry or a membership that cannot be read is an error of the sender's
//! request, never a panic. Field by field the two sides mean the same; see `docs/format.md`.

use super::types::{
    Entry, EntryContent, LogId, Payload, TypeConfig, Vote, decode_membership, encode_membership, log_id,
};
use api::cleatpb::append_response::Result as AppendResult;
use api::cleatpb::log_entry::Content;
use api::cleatpb::transfer_leader_response::Refusal;
use api::cleatpb::{self, Appended, Ballot, LogEntry};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

/// A message of another member that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("malformed message of a peer: {0}")]
pub(crate) struct WireError(String);

fn missing(field: &'static str) -> WireError {
    WireError(format!("{field} is missing"))
}

pub(crate) fn to_log_id(id: LogId) -> cleatpb::LogId {
    cleatpb::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn from_log_id(id: cleatpb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn to_ballot(vote: &Vote) -> Ballot {
    Ballot { term: vote.leader_id.term, member_id: vote.leader_id.voted_for, committed: vote.committed }
}

/// # Errors
/// There is none.
pub(crate) fn from_ballot(ballot: Option<Ballot>) -> Result<Vote, WireError> {
    let Ballot { term, member_id, committed } = ballot.ok_or_else(|| missing("the ballot"))?;
    Ok(if committed { Vote::new_committed(term, member_id) } else { Vote::new(term, member_id) })
}

fn to_entry(entry: &Entry) -> LogEntry {
    let content = match &entry.payload {
        EntryContent::Blank => None,
        EntryContent::Normal(payload) => {
            let mut bytes = Vec::with_capacity(payload.encoded_len());
            payload.encode(&mut bytes);
            Some(Content::Batch(bytes.into()))
        }
        EntryContent::Membership(membership) => {
            let mut bytes = Vec::new();
            encode_membership(membership, &mut bytes);
            Some(Content::Membership(bytes.into()))
        }
    };
    LogEntry { term: entry.log_id.leader_id.term, index: entry.log_id.index, content }
}

fn from_entry(entry: LogEntry) -> Result<Entry, WireError> {
    let payload = match entry.content {
        None => EntryContent::Blank,
        Some(Content::Batch(bytes)) => {
            EntryContent::Normal(Payload::decode(&bytes).map_err(|error| WireError(error.to_string()))?)
        }
        Some(Content::Membership(bytes)) => {
            EntryContent::Membership(decode_membership(&bytes).map_err(|error| WireError(error.to_string()))?)
        }
    };
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload })
}

pub(crate) fn to_append(request: &AppendEntriesRequest<TypeConfig>) -> cleatpb::AppendRequest {
    cleatpb::AppendRequest {
        ballot: Some(to_ballot(&request.vote)),
        previous: request.prev_log_id.map(to_log_id),
        committed: request.leader_commit.map(to_log_id),
        entries: request.entries.iter().map(to_entry).collect(),
        lacks_majority: false,
    }
}

/// # Errors
/// The ballot is missing, an entry cannot be read, or the entries do not follow each other.
pub(crate) fn from_append(request: cleatpb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let prev_log_id = request.previous.map(from_log_id);
    let entries = request.entries.into_iter().map(from_entry).collect::<Result<Vec<_>, _>>()?;
    let mut next = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    for entry in &entries {
        if entry.log_id.index != next {
            return Err(WireError(format!("entry {} stands where {next} was expected", entry.log_id.index)));
        }
        next = next.saturating_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: from_ballot(request.ballot)?,
        prev_log_id,
        leader_commit: request.committed.map(from_log_id),
        entries,
    })
}

pub(crate) fn to_appended(result: &StreamAppendResult<TypeConfig>) -> cleatpb::AppendResponse {
    let result = match result {
        Ok(last) => AppendResult::Appended(Appended { last: last.map(to_log_id) }),
        Err(StreamAppendError::Conflict(at)) => AppendResult::Conflict(to_log_id(*at)),
        Err(StreamAppendError::HigherVote(vote)) => AppendResult::Newer(to_ballot(vote)),
    };
    cleatpb::AppendResponse { result: Some(result) }
}

/// # Errors
/// There is no result.
pub(crate) fn from_appended(response: cleatpb::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, WireError> {
    Ok(match response.result.ok_or_else(|| missing("the result of an append"))? {
        AppendResult::Appended(Appended { last }) => Ok(last.map(from_log_id)),
        AppendResult::Conflict(at) => Err(StreamAppendError::Conflict(from_log_id(at))),
        AppendResult::Newer(ballot) => Err(StreamAppendError::HigherVote(from_ballot(Some(ballot))?)),
    })
}

pub(crate) fn to_vote(request: &VoteRequest<TypeConfig>, is_trial: bool) -> cleatpb::VoteRequest {
    cleatpb::VoteRequest {
        ballot: Some(to_ballot(&request.vote)),
        last: request.last_log_id.map(to_log_id),
        is_transfer: request.leadership_transfer,
        is_trial,
    }
}

/// # Errors
/// The ballot is missing.
pub(crate) fn from_vote(request: &cleatpb::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    let mut vote = VoteRequest::new(from_ballot(request.ballot)?, request.last.map(from_log_id));
    vote.leadership_transfer = request.is_transfer;
    Ok(vote)
}

pub(crate) fn to_voted(response: &VoteResponse<TypeConfig>) -> cleatpb::VoteResponse {
    cleatpb::VoteResponse {
        ballot: Some(to_ballot(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.map(to_log_id),
    }
}

/// # Errors
/// The ballot is missing.
pub(crate) fn from_voted(response: &cleatpb::VoteResponse) -> Result<VoteResponse<TypeConfig>, WireError> {
    let vote = from_ballot(response.ballot)?;
    Ok(VoteResponse::new(vote, response.last.map(from_log_id), response.granted))
}

pub(crate) fn to_transfer(request: &TransferLeaderRequest<TypeConfig>) -> cleatpb::TransferLeaderRequest {
    cleatpb::TransferLeaderRequest {
        from: Some(to_ballot(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(to_log_id),
    }
}

/// # Errors
/// The leader's ballot is missing.
pub(crate) fn from_transfer(
    request: &cleatpb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    Ok(TransferLeaderRequest::new(from_ballot(request.from)?, request.to, request.last.map(from_log_id)))
}

pub(crate) fn to_transferred(result: Result<(), TransferLeaderError<TypeConfig>>) -> cleatpb::TransferLeaderResponse {
    let refusal = result.err().map(|refused| match refused {
        TransferLeaderError::VoteChanged { actual, .. } => Refusal::Changed(to_ballot(&actual)),
        TransferLeaderError::LogNotFlushed { actual, .. } => {
            Refusal::NotFlushed(actual.map(to_log_id).unwrap_or_default())
        }
    });
    cleatpb::TransferLeaderResponse { refusal }
}

/// What the target answered to `request`.
///
/// # Errors
/// A ballot is missing.
pub(crate) fn from_transferred(
    request: &TransferLeaderRequest<TypeConfig>,
    response: cleatpb::TransferLeaderResponse,
) -> Result<Result<(), TransferLeaderError<TypeConfig>>, WireError> {
    Ok(match response.refusal {
        None => Ok(()),
        Some(Refusal::Changed(ballot)) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: from_ballot(Some(ballot))?,
        }),
        Some(Refusal::NotFlushed(id)) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: Some(from_log_id(id)),
        }),
    })
}

/// The bytes of a stored membership, for a snapshot's head.
pub(crate) fn membership_bytes(membership: &[u8]) -> Bytes {
    Bytes::copy_from_slice(membership)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Membership, Peer};
    use api::cleatpb::{Batch, Command, Origin};
    use std::collections::{BTreeMap, BTreeSet};

    fn entries() -> Vec<Entry> {
        let origin = Some(Origin { member_id: 7, run: 8, sequence: 9 });
        let batch = Batch { commands: vec![Command::default()], origin };
        let peers = BTreeMap::from([(1, Peer { peer_urls: vec!["http://a:1".to_owned()], joins_as_voter: true })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], peers).unwrap();
        vec![
            Entry { log_id: log_id(2, 5), payload: EntryContent::Blank },
            Entry { log_id: log_id(2, 6), payload: EntryContent::Normal(Payload::new(batch)) },
            Entry { log_id: log_id(3, 7), payload: EntryContent::Membership(membership) },
        ]
    }

    #[test]
    fn appends_survive_the_wire() {
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: Some(log_id(1, 4)),
            leader_commit: Some(log_id(2, 6)),
            entries: entries(),
        };
        let back = from_append(to_append(&request)).unwrap();
        assert_eq!(format!("{back}"), format!("{request}"));
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let good = AppendEntriesRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: Some(log_id(1, 4)),
            leader_commit: None,
            entries: entries(),
        };
        let bad = |change: &dyn Fn(&mut cleatpb::AppendRequest)| {
            let mut message = to_append(&good);
            change(&mut message);
            from_append(message).map(drop).unwrap_err().to_string()
        };
        assert!(bad(&|m| m.ballot = None).contains("the ballot is missing"));
        assert!(bad(&|m| m.entries[1].index = 9).contains("entry 9 stands where 6 was expected"));
        assert!(bad(&|m| m.previous = None).contains("entry 5 stands where 0 was expected"));
        assert!(bad(&|m| m.entries[1].content = Some(Content::Batch(vec![0xff].into()))).contains("malformed"));
        assert!(bad(&|m| m.entries[2].content = Some(Content::Membership(vec![0xff].into()))).contains("malformed"));
    }

    #[test]
    fn answers_survive_the_wire() {
        for result in [
            Ok(None),
            Ok(Some(log_id(2, 6))),
            Err(StreamAppendError::Conflict(log_id(1, 4))),
            Err(StreamAppendError::HigherVote(Vote::new(4, 2))),
        ] {
            let back = from_appended(to_appended(&result)).unwrap();
            assert_eq!(format!("{back:?}"), format!("{result:?}"));
        }
        assert!(from_appended(cleatpb::AppendResponse::default()).is_err());
    }
}
