//! The Cluster service. This release runs clusters of one member: the list is served, changes are refused.

use super::status::{status, unimplemented};
use crate::node::Node;
use api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use api::server::cluster_server::Cluster;
use openraft::async_runtime::WatchReceiver;
use tonic::{Request, Response, Status};

const SINGLE: &str = "this release runs clusters of one member: membership can not change";

pub(crate) struct ClusterService {
    pub(crate) node: Node,
}

/// The members, by id.
pub(crate) fn members(node: &Node) -> Vec<Member> {
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let member = |(id, peer): (&u64, &crate::raft::types::Peer)| {
        let published = node.reader().member(*id).unwrap_or_default();
        Member {
            id: *id,
            name: published.name,
            peer_urls: peer.peer_urls.clone(),
            client_urls: published.client_urls,
            is_learner: !voters.contains(id),
        }
    };
    membership.nodes().map(member).collect()
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_barrier().await.map_err(status)?;
        }
        // etcd leaves the revision out of this service's headers.
        let header = Some(self.node.header(0));
        Ok(Response::new(MemberListResponse { header, members: members(&self.node) }))
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(unimplemented(SINGLE))
    }

    async fn member_remove(&self, _: Request<MemberRemoveRequest>) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(unimplemented(SINGLE))
    }

    async fn member_update(&self, _: Request<MemberUpdateRequest>) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(unimplemented(SINGLE))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(unimplemented(SINGLE))
    }
}
