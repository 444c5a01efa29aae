//! What is kept of a request beside its answer: metrics with etcd's names, the line about a slow one, and the record of a
//! change in the audit log.

use super::{V2, hub::Hub};
use crate::audit::{Audit, Caller, HttpRecord};
use crate::auth::CommonName;
use crate::metrics::{Metrics, V2Metrics};
use crate::node::Node;
use axum::extract::Request;
use axum::response::Response;
use http::{Extensions, HeaderValue, Method, StatusCode, Uri};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use store::v2::Stats;

/// Bytes of a path in a line.
const PATH_BYTES_MAX: usize = 4096;

/// Parameters of the query that a record shows, with so many bytes of each. The others may be values.
const SHOWN: [&str; 6] = ["recursive", "dir", "ttl", "prevExist", "prevIndex", "refresh"];
const PARAMETER_BYTES_MAX: usize = 64;

/// What is done with requests.
pub(super) struct Observers {
    pub(super) metrics: V2Metrics,
    /// Requests that take longer are logged. The time that a watch waits does not count: its answer has begun.
    pub(super) slow: Duration,
    pub(super) audit: Option<Arc<Audit>>,
}

/// Who asks, once it is known. It travels with the request.
#[derive(Clone, Default)]
struct Asker(Arc<OnceLock<Arc<str>>>);

/// Notes who asks.
pub(super) fn is_asked_by(extensions: &Extensions, user: &str) {
    if let Some(asker) = extensions.get::<Asker>() {
        // There is one caller of a request.
        drop(asker.0.set(user.into()));
    }
}

/// A request that is being served. Dropped before it is answered: its client has left.
pub(super) struct Observed<'a> {
    observers: &'a Observers,
    started: Instant,
    method: Method,
    /// As it came.
    uri: Uri,
    remote: Option<SocketAddr>,
    /// Of a change, while there is an audit log.
    record: Option<Change>,
}

struct Change {
    asker: Asker,
    /// The name in the certificate.
    name: Option<Arc<str>>,
    parameters: Vec<(&'static str, String)>,
}

impl Observers {
    pub(super) fn start(&self, request: &mut Request, remote: Option<SocketAddr>) -> Observed<'_> {
        let method = request.method().clone();
        let changes = matches!(method, Method::PUT | Method::POST | Method::DELETE);
        let record = (changes && self.audit.is_some()).then(|| {
            let name = request.extensions().get::<CommonName>().map(|name| Arc::clone(&name.0));
            let asker = Asker::default();
            request.extensions_mut().insert(asker.clone());
            Change { asker, name, parameters: parameters(request.uri().query().unwrap_or_default()) }
        });
        // It shares its bytes with the request's.
        let uri = request.uri().clone();
        Observed { observers: self, started: Instant::now(), method, uri, remote, record }
    }
}

impl Observed<'_> {
    /// True for a change that must not be made, because it could not be recorded; as `listen` does with those of v3.
    pub(super) fn must_be_refused(&mut self) -> bool {
        let Some(audit) = self.observers.audit.as_ref().filter(|audit| self.record.is_some() && audit.must_refuse())
        else {
            return false;
        };
        if audit.is_filling() {
            self.record = None;
        }
        true
    }

    /// The request was answered.
    pub(super) fn end(mut self, response: &Response) {
        let took = self.started.elapsed();
        let status = response.status();
        if took > self.observers.slow {
            tracing::warn!(
                method = %self.method,
                path = shown(&self.uri),
                ?took,
                expected = ?self.observers.slow,
                code = status.as_u16(),
                remote = self.remote.map(tracing::field::display),
                "request took too long"
            );
        }
        let index = response.headers().get(super::keys::INDEX).filter(|_| status.is_success());
        self.write(Some(status), index);
    }

    fn write(&mut self, status: Option<StatusCode>, index: Option<&HeaderValue>) {
        let (Some(Change { asker, name, parameters }), Some(audit)) = (self.record.take(), &self.observers.audit)
        else {
            return;
        };
        audit.write_http(&HttpRecord {
            method: self.method.as_str(),
            path: shown(&self.uri),
            parameters: &parameters,
            caller: &Caller { name: asker.0.get().cloned().or(name), remote: self.remote },
            status: status.map(|status| status.as_u16()),
            index: index.and_then(|index| index.to_str().ok()?.parse().ok()),
        });
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        self.write(None, None);
    }
}

/// What a line has of a path. The query is not told here.
fn shown(uri: &Uri) -> &str {
    let path = uri.path();
    &path[..path.floor_char_boundary(PATH_BYTES_MAX)]
}

/// The parameters of a query that may be shown.
fn parameters(query: &str) -> Vec<(&'static str, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let shown = pairs.filter_map(|(name, value)| {
        let name = SHOWN.into_iter().find(|shown| *shown == name)?;
        Some((name, value[..value.floor_char_boundary(PARAMETER_BYTES_MAX)].to_owned()))
    });
    // A client may name them as often as it likes.
    shown.take(SHOWN.len()).collect()
}

/// A request about keys that is counted. etcd's names: a read that goes through the log is another method.
pub(super) struct Counted {
    label: Cow<'static, str>,
    started: Instant,
}

impl V2Metrics {
    /// Counts a request that was understood, and may be served. Those that wait are not received, only refused.
    pub(super) fn begin(&self, method: &Method, is_quorum: bool, waits: bool) -> Counted {
        let label = match *method {
            Method::GET if is_quorum => "QGET".into(),
            Method::GET => "GET".into(),
            Method::PUT => "PUT".into(),
            _ => Cow::Owned(method.as_str().to_owned()),
        };
        if !waits {
            self.http_received.with_label_values(&[&*label]).inc();
        }
        Counted { label, started: Instant::now() }
    }

    /// Counts its outcome.
    pub(super) fn end(&self, counted: &Counted, refused: Option<StatusCode>, waits: bool) {
        let label = &*counted.label;
        match refused {
            Some(status) => self.http_failed.with_label_values(&[label, status.as_str()]).inc(),
            None if waits => {}
            None => {
                let took = counted.started.elapsed().as_secs_f64();
                self.http_seconds.with_label_values(&[label]).observe(took);
            }
        }
    }
}

/// Shows what the tree counts, whenever somebody asks.
pub(super) fn export(metrics: &Metrics, node: Node, hub: Arc<Hub>) {
    metrics.on_scrape(move |metrics| {
        let shown = &metrics.v2;
        let stats = node.reader().v2_stats();
        let (reads, reads_failed) = (&shown.reads, &shown.reads_failed);
        let (writes, writes_failed) = (&shown.writes, &shown.writes_failed);
        for (action, count, (all, failed)) in counts(&stats).map(|(action, count, is_read)| {
            (action, count, if is_read { (reads, reads_failed) } else { (writes, writes_failed) })
        }) {
            // As in etcd, a series begins with its first value.
            for (series, value) in [(all, count.succeeded + count.failed), (failed, count.failed)] {
                if value > 0 {
                    let series = series.with_label_values(&[action]);
                    series.inc_by(value.saturating_sub(series.get()));
                }
            }
        }
        shown.expires.inc_by(stats.expired.saturating_sub(shown.expires.get()));
        shown.watch_requests.inc_by(hub.requests().saturating_sub(shown.watch_requests.get()));
        shown.watchers.set(hub.len() as i64);
    });
}

/// What is counted by action, and whether it only reads.
fn counts(stats: &Stats) -> std::array::IntoIter<(&'static str, store::v2::Count, bool), 8> {
    [
        ("get", stats.gets, true),
        ("getRecursive", stats.recursive_gets, true),
        ("set", stats.sets, false),
        ("create", stats.creates, false),
        ("update", stats.updates, false),
        ("delete", stats.deletes, false),
        ("compareAndSwap", stats.swaps, false),
        ("compareAndDelete", stats.compared_deletes, false),
    ]
    .into_iter()
}

/// What a change is answered that could not be recorded.
pub(super) fn not_recorded(v2: &V2) -> Response {
    v2.message(StatusCode::SERVICE_UNAVAILABLE, "the audit log cannot be written, and --audit-log-required is set")
}

#[cfg(test)]
mod tests {
    use super::parameters;

    #[test]
    fn a_record_shows_no_values() {
        let query = "value=secret&recursive=true&prevValue=secret&prevIndex=7&x&dir=%74rue";
        let expected = [("recursive", "true"), ("prevIndex", "7"), ("dir", "%74rue")];
        assert_eq!(parameters(query), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(parameters(&"ttl=1&".repeat(1000)).len(), 6);
        assert_eq!(parameters(&format!("ttl={}", "é".repeat(100)))[0].1.len(), 64);
    }
}
