//! How our programs ask the Kubernetes API server, with kube: who says nothing is given up, and nothing of an answer is
//! quoted.
//!
//! What a `ConfigMap`, a Secret, a pod or a token's review holds may be a secret. kube's client logs the whole of an answer
//! that does not fit, which each program's log leaves out; serde's errors quote what is there, which [`shown`] leaves out.

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::client::retry::RetryPolicy;
use kube::runtime::watcher;
use kube::{Client, Config};
use std::time::Duration;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time without a byte of an answer, watches included. The API server ends a watch after the 290 seconds that kube
/// asks for, with news or without.
pub const SILENCE: Duration = Duration::from_mins(5);

/// Quiet time of a connection after which the other end's system is asked whether it is still there, and between two
/// such questions.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Longest time until what was sent is acknowledged: while something is on its way, nothing is asked. It is that of the
/// questions.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);

/// A client that gives up a connection whose other end has vanished within 25 seconds, and a server that is there and says
/// nothing after [`SILENCE`].
///
/// # Errors
/// The certificates or credentials of the configuration cannot be used, or it names a proxy.
pub fn client(config: Config) -> Result<Client, kube::Error> {
    // Fails when somebody has chosen one already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    if config.proxy_url.is_some() {
        // kube's own words for what this build cannot do.
        return Client::try_from(config);
    }
    // As kube builds its client, which gives nobody a say in how sockets are made.
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(SILENCE));
    // The time between two requests of one connection is no silence.
    connector.set_reset_reader_on_write(true);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Builder::new(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// What is said of an answer that is none. Of one that does not fit only the place is told.
pub fn shown(error: &kube::Error) -> String {
    match error {
        kube::Error::SerdeError(error) => {
            format!("something that is no such object, at line {}, column {}", error.line(), error.column())
        }
        error => error.to_string(),
    }
}

/// As [`shown`], while objects are followed.
pub fn shown_of_watch(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(inner) | WatchStartFailed(inner) | WatchFailed(inner) => shown(inner),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use kube::Api;
    use kube::runtime::watcher::{Event, watcher};
    use std::pin::pin;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    /// A socket, and a client of it.
    async fn server() -> (TcpListener, Client) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        (socket, client(Config::new(url.parse().unwrap())).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        // The system takes the connection and what is asked.
        let (_socket, client) = server().await;
        let mut events = pin!(watcher(Api::<Secret>::namespaced(client, "shop"), watcher::Config::default()));
        let event = timeout(SILENCE * 2, events.next()).await.unwrap();
        assert!(matches!(event, Some(Ok(Event::Init))), "{event:?}");
        let event = timeout(SILENCE * 2, events.next()).await.unwrap();
        assert!(matches!(event, Some(Err(watcher::Error::InitialListFailed(_)))), "{event:?}");
    }

    #[tokio::test]
    async fn of_an_answer_that_does_not_fit_the_place_alone_is_told() {
        let (socket, client) = server().await;
        let answer = async |body: &str| {
            let (mut stream, _) = socket.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let place = "something that is no such object, at line 1, column ";
        let pods = Api::<Pod>::default_namespaced(client);
        let mut events = pin!(watcher(pods.clone(), watcher::Config::default()).skip(1));
        let list = r#"{"metadata":{},"items":[{"metadata":{},"spec":{"containers":"hunter2"}}]}"#;
        let both = async { tokio::join!(events.next(), answer(list)) };
        let (event, ()) = timeout(Duration::from_mins(1), both).await.unwrap();
        let Some(Err(error)) = event else { panic!("{event:?}") };
        assert!(error.to_string().contains("hunter2"), "{error}");
        assert!(shown_of_watch(&error).starts_with(place), "{}", shown_of_watch(&error));

        let pod = r#"{"metadata":{},"spec":"hunter2"}"#;
        let both = async { tokio::join!(pods.get("a"), answer(pod)) };
        let (got, ()) = timeout(Duration::from_mins(1), both).await.unwrap();
        let error = got.unwrap_err();
        assert!(error.to_string().contains("hunter2"), "{error}");
        assert!(shown(&error).starts_with(place), "{}", shown(&error));
    }
}
