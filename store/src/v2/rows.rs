//! The tree in the database and in snapshots: a row for each node by its path, and one for each event by its index.

use super::changed::Rows;
use super::node::{Content, Node, split};
use super::{Action, Event, NodeView, Tree};
use crate::error::Fault;
use crate::schema::{self, meta};
use api::cleatpb::{V2Event, V2EventNode, V2Node};
use bytes::Bytes;
use prost::Message as _;
use redb::{ReadTransaction, ReadableTable as _, WriteTransaction};
use std::sync::Arc;

/// What a flush writes.
pub(crate) struct Changes {
    nodes: Rows,
    events: Vec<Arc<Event>>,
    /// Events before this one are forgotten.
    oldest: u64,
    index: u64,
}

impl Tree {
    /// The changes since the last call.
    pub(crate) fn take_changed(&mut self) -> Option<Changes> {
        let (events, oldest) = self.history.take_unsaved();
        if self.changed.is_empty() && events.is_empty() {
            return None;
        }
        Some(Changes { nodes: self.changed.take(), events, oldest, index: self.index })
    }

    /// What the last call took is in the database.
    pub(crate) fn written(&mut self) {
        self.changed.written();
    }

    /// Bytes of nodes that are not in the database yet.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.changed.bytes()
    }

    /// Bytes of nodes that no flush has taken yet.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.changed.waiting_bytes()
    }

    /// Takes a row of the nodes' table. Directories come before what is in them.
    pub(crate) fn restore_node(&mut self, path: &[u8], record: &[u8]) -> Result<(), Fault> {
        // A copy, because a decoded record is slices of the whole.
        let record = V2Node::decode(Bytes::copy_from_slice(record)).map_err(|error| damaged("v2_nodes", &error))?;
        let node = Node {
            created_index: record.created_index,
            modified_index: record.modified_index,
            expiration: record.expiration,
            content: if record.dir { Content::Dir(Arc::default()) } else { Content::File(record.value) },
        };
        let (bytes, expiration) = (node.bytes(path), node.expiration);
        let parent = split(path).and_then(|(parent, name)| Some((self.find_mut(parent)?.children_mut()?, name)));
        let Some((children, name)) = parent else {
            return Err(damaged("v2_nodes", &"a node is in no directory"));
        };
        if children.insert(name.into(), node).is_some() {
            return Err(damaged("v2_nodes", &"a node is there twice"));
        }
        self.node_bytes += bytes;
        if expiration != 0 {
            self.expiring.insert((expiration, path.into()));
        }
        if path.starts_with(super::AUTH.as_bytes()) {
            self.look_at_auth(path);
        }
        Ok(())
    }

    /// Takes a row of the events' table. They come in order.
    pub(crate) fn restore_event(&mut self, index: u64, record: &[u8]) -> Result<(), Fault> {
        let record = V2Event::decode(Bytes::copy_from_slice(record)).map_err(|error| damaged("v2_events", &error))?;
        let event = Event {
            action: Action::of_name(&record.action).ok_or_else(|| damaged("v2_events", &"an action is not known"))?,
            node: view(record.node.ok_or_else(|| damaged("v2_events", &"an event is of no node"))?),
            prev_node: record.prev_node.map(view),
            is_refresh: record.refresh,
        };
        if event.index() != index {
            return Err(damaged("v2_events", &"the index of an event is another one's"));
        }
        self.history.restore(event).map_err(|reason| damaged("v2_events", &reason))
    }

    pub(crate) fn restore_index(&mut self, index: u64) {
        self.index = index;
    }

    /// To be called when all rows are there.
    pub(crate) fn restored(&self) -> Result<(), Fault> {
        match self.history.last() {
            Some(last) if last != self.index => Err(damaged("v2_events", &"the last events are missing")),
            _ => Ok(()),
        }
    }
}

fn damaged(table: &'static str, reason: &dyn std::fmt::Display) -> Fault {
    Fault::Damaged { table, reason: reason.to_string() }
}

pub(super) fn record(node: &Node) -> V2Node {
    V2Node {
        dir: node.is_dir(),
        created_index: node.created_index,
        modified_index: node.modified_index,
        expiration: node.expiration,
        value: node.value().cloned().unwrap_or_default(),
    }
}

fn view(node: V2EventNode) -> NodeView {
    NodeView {
        key: (&*node.key).into(),
        value: node.value,
        is_dir: node.dir,
        expiration: node.expiration,
        ttl: node.ttl,
        modified_index: node.modified_index,
        created_index: node.created_index,
    }
}

fn event_node(view: &NodeView) -> V2EventNode {
    V2EventNode {
        key: Bytes::copy_from_slice(&view.key),
        value: view.value.clone(),
        dir: view.is_dir,
        expiration: view.expiration,
        ttl: view.ttl,
        modified_index: view.modified_index,
        created_index: view.created_index,
    }
}

fn event_record(event: &Event) -> V2Event {
    V2Event {
        action: event.action.name().to_owned(),
        node: Some(event_node(&event.node)),
        prev_node: event.prev_node.as_ref().map(event_node),
        refresh: event.is_refresh,
    }
}

/// Creates the tables.
pub(crate) fn create(txn: &WriteTransaction) -> Result<(), Fault> {
    txn.open_table(schema::V2_NODES)?;
    txn.open_table(schema::V2_EVENTS)?;
    Ok(())
}

pub(crate) fn write(txn: &WriteTransaction, changes: &Changes) -> Result<(), Fault> {
    let mut nodes = txn.open_table(schema::V2_NODES)?;
    for (path, node) in &changes.nodes {
        match node {
            Some(node) => drop(nodes.insert(&**path, node.encode_to_vec().as_slice())?),
            None => drop(nodes.remove(&**path)?),
        }
    }
    let mut events = txn.open_table(schema::V2_EVENTS)?;
    for event in &changes.events {
        events.insert(event.index(), event_record(event).encode_to_vec().as_slice())?;
    }
    events.retain_in(..changes.oldest, |_, _| false)?;
    txn.open_table(schema::META)?.insert(meta::V2_INDEX, changes.index.to_be_bytes().as_slice())?;
    Ok(())
}

/// Reads everything at start.
pub(crate) fn read(txn: &ReadTransaction) -> Result<Tree, Fault> {
    let mut tree = Tree::default();
    for row in txn.open_table(schema::V2_NODES)?.range::<&[u8]>(..)? {
        let (path, record) = row?;
        tree.restore_node(path.value(), record.value())?;
    }
    for row in txn.open_table(schema::V2_EVENTS)?.range::<u64>(..)? {
        let (index, record) = row?;
        tree.restore_event(index.value(), record.value())?;
    }
    if let Some(index) = txn.open_table(schema::META)?.get(meta::V2_INDEX)? {
        tree.restore_index(schema::decode_int("meta", index.value())? as u64);
    }
    tree.restored()?;
    Ok(tree)
}

/// Moves the index up, to where nobody has been, and forgets the history.
pub(crate) fn forget_events(
    txn: &WriteTransaction,
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    bump: u64,
) -> Result<(), Fault> {
    let index = match meta.get(meta::V2_INDEX)? {
        Some(index) => schema::decode_int("meta", index.value())? as u64,
        None => super::FIRST_INDEX,
    };
    let bumped = index.checked_add(bump).filter(|index| i64::try_from(*index).is_ok());
    let bumped = bumped.ok_or_else(|| Fault::Snapshot(format!("its v2 index {index} cannot be moved up by {bump}")))?;
    meta.insert(meta::V2_INDEX, bumped.to_be_bytes().as_slice())?;
    txn.open_table(schema::V2_EVENTS)?.retain(|_, _| false)?;
    Ok(())
}

/// Copies both tables to another database.
pub(crate) fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), Fault> {
    let mut nodes = to.open_table(schema::V2_NODES)?;
    for row in from.open_table(schema::V2_NODES)?.range::<&[u8]>(..)? {
        let (path, record) = row?;
        nodes.insert(path.value(), record.value())?;
    }
    let mut events = to.open_table(schema::V2_EVENTS)?;
    for row in from.open_table(schema::V2_EVENTS)?.range::<u64>(..)? {
        let (index, record) = row?;
        events.insert(index.value(), record.value())?;
    }
    Ok(())
}
