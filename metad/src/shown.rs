//! What an answer shows, and how it is written: text, JSON or YAML, all of it or the next names only.

use crate::json;
use crate::path;
use crate::tree::{Leaf, Name, Node, Written};
use crate::yaml;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shortest JSON of a directory that is kept for the next who asks.
const KEPT_BYTES: usize = 64;

/// A part of the data, as one client sees it.
#[derive(Clone)]
pub(crate) enum Shown {
    Leaf(Leaf),
    /// All that is here, whatever the client.
    All(Arc<Node>),
    /// What was selected, in the order of the names.
    Map(Vec<(Name, Self)>),
    /// The same of what was written as a list.
    List(Vec<(Name, Self)>),
}

impl Shown {
    /// True for a directory without anything to see.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(_) => false,
            Self::All(node) => node.leaf().is_none() && node.children().is_none(),
            Self::Map(entries) | Self::List(entries) => entries.is_empty(),
        }
    }

    /// A map with one entry more, or another in the place of the one with that name.
    pub(crate) fn with(self, name: &[u8], shown: Self) -> Self {
        let mut entries = match self {
            Self::Map(entries) | Self::List(entries) => entries,
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
            Some(value) => Self::Leaf(value.clone()),
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
            Self::All(node) => {
                let is_dir = |node: &Node| node.leaf().and_then(Leaf::text).is_none();
                Some(node.children().into_iter().flatten().map(|(key, node)| name(key, is_dir(node))).collect())
            }
            Self::Map(entries) | Self::List(entries) => {
                let is_dir = |shown: &Self| !matches!(shown, Self::Leaf(leaf) if leaf.text().is_some());
                Some(entries.iter().map(|(key, shown)| name(key, is_dir(shown))).collect())
            }
        }
    }

    /// A text as it is; otherwise a line for each, sorted by path, with a tab before the value.
    pub(crate) fn text(&self) -> Vec<u8> {
        if let Self::Leaf(value) = self {
            return value.text().map(|text| text.to_vec()).unwrap_or_default();
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
            Self::Leaf(value) => lines.extend(value.text().map(|text| (at.clone(), text.as_ref()))),
            Self::All(node) => {
                let below = node.leaves().into_iter();
                lines.extend(below.map(|(path, value)| ([at.as_slice(), &path].concat(), value.as_ref())));
            }
            Self::Map(entries) | Self::List(entries) => {
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

    /// Compact JSON, with the types of values or with texts alone. That of whole directories is made once, and is then
    /// shared by all who ask.
    pub(crate) fn json(&self, is_typed: bool) -> Written {
        if let Self::All(node) = self
            && let Some(json) = node_json(node, is_typed)
        {
            return json.clone();
        }
        let mut out = Vec::new();
        self.write_json(&mut out, is_typed);
        Written::new(out)
    }

    /// True if both show the same, types too if they are asked for. What both share is not looked at.
    pub(crate) fn is_same(&self, other: &Self, is_typed: bool) -> bool {
        match (self, other) {
            (Self::Leaf(left), Self::Leaf(right)) => is_same_leaf(left, right, is_typed),
            (Self::All(left), Self::All(right)) => is_same_node(left, right, is_typed),
            (Self::Map(left), Self::Map(right)) | (Self::List(left), Self::List(right)) => {
                let is_same = |((left, one), (right, other)): (&(Name, Self), &(Name, Self))| {
                    left == right && one.is_same(other, is_typed)
                };
                left.len() == right.len() && left.iter().zip(right).all(is_same)
            }
            // The rules have changed; so rarely that it need not be quick.
            _ => self.text() == other.text() && self.json(is_typed).tag == other.json(is_typed).tag,
        }
    }

    fn write_json(&self, out: &mut Vec<u8>, is_typed: bool) {
        match self {
            Self::Leaf(value) => write_leaf(value, out, is_typed),
            Self::All(node) => write_node(node, out, is_typed),
            Self::Map(entries) | Self::List(entries) => match self.elements().filter(|_| is_typed) {
                Some(elements) => write_list(elements.into_iter(), out, |shown, out| shown.write_json(out, is_typed)),
                None => write_map(entries.iter().map(|(name, shown)| (name, shown)), out, |shown, out| {
                    shown.write_json(out, is_typed);
                }),
            },
        }
    }

    /// The elements of a list in their order. None if it is no list, or one that lacks some.
    fn elements(&self) -> Option<Vec<&Self>> {
        let Self::List(entries) = self else { return None };
        let element = |at: usize| {
            let name = at.to_string();
            let found = entries.binary_search_by(|(other, _)| (**other).cmp(name.as_bytes())).ok()?;
            Some(&entries[found].1)
        };
        (0..entries.len()).map(element).collect()
    }

    /// YAML, with the types of values or with texts alone.
    pub(crate) fn yaml(&self, is_typed: bool) -> Vec<u8> {
        let mut writer = yaml::Writer::new();
        self.write_yaml(&mut writer, is_typed);
        writer.finish()
    }

    fn write_yaml(&self, writer: &mut yaml::Writer, is_typed: bool) {
        match self {
            Self::Leaf(value) => write_leaf_yaml(value, writer, is_typed),
            Self::All(node) => write_node_yaml(node, writer, is_typed),
            Self::Map(entries) | Self::List(entries) => {
                if let Some(elements) = self.elements().filter(|_| is_typed) {
                    return writer.list(elements, |writer, shown| shown.write_yaml(writer, is_typed));
                }
                let entries = entries.iter().map(|(name, shown)| (name.as_ref(), shown)).collect();
                writer.map(entries, |writer, shown| shown.write_yaml(writer, is_typed));
            }
        }
    }
}

/// Values are secrets of their owners.
impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// The JSON of a directory, which is kept with it; None of a leaf.
fn node_json(node: &Node, is_typed: bool) -> Option<&Written> {
    let write = || {
        let mut out = Vec::new();
        write_children(node, &mut out, is_typed);
        out.shrink_to_fit();
        Written::new(out)
    };
    node.json(is_typed, write)
}

fn is_same_leaf(left: &Leaf, right: &Leaf, is_typed: bool) -> bool {
    if is_typed { left == right } else { left.text() == right.text() }
}

fn is_same_node(left: &Arc<Node>, right: &Arc<Node>, is_typed: bool) -> bool {
    if Arc::ptr_eq(left, right) {
        return true;
    }
    match (left.children(), right.children()) {
        (None, None) => match (left.leaf(), right.leaf()) {
            (Some(left), Some(right)) => is_same_leaf(left, right, is_typed),
            (left, right) => left.is_none() && right.is_none(),
        },
        (Some(_), Some(_)) if is_typed && left.is_list() != right.is_list() => false,
        (Some(one), Some(other)) => {
            let is_same = |((left, one), (right, other)): ((&Name, &Arc<Node>), (&Name, &Arc<Node>))| {
                left == right && is_same_node(one, other, is_typed)
            };
            one.len() == other.len() && one.iter().zip(other).all(is_same)
        }
        _ => false,
    }
}

fn write_leaf(value: &Leaf, out: &mut Vec<u8>, is_typed: bool) {
    match (value.json(), value.text()) {
        (Some(json), _) if is_typed => out.extend_from_slice(json.as_bytes()),
        (_, Some(text)) => json::write_text(out, text),
        // As metad shows what has nothing in it.
        (_, None) => out.extend_from_slice(b"{}"),
    }
}

fn write_node(node: &Node, out: &mut Vec<u8>, is_typed: bool) {
    match node.leaf() {
        Some(value) => write_leaf(value, out, is_typed),
        None => match node.children() {
            // Small ones are as quickly written as found.
            Some(children) if children.len() * 16 >= KEPT_BYTES => match node_json(node, is_typed) {
                Some(json) => out.extend_from_slice(&json.text),
                None => out.extend_from_slice(b"{}"),
            },
            _ => write_children(node, out, is_typed),
        },
    }
}

fn write_children(node: &Node, out: &mut Vec<u8>, is_typed: bool) {
    if is_typed && node.is_list() {
        write_list(elements(node), out, |child, out| write_node(child, out, is_typed));
    } else {
        write_map(node.children().into_iter().flatten(), out, |child, out| write_node(child, out, is_typed));
    }
}

/// The children of a list in its order, which is not that of their names.
fn elements(node: &Node) -> impl Iterator<Item = &Arc<Node>> {
    let count = node.children().map_or(0, BTreeMap::len);
    (0..count).filter_map(|at| node.child(at.to_string().as_bytes()))
}

fn write_list<V>(values: impl Iterator<Item = V>, out: &mut Vec<u8>, write: impl Fn(V, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}

fn write_map<'n, V>(entries: impl Iterator<Item = (&'n Name, V)>, out: &mut Vec<u8>, write: impl Fn(V, &mut Vec<u8>)) {
    out.push(b'{');
    for (at, (name, value)) in entries.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json::write_text(out, name);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write_leaf_yaml(value: &Leaf, writer: &mut yaml::Writer, is_typed: bool) {
    match (value.json(), value.text()) {
        (Some(json), _) if is_typed => writer.verbatim(&yaml::number(json)),
        (_, Some(text)) => writer.scalar(text),
        (_, None) => writer.verbatim("{}"),
    }
}

fn write_node_yaml(node: &Node, writer: &mut yaml::Writer, is_typed: bool) {
    if let Some(value) = node.leaf() {
        return write_leaf_yaml(value, writer, is_typed);
    }
    let write = |writer: &mut yaml::Writer, child: &Arc<Node>| write_node_yaml(child, writer, is_typed);
    if is_typed && node.is_list() {
        return writer.list(elements(node).collect(), write);
    }
    let children = node.children().into_iter().flatten();
    writer.map(children.map(|(name, child)| (name.as_ref(), child)).collect(), write);
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
            tree.put(path.as_bytes(), value.as_bytes());
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
        assert_eq!(text(&shown.json(false).text), json);
        assert_eq!(text(&shown.yaml(false)), "a:\n  x: \"1\"\n  \"y\":\n    z: <3>\na-b: \"2\"\n\"n\": \"\"\n");
        assert_eq!(shown.names().unwrap().iter().map(|name| text(name)).collect::<Vec<_>>(), ["a/", "a-b", "n"]);
        let with = shown.with(b"a", Shown::Map(Vec::new())).with(b"self", Shown::Leaf(Leaf::text_of(b"s".as_slice())));
        assert_eq!(text(&with.json(false).text), r#"{"a":{},"a-b":"2","n":"","self":"s"}"#);
        assert_eq!(text(&with.text()), "/a-b\t2\n/n\t\n/self\ts\n");
    }

    #[test]
    fn an_empty_tree_is_an_empty_object() {
        let shown = all(Tree::default().root(), b"/").unwrap();
        assert!(shown.is_empty());
        assert_eq!((text(&shown.json(false).text), text(&shown.text()), text(&shown.yaml(false))), ("{}", "", "{}\n"));
        assert!(all(Tree::default().root(), b"/a").is_none());
    }
}
