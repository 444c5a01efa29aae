//! The calls about keys.

use super::client::Client;
use super::error::Error;
use super::node::{Event, Response};
use crate::call::Effect;
use crate::http::{Answer, Call, Server};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands in a path or a form as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &PLAIN.remove(b'/');

/// How to read a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get {
    /// All of the tree below a directory, not only its children.
    pub recursive: bool,
    /// Children in the order of their keys.
    pub sorted: bool,
    /// What a majority agrees on, not only what the asked member knows.
    pub quorum: bool,
}

/// When a write is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// In any case.
    #[default]
    Any,
    /// If the key is there.
    Exists,
    /// If it is not.
    Absent,
    /// If the file has this value, and this index of its last change, as far as they are given.
    Matches {
        /// Not empty: the API cannot compare with an empty value.
        value: Option<String>,
        /// Greater than 0.
        index: Option<u64>,
    },
}

/// What to write to a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The value of a file.
    pub value: Option<String>,
    /// Make a directory, or set the time of one.
    pub dir: bool,
    /// Seconds until it expires; None for never.
    pub ttl: Option<u64>,
    /// When it is written.
    pub condition: Condition,
    /// Only set the time, keep the value, and tell no watch.
    pub refresh: bool,
    /// Leave the nodes out of the answer.
    pub no_value_on_success: bool,
}

/// How to delete a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// An empty directory, too.
    pub dir: bool,
    /// Everything below a directory as well.
    pub recursive: bool,
    /// Only the value that a file must have. Not empty.
    pub value: Option<String>,
    /// The index of its last change that a file must have. Greater than 0.
    pub index: Option<u64>,
}

impl Client {
    /// Reads a key.
    ///
    /// # Errors
    /// As every call: [`Error::Answered`] and the failures of connections.
    pub async fn get(&self, key: &str, options: Get) -> Result<Response, Error> {
        let flags = [("recursive", options.recursive), ("sorted", options.sorted), ("quorum", options.quorum)];
        let pairs = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, "true".to_owned()));
        self.keys(Effect::Read, Method::GET, &path(key, pairs), None).await
    }

    /// Writes a value, whatever was there before but a directory.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::may_be_done`] says whether it may have been written all the same.
    pub async fn set(&self, key: &str, value: impl Into<String> + Send) -> Result<Response, Error> {
        self.put(key, Put { value: Some(value.into()), ..Put::default() }).await
    }

    /// Writes a key.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn put(&self, key: &str, put: Put) -> Result<Response, Error> {
        let mut query = Vec::new();
        match put.condition {
            Condition::Any => {}
            Condition::Exists => query.push(("prevExist", "true".to_owned())),
            Condition::Absent => query.push(("prevExist", "false".to_owned())),
            Condition::Matches { value, index } => {
                query.extend(value.map(|value| ("prevValue", value)));
                query.extend(index.map(|index| ("prevIndex", index.to_string())));
            }
        }
        let flags = [("dir", put.dir), ("refresh", put.refresh), ("noValueOnSuccess", put.no_value_on_success)];
        query.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, "true".to_owned())));
        let form = form(put.value, put.ttl);
        self.keys(Effect::Write, Method::PUT, &path(key, query), Some(form)).await
    }

    /// Creates a file in a directory, with a name that is greater than those of all files that were created so before.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn create_in_order(&self, dir: &str, value: String, ttl: Option<u64>) -> Result<Response, Error> {
        self.keys(Effect::Write, Method::POST, &path(dir, []), Some(form(Some(value), ttl))).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn delete(&self, key: &str, delete: Delete) -> Result<Response, Error> {
        let mut query = Vec::new();
        let flags = [("dir", delete.dir), ("recursive", delete.recursive)];
        query.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, "true".to_owned())));
        query.extend(delete.value.map(|value| ("prevValue", value)));
        query.extend(delete.index.map(|index| ("prevIndex", index.to_string())));
        self.keys(Effect::Write, Method::DELETE, &path(key, query), None).await
    }

    async fn keys(&self, effect: Effect, method: Method, path: &str, form: Option<String>) -> Result<Response, Error> {
        let (answer, server) = self.call(effect, &Call::new(method, path.to_owned(), form)).await?;
        response(&server, &answer)
    }
}

/// Reads an answer about a key.
pub(super) fn response(server: &Server, answer: &Answer) -> Result<Response, Error> {
    let event = Error::or_answer::<Event>(server, answer, "event")?;
    let index = answer.number("x-etcd-index").unwrap_or(event.node.modified_index);
    Ok(Response { event, index })
}

/// A name as one part of a path, whatever is in it.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, PLAIN).to_string()
}

/// The path of a key, with a query.
pub(super) fn path<'a>(key: &str, query: impl IntoIterator<Item = (&'a str, String)>) -> String {
    // To the root itself, as etcd's own client does: behind a slash it is a key to who checks permissions.
    let slash = if key.is_empty() { "" } else { "/" };
    let mut path = format!("/v2/keys{slash}{}", utf8_percent_encode(key.trim_start_matches('/'), PATH));
    for (index, (name, value)) in query.into_iter().enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.extend([name, "="]);
        path.extend(utf8_percent_encode(&value, PLAIN));
    }
    path
}

fn form(value: Option<String>, ttl: Option<u64>) -> String {
    let value = value.map(|value| format!("value={}", utf8_percent_encode(&value, PLAIN)));
    let ttl = ttl.map(|ttl| format!("ttl={ttl}"));
    value.into_iter().chain(ttl).collect::<Vec<_>>().join("&")
}

#[test]
fn keys_and_values_are_encoded() {
    assert_eq!(path("/a b/\u{fc}?", [("prevValue", "x&y".to_owned())]), "/v2/keys/a%20b/%C3%BC%3F?prevValue=x%26y");
    assert_eq!(path("", []), "/v2/keys");
    assert_eq!(path("/", []), "/v2/keys/");
    assert_eq!(segment("bob?x/../y%#"), "bob%3Fx%2F..%2Fy%25%23");
    assert_eq!(form(Some("1+1 %".to_owned()), Some(5)), "value=1%2B1%20%25&ttl=5");
    assert_eq!(form(None, None), "");
}
