//! How a command ends without success: what is printed, and the exit code that scripts look at.

use client::{Error, Oversize};

/// etcdctl's exit codes.
pub(crate) mod code {
    /// The server refused, or could not be reached.
    pub(crate) const ERROR: u8 = 1;
    /// No connection or session could be made.
    pub(crate) const BAD_CONNECTION: u8 = 2;
    /// A panic of etcdctl, where it has one: what Go's runtime ends a program with.
    pub(crate) const PANIC: u8 = 2;
    /// Of `txn`, `watch` and `check`: what they were given to read.
    pub(crate) const INVALID_INPUT: u8 = 3;
    /// A flag's value that is not supported.
    pub(crate) const BAD_FEATURE: u8 = 4;
    /// It ended before it was done.
    pub(crate) const INTERRUPTED: u8 = 5;
    /// A number of arguments, or an argument, that cannot be.
    pub(crate) const BAD_ARGS: u8 = 128;
    /// Nobody reads the output any more. A shell says so of a program that SIGPIPE ended, as it ends etcdctl.
    pub(crate) const BROKEN_PIPE: u8 = 128 + 13;
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Printed behind `Error: `; None if everything is said already.
    pub(crate) text: Option<String>,
    /// The failed call, for whoever says more about it than etcdctl does.
    pub(crate) call: Option<Box<Error>>,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: Some(text.into()), call: None }
    }

    /// A number of arguments, or an argument, that cannot be.
    pub(crate) fn bad_args(text: impl Into<String>) -> Self {
        Self::new(code::BAD_ARGS, text)
    }

    /// Nothing more is printed.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, text: None, call: None }
    }

    /// The same with another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same with the text put into another one.
    pub(crate) fn map_text(mut self, map: impl FnOnce(String) -> String) -> Self {
        self.text = self.text.map(map);
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: code::ERROR, text: Some(text_of(&error)), call: Some(Box::new(error)) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(code::ERROR, whole(&error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(code::ERROR, without_numbers(&error.to_string()))
    }
}

/// An error with its causes. Some tell them themselves: nothing is said twice.
pub(crate) fn whole(error: &anyhow::Error) -> String {
    let whole = error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.ends_with(&cause) => text,
        cause => format!("{text}: {cause}"),
    });
    without_numbers(&whole)
}

/// A text without the numbers of the system's errors, whose names stand before them.
pub(crate) fn without_numbers(text: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut parts = text.split(BEGIN);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, part| match part.split_once(')') {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => before + rest,
        _ => before + BEGIN + part,
    })
}

/// etcdctl's words for a failed call: the server's text, or that time ran out.
pub(crate) fn text_of(error: &Error) -> String {
    match error {
        Error::Answered { code, text, .. } => {
            // Clients know the errors of the API by this beginning; the others are gRPC's.
            let is_known =
                text.starts_with("etcdserver: ") && api::error::Error::ALL.iter().any(|known| known.text() == text);
            if is_known { text.clone() } else { format!("rpc error: code = {} desc = {text}", name_of(*code as i32)) }
        }
        Error::Unreachable { .. } | Error::Lost { .. } | Error::Timeout { .. } => {
            "context deadline exceeded".to_owned()
        }
        Error::TooLarge { message, bytes, limit, .. } => {
            let what = match message {
                Oversize::Request => "trying to send message larger than max",
                Oversize::Answer(_) => "grpc: received message larger than max",
            };
            format!("rpc error: code = ResourceExhausted desc = {what} ({bytes} vs. {limit})")
        }
        Error::Compacted { .. } => api::error::Error::Compacted.text().to_owned(),
        Error::WatchCanceled { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// gRPC's names of its codes, as Go prints them.
fn name_of(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::{whole, without_numbers};
    use anyhow::anyhow;

    #[test]
    fn nothing_is_said_twice() {
        let error = anyhow!("no such file").context("cannot read a: no such file").context("cannot restore a");
        assert_eq!(whole(&error), "cannot restore a: cannot read a: no such file");
        assert_eq!(whole(&anyhow!("no such file").context("cannot read a")), "cannot read a: no such file");
    }

    #[test]
    fn systems_errors_have_names_alone() {
        assert_eq!(without_numbers("a: No such file (os error 2); b: Full (os error 28)"), "a: No such file; b: Full");
        assert_eq!(without_numbers("a (os error x) b (os error "), "a (os error x) b (os error ");
    }
}
