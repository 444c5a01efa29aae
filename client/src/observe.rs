//! What an operator asks about a cluster, members that do not answer everything included.

use crate::call::Effect;
use crate::client::{Client, service};
use crate::error::Error;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, AuthStatusRequest, AuthStatusResponse, MemberListRequest,
    MemberListResponse,
};
use tonic::Response;

impl Client {
    /// The members as the one that is asked knows them, without a leader if there is none.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn known_members(&self) -> Result<MemberListResponse, Error> {
        let send = |line, request| async move {
            service!(ClusterClient, line).member_list(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, MemberListRequest { linearizable: false }, send).await
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn raised_alarms(&self) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: AlarmType::None.into() };
        let send = |line, request| async move {
            service!(MaintenanceClient, line).alarm(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, request, send).await
    }

    /// Whether requests need a user. etcd before 3.5 does not tell.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn auth_status(&self) -> Result<AuthStatusResponse, Error> {
        let send = |line, request| async move {
            service!(AuthClient, line).auth_status(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, AuthStatusRequest {}, send).await
    }
}
