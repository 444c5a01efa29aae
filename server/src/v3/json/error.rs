//! Errors as the gateway answers them.
//!
//! The HTTP status follows from the gRPC code as in etcd 3.6. The body has the members of both forms: `code` and
//! `message` (3.6 and later), and `error` (until 3.5), because clients in use look for that one (Patroni does, and took
//! 3.6's errors for answers). An error within a stream has `grpc_code`, `http_code` and `http_status` besides, as until
//! 3.5.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// What nginx and gRPC's gateways say when the client has left; HTTP has no name for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

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
    let body = json!({ "error": status.message(), "code": status.code() as i32, "message": status.message() });
    (http, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The last line of a stream that failed.
pub(super) fn last_line(status: &Status) -> String {
    let http = http_status(status.code());
    let code = status.code() as i32;
    let error: Value = json!({
        "code": code,
        "message": status.message(),
        "grpc_code": code,
        "http_code": http.as_u16(),
        "http_status": http.canonical_reason().unwrap_or("Client Closed Request"),
    });
    format!("{}\n", json!({ "error": error }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::error::Error;
    use axum::body::to_bytes;

    #[tokio::test]
    async fn an_error_has_what_clients_of_all_releases_read() {
        let status = crate::v3::status::status(Error::EmptyKey);
        let response = answer(&status);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 1000).await.unwrap()).unwrap();
        let text = "etcdserver: key is not provided";
        assert_eq!(body, json!({ "error": text, "code": 3, "message": text }));

        let line = last_line(&crate::v3::status::status(Error::Stopped));
        assert!(line.ends_with("}\n"));
        let error = &serde_json::from_str::<Value>(&line).unwrap()["error"];
        let expected = json!({
            "code": 14, "message": Error::Stopped.text(),
            "grpc_code": 14, "http_code": 503, "http_status": "Service Unavailable",
        });
        assert_eq!(*error, expected);
    }

    #[test]
    fn every_code_has_its_status() {
        let expected = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (code, expected) in expected.into_iter().enumerate() {
            assert_eq!(http_status(Code::from_i32(code as i32)).as_u16(), expected, "{code}");
        }
    }
}
