//! The plain HTTP endpoints: version, health, metrics.
//!
//! [`router`] is what a client URL serves beside gRPC, [`metrics_router`] what `--listen-metrics-urls` serve. Paths,
//! bodies and headers are etcd's. The JSON gateway is merged into the first by `server`.

use crate::health::{HealthChecks, Probe};
use crate::log_level;
use crate::metrics::{self, Metrics};
use crate::version::{CLEAT_VERSION, COMPATIBLE_CLUSTER_VERSION, COMPATIBLE_ETCD_VERSION};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

const TEXT: &str = "text/plain; charset=utf-8";

/// What the endpoints answer from.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// The member's metrics.
    pub metrics: Arc<Metrics>,
    /// The member's checks.
    pub checks: Arc<HealthChecks>,
}

/// The endpoints of a client URL.
pub fn router(state: HttpState) -> Router {
    endpoints()
        .route("/version", get(version).fallback(only_get))
        .route("/debug/vars", get(debug_vars))
        .with_state(state)
}

/// What is behind no other path.
pub fn nothing_else() -> Router {
    Router::new().fallback(not_found)
}

/// The endpoints of a metrics URL.
pub fn metrics_router(state: HttpState) -> Router {
    endpoints().fallback(not_found).with_state(state)
}

fn endpoints() -> Router<HttpState> {
    Router::new()
        .route("/health", get(health).fallback(only_get))
        .route("/metrics", get(scrape).post(scrape))
        .route("/livez", get(livez).fallback(only_get))
        .route("/livez/{check}", get(livez_check).fallback(only_get))
        .route("/config/local/log", get(log_level::show).put(log_level::change))
        .route("/readyz", get(readyz).fallback(only_get))
        .route("/readyz/{check}", get(readyz_check).fallback(only_get))
}

/// An answer in the form of Go's `http.Error`.
pub(crate) fn plain(status: StatusCode, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, text).into_response()
}

pub(crate) async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

async fn only_get() -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

async fn version() -> Response {
    let body = format!(
        r#"{{"etcdserver":"{COMPATIBLE_ETCD_VERSION}","etcdcluster":"{COMPATIBLE_CLUSTER_VERSION}","cleat":"{CLEAT_VERSION}"}}"#
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn scrape(State(state): State<HttpState>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.render()).into_response()
}

/// What Go's `expvar` shows, as far as it means anything here. The command line is left out: it may hold secrets.
async fn debug_vars() -> Response {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let body = serde_json::json!({ "file_descriptor_limit": limit });
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], format!("{body}\n")).into_response()
}

type Parameters = Query<Vec<(String, String)>>;

fn all_of(parameters: &Parameters, name: &str) -> Vec<String> {
    parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

async fn health(State(state): State<HttpState>, parameters: Parameters) -> Response {
    let serializable = parameters.iter().any(|(key, value)| key == "serializable" && value == "true");
    let excluded = all_of(&parameters, "exclude");
    let reason = state.checks.health(&state.metrics, serializable, &excluded).await;
    let (status, health) = match reason {
        None => (StatusCode::OK, "true"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "false"),
    };
    let reason = serde_json::Value::from(reason.unwrap_or_default());
    (status, [(header::CONTENT_TYPE, TEXT)], format!(r#"{{"health":"{health}","reason":{reason}}}"#)).into_response()
}

async fn livez(State(state): State<HttpState>, parameters: Parameters) -> Response {
    probe(&state, Probe::Livez, &parameters).await
}

async fn readyz(State(state): State<HttpState>, parameters: Parameters) -> Response {
    probe(&state, Probe::Readyz, &parameters).await
}

async fn livez_check(state: State<HttpState>, Path(name): Path<String>, parameters: Parameters) -> Response {
    single(&state, Probe::Livez, &name, &parameters).await
}

async fn readyz_check(state: State<HttpState>, Path(name): Path<String>, parameters: Parameters) -> Response {
    single(&state, Probe::Readyz, &name, &parameters).await
}

async fn probe(state: &HttpState, probe: Probe, parameters: &Parameters) -> Response {
    let excluded: Vec<_> = all_of(parameters, "exclude").iter().filter_map(|name| probe.check(name)).collect();
    let checks: Vec<_> = probe.checks().iter().copied().filter(|check| !excluded.contains(check)).collect();
    probe_answer(state.checks.probe(&state.metrics, probe, &checks).await, parameters)
}

async fn single(state: &HttpState, probe: Probe, name: &str, parameters: &Parameters) -> Response {
    match probe.check(name) {
        Some(check) => probe_answer(state.checks.probe(&state.metrics, probe, &[check]).await, parameters),
        None => not_found().await,
    }
}

fn probe_answer(answer: crate::health::ProbeAnswer, parameters: &Parameters) -> Response {
    let is_verbose = parameters.iter().any(|(key, _)| key == "verbose");
    match (answer.is_ok, is_verbose) {
        (true, false) => plain(StatusCode::OK, "ok\n".to_owned()),
        (true, true) => plain(StatusCode::OK, answer.details + "ok\n"),
        // With the empty line of Go's http.Error.
        (false, _) => plain(StatusCode::SERVICE_UNAVAILABLE, answer.details + "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Alarm;
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::http::{HeaderMap, Method};
    use tower::Service as _;

    /// What the member of a test is like.
    #[derive(Clone, Copy)]
    struct Member {
        has_leader: bool,
        alarm: Option<Alarm>,
        local_read: Result<(), &'static str>,
        linearizable_read: Result<(), &'static str>,
        place: Result<(), &'static str>,
        serves: bool,
    }

    const HEALTHY: Member = Member {
        has_leader: true,
        alarm: None,
        local_read: Ok(()),
        linearizable_read: Ok(()),
        place: Ok(()),
        serves: true,
    };
    const NO_QUORUM: Member = Member { has_leader: false, linearizable_read: Err("etcdserver: no leader"), ..HEALTHY };

    fn state(member: Member) -> HttpState {
        let read = |result: Result<(), &'static str>| {
            let result = result.map_err(str::to_owned);
            Box::new(move || -> futures::future::BoxFuture<'static, _> { Box::pin(std::future::ready(result.clone())) })
        };
        let checks = HealthChecks {
            has_leader: Box::new(move || member.has_leader),
            is_learner: Box::new(|| false),
            alarms: Box::new(move || member.alarm.into_iter().collect()),
            serializable_read: read(member.local_read),
            linearizable_read: read(member.linearizable_read),
            found_its_place: Box::new(move || member.place.map_err(str::to_owned)),
            serves: Box::new(move || member.serves),
        };
        HttpState { metrics: Metrics::new(false).unwrap(), checks: Arc::new(checks) }
    }

    async fn send(mut router: Router, request: Request) -> (StatusCode, HeaderMap, String) {
        let response = router.call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    async fn get_from(member: Member, path: &str) -> (u16, String) {
        let (status, _, body) =
            send(router(state(member)).merge(nothing_else()), request(Method::GET, path, &[])).await;
        (status.as_u16(), body)
    }

    #[tokio::test]
    async fn answers_are_etcds() {
        let nospace = Member { alarm: Some(Alarm::NoSpace), ..HEALTHY };
        let corrupt = Member { alarm: Some(Alarm::Corrupt), ..HEALTHY };
        let broken = Member { local_read: Err("boom"), ..HEALTHY };
        let lost = Member { place: Err("it waits"), ..NO_QUORUM };
        let ending = Member { serves: false, ..HEALTHY };
        let ends = "[-]not_stopping failed: this member ends\n[+]data_corruption ok\n[+]serializable_read ok\n\
                    [+]linearizable_read ok\n[+]non_learner ok\n\n";
        let waits = "[-]found_its_place failed: it waits\n[+]data_corruption ok\n[+]serializable_read ok\n\
                     [-]linearizable_read failed: range error: etcdserver: no leader\n[+]non_learner ok\n\n";
        let ok = r#"{"health":"true","reason":""}"#;
        let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
        let corrupted = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                         [+]linearizable_read ok\n[+]non_learner ok\n\n";
        let cases = [
            (HEALTHY, "/health", 200, ok),
            (HEALTHY, "/health?serializable=true", 200, ok),
            (nospace, "/health", 503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#),
            (nospace, "/health?exclude=NOSPACE", 200, ok),
            (nospace, "/health?exclude=NOSPACE&serializable=true", 200, ok),
            (corrupt, "/health?exclude=NOSPACE", 503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#),
            (NO_QUORUM, "/health", 503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#),
            (NO_QUORUM, "/health?serializable=true", 200, ok),
            (broken, "/health?serializable=true", 503, r#"{"health":"false","reason":"RANGE ERROR:boom"}"#),
            (HEALTHY, "/livez", 200, "ok\n"),
            (HEALTHY, "/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
            (HEALTHY, "/livez?exclude=nope&verbose", 200, "[+]serializable_read ok\nok\n"),
            (HEALTHY, "/livez/serializable_read", 200, "ok\n"),
            (HEALTHY, "/livez/linearizable_read", 404, "404 page not found\n"),
            (HEALTHY, "/readyz?verbose", 200, all),
            (NO_QUORUM, "/livez", 200, "ok\n"),
            (NO_QUORUM, "/readyz?exclude=linearizable_read", 200, "ok\n"),
            (
                NO_QUORUM,
                "/readyz/linearizable_read",
                503,
                "[-]linearizable_read failed: range error: etcdserver: no leader\n\n",
            ),
            (corrupt, "/readyz", 503, corrupted),
            (HEALTHY, "/readyz/found_its_place", 200, "ok\n"),
            (HEALTHY, "/readyz/not_stopping?verbose", 200, "[+]not_stopping ok\nok\n"),
            (lost, "/readyz", 503, waits),
            (lost, "/livez", 200, "ok\n"),
            (ending, "/readyz", 503, ends),
            (ending, "/readyz/not_stopping", 503, "[-]not_stopping failed: this member ends\n\n"),
            (ending, "/readyz?exclude=not_stopping", 200, "ok\n"),
            (ending, "/livez", 200, "ok\n"),
            (ending, "/livez/not_stopping", 404, "404 page not found\n"),
            (HEALTHY, "/readyz/nope", 404, "404 page not found\n"),
            (HEALTHY, "/", 404, "404 page not found\n"),
        ];
        for (member, path, status, body) in cases {
            assert_eq!(get_from(member, path).await, (status, body.to_owned()), "{path}");
        }
    }

    #[tokio::test]
    async fn what_etcd_has_no_check_for_is_told_while_it_fails() {
        let waiting = state(Member { place: Err("it waits"), ..HEALTHY });
        let healthy = HttpState { checks: state(HEALTHY).checks, ..waiting.clone() };
        let series = r#"etcd_server_healthcheck{name="found_its_place",type="readyz"} 0"#;
        for (state, is_told) in [(waiting, true), (healthy, false)] {
            send(router(state.clone()), request(Method::GET, "/readyz", &[])).await;
            let (_, _, text) = send(metrics_router(state), request(Method::GET, "/metrics", &[])).await;
            assert_eq!(text.contains(series), is_told);
        }
    }

    #[tokio::test]
    async fn checks_are_counted() {
        let state = state(NO_QUORUM);
        for path in ["/health", "/health?serializable=true", "/readyz", "/readyz", "/livez"] {
            send(router(state.clone()), request(Method::GET, path, &[])).await;
        }
        let (_, headers, text) = send(metrics_router(state), request(Method::GET, "/metrics", &[])).await;
        assert_eq!(headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        for line in [
            "etcd_server_health_success 1",
            "etcd_server_health_failures 1",
            r#"etcd_server_healthcheck{name="linearizable_read",type="readyz"} 0"#,
            r#"etcd_server_healthcheck{name="serializable_read",type="livez"} 1"#,
            r#"etcd_server_healthchecks_total{name="linearizable_read",status="error",type="readyz"} 2"#,
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}");
        }
    }

    #[tokio::test]
    async fn other_methods_and_other_ports_are_refused() {
        let (status, headers, body) = send(router(state(HEALTHY)), request(Method::POST, "/health", &[])).await;
        assert_eq!((status.as_u16(), body.as_str()), (405, "Method Not Allowed\n"));
        assert_eq!(headers[header::ALLOW], "GET");
        let (status, ..) = send(metrics_router(state(HEALTHY)), request(Method::GET, "/version", &[])).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}
