//! What there is to copy: the files of a v2 tree with the keys that they get.

use client::v2::{Node, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Operations of a transaction that every server takes: etcd's limit is 128.
const BATCH_KEYS: usize = 100;
/// Far below the size of a request that every server takes.
const BATCH_BYTES: usize = 512 << 10;

/// A file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its key in the source.
    pub(super) source: String,
    /// Its key in the target.
    pub(super) target: String,
    pub(super) value: String,
    /// Seconds until it, or a directory that it is in, expires, counted from when the tree was read.
    pub(super) ttl: Option<u64>,
}

/// All that is to be copied.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of their keys.
    pub(super) files: Vec<File>,
    pub(super) directories: usize,
    pub(super) empty_directories: Vec<String>,
    /// Index of the source when the tree was read.
    pub(super) index: u64,
    pub(super) read_at: Instant,
}

impl Plan {
    /// Files that go together.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[File]> {
        let mut rest = &self.files[..];
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = |file: &&File| {
                bytes += file.target.len() + file.value.len();
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(BATCH_KEYS).take_while(fits).count().max(1).min(rest.len());
            let (batch, behind) = rest.split_at(count);
            rest = behind;
            (!batch.is_empty()).then_some(batch)
        })
    }
}

/// A directory of the tree.
#[derive(Clone, Copy, Debug)]
struct Directory {
    is_empty: bool,
    /// Seconds until it, or one that it is in, expires.
    ttl: Option<u64>,
}

/// Collects a plan from answers.
#[derive(Debug)]
pub(super) struct Reader {
    /// With a slash at the beginning and none at the end; empty for the root.
    source_prefix: String,
    target_prefix: String,
    /// By key in the source: what was named twice is copied once.
    files: BTreeMap<String, File>,
    directories: BTreeMap<String, Directory>,
    /// Hidden keys that were given out to be read.
    asked: BTreeSet<String>,
    index: u64,
    /// Seconds until a directory above the prefix expires, and everything with it.
    above_ttl: Option<u64>,
    /// When the first answer came: the times in it count from there.
    read_at: Option<Instant>,
}

impl Reader {
    /// A reader of everything below a key, which gets keys below another one: the same one by default.
    pub(super) fn new(source_prefix: &str, target_prefix: Option<&str>) -> Self {
        let source_prefix = match source_prefix.trim_matches('/') {
            "" => String::new(),
            path => format!("/{path}"),
        };
        Self {
            target_prefix: target_prefix.unwrap_or(&source_prefix).to_owned(),
            source_prefix,
            files: BTreeMap::new(),
            directories: BTreeMap::new(),
            asked: BTreeSet::new(),
            index: 0,
            above_ttl: None,
            read_at: None,
        }
    }

    /// The key to read.
    pub(super) fn source_prefix(&self) -> &str {
        if self.source_prefix.is_empty() { "/" } else { &self.source_prefix }
    }

    /// The directories above the key to read: they may expire, and it with them. The root does not.
    pub(super) fn above_source(&self) -> Vec<String> {
        let above = self.source_prefix.match_indices('/').map(|(at, _)| &self.source_prefix[..at]);
        above.filter(|above| !above.is_empty()).map(str::to_owned).collect()
    }

    /// What to read next of the keys that no listing shows: they are given as paths, and as names that may be in every
    /// directory. To be called again with what was found taken, until there is nothing more.
    pub(super) fn hidden(&mut self, given: &[String]) -> Vec<String> {
        let (paths, names): (Vec<&String>, Vec<&String>) = given.iter().partition(|hidden| hidden.starts_with('/'));
        let below = |path: &&&String| path.starts_with(&format!("{}/", self.source_prefix));
        let mut keys: Vec<String> = paths.iter().filter(below).map(|path| (*path).clone()).collect();
        for directory in self.directories.keys() {
            keys.extend(names.iter().map(|name| format!("{}/{name}", directory.trim_end_matches('/'))));
        }
        keys.retain(|key| self.asked.insert(key.clone()));
        keys
    }

    /// Directories above a hidden key that were not read: they may expire, and it with them.
    pub(super) fn unknown_above(&self, key: &str) -> Vec<String> {
        let above = key.match_indices('/').map(|(at, _)| &key[..at]);
        let below_source = above.filter(|above| above.len() > self.source_prefix.len());
        below_source.filter(|above| !self.directories.contains_key(*above)).map(str::to_owned).collect()
    }

    /// Takes what was read of a directory above the key to read, after that.
    pub(super) fn take_above(&mut self, response: &Response) {
        self.above_ttl = shorter(self.above_ttl, ttl(&response.event.node));
    }

    /// Takes what was read of a key.
    pub(super) fn take(&mut self, response: Response) {
        self.read_at.get_or_insert_with(Instant::now);
        if self.index == 0 {
            self.index = response.index;
        }
        let inherited = self.ttl_above(&response.event.node.key);
        self.node(response.event.node, inherited);
    }

    /// Takes a directory without what is in it.
    pub(super) fn take_directory(&mut self, mut response: Response) {
        let key = response.event.node.key.clone();
        response.event.node.nodes.clear();
        self.take(response);
        if let Some(directory) = self.directories.get_mut(&key) {
            // It was read because of what is in it.
            directory.is_empty = false;
        }
    }

    /// The shortest time of the directories above a key.
    fn ttl_above(&self, key: &str) -> Option<u64> {
        let above = key.match_indices('/').map(|(at, _)| &key[..at]);
        above.filter_map(|above| self.directories.get(above)?.ttl).min()
    }

    fn node(&mut self, node: Node, inherited: Option<u64>) {
        let ttl = shorter(ttl(&node), inherited);
        if node.dir {
            let key = if node.key.is_empty() { "/".to_owned() } else { node.key };
            self.directories.insert(key, Directory { is_empty: node.nodes.is_empty(), ttl });
            for child in node.nodes {
                self.node(child, ttl);
            }
            return;
        }
        let rest = node.key.strip_prefix(&self.source_prefix).unwrap_or(&node.key);
        let target = format!("{}{rest}", self.target_prefix);
        let file = File { target, source: node.key.clone(), value: node.value.unwrap_or_default(), ttl };
        self.files.insert(node.key, file);
    }

    /// Everything that was taken.
    pub(super) fn finish(self) -> Plan {
        let above_ttl = self.above_ttl;
        let files = self.files.into_values().map(|file| File { ttl: shorter(file.ttl, above_ttl), ..file });
        let empty = self.directories.iter().filter(|(key, directory)| directory.is_empty && *key != "/");
        Plan {
            empty_directories: empty.map(|(key, _)| key.clone()).collect(),
            directories: self.directories.keys().filter(|key| *key != "/").count(),
            files: files.collect(),
            index: self.index,
            read_at: self.read_at.unwrap_or_else(Instant::now),
        }
    }
}

/// Seconds until a node expires by itself.
fn ttl(node: &Node) -> Option<u64> {
    node.ttl.map(|ttl| u64::try_from(ttl).unwrap_or(0))
}

/// The shorter of two times, of which none is never.
fn shorter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::v2::Event;

    fn file(key: &str, ttl: Option<i64>) -> Node {
        Node { key: key.to_owned(), value: Some("v".to_owned()), ttl, ..Node::default() }
    }

    fn response(node: Node) -> Response {
        Response { event: Event { action: "get".to_owned(), node, prev_node: None }, index: 7 }
    }

    #[test]
    fn files_get_keys_and_the_shortest_time_above_them() {
        let inner = Node {
            key: "/a/d".to_owned(),
            dir: true,
            ttl: Some(9),
            nodes: vec![file("/a/d/x", Some(20)), file("/a/d/y", Some(3))],
            ..Node::default()
        };
        let empty = Node { key: "/a/e".to_owned(), dir: true, ..Node::default() };
        let root =
            Node { key: "/a".to_owned(), dir: true, nodes: vec![file("/a/b", None), inner, empty], ..Node::default() };
        let mut reader = Reader::new("a/", Some("new"));
        assert_eq!(reader.source_prefix(), "/a");
        reader.take(response(root));
        let hidden = reader.hidden(&["_h".to_owned(), "/a/_x".to_owned(), "/other".to_owned()]);
        assert_eq!(hidden, ["/a/_x", "/a/_h", "/a/d/_h", "/a/e/_h"]);
        assert_eq!(reader.unknown_above("/a/d/_h/x"), ["/a/d/_h"]);
        reader.take_directory(response(Node {
            key: "/a/d/_h".to_owned(),
            dir: true,
            ttl: Some(50),
            ..Node::default()
        }));
        reader.take(response(file("/a/d/_h/x", None)));
        assert_eq!(reader.hidden(&["_h".to_owned()]), ["/a/d/_h/_h"]);
        let plan = reader.finish();
        let seen: Vec<_> = plan.files.iter().map(|file| (file.target.as_str(), file.ttl)).collect();
        assert_eq!(seen, [("new/b", None), ("new/d/_h/x", Some(9)), ("new/d/x", Some(9)), ("new/d/y", Some(3))]);
        assert_eq!((plan.directories, plan.empty_directories, plan.index), (4, vec!["/a/e".to_owned()], 7));
    }

    #[test]
    fn files_expire_with_the_directories_above_the_prefix() {
        let above = |key: &str, ttl| response(Node { key: key.to_owned(), dir: true, ttl, ..Node::default() });
        let mut reader = Reader::new("/a/b/c", None);
        assert_eq!(reader.above_source(), ["/a", "/a/b"]);
        let nodes = vec![file("/a/b/c/x", None), file("/a/b/c/y", Some(5)), file("/a/b/c/z", Some(50))];
        let begun = Instant::now();
        reader.take(response(Node { key: "/a/b/c".to_owned(), dir: true, nodes, ..Node::default() }));
        reader.take_above(&above("/a", Some(20)));
        reader.take_above(&above("/a/b", None));
        let plan = reader.finish();
        assert_eq!(plan.files.iter().map(|file| file.ttl).collect::<Vec<_>>(), [Some(20), Some(5), Some(20)]);
        assert!(plan.read_at >= begun, "times count from the answer, not from before the question");
        for prefix in ["/", "", "/a"] {
            assert!(Reader::new(prefix, None).above_source().is_empty(), "{prefix}");
        }
    }

    #[test]
    fn keys_keep_their_names_unless_they_get_others() {
        for (source, target, expected) in [
            ("/", None, "/a/b"),
            ("", Some("/old"), "/old/a/b"),
            ("/a", None, "/a/b"),
            ("/a", Some(""), "/b"),
            ("/a/b", Some("x"), "x"),
        ] {
            let mut reader = Reader::new(source, target);
            reader.take(response(file("/a/b", None)));
            assert_eq!(reader.finish().files[0].target, expected, "{source} {target:?}");
        }
    }

    #[test]
    fn batches_are_bounded_and_whole() {
        let files: Vec<File> = (0..250)
            .map(|n| File {
                source: String::new(),
                target: n.to_string(),
                value: "v".repeat(if n == 120 { BATCH_BYTES } else { 1 }),
                ttl: None,
            })
            .collect();
        let plan = Plan { files, directories: 0, empty_directories: Vec::new(), index: 0, read_at: Instant::now() };
        let lengths: Vec<usize> = plan.batches().map(<[File]>::len).collect();
        assert_eq!(lengths, [100, 20, 1, 100, 29]);
    }
}
