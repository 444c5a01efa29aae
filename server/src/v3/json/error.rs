//! Errors as the gateway answers them.
//!
//! The HTTP status follows from the gRPC code as in etcd 3.6. The body has the members of both forms: `code` and
//! `message` (3.6 and later), and `error` (until 3.5), because clients in use look for that one (Patroni does, and took
//! 3.6's errors for answers). An error within a stream has `grpc_code`, `http_code` and `http_status` besides, as until
//! 3.5. Members have the order of 3.4 and 3.5: somebody compares bytes.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};

/// What nginx and gRPC's gateways say when the client has left; HTTP has no name for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
    code: i32,
}

#[derive(Serialize)]
struct LastLine<'a> {
    error: StreamError<'a>,
}

#[derive(Serialize)]
struct StreamError<'a> {
    grpc_code: i32,
    http_code: u16,
    message: &'a str,
    http_status: &'a str,
    code: i32,
}

/// The HTTP status of a code.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a call that failed before it had an answer.
pub(super) fn answer(status: &Status) -> Response {
    answer_with(http_status(status.code()), status)
}

/// The same, with an HTTP status that says more than the code does.
pub(super) fn answer_with(http: StatusCode, status: &Status) -> Response {
    let body = Body { error: status.message(), message: status.message(), code: status.code() as i32 };
    (http, [(header::CONTENT_TYPE, "application/json")], written(&body)).into_response()
}

/// The last line of a stream that failed.
pub(super) fn last_line(status: &Status) -> String {
    let http = http_status(status.code());
    let code = status.code() as i32;
    let error = StreamError {
        grpc_code: code,
        http_code: http.as_u16(),
        message: status.message(),
        http_status: http.canonical_reason().unwrap_or("Client Closed Request"),
        code,
    };
    format!("{}\n", written(&LastLine { error }))
}

fn written(value: &impl Serialize) -> String {
    // Invariant: texts and numbers can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::error::Error;
    use axum::body::to_bytes;
    use serde_json::json;

    #[tokio::test]
    async fn an_error_has_what_clients_of_all_releases_read() {
        let status = crate::v3::status::status(Error::EmptyKey);
        let response = answer(&status);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        let text = "etcdserver: key is not provided";
        assert_eq!(body, format!(r#"{{"error":"{text}","message":"{text}","code":3}}"#));

        let line = last_line(&crate::v3::status::status(Error::Stopped));
        let expected = format!(
            r#"{{"error":{{"grpc_code":14,"http_code":503,"message":{},"http_status":"Service Unavailable","code":14}}}}"#,
            json!(Error::Stopped.text())
        );
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn every_code_has_its_status() {
        let expected = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (code, expected) in expected.into_iter().enumerate() {
            assert_eq!(http_status(Code::from_i32(code as i32)).as_u16(), expected, "{code}");
        }
    }
}
