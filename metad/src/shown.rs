//! What an answer shows, and how it is written: text, JSON or YAML, all of it or the next names only.

use crate::json;
use crate::path;
use crate::tree::{Name, Node, Written};
use crate::yaml;
use std::sync::Arc;

/// Shortest JSON of a directory that is kept for the next who asks.
const KEPT_BYTES: usize = 64;

/// A part of the data, as one client sees it.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    Leaf(Arc<[u8]>),
    /// All that is here, whatever the client.
    All(Arc<Node>),
    /// What was selected, in the order of the names.
    Map(Vec<(Name, Self)>),
}

impl Shown {
    /// True for a directory without anything to see.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(_) => false,
            Self::All(node) => node.leaf().is_none() && node.children().is_none(),
            Self::Map(entries) => entries.is_empty(),
        }
    }

    /// A map with one entry more, or another in the place of the one with that name.
    pub(crate) fn with(self, name: &[u8], shown: Self) -> Self {
        let mut entries = match self {
            Self::Map(entries) => entries,
            Self::All(node) => {
                let children = node.children().into_iter().flatten();
                children.map(|(name, node)| (Arc::clone(name), Self::of(node))).collect()
            }
            // A text has no names below it.
            Self::Leaf(_) => return self,
        };
        match entries.binary_search_by(|(other, _)| (**other).cmp(name)) {
            Ok(at) => entries[at].1 = shown,
            Err(at) => entries.insert(at, (Arc::from(name), shown)),
        }
        Self::Map(entries)
    }

    /// All of a node.
    pub(crate) fn of(node: &Arc<Node>) -> Self {
        match node.leaf() {
            Some(value) => Self::Leaf(Arc::clone(value)),
            None => Self::All(Arc::clone(node)),
        }
    }

    /// The names below this, each with a slash behind it if it is a directory. None for a text.
    pub(crate) fn names(&self) -> Option<Vec<Vec<u8>>> {
        let name = |name: &Name, is_dir: bool| {
            let slash: &[u8] = if is_dir { b"/" } else { b"" };
            [name, slash].concat()
        };
        match self {
            Self::Leaf(_) => None,
            Self::All(node) => Some(
                node.children().into_iter().flatten().map(|(key, node)| name(key, node.leaf().is_none())).collect(),
            ),
            Self::Map(entries) => {
                Some(entries.iter().map(|(key, shown)| name(key, !matches!(shown, Self::Leaf(_)))).collect())
            }
        }
    }

    /// A text as it is; otherwise a line for each, sorted by path, with a tab before the value.
    pub(crate) fn text(&self) -> Vec<u8> {
        if let Self::Leaf(value) = self {
            return value.to_vec();
        }
        let mut lines = Vec::new();
        self.collect(&mut Vec::new(), &mut lines);
        lines.sort_unstable();
        let length = lines.iter().map(|(path, value)| path.len() + value.len() + 2).sum();
        let mut out = Vec::with_capacity(length);
        for (path, value) in lines {
            out.extend_from_slice(&path);
            out.push(b'\t');
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out
    }

    fn collect<'s>(&'s self, at: &mut Vec<u8>, lines: &mut Vec<(Vec<u8>, &'s [u8])>) {
        match self {
            Self::Leaf(value) => lines.push((at.clone(), value)),
            Self::All(node) => {
                let below = node.leaves().into_iter();
                lines.extend(below.map(|(path, value)| ([at.as_slice(), &path].concat(), value.as_ref())));
            }
            Self::Map(entries) => {
                for (name, shown) in entries {
                    let before = at.len();
                    at.push(b'/');
                    at.extend_from_slice(name);
                    shown.collect(at, lines);
                    at.truncate(before);
                }
            }
        }
    }

    /// Compact JSON. That of whole directories is made once, and is then shared by all who ask.
    pub(crate) fn json(&self) -> Written {
        if let Self::All(node) = self
            && let Some(json) = node_json(node)
        {
            return json.clone();
        }
        let mut out = Vec::new();
        self.write_json(&mut out);
        Written::new(out)
    }

    /// True if both show the same. What both share is not looked at.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(left), Self::Leaf(right)) => left == right,
            (Self::All(left), Self::All(right)) => is_same_node(left, right),
            (Self::Map(left), Self::Map(right)) => {
                let is_same =
                    |((left, one), (right, other)): (&(Name, Self), &(Name, Self))| left == right && one.is_same(other);
                left.len() == right.len() && left.iter().zip(right).all(is_same)
            }
            // The rules have changed; so rarely that it need not be quick.
            _ => self.text() == other.text() && self.json().tag == other.json().tag,
        }
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Leaf(value) => json::write_text(out, value),
            Self::All(node) => write_node(node, out),
            Self::Map(entries) => {
                out.push(b'{');
                for (at, (name, shown)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    json::write_text(out, name);
                    out.push(b':');
                    shown.write_json(out);
                }
                out.push(b'}');
            }
        }
    }

    /// YAML.
    pub(crate) fn yaml(&self) -> Vec<u8> {
        let mut writer = yaml::Writer::new();
        self.write_yaml(&mut writer);
        writer.finish()
    }

    fn write_yaml(&self, writer: &mut yaml::Writer) {
        match self {
            Self::Leaf(value) => writer.scalar(value),
            Self::All(node) => write_node_yaml(node, writer),
            Self::Map(entries) => {
                let entries = entries.iter().map(|(name, shown)| (name.as_ref(), shown)).collect();
                writer.map(entries, |writer, shown| shown.write_yaml(writer));
            }
        }
    }
}

/// The JSON of a directory, which is kept with it; None of a leaf.
fn node_json(node: &Node) -> Option<&Written> {
    let write = || {
        let mut out = Vec::new();
        write_children(node, &mut out);
        out.shrink_to_fit();
        Written::new(out)
    };
    node.json(write)
}

fn is_same_node(left: &Arc<Node>, right: &Arc<Node>) -> bool {
    if Arc::ptr_eq(left, right) {
        return true;
    }
    match (left.children(), right.children()) {
        (None, None) => left.leaf() == right.leaf(),
        (Some(one), Some(other)) => {
            let is_same = |((left, one), (right, other)): ((&Name, &Arc<Node>), (&Name, &Arc<Node>))| {
                left == right && is_same_node(one, other)
            };
            one.len() == other.len() && one.iter().zip(other).all(is_same)
        }
        _ => false,
    }
}

fn write_node(node: &Node, out: &mut Vec<u8>) {
    match node.leaf() {
        Some(value) => json::write_text(out, value),
        None => match node.children() {
            // Small ones are as quickly written as found.
            Some(children) if children.len() * 16 >= KEPT_BYTES => match node_json(node) {
                Some(json) => out.extend_from_slice(&json.text),
                None => out.extend_from_slice(b"{}"),
            },
            _ => write_children(node, out),
        },
    }
}

fn write_children(node: &Node, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (name, child)) in node.children().into_iter().flatten().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json::write_text(out, name);
        out.push(b':');
        write_node(child, out);
    }
    out.push(b'}');
}

fn write_node_yaml(node: &Node, writer: &mut yaml::Writer) {
    if let Some(value) = node.leaf() {
        return writer.scalar(value);
    }
    let children = node.children().into_iter().flatten();
    let entries = children.map(|(name, child)| (name.as_ref(), child)).collect();
    writer.map(entries, |writer, child: &Arc<Node>| write_node_yaml(child, writer));
}

/// All of a tree at a path; None if nothing is there. An empty root is something.
pub(crate) fn all(root: &Arc<Node>, at: &[u8]) -> Option<Shown> {
    let mut node = root;
    for name in path::names(at) {
        node = node.child(name)?;
    }
    Some(Shown::of(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for (path, value) in [("/a/x", "1"), ("/a-b", "2"), ("/a/y/z", "<3>"), ("/n", "")] {
            tree.put(path.as_bytes(), value.as_bytes(), 1);
        }
        tree
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_answer_is_written_in_three_ways() {
        let shown = all(tree().root(), b"/").unwrap();
        // By the whole path: a dash is before a slash.
        assert_eq!(text(&shown.text()), "/a-b\t2\n/a/x\t1\n/a/y/z\t<3>\n/n\t\n");
        let json = r#"{"a":{"x":"1","y":{"z":"\u003c3\u003e"}},"a-b":"2","n":""}"#;
        assert_eq!(text(&shown.json().text), json);
        assert_eq!(text(&shown.yaml()), "a:\n  x: \"1\"\n  \"y\":\n    z: <3>\na-b: \"2\"\n\"n\": \"\"\n");
        assert_eq!(shown.names().unwrap().iter().map(|name| text(name)).collect::<Vec<_>>(), ["a/", "a-b", "n"]);
        let with = shown.with(b"a", Shown::Map(Vec::new())).with(b"self", Shown::Leaf(Arc::from(b"s".as_slice())));
        assert_eq!(text(&with.json().text), r#"{"a":{},"a-b":"2","n":"","self":"s"}"#);
        assert_eq!(text(&with.text()), "/a-b\t2\n/n\t\n/self\ts\n");
    }

    #[test]
    fn an_empty_tree_is_an_empty_object() {
        let shown = all(Tree::default().root(), b"/").unwrap();
        assert!(shown.is_empty());
        assert_eq!((text(&shown.json().text), text(&shown.text()), text(&shown.yaml())), ("{}", "", "{}\n"));
        assert!(all(Tree::default().root(), b"/a").is_none());
    }
}
