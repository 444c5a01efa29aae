//! `/v2/keys`: from the HTTP request to the tree and back.

use super::error::{KeyError, UNAUTHORIZED};
use super::hub::WatchError;
use super::request::{Form, KeyRequest, bad_form};
use super::watch::WatchBody;
use super::{V2, json, path, refused_method};
use crate::wall_clock;
use api::cleatpb::V2Request;
use api::cleatpb::command::Op;
use api::cleatpb::v2_request::Method as Change;
use api::error::Error;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::time::Duration;
use store::Reply;
use store::v2::{Event, KEYS};

const METHODS: &str = "HEAD,GET,PUT,POST,DELETE";

pub(super) const INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// The media type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// A form has to be there by then. It leaves ten times what the largest one takes on a line of one megabit a second, and
/// ends those who only hold the connection.
const BODY_DEADLINE: Duration = Duration::from_mins(5);

/// What a form may have beside three times the bytes of a value, which it can take when it is encoded.
const FORM_OVERHEAD_BYTES: usize = 64 << 10;

/// Headers of an answer, with those for browsers and what may come on the way.
const HEADERS: usize = 12;

/// Digits of a number of 64 bits.
const DIGITS_MAX: usize = 20;

/// What a key costs beside its path and value until the tree counts it.
const KEY_OVERHEAD: u64 = 256;

/// Serves a request for a key; `key` is what the path has behind `/v2/keys`.
pub(super) async fn serve(v2: &V2, request: Request, key: &[u8]) -> Response {
    if let Some(refused) = refused_method(request.method(), METHODS) {
        return refused;
    }
    let (head, body) = request.into_parts();
    match answer(v2, &head, body, key).await {
        Ok(response) => response,
        Err(error) => error.answer(v2),
    }
}

async fn answer(v2: &V2, head: &Parts, body: Body, key: &[u8]) -> Result<Response, KeyError> {
    let form = form(v2, head, body).await?;
    let now = wall_clock::unix_nanos();
    let request = KeyRequest::of(&head.method, form, now)?;
    v2.auth.check_key(head, key, request.recursive).await.map_err(|why| KeyError::of_request(UNAUTHORIZED, why))?;
    let mut path = path::clean_below(KEYS, key);
    if path.last() == Some(&b'/') {
        path.pop();
    }
    let (metrics, waits) = (&v2.observers.metrics, request.wait);
    let counted = metrics.begin(&head.method, request.quorum, waits);
    let result = perform(v2, head, path, request, now).await;
    metrics.end(&counted, result.as_ref().err().map(KeyError::status), waits);
    result
}

async fn perform(v2: &V2, head: &Parts, path: Vec<u8>, request: KeyRequest, now: i64) -> Result<Response, KeyError> {
    match head.method {
        Method::PUT | Method::POST | Method::DELETE => write(v2, &head.method, path, request, now).await,
        _ if request.wait && !request.quorum => watch(v2, &path, &request),
        _ => {
            if request.quorum && head.method == Method::GET {
                v2.node.read_barrier().await?;
            }
            read(v2, &path, request.recursive, now).await
        }
    }
}

/// The parameters: those of a form in the body, then those of the query.
async fn form(v2: &V2, head: &Parts, body: Body) -> Result<Form, KeyError> {
    let mut form = Form::default();
    let mut result = Ok(());
    let kind = if matches!(head.method, Method::PUT | Method::POST) { media_type(&head.headers) } else { Ok(false) };
    if let Err(reason) = kind {
        result = Err(reason.to_owned());
    } else if kind == Ok(true) {
        let limit = 3 * v2.node.limits().request_bytes + FORM_OVERHEAD_BYTES;
        let body = tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, limit)).await;
        result = match body {
            Ok(Ok(body)) => form.read(&body),
            Ok(Err(_)) => return Err(Error::RequestTooLarge.into()),
            Err(_) => Err("the body of the request did not arrive in time".to_owned()),
        };
    }
    if let Some(query) = head.uri.query() {
        // The rest is read nevertheless, and the first error counts.
        let read = form.read(query.as_bytes());
        result = result.and(read);
    }
    result.map(|()| form).map_err(bad_form)
}

/// Whether the body is a form. A type that is none is an error, in Go's words.
fn media_type(headers: &HeaderMap) -> Result<bool, &'static str> {
    let Some(kind) = headers.get(header::CONTENT_TYPE).filter(|kind| !kind.is_empty()) else { return Ok(false) };
    if kind == FORM {
        return Ok(true);
    }
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
    };
    match kind.split_once('/') {
        _ if kind.is_empty() => Err("mime: no media type"),
        None if is_token(kind) => Ok(false),
        None => Err("mime: expected slash after first token"),
        Some((first, _)) if !is_token(first) => Err("mime: expected slash after first token"),
        Some((_, "")) => Err("mime: expected token after slash"),
        Some((_, second)) if !is_token(second) => Err("mime: unexpected content after media subtype"),
        Some(_) => Ok(kind.eq_ignore_ascii_case(FORM)),
    }
}

async fn read(v2: &V2, path: &[u8], recursive: bool, now: i64) -> Result<Response, KeyError> {
    let reader = v2.node.reader();
    let again = || reader.v2_get_again(path, now);
    let (body, index, applied) = v2.listings.body(reader.v2_get(path, recursive, now), again, recursive).await?;
    Ok(v2.keys_answer(StatusCode::OK, body, index, applied))
}

fn watch(v2: &V2, path: &[u8], request: &KeyRequest) -> Result<Response, KeyError> {
    let how = (request.recursive, request.stream);
    let (wait, scan) = v2.hub.watch(v2.node.reader(), path, how, request.wait_index).map_err(|error| match error {
        WatchError::Refused(refusal) => refusal.into(),
        WatchError::TooMany => KeyError::from(Error::TooManyRequests),
    })?;
    let body = Body::new(WatchBody::new(wait));
    Ok(v2.keys_answer(StatusCode::OK, body, scan.index, scan.applied))
}

async fn write(v2: &V2, method: &Method, path: Vec<u8>, request: KeyRequest, now: i64) -> Result<Response, KeyError> {
    let no_value = request.no_value_on_success;
    let event = v2.change(change(method, path, request, now)).await?;
    let (event, applied) = event;
    let status = if event.creates() { StatusCode::CREATED } else { StatusCode::OK };
    let mut body = Vec::with_capacity(192);
    // What is removed is told in any case.
    json::event(&mut body, &event, !no_value || event.action.removes());
    Ok(v2.keys_answer(status, body.into(), event.index(), applied))
}

/// Which change a request asks for: the first that fits.
fn change(method: &Method, path: Vec<u8>, request: KeyRequest, now: i64) -> V2Request {
    let compares = request.prev_index > 0 || !request.prev_value.is_empty();
    let change = match (method, request.prev_exist) {
        (&Method::POST, _) => Change::CreateInOrder,
        (&Method::DELETE, _) if compares => Change::CompareAndDelete,
        (&Method::DELETE, _) => Change::Delete,
        (_, Some(false)) => Change::Create,
        (_, Some(true)) if !compares => Change::Update,
        (_, Some(true)) => Change::CompareAndSwap,
        (_, None) if compares => Change::CompareAndSwap,
        (_, None) => Change::Set,
    };
    let writes = *method != Method::DELETE;
    V2Request {
        method: change as i32,
        path: path.into(),
        value: if writes { request.value.into() } else { bytes::Bytes::new() },
        dir: request.dir,
        recursive: request.recursive,
        refresh: request.refresh && writes,
        expiration: if writes { request.expiration } else { 0 },
        prev_value: request.prev_value.into(),
        prev_index: request.prev_index,
        now,
    }
}

/// Numbers as headers, in one piece of memory.
fn numbers(numbers: [u64; 3]) -> [HeaderValue; 3] {
    let mut text = BytesMut::with_capacity(3 * DIGITS_MAX);
    let ends = numbers.map(|number| {
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        text.len()
    });
    let (text, mut begin) = (text.freeze(), 0);
    ends.map(|end| {
        let digits = text.slice(std::mem::replace(&mut begin, end)..end);
        // Invariant: digits are a header's value.
        HeaderValue::from_maybe_shared(digits).unwrap_or(HeaderValue::from_static("0"))
    })
}

impl V2 {
    /// Has a change made, wherever the leader is. Returns the event, and the index of its log entry.
    pub(super) async fn change(&self, request: V2Request) -> Result<(std::sync::Arc<Event>, u64), KeyError> {
        let removes = matches!(request.method(), Change::Delete | Change::CompareAndDelete);
        if !removes && !request.refresh {
            let cost = KEY_OVERHEAD + (request.path.len() + request.value.len()) as u64;
            self.quota.admit(&self.node, cost).await?;
        }
        // The user was looked at here, as etcd does; what the log says is this member's.
        let outcome = self.node.propose_own(Op::V2(request)).await?;
        match outcome.result? {
            Reply::V2(answer) => Ok((answer.result?, answer.applied)),
            // Invariant: every change of the tree is answered.
            _ => Err(Error::Stopped.into()),
        }
    }

    fn keys_answer(&self, status: StatusCode, body: Body, index: u64, applied: u64) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(header::CONTENT_TYPE, super::JSON);
        headers.insert(super::CLUSTER_ID, self.cluster_id.clone());
        let [index, applied, term] = numbers([index, applied, self.node.term()]);
        headers.insert(INDEX, index);
        headers.insert(RAFT_INDEX, applied);
        headers.insert(RAFT_TERM, term);
        response
    }
}
