//! Refuses who does not belong to the cluster, by the metadata of a call and before anything of its message is read, and
//! counts the rest.

use super::link::{CLUSTER, FROM, NOT_YET, OTHER_CLUSTER, REMOVED, TO};
use super::traffic::{Counted, PeersTraffic};
use crate::node::{Identity, Node};
use crate::v3::status::refused;
use futures::future::{BoxFuture, ready};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

/// The same refusal is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A service of members behind the checks.
#[derive(Clone)]
pub(crate) struct Door<S> {
    service: S,
    rules: Arc<Rules>,
    traffic: Arc<PeersTraffic>,
}

struct Rules {
    node: Node,
    logged: Mutex<Option<Instant>>,
}

impl<S> Door<S> {
    pub(crate) fn new(service: S, node: Node, traffic: Arc<PeersTraffic>) -> Self {
        Self { service, rules: Arc::new(Rules { node, logged: Mutex::default() }), traffic }
    }
}

impl<S, B> Service<Request<B>> for Door<S>
where
    S: Service<Request<Counted<B>>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Counted<Body>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = match self.rules.check(request.headers()) {
            Ok(from) => self.traffic.of(from),
            Err(status) => return Box::pin(ready(Ok(status.into_http().map(|body| Counted::sent(body, None))))),
        };
        let received = peer.clone();
        let answering = self.service.call(request.map(|body| Counted::received(body, received)));
        Box::pin(async move { answering.await.map(|response| response.map(|body| Counted::sent(body, peer))) })
    }
}

impl Rules {
    /// Checks whom a call is from and for. Returns the caller's id.
    fn check(&self, metadata: &HeaderMap) -> Result<u64, Status> {
        let id = |name: &str| {
            let text = metadata.get(name).and_then(|value| value.to_str().ok());
            let id = text.and_then(|text| u64::from_str_radix(text, 16).ok());
            id.ok_or_else(|| refused(Code::InvalidArgument, format!("no {name} in the call's metadata")))
        };
        let (cluster, from, to) = (id(CLUSTER)?, id(FROM)?, id(TO)?);
        let Identity { cluster_id, member_id } = self.node.identity();
        if cluster != cluster_id {
            self.warn(
                from,
                "a member of another cluster calls: its --initial-cluster or --initial-cluster-token differs",
                cluster,
            );
            return Err(refused(
                Code::FailedPrecondition,
                format!("{OTHER_CLUSTER}: this member is of cluster {cluster_id:x}, the caller of {cluster:x}"),
            ));
        }
        if to != member_id {
            self.warn(from, "a member calls another one at this address", to);
            return Err(refused(
                Code::FailedPrecondition,
                format!("{OTHER_CLUSTER}: this is member {member_id:x}, the caller means {to:x}"),
            ));
        }
        if self.node.is_removed(from) {
            return Err(refused(Code::PermissionDenied, REMOVED));
        }
        if self.node.is_held_back() {
            return Err(refused(Code::FailedPrecondition, NOT_YET));
        }
        Ok(from)
    }

    fn warn(&self, from: u64, what: &str, theirs: u64) {
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(
                remote_member_id = format_args!("{from:x}"),
                remote_id = format_args!("{theirs:x}"),
                "{what}"
            );
        }
    }
}
