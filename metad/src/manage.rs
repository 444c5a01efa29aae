//! The manage API: data, mappings and rules, for who may change them.

use crate::access::Rule;
use crate::app::{self, App, Asked, Fields, Handled, Peer};
use crate::backend::{Failure, Manner};
use crate::caller;
use crate::json;
use crate::mapping;
use crate::path;
use crate::rules::{self, BadRules};
use crate::settings::duration;
use crate::state::Table;
use crate::values::{self, Types};
use crate::yaml;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use go::json::Json;
use http::{HeaderValue, Method, StatusCode, header};
use ring::digest::{SHA256, digest};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

const NO_SUB: &str = "Sub node must not a path.";

/// Bearer tokens, as their hashes: so long as the hash is not known, comparing tells nothing of it.
pub(crate) struct Tokens(Vec<[u8; 32]>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// Reads a file with one token a line.
    ///
    /// # Errors
    /// It cannot be read, or has none.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let tokens = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<_> = tokens.map(|token| hashed(token.as_bytes())).collect();
        if tokens.is_empty() {
            return Err(format!("{}: there is no token in it; write one a line", path.display()));
        }
        Ok(Self(tokens))
    }

    fn has(&self, token: &[u8]) -> bool {
        let token = hashed(token);
        self.0.contains(&token)
    }
}

fn hashed(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

/// Answers a request of the manage API.
pub(crate) async fn answer(app: Arc<App>, request: Request, peer: Peer) -> Response {
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
    let (started, line) = (Instant::now(), app.line(&request, &peer, is_write));
    let handled = match app.open(request, peer) {
        Ok((asked, body)) => handle(&app, asked, body).await,
        Err(handled) => handled,
    };
    app.close("manage", line, handled, started)
}

async fn handle(app: &App, asked: Asked, body: Body) -> Handled {
    let wish = asked.wish;
    match asked.path.as_slice() {
        b"/favicon.ico" => return Handled::page(wish.no_such_page(), "other"),
        b"/health" => return Handled::page(app::health(), "health"),
        b"/ready" => return Handled::page(app.ready(), "ready"),
        b"/metrics" => return Handled::page(metrics(app), "metrics"),
        _ => {}
    }
    let names = path::names(&asked.path);
    let (table, route) = match names.as_slice() {
        [b"v1", b"data", ..] => (Table::Data, "data"),
        [b"v1", b"mapping", ..] => (Table::Mapping, "mapping"),
        [b"v1", b"rule"] => (Table::Rule, "rule"),
        _ => return Handled::page(wish.no_such_page(), "other"),
    };
    if !is_permitted(app, &asked) {
        app.metrics.refuse("manage");
        let message = "a bearer token or a client certificate is required";
        let mut response = wish.error(StatusCode::UNAUTHORIZED, message, !app.compat);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Handled::page(response, "refused");
    }
    let is_write = !matches!(asked.method, Method::GET | Method::HEAD);
    if is_write && caller::is_cross_site(&asked.headers, asked.host.as_deref()) {
        app.metrics.refuse("origin");
        let message = "pages of other sites may not write; see the headers Origin and Sec-Fetch-Site";
        return Handled::page(wish.error(StatusCode::FORBIDDEN, message, !app.compat), "refused");
    }
    let at = path::join(b"/", &names[2..].join(b"/".as_slice()));
    if !matches!(asked.method, Method::GET | Method::PUT | Method::POST | Method::DELETE) {
        return Handled::page(app.no_such_method(wish, "GET, PUT, POST, DELETE"), route);
    }
    if let Err(response) = app.synced(wish).await {
        return Handled::page(response, "unsynced");
    }
    let response = match (asked.method.clone(), table) {
        (Method::GET, Table::Rule) => get_rules(app, &asked),
        (Method::GET, table) => get(app, &asked, table, &at),
        (Method::DELETE, Table::Rule) => delete_rules(app, &asked).await,
        (Method::DELETE, table) => delete(app, &asked, table, &at).await,
        (_, Table::Rule) => put_rules(app, &asked, body).await,
        (_, table) => put(app, &asked, body, table, &at).await,
    };
    Handled { response, version: Some(app.world.state().version()), route }
}

/// True for who has shown a certificate or a token, where one is asked for.
fn is_permitted(app: &App, asked: &Asked) -> bool {
    let wants_certificate = app.manage.as_ref().is_some_and(|manage| manage.client_ca.is_some());
    if asked.peer.is_certified && wants_certificate {
        return true;
    }
    let Some(tokens) = &app.manage_tokens else { return !wants_certificate };
    let authorization = asked.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let token = authorization.and_then(|value| {
        let (scheme, token) = value.split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
    });
    token.is_some_and(|token| tokens.read().has(token))
}

fn metrics(app: &App) -> Response {
    match app.metrics.text(
        &app.world,
        app.is_synced(),
        app.backend.silence(),
        app.pods.as_ref().map_or(0, |pods| pods.len()),
    ) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn get(app: &App, asked: &Asked, table: Table, at: &[u8]) -> Response {
    let fields = Fields::new(asked.query.as_deref());
    let Some(shown) = app.world.state().all(table, at) else { return app.not_found(asked.wish) };
    crate::query::respond(&shown, None, asked.wish, &asked.headers, fields.is_shallow())
}

/// The body of a request, as JSON.
async fn read(app: &App, asked: &Asked, body: Body) -> Result<Json, Response> {
    let wish = asked.wish;
    let most = app.manage.as_ref().map_or(0, |manage| manage.max_body);
    let bytes = match tokio::time::timeout(BODY_DEADLINE, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let message = format!("the body has more than {most} bytes, or broke off");
            return Err(wish.error(StatusCode::PAYLOAD_TOO_LARGE, &message, !app.compat));
        }
        Err(_) => {
            return Err(wish.error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", !app.compat));
        }
    };
    json::decode(&bytes).map_err(|error| bad_form(app, asked, &error))
}

fn bad_form(app: &App, asked: &Asked, error: &str) -> Response {
    let message = format!("invalid json format, error:{error}");
    app.error(asked.wish, StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST, &message)
}

/// What is well-formed and not allowed.
fn invalid(app: &App, asked: &Asked, message: &str) -> Response {
    app.error(asked.wish, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::UNPROCESSABLE_ENTITY, message)
}

fn outcome(app: &App, asked: &Asked, done: Result<(), Failure>) -> Response {
    match done {
        Ok(()) => asked.wish.done(),
        Err(Failure::Invalid(message)) => invalid(app, asked, &message),
        Err(Failure::Store(message)) => {
            tracing::warn!("a write failed: {message}");
            let right = StatusCode::SERVICE_UNAVAILABLE;
            app.error(asked.wish, StatusCode::INTERNAL_SERVER_ERROR, right, &message)
        }
    }
}

/// After what time it goes by itself, if it does.
fn ttl(fields: &Fields<'_>) -> Result<Option<Duration>, String> {
    match fields.get("ttl") {
        "" => Ok(None),
        text => match duration(text).filter(|ttl| *ttl >= Duration::from_secs(1)) {
            Some(ttl) => Ok(Some(ttl)),
            None => Err(format!("ttl is {text:?}: it is a time from 1s to 24h")),
        },
    }
}

async fn put(app: &App, asked: &Asked, body: Body, table: Table, at: &[u8]) -> Response {
    let mut json = match read(app, asked, body).await {
        Ok(json) => json,
        Err(response) => return response,
    };
    let fields = Fields::new(asked.query.as_deref());
    let ttl = match ttl(&fields) {
        Ok(ttl) => ttl,
        Err(message) => return invalid(app, asked, &message),
    };
    let mut path = at.to_vec();
    if table == Table::Mapping {
        if let Err(message) = mapping::check(at, &json) {
            return invalid(app, asked, message);
        }
        if let (b"/", Json::Map(clients)) = (at, &mut json) {
            for (client, _) in clients {
                *client = mapping::client_name(client);
            }
        }
        path = path::clean(at);
    }
    let is_typed = table == Table::Data && asked.wish.is_typed;
    let taken_apart =
        if is_typed { values::typed(&json) } else { values::flatten(&json).map(|body| (body, Types::new())) };
    let (body, types) = match taken_apart {
        Ok(both) => both,
        Err(error) => return bad_form(app, asked, &error),
    };
    let manner = Manner { replace: asked.method == Method::POST, ttl };
    let done = app.backend.put(table, &path, body, types, manner).await;
    outcome(app, asked, done)
}

/// The paths that a request names: its own, or only some below it.
fn named(at: &[u8], subs: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    if subs.is_empty() {
        return Ok(vec![at.to_vec()]);
    }
    let mut subs: Vec<&str> = subs.split(',').map(str::trim).filter(|sub| !sub.is_empty()).collect();
    if subs.iter().any(|sub| sub.contains('/') || matches!(*sub, "." | "..")) {
        return Err(NO_SUB);
    }
    subs.sort_unstable();
    subs.dedup();
    Ok(subs.iter().map(|sub| path::join(at, sub.as_bytes())).collect())
}

async fn delete(app: &App, asked: &Asked, table: Table, at: &[u8]) -> Response {
    let fields = Fields::new(asked.query.as_deref());
    match named(at, fields.get("subs")) {
        Ok(paths) => outcome(app, asked, app.backend.delete(table, paths).await),
        Err(message) => invalid(app, asked, message),
    }
}

fn hosts(asked: &Asked) -> Vec<String> {
    let fields = Fields::new(asked.query.as_deref());
    let hosts = fields.get("hosts").split(',').filter(|host| !host.is_empty());
    hosts.map(mapping::client_name).collect()
}

fn get_rules(app: &App, asked: &Asked) -> Response {
    let state = app.world.state();
    let wanted = hosts(asked);
    let is_filtered = !Fields::new(asked.query.as_deref()).get("hosts").is_empty();
    let found: Vec<(&str, Vec<Rule>)> = state
        .rules()
        .iter()
        .filter(|(host, _)| !is_filtered || wanted.contains(host))
        .map(|(host, access)| (host.as_str(), access.rules()))
        .collect();
    let mut text = vec![b'{'];
    for (at, (host, rules)) in found.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        json::write_text(&mut text, host.as_bytes());
        text.push(b':');
        text.extend_from_slice(&rules::encode(rules));
    }
    text.push(b'}');
    asked.wish.document(&text, || {
        let mut writer = yaml::Writer::new();
        let hosts = found.iter().map(|(host, rules)| (host.as_bytes(), rules)).collect();
        writer.map(hosts, |writer, rules: &Vec<Rule>| {
            let lines = rules.iter().map(|rule| {
                let path = String::from_utf8_lossy(&yaml::inline(rule.path.as_bytes())).into_owned();
                vec![format!("path: {path}"), format!("mode: {}", rule.mode.number())]
            });
            writer.items(&lines.collect::<Vec<_>>());
        });
        writer.finish()
    })
}

async fn put_rules(app: &App, asked: &Asked, body: Body) -> Response {
    let json = match read(app, asked, body).await {
        Ok(json) => json,
        Err(response) => return response,
    };
    let ttl = match ttl(&Fields::new(asked.query.as_deref())) {
        Ok(ttl) => ttl,
        Err(message) => return invalid(app, asked, &message),
    };
    match rules::decode_hosts(&json) {
        Ok(hosts) => outcome(app, asked, app.backend.put_rules(hosts, ttl).await),
        Err(BadRules::Form(error)) => bad_form(app, asked, &error),
        Err(BadRules::Mode(message)) => invalid(app, asked, &message),
    }
}

async fn delete_rules(app: &App, asked: &Asked) -> Response {
    // What has a slash is no host: nothing is there.
    let hosts = hosts(asked).into_iter().filter(|host| !host.contains('/'));
    let paths = hosts.map(|host| path::join(b"/", host.as_bytes())).filter(|path| path != b"/").collect();
    outcome(app, asked, app.backend.delete(Table::Rule, paths).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_lines_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "# for the operators\nsecret-1\n\n secret-2 \n").unwrap();
        let tokens = Tokens::read(&path).unwrap();
        assert!(tokens.has(b"secret-1") && tokens.has(b"secret-2"));
        assert!(!tokens.has(b"") && !tokens.has(b"secret") && !tokens.has(b"# for the operators"));
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
        std::fs::write(&path, "\n#\n").unwrap();
        assert!(Tokens::read(&path).unwrap_err().contains("there is no token in it"));
    }
}
