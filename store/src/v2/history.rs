//! The last events, for watchers that ask for an index of the past.

use super::{Action, Event, FIRST_INDEX, NodeView, OVERHEAD};
use std::collections::VecDeque;
use std::sync::Arc;

/// Events that are kept. etcd's number.
pub(super) const EVENTS_MAX: usize = 1000;

/// And what they may hold: large values would fill the quota with what nobody can delete. The last one is always kept.
pub(super) const EVENTS_BYTES_MAX: u64 = 64 << 20;

#[derive(Default)]
pub(super) struct History {
    /// One for each index, without gaps.
    events: VecDeque<Arc<Event>>,
    /// How many of the last ones the database does not have.
    unsaved: usize,
    bytes: u64,
}

impl History {
    /// Appends an event.
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += bytes(&event);
        self.events.push_back(event);
        while (self.events.len() > EVENTS_MAX || self.bytes > EVENTS_BYTES_MAX)
            && self.events.len() > 1
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= bytes(&oldest);
        }
        self.unsaved = (self.unsaved + 1).min(EVENTS_MAX);
    }

    /// What it counts for in the quota.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The oldest index that can be asked for, in a tree at `index`.
    pub(super) fn start(&self, index: u64) -> u64 {
        match self.events.front() {
            // Those before it are etcd's own, of which nobody is told: they count, and are not here.
            Some(first) if first.index() == FIRST_INDEX + 1 => index.saturating_sub(EVENTS_MAX as u64 - 1).max(1),
            Some(first) => first.index(),
            None if index == FIRST_INDEX => 1,
            None => index + 1,
        }
    }

    /// The first event from `since` on that a watcher of `key` is told of. As in etcd, hidden keys are not left out here,
    /// and a directory that was removed concerns every key that begins with its path.
    pub(super) fn scan(&self, key: &[u8], recursive: bool, since: u64) -> Option<&Arc<Event>> {
        let first = self.events.front()?.index();
        let skipped = usize::try_from(since.saturating_sub(first)).unwrap_or(usize::MAX);
        self.events.iter().skip(skipped).find(|event| !event.is_refresh && concerns(event, key, recursive))
    }

    /// The events that the database does not have, and the index of the oldest one that it keeps.
    pub(super) fn take_unsaved(&mut self) -> (Vec<Arc<Event>>, u64) {
        let saved = self.events.len() - std::mem::take(&mut self.unsaved).min(self.events.len());
        let oldest = self.events.front().map_or(0, |event| event.index());
        (self.events.iter().skip(saved).cloned().collect(), oldest)
    }

    /// Takes an event that was stored. They come in order.
    pub(super) fn restore(&mut self, event: Event) -> Result<(), &'static str> {
        if self.events.back().is_some_and(|last| event.index() != last.index() + 1) {
            return Err("an event is missing");
        }
        if self.events.len() == EVENTS_MAX {
            return Err("there are too many events");
        }
        self.push(Arc::new(event));
        self.unsaved = 0;
        Ok(())
    }

    /// Index of the newest event.
    pub(super) fn last(&self) -> Option<u64> {
        self.events.back().map(|event| event.index())
    }
}

fn bytes(event: &Event) -> u64 {
    let of = |node: &NodeView| (node.key.len() + node.value.as_ref().map_or(0, bytes::Bytes::len)) as u64 + OVERHEAD;
    of(&event.node) + event.prev_node.as_ref().map_or(0, of)
}

fn concerns(event: &Event, key: &[u8], recursive: bool) -> bool {
    let changed = &*event.node.key;
    let below = |prefix: &[u8]| {
        let rest = changed.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.first() == Some(&b'/') || prefix == b"/")
    };
    let takes_along = matches!(event.action, Action::Delete | Action::Expire)
        && event.prev_node.as_ref().is_some_and(|node| node.is_dir && key.starts_with(&node.key));
    changed == key || (recursive && below(key)) || takes_along
}
