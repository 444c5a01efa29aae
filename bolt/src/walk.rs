//! The entries of one tree in key order, with every rule of the tree checked on the way.

use crate::database::Database;
use crate::error::{Damage, Error};
use crate::page::{Kind, Node, Root};
use bytes::Bytes;

/// Levels of a tree. With two keys to a branch, the fewest that bbolt leaves, that is far more than fits on a disk.
const MAX_DEPTH: usize = 64;

/// Pages that were seen, one bit each.
pub(crate) struct Visited {
    bits: Vec<u64>,
    count: u64,
}

impl Visited {
    /// For so many pages; the caller has seen that the file is as long, so the bits are a small part of it.
    pub(crate) fn new(pages: u64) -> Self {
        Self { bits: vec![0; pages.div_ceil(64) as usize], count: 0 }
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.bits[(page / 64) as usize] & 1 << (page % 64) != 0
    }

    /// Takes note of `span` pages; false when one was seen before.
    pub(crate) fn visit(&mut self, page: u64, span: u64) -> bool {
        for page in page..page + span {
            if self.contains(page) {
                return false;
            }
            self.bits[(page / 64) as usize] |= 1 << (page % 64);
        }
        self.count += span;
        true
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// An element of a leaf.
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    pub(crate) page: u64,
    pub(crate) index: usize,
}

/// A page on the way to the current one.
struct Step {
    node: Node,
    next: usize,
    /// No key of the page is smaller.
    low: Option<Bytes>,
    /// Every key of the page is smaller.
    high: Option<Bytes>,
}

/// Walks one tree. Each page is read once, so a walk ends.
pub(crate) struct Walk<'a> {
    database: &'a Database,
    /// Pages that this and other walks have seen.
    pub(crate) visited: Visited,
    root: Option<Root>,
    path: Vec<Step>,
    last: Option<Bytes>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(database: &'a Database, root: Root, visited: Visited) -> Self {
        Self { database, visited, root: Some(root), path: Vec::new(), last: None }
    }

    /// Nothing follows.
    pub(crate) fn end(&mut self) {
        (self.root, self.path) = (None, Vec::new());
    }

    /// Goes down to a page.
    fn enter(&mut self, page: u64, low: Option<Bytes>, high: Option<Bytes>) -> Result<(), Error> {
        if self.path.len() == MAX_DEPTH {
            return Err(Error::Page { page, damage: Damage::Depth { limit: MAX_DEPTH } });
        }
        let node = self.database.node(page, &mut self.visited)?;
        // An empty bucket is an inline one, and an empty page is taken out of its tree; a database without buckets
        // is left.
        if node.len() == 0 && (node.kind == Kind::Branch || page != self.database.root()) {
            return Err(Error::Page { page, damage: Damage::NoElements });
        }
        self.path.push(Step { node, next: 0, low, high });
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Found>, Error> {
        match self.root.take() {
            Some(Root::Page(page)) => self.enter(page, None, None)?,
            Some(Root::Inline(node)) => self.path.push(Step { node, next: 0, low: None, high: None }),
            None => {}
        }
        while let Some(step) = self.path.last_mut() {
            if step.next == step.node.len() {
                self.path.pop();
                continue;
            }
            let index = step.next;
            step.next += 1;
            let page = step.node.page;
            let out_of_order = || Error::Page { page, damage: Damage::Order { index } };
            match step.node.kind {
                Kind::Branch => {
                    let (low, child) = (step.node.key(index), step.node.child(index));
                    let next = (step.next < step.node.len()).then(|| step.node.key(step.next));
                    if next.as_ref().is_some_and(|next| *next <= low) || !within(&low, step) {
                        return Err(out_of_order());
                    }
                    let high = next.or_else(|| step.high.clone());
                    self.enter(child, Some(low), high)?;
                }
                Kind::Leaf => {
                    let (key, value, flags) = step.node.entry(index);
                    if self.last.as_ref().is_some_and(|last| *last >= key) || !within(&key, step) {
                        return Err(out_of_order());
                    }
                    self.last = Some(key.clone());
                    return Ok(Some(Found { key, value, flags, page, index }));
                }
            }
        }
        Ok(None)
    }
}

/// True when the branch above leads to this page for the key.
fn within(key: &Bytes, step: &Step) -> bool {
    step.low.as_ref().is_none_or(|low| low <= key) && step.high.as_ref().is_none_or(|high| key < high)
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance();
        if found.is_err() {
            self.end();
        }
        found.transpose()
    }
}
