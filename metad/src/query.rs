//! The query API: what a client may read, told by who it is.
//!
//! `/PATH` is the data at a path, as far as the client may read it, and `/` has what the client is mapped to as `self`
//! beside it; `/self/NAME` follows the client's mapping. What is forbidden is answered as what is absent.

use crate::app::{self, App, Asked, Fields, Handled, Peer};
use crate::caller::{self, Caller};
use crate::hub::{Full, Quiet, Topic};
use crate::look::{Looking, Place, Seen, Who};
use crate::path;
use crate::pods;
use crate::reply::{self, Wish};
use crate::session::{TOKEN, TTL, TTL_SECONDS};
use crate::settings::{SessionTokens, duration};
use crate::shown::Shown;
use crate::tree::{Leaf, Written};
use crate::wait::full;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::Response;
use futures::future::{BoxFuture, Either, Ready, ready};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client is waited for that may be a pod which has just started.
const POD_WAIT: Duration = Duration::from_secs(1);
/// Names in a path; longer ones lead nowhere.
const MAX_NAMES: usize = 256;

/// An answer that was made already, as almost all are, or one that is waited for. The second is boxed, so that neither a
/// connection nor a wait has the size of all that a request can need.
pub(crate) type Answering = Either<Ready<Response>, BoxFuture<'static, Response>>;

/// What becomes an answer, by the same two ways.
type Begun = Either<Handled, BoxFuture<'static, Handled>>;

/// Answers a request of the query API.
pub(crate) fn answer(app: &Arc<App>, request: Request, peer: Peer) -> Answering {
    let (started, line) = (Instant::now(), app.line(&request, &peer, false));
    let begun = match app.open(request, peer) {
        Ok((asked, _)) => begin(app, asked),
        Err(handled) => Either::Left(handled),
    };
    match begun {
        Either::Left(handled) => Either::Left(ready(app.close("query", line, handled, started))),
        Either::Right(later) => {
            let app = Arc::clone(app);
            Either::Right(Box::pin(async move { app.close("query", line, later.await, started) }))
        }
    }
}

fn begin(app: &Arc<App>, asked: Asked) -> Begun {
    let client = match pass(app, &asked) {
        Ok(client) => client,
        Err(handled) => return Either::Left(handled),
    };
    match known(app, &asked, client).filter(|_| app.is_synced()) {
        Some(who) => look(app, &asked, who),
        None => Either::Right(Box::pin(late(Arc::clone(app), asked, client))),
    }
}

/// The client that asks for something to look at. Everything else is answered.
fn pass(app: &App, asked: &Asked) -> Result<Option<IpAddr>, Handled> {
    let wish = asked.wish;
    let is_read = matches!(asked.method, Method::GET | Method::HEAD);
    if is_read && app.query.ready_path.as_deref() == Some(asked.path.as_slice()) {
        // Whoever asks: it tells nothing else.
        return Err(Handled::page(app.ready(), "ready"));
    }
    if is_read && app.query.health_path.as_deref() == Some(asked.path.as_slice()) {
        return Err(Handled::page(app::health(), "health"));
    }
    let is_token = asked.path == b"/token" && app.sessions.is_some() && asked.method != Method::GET;
    if asked.path == b"/favicon.ico" {
        return Err(Handled::page(wish.no_such_page(), "other"));
    }
    if !is_token && !is_read {
        return Err(Handled::page(app.no_such_method(wish, "GET, HEAD"), "other"));
    }
    let refused = |response| Handled::page(response, "refused");
    let client = admit(app, asked).map_err(refused)?;
    if is_token {
        return Err(Handled::page(grant(app, asked, client), "token"));
    }
    check_token(app, asked, client).map_err(refused)?;
    Ok(client)
}

/// Answers who has to be waited for first: the store has not been read, or it is not known who asks.
async fn late(app: Arc<App>, asked: Asked, client: Option<IpAddr>) -> Handled {
    if let Err(response) = app.synced(asked.wish).await {
        return Handled::page(response, "unsynced");
    }
    let who = match identify(&app, &asked, client).await {
        Ok(who) => who,
        Err(response) => return Handled::page(response, "refused"),
    };
    let begun = look(&app, &asked, who);
    drop(asked);
    match begun {
        Either::Left(handled) => handled,
        Either::Right(later) => later.await,
    }
}

/// Who asks, if the request may be answered at all.
fn admit(app: &App, asked: &Asked) -> Result<Option<IpAddr>, Response> {
    let forbidden = |reason: &str, message: &str| {
        app.metrics.refuse(reason);
        asked.wish.error(StatusCode::FORBIDDEN, message, !app.compat)
    };
    if let Some((name, value)) = &app.query.required_header {
        let is_there = |found: &HeaderValue| value.as_ref().is_none_or(|value| found.as_bytes() == value.as_bytes());
        if !asked.headers.get_all(name).iter().any(is_there) {
            return Err(forbidden("header", &format!("the header {name} is required")));
        }
        if app.query.proxies.is_none() && caller::is_forwarded(&asked.headers) {
            return Err(forbidden("forwarded", "requests through proxies are not answered"));
        }
    }
    let client = match caller::caller(asked.peer.addr.ip(), &asked.headers, app.query.proxies.as_deref()) {
        Caller::Client(client) if client.is_loopback() => Some(app.query.local_client.unwrap_or(client)),
        Caller::Client(client) => Some(client),
        Caller::Nobody => {
            app.metrics.refuse("forwarded");
            None
        }
    };
    if !app.rate.take(app.source(client.unwrap_or(asked.peer.addr.ip()))) {
        app.metrics.refuse("rate");
        return Err(app.later(asked.wish, StatusCode::TOO_MANY_REQUESTS, "too many requests"));
    }
    Ok(client)
}

fn check_token(app: &App, asked: &Asked, client: Option<IpAddr>) -> Result<(), Response> {
    let Some(sessions) = &app.sessions else { return Ok(()) };
    let is_good = match (asked.headers.get(TOKEN), client) {
        (Some(token), Some(client)) => sessions.check(token.as_bytes(), client).is_some(),
        (Some(_), None) => false,
        (None, _) => app.query.session_tokens != SessionTokens::Required,
    };
    if is_good {
        return Ok(());
    }
    app.metrics.refuse("token");
    let message = "a token from PUT /token is required, in the header X-Metad-Token";
    Err(asked.wish.error(StatusCode::UNAUTHORIZED, message, !app.compat))
}

/// Gives a client a token.
fn grant(app: &App, asked: &Asked, client: Option<IpAddr>) -> Response {
    let wish = asked.wish;
    if asked.method != Method::PUT {
        return app.no_such_method(wish, "PUT");
    }
    let (Some(sessions), Some(client)) = (&app.sessions, client) else { return app.not_found(wish) };
    if app.query.proxies.is_none() && caller::is_forwarded(&asked.headers) {
        app.metrics.refuse("forwarded");
        return wish.error(StatusCode::FORBIDDEN, "tokens are not given to proxies", !app.compat);
    }
    let ttl = asked.headers.get(TTL).and_then(|ttl| ttl.to_str().ok()?.parse().ok());
    let Some(ttl) = ttl.filter(|ttl| TTL_SECONDS.contains(ttl)) else {
        let (first, last) = (TTL_SECONDS.start(), TTL_SECONDS.end());
        let message = format!("X-Metad-Token-TTL-Seconds must be from {first} to {last}");
        return wish.error(StatusCode::BAD_REQUEST, &message, !app.compat);
    };
    // The answer goes no further than the client; who stands between gets nothing.
    if let (1.., Some(stream)) = (app.query.token_hop_limit, &asked.peer.hops)
        && let Err(error) = crate::listen::limit_hops(stream, app.query.token_hop_limit)
    {
        tracing::warn!(%error, "cannot limit the hops of a token");
        return wish.error(StatusCode::INTERNAL_SERVER_ERROR, "cannot limit the hops of the answer", !app.compat);
    }
    let mut response = wish.shown(Bytes::from(sessions.grant(client, ttl)), String::new());
    response.headers_mut().remove(header::ETAG);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(TTL, HeaderValue::from(ttl));
    response
}

/// Who asks, if that is known without asking about a token, and the address is known.
fn known(app: &App, asked: &Asked, client: Option<IpAddr>) -> Option<Who> {
    let who = Who { source: client.map(|client| app.source(client)), address: client, uid: None };
    let (Some(all), Some(client)) = (&app.pods, client) else { return Some(who) };
    if app.review.is_some() && bearer(asked).is_some() {
        return None;
    }
    let state = app.world.state();
    let is_known = all.at(client).is_some() || state.mapped(client).is_some() || state.access(client).is_some();
    is_known.then_some(who)
}

/// Who asks, by a token if there is one, else by the address. A pod that has just started may ask before its address is
/// known, and is waited for a moment.
async fn identify(app: &App, asked: &Asked, client: Option<IpAddr>) -> Result<Who, Response> {
    if let Some(who) = known(app, asked, client) {
        return Ok(who);
    }
    let who = Who { source: client.map(|client| app.source(client)), address: client, uid: None };
    let (Some(all), Some(client)) = (&app.pods, client) else { return Ok(who) };
    if let (Some(review), Some(token)) = (&app.review, bearer(asked)) {
        let refused = |status, message| {
            app.metrics.refuse("token");
            asked.wish.error(status, message, !app.compat)
        };
        let uid = (review.0)(token).await.map_err(|error| {
            tracing::warn!("cannot ask about a token: {error}");
            app.later(asked.wish, StatusCode::SERVICE_UNAVAILABLE, "the token cannot be reviewed now")
        })?;
        let pod = uid.as_ref().and_then(|uid| all.with_uid(uid)).filter(|pod| pod.has(client));
        return match pod {
            Some(pod) if pod.is_host_network() => Ok(Who { source: who.source, address: None, uid }),
            Some(_) => Ok(Who { uid, ..who }),
            None => Err(refused(StatusCode::UNAUTHORIZED, "the token is not one of a pod at this address")),
        };
    }
    let paths = vec![(Topic::Pod, pods::address_path(client))];
    if let Ok(wait) = app.world.hub.wait(app.source(client), paths, app.query.waits)
        && all.at(client).is_none()
    {
        let quiet = Quiet { min: Duration::ZERO, max: Duration::ZERO };
        let known = tokio::time::timeout(POD_WAIT, wait.changed(quiet));
        let _in_time = app.stop.run_until_cancelled(known).await;
    }
    Ok(who)
}

fn bearer(asked: &Asked) -> Option<String> {
    let value = asked.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// What a client sees at a place, now or when it has changed.
fn look(app: &Arc<App>, asked: &Asked, who: Who) -> Begun {
    let (wish, fields) = (asked.wish, Fields::new(asked.query.as_deref()));
    let names = path::names(&asked.path);
    let names: Vec<Vec<u8>> = names.into_iter().take(MAX_NAMES).map(<[u8]>::to_vec).collect();
    let place = match names.split_first() {
        Some((first, rest)) if first == b"self" => Place { is_self: true, names: rest.to_vec() },
        _ => Place { is_self: false, names },
    };
    let route = route(&place);
    let of = |(response, version)| Either::Left(Handled { response, version: Some(version), route });
    let is_stream = is_stream(asked, &fields);
    let is_wait = fields.get("wait").eq_ignore_ascii_case("true");
    if (is_wait || is_stream)
        && let Some(problem) = bad_time(&fields)
    {
        return of((wish.error(StatusCode::BAD_REQUEST, &problem, !app.compat), 0));
    }
    let is_shallow = fields.is_shallow() && !is_stream;
    let looking = Looking { app: Arc::clone(app), who, place, is_stream, is_shallow, is_typed: wish.is_typed };
    if is_stream {
        return of(looking.stream(wish, &fields));
    }
    if !is_wait {
        let seen = looking.look(&app.world.state());
        return Either::Left(told(&looking, &seen, wish, &asked.headers));
    }
    match looking.wait(asked, &fields) {
        Ok(Either::Left((looking, seen))) => Either::Left(told(&looking, &seen, wish, &asked.headers)),
        Ok(Either::Right(waiting)) => Either::Right(Box::pin(waiting.told())),
        Err(Full) => of(full(app, wish)),
    }
}

/// What is wrong with the times of a wait. metad has none, so nobody relies on them being ignored.
fn bad_time(fields: &Fields<'_>) -> Option<String> {
    let bad = ["timeout", "quiet"]
        .into_iter()
        .find(|name| !matches!(fields.get(name), "") && duration(fields.get(name)).is_none())?;
    Some(format!("{bad} is {:?}: it is a time like 500ms, 30s or 10m", fields.get(bad)))
}

fn route(place: &Place) -> &'static str {
    if place.is_self { "self" } else { "root" }
}

/// The answer to a client that sees this, and has what its tags are of.
pub(crate) fn told(looking: &Looking, seen: &Seen, wish: Wish, tags: &HeaderMap) -> Handled {
    let route = route(&looking.place);
    let Some(shown) = &seen.shown else {
        let version = Some(seen.version(None, wish.is_typed));
        return Handled { response: looking.app.not_found(wish), version, route };
    };
    // With a version of the content both are made of it.
    let json = (!looking.app.compat).then(|| shown.json(wish.is_typed));
    let version = Some(seen.version(json.as_ref(), wish.is_typed));
    Handled { response: respond(shown, json, wish, tags, looking.is_shallow), version, route }
}

/// The answer with what is seen, whose JSON may have been made already, or that it is what the client has.
pub(crate) fn respond(
    shown: &Shown,
    json: Option<Written>,
    wish: Wish,
    tags: &HeaderMap,
    is_shallow: bool,
) -> Response {
    let (body, etag) = body(wish, shown, json, is_shallow);
    if reply::matches(tags, &etag) {
        return reply::not_modified(&etag);
    }
    wish.shown(body, etag)
}

/// The body of an answer with what is seen, all of it or its names, and its tag.
pub(crate) fn body(wish: Wish, shown: &Shown, json: Option<Written>, is_shallow: bool) -> (Bytes, String) {
    // The names of a large directory are not made for nothing.
    let names = if is_shallow { shown.names() } else { None };
    names.map_or_else(|| wish.body(shown, json), |names| listing(wish, &names))
}

fn is_stream(asked: &Asked, fields: &Fields<'_>) -> bool {
    let accepts = asked.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    asked.method == Method::GET && (accepts.trim() == "text/event-stream" || fields.get("stream") == "true")
}

/// The names of a directory, in the form that is wanted.
fn listing(wish: Wish, names: &[Vec<u8>]) -> (Bytes, String) {
    // A map of numbers to names has the form of each; only JSON has lists.
    let text = |names: &[Vec<u8>]| names.iter().flat_map(|name| [name.as_slice(), b"\n"].concat()).collect::<Vec<u8>>();
    let leaf = |text: Vec<u8>| wish.body(&Shown::Leaf(Leaf::text_of(text)), None);
    match wish.format {
        reply::Format::Text => leaf(text(names)),
        reply::Format::Yaml => {
            let lines = names.iter().flat_map(|name| [b"- ", crate::yaml::inline(name).as_slice(), b"\n"].concat());
            let body: Vec<u8> = if names.is_empty() { b"[]\n".to_vec() } else { lines.collect() };
            let (_, etag) = leaf(body.clone());
            (body.into(), etag)
        }
        reply::Format::Json => {
            let mut body = vec![b'['];
            for (at, name) in names.iter().enumerate() {
                if at > 0 {
                    body.push(b',');
                }
                crate::json::write_text(&mut body, name);
            }
            body.push(b']');
            let (_, etag) = leaf(body.clone());
            (if wish.pretty { crate::json::indented(&body).into() } else { body.into() }, etag)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_none_is_told() {
        let of = |query| bad_time(&Fields::new(Some(query)));
        assert!(
            of("wait=true").is_none() && of("timeout=&quiet=0").is_none() && of("timeout=1m30s&quiet=5ms").is_none()
        );
        assert_eq!(of("timeout=soon").as_deref(), Some("timeout is \"soon\": it is a time like 500ms, 30s or 10m"));
        assert_eq!(of("quiet=-1s").as_deref(), Some("quiet is \"-1s\": it is a time like 500ms, 30s or 10m"));
    }
}
