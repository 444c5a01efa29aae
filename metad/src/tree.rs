//! The tree of values, copied where it is written: who has a version of it reads that version, without a lock, whatever
//! is written meanwhile.
//!
//! A node can have a value and children; then the children are what is seen, and the value is seen again when the last of
//! them has gone. There are no empty directories.

use crate::path;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A name between slashes.
pub(crate) type Name = Arc<[u8]>;

/// The children of a node, in the order of their bytes.
pub(crate) type Children = BTreeMap<Name, Arc<Node>>;

/// A value: a text, and what JSON has in its place if that is something else.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// None of a list or an object, whose elements are children.
    text: Option<Arc<[u8]>>,
    json: Option<Arc<str>>,
}

impl Leaf {
    pub(crate) fn text_of(text: impl Into<Arc<[u8]>>) -> Self {
        Self { text: Some(text.into()), json: None }
    }

    /// A number, a truth or null, with its text.
    pub(crate) fn scalar(text: Arc<[u8]>, json: &str) -> Self {
        Self { text: Some(text), json: Some(Arc::from(json)) }
    }

    /// A list, or an object without elements.
    pub(crate) fn container(json: &str) -> Self {
        Self { text: None, json: Some(Arc::from(json)) }
    }

    pub(crate) fn text(&self) -> Option<&Arc<[u8]>> {
        self.text.as_ref()
    }

    /// What JSON that keeps types has in the place of the text.
    pub(crate) fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }
}

/// A place in the tree.
#[derive(Clone, Default)]
pub(crate) struct Node {
    value: Option<Leaf>,
    dir: Option<Box<Dir>>,
}

#[derive(Default)]
struct Dir {
    children: Children,
    /// All of it as JSON, once somebody has asked for that.
    json: OnceLock<Written>,
    /// The same with types, for which few ask.
    typed: OnceLock<Box<Written>>,
}

impl Dir {
    /// What was written out is another now.
    fn forget(&mut self) {
        self.json = OnceLock::new();
        self.typed = OnceLock::new();
    }
}

/// A text and what it can be told apart by.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) text: Bytes,
    pub(crate) tag: Tag,
}

impl Written {
    pub(crate) fn new(text: Vec<u8>) -> Self {
        let tag = tag(&text);
        Self { text: text.into(), tag }
    }
}

/// The beginning of the SHA-256 of a text: the same on every instance.
pub(crate) type Tag = [u8; 16];

/// That of a text.
pub(crate) fn tag(text: &[u8]) -> Tag {
    let digest = ring::digest::digest(&ring::digest::SHA256, text);
    let mut tag = Tag::default();
    tag.copy_from_slice(&digest.as_ref()[..size_of::<Tag>()]);
    tag
}

impl Clone for Dir {
    /// A copy is made to be changed, so what was written out before is not kept.
    fn clone(&self) -> Self {
        Self { children: self.children.clone(), ..Self::default() }
    }
}

/// Values are secrets of their owners.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

impl Node {
    /// What is seen here if nothing is below.
    pub(crate) fn leaf(&self) -> Option<&Leaf> {
        if self.dir.is_some() { None } else { self.value.as_ref() }
    }

    /// None for a leaf.
    pub(crate) fn children(&self) -> Option<&Children> {
        self.dir.as_ref().map(|dir| &dir.children)
    }

    pub(crate) fn child(&self, name: &[u8]) -> Option<&Arc<Self>> {
        self.children()?.get(name)
    }

    /// True if the children are the elements of a list: it was written as one, and none is missing.
    pub(crate) fn is_list(&self) -> bool {
        let Some(children) = self.children() else { return false };
        self.was_list() && (0..children.len()).all(|at| children.contains_key(at.to_string().as_bytes()))
    }

    /// True if this was written as a list. Its elements may be others now.
    pub(crate) fn was_list(&self) -> bool {
        self.value.as_ref().is_some_and(|value| value.text.is_none() && value.json() == Some("[]"))
    }

    /// The text of `write`, made once for this state of the subtree, with types and without. Only a directory has one.
    pub(crate) fn json(&self, is_typed: bool, write: impl FnOnce() -> Written) -> Option<&Written> {
        let dir = self.dir.as_ref()?;
        Some(if is_typed { dir.typed.get_or_init(|| Box::new(write())) } else { dir.json.get_or_init(write) })
    }

    /// Every text below with its path from here, or this one with an empty path. The value that children hide is none.
    pub(crate) fn leaves(&self) -> Vec<(Vec<u8>, &Arc<[u8]>)> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect<'n>(&'n self, at: &mut Vec<u8>, found: &mut Vec<(Vec<u8>, &'n Arc<[u8]>)>) {
        if let Some(text) = self.leaf().and_then(Leaf::text) {
            found.push((at.clone(), text));
        }
        for (name, child) in self.children().into_iter().flatten() {
            let before = at.len();
            at.push(b'/');
            at.extend_from_slice(name);
            child.collect(at, found);
            at.truncate(before);
        }
    }

    /// Paths from here of all texts, hidden ones too; that of the node's own is the root's.
    pub(crate) fn values_below(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        self.collect_values(&mut Vec::new(), &mut found);
        if let Some(own) = found.first_mut().filter(|path| path.is_empty()) {
            own.push(b'/');
        }
        found
    }

    /// The text here, hidden or not.
    pub(crate) fn value(&self) -> Option<&Arc<[u8]>> {
        self.value.as_ref().and_then(Leaf::text)
    }

    fn collect_values(&self, at: &mut Vec<u8>, found: &mut Vec<Vec<u8>>) {
        if self.value().is_some() {
            found.push(at.clone());
        }
        for (name, child) in self.children().into_iter().flatten() {
            let before = at.len();
            at.push(b'/');
            at.extend_from_slice(name);
            child.collect_values(at, found);
            at.truncate(before);
        }
    }

    fn is_empty(&self) -> bool {
        self.value.is_none() && self.dir.is_none()
    }
}

/// What a write did to what can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// There is another value, or one more or less.
    Changed,
}

/// A version of the tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    root: Arc<Node>,
    leaves: usize,
}

impl Tree {
    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Nodes with a value.
    pub(crate) fn len(&self) -> usize {
        self.leaves
    }

    /// What is at a path, if anything is.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Arc<Node>> {
        let mut node = &self.root;
        for name in path::names(path) {
            node = node.child(name)?;
        }
        Some(node)
    }

    /// Paths of all texts, hidden ones too.
    pub(crate) fn values(&self) -> Vec<Vec<u8>> {
        self.root.values_below()
    }

    /// True if there is a value at a path, hidden or not.
    pub(crate) fn has_value(&self, path: &[u8]) -> bool {
        self.get(path).is_some_and(|node| node.value.is_some())
    }

    /// Writes a text. The root cannot have one.
    pub(crate) fn put(&mut self, path: &[u8], text: &[u8]) -> Effect {
        self.set(path, Leaf::text_of(text))
    }

    /// Writes a value. The root cannot have one. The same value again changes nothing: what was written out is kept.
    pub(crate) fn set(&mut self, path: &[u8], value: Leaf) -> Effect {
        let names = path::names(path);
        if names.is_empty() || self.get(path).is_some_and(|node| node.value.as_ref() == Some(&value)) {
            return Effect::None;
        }
        let mut node = Arc::make_mut(&mut self.root);
        for name in names {
            let dir = node.dir.get_or_insert_default();
            dir.forget();
            if !dir.children.contains_key(name) {
                dir.children.insert(Arc::from(name), Arc::default());
            }
            // It is there now.
            let Some(child) = dir.children.get_mut(name) else { return Effect::None };
            node = Arc::make_mut(child);
        }
        if node.value.replace(value).is_none() {
            self.leaves += 1;
        }
        Effect::Changed
    }

    /// Takes a value away, and the directories that are empty without it.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Effect {
        if !self.has_value(path) {
            return Effect::None;
        }
        remove(Arc::make_mut(&mut self.root), &path::names(path));
        self.leaves -= 1;
        Effect::Changed
    }
}

fn remove(node: &mut Node, names: &[&[u8]]) {
    let Some((name, rest)) = names.split_first() else {
        node.value = None;
        return;
    };
    let Some(dir) = &mut node.dir else { return };
    dir.forget();
    let Some(child) = dir.children.get_mut(*name) else { return };
    remove(Arc::make_mut(child), rest);
    if child.is_empty() {
        dir.children.remove(*name);
    }
    if dir.children.is_empty() {
        node.dir = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tree: &Tree) -> String {
        let line = |(path, value): (Vec<u8>, &Arc<[u8]>)| {
            format!("{}={}", String::from_utf8(path).unwrap(), String::from_utf8_lossy(value))
        };
        tree.root().leaves().into_iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn children_hide_a_value_until_they_go() {
        let mut tree = Tree::default();
        assert_eq!(tree.put(b"/a", b"1"), Effect::Changed);
        assert_eq!(tree.put(b"/a", b"1"), Effect::None);
        assert_eq!(tree.put(b"/a/b/c", b"2"), Effect::Changed);
        assert_eq!((shown(&tree).as_str(), tree.len()), ("/a/b/c=2", 2));
        assert_eq!(tree.remove(b"/a/b"), Effect::None);
        assert_eq!(tree.remove(b"/a/b/c"), Effect::Changed);
        assert_eq!((shown(&tree).as_str(), tree.len()), ("/a=1", 1));
        tree.remove(b"a");
        assert_eq!(shown(&tree), "");
        assert!(tree.root().children().is_none());
        assert_eq!(tree.put(b"/", b"x"), Effect::None);
    }

    /// A store that is read again tells everything again.
    #[test]
    fn an_equal_value_leaves_everything_as_it_is() {
        let mut tree = Tree::default();
        tree.put(b"/a/b", b"1");
        tree.put(b"/a/b/c", b"2");
        let before = Arc::clone(tree.root());
        assert_eq!((tree.put(b"/a/b/c", b"2"), tree.put(b"/a/b", b"1")), (Effect::None, Effect::None));
        assert!(Arc::ptr_eq(tree.root(), &before));
        assert_eq!(tree.put(b"/a/b", b"3"), Effect::Changed);
        assert!(!Arc::ptr_eq(tree.root(), &before));
    }

    #[test]
    fn a_version_stays_as_it_is_while_others_are_made() {
        let mut tree = Tree::default();
        for number in 0..100 {
            tree.put(format!("/n/{number}").as_bytes(), b"x");
        }
        let old = tree.clone();
        let json = |tree: &Tree| tree.get(b"/n").unwrap().json(false, || Written::new(shown(tree).into())).unwrap().tag;
        let before = json(&old);
        tree.remove(b"/n/7");
        tree.put(b"/n/8", b"y");
        assert_eq!((old.len(), tree.len()), (100, 99));
        assert_eq!(json(&old), before);
        assert_ne!(json(&tree), before);
        assert_eq!(old.get(b"/n/8").unwrap().value().unwrap().as_ref(), b"x");
    }
}
