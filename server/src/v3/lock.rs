//! The Lock service: a lock is the oldest key under its name.

use super::concurrency::{Caller, Concurrency};
use api::server::lock_server::Lock;
use api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::{Request, Response, Status};

/// The lease ended before the lock was free. etcd has no such answer before 3.5, and grants the lock.
const EXPIRED: &str = "mutex: session is expired";

pub(crate) struct LockService(pub(crate) Concurrency);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let work = |caller: Caller, request: LockRequest| async move {
            let lease = caller.session(request.lease).await?;
            let entry = caller.enter(&request.name, lease, Bytes::new()).await?;
            let header = Some(caller.turn(&entry, EXPIRED).await?);
            Ok(LockResponse { header, key: entry.key })
        };
        self.0.run(request, work).await
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let work = |caller: Caller, request: UnlockRequest| async move {
            let header = caller.delete(request.key).await?;
            Ok(UnlockResponse { header })
        };
        self.0.run(request, work).await
    }
}
