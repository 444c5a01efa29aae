//! What is asked, and how it is shown.
//!
//! Texts have placeholders for what is known only while running, so that a sequence stays meaningful when steps are
//! taken out of it: `@I-3@` is the index of the store less three, `@M/a/b@` the modified index of a key, `@V/a/b@` its
//! value, as etcd last told them, `@U@` the id of the member and
//! `@P@` its peer URL.

use super::world::World;
use std::fmt::{Display, Formatter};

const SHOWN_BYTES: usize = 200;

/// What only one of the servers is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub(crate) member: String,
    pub(crate) peer_url: String,
}

impl Own {
    fn fill(&self, text: &str) -> String {
        text.replace("@U@", &self.member).replace("@P@", &self.peer_url)
    }
}

/// One request, in the bytes that are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Sent with its length, unless there is none.
    pub(crate) body: Option<Vec<u8>>,
}

/// A step of a sequence.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A request whose answer is compared.
    Ask(Request),
    /// Requests at the same time. They are such that each server answers them the same, in some order.
    Race(Vec<Request>),
    /// A request on a connection of its own. Its head is compared at once, the body whenever all have settled.
    Watch { slot: usize, request: Request },
    /// Ends a watch from this side.
    Leave { slot: usize },
    /// Keys that expire soon, set one after the other, and the wait until they are gone.
    Expire { requests: Vec<Request>, keys: Vec<String> },
    /// Waits for what watches are owed, and compares it.
    Settle,
}

impl Request {
    pub(crate) fn new(method: &str, target: impl Into<String>) -> Self {
        Self { method: method.to_owned(), target: target.into(), headers: Vec::new(), body: None }
    }

    /// With a body and its type.
    pub(crate) fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.headers.push(("Content-Type".to_owned(), content_type.to_owned()));
        self.body = Some(body.into());
        self
    }

    /// The bytes to send to a server, with the placeholders filled in.
    pub(crate) fn bytes(&self, world: &World, own: &Own) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, own.fill(&world.fill(&self.target)));
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let body = self.body.as_ref().map(|body| match std::str::from_utf8(body) {
            Ok(text) => own.fill(&world.fill(text)).into_bytes(),
            Err(_) => body.clone(),
        });
        if let Some(body) = &body {
            head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend(body.unwrap_or_default());
        bytes
    }

    /// True when etcd changes nothing for it.
    pub(crate) fn only_reads(&self) -> bool {
        !matches!(self.method.as_str(), "PUT" | "POST" | "DELETE")
    }

    /// The path down to its kind, for telling differences apart.
    pub(crate) fn area(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        path.split('/').take(if path.starts_with("/v2/keys") { 3 } else { 4 }).collect::<Vec<_>>().join("/")
    }

    /// True when it asks for children in order.
    pub(crate) fn is_sorted(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let sorted = query.split('&').find_map(|pair| pair.strip_prefix("sorted="));
        matches!(sorted, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        for (name, value) in &self.headers {
            write!(f, " {name}: {value}")?;
        }
        if let Some(body) = &self.body {
            let shown = &body[..body.len().min(SHOWN_BYTES)];
            write!(f, " {:?}", String::from_utf8_lossy(shown))?;
        }
        Ok(())
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ask(request) => write!(f, "{request}"),
            Self::Race(requests) => {
                write!(f, "at the same time:")?;
                requests.iter().try_for_each(|request| write!(f, "\n    {request}"))
            }
            Self::Watch { slot, request } => write!(f, "watch {slot}: {request}"),
            Self::Leave { slot } => write!(f, "leave watch {slot}"),
            Self::Expire { requests, .. } => {
                write!(f, "until it has expired:")?;
                requests.iter().try_for_each(|request| write!(f, "\n    {request}"))
            }
            Self::Settle => write!(f, "settle"),
        }
    }
}
