//! Requests of the gateway: which method they are for, and the gRPC call that they become.

use super::split::{Splitter, TooLarge};
use super::{answer, error, openapi, read, routes};
use crate::listen::{GatewayBody, GrpcRoutes, grpc_timeout};
use crate::v3::status::refused;
use answer::PREFIX_BYTES;
use api::descriptor::{Message, Method};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// The prefixes of all routes: etcd's, and the one that 3.3 had.
const PREFIXES: [&str; 2] = ["/v3", "/v3beta"];

/// The body of a request that is one message has to be there by then. It leaves ten times what the largest one takes on a
/// line of one megabit a second, and ends those who only hold the connection.
const BODY_DEADLINE: Duration = Duration::from_mins(5);

/// What a text may have beside twice the bytes of the message: base64 takes a third, names and blanks the rest.
const TEXT_OVERHEAD_BYTES: usize = 64 << 10;

/// Headers that become metadata of the call have this before their name.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// What the gateway answers from.
#[derive(Clone, Debug)]
struct Gateway {
    grpc: Arc<GrpcRoutes>,
    body_deadline: Duration,
}

/// The routes of the gateway, in front of these services.
pub(crate) fn router(grpc: Arc<GrpcRoutes>) -> Router {
    let gateway = Gateway { grpc, body_deadline: BODY_DEADLINE };
    PREFIXES
        .iter()
        .fold(Router::new(), |router, prefix| router.route(&format!("{prefix}/{{*path}}"), any(serve)))
        .route("/v3/openapi.json", get(openapi::serve))
        .with_state(gateway)
}

async fn serve(State(gateway): State<Gateway>, request: Request) -> Response {
    let path = request.uri().path();
    let method = PREFIXES.iter().rev().find_map(|prefix| routes::find(path.strip_prefix(prefix)?));
    let Some(method) = method else {
        return error::answer(&refused(Code::NotFound, "Not Found"));
    };
    if request.method() != http::Method::POST {
        let status = refused(Code::Unimplemented, "Method Not Allowed");
        let mut response = error::answer_with(StatusCode::METHOD_NOT_ALLOWED, &status);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let (head, body) = request.into_parts();
    let made = match metadata(&head.headers) {
        Ok(metadata) => gateway.body(method, body).await.map(|body| (metadata, body)),
        Err(status) => Err(error::answer(&status)),
    };
    let (metadata, body) = match made {
        Ok(made) => made,
        Err(response) => return response,
    };
    let mut call = http::Request::new(body);
    *call.method_mut() = http::Method::POST;
    *call.version_mut() = Version::HTTP_2;
    *call.uri_mut() = http::Uri::from_static(method.path);
    *call.headers_mut() = metadata;
    // Who calls, from where, and whether over TLS.
    *call.extensions_mut() = head.extensions;
    answer::answer(method, gateway.grpc.call_from_gateway(call).await).await
}

/// The headers of the call: as in etcd, a token under its HTTP name, a deadline, and what the client sends as metadata.
fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        // Names of gRPC itself are not the client's to choose here.
        if let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX)
            && !name.starts_with("grpc-")
            && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
        {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(header::AUTHORIZATION) {
        metadata.insert(header::AUTHORIZATION, token.clone());
    }
    if let Some(timeout) = headers.get("grpc-timeout") {
        if grpc_timeout(timeout.as_bytes()).is_none() {
            let timeout = String::from_utf8_lossy(timeout.as_bytes());
            return Err(refused(Code::InvalidArgument, format!("invalid grpc-timeout: {timeout}")));
        }
        metadata.insert("grpc-timeout", timeout.clone());
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(metadata)
}

impl Gateway {
    /// The most bytes of a text that can be a message of the size that is allowed. What is below and still too large is
    /// refused like any gRPC message.
    fn text_bytes_max(&self) -> usize {
        2 * self.grpc.max_message_bytes() + TEXT_OVERHEAD_BYTES
    }

    /// The body of the call.
    async fn body(&self, method: &'static Method, body: Body) -> Result<GatewayBody, Response> {
        if method.is_client_stream {
            return Ok(messages(method.input, body, self.text_bytes_max()));
        }
        let limit = self.text_bytes_max();
        let text = match tokio::time::timeout(self.body_deadline, axum::body::to_bytes(body, limit)).await {
            Ok(Ok(text)) => text,
            // Who has left gets no answer.
            Ok(Err(_)) => return Err(error::answer(&too_large(limit))),
            Err(_) => {
                let status = refused(Code::DeadlineExceeded, "the body of the request did not arrive in time");
                return Err(error::answer_with(StatusCode::REQUEST_TIMEOUT, &status));
            }
        };
        let message = framed(&text, method.input).map_err(|status| error::answer(&status))?;
        Ok(Full::new(message).map_err(|never| match never {}).boxed_unsync())
    }
}

fn too_large(limit: usize) -> Status {
    refused(Code::ResourceExhausted, format!("the request has more than {limit} bytes"))
}

/// Reads a message and puts gRPC's prefix before it.
fn framed(text: &[u8], message: &'static Message) -> Result<Bytes, Status> {
    let mut out = vec![0; PREFIX_BYTES];
    read::read(text, message, &mut out).map_err(|error| refused(Code::InvalidArgument, error.to_string()))?;
    let length = u32::try_from(out.len() - PREFIX_BYTES).map_err(|_| too_large(u32::MAX as usize))?;
    out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(out.into())
}

/// The messages of a stream, each as soon as it has arrived. The service asks for the next one when it wants it.
fn messages(message: &'static Message, body: Body, limit: usize) -> GatewayBody {
    let requests = Some(Requests { message, body, values: Splitter::new(limit), limit, is_over: false });
    let frames = futures::stream::unfold(requests, |requests| async {
        let mut requests = requests?;
        match requests.next().await {
            None => None,
            Some(Ok(message)) => Some((Ok(Frame::data(message)), Some(requests))),
            Some(Err(status)) => Some((Err(status.into()), None)),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A stream of requests.
struct Requests {
    message: &'static Message,
    body: Body,
    values: Splitter,
    limit: usize,
    is_over: bool,
}

impl Requests {
    /// The next message; an error is the last.
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            match self.values.next() {
                Ok(Some(value)) => return Some(framed(&value, self.message)),
                Ok(None) => {}
                Err(TooLarge) => return Some(Err(too_large(self.limit))),
            }
            if self.is_over {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.values.feed(data);
                    }
                }
                // The client has left; so will the call.
                Some(Err(_)) => return None,
                None => {
                    self.is_over = true;
                    return Some(framed(&self.values.finish()?, self.message));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::LeaderGate;
    use crate::metrics::Metrics;
    use tower::Service as _;

    async fn answer(path: &str, body: Body) -> (StatusCode, String) {
        let metrics = Metrics::new(false).unwrap();
        let grpc = Arc::new(GrpcRoutes::new(metrics, 1000, Duration::MAX, LeaderGate::new(|| true)));
        let response = router(grpc).call(Request::post(path).body(body).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, String::from_utf8(axum::body::to_bytes(body, 10_000).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let begun = tokio::time::Instant::now();
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let (status, text) = answer("/v3/kv/put", endless).await;
        assert_eq!((status, begun.elapsed()), (StatusCode::REQUEST_TIMEOUT, BODY_DEADLINE), "{text}");
    }

    #[tokio::test]
    async fn a_body_is_held_up_to_a_limit() {
        let chunks = |count| {
            let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1000]));
            Body::from_stream(futures::stream::iter((0..count).map(move |_| chunk())))
        };
        let limit = (2 * 1000 + TEXT_OVERHEAD_BYTES) / 1000;
        for (path, count, status) in [
            ("/v3/kv/put", limit, StatusCode::NOT_IMPLEMENTED),
            ("/v3/kv/put", limit + 1, StatusCode::TOO_MANY_REQUESTS),
            ("/v3beta/kv/put", usize::MAX, StatusCode::TOO_MANY_REQUESTS),
        ] {
            let (found, text) = answer(path, chunks(count)).await;
            assert_eq!(found, status, "{path} {count}: {text}");
        }
        let (_, text) = answer("/v3/auth/enable", Body::empty()).await;
        assert!(text.contains("unknown service etcdserverpb.Auth"), "{text}");
    }

    #[test]
    fn headers_become_metadata() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer token"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-token", "t"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-", "nothing"),
            ("grpc-timeout", "5S"),
            ("content-type", "text/plain"),
            ("cookie", "c"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let metadata = metadata(&headers).unwrap();
        let mut found: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        let expected = [
            ("authorization", "Bearer token"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "5S"),
            ("hasleader", "true"),
            ("te", "trailers"),
            ("token", "t"),
        ];
        assert_eq!(found, expected);
    }
}
