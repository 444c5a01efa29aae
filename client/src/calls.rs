//! Calls about leases, members, maintenance, users and roles: one method for each of etcd's.

use crate::call::Effect;
use crate::client::{Client, service};
use crate::error::Error;
use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest,
    AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest,
    AuthRoleListResponse, AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthUserAddRequest,
    AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse, AuthUserDeleteRequest,
    AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
};
use futures::StreamExt as _;
use tonic::{Response, Status};

/// Calls that any endpoint may answer.
macro_rules! calls {
    ($($(#[$doc:meta])* $effect:ident $name:ident: $service:ident.$method:ident($request:ty) -> $answer:ty;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Client::range`]; [`Error::may_be_done`] tells whether a change may have been made.
                pub async fn $name(&self, request: $request) -> Result<$answer, Error> {
                    let send = |line, request| async move {
                        service!($service, line).$method(request).await.map(Response::into_inner)
                    };
                    self.call(Effect::$effect, request, send).await
                }
            )*
        }
    };
}

calls! {
    /// Grants a lease, and tells all that the server says about it; see [`Client::grant`].
    Write lease_grant: LeaseClient.lease_grant(LeaseGrantRequest) -> LeaseGrantResponse;
    /// Ends a lease, and deletes its keys.
    Write lease_revoke: LeaseClient.lease_revoke(LeaseRevokeRequest) -> LeaseRevokeResponse;
    /// How long a lease has left; the time is -1 for one that there is not.
    Read lease_time_to_live: LeaseClient.lease_time_to_live(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse;
    /// All leases.
    Read leases: LeaseClient.lease_leases(LeaseLeasesRequest) -> LeaseLeasesResponse;
    /// The members, as linearizable as asked for; see [`Client::member_list`].
    Read members: ClusterClient.member_list(MemberListRequest) -> MemberListResponse;
    /// Adds a member.
    Write member_add: ClusterClient.member_add(MemberAddRequest) -> MemberAddResponse;
    /// Removes a member.
    Write member_remove: ClusterClient.member_remove(MemberRemoveRequest) -> MemberRemoveResponse;
    /// Gives a member other peer URLs.
    Write member_update: ClusterClient.member_update(MemberUpdateRequest) -> MemberUpdateResponse;
    /// Gives a learner its vote.
    Write member_promote: ClusterClient.member_promote(MemberPromoteRequest) -> MemberPromoteResponse;
    /// Lists, raises or ends alarms.
    Write alarm: MaintenanceClient.alarm(AlarmRequest) -> AlarmResponse;
    /// Hands leadership over. Only the leader does so.
    Write move_leader: MaintenanceClient.move_leader(MoveLeaderRequest) -> MoveLeaderResponse;
    /// Checks, begins or ends a downgrade of the cluster.
    Write downgrade: MaintenanceClient.downgrade(DowngradeRequest) -> DowngradeResponse;
    /// From now on requests need a user.
    Write auth_enable: AuthClient.auth_enable(AuthEnableRequest) -> AuthEnableResponse;
    /// From now on requests need no user.
    Write auth_disable: AuthClient.auth_disable(AuthDisableRequest) -> AuthDisableResponse;
    /// Adds a user.
    Write user_add: AuthClient.user_add(AuthUserAddRequest) -> AuthUserAddResponse;
    /// The roles of a user.
    Read user_get: AuthClient.user_get(AuthUserGetRequest) -> AuthUserGetResponse;
    /// All users.
    Read user_list: AuthClient.user_list(AuthUserListRequest) -> AuthUserListResponse;
    /// Deletes a user.
    Write user_delete: AuthClient.user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    /// Gives a user another password.
    Write user_change_password:
        AuthClient.user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    /// Gives a role to a user.
    Write user_grant_role: AuthClient.user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    /// Takes a role from a user.
    Write user_revoke_role: AuthClient.user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    /// Adds a role.
    Write role_add: AuthClient.role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
    /// What a role permits.
    Read role_get: AuthClient.role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
    /// All roles.
    Read role_list: AuthClient.role_list(AuthRoleListRequest) -> AuthRoleListResponse;
    /// Deletes a role.
    Write role_delete: AuthClient.role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    /// Permits something to a role.
    Write role_grant_permission:
        AuthClient.role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    /// Takes a permission from a role.
    Write role_revoke_permission:
        AuthClient.role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}

/// Calls that are about the member that is asked. Who wants a certain one makes a client of its endpoint alone.
impl Client {
    /// What the member in use says about itself; see [`Client::status`].
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn member_status(&self) -> Result<StatusResponse, Error> {
        let send = |line, request| async move {
            service!(MaintenanceClient, line).status(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, StatusRequest {}, send).await
    }

    /// The hash of the member's history up to a revision; 0 means the newest.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        let send = |line, request| async move {
            service!(MaintenanceClient, line).hash_kv(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, HashKvRequest { revision }, send).await
    }

    /// Gives back what the member's database does not use.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn defragment(&self) -> Result<DefragmentResponse, Error> {
        let send = |line, request| async move {
            service!(MaintenanceClient, line).defragment(request).await.map(Response::into_inner)
        };
        self.call(Effect::Write, DefragmentRequest {}, send).await
    }

    /// Gives a lease its full time again, once. The time is 0 for a lease that there is not.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let send = |line, request: LeaseKeepAliveRequest| async move {
            // The server answers while the stream of requests is open.
            let requests = futures::stream::iter([request]).chain(futures::stream::pending());
            let mut answers = service!(LeaseClient, line).lease_keep_alive(requests).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))
        };
        self.call(Effect::Read, LeaseKeepAliveRequest { id }, send).await
    }
}
