//! The routes: what a member, an operator and a probe may ask.

use crate::hub::{Hub, Wanted};
use crate::metrics::Metrics;
use crate::registry::{Entry, MAX_SIZE, Registry, Token, failed};
use crate::v2::{Error, Event, ROOT, json};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{Method, StatusCode, header};
use prometheus::IntCounterVec;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// A registration is a name and a few URLs; longer bodies are refused.
const MAX_BODY_BYTES: usize = 16 << 10;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// How long a poll waits before it is answered with nothing. Members ask again then.
const WAIT_LIMIT: Duration = Duration::from_mins(1);

/// How long a health check holds: many probes do not make many writes.
const HEALTH_HOLDS: Duration = Duration::from_secs(5);

/// Longest name of a member's key. Members use 16 digits.
const MAX_MEMBER_LEN: usize = 64;

/// Size of a cluster if /new is not told another; what the other services take.
const DEFAULT_SIZE: usize = 3;

const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// What every request can use.
pub(crate) struct Service {
    /// The URL that tokens are appended to.
    pub(crate) host: String,
    pub(crate) registry: Registry,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    /// The last health check, and whether it succeeded.
    pub(crate) health: Mutex<Option<(Instant, bool)>>,
    /// Ends the polls.
    pub(crate) stop: CancellationToken,
}

type Shared = State<Arc<Service>>;

/// All routes.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let metrics = &service.metrics;
    let counted = |router: Router<Arc<Service>>, counter: &IntCounterVec| {
        router.route_layer(from_fn_with_state(counter.clone(), count))
    };
    let new =
        counted(Router::new().route("/new", get(new_token).put(new_token).post(new_token)), &metrics.new_requests);
    let health = counted(Router::new().route("/health", any(health)), &metrics.health_requests);
    let tokens = Router::new()
        .route("/{token}", get(read_token).put(write_token))
        .route("/{token}/", get(read_token).put(write_token))
        .route("/{token}/_config/size", get(read_size))
        .route("/{token}/{member}", get(read_member).put(write_member).delete(remove_member));
    let tokens = counted(tokens, &metrics.token_requests);
    Router::new()
        .route("/", get(help))
        .route("/robots.txt", get(async || ROBOTS))
        .route("/metrics", get(metrics_text))
        .merge(new)
        .merge(health)
        .merge(tokens)
        .fallback(async |request: Request| Error::not_found(request.uri().path(), 0))
        .with_state(service)
}

async fn count(State(counter): State<IntCounterVec>, request: Request, next: Next) -> Response {
    // A method that nobody knows must not make a time series.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "PUT" | "POST" | "DELETE" | "OPTIONS" | "PATCH") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    counter.with_label_values(&[response.status().as_str(), &method]).inc();
    response
}

async fn help(State(service): Shared) -> String {
    let host = &service.host;
    format!(
        "Discovery for etcd and Cleat clusters that start.\n\n\
         1. Make a token for a cluster of 3 members:\n     curl '{host}/new?size=3'\n\
         2. Start every member with the URL that this answers:\n     etcd --name NAME --discovery {host}/TOKEN ...\n\n\
         A token is used once, is for 1 to {MAX_SIZE} members, and is removed some time after it was made.\n\
         Who knows a token can change what is registered under it.\n"
    )
}

async fn new_token(State(service): Shared, request: Request) -> Response {
    let plain = |text: String| (StatusCode::BAD_REQUEST, text + "\n").into_response();
    let form = match Form::read(request).await {
        Ok(form) => form,
        Err(error) => return error.into_response(),
    };
    let size = match form.get("size") {
        None | Some("") => DEFAULT_SIZE,
        Some(text) => match text.parse::<i64>() {
            Ok(size) if (1..=MAX_SIZE as i64).contains(&size) => size as usize,
            Ok(size) => return plain(format!("size {size} is not between 1 and {MAX_SIZE}")),
            Err(_) => return plain(format!("size {text:?} is not a number")),
        },
    };
    match service.registry.create(size).await {
        Ok(token) => {
            tracing::info!(size, "made a token");
            format!("{}/{token}", service.host).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot make a token");
            (StatusCode::SERVICE_UNAVAILABLE, "unable to generate token\n").into_response()
        }
    }
}

async fn health(State(service): Shared) -> Response {
    let mut last = service.health.lock().await;
    let is_healthy = match *last {
        Some((at, is_healthy)) if at.elapsed() < HEALTH_HOLDS => is_healthy,
        _ => {
            let checked = service.registry.check().await;
            if let Err(error) = &checked {
                tracing::warn!(%error, "the store is not healthy");
            }
            *last = Some((Instant::now(), checked.is_ok()));
            checked.is_ok()
        }
    };
    if is_healthy {
        "OK".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store cannot be written\n").into_response()
    }
}

async fn metrics_text(State(service): Shared) -> Response {
    match service.metrics.text(service.hub.waiters()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn read_token(State(service): Shared, Path(token): Path<String>, request: Request) -> Result<Response, Error> {
    let token = known(&token, "")?;
    let form = Form::read(request).await?;
    if let Some(from) = form.wait()? {
        // Without `recursive`, v2 would show only the removal of the directory, which nobody waits for.
        let wanted = Wanted { token, member: None, from };
        return service.wait(wanted).await;
    }
    let entry = service.registry.entry(&token).await?;
    Ok(Event::get(entry.node()).answer(StatusCode::OK, entry.revision))
}

/// What v2 says to a value for a directory.
async fn write_token(State(service): Shared, Path(token): Path<String>) -> Error {
    match known(&token, "") {
        Err(error) => error,
        Ok(token) => match service.registry.entry(&token).await {
            Ok(entry) => Error::not_a_file(token.path(), entry.revision),
            Err(error) => error,
        },
    }
}

async fn read_size(State(service): Shared, Path(token): Path<String>) -> Result<Response, Error> {
    let token = known(&token, "_config/size")?;
    let entry = service.registry.entry(&token).await?;
    Ok(Event::get(entry.size_node()).answer(StatusCode::OK, entry.revision))
}

async fn read_member(
    State(service): Shared,
    Path((token, member)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Error> {
    let token = known(&token, &member)?;
    let form = Form::read(request).await?;
    if let Some(from) = form.wait()? {
        let wanted = Wanted { token, member: Some(member), from };
        return service.wait(wanted).await;
    }
    let entry: Entry = service.registry.entry(&token).await?;
    let node = entry.member(&member).ok_or_else(|| Error::not_found(token.member_path(&member), entry.revision))?;
    Ok(Event::get(node).answer(StatusCode::OK, entry.revision))
}

async fn write_member(
    State(service): Shared,
    Path((token, member)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Error> {
    let token = known(&token, &member)?;
    check_member(&member)?;
    let form = Form::read(request).await?;
    form.refuse(&["prevValue", "prevIndex", "ttl", "refresh", "dir"])?;
    let is_new = match form.get("prevExist") {
        None | Some("") => false,
        Some("false") => true,
        Some("true") => return Err(Error::invalid_field("prevExist=true is not supported")),
        Some(_) => return Err(Error::invalid_field("invalid value for prevExist")),
    };
    let value = form.get("value").unwrap_or_default();
    let (event, index) = service.registry.register(&token, &member, value, is_new).await?;
    tracing::info!(member, "registered a member");
    let status = if event.prev_node.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(event.answer(status, index))
}

async fn remove_member(
    State(service): Shared,
    Path((token, member)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Error> {
    let token = known(&token, &member)?;
    Form::read(request).await?.refuse(&["prevValue", "prevIndex", "dir"])?;
    let (event, index) = service.registry.remove(&token, &member).await?;
    tracing::info!(member, "removed a member");
    Ok(event.answer(StatusCode::OK, index))
}

/// A token that can exist. What cannot is answered as one that does not, which members understand.
fn known(token: &str, below: &str) -> Result<Token, Error> {
    Token::parse(token).ok_or_else(|| Error::not_found(format!("{ROOT}/{token}/{below}").trim_end_matches('/'), 0))
}

fn check_member(member: &str) -> Result<(), Error> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if member.len() <= MAX_MEMBER_LEN && !member.starts_with('_') && member.bytes().all(is_good) {
        return Ok(());
    }
    Err(Error::invalid_field(format!(
        "a member's key has at most {MAX_MEMBER_LEN} letters, digits, '-', '.' and '_', and no '_' at its beginning"
    )))
}

impl Service {
    /// Begins an answer at once, as etcd does, and ends it with the event or, when the time is over, without one.
    async fn wait(&self, mut wanted: Wanted) -> Result<Response, Error> {
        let Some(waiter) = self.hub.enter(&wanted.token) else {
            return Err(Error::unavailable("too many requests are waiting"));
        };
        let index = match self.hub.revision() {
            // The watch has not begun yet.
            0 => self.registry.revision().await.map_err(|error| failed(&error))?,
            revision => revision,
        };
        if wanted.from == 0 {
            wanted.from = index + 1;
        }
        let (registry, stop) = (self.registry.clone(), self.stop.clone());
        let line = async move {
            tokio::select! {
                event = waiter.wait(&registry, wanted) => event.line(),
                () = tokio::time::sleep(WAIT_LIMIT) => String::new(),
                () = stop.cancelled() => String::new(),
            }
        };
        let line = futures::stream::once(async { Ok::<_, Infallible>(line.await) });
        Ok(json(StatusCode::OK, index, Body::from_stream(line)))
    }
}

/// The fields of a request, from its query and its form. A field of the form wins.
struct Form(Vec<(String, String)>);

impl Form {
    /// Reads the body, if it is a form.
    async fn read(request: Request) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let is_form = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"))
        });
        let mut fields = Vec::new();
        if is_form && matches!(parts.method, Method::PUT | Method::POST) {
            let Ok(read) = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY_BYTES)).await else {
                return Err(Error::invalid_form("the body did not arrive in time"));
            };
            let too_long =
                |_| Error::invalid_form(format!("the body has more than {MAX_BODY_BYTES} bytes, or broke off"));
            let body: Bytes = read.map_err(too_long)?;
            fields.extend(form_urlencoded::parse(&body).into_owned());
        }
        fields.extend(form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned());
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Fields that are not supported must not be without effect.
    fn refuse(&self, names: &[&str]) -> Result<(), Error> {
        let given = names.iter().find(|name| self.get(name).is_some_and(|value| !matches!(value, "" | "false")));
        given.map_or(Ok(()), |name| Err(Error::invalid_field(format!("{name} is not supported"))))
    }

    fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("" | "false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some(_) => Err(Error::invalid_field(format!("invalid value for \"{name}\""))),
        }
    }

    /// The index to wait for if this is a poll; 0 for the next event.
    fn wait(&self) -> Result<Option<i64>, Error> {
        // Every read here is linearizable, recursive and sorted; the fields only have to be well-formed.
        for name in ["recursive", "sorted", "quorum"] {
            self.flag(name)?;
        }
        if self.flag("stream")? {
            return Err(Error::invalid_field("stream is not supported"));
        }
        let index = match self.get("waitIndex") {
            None | Some("") => 0,
            Some(text) => text.parse().ok().filter(|index| *index >= 0).ok_or_else(|| Error::bad_index("waitIndex"))?,
        };
        Ok(self.flag("wait")?.then_some(index))
    }
}
