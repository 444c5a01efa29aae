//! What is at a path and below it, as it was at one moment.

use super::NodeView;
use super::node::{Children, Node, is_hidden, push};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// A node that was read. It stays as it was, whatever changes meanwhile: changes copy what it holds, directory by
/// directory.
pub struct Found {
    path: Vec<u8>,
    node: Node,
    now: i64,
}

/// What comes next below a node.
#[derive(Debug)]
pub enum Step {
    /// A file, an empty directory, or one that is not entered.
    Node(NodeView),
    /// A directory. What is in it follows, up to its end.
    Enter(NodeView),
    /// The end of a directory.
    Leave,
}

/// Goes through a node and what is below it, in the order of names. Hidden nodes are left out.
pub struct Walk {
    path: Vec<u8>,
    /// Until it is begun.
    first: Option<Node>,
    /// Directories that were entered, the outermost first.
    open: Vec<Level>,
    recursive: bool,
    now: i64,
}

struct Level {
    children: Arc<Children>,
    /// The last one that was visited.
    last: Option<Arc<[u8]>>,
    /// Bytes of the directory's path.
    length: usize,
}

impl Found {
    pub(super) fn new(path: &[u8], node: &Node, now: i64) -> Self {
        Self { path: path.to_vec(), node: node.clone(), now }
    }

    /// The node itself.
    pub fn view(&self) -> NodeView {
        self.node.view(&self.path, self.now)
    }

    /// The node and what is in it, one level or all.
    pub fn walk(self, recursive: bool) -> Walk {
        let Self { path, node, now } = self;
        Walk { path, first: Some(node), open: Vec::new(), recursive, now }
    }
}

/// Without values, which may be secrets.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("path", &String::from_utf8_lossy(&self.path)).finish_non_exhaustive()
    }
}

impl Walk {
    /// True if nothing more comes.
    pub fn is_over(&self) -> bool {
        self.first.is_none() && self.open.is_empty()
    }

    fn enter(&mut self, node: &Node) -> Step {
        let view = node.view(&self.path, self.now);
        match node.children() {
            Some(children) if next(children, None).is_some() => {
                let level = Level { children: Arc::clone(children), last: None, length: self.path.len() };
                self.open.push(level);
                Step::Enter(view)
            }
            _ => Step::Node(view),
        }
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(first) = self.first.take() {
            return Some(self.enter(&first));
        }
        let level = self.open.last_mut()?;
        self.path.truncate(level.length);
        let children = Arc::clone(&level.children);
        let Some((name, child)) = next(&children, level.last.as_deref()) else {
            self.open.pop();
            return Some(Step::Leave);
        };
        level.last = Some(Arc::clone(name));
        push(&mut self.path, name);
        Some(if self.recursive { self.enter(child) } else { Step::Node(child.view(&self.path, self.now)) })
    }
}

/// The first child behind a name that is shown.
fn next<'c>(children: &'c Children, last: Option<&[u8]>) -> Option<(&'c Arc<[u8]>, &'c Node)> {
    let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
    children.range::<[u8], _>((behind, Bound::Unbounded)).find(|(name, _)| !is_hidden(name))
}
