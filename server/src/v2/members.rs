//! `/v2/members` and `/v2/machines`: the membership as v3 knows it.

use super::{V2, json, refused_method};
use crate::cluster::members;
use api::cleatpb::membership_change::Change;
use api::error::Error;
use api::etcdserverpb::{Member, MemberAddRequest, MemberRemoveRequest, MemberUpdateRequest};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use discovery::MemberUrl;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use std::time::Duration;

/// Largest body of a request, and how long it may take to arrive.
const BODY_BYTES_MAX: usize = 1 << 20;
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// What etcd says of what it does not explain.
const INTERNAL: &str = "Internal Server Error";

impl V2 {
    fn members(&self) -> Vec<Member> {
        members(&self.node, self.node.applied_membership().membership())
    }
}

/// All client URLs.
pub(super) fn machines(v2: &V2, request: &Request) -> Response {
    if let Some(refused) = refused_method(request.method(), "GET,HEAD") {
        return refused;
    }
    let mut urls: Vec<String> = v2.members().into_iter().flat_map(|member| member.client_urls).collect();
    urls.sort_unstable();
    let mut response = Response::new(Body::from(urls.join(", ")));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Lists and changes members; `rest` is what the path has behind `/v2/members`.
pub(super) async fn serve(v2: &V2, request: Request, rest: &[u8]) -> Response {
    if let Some(refused) = refused_method(request.method(), "GET,POST,DELETE,PUT") {
        return refused;
    }
    let (head, body) = request.into_parts();
    if let Err(why) = v2.auth.check_root_to_change(&head).await {
        return v2.unauthorized(why);
    }
    let id = rest.strip_prefix(b"/").unwrap_or(rest);
    let answered = match head.method {
        Method::GET => Ok(get(v2, id)),
        Method::POST => add(v2, &head.headers, body).await,
        Method::PUT | Method::DELETE if id.is_empty() => Ok(no_id(v2)),
        Method::DELETE => remove(v2, id).await,
        _ => update(v2, id, &head.headers, body).await,
    };
    answered.unwrap_or_else(|refused| refused)
}

fn get(v2: &V2, which: &[u8]) -> Response {
    match which {
        b"" => {
            let mut body = b"{\"members\":[".to_vec();
            for (place, member) in v2.members().iter().enumerate() {
                if place > 0 {
                    body.push(b',');
                }
                write(&mut body, member);
            }
            body.extend(b"]}\n");
            v2.json(StatusCode::OK, body)
        }
        b"leader" => {
            let leader = v2.node.leader();
            match v2.members().iter().find(|member| member.id == leader) {
                Some(member) => one(v2, StatusCode::OK, member),
                None => v2.message(StatusCode::SERVICE_UNAVAILABLE, "During election"),
            }
        }
        _ => v2.message(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn one(v2: &V2, status: StatusCode, member: &Member) -> Response {
    let mut body = Vec::new();
    write(&mut body, member);
    body.push(b'\n');
    v2.json(status, body)
}

fn write(out: &mut Vec<u8>, member: &Member) {
    out.extend(format!("{{\"id\":\"{:x}\",\"name\":", member.id).bytes());
    json::string(out, member.name.as_bytes());
    for (name, urls) in [("peerURLs", &member.peer_urls), ("clientURLs", &member.client_urls)] {
        out.extend(format!(",\"{name}\":[").bytes());
        for (place, url) in urls.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            json::string(out, url.as_bytes());
        }
        out.push(b']');
    }
    out.push(b'}');
}

async fn add(v2: &V2, headers: &HeaderMap, body: Body) -> Result<Response, Response> {
    let peer_urls = given_urls(v2, headers, body).await?;
    let request = MemberAddRequest { peer_urls: peer_urls.clone(), is_learner: false };
    match v2.cluster.change(Change::Add(request)).await {
        Ok(id) => {
            let member = Member { id, peer_urls, ..Member::default() };
            Ok(one(v2, StatusCode::CREATED, &member))
        }
        Err(Error::MemberExists) => Err(v2.message(StatusCode::CONFLICT, "membership: ID exists")),
        Err(Error::PeerUrlExists) => Err(v2.message(StatusCode::CONFLICT, "membership: peerURL exists")),
        Err(error) => Err(failed(v2, "add", error)),
    }
}

async fn remove(v2: &V2, id: &[u8]) -> Result<Response, Response> {
    let id = member_id(id).map_err(|message| v2.message(StatusCode::NOT_FOUND, &message))?;
    match v2.cluster.change(Change::Remove(MemberRemoveRequest { id })).await {
        Ok(_) => Ok(no_content(v2)),
        Err(error) => Err(not_there(v2, "remove", id, error)),
    }
}

async fn update(v2: &V2, id: &[u8], headers: &HeaderMap, body: Body) -> Result<Response, Response> {
    let id = member_id(id).map_err(|message| v2.message(StatusCode::NOT_FOUND, &message))?;
    let peer_urls = given_urls(v2, headers, body).await?;
    match v2.cluster.change(Change::Update(MemberUpdateRequest { id, peer_urls })).await {
        Ok(_) => Ok(no_content(v2)),
        Err(Error::PeerUrlExists) => Err(v2.message(StatusCode::CONFLICT, "membership: peerURL exists")),
        Err(error) => Err(not_there(v2, "update", id, error)),
    }
}

fn no_content(v2: &V2) -> Response {
    let mut response = v2.json(StatusCode::NO_CONTENT, Vec::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

fn not_there(v2: &V2, what: &str, id: u64, error: Error) -> Response {
    match error {
        Error::MemberNotFound if v2.node.is_removed(id) => {
            v2.message(StatusCode::GONE, &format!("Member permanently removed: {id:x}"))
        }
        Error::MemberNotFound => v2.message(StatusCode::NOT_FOUND, &format!("No such member: {id:x}")),
        error => failed(v2, what, error),
    }
}

/// As etcd, which tells the reason to its log alone.
fn failed(v2: &V2, what: &str, error: Error) -> Response {
    tracing::warn!(%error, "v2: cannot {what} a member");
    v2.message(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL)
}

/// The id in a path.
///
/// # Errors
/// The message of the refusal.
fn member_id(text: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(text);
    // Rust would take a sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(&text, 16).ok().filter(|_| is_number);
    id.ok_or_else(|| format!("No such member: {text}"))
}

/// Changes are of a member.
fn no_id(v2: &V2) -> Response {
    let mut response = crate::http::plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(super::CLUSTER_ID, v2.cluster_id.clone());
    response
}

/// The peer URLs in a body, sorted as etcd has them.
async fn given_urls(v2: &V2, headers: &HeaderMap, body: Body) -> Result<Vec<String>, Response> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = match kind.split_once(';') {
        Some((kind, _)) => kind.to_ascii_lowercase().trim().to_owned(),
        None => kind.to_owned(),
    };
    if kind != "application/json" {
        let message = format!("Bad Content-Type {kind}, accept application/json");
        return Err(v2.message(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message));
    }
    let bad = |message: &str| v2.message(StatusCode::BAD_REQUEST, message);
    let body = read_body(body).await.map_err(|message| bad(&message))?;
    let mut urls = peer_urls(&body).map_err(|message| bad(&message))?;
    if urls.is_empty() {
        return Err(bad("no valid URLs given"));
    }
    for url in &mut urls {
        let parsed = MemberUrl::parse_form(url).map_err(|error| bad(&error.to_string()))?;
        *url = parsed.to_string();
    }
    urls.sort_unstable();
    Ok(urls)
}

/// A whole body.
///
/// # Errors
/// It is too large, or does not arrive.
pub(super) async fn read_body(body: Body) -> Result<bytes::Bytes, String> {
    match tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(format!("the body of the request has more than {BODY_BYTES_MAX} bytes, or was cut off")),
        Err(_) => Err("the body of the request did not arrive in time".to_owned()),
    }
}

/// The URLs in a text.
///
/// # Errors
/// What Go says of the most common mistakes.
fn peer_urls(text: &[u8]) -> Result<Vec<String>, String> {
    let given: Value = serde_json::from_slice(text).map_err(|error| {
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        match first.filter(|byte| !b"{[\"-0123456789tfn".contains(byte)) {
            Some(byte) => format!("invalid character {:?} looking for beginning of value", char::from(*byte)),
            None if error.is_eof() => "unexpected end of JSON input".to_owned(),
            None => error.to_string(),
        }
    })?;
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let urls = match &given {
        Value::Null => None,
        Value::Object(members) => members.iter().find(|(name, _)| name.eq_ignore_ascii_case("peerURLs")),
        other => {
            let into = r#"struct { PeerURLs []string "json:\"peerURLs\"" }"#;
            return Err(format!("json: cannot unmarshal {} into Go value of type {into}", kind(other)));
        }
    };
    let field = |value: &Value, of: &str| {
        format!("json: cannot unmarshal {} into Go struct field .peerURLs of type {of}", kind(value))
    };
    match urls.map(|(_, urls)| urls) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(urls)) => {
            let text = |url: &Value| url.as_str().map(str::to_owned).ok_or_else(|| field(url, "string"));
            urls.iter().map(text).collect()
        }
        Some(other) => Err(field(other, "[]string")),
    }
}
