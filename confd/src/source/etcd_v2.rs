//! The v2 API of etcd up to 3.5, and of Cleat: a tree of files and directories.
//!
//! As in confd 0.16, a key that is not there is an error of who wants it, and a directory without files is none. Watching
//! keeps a copy of the tree below each range; confd asks for all keys again after each change.

use super::mirror::{Ended, Failure, Follower, News};
use super::{Entries, ReadError, Store, text};
use crate::template::Text;
use client::v2::{Change, Client, Error, Event, Get, Node, Options, code};
use client::{TlsOptions, User};
use std::collections::BTreeSet;

/// Sorted only because confd asks so; the majority's state, as it does.
const EVERYTHING: Get = Get { recursive: true, sorted: true, quorum: true };

/// A client of the store. Clones share its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct EtcdV2 {
    client: Client,
    pub(super) has_user: bool,
}

/// Adds the files of a tree and its directories. The depth is bounded by what a parser of JSON takes.
fn add(node: &Node, entries: &mut Entries, directories: &mut BTreeSet<Text>) {
    if node.dir {
        directories.insert(text(node.key.as_bytes()));
    } else if let Some(value) = &node.value {
        entries.insert(text(node.key.as_bytes()), text(value.as_bytes()));
    }
    for child in &node.nodes {
        add(child, entries, directories);
    }
}

/// The directories of a key, those within a range.
fn parents<'k>(key: &'k str, range: &'k str) -> impl Iterator<Item = Text> + use<'k> {
    let ends = key.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    ends.filter(|at| *at + 1 >= range.len()).map(|at| text(&key.as_bytes()[..at]))
}

/// What an event does to a range.
fn news(event: &Event, range: &str) -> Vec<News> {
    let key = event.node.key.as_str();
    let here = text(key.as_bytes());
    if matches!(event.action.as_str(), "delete" | "expire" | "compareAndDelete") {
        // A directory above may be gone with all of the range.
        let is_above = range.starts_with(&format!("{}/", key.trim_end_matches('/')));
        let gone = if is_above { text(range.trim_end_matches('/').as_bytes()) } else { here };
        return vec![News::AllDeleted(gone)];
    }
    let mut news: Vec<News> = parents(key, range).map(News::Directory).collect();
    match &event.node.value {
        _ if event.node.dir => news.push(News::Directory(here)),
        Some(value) => news.push(News::Put(here, text(value.as_bytes()))),
        None => {}
    }
    news
}

impl EtcdV2 {
    pub(super) fn new(nodes: &[String], tls: Option<TlsOptions>, user: Option<User>) -> Result<Self, String> {
        let has_user = user.is_some();
        let options = Options { endpoints: nodes.to_vec(), tls, user, ..Options::default() };
        Ok(Self { client: Client::new(&options).map_err(|error| error.to_string())?, has_user })
    }

    /// The wanted keys and what is below them.
    pub(super) async fn read(&self, keys: &[String]) -> Result<Entries, ReadError> {
        let mut entries = Entries::new();
        for key in keys {
            match self.client.get(key, EVERYTHING).await {
                Ok(response) => add(&response.event.node, &mut entries, &mut BTreeSet::new()),
                Err(error) if error.is(code::KEY_NOT_FOUND) => return Err(ReadError::Known(missing(key))),
                Err(error) => return Err(error.to_string().into()),
            }
        }
        Ok(entries)
    }

    /// True if the store answers, and be it that this key is not there or not for this user.
    pub(super) async fn answers(&self, key: &str) -> bool {
        match self.client.get(key, Get { quorum: true, ..Get::default() }).await {
            Ok(_) => true,
            Err(Error::Answered { status, .. } | Error::Refused { status, .. }) => status < 500,
            Err(_) => false,
        }
    }

    /// Reads a range and watches it until the store cannot tell what came next.
    pub(super) async fn follow(&self, follower: &Follower) -> Ended {
        let name = match follower.range.trim_end_matches('/') {
            "" => "/",
            name => name,
        };
        let (mut entries, mut directories) = (Entries::new(), BTreeSet::new());
        let index = match self.client.get(name, EVERYTHING).await {
            Ok(response) => {
                add(&response.event.node, &mut entries, &mut directories);
                response.index
            }
            Err(Error::Answered { code: code::KEY_NOT_FOUND, index, .. }) => index,
            Err(error) => return Ended::Unread(Failure { is_refused: is_refused(&error), error: error.to_string() }),
        };
        if let Err(unheard) = follower.read(entries, directories).await {
            return unheard.into();
        }
        let mut watch = self.client.watch(name, true, Some(index));
        loop {
            let told = match watch.next().await {
                Ok(Change::Event(event)) => follower.apply(news(&event, &follower.range)).await,
                Ok(Change::Present(present)) => {
                    let (mut entries, mut directories) = (Entries::new(), BTreeSet::new());
                    if let Some(present) = present {
                        add(&present.event.node, &mut entries, &mut directories);
                    }
                    follower.read(entries, directories).await.map(|_| ())
                }
                Err(error) => return Ended::Lost(error.to_string()),
            };
            if let Err(unheard) = told {
                return unheard.into();
            }
        }
    }
}

/// True if the server has decided that this client may not read.
fn is_refused(error: &Error) -> bool {
    match error {
        Error::Answered { status, .. } | Error::Refused { status, .. } => (400..500).contains(status),
        _ => false,
    }
}

/// etcd's words, and what a configuration that was written for the other API has to say instead.
pub(super) fn missing(key: &str) -> String {
    format!(
        "100: Key not found ({key}); this is the v2 API, as with confd 0.16: keys of the v3 API are read with -backend etcdv3"
    )
}

impl From<EtcdV2> for Store {
    fn from(etcd: EtcdV2) -> Self {
        Self::V2(etcd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents_of(key: &str, range: &str) -> Vec<String> {
        parents(key, range).map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
    }

    #[test]
    fn directories_of_a_key_are_those_of_the_range() {
        assert_eq!(parents_of("/a/b/c", "/"), ["/a", "/a/b"]);
        assert_eq!(parents_of("/a/b/c", "/a/"), ["/a", "/a/b"]);
        assert_eq!(parents_of("/a/b/c", "/a/b/"), ["/a/b"]);
        assert_eq!(parents_of("/a", "/a/"), Vec::<String>::new());
    }
}
