//! What can go wrong, with the endpoint where it did and etcd's own words.

use crate::call::{Effect, Failure};
use crate::endpoint::without_user;
use api::etcdserverpb::ResponseHeader;
use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, ConnectError, Status};

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`crate::Options::endpoints`] is empty.
    #[error("no endpoints are given")]
    NoEndpoints,
    /// An endpoint is not one.
    #[error("bad endpoint {endpoint:?}: {reason}")]
    BadEndpoint {
        /// The endpoint as it was given, without a user and password.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate or key file cannot be used.
    #[error("{}: {reason}", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS options do not go together, or the system has no certificates.
    #[error("TLS: {0}")]
    Tls(String),
    /// [`crate::Options::token`] is nothing that a header can have.
    #[error("the token has characters that no token has")]
    BadToken,
    /// The server's answer is an error.
    #[error("{endpoint}: {text}")]
    Answered {
        /// Who answered.
        endpoint: String,
        /// The gRPC code.
        code: Code,
        /// The server's text.
        text: String,
        /// What the call was.
        effect: Effect,
    },
    /// The request provably did not leave this process.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable {
        /// Where it was to go.
        endpoint: String,
        /// Why it did not.
        reason: String,
    },
    /// The connection broke after the request was given to it: it may or may not have been done.
    #[error("lost the connection to {endpoint}, the request may have been done: {reason}")]
    Lost {
        /// Where it went.
        endpoint: String,
        /// How the connection ended.
        reason: String,
        /// What the call was.
        effect: Effect,
    },
    /// There was no answer in time: a write may or may not have been done.
    #[error("no answer from {endpoint} within {limit:?}")]
    Timeout {
        /// The endpoint that was asked last.
        endpoint: String,
        /// How long was waited.
        limit: Duration,
        /// What the call was.
        effect: Effect,
    },
    /// A message is larger than [`crate::Options::max_request_bytes`] or [`crate::Options::max_answer_bytes`]. Such a request
    /// was not sent.
    #[error("{endpoint}: {message} of {bytes} bytes where {limit} are taken")]
    TooLarge {
        /// Where it was to go, or came from.
        endpoint: String,
        /// Which of both it is.
        message: Oversize,
        /// What it has.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
    /// A watch asked for history that is gone.
    #[error("{endpoint}: revisions before {compact_revision} have been compacted")]
    Compacted {
        /// Who answered.
        endpoint: String,
        /// The first revision that can still be watched.
        compact_revision: i64,
        /// Of the answer.
        header: ResponseHeader,
    },
    /// The server ended a watch.
    #[error("{endpoint} ended the watch: {reason}")]
    WatchCanceled {
        /// Who ended it.
        endpoint: String,
        /// The server's text.
        reason: String,
        /// Of the answer.
        header: ResponseHeader,
    },
    /// The server's answer lacks something that every answer has.
    #[error("{endpoint}: unexpected answer: {what}")]
    Unexpected {
        /// Who answered.
        endpoint: String,
        /// What is missing.
        what: &'static str,
    },
}

/// Which message is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// What was to be sent.
    Request,
    /// What came back, of such a call.
    Answer(Effect),
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "a request",
            Self::Answer(_) => "an answer",
        })
    }
}

impl Error {
    /// [`Error::BadEndpoint`], without the user and password that may be in the text.
    pub(crate) fn bad_endpoint(text: &str, reason: impl Into<String>) -> Self {
        Self::BadEndpoint { endpoint: without_user(text).into_owned(), reason: reason.into() }
    }

    /// True if the server answered with this error of etcd's table.
    pub fn is(&self, error: api::error::Error) -> bool {
        matches!(self, Self::Answered { text, .. } if text == error.text())
    }

    /// True if the call was a write and may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Lost { effect, .. }
            | Self::Timeout { effect, .. }
            | Self::TooLarge { message: Oversize::Answer(effect), .. } => *effect == Effect::Write,
            Self::Answered { code, effect, .. } => *effect == Effect::Write && !is_refusal(*code),
            _ => false,
        }
    }

    /// True if the same question may have a better answer from another endpoint, or later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Timeout { .. } => true,
            Self::Answered { code, .. } => *code == Code::Unavailable,
            _ => false,
        }
    }

    /// Sorts a failed call by what it proves.
    pub(crate) fn of_call(effect: Effect, endpoint: &str, status: &Status) -> Self {
        let endpoint = endpoint.to_owned();
        // Only a failure on this side has a source; what a server answered is code and text.
        let Some(source) = StdError::source(status) else {
            if let Some((bytes, limit)) = oversize(status) {
                return Self::TooLarge { endpoint, message: Oversize::Answer(effect), bytes, limit };
            }
            return Self::Answered { endpoint, code: status.code(), text: status.message().to_owned(), effect };
        };
        let reason = innermost(source);
        if chain(source).any(never_left) {
            Self::Unreachable { endpoint, reason }
        } else {
            Self::Lost { endpoint, reason, effect }
        }
    }
}

/// How many bytes an answer has, and may have, if tonic did not take it: it tells by its text alone.
fn oversize(status: &Status) -> Option<(u64, u64)> {
    let rest = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (bytes, limit) = rest.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
    let is_answer = status.code() == Code::OutOfRange;
    is_answer.then_some((bytes.parse().ok()?, limit.parse().ok()?))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The text of the first cause: those above it repeat it or say less.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

/// True for the codes that prove that a write was refused before it was done. The server's own timeouts and lost
/// leaders leave it open. So does what tonic answers itself: `Cancelled`, `Internal`, `OutOfRange` and others stand for
/// an answer that could not be read. `OutOfRange` is also etcd's code for a compacted revision, where a wrong guess does
/// no harm: a compaction that was done already is what was wanted.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

/// True for the failures that prove that the server has not begun with the request. A connection that was ended with
/// GOAWAY is not among them: streams that the server had begun end the same way.
fn never_left(error: &(dyn StdError + 'static)) -> bool {
    if error.is::<ConnectError>() {
        return true;
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // Still in the queue before the connection.
        return error.is_canceled();
    }
    // The server's promise that it did nothing (RFC 9113, 8.7).
    let refused =
        |error: &h2::Error| error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.downcast_ref::<h2::Error>().is_some_and(refused)
}

impl Failure for Error {
    fn may_pass(&self) -> bool {
        self.may_pass()
    }

    fn is_unseen(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_proves_that_nothing_was_done() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            let of = |effect| Error::of_call(effect, "a:1", &Status::new(code, "text"));
            let is_refusal = matches!(number, 3 | 5 | 6 | 7 | 8 | 9 | 12 | 16);
            assert_eq!(of(Effect::Write).may_be_done(), !is_refusal, "{code:?}");
            assert!(!of(Effect::Read).may_be_done(), "{code:?}");
        }
    }
}
