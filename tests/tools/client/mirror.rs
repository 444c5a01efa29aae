//! A store that can be read and refuses to be watched.

use super::client_of;
use anyhow::{Result, ensure};
use api::encoded;
use api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest,
    WatchRequest,
};
use api::server::kv_server::{Kv, KvServer};
use api::server::watch_server::{Watch, WatchServer};
use client::{Mirror, Update};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Counts the listings.
#[derive(Clone, Default)]
struct Double(Arc<AtomicUsize>);

fn absent<T>() -> Result<T, Status> {
    Err(Status::unimplemented("this double has Range only"))
}

#[tonic::async_trait]
impl Kv for Double {
    type RangeStreamStream = tokio_stream::Empty<Result<encoded::RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<encoded::RangeResponse>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        Ok(Response::new(encoded::RangeResponse { header, ..encoded::RangeResponse::default() }))
    }

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        absent()
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<encoded::PutResponse>, Status> {
        absent()
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<encoded::DeleteRangeResponse>, Status> {
        absent()
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<encoded::TxnResponse>, Status> {
        absent()
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        absent()
    }
}

#[tonic::async_trait]
impl Watch for Double {
    type WatchStream = tokio_stream::Empty<Result<encoded::WatchResponse, Status>>;

    async fn watch(&self, _: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::permission_denied("etcdserver: permission denied"))
    }
}

#[tokio::test]
async fn a_store_that_refuses_watches_is_not_listed_in_a_loop() -> Result<()> {
    let double = Double::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let router = tonic::transport::Server::builder()
        .add_service(KvServer::new(double.clone()))
        .add_service(WatchServer::new(double.clone()));
    let mut server = JoinSet::new();
    server.spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut keys = Mirror::new(client_of(&[endpoint])?, "a/");
    let (end, mut lost) = (Instant::now() + Duration::from_secs(4), 0);
    while let Ok(update) = timeout_at(end, keys.next()).await {
        lost += usize::from(matches!(update, Update::Lost(_)));
    }
    let listings = double.0.load(Ordering::Relaxed);
    // Without pauses that grow there are more than twenty.
    ensure!(lost > 0 && listings <= 12, "{listings} listings in four seconds");
    Ok(())
}
