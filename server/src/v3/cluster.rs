//! The Cluster service: the list of members, and changes of it.

use super::status::status;
use crate::cluster::{Cluster, members};
use crate::node::Node;
use api::cleatpb::membership_change::Change;
use api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    ResponseHeader,
};
use api::server::cluster_server::Cluster as ClusterApi;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(crate) struct ClusterService {
    pub(crate) node: Node,
    pub(crate) cluster: Arc<Cluster>,
}

/// What every change answers with.
struct Changed {
    header: Option<ResponseHeader>,
    member_id: u64,
    members: Vec<Member>,
}

impl ClusterService {
    async fn change(&self, change: Change) -> Result<Changed, Status> {
        let member_id = self.cluster.change(change).await.map_err(status)?;
        // etcd leaves the revision out of this service's headers.
        Ok(Changed { header: Some(self.node.header(0)), member_id, members: self.members() })
    }

    fn members(&self) -> Vec<Member> {
        members(&self.node, self.node.applied_membership().membership())
    }
}

#[tonic::async_trait]
impl ClusterApi for ClusterService {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_barrier().await.map_err(status)?;
        }
        let header = Some(self.node.header(0));
        Ok(Response::new(MemberListResponse { header, members: self.members() }))
    }

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let Changed { header, member_id, members } = self.change(Change::Add(request.into_inner())).await?;
        let member = members.iter().find(|member| member.id == member_id).cloned();
        Ok(Response::new(MemberAddResponse { header, member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let Changed { header, mut members, member_id } = self.change(Change::Remove(request.into_inner())).await?;
        // The member that was removed may be this one, which does not apply it.
        members.retain(|member| member.id != member_id);
        Ok(Response::new(MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let Changed { header, members, .. } = self.change(Change::Update(request.into_inner())).await?;
        Ok(Response::new(MemberUpdateResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let Changed { header, members, .. } = self.change(Change::Promote(request.into_inner())).await?;
        Ok(Response::new(MemberPromoteResponse { header, members }))
    }
}
