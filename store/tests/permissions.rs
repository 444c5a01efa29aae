//! Random grants, and random requests of a user: whatever is read or written lies within the grants of that moment, and
//! what lies within them is not refused.
//!
//! The grants are looked at key by key here, and as intervals by the store. `CLEAT_SEED` replays a run.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::cleatpb::command::Op;
use api::cleatpb::{Command, CommandHeader};
use api::encoded::{KeyValue, Response, TxnResponse};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
    AuthUserAddRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, TxnRequest,
};
use store::{Applied, Asked, KeyRange, Options, Rejection, Reply};
use support::Member;
use support::auth::permission;
use support::random::Random;

const READ: i32 = 0;
const WRITE: i32 = 1;
const READ_WRITE: i32 = 2;

const ROLES: [&str; 3] = ["one", "two", "three"];

struct Run {
    random: Random,
    member: Member,
    /// Role, type, key, end.
    granted: Vec<(usize, i32, Vec<u8>, Vec<u8>)>,
    /// Of the user.
    roles: [bool; ROLES.len()],
    accepted: usize,
    refused: usize,
}

#[test]
fn nothing_beyond_the_grants() {
    let member = Member::new(Options::default());
    let random = Random::new();
    let mut run = Run { random, member, granted: Vec::new(), roles: [false; 3], accepted: 0, refused: 0 };
    run.begin();
    for _ in 0..6000 {
        if run.random.once_in(5) {
            run.change_grants();
        } else if run.random.once_in(4) {
            run.read();
        } else {
            run.write();
        }
        if run.random.once_in(500) {
            run.member.flush();
            run.member.reopen();
        }
    }
    assert!(run.accepted > 300 && run.refused > 300, "{} accepted, {} refused", run.accepted, run.refused);
}

impl Run {
    fn begin(&mut self) {
        let user = |name: &str| {
            let hashed_password = "aGFzaA==".to_owned();
            Op::AuthUserAdd(AuthUserAddRequest { name: name.to_owned(), hashed_password, ..Default::default() })
        };
        let grant = |user: &str, role: &str| {
            Op::AuthUserGrantRole(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
        };
        for op in [user("root"), grant("root", "root"), user("ann")] {
            self.own(op);
        }
        for role in ROLES {
            self.own(Op::AuthRoleAdd(AuthRoleAddRequest { name: role.to_owned() }));
        }
        for lease in 1..=4 {
            self.own(support::grant(lease, 60));
        }
        self.own(Op::AuthEnable(AuthEnableRequest {}));
    }

    fn own(&mut self, op: Op) {
        let header = Some(CommandHeader { by_member: true, ..Default::default() });
        let applied = self.member.apply_entry(vec![Command { header, op: Some(op) }]);
        applied.outcomes[0][0].result.as_ref().unwrap();
    }

    fn change_grants(&mut self) {
        let role = self.random.below(ROLES.len());
        let name = ROLES[role].to_owned();
        match self.random.below(4) {
            0 if !self.granted.is_empty() => {
                let (role, _, key, end) = self.granted.swap_remove(self.random.below(self.granted.len()));
                let (role, key, range_end) = (ROLES[role].to_owned(), key.into(), end.into());
                self.own(Op::AuthRoleRevokePermission(AuthRoleRevokePermissionRequest { role, key, range_end }));
            }
            1 => {
                let user = "ann".to_owned();
                if self.roles[role] {
                    self.own(Op::AuthUserRevokeRole(AuthUserRevokeRoleRequest { name: user, role: name }));
                } else {
                    self.own(Op::AuthUserGrantRole(AuthUserGrantRoleRequest { user, role: name }));
                }
                self.roles[role] = !self.roles[role];
            }
            _ => {
                let (kind, key, end) = (self.random.below(3) as i32, self.random.key(), self.random.end());
                if !end.is_empty() && end != [0] && end <= key {
                    return;
                }
                let perm = Some(permission(kind, key.clone(), end.clone()));
                self.own(Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest { name, perm }));
                self.granted.retain(|(r, _, k, e)| (*r, k, e) != (role, &key, &end));
                self.granted.push((role, kind, key, end));
            }
        }
    }

    fn is_granted(&self, kind: i32, key: &[u8]) -> bool {
        self.granted.iter().any(|(role, granted, from, end)| {
            let fits = *granted == kind || *granted == READ_WRITE;
            self.roles[*role] && fits && KeyRange::new(from, end).contains(key)
        })
    }

    /// Every key that the tests know of a range.
    fn all_granted(&self, kind: i32, key: &[u8], end: &[u8]) -> bool {
        let range = KeyRange::new(key, end);
        Random::keys().filter(|key| range.contains(key)).all(|key| self.is_granted(kind, key))
    }

    fn header(&self) -> CommandHeader {
        let auth_revision = self.member.reader().auth_status().1;
        CommandHeader { username: "ann".to_owned(), auth_revision, by_member: false }
    }

    fn read(&mut self) {
        let (key, end) = (self.random.key(), self.random.end());
        let asked = Asked::Range(KeyRange::new(&key, &end));
        match self.member.reader().permit(Some(&self.header()), asked) {
            Ok(()) => assert!(self.all_granted(READ, &key, &end), "{key:?} {end:?}"),
            Err(rejection) => {
                assert_eq!(rejection, Rejection::PermissionDenied);
                assert!(!end.is_empty() || !self.is_granted(READ, &key), "{key:?} may be read");
            }
        }
    }

    fn write(&mut self) {
        let op = self.random.command().op.unwrap();
        if matches!(op, Op::Compaction(_) | Op::LeaseCheckpoint(_) | Op::LeaseGrant(_)) {
            return;
        }
        let attached = |id: i64| self.member.reader().lease_keys(id);
        let lease_keys = match &op {
            Op::LeaseRevoke(request) => attached(request.id),
            Op::Put(request) => attached(request.lease),
            _ => Vec::new(),
        };
        let is_simple = match &op {
            Op::Put(put) => self.is_granted(WRITE, &put.key) && (!put.prev_kv || self.is_granted(READ, &put.key)),
            Op::DeleteRange(delete) => {
                let (key, end) = (&delete.key, &delete.range_end);
                end.is_empty() && self.is_granted(WRITE, key) && (!delete.prev_kv || self.is_granted(READ, key))
            }
            _ => false,
        } && lease_keys.iter().all(|key| self.is_granted(WRITE, key));
        let header = Some(self.header());
        let applied = self.member.apply_entry(vec![Command { header, op: Some(op.clone()) }]);
        match &applied.outcomes[0][0].result {
            Err(Rejection::PermissionDenied) => {
                self.refused += 1;
                assert!(!is_simple, "{op:?} is within the grants {:?}", self.granted);
                assert!(applied.changes.is_empty(), "a refused command changed something");
            }
            result => {
                self.accepted += 1;
                self.check_written(&applied);
                assert!(lease_keys.iter().all(|key| self.is_granted(WRITE, key)), "{op:?} took keys along");
                if let Op::Txn(request) = &op {
                    self.check_asked(request);
                }
                match result {
                    Ok(Reply::Put(response)) => self.check_seen(response.prev_kv.as_slice()),
                    Ok(Reply::DeleteRange(response)) => self.check_seen(&response.prev_kvs),
                    Ok(Reply::Txn(response)) => self.check_txn(response),
                    _ => {}
                }
            }
        }
    }

    fn check_written(&self, applied: &Applied) {
        for event in applied.changes.iter().flat_map(|change| &change.events) {
            assert!(self.is_granted(WRITE, event.key()), "{:?} was written", event.key());
        }
    }

    fn check_seen(&self, kvs: &[KeyValue]) {
        for kv in kvs {
            let key = kv.fields().unwrap().key;
            assert!(self.is_granted(READ, key), "{key:?} was shown");
        }
    }

    fn check_txn(&self, response: &TxnResponse) {
        for op in response.responses.iter().filter_map(|op| op.response.as_ref()) {
            match op {
                Response::Range(range) => self.check_seen(&range.kvs),
                Response::Put(put) => self.check_seen(put.prev_kv.as_slice()),
                Response::DeleteRange(delete) => self.check_seen(&delete.prev_kvs),
                Response::Txn(nested) => self.check_txn(nested),
            }
        }
    }

    /// Also what did not run tells something: which branch ran, and whether a key exists.
    fn check_asked(&self, request: &TxnRequest) {
        for compare in &request.compare {
            assert!(self.all_granted(READ, &compare.key, &compare.range_end), "{compare:?}");
        }
        for op in request.success.iter().chain(&request.failure).filter_map(|op| op.request.as_ref()) {
            let is_granted = match op {
                Request::RequestRange(range) => self.all_granted(READ, &range.key, &range.range_end),
                Request::RequestPut(put) => self.is_granted(WRITE, &put.key),
                Request::RequestDeleteRange(delete) => self.all_granted(WRITE, &delete.key, &delete.range_end),
                Request::RequestTxn(nested) => {
                    self.check_asked(nested);
                    true
                }
            };
            assert!(is_granted, "{op:?}");
        }
    }
}
