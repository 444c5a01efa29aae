//! The Maintenance service.

use super::snapshot::{Snapshots, Source, Wish};
use super::status::{failed, fault_status, mismatched, status, without_code};
use crate::auth::{Auth, Credentials};
use crate::cluster::Cluster;
use crate::config::V2Mode;
use crate::corruption;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::quota::Quota;
use crate::storage::Storage;
use crate::v2::auth::{NOT_GUARDED, is_unguarded};
use crate::version::{COMPATIBLE_CLUSTER_VERSION, COMPATIBLE_ETCD_VERSION};
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::downgrade_request::DowngradeAction;
use api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use api::server::maintenance_server::Maintenance;
use prometheus::Histogram;
use std::sync::Arc;
use store::{Asked, Reply};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// What an empty store takes: the page of its own records.
const EMPTY_STORE_BYTES: u64 = 4096;

pub(crate) struct MaintenanceService {
    pub(crate) node: Node,
    pub(crate) auth: Auth,
    pub(crate) storage: Storage,
    pub(crate) quota: Arc<Quota>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) v2: V2Mode,
}

/// The raised alarms and the lack of a leader, as `StatusResponse.errors` words them; and why the v2 API is refused.
fn errors(node: &Node, v2: V2Mode) -> Vec<String> {
    let no_leader = (node.leader() == 0).then(|| Error::NoLeader.text().to_owned());
    let alarms = node.reader().alarms(AlarmType::None as i32);
    let alarm = |member_id: u64, alarm: i32| {
        let name = AlarmType::try_from(alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        // The trailing space is in etcd's text form of the message.
        format!("memberID:{member_id} alarm:{name} ")
    };
    let shut = (v2 == V2Mode::ByDefault && is_unguarded(node)).then(|| NOT_GUARDED.to_owned());
    no_leader.into_iter().chain(shut).chain(alarms.iter().map(|a| alarm(a.member_id, a.alarm))).collect()
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        if request.action == AlarmAction::Get as i32 {
            self.node.read_barrier().await.map_err(status)?;
            self.auth.permit(&credentials, Asked::Known).await.map_err(status)?;
            let alarms = self.node.reader().alarms(request.alarm);
            let header = Some(self.node.header(self.node.reader().revision()));
            return Ok(Response::new(AlarmResponse { header, alarms }));
        }
        let outcome = self.auth.propose(&credentials, Op::Alarm(request)).await.map_err(status)?;
        let header = Some(self.node.header(outcome.revision));
        match outcome.result.map_err(status)? {
            Reply::Alarm(alarms) => Ok(Response::new(AlarmResponse { header, alarms })),
            _ => Err(mismatched(&self.node)),
        }
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let store = self.node.reader().status();
        Ok(Response::new(StatusResponse {
            header: Some(self.node.header(store.revision)),
            version: COMPATIBLE_ETCD_VERSION.to_owned(),
            db_size: store.file_bytes as i64,
            db_size_in_use: (store.stored_bytes + EMPTY_STORE_BYTES).min(store.file_bytes) as i64,
            leader: self.node.leader(),
            raft_index: self.node.committed().max(store.applied.index),
            raft_term: self.node.term(),
            raft_applied_index: store.applied.index,
            errors: errors(&self.node, self.v2),
            is_learner: self.node.is_learner(),
            storage_version: COMPATIBLE_CLUSTER_VERSION.to_owned(),
            db_size_quota: self.quota.limit_bytes() as i64,
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        let (storage, disk) = (self.storage.clone(), self.metrics.disk.clone());
        // Goes on when the client leaves, as the work does.
        let work = tokio::spawn(async move {
            disk.defrag_inflight.set(1);
            let took = storage.defragment().await;
            disk.defrag_inflight.set(0);
            took.inspect(|took| disk.backend_defrag_seconds.observe(took.as_secs_f64()))
        });
        let took = work.await.map_err(|_| status(Error::Stopped))?.map_err(failed)?;
        tracing::info!(?took, "defragmented the database");
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let hashed = hash_kv(&self.node, 0, &self.metrics.mvcc.hash_seconds).await?;
        Ok(Response::new(HashResponse { header: Some(self.node.header(hashed.current)), hash: hashed.hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let seconds = &self.metrics.mvcc.hash_rev_seconds;
        let hashed = hash_kv(&self.node, request.into_inner().revision, seconds).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.node.header(hashed.current)),
            hash: hashed.hash,
            compact_revision: hashed.compacted,
            hash_revision: hashed.revision,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let wish = Wish::of(request.metadata());
        let seconds = self.metrics.disk.backend_snapshot_seconds.clone();
        if let Wish::Rest { id, offset } = wish
            && let Some(source) = self.snapshots.find(id, offset)
        {
            return Ok(self.snapshots.send(source, (Some(id), offset), seconds));
        }
        if !self.storage.flush().await {
            return Err(status(Error::Stopped));
        }
        let snapshot = self.node.reader().snapshot().map_err(|fault| fault_status(&fault))?;
        let header = self.node.header(snapshot.revision());
        let source = Source::new(snapshot, header);
        let id = if wish == Wish::Plain { None } else { self.snapshots.keep(&source) };
        Ok(self.snapshots.send(source, (id, 0), seconds))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.cluster.move_leader(request.into_inner().target_id).await.map_err(status)?;
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    /// There is no older release whose members could read what this one writes, so no version is a target.
    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let request = request.into_inner();
        let refusal = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) if !is_version(&request.version) => {
                Error::WrongDowngradeFormat
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => Error::InvalidDowngradeTarget,
            Ok(DowngradeAction::Cancel) => Error::NoInflightDowngrade,
            Err(_) => return Err(without_code("etcdserver: unknown method")),
        };
        Err(status(refusal))
    }
}

/// Two or three numbers, the third with what semantic versions allow behind it.
fn is_version(text: &str) -> bool {
    let numbers = text.split_once(['-', '+']).map_or(text, |(numbers, _)| numbers);
    let parts: Vec<&str> = numbers.split('.').collect();
    let is_whole = parts.len() == 3 || parts.len() == 2 && numbers == text;
    is_whole && parts.iter().all(|part| part.parse::<u32>().is_ok() && !part.starts_with('+'))
}

async fn hash_kv(node: &Node, revision: i64, seconds: &Histogram) -> Result<store::HashKv, Status> {
    let _timer = seconds.start_timer();
    corruption::hash(node, revision).await.map_err(status)
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for text in ["3.4", "3.4.0", "3.4.1-rc.0", "3.4.1+build"] {
            assert!(is_version(text), "{text}");
        }
        for text in ["", "3", "three", "3.4.0.0", "3.4-rc.0", "3.+4", "3.-4.0", "v3.4", "3..0"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
