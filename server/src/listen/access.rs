//! Which callers HTTP is served to, and what browsers are told.

use super::front::OverTls;
use crate::http::plain;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

const ANY: HeaderValue = HeaderValue::from_static("*");
const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");

/// Which callers are served.
#[derive(Clone, Debug, Default)]
pub struct AccessRules {
    /// Origins that browsers may call from; None means all.
    pub cors: Option<Vec<String>>,
    /// Host names that requests may carry; None means all.
    pub host_whitelist: Option<Vec<String>>,
}

impl AccessRules {
    /// The answer to a request that goes no further. Refuses hosts that are not listed (a page elsewhere may have pointed
    /// its own name at us) and answers browsers that ask first. Over TLS the certificate has shown that the name is ours;
    /// etcd does not look there either.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Option<Response> {
        if let Some(allowed) = &self.host_whitelist
            && request.extensions().get::<OverTls>().is_none()
            && !host(request).is_some_and(|host| allowed.iter().any(|allowed| allowed == host))
        {
            tracing::warn!(path = request.uri().path(), "refusing request: its host is not in --host-whitelist");
            let text = "the host of this request is not in --host-whitelist of the server\n";
            return Some(plain(StatusCode::MISDIRECTED_REQUEST, text.to_owned()));
        }
        (request.method() == Method::OPTIONS).then(|| {
            let mut response = StatusCode::OK.into_response();
            self.allowed(request).add_to(response.headers_mut());
            response
        })
    }

    /// What the answer to a request allows.
    pub(super) fn allowed<B>(&self, request: &Request<B>) -> Allowed {
        let Some(origins) = &self.cors else { return Allowed(Some(ANY)) };
        let origin = request.headers().get(header::ORIGIN);
        Allowed(origin.filter(|origin| origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())).cloned())
    }
}

/// The origin from which browsers may show an answer, if there is one.
#[derive(Debug, Default)]
pub(super) struct Allowed(Option<HeaderValue>);

impl Allowed {
    /// Tells it to the browser.
    pub(super) fn add_to(&mut self, headers: &mut HeaderMap) {
        if let Some(origin) = self.0.take() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        }
    }
}

/// The host of a request, without its port.
fn host<B>(request: &Request<B>) -> Option<&str> {
    let host = match request.uri().host() {
        Some(host) => host,
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/livez");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn hosts_and_origins_are_checked() {
        let list = |items: &[&str]| Some(items.iter().map(ToString::to_string).collect());
        let rules = AccessRules { cors: list(&["http://ui"]), host_whitelist: list(&["etcd.local", "::1"]) };
        for (headers, status, origin) in [
            (&[("host", "etcd.local:2379"), ("origin", "http://ui")][..], None, Some("http://ui")),
            (&[("host", "[::1]:2379"), ("origin", "http://evil")], None, None),
            (&[("host", "evil")], Some(421), None),
            (&[], Some(421), None),
        ] {
            let asked = request(Method::GET, headers);
            let answered = rules.answer(&asked).map(|response| response.status().as_u16());
            let mut told = HeaderMap::new();
            rules.allowed(&asked).add_to(&mut told);
            let allowed = told.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!((answered, allowed), (status, origin), "{headers:?}");
        }
        let mut secure = request(Method::GET, &[("host", "evil")]);
        secure.extensions_mut().insert(OverTls);
        assert!(rules.answer(&secure).is_none());
        let first = AccessRules::default().answer(&request(Method::OPTIONS, &[("host", "x")])).unwrap();
        assert_eq!((first.status(), &first.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN]), (StatusCode::OK, &ANY));
        let refused = rules.answer(&request(Method::OPTIONS, &[("host", "evil"), ("origin", "http://ui")])).unwrap();
        assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
        assert!(!refused.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
