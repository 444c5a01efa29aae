//! The JSON gateway as clients see it: the same bodies to etcd 3.4 and to Cleat, streams, limits, and who is let in.
//!
//! Where etcd's releases differ, Cleat does what 3.6 does; a case then says what 3.4 answers instead.

mod access;
mod answers;
mod limits;
mod streams;

use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use harness::{Kind, Options, Server};
use serde_json::{Map, Value, json};

/// Both servers, empty.
struct Pair {
    etcd: Server,
    cleat: Server,
}

impl Pair {
    async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    async fn start_with(flags: &[&str]) -> Result<Self> {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let options = Options { flags, ..Options::default() };
        let (etcd, cleat) =
            tokio::join!(Server::start_with(Kind::Etcd, options.clone()), Server::start_with(Kind::Cleat, options));
        Ok(Self { etcd: etcd?, cleat: cleat? })
    }

    /// Posts a body to both. Etcd's answer comes first.
    async fn post(&self, path: &str, body: &str) -> Result<[Answer; 2]> {
        let (etcd, cleat) = (self.etcd.endpoint(), self.cleat.endpoint());
        let (etcd, cleat) =
            tokio::join!(http::post(&etcd, path, body.to_owned()), http::post(&cleat, path, body.to_owned()));
        Ok([
            etcd.with_context(|| format!("etcd: {path} {body}"))?,
            cleat.with_context(|| format!("cleat: {path} {body}"))?,
        ])
    }
}

/// Replaces what must differ between two servers by what it is.
fn normalised(mut value: Value) -> Value {
    normalise(&mut value);
    value
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_member = members.contains_key("peerURLs");
            for (name, member) in members.iter_mut() {
                match name.as_str() {
                    "ID" if is_member => *member = json!("a member"),
                    "cluster_id" | "member_id" | "raft_term" | "leader" | "raftIndex" | "raftTerm"
                    | "raftAppliedIndex" | "dbSize" | "dbSizeInUse" | "version" | "name" | "peerURLs"
                    | "clientURLs"
                        if *member != json!("0") =>
                    {
                        *member = json!(format!("a {}", kind(member)));
                    }
                    _ => normalise(member),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// The type of a value; strings with numbers are a type of their own.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(text) if text.parse::<u64>().is_ok() => "number in a string",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Number(_) => "number",
        _ => "something else",
    }
}

fn object(value: &mut Value) -> Result<&mut Map<String, Value>> {
    value.as_object_mut().context("an object")
}

/// Checks an error's form and gives its code and text.
fn error_of(answer: &Answer) -> Result<(i64, String)> {
    let body = answer.json()?;
    ensure!(answer.header("content-type") == "application/json", "{answer:?}");
    ensure!(body["error"] == body["message"], "{body}");
    let code = body["code"].as_i64().with_context(|| format!("no code: {body}"))?;
    Ok((code, body["message"].as_str().context("a text")?.to_owned()))
}
