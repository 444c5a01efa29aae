//! The only place that builds a `tonic::Status`: from the table of etcd's errors, and from what gRPC itself asks for.

use crate::node::Node;
use api::error::Error;
use store::{Fault, ReadError};
use tonic::{Code, Status};

/// The status of an error of the table.
pub(crate) fn status(error: Error) -> Status {
    Status::new(Code::from_i32(error.code() as i32), error.text())
}

/// An error as text within an answer, in the words of grpc-go: why a watcher was canceled.
pub(crate) fn as_text(error: Error) -> String {
    // Go's names are Rust's for all that can end a watcher.
    format!("rpc error: code = {:?} desc = {}", error.code(), error.text())
}

/// The status of a failed read. A fault is logged and reported to the operator, and the client learns only that this
/// member can not answer.
pub(crate) fn read_status(error: ReadError) -> Status {
    match error {
        ReadError::Rejected(rejection) => status(rejection),
        ReadError::Fault(fault) => fault_status(&fault),
    }
}

/// The status of a broken member.
pub(crate) fn fault_status(fault: &Fault) -> Status {
    tracing::error!(error = %fault, "cannot read the store");
    status(Error::Corrupt)
}

/// An operation that failed for a reason of this machine, in its own words.
pub(crate) fn failed(reason: impl Into<String>) -> Status {
    Status::new(Code::Internal, reason)
}

/// A refusal in the words of this product, for callers that are members.
pub(crate) fn refused(code: Code, reason: impl Into<String>) -> Status {
    Status::new(code, reason)
}

/// An error of the Lock and Election services. etcd's are clients of their own server, and their errors lose the code on
/// the way.
pub(crate) fn without_code(text: impl Into<String>) -> Status {
    Status::new(Code::Unknown, text)
}

/// A call that this release does not serve.
pub(crate) fn unimplemented(what: &str) -> Status {
    Status::new(Code::Unimplemented, what)
}

/// Logs a panic-free invariant that a reply did not keep: the store answered one command with another's reply.
pub(crate) fn mismatched(node: &Node) -> Status {
    tracing::error!(member_id = format_args!("{:x}", node.identity().member_id), "a reply does not fit its command");
    failed("the reply does not fit the command")
}
