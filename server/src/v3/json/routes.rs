//! The paths of the gateway: one list, from which requests are routed and the `OpenAPI` document is made.

use api::descriptor::{Method, method};
use std::collections::HashMap;
use std::sync::LazyLock;

/// A path below the prefix, and the gRPC method behind it.
type Route = (&'static str, &'static str);

/// Every route of etcd 3.7. A method whose service is not served answers `Unimplemented`, like its RPC. `RangeStream` has no
/// path in etcd.
pub(super) const ROUTES: [Route; 51] = [
    ("/kv/range", "/etcdserverpb.KV/Range"),
    ("/kv/put", "/etcdserverpb.KV/Put"),
    ("/kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("/kv/txn", "/etcdserverpb.KV/Txn"),
    ("/kv/compaction", "/etcdserverpb.KV/Compact"),
    ("/watch", "/etcdserverpb.Watch/Watch"),
    ("/lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("/cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("/cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("/cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("/maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("/maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("/maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("/maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("/maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("/maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("/maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("/auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("/auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("/auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("/auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("/auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("/auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("/auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("/auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("/auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("/auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("/auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("/auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("/auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("/auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("/auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("/auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("/auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("/lock/lock", "/v3lockpb.Lock/Lock"),
    ("/lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("/election/campaign", "/v3electionpb.Election/Campaign"),
    ("/election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("/election/leader", "/v3electionpb.Election/Leader"),
    ("/election/observe", "/v3electionpb.Election/Observe"),
    ("/election/resign", "/v3electionpb.Election/Resign"),
];

/// The method behind a path, given without the prefix.
pub(super) fn find(path: &str) -> Option<&'static Method> {
    static BY_PATH: LazyLock<HashMap<&str, &Method>> =
        LazyLock::new(|| ROUTES.iter().filter_map(|(path, name)| Some((*path, method(name)?))).collect());
    BY_PATH.get(path).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::METHODS;
    use std::collections::BTreeSet;

    #[test]
    fn every_method_has_a_path() {
        let routed: BTreeSet<_> = ROUTES.iter().map(|(path, _)| find(path).unwrap().path).collect();
        let without = ["/etcdserverpb.KV/RangeStream"];
        let expected = METHODS.iter().map(|method| method.path);
        let expected = expected.filter(|path| !without.contains(path) && !path.starts_with("/grpc.health"));
        assert_eq!(routed, expected.collect());
        let paths: BTreeSet<_> = ROUTES.iter().map(|(path, _)| path).collect();
        assert_eq!(paths.len(), ROUTES.len(), "no path twice");
    }

    #[test]
    fn other_paths_are_none() {
        for path in ["", "/", "/kv", "/kv/range/", "/kv/Range", "/kv/rangestream", "/etcdserverpb.KV/Range"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
