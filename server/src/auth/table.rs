//! What every RPC answers to whom, while requests need a user: the one place where that is written down.
//!
//! `listen` looks at it before a service is called. A test compares it with the .proto files, so a new RPC needs a row;
//! without one the server does not start.

use store::Asked;

/// What somebody gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The service's answer.
    Served,
    /// The service's answer, if the permissions on the keys that it touches allow it; the service sees to that.
    ByKeys,
    /// `user name is empty`.
    UserEmpty,
    /// `permission denied`.
    Denied,
}

use Answer::{ByKeys, Denied, Served, UserEmpty};

/// An RPC, and what it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) path: &'static str,
    /// To a caller without a token and without a certificate that counts.
    pub(crate) anonymous: Answer,
    /// To a user without the role root.
    pub(crate) user: Answer,
    /// To one with it.
    pub(crate) root: Answer,
}

impl Row {
    /// What has to be permitted before the service is called.
    pub(crate) fn needs(&self) -> Option<Asked<'static>> {
        match (self.anonymous, self.user, self.root) {
            (_, Denied, _) | (_, _, Denied) => Some(Asked::Root),
            (UserEmpty | Denied, ..) => Some(Asked::Known),
            (Served | ByKeys, ..) => None,
        }
    }
}

/// Open to all.
const fn open(path: &'static str) -> Row {
    Row { path, anonymous: Served, user: Served, root: Served }
}

/// For users.
const fn known(path: &'static str) -> Row {
    Row { path, anonymous: UserEmpty, user: Served, root: Served }
}

/// For those who may read or write the keys that it touches, or see what it is asked for.
const fn keys(path: &'static str) -> Row {
    Row { path, anonymous: ByKeys, user: ByKeys, root: Served }
}

/// For users with the role root.
const fn root(path: &'static str) -> Row {
    Row { path, anonymous: UserEmpty, user: Denied, root: Served }
}

/// Every RPC, in the order of the .proto files.
pub(crate) const TABLE: &[Row] = &[
    keys("/etcdserverpb.KV/Range"),
    keys("/etcdserverpb.KV/RangeStream"),
    keys("/etcdserverpb.KV/Put"),
    keys("/etcdserverpb.KV/DeleteRange"),
    keys("/etcdserverpb.KV/Txn"),
    root("/etcdserverpb.KV/Compact"),
    keys("/etcdserverpb.Watch/Watch"),
    known("/etcdserverpb.Lease/LeaseGrant"),
    keys("/etcdserverpb.Lease/LeaseRevoke"),
    keys("/etcdserverpb.Lease/LeaseKeepAlive"),
    keys("/etcdserverpb.Lease/LeaseTimeToLive"),
    keys("/etcdserverpb.Lease/LeaseLeases"),
    root("/etcdserverpb.Cluster/MemberAdd"),
    root("/etcdserverpb.Cluster/MemberRemove"),
    root("/etcdserverpb.Cluster/MemberUpdate"),
    known("/etcdserverpb.Cluster/MemberList"),
    root("/etcdserverpb.Cluster/MemberPromote"),
    // To see alarms is for users, to raise and clear them for root.
    keys("/etcdserverpb.Maintenance/Alarm"),
    known("/etcdserverpb.Maintenance/Status"),
    root("/etcdserverpb.Maintenance/Defragment"),
    root("/etcdserverpb.Maintenance/Hash"),
    root("/etcdserverpb.Maintenance/HashKV"),
    root("/etcdserverpb.Maintenance/Snapshot"),
    root("/etcdserverpb.Maintenance/MoveLeader"),
    root("/etcdserverpb.Maintenance/Downgrade"),
    // Whether a user is missing decides the command.
    root("/etcdserverpb.Auth/AuthEnable"),
    root("/etcdserverpb.Auth/AuthDisable"),
    open("/etcdserverpb.Auth/AuthStatus"),
    open("/etcdserverpb.Auth/Authenticate"),
    root("/etcdserverpb.Auth/UserAdd"),
    // Everybody may see itself.
    keys("/etcdserverpb.Auth/UserGet"),
    root("/etcdserverpb.Auth/UserList"),
    root("/etcdserverpb.Auth/UserDelete"),
    root("/etcdserverpb.Auth/UserChangePassword"),
    root("/etcdserverpb.Auth/UserGrantRole"),
    root("/etcdserverpb.Auth/UserRevokeRole"),
    root("/etcdserverpb.Auth/RoleAdd"),
    // And the roles that it has.
    keys("/etcdserverpb.Auth/RoleGet"),
    root("/etcdserverpb.Auth/RoleList"),
    root("/etcdserverpb.Auth/RoleDelete"),
    root("/etcdserverpb.Auth/RoleGrantPermission"),
    root("/etcdserverpb.Auth/RoleRevokePermission"),
    keys("/v3lockpb.Lock/Lock"),
    keys("/v3lockpb.Lock/Unlock"),
    keys("/v3electionpb.Election/Campaign"),
    keys("/v3electionpb.Election/Proclaim"),
    keys("/v3electionpb.Election/Leader"),
    keys("/v3electionpb.Election/Observe"),
    keys("/v3electionpb.Election/Resign"),
    // For load balancers, which are no users.
    open("/grpc.health.v1.Health/Check"),
    open("/grpc.health.v1.Health/Watch"),
    open("/grpc.health.v1.Health/List"),
];

/// The row of an RPC.
///
/// # Panics
/// There is none: it would be open to everybody.
pub(crate) fn row(path: &str) -> &'static Row {
    TABLE.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path} has no row in the table of permissions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The RPCs of a .proto file.
    fn rpcs(proto: &str) -> Vec<String> {
        let (mut package, mut service, mut found) = ("", "", Vec::new());
        for line in proto.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("package ") {
                package = name.trim_end_matches(';');
            } else if let Some(name) = line.strip_prefix("service ") {
                service = name.trim_end_matches([' ', '{']);
            } else if let Some(rpc) = line.strip_prefix("rpc ") {
                let (name, _) = rpc.split_once('(').unwrap();
                found.push(format!("/{package}.{service}/{}", name.trim()));
            }
        }
        found
    }

    #[test]
    fn every_rpc_has_a_row() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/proto");
        let mut all = Vec::new();
        for file in directory.read_dir().unwrap() {
            let path = file.unwrap().path();
            // What members say to each other is not for clients: it has a port and a door of its own.
            if path.file_name().is_some_and(|name| name != "peer.proto") {
                all.extend(rpcs(&std::fs::read_to_string(path).unwrap()));
            }
        }
        all.sort();
        let mut rows: Vec<_> = TABLE.iter().map(|row| row.path.to_owned()).collect();
        rows.sort();
        assert_eq!(all, rows);
        assert!(all.len() > 50);
    }

    #[test]
    fn the_needs_follow_the_answers() {
        for row in TABLE {
            match row.needs() {
                None => assert!(matches!(row.anonymous, Served | ByKeys), "{row:?}"),
                Some(Asked::Known) => assert_eq!((row.anonymous, row.user), (UserEmpty, Served), "{row:?}"),
                Some(Asked::Root) => assert_eq!((row.anonymous, row.user), (UserEmpty, Denied), "{row:?}"),
                Some(other) => panic!("{other:?}"),
            }
            assert_eq!(row.root, Served, "{row:?}");
        }
    }
}
