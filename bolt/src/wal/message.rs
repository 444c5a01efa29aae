//! What the records and entries of the log are: messages of `walpb`, `raftpb`, `membershippb`, and those of
//! `etcdserverpb` that only the log has.

#![allow(missing_docs, reason = "fields have etcd's names")]

use api::etcdserverpb::{
    AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest, AuthStatusRequest,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest, CompactionRequest, DeleteRangeRequest,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, TxnRequest,
};
use bytes::Bytes;
use prost::{DecodeError, Message};

/// `walpb.Record`.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(crate) struct Record {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(uint32, tag = "2")]
    pub(crate) crc: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
}

/// `walpb.Snapshot`: the log goes on behind a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct SnapshotRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
}

/// `etcdserverpb.Metadata`: whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Metadata {
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    #[prost(uint64, tag = "2")]
    pub cluster_id: u64,
}

/// `raftpb.HardState`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HardState {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// The last index that the member has noted as committed. It may know of more than it had noted.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// `raftpb.Entry`.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(crate) struct RawEntry {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
}

/// `raftpb.ConfChange`: a member comes or goes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfChange {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// 0 adds a voter, 1 removes a member, 2 changes its URLs, 3 adds a learner.
    #[prost(int32, tag = "2")]
    pub r#type: i32,
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// The member as JSON.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
}

/// `raftpb.ConfChangeSingle`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ConfChangeSingle {
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// `raftpb.ConfChangeV2`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfChangeV2 {
    #[prost(int32, tag = "1")]
    pub transition: i32,
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}

/// `etcdserverpb.RequestHeader`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RequestHeader {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub username: String,
    #[prost(uint64, tag = "3")]
    pub auth_revision: u64,
}

/// `etcdserverpb.InternalAuthenticateRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct InternalAuthenticateRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub password: String,
    #[prost(string, tag = "3")]
    pub simple_token: String,
}

/// `etcdserverpb.Request`: a request of the v2 API, and what members publish up to 3.5.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct V2Request {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(string, tag = "3")]
    pub path: String,
    #[prost(string, tag = "4")]
    pub val: String,
    #[prost(bool, tag = "5")]
    pub dir: bool,
    #[prost(string, tag = "6")]
    pub prev_value: String,
    #[prost(uint64, tag = "7")]
    pub prev_index: u64,
    #[prost(bool, optional, tag = "8")]
    pub prev_exist: Option<bool>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "9")]
    pub expiration: i64,
    #[prost(bool, tag = "10")]
    pub wait: bool,
    #[prost(uint64, tag = "11")]
    pub since: u64,
    #[prost(bool, tag = "12")]
    pub recursive: bool,
    #[prost(bool, tag = "13")]
    pub sorted: bool,
    #[prost(bool, tag = "14")]
    pub quorum: bool,
    #[prost(int64, tag = "15")]
    pub time: i64,
    #[prost(bool, tag = "16")]
    pub stream: bool,
    #[prost(bool, optional, tag = "17")]
    pub refresh: Option<bool>,
}

/// `membershippb.ClusterVersionSetRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterVersionSetRequest {
    #[prost(string, tag = "1")]
    pub ver: String,
}

/// `membershippb.Attributes`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MemberAttributes {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub client_urls: Vec<String>,
}

/// `membershippb.ClusterMemberAttrSetRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterMemberAttrSetRequest {
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    #[prost(message, optional, tag = "2")]
    pub member_attributes: Option<MemberAttributes>,
}

/// `membershippb.DowngradeInfoSetRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DowngradeInfoSetRequest {
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    #[prost(string, tag = "2")]
    pub ver: String,
}

/// `etcdserverpb.InternalRaftRequest`: what an entry asks for. One of the requests is set.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct InternalRaftRequest {
    /// Of the proposal, up to 3.0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, optional, tag = "2")]
    pub v2: Option<V2Request>,
    #[prost(message, optional, tag = "3")]
    pub range: Option<RangeRequest>,
    #[prost(message, optional, tag = "4")]
    pub put: Option<PutRequest>,
    #[prost(message, optional, tag = "5")]
    pub delete_range: Option<DeleteRangeRequest>,
    #[prost(message, optional, tag = "6")]
    pub txn: Option<TxnRequest>,
    #[prost(message, optional, tag = "7")]
    pub compaction: Option<CompactionRequest>,
    #[prost(message, optional, tag = "8")]
    pub lease_grant: Option<LeaseGrantRequest>,
    #[prost(message, optional, tag = "9")]
    pub lease_revoke: Option<LeaseRevokeRequest>,
    #[prost(message, optional, tag = "10")]
    pub alarm: Option<AlarmRequest>,
    #[prost(message, optional, tag = "11")]
    pub lease_checkpoint: Option<LeaseCheckpointRequest>,
    #[prost(message, optional, tag = "100")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "1000")]
    pub auth_enable: Option<AuthEnableRequest>,
    #[prost(message, optional, tag = "1011")]
    pub auth_disable: Option<AuthDisableRequest>,
    #[prost(message, optional, tag = "1012")]
    pub authenticate: Option<InternalAuthenticateRequest>,
    #[prost(message, optional, tag = "1013")]
    pub auth_status: Option<AuthStatusRequest>,
    #[prost(message, optional, tag = "1100")]
    pub auth_user_add: Option<AuthUserAddRequest>,
    #[prost(message, optional, tag = "1101")]
    pub auth_user_delete: Option<AuthUserDeleteRequest>,
    #[prost(message, optional, tag = "1102")]
    pub auth_user_get: Option<AuthUserGetRequest>,
    #[prost(message, optional, tag = "1103")]
    pub auth_user_change_password: Option<AuthUserChangePasswordRequest>,
    #[prost(message, optional, tag = "1104")]
    pub auth_user_grant_role: Option<AuthUserGrantRoleRequest>,
    #[prost(message, optional, tag = "1105")]
    pub auth_user_revoke_role: Option<AuthUserRevokeRoleRequest>,
    #[prost(message, optional, tag = "1106")]
    pub auth_user_list: Option<AuthUserListRequest>,
    #[prost(message, optional, tag = "1107")]
    pub auth_role_list: Option<AuthRoleListRequest>,
    #[prost(message, optional, tag = "1200")]
    pub auth_role_add: Option<AuthRoleAddRequest>,
    #[prost(message, optional, tag = "1201")]
    pub auth_role_delete: Option<AuthRoleDeleteRequest>,
    #[prost(message, optional, tag = "1202")]
    pub auth_role_get: Option<AuthRoleGetRequest>,
    #[prost(message, optional, tag = "1203")]
    pub auth_role_grant_permission: Option<AuthRoleGrantPermissionRequest>,
    #[prost(message, optional, tag = "1204")]
    pub auth_role_revoke_permission: Option<AuthRoleRevokePermissionRequest>,
    #[prost(message, optional, tag = "1300")]
    pub cluster_version_set: Option<ClusterVersionSetRequest>,
    #[prost(message, optional, tag = "1301")]
    pub cluster_member_attr_set: Option<ClusterMemberAttrSetRequest>,
    #[prost(message, optional, tag = "1302")]
    pub downgrade_info_set: Option<DowngradeInfoSetRequest>,
}

impl InternalRaftRequest {
    /// True when applying it may change keys, leases, alarms, users or roles, and not only reads or tells of
    /// members and versions.
    pub fn changes_the_store(&self) -> bool {
        self.put.is_some()
            || self.delete_range.is_some()
            || self.txn.is_some()
            || self.compaction.is_some()
            || self.lease_grant.is_some()
            || self.lease_revoke.is_some()
            || self.lease_checkpoint.is_some()
            || self.alarm.is_some()
            || self.changes_users()
    }

    /// True when applying it may change users, roles, or whether requests need a user.
    pub fn changes_users(&self) -> bool {
        self.auth_enable.is_some()
            || self.auth_disable.is_some()
            || self.auth_user_add.is_some()
            || self.auth_user_delete.is_some()
            || self.auth_user_change_password.is_some()
            || self.auth_user_grant_role.is_some()
            || self.auth_user_revoke_role.is_some()
            || self.auth_role_add.is_some()
            || self.auth_role_delete.is_some()
            || self.auth_role_grant_permission.is_some()
            || self.auth_role_revoke_permission.is_some()
    }
}

/// What an entry of the log carries.
#[derive(Clone, PartialEq)]
pub enum Payload {
    /// Nothing: a leader's first entry.
    Empty,
    /// A request.
    Request(Box<InternalRaftRequest>),
    /// A request of the v2 API, or what a member publishes up to 3.4; it is not about the v3 store.
    V2(Box<V2Request>),
    /// A member comes or goes.
    ConfChange(ConfChange),
    /// Members come or go.
    ConfChangeV2(ConfChangeV2),
}

impl Payload {
    /// Reads an entry's data; the kind is that of `raftpb.EntryType`. None for a kind that is not known, or a change of
    /// members that changes nothing: etcd always writes whom it is about.
    pub(crate) fn decode(kind: i32, data: &Bytes) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            0 if data.is_empty() => Self::Empty,
            // Both are fields from 1 on. The name of a v2 method is no message, which is how etcd tells them apart.
            0 => match InternalRaftRequest::decode(data.clone()) {
                Ok(InternalRaftRequest { v2: Some(v2), .. }) => Self::V2(Box::new(v2)),
                Ok(request) => Self::Request(Box::new(request)),
                Err(error) => Self::V2(Box::new(V2Request::decode(data.clone()).map_err(|_| error)?)),
            },
            1 | 2 if data.is_empty() => return Ok(None),
            1 => Self::ConfChange(ConfChange::decode(data.clone())?),
            2 => Self::ConfChangeV2(ConfChangeV2::decode(data.clone())?),
            _ => return Ok(None),
        }))
    }

    /// See [`InternalRaftRequest::changes_the_store`].
    pub fn changes_the_store(&self) -> bool {
        matches!(self, Self::Request(request) if request.changes_the_store())
    }
}

// Requests hold values, passwords and tokens: only what kind of message it is may be shown.

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Request(_) => "Request",
            Self::V2(_) => "V2",
            Self::ConfChange(_) => "ConfChange",
            Self::ConfChangeV2(_) => "ConfChangeV2",
        })
    }
}

macro_rules! secret {
    ($($message:ident),*) => {
        $(impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        })*
    };
}

secret!(Record, RawEntry, InternalAuthenticateRequest, InternalRaftRequest, V2Request);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_both_apis_are_told_apart() {
        let put = PutRequest { key: "a".into(), value: "secret".into(), ..Default::default() };
        let header = Some(RequestHeader { id: 7, ..Default::default() });
        let request = InternalRaftRequest { put: Some(put), header, ..Default::default() };
        let decoded = Payload::decode(0, &request.encode_to_vec().into()).unwrap().unwrap();
        assert!(decoded.changes_the_store());
        assert_eq!(decoded, Payload::Request(Box::new(request.clone())));
        assert!(!format!("{request:?} {decoded:?}").contains("secret"));

        for method in ["GET", "QGET", "PUT", "POST", "DELETE", "SYNC"] {
            let v2 = V2Request { id: 3, method: method.into(), path: "/0/version".into(), ..Default::default() };
            let decoded = Payload::decode(0, &v2.encode_to_vec().into()).unwrap().unwrap();
            assert_eq!(decoded, Payload::V2(Box::new(v2)), "{method}");
            assert!(!decoded.changes_the_store());
        }
        assert_eq!(Payload::decode(0, &Bytes::new()).unwrap(), Some(Payload::Empty));
        assert_eq!(Payload::decode(9, &Bytes::new()).unwrap(), None);
        assert!(Payload::decode(0, &Bytes::from_static(b"\xff\xff")).is_err());
    }
}
