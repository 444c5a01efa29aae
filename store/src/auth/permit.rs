//! Whether who asks may do what it asks for. The only place that decides it: for a command when it is applied, and for a
//! read before it is answered.
//!
//! What counts is the interval that was asked for, not the keys that happen to be in it, and all of a transaction: both
//! branches, and the transactions inside.

use super::Auth;
use crate::error::Rejection;
use crate::lease::Leases;
use crate::mvcc::key_range::KeyRange;
use api::authpb::permission::Type;
use api::cleatpb::CommandHeader;
use api::cleatpb::command::Op;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// To be known, whoever it is.
    Known,
    /// What only a user with the role root may do.
    Root,
    /// To read the keys of a range.
    Range(KeyRange<'a>),
    /// To run a transaction.
    Txn(&'a TxnRequest),
    /// To have a command applied.
    Op(&'a Op),
    /// To keep a lease alive: as long as it lives, so do its keys.
    LeaseRenewal(i64),
    /// To see the keys that are attached to a lease.
    LeaseKeys(i64),
    /// To see all leases.
    Leases,
    /// To see a user.
    User(&'a str),
    /// To see a role.
    Role(&'a str),
}

/// Who asks, against what is known of users.
struct Asker<'a> {
    auth: &'a Auth,
    header: &'a CommandHeader,
}

/// Refuses what is not permitted.
pub(crate) fn permit(
    auth: &Auth,
    leases: &Leases,
    header: Option<&CommandHeader>,
    asked: Asked<'_>,
) -> Result<(), Rejection> {
    if !auth.enabled {
        return Ok(());
    }
    // A command without a header is a client's that gave no name; members mark their own.
    let nobody = CommandHeader::default();
    let header = header.unwrap_or(&nobody);
    if header.by_member {
        return Ok(());
    }
    let asker = Asker { auth, header };
    match asked {
        Asked::Known => asker.is_known(),
        Asked::Range(range) => asker.may(Type::Read, range),
        Asked::Txn(request) => asker.txn(leases, request),
        Asked::Op(op) => asker.op(leases, op),
        Asked::LeaseRenewal(id) => asker.may_write_all(leases, id),
        Asked::LeaseKeys(id) => asker.may_read_all(leases.keys(id)),
        Asked::Leases => asker.may_read_all(leases.attached_keys()),
        Asked::User(name) if name == header.username => asker.is_known(),
        Asked::Role(name) if asker.has_role(name) => Ok(()),
        Asked::Root | Asked::User(_) | Asked::Role(_) => asker.is_root(),
    }
}

impl Asker<'_> {
    fn is_known(&self) -> Result<(), Rejection> {
        if self.header.username.is_empty() {
            return Err(Rejection::UserEmpty);
        }
        // It may have been deleted since it got its token.
        if self.auth.users.contains_key(&self.header.username) { Ok(()) } else { Err(Rejection::PermissionDenied) }
    }

    /// As in etcd, the auth revision does not count here: who has the role now may do it.
    fn is_root(&self) -> Result<(), Rejection> {
        if self.header.username.is_empty() {
            return Err(Rejection::UserEmpty);
        }
        let user = self.auth.users.get(&self.header.username);
        if user.is_some_and(super::User::is_root) { Ok(()) } else { Err(Rejection::PermissionDenied) }
    }

    fn has_role(&self, role: &str) -> bool {
        self.auth.users.get(&self.header.username).is_some_and(|user| user.roles.contains(role))
    }

    fn may(&self, what: Type, range: KeyRange<'_>) -> Result<(), Rejection> {
        if self.header.auth_revision == 0 || self.header.username.is_empty() {
            return Err(Rejection::UserEmpty);
        }
        if self.header.auth_revision < self.auth.revision {
            return Err(Rejection::AuthOldRevision);
        }
        let user = self.auth.users.get(&self.header.username).ok_or(Rejection::PermissionDenied)?;
        let granted = if what == Type::Write { &user.grants.write } else { &user.grants.read };
        if user.is_root() || granted.contains(range) { Ok(()) } else { Err(Rejection::PermissionDenied) }
    }

    fn may_read_all<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> Result<(), Rejection> {
        self.is_known()?;
        if self.is_root().is_ok() {
            return Ok(());
        }
        keys.try_for_each(|key| self.may(Type::Read, KeyRange::new(key, &[])))
    }

    /// Who attaches a key to a lease, or ends it, decides about the other keys of the lease as well.
    fn may_write_all(&self, leases: &Leases, id: i64) -> Result<(), Rejection> {
        self.is_known()?;
        if self.is_root().is_ok() {
            return Ok(());
        }
        leases.keys(id).try_for_each(|key| self.may(Type::Write, KeyRange::new(key, &[])))
    }

    /// Every command has its line, so that a new one does not go without.
    fn op(&self, leases: &Leases, op: &Op) -> Result<(), Rejection> {
        match op {
            Op::Put(request) => self.put(leases, request),
            Op::DeleteRange(request) => {
                self.may(Type::Write, KeyRange::new(&request.key, &request.range_end))?;
                self.previous(request)
            }
            Op::Txn(request) => self.txn(leases, request),
            Op::LeaseGrant(_) => self.is_known(),
            Op::LeaseRevoke(request) => self.may_write_all(leases, request.id),
            Op::Alarm(request) if request.action == AlarmAction::Get as i32 => self.is_known(),
            Op::Alarm(_)
            | Op::Compaction(_)
            | Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::AuthUserAdd(_)
            | Op::AuthUserDelete(_)
            | Op::AuthUserChangePassword(_)
            | Op::AuthUserGrantRole(_)
            | Op::AuthUserRevokeRole(_)
            | Op::AuthRoleAdd(_)
            | Op::AuthRoleDelete(_)
            | Op::AuthRoleGrantPermission(_)
            | Op::AuthRoleRevokePermission(_) => self.is_root(),
            // The first is for whoever knows the password, which was checked. No client can ask for the others.
            // The v2 API has users of its own, which are asked elsewhere: its commands are a member's.
            Op::V2(_) => Err(Rejection::PermissionDenied),
            Op::Authentication(_) | Op::LeaseCheckpoint(_) | Op::MemberAttributes(_) | Op::MemberRemoved(_) => Ok(()),
        }
    }

    fn put(&self, leases: &Leases, request: &PutRequest) -> Result<(), Rejection> {
        self.may(Type::Write, KeyRange::new(&request.key, &[]))?;
        if request.lease != 0 {
            self.may_write_all(leases, request.lease)?;
        }
        if request.prev_kv { self.may(Type::Read, KeyRange::new(&request.key, &[])) } else { Ok(()) }
    }

    fn previous(&self, request: &DeleteRangeRequest) -> Result<(), Rejection> {
        if request.prev_kv { self.may(Type::Read, KeyRange::new(&request.key, &request.range_end)) } else { Ok(()) }
    }

    fn txn(&self, leases: &Leases, request: &TxnRequest) -> Result<(), Rejection> {
        // One without any operation asks for nothing, but not for nobody: it would be a way to fill the log.
        self.is_known()?;
        for compare in &request.compare {
            self.may(Type::Read, KeyRange::new(&compare.key, &compare.range_end))?;
        }
        request.success.iter().chain(&request.failure).try_for_each(|op| self.txn_op(leases, op))
    }

    fn txn_op(&self, leases: &Leases, op: &RequestOp) -> Result<(), Rejection> {
        match &op.request {
            Some(Request::RequestRange(request)) => {
                self.may(Type::Read, KeyRange::new(&request.key, &request.range_end))
            }
            Some(Request::RequestPut(request)) => self.put(leases, request),
            Some(Request::RequestDeleteRange(request)) => {
                self.previous(request)?;
                self.may(Type::Write, KeyRange::new(&request.key, &request.range_end))
            }
            Some(Request::RequestTxn(request)) => self.txn(leases, request),
            None => Ok(()),
        }
    }
}
