//! What is kept of a call beside its counters: the line about a slow one, its trace, its record in the audit log.
//!
//! All unary calls pass here, whatever their service. A call is over when its last frame was handed to the connection,
//! or when its client has left.

use crate::audit::{self, Audit, Caller, Record};
use crate::otlp::{Sampled, Traced, Tracer};
use crate::steps::{self, Step, Steps};
use bytes::Bytes;
use http::HeaderMap;
use opentelemetry::KeyValue;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// Bytes of a key in a line or a span.
const KEY_BYTES_MAX: usize = 256;

/// What is done with calls.
pub(super) struct Observers {
    /// Unary calls that take longer are logged.
    pub(super) slow: Duration,
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) audit: Option<Arc<Audit>>,
}

/// A call that is running.
pub struct Observed {
    observers: Arc<Observers>,
    path: &'static str,
    /// Whether its slowness says something: a stream, or a call that waits for others, may take its time.
    is_timed: bool,
    steps: Option<Box<Steps>>,
    sampled: Option<Box<Sampled>>,
    recorded: Option<Box<Recorded>>,
    response_bytes: usize,
}

/// What the audit log needs of a call that is to be recorded.
struct Recorded {
    caller: Caller,
    /// The first part of the answer.
    answer: Option<Bytes>,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Observers {
    /// Starts to observe a call, if anything is done with it.
    pub(super) fn start(
        self: &Arc<Self>,
        (path, is_timed): (&'static str, bool),
        headers: &HeaderMap,
        remote: Option<SocketAddr>,
        name: Option<&Arc<str>>,
    ) -> Option<Observed> {
        let sampled = self.tracer.as_ref().and_then(|tracer| tracer.sample(path, headers));
        let is_recorded = self.audit.is_some() && audit::is_recorded(path);
        if !is_timed && sampled.is_none() && !is_recorded {
            return None;
        }
        let steps = Steps::start(remote);
        let steps = if is_recorded { steps.keeping_the_request() } else { steps };
        let recorded = || Box::new(Recorded { caller: Caller { name: name.cloned(), remote }, answer: None });
        Some(Observed {
            observers: Arc::clone(self),
            path,
            is_timed,
            steps: Some(Box::new(steps)),
            sampled: sampled.map(Box::new),
            recorded: is_recorded.then(recorded),
            response_bytes: 0,
        })
    }
}

impl Observed {
    /// True for a call that must not be served, because it could not be recorded. The refusal itself is recorded where
    /// there is room, which finds out whether lines can be written again.
    pub(super) fn must_be_refused(&mut self) -> bool {
        let Some(audit) = self.observers.audit.as_ref().filter(|audit| self.recorded.is_some() && audit.must_refuse())
        else {
            return false;
        };
        if audit.is_filling() {
            self.recorded = None;
        }
        true
    }

    /// Runs a part of the call.
    pub(super) fn during<R>(&mut self, run: impl FnOnce() -> R) -> R {
        steps::during(&mut self.steps, run)
    }

    /// The service has answered.
    pub(super) fn served(&mut self) {
        if let Some(steps) = &mut self.steps {
            steps.done(Step::Serve);
        }
    }

    /// A part of the answer goes to the connection.
    pub(super) fn sends(&mut self, data: &Bytes) {
        if let Some(recorded) = &mut self.recorded {
            recorded.answer.get_or_insert_with(|| data.clone());
        }
        self.response_bytes += data.len();
    }

    /// The call is over; later ends are not noticed.
    pub(super) fn end(&mut self, code: Code) {
        let Some(mut steps) = self.steps.take() else { return };
        if self.response_bytes > 0 {
            steps.done(Step::Encode);
        }
        if self.is_timed && steps.started.elapsed() > self.observers.slow {
            self.log(&steps, code);
        }
        if let (Some(tracer), Some(sampled)) = (&self.observers.tracer, self.sampled.take()) {
            let call = Traced {
                path: self.path,
                code,
                remote: steps.remote,
                started: steps.started,
                steps: steps.list(),
                attributes: self.attributes(&steps),
            };
            tracer.end(*sampled, call);
        }
        if let (Some(recorded), Some(audit)) = (self.recorded.take(), &self.observers.audit) {
            let Recorded { mut caller, answer } = *recorded;
            caller.name = steps.take_user().map(Into::into).or(caller.name);
            let request = steps.take_request().unwrap_or_default();
            audit.write(Record { path: self.path, caller: &caller, request, response: answer, code });
        }
    }

    fn log(&self, steps: &Steps, code: Code) {
        let subject = &steps.subject;
        tracing::warn!(
            method = self.path,
            took = ?steps.started.elapsed(),
            expected = ?self.observers.slow,
            %steps,
            code = ?code,
            remote = steps.remote.map(tracing::field::display),
            key = shown(&subject.key),
            range_end = shown(&subject.range_end),
            ops = Some(subject.ops).filter(|ops| *ops > 0),
            leader = Some(subject.leader).filter(|leader| *leader != 0).map(|leader| format!("{leader:x}")),
            request_bytes = steps.request_bytes,
            response_bytes = self.response_bytes,
            keys = subject.count,
            "request took too long"
        );
    }

    /// What a span says of the request, with etcd's names for ranges.
    fn attributes(&self, steps: &Steps) -> Vec<KeyValue> {
        let subject = &steps.subject;
        let key = shown(&subject.key).map(|key| KeyValue::new("range_begin", key));
        let range_end = shown(&subject.range_end).map(|end| KeyValue::new("range_end", end));
        let keys = subject.count.map(|keys| KeyValue::new("range_response_count", keys));
        let sizes = [
            KeyValue::new("rpc.request.size", steps.request_bytes as i64),
            KeyValue::new("rpc.response.size", self.response_bytes as i64),
        ];
        key.into_iter().chain(range_end).chain(keys).chain(sizes).collect()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The beginning of a key as text; None for no key.
fn shown(key: &Bytes) -> Option<String> {
    let shown = &key[..key.len().min(KEY_BYTES_MAX)];
    (!key.is_empty()).then(|| match std::str::from_utf8(shown) {
        Ok(text) => text.to_owned(),
        Err(_) => shown.escape_ascii().to_string(),
    })
}
