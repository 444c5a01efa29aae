//! etcd's v2 events and errors, as far as members of a starting cluster see them.

use api::mvccpb::KeyValue;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// What the keys of all nodes begin with. Members only look at the last part, but logs are easier to compare when it
/// is what the other services answer, and what is stored.
pub(crate) const ROOT: &str = "/_etcd/registry";

/// Name of the header with the store's revision.
const INDEX_HEADER: &str = "x-etcd-index";

/// A node of the tree. The order of fields is etcd's.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) dir: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<Self>,
    #[serde(rename = "modifiedIndex")]
    pub(crate) modified_index: i64,
    #[serde(rename = "createdIndex")]
    pub(crate) created_index: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Node {
    /// A file. Both indexes are the revision of the last write: v2's `set` makes a new node, and there is no other
    /// way here to write a key that exists.
    pub(crate) fn file(key: String, kv: &KeyValue) -> Self {
        let value = Some(String::from_utf8_lossy(&kv.value).into_owned());
        Self {
            key,
            value,
            dir: false,
            nodes: Vec::new(),
            modified_index: kv.mod_revision,
            created_index: kv.mod_revision,
        }
    }

    /// A directory, made at this revision.
    pub(crate) fn dir(key: String, nodes: Vec<Self>, revision: i64) -> Self {
        Self { key, value: None, dir: true, nodes, modified_index: revision, created_index: revision }
    }
}

/// What happened to a node.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) action: &'static str,
    pub(crate) node: Node,
    #[serde(rename = "prevNode", skip_serializing_if = "Option::is_none")]
    pub(crate) prev_node: Option<Node>,
}

impl Event {
    /// What a read answers.
    pub(crate) fn get(node: Node) -> Self {
        Self { action: "get", node, prev_node: None }
    }

    /// A registration that must not replace one.
    pub(crate) fn create(node: Node) -> Self {
        Self { action: "create", node, prev_node: None }
    }

    /// A registration that may replace one.
    pub(crate) fn set(node: Node, prev_node: Option<Node>) -> Self {
        Self { action: "set", node, prev_node }
    }

    /// The end of a registration.
    pub(crate) fn delete(prev_node: Node, revision: i64) -> Self {
        let node = Node { value: None, modified_index: revision, ..prev_node.clone() };
        Self { action: "delete", node, prev_node: Some(prev_node) }
    }

    /// The line that is the body of an answer.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("invariant: an event has only text keys");
        line.push('\n');
        line
    }

    /// The answer, made at a revision of the store.
    pub(crate) fn answer(&self, status: StatusCode, index: i64) -> Response {
        json(status, index, self.line().into())
    }
}

/// An answer with v2's headers.
pub(crate) fn json(status: StatusCode, index: i64, body: Body) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(INDEX_HEADER, HeaderValue::from(index));
    response
}

/// An error as etcd's v2 API writes it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Error {
    #[serde(skip)]
    status: StatusCode,
    #[serde(rename = "errorCode")]
    code: u16,
    message: &'static str,
    cause: String,
    /// The store's revision; 0 if it was not asked.
    index: i64,
}

impl Error {
    fn new(status: StatusCode, code: u16, message: &'static str, cause: impl Into<String>, index: i64) -> Self {
        Self { status, code, message, cause: cause.into(), index }
    }

    pub(crate) fn not_found(key: impl Into<String>, index: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, 100, "Key not found", key, index)
    }

    pub(crate) fn not_a_file(key: String, index: i64) -> Self {
        Self::new(StatusCode::FORBIDDEN, 102, "Not a file", key, index)
    }

    /// The number and the text are those that etcd had while members registered in it directly.
    pub(crate) fn full(size: usize, index: i64) -> Self {
        let cause = format!("the token is for {size} members, and all have registered");
        Self::new(StatusCode::FORBIDDEN, 103, "Reached the max number of peers in the cluster", cause, index)
    }

    pub(crate) fn exists(key: String, index: i64) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, 105, "Key already exists", key, index)
    }

    pub(crate) fn bad_index(field: &str) -> Self {
        let cause = format!("invalid value for \"{field}\"");
        Self::new(StatusCode::BAD_REQUEST, 203, "The given index in POST form is not a number", cause, 0)
    }

    pub(crate) fn invalid_field(cause: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 209, "Invalid field", cause, 0)
    }

    pub(crate) fn invalid_form(cause: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 210, "Invalid POST form", cause, 0)
    }

    /// The store cannot be asked, or did not do what it was asked. Members try again after a status of 5xx.
    pub(crate) fn unavailable(cause: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 300, "Raft Internal Error", cause, 0)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut body = serde_json::to_string(&self).expect("invariant: an error has only text keys");
        body.push('\n');
        json(self.status, self.index, body.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &'static str, mod_revision: i64) -> KeyValue {
        KeyValue { value: value.into(), mod_revision, create_revision: 3, ..KeyValue::default() }
    }

    /// What Debian's discovery service answers to the same requests.
    #[test]
    fn events_are_written_as_etcd_writes_them() {
        let old = Node::file("/t/aa".to_owned(), &kv("a=http://a", 11));
        let new = Node::file("/t/aa".to_owned(), &kv("b=http://b", 12));
        let cases = [
            (
                Event::get(Node::dir("/t".to_owned(), vec![new.clone()], 10)),
                r#"{"action":"get","node":{"key":"/t","dir":true,"nodes":[{"key":"/t/aa","value":"b=http://b","modifiedIndex":12,"createdIndex":12}],"modifiedIndex":10,"createdIndex":10}}"#,
            ),
            (
                Event::create(old.clone()),
                r#"{"action":"create","node":{"key":"/t/aa","value":"a=http://a","modifiedIndex":11,"createdIndex":11}}"#,
            ),
            (
                Event::set(new.clone(), Some(old)),
                r#"{"action":"set","node":{"key":"/t/aa","value":"b=http://b","modifiedIndex":12,"createdIndex":12},"prevNode":{"key":"/t/aa","value":"a=http://a","modifiedIndex":11,"createdIndex":11}}"#,
            ),
            (
                Event::delete(new, 13),
                r#"{"action":"delete","node":{"key":"/t/aa","modifiedIndex":13,"createdIndex":12},"prevNode":{"key":"/t/aa","value":"b=http://b","modifiedIndex":12,"createdIndex":12}}"#,
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(event.line(), format!("{expected}\n"));
        }
        let error = serde_json::to_string(&Error::exists("/t/aa".to_owned(), 11)).unwrap();
        assert_eq!(error, r#"{"errorCode":105,"message":"Key already exists","cause":"/t/aa","index":11}"#);
    }
}
