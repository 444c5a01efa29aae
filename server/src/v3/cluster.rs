//! The Cluster service. This release runs clusters of one member: the list is served, changes are refused.

use super::status::{status, unimplemented};
use crate::node::Node;
use api::error::Error;
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

impl ClusterService {
    fn find(&self, id: u64) -> Result<(), Status> {
        let known = members(&self.node).iter().any(|member| member.id == id);
        if known { Ok(()) } else { Err(status(Error::MemberNotFound)) }
    }
}

/// True for `http://host:port` and `https://host:port`.
fn is_peer_url(url: &str) -> bool {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    authority
        .and_then(|a| a.rsplit_once(':'))
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
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

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let urls = request.into_inner().peer_urls;
        if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
            return Err(status(Error::MemberBadUrls));
        }
        if members(&self.node).iter().any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(status(Error::PeerUrlExists));
        }
        Err(unimplemented(SINGLE))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.find(request.into_inner().id)?;
        Err(unimplemented(SINGLE))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        if request.peer_urls.is_empty() || !request.peer_urls.iter().all(|url| is_peer_url(url)) {
            return Err(status(Error::MemberBadUrls));
        }
        self.find(request.id)?;
        Err(unimplemented(SINGLE))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.find(request.into_inner().id)?;
        // The only member is a voter.
        Err(status(Error::MemberNotLearner))
    }
}
