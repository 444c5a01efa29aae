//! Decides for each request whether it is a gRPC call, to which service, or plain HTTP.

use super::access::{AccessRules, Allowed};
use super::body::{GatewayBody, RequestBody, ResponseBody, Source};
use super::gather::OpenCalls;
use super::interrupt::{Interrupt, LeaderGate};
use super::observe::{Observed, Observers};
use super::streamed::{MayStream, StreamedMessage};
use crate::audit::Audit;
use crate::auth::{Auth, CommonName, Credentials, table};
use crate::config::RateLimit;
use crate::metrics::{Call, CallType, METHODS, MethodMetrics, Metrics};
use crate::otlp::Tracer;
use crate::rate_limit::{Asker, RateLimits};
use crate::v3::status::{refused, status};
use api::error::Error;
use axum::Router;
use axum::routing::future::RouteFuture;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::Code;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tower::Service;

const GRPC: &[u8] = b"application/grpc";

/// What a learner serves, as in etcd (Snapshot since 3.5, Defragment since 3.7). A range only if it is serializable, which
/// its service sees.
const LEARNER_SERVES: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/Defragment",
];

/// What has no limit of requests a second: renewals of leases keep alive what others share, and who asks whether this member
/// is well must be told.
const UNLIMITED: [&str; 4] = [
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
];

/// The unary method whose answer may take more than is to be built in memory.
const MAY_STREAM: &str = "/etcdserverpb.KV/Range";

/// Unary calls that take as long as others hold what they ask for: that they are slow says nothing.
const WAITS_FOR_OTHERS: [&str; 2] = ["/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"];

type GrpcFuture = BoxFuture<Response<tonic::body::Body>, Infallible>;
type Serve = Arc<dyn Fn(Request<RequestBody>) -> GrpcFuture + Send + Sync>;

struct Route {
    path: &'static str,
    is_unary: bool,
    is_for_learners: bool,
    is_unlimited: bool,
    serve: Serve,
    metrics: Arc<MethodMetrics>,
}

/// The gRPC services of a port, by method.
pub struct GrpcRoutes {
    routes: HashMap<&'static str, Route>,
    metrics: Arc<Metrics>,
    max_message_bytes: usize,
    observers: Arc<Observers>,
    leader: Arc<LeaderGate>,
    is_learner: Box<dyn Fn() -> bool + Send + Sync>,
    auth: Option<Auth>,
    rates: Option<RateLimits>,
}

impl fmt::Debug for GrpcRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.routes.keys()).finish()
    }
}

impl GrpcRoutes {
    /// Starts with no service. Request messages above `max_message_bytes` are refused with etcd's text; services
    /// should be generated with a higher limit of their own, so that this one answers.
    pub fn new(metrics: Arc<Metrics>, max_message_bytes: usize, slow: Duration, leader: Arc<LeaderGate>) -> Self {
        let observers = Arc::new(Observers { slow, tracer: None, audit: None });
        let is_learner = Box::new(|| false);
        let (auth, rates) = (None, None);
        Self { routes: HashMap::new(), metrics, max_message_bytes, observers, leader, is_learner, auth, rates }
    }

    /// Refuses what a learner does not serve while `is_learner` says that this member is one. It is asked for every call
    /// and must not block.
    #[must_use]
    pub fn refusing_as_learner(mut self, is_learner: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.is_learner = Box::new(is_learner);
        self
    }

    /// Refuses callers of the services that are added from here on, by the table of permissions.
    #[must_use]
    pub(crate) fn guarded_by(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Refuses who asks for more in a second than one may.
    #[must_use]
    pub(crate) fn limited_to(mut self, limit: Option<RateLimit>) -> Self {
        self.rates = limit.map(|limit| RateLimits::new(limit, &self.metrics.overload));
        self
    }

    /// Traces calls, and records those that change something.
    #[must_use]
    pub(crate) fn observed_by(mut self, tracer: Option<Arc<Tracer>>, audit: Option<Arc<Audit>>) -> Self {
        self.observers = Arc::new(Observers { slow: self.observers.slow, tracer, audit });
        self
    }

    /// Serves a generated service as well.
    ///
    /// # Panics
    /// If the service has no method in [`METHODS`]: it could not be reached.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<
                Request<RequestBody>,
                Response = Response<tonic::body::Body>,
                Error = Infallible,
                Future = GrpcFuture,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        // A generated service is an Arc and a few numbers; cloning it saves a lock.
        let serve: Serve = Arc::new(move |request| service.clone().call(request));
        let methods: Vec<_> = METHODS.iter().filter(|method| method.service() == S::NAME).collect();
        assert!(!methods.is_empty(), "no known method in {}", S::NAME);
        for method in methods {
            let metrics = self.metrics.grpc.method(method.path).expect("invariant: every method has metrics");
            let is_unary = method.call_type == CallType::Unary;
            let is_for_learners = LEARNER_SERVES.contains(&method.path);
            let (serve, metrics) = (guarded(&serve, method.path, self.auth.clone()), Arc::clone(metrics));
            let is_unlimited = UNLIMITED.contains(&method.path);
            let route = Route { path: method.path, is_unary, is_for_learners, is_unlimited, serve, metrics };
            self.routes.insert(method.path, route);
        }
        self
    }

    /// Larger request messages are refused.
    pub fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    /// Makes a call in process. It is counted, limited and refused like one that comes over a connection; who calls is in
    /// the request's extensions.
    pub fn call_from_gateway(
        &self,
        request: Request<GatewayBody>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + use<> {
        let answer = self.call(request.map(Source::Gateway), None, &OpenCalls::default());
        answer.map(|Ok(response)| response)
    }

    fn call(&self, request: Request<Source>, peer: Option<&TcpConnectInfo>, open: &OpenCalls) -> FrontFuture {
        let Some(route) = self.routes.get(request.uri().path()) else {
            let refusal = self.refuse(request.uri().path());
            request.into_body().read_on();
            return FrontFuture::Ready(Some(refusal));
        };
        let version = request.headers().get("client-api-version").and_then(|value| value.to_str().ok());
        self.metrics.grpc.count_client(&route.metrics, version);
        let mut call = Call::start(&route.metrics);
        // The gateway passes on where the request came from.
        let peer = peer.cloned().or_else(|| request.extensions().get::<TcpConnectInfo>().cloned());
        let remote = peer.as_ref().and_then(|peer| peer.remote_addr);
        let mut observed = self.observers.start(
            (route.path, route.is_unary && !WAITS_FOR_OTHERS.contains(&route.path)),
            request.headers(),
            remote,
            request.extensions().get::<CommonName>().map(|name| &name.0),
        );
        let credentials = Credentials::of_call(request.headers(), request.extensions().get::<CommonName>());
        let caller = (&credentials, remote.map(|remote| remote.ip()));
        let interrupt = match self.admit(route, request.headers(), caller, observed.as_mut()) {
            Ok(interrupt) => interrupt,
            Err(status) => {
                call.finish(status.code());
                if let Some(observed) = &mut observed {
                    observed.end(status.code());
                }
                request.into_body().read_on();
                return FrontFuture::Ready(Some(answer(status)));
            }
        };
        // The gateway needs all of an answer to write it as JSON.
        let may_stream = route.path == MAY_STREAM && !matches!(request.body(), Source::Gateway(_));
        let mut request = request.map(|body| RequestBody::new(body, self.max_message_bytes, &route.metrics));
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        if !credentials.is_empty() {
            request.extensions_mut().insert(credentials);
        }
        if may_stream {
            request.extensions_mut().insert(MayStream);
        }
        let (future, is_unary) = ((route.serve)(request), route.is_unary);
        FrontFuture::Grpc { future, call: Some((call, open.clone())), observed, is_unary, interrupt }
    }

    /// Checks what can be checked before the service is called.
    fn admit(
        &self,
        route: &Route,
        headers: &HeaderMap,
        caller: (&Credentials, Option<IpAddr>),
        observed: Option<&mut Observed>,
    ) -> Result<Interrupt, tonic::Status> {
        if let Some(rates) = self.rates.as_ref().filter(|_| !route.is_unlimited)
            && !rates.admits(self.asker(caller))
        {
            // As etcd's table of errors has it. What etcd itself sends for a full queue has another code.
            return Err(refused(Code::ResourceExhausted, Error::TooManyRequests.text()));
        }
        if !route.is_for_learners && (self.is_learner)() {
            return Err(status(Error::NotSupportedForLearner));
        }
        if observed.is_some_and(Observed::must_be_refused) {
            return Err(refused(Code::Unavailable, "the audit log cannot be written, and --audit-log-required is set"));
        }
        Interrupt::of(headers, route.is_unary, &self.leader)
    }

    /// Whose limit counts: the user's, if the call names one.
    fn asker(&self, (credentials, address): (&Credentials, Option<IpAddr>)) -> Asker {
        let user = self.auth.as_ref().and_then(|auth| auth.user(credentials));
        user.map_or_else(|| Asker::at(address), |user| Asker::User(user.into()))
    }

    /// Answers a call to a method that is not served, in the words of grpc-go.
    fn refuse(&self, path: &str) -> Response<ResponseBody> {
        let text = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
            None => format!("malformed method name: {path:?}"),
            Some((service, method)) => {
                let is_known =
                    METHODS.iter().any(|known| known.service() == service && self.routes.contains_key(known.path));
                if is_known {
                    format!("unknown method {method} for service {service}")
                } else {
                    format!("unknown service {service}")
                }
            }
        };
        answer(tonic::Status::new(Code::Unimplemented, text))
    }
}

/// A service behind the rule that its RPC has.
fn guarded(serve: &Serve, path: &'static str, auth: Option<Auth>) -> Serve {
    let (serve, row) = (Arc::clone(serve), table::row(path));
    let Some(auth) = auth.filter(|_| row.needs().is_some()) else { return serve };
    Arc::new(move |request| {
        // Without users it costs no more than this.
        if !auth.is_enabled() {
            return serve(request);
        }
        let (auth, serve) = (auth.clone(), Arc::clone(&serve));
        Box::pin(async move {
            let credentials = request.extensions().get::<Credentials>().cloned().unwrap_or_default();
            match auth.admit(row, &credentials).await {
                Ok(()) => serve(request).await,
                Err(error) => {
                    request.into_body().read_on();
                    Ok(status(error).into_http())
                }
            }
        })
    })
}

/// An answer that is nothing but a status.
fn answer(status: tonic::Status) -> Response<ResponseBody> {
    let response: Response<()> = status.into_http();
    response.map(|()| ResponseBody::Nothing)
}

/// Serves the HTTP requests below one path without a router, which would cost more than the answer.
#[derive(Clone)]
pub(crate) struct Shortcut {
    /// What the path of a request begins with, as it came.
    pub(crate) prefix: &'static str,
    pub(crate) serve: ServeHttp,
}

/// Answers a request from an address; none means a unix socket.
pub(crate) type ServeHttp = Arc<dyn Fn(axum::extract::Request, Option<SocketAddr>) -> HttpFuture + Send + Sync>;

type HttpFuture = futures::future::BoxFuture<'static, axum::response::Response>;

impl fmt::Debug for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shortcut").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What a port serves: gRPC, HTTP or both.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: Option<Arc<GrpcRoutes>>,
    http: Option<Router>,
    shortcut: Option<Shortcut>,
    /// Before all of HTTP.
    rules: Option<Arc<AccessRules>>,
    shows_certificates: bool,
}

impl Front {
    /// Serves gRPC and HTTP on one port.
    pub fn both(grpc: Arc<GrpcRoutes>, http: Router) -> Self {
        Self { http: Some(http), ..Self::grpc_only(grpc) }
    }

    /// Serves gRPC only; other requests are answered with 404.
    pub fn grpc_only(grpc: Arc<GrpcRoutes>) -> Self {
        Self { grpc: Some(grpc), http: None, shortcut: None, rules: None, shows_certificates: false }
    }

    /// Serves HTTP only; a gRPC call is answered as an unknown path.
    pub fn http_only(http: Router) -> Self {
        Self { grpc: None, http: Some(http), shortcut: None, rules: None, shows_certificates: false }
    }

    /// Takes a shortcut to what is behind some paths.
    #[must_use]
    pub(crate) fn with_shortcut(self, shortcut: Option<Shortcut>) -> Self {
        Self { shortcut, ..self }
    }

    /// Serves HTTP to those callers only, and tells browsers.
    #[must_use]
    pub(crate) fn ruled_by(self, rules: Arc<AccessRules>) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// Puts the certificates of callers into the extensions of requests, as [`CallerCertificate`].
    #[must_use]
    pub(crate) fn showing_certificates(self) -> Self {
        Self { shows_certificates: true, ..self }
    }

    /// What is served, in etcd's words.
    pub(super) fn traffic(&self) -> &'static str {
        match (&self.grpc, &self.http) {
            (Some(_), Some(_)) => "grpc+http",
            (Some(_), None) => "grpc",
            (None, _) => "http",
        }
    }

    fn call(&self, request: Request<Incoming>, peer: Option<&TcpConnectInfo>, open: &OpenCalls) -> FrontFuture {
        let is_grpc = request.version() == Version::HTTP_2
            && request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()));
        if is_grpc && let Some(grpc) = &self.grpc {
            return grpc.call(request.map(Source::Connection), peer, open);
        }
        let Some(router) = &self.http else { return FrontFuture::Ready(Some(not_found())) };
        if let Some(answer) = self.rules.as_ref().and_then(|rules| rules.answer(&request)) {
            return FrontFuture::Ready(Some(answer.map(ResponseBody::Http)));
        }
        let allowed = self.rules.as_ref().map(|rules| rules.allowed(&request)).unwrap_or_default();
        let remote = peer.and_then(|peer| peer.remote_addr);
        let mut request = request.map(axum::body::Body::new);
        let answer = match &self.shortcut {
            Some(shortcut) if request.uri().path().starts_with(shortcut.prefix) => {
                let is_head = request.method() == Method::HEAD;
                HttpAnswer::Shortcut { answer: (shortcut.serve)(request, remote), is_head }
            }
            _ => {
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer.clone());
                }
                request.extensions_mut().insert(HttpCaller { remote });
                HttpAnswer::Router(Box::pin(router.clone().call(request)))
            }
        };
        FrontFuture::Http { answer, allowed }
    }
}

/// `application/grpc` with or without an encoding or parameters, but not `application/grpc-web`.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(GRPC).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What is left for who asked for the head only: it tells the length of the body, as a router would have it.
fn without_body(mut response: axum::response::Response) -> axum::response::Response {
    let length = http_body::Body::size_hint(response.body()).exact();
    if let Some(length) = length {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    response.map(|_| axum::body::Body::empty())
}

fn not_found() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Http("404 page not found\n".into()));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Where an HTTP request came from; no address means a unix socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpCaller {
    pub(crate) remote: Option<SocketAddr>,
}

/// Marks HTTP requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub struct OverTls;

/// The certificate that the caller of a peer URL has shown, and the handshake verified.
#[derive(Clone, Debug)]
pub(crate) struct CallerCertificate(pub(crate) Arc<CertificateDer<'static>>);

/// The front as one connection sees it.
#[derive(Debug)]
pub(super) struct ConnectionFront {
    front: Front,
    calls: OpenCalls,
    peer: Option<TcpConnectInfo>,
    is_secure: bool,
    common_name: Option<CommonName>,
    certificate: Option<CallerCertificate>,
    /// Told of every request.
    requests: Option<Arc<Notify>>,
}

impl ConnectionFront {
    pub(super) fn new(front: Front, calls: OpenCalls, local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Self {
        let peer = remote.map(|_| TcpConnectInfo { local_addr: local, remote_addr: remote });
        Self { front, calls, peer, is_secure: false, common_name: None, certificate: None, requests: None }
    }

    /// Marks requests as [`OverTls`].
    pub(super) fn secured(mut self) -> Self {
        self.is_secure = true;
        self
    }

    /// Tells services whose certificate the caller has shown.
    pub(super) fn named(mut self, common_name: Option<String>) -> Self {
        self.common_name = common_name.map(|name| CommonName(name.into()));
        self
    }

    /// Tells those who ask for it which certificate the caller has shown.
    pub(super) fn certified(mut self, certificate: Option<CertificateDer<'static>>) -> Self {
        self.certificate =
            certificate.filter(|_| self.front.shows_certificates).map(|it| CallerCertificate(Arc::new(it)));
        self
    }

    /// Tells of every request whose head has arrived.
    pub(super) fn telling(mut self, requests: Arc<Notify>) -> Self {
        self.requests = Some(requests);
        self
    }
}

impl hyper::service::Service<Request<Incoming>> for ConnectionFront {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = FrontFuture;

    fn call(&self, mut request: Request<Incoming>) -> FrontFuture {
        if let Some(requests) = &self.requests {
            requests.notify_one();
        }
        if self.is_secure {
            request.extensions_mut().insert(OverTls);
        }
        if let Some(name) = &self.common_name {
            request.extensions_mut().insert(name.clone());
        }
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        self.front.call(request, self.peer.as_ref(), &self.calls)
    }
}

/// The answer to come.
pub(super) enum FrontFuture {
    Grpc {
        future: GrpcFuture,
        /// Taken when the answer's head is there; dropped with the future if the client leaves before.
        call: Option<(Call, OpenCalls)>,
        observed: Option<Observed>,
        is_unary: bool,
        interrupt: Interrupt,
    },
    Http {
        answer: HttpAnswer,
        allowed: Allowed,
    },
    Ready(Option<Response<ResponseBody>>),
}

/// The answer to an HTTP request, by whichever way.
pub(super) enum HttpAnswer {
    Router(Pin<Box<RouteFuture<Infallible>>>),
    Shortcut { answer: HttpFuture, is_head: bool },
}

impl HttpAnswer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<axum::response::Response> {
        match self {
            Self::Router(answer) => answer.as_mut().poll(cx).map(|Ok(response)| response),
            Self::Shortcut { answer, is_head } => {
                let response = ready!(answer.as_mut().poll(cx));
                Poll::Ready(if *is_head { without_body(response) } else { response })
            }
        }
    }
}

impl Future for FrontFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match &mut *self {
            Self::Grpc { future, call, observed, is_unary, interrupt } => {
                let polled = match observed {
                    Some(observed) => observed.during(|| future.as_mut().poll(cx)),
                    None => future.as_mut().poll(cx),
                };
                let answered = match polled {
                    Poll::Ready(Ok(response)) => Ok(response),
                    Poll::Pending => Err(ready!(interrupt.poll(cx))),
                };
                if let Some(observed) = observed {
                    observed.served();
                }
                let (mut call, open) = call.take().expect("invariant: a finished future is not polled again");
                match answered {
                    Ok(response) => {
                        let (mut head, body) = response.into_parts();
                        let streamed = StreamedMessage::take_from(&mut head.extensions);
                        let body = streamed.map_or(body, tonic::body::Body::new);
                        let rest = Some(std::mem::take(interrupt)).filter(|rest| !*is_unary && !rest.is_never());
                        let body = ResponseBody::grpc(&head.headers, body, (call, observed.take(), open), rest);
                        Response::from_parts(head, body)
                    }
                    Err(status) => {
                        call.finish(status.code());
                        if let Some(observed) = observed {
                            observed.end(status.code());
                        }
                        answer(status)
                    }
                }
            }
            Self::Http { answer, allowed } => {
                let mut response = ready!(answer.poll(cx));
                allowed.add_to(response.headers_mut());
                response.map(ResponseBody::Http)
            }
            Self::Ready(response) => response.take().expect("invariant: a finished future is not polled again"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::is_grpc;

    #[test]
    fn content_types_are_told_apart() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["application/json", "application/grpc-web", "application/grpc-web+proto", ""] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }
}
