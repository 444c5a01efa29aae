//! Fuzz targets: what clients, other members and files give a member to read.
//!
//! Here are requests and the messages of other members; the others stand beside the private code that they are about.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is what a fuzz target reports")]

use crate::audit::describe;
use crate::raft::types::{
    Payload, Vote, decode_membership, decode_stored_membership, encode_membership, encode_stored_membership,
};
use crate::raft::wire;
use crate::v3::check;
use ::fuzz::{Memory, Target};
use api::cleatpb;
use api::descriptor::METHODS;
use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use bytes::Bytes;
use openraft::raft::TransferLeaderRequest;
use prost::Message;
use store::Progress;

pub static TARGETS: [Target; 6] = [
    REQUESTS,
    PEER,
    crate::v3::json::fuzz_target::GATEWAY,
    crate::raft::wal::fuzz_target::WAL,
    crate::listen::fuzz_target::HTTP2,
    crate::tls::fuzz_target::CERTIFICATE,
];

/// Two bytes can be an empty message within a message, which takes a hundred; a list that grows has them twice.
const DECODED: Memory = Memory { base: 1 << 20, per_byte: 1024 };

/// The number of a method, and its request as gRPC brings it.
const REQUESTS: Target = Target { name: "requests", seeds: request_seeds, run: request, memory: DECODED };

/// The number of a message, and the message.
const PEER: Target = Target { name: "peer", seeds: peer_seeds, run: peer, memory: DECODED };

/// Decodes a message and encodes it again; None for bytes that are none.
pub(crate) type Recode = fn(&[u8]) -> Option<Vec<u8>>;

fn recode<M: Message + Default>(bytes: &[u8]) -> Option<Vec<u8>> {
    M::decode(bytes).ok().map(|message| message.encode_to_vec())
}

macro_rules! messages {
    ($($package:ident: $($name:ident)*;)*) => {
        /// By the full name of a message, whose capitals may be others.
        pub(crate) fn recoder(name: &str) -> Option<Recode> {
            $($(
                if name.eq_ignore_ascii_case(concat!(stringify!($package), ".", stringify!($name))) {
                    return Some(recode::<api::$package::$name>);
                }
            )*)*
            None
        }
    };
}

messages! {
    etcdserverpb:
        RangeRequest RangeResponse RangeStreamResponse PutRequest PutResponse DeleteRangeRequest DeleteRangeResponse
        TxnRequest TxnResponse CompactionRequest CompactionResponse WatchRequest WatchResponse
        LeaseGrantRequest LeaseGrantResponse LeaseRevokeRequest LeaseRevokeResponse LeaseKeepAliveRequest
        LeaseKeepAliveResponse LeaseTimeToLiveRequest LeaseTimeToLiveResponse LeaseLeasesRequest LeaseLeasesResponse
        MemberAddRequest MemberAddResponse MemberRemoveRequest MemberRemoveResponse MemberUpdateRequest
        MemberUpdateResponse MemberListRequest MemberListResponse MemberPromoteRequest MemberPromoteResponse
        AlarmRequest AlarmResponse StatusRequest StatusResponse DefragmentRequest DefragmentResponse
        HashRequest HashResponse HashKvRequest HashKvResponse SnapshotRequest SnapshotResponse
        MoveLeaderRequest MoveLeaderResponse DowngradeRequest DowngradeResponse
        AuthEnableRequest AuthEnableResponse AuthDisableRequest AuthDisableResponse AuthStatusRequest
        AuthStatusResponse AuthenticateRequest AuthenticateResponse
        AuthUserAddRequest AuthUserAddResponse AuthUserGetRequest AuthUserGetResponse AuthUserListRequest
        AuthUserListResponse AuthUserDeleteRequest AuthUserDeleteResponse AuthUserChangePasswordRequest
        AuthUserChangePasswordResponse AuthUserGrantRoleRequest AuthUserGrantRoleResponse
        AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse
        AuthRoleAddRequest AuthRoleAddResponse AuthRoleGetRequest AuthRoleGetResponse AuthRoleListRequest
        AuthRoleListResponse AuthRoleDeleteRequest AuthRoleDeleteResponse AuthRoleGrantPermissionRequest
        AuthRoleGrantPermissionResponse AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse;
    v3lockpb: LockRequest LockResponse UnlockRequest UnlockResponse;
    v3electionpb:
        CampaignRequest CampaignResponse ProclaimRequest ProclaimResponse LeaderRequest LeaderResponse
        ResignRequest ResignResponse;
}

fn request(input: &[u8]) {
    let Some((&number, message)) = input.split_first() else { return };
    let method = &METHODS[usize::from(number) % METHODS.len()];
    let recode = recoder(method.input.name).unwrap();
    // The audit log describes what it gets; what is no message is refused later.
    describe::describe(method.path, Bytes::copy_from_slice(message));
    let Some(again) = recode(message) else { return };
    assert_eq!(recode(&again).as_ref(), Some(&again), "{}", method.path);
    match method.path {
        "/etcdserverpb.KV/Range" => drop(check::range(&RangeRequest::decode(message).unwrap())),
        "/etcdserverpb.KV/RangeStream" => drop(check::range_stream(&RangeRequest::decode(message).unwrap())),
        "/etcdserverpb.KV/Put" => drop(check::put(&PutRequest::decode(message).unwrap())),
        "/etcdserverpb.KV/DeleteRange" => drop(check::delete_range(&DeleteRangeRequest::decode(message).unwrap())),
        "/etcdserverpb.KV/Txn" => {
            let txn = TxnRequest::decode(message).unwrap();
            // What is allowed is allowed with more operations, too.
            if check::txn(&txn, 128).is_ok() {
                check::txn(&txn, 100_000).unwrap();
            }
            store::is_read_only(&txn);
        }
        _ => {}
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, method) in METHODS.iter().enumerate() {
        for message in crate::v3::json::fuzz_target::examples(method.input) {
            seeds.push([&[number as u8], &*message].concat());
        }
    }
    seeds
}

const MESSAGES: u8 = 11;

fn peer(input: &[u8]) {
    let Some((&number, message)) = input.split_first() else { return };
    match number % MESSAGES {
        0 => append(message),
        1 => {
            let Some(Ok(result)) = cleatpb::AppendResponse::decode(message).ok().map(wire::from_appended) else {
                return;
            };
            let again = wire::from_appended(wire::to_appended(&result)).unwrap();
            assert_eq!(format!("{again:?}"), format!("{result:?}"));
        }
        2 => {
            let Ok(request) = cleatpb::VoteRequest::decode(message) else { return };
            let Ok(vote) = wire::from_vote(&request) else { return };
            assert_eq!(wire::to_vote(&vote, request.is_trial), request);
        }
        3 => {
            let Ok(response) = cleatpb::VoteResponse::decode(message) else { return };
            let Ok(vote) = wire::from_voted(&response) else { return };
            assert_eq!(wire::to_voted(&vote), response);
        }
        4 => {
            let Ok(request) = cleatpb::TransferLeaderRequest::decode(message) else { return };
            let Ok(transfer) = wire::from_transfer(&request) else { return };
            assert_eq!(wire::to_transfer(&transfer), request);
        }
        5 => {
            let Ok(response) = cleatpb::TransferLeaderResponse::decode(message) else { return };
            let request = TransferLeaderRequest::new(Vote::new_committed(3, 9), 5, None);
            if let Ok(result) = wire::from_transferred(&request, response) {
                assert_eq!(wire::to_transferred(result), response);
            }
        }
        6 => {
            let Ok(piece) = cleatpb::SnapshotPiece::decode(message) else { return };
            let Ok(stored) = decode_stored_membership(&piece.head.unwrap_or_default().membership) else { return };
            assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)).unwrap(), stored);
        }
        7 => {
            let Ok(receipt) = cleatpb::SnapshotReceipt::decode(message) else { return };
            // The token as it is, and with the right checksum.
            let sum = crc32c::crc32c(&receipt.progress).to_be_bytes();
            for token in [receipt.progress.to_vec(), [&receipt.progress[..], &sum].concat()] {
                if let Some(progress) = Progress::decode(&token) {
                    assert_eq!(progress.encode(), token);
                }
            }
        }
        8 => propose(message),
        9 => {
            let Ok(request) = cleatpb::ReadIndexRequest::decode(message) else { return };
            if let Some(ballot) = request.ballot {
                wire::from_ballot(Some(ballot)).unwrap();
            }
        }
        _ => {
            drop((cleatpb::LeaseRenewRequest::decode(message), cleatpb::MembershipChange::decode(message)));
            let Ok(membership) = decode_membership(message) else { return };
            let mut again = Vec::new();
            encode_membership(&membership, &mut again);
            assert_eq!(decode_membership(&again).unwrap(), membership);
        }
    }
}

fn propose(message: &[u8]) {
    let Ok(request) = cleatpb::ProposeRequest::decode(message) else { return };
    let Ok(payload) = Payload::decode(&request.batch) else { return };
    let mut again = Vec::new();
    payload.encode(&mut again);
    assert_eq!(again.len(), payload.encoded_len());
    assert!(Payload::decode(&again).unwrap() == payload);
}

fn append(message: &[u8]) {
    let Ok(request) = cleatpb::AppendRequest::decode(message) else { return };
    let Ok(request) = wire::from_append(request) else { return };
    let again = wire::from_append(wire::to_append(&request)).unwrap();
    assert!(again.entries == request.entries && again.vote == request.vote, "{again} is {request}");
    assert_eq!((again.prev_log_id, again.leader_commit), (request.prev_log_id, request.leader_commit));
}

/// One of each message, the larger ones with everything in them.
fn peer_seeds() -> Vec<Vec<u8>> {
    use cleatpb::command::Op;
    use cleatpb::log_entry::Content;
    let leads = cleatpb::Ballot { term: 3, member_id: 9, committed: true };
    let ballot = Some(leads);
    let id = |index| cleatpb::LogId { term: 2, index };
    let put = PutRequest { key: "key".into(), value: "value".into(), lease: 7, ..PutRequest::default() };
    let header = Some(cleatpb::CommandHeader { username: "ann".into(), auth_revision: 3, by_member: false });
    let command = cleatpb::Command { header, op: Some(Op::Put(put)) };
    let origin = Some(cleatpb::Origin { member_id: 7, run: 8, sequence: 9 });
    let batch: Bytes = cleatpb::Batch { commands: vec![command.clone(), command], origin }.encode_to_vec().into();
    // As in the log: sets of voters, then members.
    let membership = Bytes::from_static(b"\x0a\x03\x0a\x01\x01\x12\x0e\x08\x01\x12\x08http://a\x18\x01");
    let stored = [b"\x0a\x04\x08\x02\x10\x05\x12\x15", &membership[..]].concat();
    let entries = vec![
        cleatpb::LogEntry { term: 2, index: 5, content: None },
        cleatpb::LogEntry { term: 2, index: 6, content: Some(Content::Batch(batch.clone())) },
        cleatpb::LogEntry { term: 3, index: 7, content: Some(Content::Membership(membership.clone())) },
    ];
    let head = Some(cleatpb::SnapshotHead { ballot, last: Some(id(5)), membership: stored.into() });
    let append = cleatpb::AppendRequest {
        ballot,
        previous: Some(id(4)),
        committed: Some(id(6)),
        entries,
        lacks_majority: false,
    };
    let appended = |result| cleatpb::AppendResponse { result: Some(result) }.encode_to_vec();
    let refusal = Some(cleatpb::transfer_leader_response::Refusal::NotFlushed(id(4)));
    let piece = cleatpb::SnapshotPiece { head, data: "data".into(), is_last: true, restarts: false };
    let receipt = cleatpb::SnapshotReceipt {
        progress: Progress::default().encode().into(),
        received_bytes: 70_000,
        done: ballot,
    };
    [
        (0, append.encode_to_vec()),
        (1, appended(cleatpb::append_response::Result::Appended(cleatpb::Appended { last: Some(id(6)) }))),
        (1, appended(cleatpb::append_response::Result::Newer(leads))),
        (2, cleatpb::VoteRequest { ballot, last: Some(id(6)), is_transfer: true, is_trial: true }.encode_to_vec()),
        (3, cleatpb::VoteResponse { ballot, granted: true, last: Some(id(6)) }.encode_to_vec()),
        (4, cleatpb::TransferLeaderRequest { from: ballot, to: 5, last: Some(id(6)) }.encode_to_vec()),
        (5, cleatpb::TransferLeaderResponse { refusal }.encode_to_vec()),
        (6, piece.encode_to_vec()),
        (7, receipt.encode_to_vec()),
        (8, cleatpb::ProposeRequest { batch }.encode_to_vec()),
        (9, cleatpb::ReadIndexRequest { ballot, member_id: 5 }.encode_to_vec()),
        (10, membership.to_vec()),
    ]
    .map(|(number, message)| [&[number], &*message].concat())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::{METHODS, TARGETS, peer_seeds, recoder};
    use api::cleatpb::AppendRequest;
    use prost::Message as _;

    fn short(name: &str) {
        fuzz::short::run(TARGETS.iter().find(|target| target.name == name).unwrap());
    }

    #[test]
    fn every_message_of_the_api_is_decoded() {
        for message in METHODS.iter().flat_map(|method| [method.input, method.output]) {
            assert!(recoder(message.name).is_some(), "{}", message.name);
        }
    }

    /// A seed that is refused reaches nothing.
    #[test]
    fn the_seeds_of_members_messages_are_messages() {
        let append = AppendRequest::decode(&peer_seeds()[0][1..]).unwrap();
        assert_eq!(crate::raft::wire::from_append(append).unwrap().entries.len(), 3);
        let piece = api::cleatpb::SnapshotPiece::decode(&peer_seeds()[7][1..]).unwrap();
        crate::raft::types::decode_stored_membership(&piece.head.unwrap().membership).unwrap();
        crate::raft::types::decode_membership(&peer_seeds()[11][1..]).unwrap();
    }

    #[test]
    fn requests() {
        short("requests");
    }

    #[test]
    fn peer() {
        short("peer");
    }

    #[test]
    fn gateway() {
        short("gateway");
    }

    #[test]
    fn wal() {
        short("wal");
    }

    #[test]
    fn http2() {
        short("http2");
    }

    #[test]
    fn certificate() {
        short("certificate");
    }
}
