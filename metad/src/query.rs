//! The query API: what a client may read, told by who it is.
//!
//! `/PATH` is the data at a path, as far as the client may read it, and `/` has what the client is mapped to as `self`
//! beside it; `/self/NAME` follows the client's mapping. What is forbidden is answered as what is absent.

use crate::access::{self, Access};
use crate::app::{App, Asked, Fields, Handled};
use crate::caller::{self, Caller};
use crate::hub::{Quiet, Topic, Wait};
use crate::mapping::Mapped;
use crate::path;
use crate::pods::{self, Pod};
use crate::reply::{self, Wish};
use crate::session::{TOKEN, TTL, TTL_SECONDS};
use crate::settings::{DefaultAccess, SessionTokens, duration};
use crate::shown::{self, Shown};
use crate::state::State;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderValue, Method, StatusCode, header};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How often a stream of events shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client is waited for that may be a pod which has just started.
const POD_WAIT: Duration = Duration::from_secs(1);
/// Names in a path; longer ones lead nowhere.
const MAX_NAMES: usize = 256;

/// Answers a request of the query API.
pub(crate) async fn answer(app: Arc<App>, request: Request) -> Response {
    let (started, line) = (Instant::now(), app.line(&request, false));
    let handled = match app.open(request) {
        Ok((asked, _)) => handle(&app, asked).await,
        Err(handled) => handled,
    };
    app.close("query", line, handled, started)
}

async fn handle(app: &Arc<App>, asked: Asked) -> Handled {
    let wish = asked.wish;
    let is_token = asked.path == b"/token" && app.sessions.is_some() && asked.method != Method::GET;
    if asked.path == b"/favicon.ico" {
        return Handled::page(wish.no_such_page(), "other");
    }
    if !is_token && !matches!(asked.method, Method::GET | Method::HEAD) {
        return Handled::page(app.no_such_method(wish, "GET, HEAD"), "other");
    }
    let client = match admit(app, &asked) {
        Ok(client) => client,
        Err(response) => return Handled::page(response, "refused"),
    };
    if is_token {
        return Handled::page(grant(app, &asked, client), "token");
    }
    if let Err(response) = check_token(app, &asked, client) {
        return Handled::page(response, "refused");
    }
    if let Err(response) = app.synced(wish).await {
        return Handled::page(response, "unsynced");
    }
    let names = path::names(&asked.path);
    let names: Vec<Vec<u8>> = names.into_iter().take(MAX_NAMES).map(<[u8]>::to_vec).collect();
    let place = match names.split_first() {
        Some((first, rest)) if first == b"self" => Place { is_self: true, names: rest.to_vec() },
        _ => Place { is_self: false, names },
    };
    let route = if place.is_self { "self" } else { "root" };
    let who = match identify(app, &asked, client).await {
        Ok(who) => who,
        Err(response) => return Handled::page(response, "refused"),
    };
    let is_stream = is_stream(&asked, &Fields::new(asked.query.as_deref()));
    let looking = Looking { app: Arc::clone(app), who, place, is_stream };
    let (response, version) = looking.answer(&asked).await;
    Handled { response, version: Some(version), route }
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
    if !app.rate.take(client.unwrap_or(asked.peer.addr.ip())) {
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
    let mut response = wish.shown(Bytes::from(sessions.grant(client, ttl)), "");
    response.headers_mut().remove(header::ETAG);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(TTL, HeaderValue::from(ttl));
    response
}

/// A client.
#[derive(Clone, Debug)]
struct Who {
    /// Where the request comes from, which waits are counted by.
    source: Option<IpAddr>,
    /// What mappings and rules are found by.
    address: Option<IpAddr>,
    /// Of the pod whose token the request has.
    uid: Option<String>,
}

/// Who asks, by a token if there is one, else by the address. A pod that has just started may ask before its address is
/// known, and is waited for a moment.
async fn identify(app: &App, asked: &Asked, client: Option<IpAddr>) -> Result<Who, Response> {
    let who = Who { source: client, address: client, uid: None };
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
    let state = app.world.state();
    let is_known =
        |client| all.at(client).is_some() || state.mapped(client).is_some() || state.access(client).is_some();
    if !is_known(client)
        && let Ok(wait) = app.world.hub.wait(client, vec![(Topic::Pod, pods::address_path(client))], app.query.waits)
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

/// What is asked for.
struct Place {
    /// Below `/self`, instead of the data.
    is_self: bool,
    names: Vec<Vec<u8>>,
}

/// What a client sees at a place, and the version of that.
struct Seen {
    shown: Option<Shown>,
    version: i64,
}

/// A client at a place.
struct Looking {
    app: Arc<App>,
    who: Who,
    place: Place,
    /// An answer that goes on. metad has none, so nothing of it has to be as there.
    is_stream: bool,
}

/// How a wait has ended.
enum End {
    Changed(Seen),
    /// The time is over, or the process ends.
    Over(Seen),
    /// There are too many.
    Full,
}

impl Looking {
    async fn answer(&self, asked: &Asked) -> (Response, i64) {
        let (wish, fields) = (asked.wish, Fields::new(asked.query.as_deref()));
        if self.is_stream {
            return self.stream(wish, &fields);
        }
        let wait = fields.get("wait").eq_ignore_ascii_case("true");
        let seen = if wait {
            match self.wait(asked, &fields).await {
                End::Changed(seen) | End::Over(seen) => seen,
                End::Full => {
                    self.app.metrics.waits.with_label_values(&["refused"]).inc();
                    let response = self.app.later(wish, StatusCode::TOO_MANY_REQUESTS, "too many requests wait");
                    return (response, 0);
                }
            }
        } else {
            self.look(&self.app.world.state())
        };
        let Some(shown) = &seen.shown else { return (self.app.not_found(wish), seen.version) };
        (respond(shown, asked, &fields), seen.version)
    }

    /// What the client sees in a state.
    fn look(&self, state: &State) -> Seen {
        let app = &self.app;
        // metad has no version for what a client may not see in the data, and the present one below /self.
        let nothing = Seen { shown: None, version: if self.place.is_self && app.compat { state.version() } else { 0 } };
        let pod = self.pod();
        let Some(client) = self.client(state, pod.as_deref()) else {
            app.metrics.unknown_clients.inc();
            return nothing;
        };
        let names: Vec<&[u8]> = self.place.names.iter().map(Vec::as_slice).collect();
        let (shown, own_version) = if self.place.is_self {
            (client.own(state, &names), if app.compat { 0 } else { client.own_version(state, &names) })
        } else {
            let place = state.enter(client.access).at(&path::join(b"/", &names.join(b"/".as_slice())));
            let own = if names.is_empty() { client.own(state, &[]) } else { None };
            let shown = match (place.map(access::Place::shown), own) {
                (Some(shown), Some(own)) => Some(shown.with(b"self", own)),
                (shown, _) => shown,
            };
            (shown, place.map_or(0, access::Place::version))
        };
        // A directory that is there and shows nothing would tell that it is there.
        let shown = shown.filter(|shown| app.compat || names.is_empty() || !shown.is_empty());
        match shown {
            Some(shown) => Seen { shown: Some(shown), version: if app.compat { state.version() } else { own_version } },
            None => nothing,
        }
    }

    /// The pod that asks, if it is one.
    fn pod(&self) -> Option<Arc<Pod>> {
        let all = self.app.pods.as_ref()?;
        match &self.who.uid {
            Some(uid) => all.with_uid(uid),
            None => all.at(self.who.address?),
        }
    }

    /// What is known of the client; None if it may read nothing.
    fn client<'s>(&self, state: &'s State, pod: Option<&'s Pod>) -> Option<Client<'s>> {
        let mapped = self.who.address.and_then(|address| state.mapped(address)).map(Arc::as_ref);
        let rules = self.who.address.and_then(|address| state.access(address)).map(Arc::as_ref);
        let is_by_mapping = self.app.query.default_access == DefaultAccess::Mapping;
        let by_mapping = mapped.filter(|_| is_by_mapping).map(|mapped| &mapped.access);
        let by_pod = || pod.and_then(|pod| pod.mapped.as_ref()).map(|mapped| &mapped.access);
        let access = rules.or(by_mapping).or_else(by_pod)?;
        Some(Client { access, mapped, pod })
    }

    /// What a change must touch to be seen here. None if there is nothing to wait for.
    fn watched(&self, state: &State) -> Option<Vec<(Topic, Vec<u8>)>> {
        let pod = self.pod();
        let client = self.client(state, pod.as_deref())?;
        let names: Vec<&[u8]> = self.place.names.iter().map(Vec::as_slice).collect();
        let mut watched = Vec::new();
        if let Some(address) = self.who.address {
            let own = format!("/{address}").into_bytes();
            watched.extend([(Topic::Rule, own.clone()), (Topic::Mapping, own)]);
            if self.app.pods.is_some() {
                watched.push((Topic::Pod, pods::address_path(address)));
            }
        }
        watched.extend(client.pod.map(Pod::topic));
        watched.extend(client.mapped.map(|mapped| (Topic::Mapping, path::clean(&mapped.name))));
        if self.place.is_self {
            let (targets, is_below) = client.targets(&names)?;
            // metad knows no change below the end of a link, and answers at once.
            if is_below && self.app.compat && !self.is_stream {
                return None;
            }
            watched.extend(targets.into_iter().map(|target| (Topic::Data, target)));
        } else {
            watched.push((Topic::Data, path::join(b"/", &names.join(b"/".as_slice()))));
        }
        Some(watched)
    }

    /// Begins a wait, and looks what there is by then.
    fn begin(&self) -> Result<(Option<Wait>, Seen), crate::hub::Full> {
        let world = &self.app.world;
        let wait = match (self.watched(&world.state()), self.who.source) {
            (Some(watched), Some(source)) => Some(world.hub.wait(source, watched, self.app.query.waits)?),
            _ => None,
        };
        Ok((wait, self.look(&world.state())))
    }

    async fn wait(&self, asked: &Asked, fields: &Fields<'_>) -> End {
        let (wait, seen) = match self.begin() {
            Ok((Some(wait), seen)) => (wait, seen),
            Ok((None, seen)) => return End::Over(seen),
            Err(_) => return End::Full,
        };
        // What is no number is -1 in metad, and waits.
        let previous: i64 = fields.get("prev_version").parse().unwrap_or(-1);
        let version = if self.app.compat { self.app.world.state().version() } else { seen.version };
        if previous > 0 && previous != version {
            return End::Changed(seen);
        }
        if asked.headers.contains_key(header::IF_NONE_MATCH)
            && !seen.shown.as_ref().is_some_and(|shown| reply::matches(&asked.headers, &asked.wish.body(shown).1))
        {
            return End::Changed(seen);
        }
        let limit = duration(fields.get("timeout")).unwrap_or(self.app.query.wait_max).min(self.app.query.wait_max);
        let started = Instant::now();
        let end = self.next(wait, seen, limit, self.quiet(fields)).await;
        self.app.metrics.wait_seconds.observe(started.elapsed().as_secs_f64());
        let label = if matches!(end, End::Changed(_)) { "changed" } else { "over" };
        self.app.metrics.waits.with_label_values(&[label]).inc();
        end
    }

    fn quiet(&self, fields: &Fields<'_>) -> Quiet {
        let most = self.app.query.quiet;
        let min = duration(fields.get("quiet")).map_or(most.min, |quiet| quiet.min(most.max));
        Quiet { min, max: most.max }
    }

    /// Waits until the client sees something else than before. What it cannot see ends no wait, which would tell that it
    /// is there.
    async fn next(&self, mut wait: Wait, mut before: Seen, limit: Duration, quiet: Quiet) -> End {
        let over = tokio::time::Instant::now() + limit;
        let world = &self.app.world;
        loop {
            let is_over = tokio::select! {
                () = wait.changed(quiet) => false,
                () = sleep_until(over) => true,
                () = self.app.stop.cancelled() => true,
            };
            let mut seen = self.look(&world.state());
            if is_over {
                return End::Over(seen);
            }
            let is_same = match (&before.shown, &seen.shown) {
                (Some(before), Some(seen)) => before.is_same(seen),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                let is_kept = || self.watched(&world.state()).is_some();
                if seen.shown.is_none() && self.app.compat && !self.is_stream && is_kept() {
                    // metad keeps a place for who waited, and nothing is in it.
                    seen = Seen { shown: Some(Shown::Map(Vec::new())), version: world.state().version() };
                }
                return End::Changed(seen);
            }
            match self.watched(&world.state()) {
                Some(watched) => wait.move_to(watched),
                None => return End::Over(seen),
            }
            // What changed before the move shows now, or with the next change.
            before = self.look(&world.state());
            if !before.shown.as_ref().zip(seen.shown.as_ref()).is_none_or(|(one, other)| one.is_same(other)) {
                return End::Changed(before);
            }
        }
    }

    /// Server-sent events: what there is, and again whenever it has changed.
    fn stream(&self, wish: Wish, fields: &Fields<'_>) -> (Response, i64) {
        let (wait, seen) = match self.begin() {
            Ok((Some(wait), seen)) => (wait, seen),
            Ok((None, seen)) => return (self.app.not_found(wish), seen.version),
            Err(_) => {
                return (self.app.later(wish, StatusCode::TOO_MANY_REQUESTS, "too many requests wait"), 0);
            }
        };
        let (version, quiet) = (seen.version, self.quiet(fields));
        let place = Place { is_self: self.place.is_self, names: self.place.names.clone() };
        let looking = Self { app: Arc::clone(&self.app), who: self.who.clone(), place, is_stream: true };
        let first = frame(&seen);
        let frames = futures::stream::unfold(Some((looking, wait, seen)), move |open| async move {
            let (looking, wait, seen) = open?;
            let before = Seen { shown: seen.shown.clone(), version: seen.version };
            match looking.next(wait, before, HEARTBEAT, quiet).await {
                End::Changed(seen) => {
                    let text = frame(&seen);
                    let (wait, _) = looking.begin().ok()?;
                    Some((text, Some((looking, wait?, seen))))
                }
                End::Over(_) if looking.app.stop.is_cancelled() => None,
                End::Over(_) | End::Full => {
                    let (wait, _) = looking.begin().ok()?;
                    Some((Bytes::from_static(b":\n\n"), Some((looking, wait?, seen))))
                }
            }
        });
        let frames = futures::stream::iter([first]).chain(frames).map(Ok::<_, Infallible>);
        let mut response = Response::new(Body::from_stream(frames));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (response, version)
    }
}

/// The answer with what is seen.
fn respond(shown: &Shown, asked: &Asked, fields: &Fields<'_>) -> Response {
    let wish = asked.wish;
    let (body, etag) = match shown.names().filter(|_| fields.get("recursive") == "false") {
        Some(names) => listing(wish, &names),
        None => wish.body(shown),
    };
    if reply::matches(&asked.headers, &etag) {
        return reply::not_modified(&etag);
    }
    wish.shown(body, &etag)
}

/// A client that may read something: what it is mapped to in the store, and what it is as a pod.
#[derive(Clone, Copy)]
struct Client<'s> {
    access: &'s Access,
    mapped: Option<&'s Mapped>,
    pod: Option<&'s Pod>,
}

impl Client<'_> {
    /// What it sees at a path below `/self`. Names of the store's mapping win over those that every pod has.
    fn own(self, state: &State, names: &[&[u8]]) -> Option<Shown> {
        let mapped = self.mapped.and_then(|mapped| mapped.shown(names, state.enter(self.access)));
        let Some(pod) = self.pod else { return mapped };
        let view = Shown::All(Arc::clone(&pod.view));
        let links = pod.mapped.as_ref().and_then(|links| links.shown(names, state.enter(&links.access)));
        match names {
            [] => {
                let mut own = links.unwrap_or(Shown::Map(Vec::new())).with(b"pod", view);
                if let Some(Shown::Map(entries)) = mapped {
                    for (name, shown) in entries {
                        own = own.with(&name, shown);
                    }
                }
                Some(own)
            }
            [b"pod", rest @ ..] if mapped.is_none() => shown::all(&pod.view, &rest.join(b"/".as_slice())),
            _ => mapped.or(links),
        }
    }

    /// Paths of the data that a path below `/self` leads to, and whether it goes on below the end of a link.
    fn targets(self, names: &[&[u8]]) -> Option<(Vec<Vec<u8>>, bool)> {
        let of = |mapped: Option<&Mapped>| mapped.and_then(|mapped| mapped.targets(names));
        let by_pod = self.pod.and_then(|pod| of(pod.mapped.as_ref()));
        let is_view = self.pod.is_some() && names.first().is_none_or(|name| *name == b"pod");
        match (of(self.mapped), by_pod) {
            (Some((mut one, is_below)), Some((other, _))) => {
                one.extend(other);
                Some((one, is_below))
            }
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => is_view.then(|| (Vec::new(), false)),
        }
    }

    /// Revision of the last change of what these lead to.
    fn own_version(self, state: &State, names: &[&[u8]]) -> i64 {
        let targets = self.targets(names).map(|(targets, _)| targets).unwrap_or_default();
        let root = state.enter(self.access);
        let versions = targets.iter().filter_map(|target| root.at(target)).map(access::Place::version);
        versions.max().unwrap_or_default().max(self.mapped.map_or(0, Mapped::version))
    }
}

fn is_stream(asked: &Asked, fields: &Fields<'_>) -> bool {
    let accepts = asked.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    asked.method == Method::GET && (accepts.trim() == "text/event-stream" || fields.get("stream") == "true")
}

/// One event: the version, and what is seen as JSON; `gone` if nothing is.
fn frame(seen: &Seen) -> Bytes {
    let mut frame = format!("id: {}\n", seen.version).into_bytes();
    match &seen.shown {
        Some(shown) => {
            frame.extend_from_slice(b"event: data\ndata: ");
            frame.extend_from_slice(&shown.json().text);
        }
        None => frame.extend_from_slice(b"event: gone\ndata:"),
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// The names of a directory, in the form that is wanted.
pub(crate) fn listing(wish: Wish, names: &[Vec<u8>]) -> (Bytes, String) {
    // A map of numbers to names has the form of each; only JSON has lists.
    let text = |names: &[Vec<u8>]| names.iter().flat_map(|name| [name.as_slice(), b"\n"].concat()).collect::<Vec<u8>>();
    let leaf = |text: Vec<u8>| wish.body(&Shown::Leaf(Arc::from(text)));
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
