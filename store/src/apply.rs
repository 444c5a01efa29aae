//! Applies committed log entries. Total and deterministic: every command has an outcome, the same on every member.
//!
//! One lock for the whole batch, memory only (a previous value that is not cached is the exception). What was
//! applied is durable in the log; the flush brings it to the database.

use crate::auth;
use crate::auth::permit::{Asked, permit};
use crate::command::{Applied, Entry, Notice, Outcome, Reply};
use crate::error::{Fault, ReadError, Rejection};
use crate::lease::Lease;
use crate::mvcc::state::{Shared, State};
use crate::mvcc::write::WriteTxn;
use crate::mvcc::{key_range::KeyRange, txn};
use crate::v2;
use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, LeaseCheckpointRequest, LeaseGrantRequest, TxnRequest,
};
use std::sync::Arc;

/// Longest time to live of a lease, seconds. etcd's limit.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// The one handle that changes the state. Not `Clone`: there is one.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
}

impl Writer {
    /// Applies entries in order.
    ///
    /// # Errors
    /// A fault means that this member must stop; the state may hold part of the batch.
    pub fn apply<'a>(&mut self, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<Applied, Fault> {
        self.apply_telling(entries, |_, _| ())
    }

    /// As [`Writer::apply`], and tells of each command as soon as it is applied: whoever has a clock can look at it.
    ///
    /// # Errors
    /// As [`Writer::apply`].
    pub fn apply_telling<'a>(
        &mut self,
        entries: impl IntoIterator<Item = Entry<'a>>,
        mut tell: impl FnMut(&Command, &Outcome),
    ) -> Result<Applied, Fault> {
        let mut applied = Applied::default();
        let mut state = self.shared.state.write();
        for entry in entries {
            debug_assert!(state.applied.index < entry.position.index, "entries are applied once and in order");
            let mut outcomes = Vec::with_capacity(entry.commands.len());
            for command in entry.commands {
                let outcome = self.apply_command(&mut state, command, entry.position.index, &mut applied)?;
                tell(command, &outcome);
                outcomes.push(outcome);
            }
            applied.outcomes.push(outcomes);
            state.applied = entry.position;
            if let Some(membership) = entry.membership {
                state.membership = membership;
            }
        }
        self.shared.gauges.publish(&state);
        Ok(applied)
    }

    fn apply_command(
        &self,
        state: &mut State,
        command: &Command,
        index: u64,
        applied: &mut Applied,
    ) -> Result<Outcome, Fault> {
        let result = match &command.op {
            None => Ok(Reply::Nothing),
            Some(op) => match refused_by_alarm(state, op) {
                Some(rejection) => Err(ReadError::Rejected(rejection)),
                None => match permit(&state.auth, &state.leases, command.header.as_ref(), Asked::Op(op)) {
                    Err(rejection) => Err(ReadError::Rejected(rejection)),
                    Ok(()) => self.apply_op(state, op, index, applied),
                },
            },
        };
        let result = match result {
            Ok(reply) => Ok(reply),
            Err(ReadError::Rejected(rejection)) => Err(rejection),
            Err(ReadError::Fault(fault)) => return Err(fault),
        };
        Ok(Outcome { revision: state.revision, result })
    }

    fn apply_op(&self, state: &mut State, op: &Op, index: u64, applied: &mut Applied) -> Result<Reply, ReadError> {
        match op {
            Op::Put(request) => self.write(state, applied, |write| {
                let mut response = txn::put(write, request)?;
                response.header = None;
                Ok(Reply::Put(response))
            }),
            Op::DeleteRange(request) => self.write(state, applied, |write| {
                let mut response = txn::delete_range(write, request)?;
                response.header = None;
                Ok(Reply::DeleteRange(response))
            }),
            Op::Txn(request) => self.write(state, applied, |write| {
                let mut response = txn::txn(write, request)?;
                response.header = None;
                Ok(Reply::Txn(response))
            }),
            Op::LeaseRevoke(request) => {
                let id = request.id;
                let reply = self.write(state, applied, |write| revoke(write, id))?;
                applied.notices.push(Notice::LeaseRevoked { id });
                Ok(reply)
            }
            Op::Compaction(request) => compact(state, request, applied),
            Op::LeaseGrant(request) => grant(state, request, applied),
            Op::LeaseCheckpoint(request) => Ok(checkpoint(state, request, applied)),
            Op::Alarm(request) => Ok(alarm(state, request, applied)),
            Op::MemberAttributes(attributes) => {
                state.members.publish(attributes.clone());
                Ok(Reply::MemberAttributes)
            }
            Op::MemberRemoved(removed) => {
                state.members.remove(removed.member_id);
                Ok(Reply::MemberRemoved)
            }
            Op::V2(request) => {
                let answer = state.v2.apply(request, index, &mut applied.v2);
                Ok(answer.map_or(Reply::Nothing, |answer| Reply::V2(Box::new(answer))))
            }
            Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::Authentication(_)
            | Op::AuthUserAdd(_)
            | Op::AuthUserDelete(_)
            | Op::AuthUserChangePassword(_)
            | Op::AuthUserGrantRole(_)
            | Op::AuthUserRevokeRole(_)
            | Op::AuthRoleAdd(_)
            | Op::AuthRoleDelete(_)
            | Op::AuthRoleGrantPermission(_)
            | Op::AuthRoleRevokePermission(_) => {
                let reply = auth::change::apply(&mut state.auth, op, index, &mut applied.notices);
                Ok(reply.unwrap_or(Ok(Reply::Nothing))?)
            }
        }
    }

    fn write(
        &self,
        state: &mut State,
        applied: &mut Applied,
        body: impl FnOnce(&mut WriteTxn<'_>) -> Result<Reply, ReadError>,
    ) -> Result<Reply, ReadError> {
        let mut write = WriteTxn::new(&self.shared, state);
        let reply = body(&mut write);
        // Checks come before writes, so a rejection leaves nothing behind; if one ever did, the change is in the
        // index already and must get its revision.
        applied.changes.extend(write.finish());
        reply
    }
}

/// What a raised alarm forbids: CORRUPT everything on keys and leases, NOSPACE whatever adds data.
fn refused_by_alarm(state: &State, op: &Op) -> Option<Rejection> {
    let data = matches!(
        op,
        Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compaction(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
            | Op::LeaseCheckpoint(_)
            | Op::V2(_)
    );
    if data && state.alarms.is_raised(AlarmType::Corrupt) {
        return Some(Rejection::Corrupt);
    }
    let grows = match op {
        Op::Put(_) | Op::LeaseGrant(_) => true,
        Op::Txn(request) => puts(request),
        Op::V2(request) => v2::grows(request),
        _ => false,
    };
    (grows && state.alarms.is_raised(AlarmType::Nospace)).then_some(Rejection::NoSpace)
}

/// True when a branch of the transaction, nested ones included, puts.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}

fn compact(state: &mut State, request: &CompactionRequest, applied: &mut Applied) -> Result<Reply, ReadError> {
    if request.revision <= state.compacted {
        return Err(Rejection::Compacted.into());
    }
    if request.revision > state.revision {
        return Err(Rejection::FutureRevision.into());
    }
    state.compacted = request.revision;
    applied.notices.push(Notice::Compacted { revision: request.revision });
    Ok(Reply::Compaction)
}

fn grant(state: &mut State, request: &LeaseGrantRequest, applied: &mut Applied) -> Result<Reply, ReadError> {
    // Id 0 is replaced by the proposer; one that arrives here is refused as etcd's lessor does.
    if request.id == 0 {
        return Err(Rejection::LeaseNotFound.into());
    }
    if request.ttl > MAX_LEASE_TTL {
        return Err(Rejection::LeaseTtlTooLarge.into());
    }
    if state.leases.get(request.id).is_some() {
        return Err(Rejection::LeaseExists.into());
    }
    let (id, ttl) = (request.id, request.ttl);
    state.leases.grant(id, Lease { ttl, remaining_ttl: 0 });
    applied.notices.push(Notice::LeaseGranted { id, ttl });
    Ok(Reply::LeaseGrant { id, ttl })
}

fn revoke(write: &mut WriteTxn<'_>, id: i64) -> Result<Reply, ReadError> {
    if write.state.leases.get(id).is_none() {
        return Err(Rejection::LeaseNotFound.into());
    }
    let keys: Vec<Box<[u8]>> = write.state.leases.keys(id).map(Into::into).collect();
    for key in &keys {
        write.delete_range(KeyRange::new(key, &[]));
    }
    write.state.leases.revoke(id);
    Ok(Reply::LeaseRevoke)
}

fn checkpoint(state: &mut State, request: &LeaseCheckpointRequest, applied: &mut Applied) -> Reply {
    for checkpoint in &request.checkpoints {
        let (id, remaining_ttl) = (checkpoint.id, checkpoint.remaining_ttl);
        if state.leases.checkpoint(id, remaining_ttl) {
            applied.notices.push(Notice::LeaseCheckpointed { id, remaining_ttl });
        }
    }
    Reply::LeaseCheckpoint
}

fn alarm(state: &mut State, request: &AlarmRequest, applied: &mut Applied) -> Reply {
    let member = AlarmMember { member_id: request.member_id, alarm: request.alarm };
    let changed = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => return Reply::Alarm(state.alarms.list(request.alarm)),
        Ok(AlarmAction::Activate) => {
            if request.alarm == AlarmType::None as i32 {
                return Reply::Alarm(Vec::new());
            }
            // An alarm that is up already is answered too, as etcd does.
            let new = state.alarms.activate(request.member_id, request.alarm);
            if new {
                applied.notices.push(Notice::AlarmsChanged);
            }
            return Reply::Alarm(vec![member]);
        }
        Ok(AlarmAction::Deactivate) => state.alarms.deactivate(request.member_id, request.alarm),
        Err(_) => false,
    };
    if changed {
        applied.notices.push(Notice::AlarmsChanged);
        return Reply::Alarm(vec![member]);
    }
    Reply::Alarm(Vec::new())
}
