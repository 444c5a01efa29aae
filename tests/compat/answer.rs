//! What a server answered, and the normalisation that makes two servers' answers comparable.
//!
//! Only what must differ between two servers is replaced, and only when it is plausible, so that a wrong
//! cluster id or an empty version still shows:
//!
//! - cluster and member ids that equal the server's own become 1 (0 stays 0, anything else becomes 2);
//! - terms, raft indexes and database sizes become 1 unless they are 0;
//! - a version becomes `semver` when it is one;
//! - loopback ports in URLs become `PORT`;
//! - lease ids that the server chose become placeholders, in order of grant;
//! - lists without an order (leases, keys of a lease) are sorted.

use crate::concurrency::Granted;
use crate::op::chosen_lease;
use api::etcdserverpb as pb;
use api::mvccpb::{Event, KeyValue};
use tonic::{Code, Response, Status};

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    KeepAlive(Vec<pb::LeaseKeepAliveResponse>),
    HashKv(pb::HashKvResponse),
    Members(pb::MemberListResponse),
    Status(pb::StatusResponse),
    Alarm(pb::AlarmResponse),
    Defragment(pb::DefragmentResponse),
    MemberAdd(pb::MemberAddResponse),
    MemberRemove(pb::MemberRemoveResponse),
    MemberUpdate(pb::MemberUpdateResponse),
    MemberPromote(pb::MemberPromoteResponse),
    MoveLeader(pb::MoveLeaderResponse),
    Watch(pb::WatchResponse),
    Granted(Granted),
    Error {
        code: Code,
        message: String,
    },
    /// A request that has no answer, or whose answer has no meaning.
    Done,
    /// Nothing came within the deadline.
    Silence,
}

impl Answer {
    /// Wraps the outcome of a call.
    pub(crate) fn of<T>(outcome: Result<Response<T>, Status>, wrap: impl FnOnce(T) -> Self) -> Self {
        match outcome {
            Ok(response) => wrap(response.into_inner()),
            Err(status) => Self::error(&status),
        }
    }

    /// An error answer.
    pub(crate) fn error(status: &Status) -> Self {
        Self::Error { code: status.code(), message: status.message().to_owned() }
    }

    /// The revision in the header.
    pub(crate) fn revision(&self) -> i64 {
        let mut answer = self.clone();
        let mut revision = 0;
        answer.each_header(&mut |header| {
            if let Some(header) = header {
                revision = revision.max(header.revision);
            }
        });
        revision
    }

    fn each_header(&mut self, visit: &mut dyn FnMut(&mut Option<pb::ResponseHeader>)) {
        match self {
            Self::Range(r) => visit(&mut r.header),
            Self::Put(r) => visit(&mut r.header),
            Self::Delete(r) => visit(&mut r.header),
            Self::Txn(r) => txn_headers(r, visit),
            Self::Compact(r) => visit(&mut r.header),
            Self::Grant(r) => visit(&mut r.header),
            Self::Revoke(r) => visit(&mut r.header),
            Self::TimeToLive(r) => visit(&mut r.header),
            Self::Leases(r) => visit(&mut r.header),
            Self::KeepAlive(all) => all.iter_mut().for_each(|r| visit(&mut r.header)),
            Self::HashKv(r) => visit(&mut r.header),
            Self::Members(r) => visit(&mut r.header),
            Self::Status(r) => visit(&mut r.header),
            Self::Alarm(r) => visit(&mut r.header),
            Self::Defragment(r) => visit(&mut r.header),
            Self::MemberAdd(r) => visit(&mut r.header),
            Self::MemberRemove(r) => visit(&mut r.header),
            Self::MemberUpdate(r) => visit(&mut r.header),
            Self::MemberPromote(r) => visit(&mut r.header),
            Self::MoveLeader(r) => visit(&mut r.header),
            Self::Watch(r) => visit(&mut r.header),
            Self::Granted(r) => visit(&mut r.header),
            Self::Error { .. } | Self::Done | Self::Silence => {}
        }
    }

    fn each_kv(&mut self, visit: &mut dyn FnMut(&mut KeyValue)) {
        match self {
            Self::Range(r) => r.kvs.iter_mut().for_each(visit),
            Self::Put(r) => r.prev_kv.iter_mut().for_each(visit),
            Self::Delete(r) => r.prev_kvs.iter_mut().for_each(visit),
            Self::Txn(r) => txn_kvs(r, visit),
            Self::Granted(r) => r.kv.iter_mut().for_each(visit),
            _ => {}
        }
    }
}

fn txn_headers(txn: &mut pb::TxnResponse, visit: &mut dyn FnMut(&mut Option<pb::ResponseHeader>)) {
    use pb::response_op::Response as R;
    visit(&mut txn.header);
    for response in txn.responses.iter_mut().filter_map(|op| op.response.as_mut()) {
        match response {
            R::ResponseRange(r) => visit(&mut r.header),
            R::ResponsePut(r) => visit(&mut r.header),
            R::ResponseDeleteRange(r) => visit(&mut r.header),
            R::ResponseTxn(r) => txn_headers(r, visit),
        }
    }
}

fn txn_kvs(txn: &mut pb::TxnResponse, visit: &mut dyn FnMut(&mut KeyValue)) {
    use pb::response_op::Response as R;
    for response in txn.responses.iter_mut().filter_map(|op| op.response.as_mut()) {
        match response {
            R::ResponseRange(r) => r.kvs.iter_mut().for_each(&mut *visit),
            R::ResponsePut(r) => r.prev_kv.iter_mut().for_each(&mut *visit),
            R::ResponseDeleteRange(r) => r.prev_kvs.iter_mut().for_each(&mut *visit),
            R::ResponseTxn(r) => txn_kvs(r, visit),
        }
    }
}

/// The ids that a server has for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    /// Lease ids that the server chose, in order of grant.
    pub(crate) leases: Vec<i64>,
}

impl Ids {
    fn cluster(&self, id: u64) -> u64 {
        own(id, self.cluster)
    }

    fn member(&self, id: u64) -> u64 {
        own(id, self.member)
    }

    fn lease(&self, id: i64) -> i64 {
        self.leases.iter().position(|chosen| *chosen == id).map_or(id, chosen_lease)
    }

    /// Replaces in an answer everything that must differ between servers.
    pub(crate) fn normalise(&self, answer: &mut Answer) {
        answer.each_header(&mut |header| {
            if let Some(header) = header {
                header.cluster_id = self.cluster(header.cluster_id);
                header.member_id = self.member(header.member_id);
                header.raft_term = header.raft_term.min(1);
            }
        });
        answer.each_kv(&mut |kv| kv.lease = self.lease(kv.lease));
        match answer {
            Answer::Grant(r) => r.id = self.lease(r.id),
            Answer::TimeToLive(r) => {
                r.id = self.lease(r.id);
                r.keys.sort();
            }
            Answer::Leases(r) => {
                r.leases.iter_mut().for_each(|lease| lease.id = self.lease(lease.id));
                r.leases.sort_by_key(|lease| lease.id);
            }
            Answer::KeepAlive(all) => all.iter_mut().for_each(|r| r.id = self.lease(r.id)),
            Answer::Members(r) => self.members(&mut r.members),
            Answer::MemberAdd(r) => self.members(&mut r.members),
            Answer::MemberRemove(r) => self.members(&mut r.members),
            Answer::MemberUpdate(r) => self.members(&mut r.members),
            Answer::Alarm(r) => r.alarms.iter_mut().for_each(|alarm| alarm.member_id = self.member(alarm.member_id)),
            Answer::Status(r) => self.status(r),
            Answer::Watch(r) => r.events.iter_mut().for_each(|event| self.event(event)),
            _ => {}
        }
    }

    fn members(&self, members: &mut [pb::Member]) {
        for member in members {
            member.id = self.member(member.id);
            for url in member.peer_urls.iter_mut().chain(&mut member.client_urls) {
                if let Some(port) = url.strip_prefix("http://127.0.0.1:")
                    && port.parse::<u16>().is_ok()
                {
                    "http://127.0.0.1:PORT".clone_into(url);
                }
            }
        }
    }

    fn status(&self, r: &mut pb::StatusResponse) {
        r.leader = self.member(r.leader);
        r.raft_index = r.raft_index.min(1);
        r.raft_applied_index = r.raft_applied_index.min(1);
        r.raft_term = r.raft_term.min(1);
        r.db_size = r.db_size.min(1);
        r.db_size_in_use = r.db_size_in_use.min(1);
        if r.version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3 {
            "semver".clone_into(&mut r.version);
        }
        for error in &mut r.errors {
            *error = error.replace(&self.member.to_string(), "1");
        }
    }

    /// Replaces lease ids in an event.
    pub(crate) fn event(&self, event: &mut Event) {
        for kv in event.kv.iter_mut().chain(&mut event.prev_kv) {
            kv.lease = self.lease(kv.lease);
        }
    }
}

fn own(id: u64, known: u64) -> u64 {
    match id {
        0 => 0,
        id if id == known => 1,
        _ => 2,
    }
}
