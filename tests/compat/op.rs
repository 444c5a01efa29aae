//! One request of a sequence, as data.
//!
//! Generator, executor, printer and comparer all work on [`Op`]. What is known only while running (the current
//! revision, ids chosen by the server) is written as a placeholder number inside the messages, and replaced per
//! server by [`Resolver`] just before sending. So a sequence keeps its meaning when steps are taken out of it.

use crate::concurrency::Call;
use api::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, MemberAddRequest,
    MemberUpdateRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, compare, request_op,
};
use bytes::Bytes;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(i64),
    TimeToLive {
        id: i64,
        keys: bool,
    },
    Leases,
    /// All on one keepalive stream.
    KeepAlive(Vec<i64>),
    HashKv(i64),
    Members,
    Status,
    Alarm(AlarmRequest),
    Defragment,
    MemberAdd(MemberAddRequest),
    MemberRemove(u64),
    MemberUpdate(MemberUpdateRequest),
    MemberPromote(u64),
    MoveLeader(u64),
    /// Ends the watch stream in this slot and opens a new one.
    WatchOpen(usize),
    WatchCreate {
        slot: usize,
        request: WatchCreateRequest,
    },
    WatchCancel {
        slot: usize,
        id: i64,
    },
    WatchProgress(usize),
    /// A watch request without its oneof.
    WatchNothing(usize),
    /// A call of the Lock or Election service.
    Concurrency(Call),
    /// Any bytes to any path.
    Raw {
        path: &'static str,
        payload: Bytes,
        what: &'static str,
    },
}

impl Op {
    /// Name of the kind, for signatures and statistics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Range(_) => "Range",
            Self::Put(_) => "Put",
            Self::Delete(_) => "DeleteRange",
            Self::Txn(_) => "Txn",
            Self::Compact(_) => "Compact",
            Self::Grant(_) => "LeaseGrant",
            Self::Revoke(_) => "LeaseRevoke",
            Self::TimeToLive { .. } => "LeaseTimeToLive",
            Self::Leases => "LeaseLeases",
            Self::KeepAlive(_) => "LeaseKeepAlive",
            Self::HashKv(_) => "HashKV",
            Self::Members => "MemberList",
            Self::Status => "Status",
            Self::Alarm(_) => "Alarm",
            Self::Defragment => "Defragment",
            Self::MemberAdd(_) => "MemberAdd",
            Self::MemberRemove(_) => "MemberRemove",
            Self::MemberUpdate(_) => "MemberUpdate",
            Self::MemberPromote(_) => "MemberPromote",
            Self::MoveLeader(_) => "MoveLeader",
            Self::WatchOpen(_) => "WatchOpen",
            Self::WatchCreate { .. } => "WatchCreate",
            Self::WatchCancel { .. } => "WatchCancel",
            Self::WatchProgress(_) => "WatchProgress",
            Self::WatchNothing(_) => "WatchNothing",
            Self::Concurrency(call) => call.kind(),
            Self::Raw { .. } => "Raw",
        }
    }

    /// True when the request changes nothing that a later request can see.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Range(_)
                | Self::TimeToLive { .. }
                | Self::Leases
                | Self::KeepAlive(_)
                | Self::HashKv(_)
                | Self::Members
                | Self::Status
                | Self::WatchProgress(_)
                | Self::Raw { .. }
        )
    }

    /// True when the answer depends on every watcher having received what it is owed.
    pub(crate) fn needs_settled_watchers(&self) -> bool {
        matches!(self, Self::Compact(_) | Self::WatchCancel { .. } | Self::WatchProgress(_) | Self::WatchOpen(_))
    }
}

/// Half the width of a band of placeholder numbers.
const HALF_BAND: i64 = 1 << 20;
const CURRENT: i64 = 1 << 60;
const COMPACTED: i64 = 1 << 61;
const CHOSEN: i64 = 1 << 59;
const THIS_MEMBER: u64 = 1 << 58;

/// Placeholder of the current revision plus `delta`.
pub(crate) fn current(delta: i64) -> i64 {
    CURRENT + delta
}

/// Placeholder of the last compacted revision plus `delta`.
pub(crate) fn compacted(delta: i64) -> i64 {
    COMPACTED + delta
}

/// Placeholder of the `index`-th lease id that the server chose.
pub(crate) fn chosen_lease(index: usize) -> i64 {
    CHOSEN + index as i64
}

/// Placeholder of the id of the member that is asked.
pub(crate) fn this_member() -> u64 {
    THIS_MEMBER
}

fn delta_from(base: i64, value: i64) -> Option<i64> {
    let delta = value.checked_sub(base)?;
    (-HALF_BAND..HALF_BAND).contains(&delta).then_some(delta)
}

/// A revision as a reader wants to see it.
pub(crate) fn show_revision(value: i64) -> String {
    for (base, name) in [(CURRENT, "current"), (COMPACTED, "compacted")] {
        if let Some(delta) = delta_from(base, value) {
            return format!("{name}{delta:+}");
        }
    }
    value.to_string()
}

/// A lease id as a reader wants to see it.
pub(crate) fn show_lease(value: i64) -> String {
    delta_from(CHOSEN, value).map_or_else(|| value.to_string(), |n| format!("chosen#{n}"))
}

/// What placeholders stand for at one step on one server.
#[derive(Clone, Debug)]
pub(crate) struct Resolver<'a> {
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    pub(crate) leases: &'a [i64],
    pub(crate) member: u64,
}

impl Resolver<'_> {
    /// The revision to send.
    pub(crate) fn revision(&self, value: i64) -> i64 {
        if let Some(delta) = delta_from(CURRENT, value) {
            return self.current + delta;
        }
        delta_from(COMPACTED, value).map_or(value, |delta| self.compacted + delta)
    }

    fn lease(&self, value: i64) -> i64 {
        match delta_from(CHOSEN, value) {
            // An id that was never chosen stands for an unknown lease.
            Some(index) => self.leases.get(index as usize).copied().unwrap_or(value),
            None => value,
        }
    }

    fn member(&self, value: u64) -> u64 {
        if value == THIS_MEMBER { self.member } else { value }
    }

    /// The request to send.
    pub(crate) fn resolve(&self, op: &Op) -> Op {
        let mut op = op.clone();
        match &mut op {
            Op::Range(request) => self.range(request),
            Op::Put(request) => request.lease = self.lease(request.lease),
            Op::Txn(request) => self.txn(request),
            Op::Compact(request) => request.revision = self.revision(request.revision),
            Op::HashKv(revision) => *revision = self.revision(*revision),
            Op::Revoke(id) | Op::TimeToLive { id, .. } => *id = self.lease(*id),
            Op::KeepAlive(ids) => ids.iter_mut().for_each(|id| *id = self.lease(*id)),
            Op::WatchCreate { request, .. } => request.start_revision = self.revision(request.start_revision),
            Op::Alarm(request) => request.member_id = self.member(request.member_id),
            Op::MemberUpdate(request) => request.id = self.member(request.id),
            Op::MemberPromote(id) | Op::MoveLeader(id) => *id = self.member(*id),
            Op::Concurrency(call) => call.resolve(self),
            Op::Delete(_)
            | Op::Grant(_)
            | Op::Leases
            | Op::Members
            | Op::Status
            | Op::Defragment
            | Op::MemberAdd(_)
            | Op::MemberRemove(_)
            | Op::WatchOpen(_)
            | Op::WatchCancel { .. }
            | Op::WatchProgress(_)
            | Op::WatchNothing(_)
            | Op::Raw { .. } => {}
        }
        op
    }

    fn range(&self, request: &mut RangeRequest) {
        for revision in [
            &mut request.revision,
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            *revision = self.revision(*revision);
        }
    }

    fn txn(&self, request: &mut TxnRequest) {
        request.compare.iter_mut().for_each(|compare| self.compare(compare));
        for RequestOp { request } in request.success.iter_mut().chain(&mut request.failure) {
            match request {
                Some(request_op::Request::RequestRange(range)) => self.range(range),
                Some(request_op::Request::RequestPut(put)) => put.lease = self.lease(put.lease),
                Some(request_op::Request::RequestTxn(txn)) => self.txn(txn),
                Some(request_op::Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }

    fn compare(&self, compare: &mut Compare) {
        use compare::TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
        match &mut compare.target_union {
            Some(CreateRevision(revision) | ModRevision(revision)) => *revision = self.revision(*revision),
            Some(Lease(id)) => *id = self.lease(*id),
            Some(Version(_) | Value(_)) | None => {}
        }
    }
}
