//! The socket, and what a test does to the server from outside of its API.

use crate::access::{Account, Accounts};
use crate::api::{self, Answer};
use crate::failure::Failure;
use crate::path::{Parameters, Route, Target, route};
use crate::resource::{Resource, Resources};
use crate::store::{Deletion, Key, Store, Write};
use crate::tls::Certificates;
use crate::watch;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch as latest};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// Bytes of a request's body, as in the real server.
const MAX_BODY_BYTES: usize = 3 << 20;

/// How long the head of a request may take, and a handshake.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Requests that are remembered; older ones are forgotten.
const MAX_REQUESTS: usize = 10_000;

/// Faults at once.
const MAX_FAULTS: usize = 100;

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// A loopback address; port 0 for any free port.
    pub listen: SocketAddr,
    /// Served besides the built-in resources.
    pub resources: Vec<Resource>,
    /// Events that watches can go back; older ones are answered with 410 Gone.
    pub history: usize,
    /// Between bookmarks of an idle watch. The real server takes a minute.
    pub bookmark_interval: Duration,
    /// What `/version` says, as `1.MINOR`.
    pub minor_version: u32,
    /// For https; without them it serves http.
    pub certificates: Option<Certificates>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            resources: Vec::new(),
            history: 4096,
            bookmark_interval: Duration::from_secs(1),
            minor_version: 33,
            certificates: None,
        }
    }
}

/// Requests that are to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `list`; absent for all.
    pub verb: Option<String>,
    /// Such as `pods`; absent for all.
    pub plural: Option<String>,
    /// The HTTP status to answer.
    pub code: u16,
    /// How many requests fail.
    pub count: u32,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Such as `list`.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    /// Such as `pods`.
    pub plural: String,
    /// Empty for all.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// Empty, or `status`.
    pub subresource: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

/// What watches are woken by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signal {
    /// The version of the newest object.
    pub(crate) version: u64,
    /// How often watches were cut.
    pub(crate) cuts: u64,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) store: Mutex<Store>,
    pub(crate) resources: Resources,
    pub(crate) accounts: Mutex<Accounts>,
    pub(crate) signal: latest::Sender<Signal>,
    pub(crate) bookmark_interval: Duration,
    pub(crate) stop: CancellationToken,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<VecDeque<Request>>,
    minor_version: u32,
}

impl Shared {
    /// Changes objects, and tells the watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.lock();
        let result = change(&mut store);
        let version = store.version();
        drop(store);
        self.signal.send_modify(|signal| signal.version = signal.version.max(version));
        result
    }

    /// The failure that a test asked for this request, if any.
    fn fault(&self, verb: &str, plural: &str) -> Option<Failure> {
        let mut faults = self.faults.lock();
        let concerns = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        let fault = faults.iter_mut().find(|fault| concerns(&fault.verb, verb) && concerns(&fault.plural, plural))?;
        fault.count = fault.count.saturating_sub(1);
        let code = fault.code;
        faults.retain(|fault| fault.count > 0);
        Some(Failure::injected(code))
    }
}

/// A server that runs until it is dropped.
pub struct FakeKube {
    shared: Arc<Shared>,
    address: SocketAddr,
    certificates: Option<Certificates>,
    connections: TaskTracker,
}

impl FakeKube {
    /// Binds, and serves on tasks of the runtime that this is called in.
    ///
    /// # Errors
    /// The address is not a loopback address, or cannot be bound.
    pub async fn start(options: Options) -> Result<Self> {
        ensure!(options.listen.ip().is_loopback(), "{} is not a loopback address", options.listen);
        let listener =
            TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new(options.history)),
            resources: Resources::new(&options.resources),
            accounts: Mutex::default(),
            signal: latest::Sender::new(Signal::default()),
            bookmark_interval: options.bookmark_interval,
            stop: CancellationToken::new(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            minor_version: options.minor_version,
        });
        let connections = TaskTracker::new();
        let acceptor = options.certificates.as_ref().map(|made| TlsAcceptor::from(Arc::clone(&made.config)));
        connections.spawn(accept(listener, acceptor, Arc::clone(&shared), connections.clone()));
        Ok(Self { shared, address, certificates: options.certificates, connections })
    }

    /// Where it serves: `http://127.0.0.1:PORT`, or `https`.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A kubeconfig for it, with a bearer token if one is given, and what its certificates need.
    pub fn kubeconfig(&self, token: Option<&str>, namespace: &str) -> String {
        let mut user = token.map_or_else(|| json!({}), |token| json!({"token": token}));
        let mut cluster = json!({"server": self.url()});
        if let Some(made) = &self.certificates {
            cluster["certificate-authority-data"] = json!(BASE64.encode(&made.ca));
            if made.wants_client {
                user["client-certificate-data"] = json!(BASE64.encode(&made.client_cert));
                user["client-key-data"] = json!(BASE64.encode(&made.client_key));
            }
        }
        // JSON is YAML, too.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": user}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
        });
        config.to_string()
    }

    /// Makes an object or replaces it whole, its status too, whatever its `resourceVersion`: what the parts of a
    /// cluster do that are not here.
    ///
    /// # Errors
    /// Its kind is not served, or it has no name.
    pub fn put(&self, object: Value) -> Result<Value, Failure> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = self.shared.resources.of_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
        let mut resource = resource.clone();
        // So that the status is written, too.
        resource.has_status = false;
        let namespace = text(&object["metadata"]["namespace"]);
        let mut key = Key {
            group: resource.group.clone(),
            plural: resource.plural.clone(),
            namespace: if resource.namespaced && namespace.is_empty() { "default".to_owned() } else { namespace },
            name: text(&object["metadata"]["name"]),
        };
        let write =
            Write { manager: "test".to_owned(), dry_run: false, force: true, subresource: String::new(), now: now() };
        let mut object = object;
        let put = self.shared.change(|store| match store.get(&key) {
            None => store.create(&resource, &mut key, object, &write),
            Some(live) => {
                object["metadata"]["resourceVersion"] = Value::Null;
                store.update(&resource, &key, &live, object, &write)
            }
        })?;
        Ok(put.as_ref().clone())
    }

    /// An object, by `apiVersion` and kind.
    ///
    /// # Errors
    /// The kind is not served, or there is no such object.
    pub fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Value, Failure> {
        let (resource, key) = self.key(api_version, kind, namespace, name)?;
        let found = self.shared.store.lock().get(&key);
        Ok(found.ok_or_else(|| crate::store::missing(resource, name))?.as_ref().clone())
    }

    /// All objects of a kind in a namespace; an empty one stands for all.
    ///
    /// # Errors
    /// The kind is not served.
    pub fn list(&self, api_version: &str, kind: &str, namespace: &str) -> Result<Vec<Value>, Failure> {
        let (resource, _) = self.key(api_version, kind, namespace, "")?;
        let (store, all) = (self.shared.store.lock(), crate::selector::Selector::default());
        Ok(store.list(resource, namespace, None, &all).map(|(_, object)| object.as_ref().clone()).collect())
    }

    /// Deletes an object at once.
    ///
    /// # Errors
    /// The kind is not served, or there is no such object.
    pub fn delete(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<(), Failure> {
        let (resource, key) = self.key(api_version, kind, namespace, name)?;
        self.shared.change(|store| store.delete(resource, &key, &Deletion::default())).map(drop)
    }

    fn key(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<(&Resource, Key), Failure> {
        let resource = self.shared.resources.of_kind(api_version, kind)?;
        let (group, plural) = (resource.group.clone(), resource.plural.clone());
        Ok((resource, Key { group, plural, namespace: namespace.to_owned(), name: name.to_owned() }))
    }

    /// Forgets all history: every watch, and every list that goes on, is answered with 410 Gone.
    pub fn expire_history(&self) {
        self.shared.change(Store::expire);
    }

    /// Cuts the connections of all watches, in the middle of their answers.
    pub fn cut_watches(&self) {
        self.shared.signal.send_modify(|signal| signal.cuts += 1);
    }

    /// Makes requests fail.
    ///
    /// # Errors
    /// There are too many faults already.
    pub fn fail(&self, fault: Fault) -> Result<(), Failure> {
        let mut faults = self.shared.faults.lock();
        if faults.len() >= MAX_FAULTS {
            return Err(Failure::bad_request("too many faults"));
        }
        faults.push(fault);
        Ok(())
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.faults.lock().clear();
    }

    /// Adds a bearer token. With the first, requests without a token are no longer answered.
    ///
    /// # Errors
    /// There are too many.
    pub fn add_account(&self, token: &str, account: Account) -> Result<(), Failure> {
        self.shared.accounts.lock().add(token, account)
    }

    /// A bearer token is good no more. Watches that it has begun go on.
    pub fn remove_account(&self, token: &str) {
        self.shared.accounts.lock().remove(token);
    }

    /// The newest requests for resources, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().iter().cloned().collect()
    }

    /// Ends all connections, and waits until they are closed.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Drop for FakeKube {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The time, as objects have it.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>, connections: TaskTracker) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("invariant: nobody closes it");
            // Without descriptors the next one may be accepted when others have ended.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
            connections.spawn(async move {
                match acceptor {
                    None => serve(stream, shared).await,
                    Some(acceptor) => {
                        let handshake = tokio::time::timeout(HEAD_DEADLINE, acceptor.accept(stream));
                        // A client that does not get through it is told there why.
                        if let Some(Ok(Ok(stream))) = shared.stop.clone().run_until_cancelled(handshake).await {
                            serve(stream, shared).await;
                        }
                    }
                }
                drop(permit);
            });
        }
    };
    shared.stop.run_until_cancelled(accepting).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(request, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that breaks is the client's matter.
    drop(stop.run_until_cancelled(connection).await);
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

async fn respond(request: hyper::Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    match answer(request, shared).await {
        Ok(response) => response,
        Err(failure) => whole(failure.code, &failure.status()),
    }
}

fn whole(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    json_response(code, body)
}

fn json_response(code: u16, body: Body) -> Response<Body> {
    let response = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json").body(body);
    response.expect("invariant: every failure has a valid status")
}

async fn answer(request: hyper::Request<Incoming>, shared: &Arc<Shared>) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    let parameters = Parameters::parse(head.uri.query());
    let missing = || Failure::not_found("the server could not find the requested resource".to_owned());
    let document = match route(head.uri.path()) {
        Route::Resource(target) => {
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    Failure::too_large(MAX_BODY_BYTES)
                } else {
                    Failure::bad_request("the body of the request is cut off")
                }
            })?;
            return resource(&head, &target, &parameters, &body.to_bytes(), shared);
        }
        Route::Control(word) if head.method == Method::POST => return control(&word, &parameters, shared),
        Route::Version => version(shared.minor_version),
        Route::Health => json!("ok"),
        Route::Api => Resources::core_versions(),
        Route::Groups => shared.resources.groups(),
        Route::Group(name) => shared.resources.group(&name).ok_or_else(missing)?,
        Route::Resources(group, version) => shared.resources.list(&group, &version).ok_or_else(missing)?,
        Route::Control(_) | Route::Unknown => return Err(missing()),
    };
    Ok(whole(200, &document))
}

fn version(minor: u32) -> Value {
    json!({
        "major": "1", "minor": minor.to_string(), "gitVersion": format!("v1.{minor}.0"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "2025-01-01T00:00:00Z", "goVersion": "go1.24", "compiler": "gc",
        "platform": "linux/amd64",
    })
}

/// What access is about: who lists or watches a collection with a selector of one name asks for that object, and may do so
/// by a rule with its name, as in `apiserver/pkg/endpoints/request`.
fn named(target: &Target, parameters: &Parameters) -> Target {
    let mut target = target.clone();
    if target.name.is_empty() {
        let selector = parameters.text("fieldSelector");
        let name = selector.split(',').find_map(|term| term.strip_prefix("metadata.name="));
        target.name = name.map_or_else(String::new, |name| name.trim_start_matches('=').to_owned());
    }
    target
}

fn resource(
    head: &http::request::Parts,
    target: &Target,
    parameters: &Parameters,
    body: &[u8],
    shared: &Arc<Shared>,
) -> Result<Response<Body>, Failure> {
    let refused = || Failure { code: 405, reason: "MethodNotAllowed", message: "the method is not allowed".to_owned() };
    let verb = api::verb(&head.method, target, parameters).ok_or_else(refused)?;
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = text(header::AUTHORIZATION).strip_prefix("Bearer ");
    let request = api::Request {
        target,
        parameters,
        content_type: text(header::CONTENT_TYPE),
        user_agent: text(header::USER_AGENT),
        body,
    };
    let permitted = shared.accounts.lock().check(token, verb, &named(target, parameters));
    let answer = permitted
        .and_then(|()| shared.fault(verb, &target.plural).map_or(Ok(()), Err))
        .and_then(|()| request.answer(shared, verb));
    let code = match &answer {
        Ok(Answer::Object(code, _)) => *code,
        Ok(Answer::Watch(_)) => 200,
        Err(failure) => failure.code,
    };
    remember(shared, verb, target, code);
    Ok(match answer? {
        Answer::Object(code, object) => whole(code, &object),
        Answer::Watch(watch) => json_response(200, watch::body(shared, *watch).boxed_unsync()),
    })
}

fn remember(shared: &Shared, verb: &'static str, target: &Target, code: u16) {
    let Target { group, plural, namespace, name, subresource, .. } = target.clone();
    let mut requests = shared.requests.lock();
    requests.push_back(Request { verb, group, plural, namespace, name, subresource, code });
    if requests.len() > MAX_REQUESTS {
        requests.pop_front();
    }
}

/// What a test says that runs in another process: `POST /fake/expire`, `/fake/cut`, `/fake/heal`, and
/// `/fake/fail?code=500&count=2&verb=list&plural=pods`.
fn control(word: &str, parameters: &Parameters, shared: &Arc<Shared>) -> Result<Response<Body>, Failure> {
    match word {
        "expire" => shared.change(Store::expire),
        "cut" => shared.signal.send_modify(|signal| signal.cuts += 1),
        "heal" => shared.faults.lock().clear(),
        "fail" => {
            let wanted = |name: &str| Some(parameters.text(name).to_owned()).filter(|text| !text.is_empty());
            let code = parameters.number("code")?;
            let code = u16::try_from(code).ok().filter(|code| (400..600).contains(code));
            let code = code.ok_or_else(|| Failure::bad_request("code: not a status of an error"))?;
            let count = u32::try_from(parameters.number("count")?.max(1)).unwrap_or(u32::MAX);
            let mut faults = shared.faults.lock();
            if faults.len() >= MAX_FAULTS {
                return Err(Failure::bad_request("too many faults"));
            }
            faults.push(Fault { verb: wanted("verb"), plural: wanted("plural"), code, count });
        }
        _ => return Err(Failure::not_found(format!("no such word: '{word}': one of expire, cut, heal, fail"))),
    }
    Ok(whole(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
}
