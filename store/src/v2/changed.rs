//! Rows of the tree's nodes that the database has otherwise, or not at all.

use super::OVERHEAD;
use api::cleatpb::V2Node;
use std::collections::BTreeMap;

/// Rows by path; none for a node that is gone.
pub(crate) type Rows = BTreeMap<Box<[u8]>, Option<V2Node>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Changed {
    rows: Rows,
    bytes: usize,
    /// Of the rows that were taken, and are being written.
    taken_bytes: usize,
}

impl Changed {
    /// Notes the row that a path has now. It is kept as it is, so that the flush has nothing to look up while it holds
    /// the state.
    pub(super) fn note(&mut self, path: Box<[u8]>, row: Option<V2Node>) {
        let length = path.len();
        self.bytes += bytes(length, row.as_ref());
        if let Some(old) = self.rows.insert(path, row) {
            self.bytes -= bytes(length, old.as_ref());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What they take in memory, those included that are being written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.taken_bytes
    }

    /// The same without those.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes them all, to be written.
    pub(super) fn take(&mut self) -> Rows {
        self.taken_bytes = std::mem::take(&mut self.bytes);
        std::mem::take(&mut self.rows)
    }

    /// What was taken is in the database.
    pub(super) fn written(&mut self) {
        self.taken_bytes = 0;
    }
}

fn bytes(path_length: usize, row: Option<&V2Node>) -> usize {
    path_length + row.map_or(0, |row| row.value.len()) + OVERHEAD as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_once_and_until_they_are_written() {
        let row = |length: usize| Some(V2Node { value: vec![0; length].into(), ..V2Node::default() });
        let mut changed = Changed::default();
        assert!(changed.is_empty() && changed.bytes() == 0);
        changed.note((*b"/1/a").into(), row(1000));
        changed.note((*b"/1/a").into(), row(10));
        changed.note((*b"/1/bc").into(), None);
        let all = 4 + 10 + 5 + 2 * OVERHEAD as usize;
        assert_eq!(changed.bytes(), all);
        let rows = changed.take();
        assert_eq!(rows.into_values().map(|row| row.is_some()).collect::<Vec<_>>(), [true, false]);
        assert!(changed.is_empty() && changed.bytes() == all, "they are being written");
        changed.note((*b"/").into(), None);
        assert_eq!(changed.waiting_bytes(), 1 + OVERHEAD as usize);
        assert_eq!(changed.bytes(), all + 1 + OVERHEAD as usize);
        changed.written();
        assert_eq!(changed.bytes(), 1 + OVERHEAD as usize);
    }
}
