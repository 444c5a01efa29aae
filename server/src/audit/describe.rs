//! What a request is about, as the audit log shows it: keys, ranges, ids and names. Values, passwords and tokens are not
//! read here at all.

use api::authpb::permission::Type;
use api::etcdserverpb as pb;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::downgrade_request::DowngradeAction;
use api::etcdserverpb::request_op::Request as RequestKind;
use api::v3electionpb as election;
use api::v3lockpb as lock;
use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Bytes of a key that are shown; a longer one is followed by its length.
const KEY_BYTES_MAX: usize = 4096;

/// Bytes of all keys of a transaction that are shown.
const TXN_BYTES_MAX: usize = 128 << 10;

/// Operations and comparisons of a transaction that are shown. A flag allows for more.
const TXN_OPS_MAX: usize = 1024;

type Members = Map<String, Value>;

/// Describes a request. None if it changes nothing, or cannot be read.
pub(crate) fn describe(path: &str, message: Bytes) -> Option<Value> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "etcdserverpb.KV" => kv(method, message),
        "etcdserverpb.Lease" => leases(method, message),
        "etcdserverpb.Cluster" => cluster(method, message),
        "etcdserverpb.Maintenance" => maintenance(method, message),
        "etcdserverpb.Auth" => auth(method, message),
        "v3lockpb.Lock" | "v3electionpb.Election" => concurrency(method, message),
        _ => None,
    }
}

fn kv(method: &str, message: Bytes) -> Option<Value> {
    Some(match method {
        "Put" => Value::Object(put(&pb::PutRequest::decode(message).ok()?)),
        "DeleteRange" => Value::Object(delete(&pb::DeleteRangeRequest::decode(message).ok()?)),
        "Txn" => {
            let request = pb::TxnRequest::decode(message).ok()?;
            let mut txn = Txn::default();
            let mut members = txn.members(&request);
            if txn.omitted > 0 {
                members.insert("omitted_ops".to_owned(), txn.omitted.into());
            }
            Value::Object(members)
        }
        "Compact" => {
            let request = pb::CompactionRequest::decode(message).ok()?;
            json!({"revision": request.revision, "physical": request.physical})
        }
        _ => return None,
    })
}

fn leases(method: &str, message: Bytes) -> Option<Value> {
    Some(match method {
        "LeaseGrant" => {
            let request = pb::LeaseGrantRequest::decode(message).ok()?;
            // 0 leaves the choice to the server.
            json!({"lease": hex(request.id as u64), "ttl": request.ttl})
        }
        "LeaseRevoke" => json!({"lease": hex(pb::LeaseRevokeRequest::decode(message).ok()?.id as u64)}),
        _ => return None,
    })
}

fn cluster(method: &str, message: Bytes) -> Option<Value> {
    Some(match method {
        "MemberAdd" => {
            let request = pb::MemberAddRequest::decode(message).ok()?;
            json!({"peer_urls": request.peer_urls, "is_learner": request.is_learner})
        }
        "MemberRemove" => json!({"member": hex(pb::MemberRemoveRequest::decode(message).ok()?.id)}),
        "MemberUpdate" => {
            let request = pb::MemberUpdateRequest::decode(message).ok()?;
            json!({"member": hex(request.id), "peer_urls": request.peer_urls})
        }
        "MemberPromote" => json!({"member": hex(pb::MemberPromoteRequest::decode(message).ok()?.id)}),
        _ => return None,
    })
}

fn maintenance(method: &str, message: Bytes) -> Option<Value> {
    Some(match method {
        "Alarm" => {
            let request = pb::AlarmRequest::decode(message).ok()?;
            if request.action == AlarmAction::Get as i32 {
                return None;
            }
            let action = AlarmAction::try_from(request.action).map_or("UNKNOWN", |action| action.as_str_name());
            let alarm = pb::AlarmType::try_from(request.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
            json!({"action": action, "alarm": alarm, "member": hex(request.member_id)})
        }
        "Defragment" => json!({}),
        "MoveLeader" => json!({"member": hex(pb::MoveLeaderRequest::decode(message).ok()?.target_id)}),
        "Downgrade" => {
            let request = pb::DowngradeRequest::decode(message).ok()?;
            let action = DowngradeAction::try_from(request.action).map_or("UNKNOWN", |action| action.as_str_name());
            json!({"action": action, "version": request.version})
        }
        _ => return None,
    })
}

fn auth(method: &str, message: Bytes) -> Option<Value> {
    Some(match method {
        "AuthEnable" | "AuthDisable" => json!({}),
        "Authenticate" => json!({"name": pb::AuthenticateRequest::decode(message).ok()?.name}),
        "UserAdd" => json!({"name": pb::AuthUserAddRequest::decode(message).ok()?.name}),
        "UserDelete" => json!({"name": pb::AuthUserDeleteRequest::decode(message).ok()?.name}),
        "UserChangePassword" => json!({"name": pb::AuthUserChangePasswordRequest::decode(message).ok()?.name}),
        "UserGrantRole" => {
            let request = pb::AuthUserGrantRoleRequest::decode(message).ok()?;
            json!({"name": request.user, "role": request.role})
        }
        "UserRevokeRole" => {
            let request = pb::AuthUserRevokeRoleRequest::decode(message).ok()?;
            json!({"name": request.name, "role": request.role})
        }
        "RoleAdd" => json!({"role": pb::AuthRoleAddRequest::decode(message).ok()?.name}),
        "RoleDelete" => json!({"role": pb::AuthRoleDeleteRequest::decode(message).ok()?.role}),
        "RoleGrantPermission" => {
            let request = pb::AuthRoleGrantPermissionRequest::decode(message).ok()?;
            let permission = request.perm.unwrap_or_default();
            let kind = Type::try_from(permission.perm_type).map_or("UNKNOWN", |kind| kind.as_str_name());
            let mut members = range(&permission.key, &permission.range_end);
            members.insert("role".to_owned(), request.name.into());
            members.insert("permission".to_owned(), kind.into());
            Value::Object(members)
        }
        "RoleRevokePermission" => {
            let request = pb::AuthRoleRevokePermissionRequest::decode(message).ok()?;
            let mut members = range(&request.key, &request.range_end);
            members.insert("role".to_owned(), request.role.into());
            Value::Object(members)
        }
        _ => return None,
    })
}

/// Locks and elections are keys with leases.
fn concurrency(method: &str, message: Bytes) -> Option<Value> {
    let named = |name: &[u8], lease: i64| {
        let mut members = Members::new();
        key(&mut members, "name", name);
        members.insert("lease".to_owned(), hex(lease as u64).into());
        Value::Object(members)
    };
    let leads = |leader: Option<election::LeaderKey>| {
        let leader = leader.unwrap_or_default();
        let mut members = range(&leader.key, &[]);
        key(&mut members, "name", &leader.name);
        Value::Object(members)
    };
    Some(match method {
        "Lock" => {
            let request = lock::LockRequest::decode(message).ok()?;
            named(&request.name, request.lease)
        }
        "Unlock" => Value::Object(range(&lock::UnlockRequest::decode(message).ok()?.key, &[])),
        "Campaign" => {
            let request = election::CampaignRequest::decode(message).ok()?;
            named(&request.name, request.lease)
        }
        "Proclaim" => leads(election::ProclaimRequest::decode(message).ok()?.leader),
        "Resign" => leads(election::ResignRequest::decode(message).ok()?.leader),
        _ => return None,
    })
}

/// What of a transaction was shown so far.
#[derive(Default)]
struct Txn {
    ops: usize,
    bytes: usize,
    omitted: usize,
}

impl Txn {
    /// Recursion: prost refuses messages that nest deeper than a hundred levels.
    fn members(&mut self, request: &pb::TxnRequest) -> Members {
        let mut members = Members::new();
        let compared = request.compare.iter().filter_map(|one| self.admit(range(&one.key, &one.range_end)));
        let compared: Vec<Value> = compared.collect();
        let mut insert = |name: &str, shown: Vec<Value>| {
            if !shown.is_empty() {
                members.insert(name.to_owned(), shown.into());
            }
        };
        insert("compare", compared);
        insert("success", self.ops(&request.success));
        insert("failure", self.ops(&request.failure));
        members
    }

    fn ops(&mut self, ops: &[pb::RequestOp]) -> Vec<Value> {
        let mut shown = Vec::new();
        for op in ops {
            let (name, mut members) = match &op.request {
                Some(RequestKind::RequestPut(request)) => ("put", put(request)),
                Some(RequestKind::RequestDeleteRange(request)) => ("delete", delete(request)),
                Some(RequestKind::RequestRange(request)) => ("range", range(&request.key, &request.range_end)),
                Some(RequestKind::RequestTxn(request)) => ("txn", self.members(request)),
                None => continue,
            };
            members.insert("op".to_owned(), name.into());
            shown.extend(self.admit(members));
        }
        shown
    }

    /// An operation as a member of the line, if there is room for it.
    fn admit(&mut self, members: Members) -> Option<Value> {
        let texts = members.values().filter_map(Value::as_str).map(str::len);
        self.bytes += texts.sum::<usize>();
        self.ops += 1;
        if self.ops > TXN_OPS_MAX || self.bytes > TXN_BYTES_MAX {
            self.omitted += 1;
            return None;
        }
        Some(Value::Object(members))
    }
}

fn put(request: &pb::PutRequest) -> Members {
    let mut members = range(&request.key, &[]);
    if request.lease != 0 {
        members.insert("lease".to_owned(), hex(request.lease as u64).into());
    }
    members
}

fn delete(request: &pb::DeleteRangeRequest) -> Members {
    range(&request.key, &request.range_end)
}

fn range(from: &[u8], to: &[u8]) -> Members {
    let mut members = Members::new();
    key(&mut members, "key", from);
    if !to.is_empty() {
        key(&mut members, "range_end", to);
    }
    members
}

/// Adds a key: as text if it is text, else as hexadecimal digits under a name of its own, so that nothing is ambiguous.
fn key(members: &mut Members, name: &str, bytes: &[u8]) {
    let shown = &bytes[..bytes.len().min(KEY_BYTES_MAX)];
    if let Ok(text) = std::str::from_utf8(shown) {
        members.insert(name.to_owned(), text.into());
    } else {
        let mut digits = String::with_capacity(2 * shown.len());
        for byte in shown {
            write!(digits, "{byte:02x}").expect("invariant: writing to a String cannot fail");
        }
        members.insert(format!("{name}_hex"), digits.into());
    }
    if shown.len() < bytes.len() {
        members.insert(format!("{name}_bytes"), bytes.len().into());
    }
}

/// Ids as etcdctl shows them.
fn hex(id: u64) -> String {
    format!("{id:x}")
}
