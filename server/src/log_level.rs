//! `/config/local/log`: the level of the log, read and changed while the member runs, as etcd up to 3.4 had it.
//!
//! Whoever may change it can fill a disk, so it is served on every port that serves HTTP, but only for callers on this
//! machine (loopback, a unix socket) and those whose certificate was verified; and for no browser, whose pages could
//! otherwise reach a port of their own machine.

use crate::auth::CommonName;
use crate::config::LogLevel;
use crate::listen::HttpCaller;
use crate::logging;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

/// A level takes a few bytes.
const BODY_BYTES_MAX: usize = 4096;

#[derive(Deserialize)]
struct Wanted {
    // Go's decoder takes both.
    #[serde(rename = "Level", alias = "level")]
    level: String,
}

/// Shows the level.
pub(crate) async fn show(request: Request) -> Response {
    if !may_configure(&request) {
        return forbidden();
    }
    match logging::level() {
        Some(level) => answer(StatusCode::OK, &json!({"Level": name(level)})),
        None => message(StatusCode::SERVICE_UNAVAILABLE, "logging is not set up"),
    }
}

/// Changes the level. Answers and errors are etcd's.
pub(crate) async fn change(request: Request) -> Response {
    if !may_configure(&request) {
        return forbidden();
    }
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX).await;
    let Some(wanted) = body.ok().and_then(|body| serde_json::from_slice::<Wanted>(&body).ok()) else {
        return message(StatusCode::BAD_REQUEST, "Invalid json body");
    };
    let Some(level) = parse(&wanted.level) else {
        return message(StatusCode::BAD_REQUEST, &format!("Invalid log level {}", wanted.level));
    };
    if let Err(reason) = logging::set_level(level) {
        return message(StatusCode::SERVICE_UNAVAILABLE, &reason);
    }
    // Written at every level: who reads the log must know why it changed.
    tracing::error!(level = name(level), "the log level was changed by request");
    StatusCode::NO_CONTENT.into_response()
}

fn may_configure(request: &Request) -> bool {
    let extensions = request.extensions();
    let is_local = extensions
        .get::<HttpCaller>()
        .is_some_and(|caller| caller.remote.is_none_or(|remote| remote.ip().to_canonical().is_loopback()));
    let is_browser = request.headers().contains_key(header::ORIGIN);
    !is_browser && (is_local || extensions.get::<CommonName>().is_some())
}

fn forbidden() -> Response {
    message(StatusCode::FORBIDDEN, "only callers on this machine and those with a client certificate may do this")
}

fn message(status: StatusCode, text: &str) -> Response {
    answer(status, &json!({"message": text}))
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "DEBUG",
        LogLevel::Info => "INFO",
        LogLevel::Warn => "WARNING",
        LogLevel::Error => "ERROR",
    }
}

/// The levels of etcd's old and new logger.
fn parse(text: &str) -> Option<LogLevel> {
    Some(match text.to_ascii_uppercase().as_str() {
        "TRACE" | "T" | "DEBUG" | "D" => LogLevel::Debug,
        "INFO" | "I" | "NOTICE" | "N" => LogLevel::Info,
        "WARNING" | "WARN" | "W" => LogLevel::Warn,
        "ERROR" | "E" | "CRITICAL" | "C" | "DPANIC" | "PANIC" | "FATAL" => LogLevel::Error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use std::sync::Arc;

    fn request(remote: Option<&str>, is_certified: bool, origin: Option<&str>) -> Request {
        let mut request = Request::builder().uri("/config/local/log").body(Body::empty()).unwrap();
        request.extensions_mut().insert(HttpCaller { remote: remote.map(|remote| remote.parse().unwrap()) });
        if is_certified {
            request.extensions_mut().insert(CommonName(Arc::from("operator")));
        }
        if let Some(origin) = origin {
            request.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
        }
        request
    }

    #[test]
    fn strangers_and_browsers_may_not() {
        for (remote, is_certified, origin, may) in [
            (Some("127.0.0.1:1"), false, None, true),
            (Some("[::1]:1"), false, None, true),
            (Some("[::ffff:127.0.0.1]:1"), false, None, true),
            (None, false, None, true),
            (Some("10.0.0.1:1"), false, None, false),
            (Some("10.0.0.1:1"), true, None, true),
            (Some("127.0.0.1:1"), false, Some("http://evil"), false),
        ] {
            assert_eq!(
                may_configure(&request(remote, is_certified, origin)),
                may,
                "{remote:?} {is_certified} {origin:?}"
            );
        }
        assert!(!may_configure(&Request::new(Body::empty())), "from nowhere");
    }
}
