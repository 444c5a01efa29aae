//! Half-open key intervals and the watchers on each: which of them hold a key.
//!
//! A treap sorted by (start, end) in which every node knows the largest end below it, so that a lookup costs
//! `O(log n + found)` and ten thousand prefixes cost no more than fourteen steps. Equal intervals share one node.

use super::index::Slots;
use std::cmp::Ordering;
use std::sync::Arc;

/// The end of an interval, excluded; none for one without end.
pub(crate) type End = Option<Arc<[u8]>>;

const NONE: u32 = u32::MAX;

struct Node {
    start: Arc<[u8]>,
    end: End,
    /// The largest end of this node and everything below it.
    max_end: End,
    slots: Slots,
    priority: u32,
    left: u32,
    right: u32,
}

pub(crate) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    /// State of the generator of priorities. They only balance the tree and decide nothing that anybody sees.
    seed: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, seed: 0x9e37_79b9 }
    }
}

/// Orders ends: no end is the largest.
fn compare_ends(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

fn ends_after(end: &End, key: &[u8]) -> bool {
    end.as_deref().is_none_or(|end| key < end)
}

impl Intervals {
    pub(crate) fn insert(&mut self, start: &Arc<[u8]>, end: &End, slot: u32) {
        if let Some(node) = self.find(start, end.as_deref()) {
            self.nodes[node as usize].slots.push(slot);
            return;
        }
        let node = Node {
            start: Arc::clone(start),
            end: end.clone(),
            max_end: end.clone(),
            slots: Slots::one(slot),
            priority: self.next_priority(),
            left: NONE,
            right: NONE,
        };
        let at = if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            at
        } else {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        };
        self.root = self.insert_below(self.root, at);
    }

    pub(crate) fn remove(&mut self, start: &[u8], end: Option<&[u8]>, slot: u32) {
        let Some(node) = self.find(start, end) else { return };
        if !self.nodes[node as usize].slots.remove(slot) {
            return;
        }
        self.root = self.remove_below(self.root, start, end);
        let unused = &mut self.nodes[node as usize];
        (unused.start, unused.end, unused.max_end) = (Arc::from([]), None, None);
        self.free.push(node);
    }

    /// Calls `found` for every watcher whose interval holds the key.
    pub(crate) fn holding(&self, key: &[u8], found: &mut impl FnMut(u32)) {
        self.holding_below(self.root, key, found);
    }

    fn holding_below(&self, at: u32, key: &[u8], found: &mut impl FnMut(u32)) {
        if at == NONE {
            return;
        }
        let node = &self.nodes[at as usize];
        if !ends_after(&node.max_end, key) {
            return;
        }
        self.holding_below(node.left, key, found);
        if *node.start <= *key {
            if ends_after(&node.end, key) {
                node.slots.iter().for_each(&mut *found);
            }
            self.holding_below(node.right, key, found);
        }
    }

    fn compare(&self, start: &[u8], end: Option<&[u8]>, at: u32) -> Ordering {
        let node = &self.nodes[at as usize];
        start.cmp(&node.start).then_with(|| compare_ends(end, node.end.as_deref()))
    }

    fn find(&self, start: &[u8], end: Option<&[u8]>) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            at = match self.compare(start, end, at) {
                Ordering::Equal => return Some(at),
                Ordering::Less => self.nodes[at as usize].left,
                Ordering::Greater => self.nodes[at as usize].right,
            };
        }
        None
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NONE {
            return new;
        }
        let inserted = &self.nodes[new as usize];
        let less = self.compare(&inserted.start, inserted.end.as_deref(), at) == Ordering::Less;
        if less {
            let left = self.insert_below(self.nodes[at as usize].left, new);
            self.nodes[at as usize].left = left;
            if self.nodes[left as usize].priority > self.nodes[at as usize].priority {
                return self.rotate_right(at);
            }
        } else {
            let right = self.insert_below(self.nodes[at as usize].right, new);
            self.nodes[at as usize].right = right;
            if self.nodes[right as usize].priority > self.nodes[at as usize].priority {
                return self.rotate_left(at);
            }
        }
        self.refresh(at);
        at
    }

    fn remove_below(&mut self, at: u32, start: &[u8], end: Option<&[u8]>) -> u32 {
        if at == NONE {
            return NONE;
        }
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        match self.compare(start, end, at) {
            Ordering::Less => self.nodes[at as usize].left = self.remove_below(left, start, end),
            Ordering::Greater => self.nodes[at as usize].right = self.remove_below(right, start, end),
            Ordering::Equal => return self.merge(left, right),
        }
        self.refresh(at);
        at
    }

    /// Joins two trees; everything in the first sorts before the second.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            let merged = self.merge(self.nodes[left as usize].right, right);
            self.nodes[left as usize].right = merged;
            self.refresh(left);
            left
        } else {
            let merged = self.merge(left, self.nodes[right as usize].left);
            self.nodes[right as usize].left = merged;
            self.refresh(right);
            right
        }
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let left = self.nodes[at as usize].left;
        self.nodes[at as usize].left = self.nodes[left as usize].right;
        self.nodes[left as usize].right = at;
        self.refresh(at);
        self.refresh(left);
        left
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let right = self.nodes[at as usize].right;
        self.nodes[at as usize].right = self.nodes[right as usize].left;
        self.nodes[right as usize].left = at;
        self.refresh(at);
        self.refresh(right);
        right
    }

    /// Computes a node's largest end from its children's.
    fn refresh(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let mut max = &node.end;
        for child in [node.left, node.right] {
            if child != NONE {
                let end = &self.nodes[child as usize].max_end;
                if compare_ends(end.as_deref(), max.as_deref()) == Ordering::Greater {
                    max = end;
                }
            }
        }
        let max = max.clone();
        self.nodes[at as usize].max_end = max;
    }

    fn next_priority(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        self.seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn depth(tree: &Intervals, at: u32) -> usize {
        if at == NONE {
            return 0;
        }
        let node = &tree.nodes[at as usize];
        1 + depth(tree, node.left).max(depth(tree, node.right))
    }

    #[test]
    fn finds_what_a_scan_finds() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut tree = Intervals::default();
        let mut model: Vec<(Arc<[u8]>, End, u32)> = Vec::new();
        for slot in 0..3000 {
            if random.random_bool(0.4) && !model.is_empty() {
                let (start, end, slot) = model.swap_remove(random.random_range(0..model.len()));
                tree.remove(&start, end.as_deref(), slot);
            } else {
                let start: Arc<[u8]> = vec![random.random_range(0..20_u8); random.random_range(0..3)].into();
                let end: End = random.random_bool(0.8).then(|| vec![random.random_range(0..22_u8); 2].into());
                tree.insert(&start, &end, slot);
                model.push((start, end, slot));
            }
            let key = vec![random.random_range(0..22_u8); random.random_range(0..4)];
            let mut found = Vec::new();
            tree.holding(&key, &mut |slot| found.push(slot));
            found.sort_unstable();
            let mut expected: Vec<u32> = (model.iter())
                .filter(|(start, end, _)| **start <= *key && ends_after(end, &key))
                .map(|(_, _, slot)| *slot)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected);
        }
        for (start, end, slot) in model {
            tree.remove(&start, end.as_deref(), slot);
        }
        assert_eq!((tree.root, tree.free.len()), (NONE, tree.nodes.len()));
    }

    #[test]
    fn stays_shallow_when_filled_in_order() {
        let mut tree = Intervals::default();
        for i in 0..10_000_u32 {
            let start: Arc<[u8]> = i.to_be_bytes().as_slice().into();
            tree.insert(&start, &Some((i + 1).to_be_bytes().as_slice().into()), i);
        }
        assert!(depth(&tree, tree.root) < 60, "{}", depth(&tree, tree.root));
    }
}
