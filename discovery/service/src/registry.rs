//! Tokens and registrations in the store, and the only place that knows their keys:
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size        number of members
//! /_etcd/registry/TOKEN/members/MEMBER      NAME=PEER_URL,...
//! /_etcd/registry/_created/SECONDS/TOKEN    when a token was made, for its removal
//! /_etcd/registry/_health                   written by health checks
//! ```
//!
//! The first two are where members that use etcd's v3 discovery look, so one cluster can serve both protocols. Every
//! change is one transaction that is guarded by what was read before, so any number of instances may run on one store.
//!
//! Removal compares the time in `_created` with the clock. Leases would do it without a clock and without a scan, but
//! etcd gives a lease its whole time again whenever its leader changes or restarts, and a week is longer than most
//! leaders last; and a changed `--max-age` would not reach tokens that exist. Two instances that remove the same token
//! at once do no harm: the second finds nothing.

use crate::v2::{Error, Event, Node, ROOT};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::response_op::Response as Answer;
use api::etcdserverpb::{Compare, RangeRequest, RequestOp, TxnRequest, TxnResponse};
use api::mvccpb::KeyValue;
use client::message::{self, op};
use client::{Client, Watch, WatchOptions};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest cluster that a token can be for. Raft is slow long before.
pub(crate) const MAX_SIZE: usize = 100;

/// Tries of a guarded change. Each failed try means that another member has registered or gone, which happens at most
/// as often as members start at once.
const MAX_TRIES: usize = 2 * MAX_SIZE;

/// Tokens removed in one step.
const GC_PAGE: i64 = 100;

/// A token as 32 hexadecimal digits. What does not look like one cannot exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(String);

impl Token {
    /// A new one. 128 random bits are a secret: who knows a token may change its registrations.
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 32 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// The path of its directory.
    pub(crate) fn path(&self) -> String {
        format!("{ROOT}/{}", self.0)
    }

    /// The path of a member's registration.
    pub(crate) fn member_path(&self, member: &str) -> String {
        format!("{ROOT}/{}/{member}", self.0)
    }

    /// The path of the size.
    pub(crate) fn size_path(&self) -> String {
        self.member_path("_config/size")
    }

    fn members_key(&self) -> String {
        self.member_path("members/")
    }

    fn member_key(&self, member: &str) -> String {
        self.member_path(&format!("members/{member}"))
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The token and the member that a key in the store registers.
pub(crate) fn registration(key: &[u8]) -> Option<(Token, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?.strip_prefix('/')?;
    let (token, member) = rest.split_once("/members/")?;
    Some((Token::parse(token)?, member))
}

/// Everything about a token, as it was at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    pub(crate) revision: i64,
    size: KeyValue,
    /// Member and registration.
    members: Vec<(String, KeyValue)>,
}

impl Entry {
    /// The node of the directory, with the members in the order of their registration.
    pub(crate) fn node(&self) -> Node {
        let mut members = self.registrations();
        members.sort_by_key(|node| node.created_index);
        Node::dir(self.token.path(), members, self.size.create_revision)
    }

    /// The node of the size.
    pub(crate) fn size_node(&self) -> Node {
        Node::file(self.token.size_path(), &self.size)
    }

    /// The node of a member.
    pub(crate) fn member(&self, member: &str) -> Option<Node> {
        let (_, kv) = self.members.iter().find(|(name, _)| name == member)?;
        Some(Node::file(self.token.member_path(member), kv))
    }

    /// The nodes of all members.
    pub(crate) fn registrations(&self) -> Vec<Node> {
        self.members.iter().map(|(member, kv)| Node::file(self.token.member_path(member), kv)).collect()
    }

    /// Members that the token is for.
    fn size(&self) -> usize {
        std::str::from_utf8(&self.size.value).ok().and_then(|size| size.parse().ok()).unwrap_or(MAX_SIZE)
    }
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    client: Client,
}

impl Registry {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes a token for a number of members.
    pub(crate) async fn create(&self, size: usize) -> Result<Token, client::Error> {
        let token = Token::random();
        let size_key = token.size_path();
        let request = TxnRequest {
            compare: vec![message::is_absent(size_key.clone())],
            success: vec![
                op::put(message::put(size_key, size.to_string())),
                op::put(message::put(created_key(unix_seconds(), token.0.as_str()), "")),
            ],
            failure: Vec::new(),
        };
        // Two equal tokens are no case that anybody has to handle; the guard only makes that harmless.
        self.client.txn(request).await?;
        Ok(token)
    }

    /// Reads a token; the error of the second kind carries the store's revision.
    pub(crate) async fn read(&self, token: &Token) -> Result<Result<Entry, i64>, client::Error> {
        let answer = self.client.range(message::get_prefix(token.member_path(""))).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let (mut size, mut members) = (None, Vec::new());
        for kv in answer.kvs {
            match registration(&kv.key) {
                Some((_, member)) => members.push((member.to_owned(), kv)),
                None if kv.key == token.size_path().as_bytes() => size = Some(kv),
                None => {}
            }
        }
        Ok(size.map(|size| Entry { token: token.clone(), revision, size, members }).ok_or(revision))
    }

    /// Registers a member; `is_new` refuses one that has registered.
    pub(crate) async fn register(
        &self,
        token: &Token,
        member: &str,
        value: &str,
        is_new: bool,
    ) -> Result<(Event, i64), Error> {
        let (key, path) = (token.member_key(member), token.member_path(member));
        // After a write whose fate is not known, a registration with this value is the one that was asked for: an error
        // would end the member, and "already exists" would end it at its next start.
        let mut may_be_done = false;
        for _ in 0..MAX_TRIES {
            let entry = self.entry(token).await?;
            let old = entry.member(member);
            match &old {
                Some(node) if may_be_done && node.value.as_deref() == Some(value) => {
                    return Ok((Event::create(node.clone()), node.modified_index));
                }
                Some(_) if is_new => return Err(Error::exists(path, entry.revision)),
                None if entry.members.len() >= entry.size() => return Err(Error::full(entry.size(), entry.revision)),
                _ => {}
            }
            let put = op::put(message::put(key.clone(), value.to_owned()));
            match self.change(&entry, member, put).await {
                Ok(Some(revision)) => {
                    let kv = KeyValue { value: value.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
                    let node = Node::file(path, &kv);
                    return Ok((if is_new { Event::create(node) } else { Event::set(node, old) }, revision));
                }
                Ok(None) => {}
                Err(error) if error.may_be_done() && !may_be_done => may_be_done = true,
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(Error::unavailable("too many members register at once"))
    }

    /// Removes a registration.
    pub(crate) async fn remove(&self, token: &Token, member: &str) -> Result<(Event, i64), Error> {
        for _ in 0..MAX_TRIES {
            let entry = self.entry(token).await?;
            let Some(old) = entry.member(member) else {
                return Err(Error::not_found(token.member_path(member), entry.revision));
            };
            let delete = op::delete(message::delete(token.member_key(member)));
            if let Some(revision) = self.change(&entry, member, delete).await.map_err(|error| failed(&error))? {
                return Ok((Event::delete(old, revision), revision));
            }
        }
        Err(Error::unavailable("too many members change at once"))
    }

    /// A token that must exist.
    pub(crate) async fn entry(&self, token: &Token) -> Result<Entry, Error> {
        match self.read(token).await {
            Ok(Ok(entry)) => Ok(entry),
            Ok(Err(revision)) => Err(Error::not_found(token.path(), revision)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Does one operation about a member if no member has registered or changed since the token was read; None if one
    /// has. That another has gone does not matter.
    async fn change(&self, entry: &Entry, member: &str, operation: RequestOp) -> Result<Option<i64>, client::Error> {
        let (key, range_end) = message::prefix_range(entry.token.members_key());
        let none_newer = Compare {
            result: CompareResult::Less.into(),
            target: CompareTarget::Mod.into(),
            key,
            range_end,
            target_union: Some(TargetUnion::ModRevision(entry.revision + 1)),
        };
        let own = entry.member(member).map_or(0, |node| node.modified_index);
        let compare = vec![
            message::modified_at(entry.token.size_path(), entry.size.mod_revision),
            message::modified_at(entry.token.member_key(member), own),
            none_newer,
        ];
        let request = TxnRequest { compare, success: vec![operation], failure: Vec::new() };
        let answer = self.client.txn(request).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.succeeded.then_some(revision))
    }

    /// Removes the tokens that are older than `max_age`, and returns how many.
    pub(crate) async fn collect(&self, max_age: Duration) -> Result<u64, client::Error> {
        let oldest = unix_seconds().saturating_sub(max_age.as_secs());
        let mut removed = 0;
        loop {
            let request = RangeRequest {
                key: created_key(0, "").into(),
                range_end: created_key(oldest, "").into(),
                limit: GC_PAGE,
                keys_only: true,
                ..RangeRequest::default()
            };
            let page = self.client.range(request).await?;
            for kv in &page.kvs {
                removed += self.expire(&kv.key).await?;
            }
            if !page.more {
                return Ok(removed);
            }
        }
    }

    /// Removes the token of a key under `_created`, if it is still there.
    async fn expire(&self, created: &[u8]) -> Result<u64, client::Error> {
        let created = created.to_vec();
        let token = String::from_utf8_lossy(&created).rsplit('/').next().and_then(Token::parse);
        let mut success = vec![op::delete(message::delete(created))];
        if let Some(token) = token {
            success.push(op::delete(message::delete_prefix(token.member_path(""))));
        }
        let answer = self.client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok(u64::from(deleted_first(&answer)))
    }

    /// Writes a key, as a token that is made does.
    pub(crate) async fn check(&self) -> Result<(), client::Error> {
        self.client.put(message::put(format!("{ROOT}/_health"), "")).await?;
        Ok(())
    }

    /// The store's revision.
    pub(crate) async fn revision(&self) -> Result<i64, client::Error> {
        let answer = self.client.range(message::get(format!("{ROOT}/_health"))).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Watches all tokens from a revision on.
    pub(crate) async fn watch(&self, start_revision: i64) -> Result<Watch, client::Error> {
        let (key, range_end) = message::prefix_range(format!("{ROOT}/"));
        let options = WatchOptions { key, range_end, start_revision, prev_kv: true, progress_notify: true };
        self.client.watch(options).await
    }
}

/// A failure of the store as members are told it.
pub(crate) fn failed(error: &client::Error) -> Error {
    tracing::warn!(%error, "the store did not answer");
    Error::unavailable("the store of the discovery service does not answer")
}

fn created_key(unix_seconds: u64, token: &str) -> String {
    // Twenty digits hold any number, so that the order of keys is the order of times.
    format!("{ROOT}/_created/{unix_seconds:020}/{token}")
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn deleted_first(answer: &TxnResponse) -> bool {
    let first = answer.responses.first().and_then(|response| response.response.as_ref());
    matches!(first, Some(Answer::ResponseDeleteRange(delete)) if delete.deleted > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_32_lower_case_digits() {
        let token = Token::random();
        assert_eq!(Token::parse(&token.to_string()), Some(token));
        for text in ["", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde", "../..", "_created"] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }

    #[test]
    fn keys_of_registrations() {
        let token = Token::parse("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(registration(token.member_key("ab").as_bytes()), Some((token.clone(), "ab")));
        for key in [token.size_path(), created_key(1, &token.0), format!("{ROOT}/x/members/ab"), "/other".to_owned()] {
            assert_eq!(registration(key.as_bytes()), None, "{key}");
        }
        assert!(created_key(9, "f") < created_key(10, ""));
    }
}
