//! Data in memory alone, gone with the process: for tests, and for hosts that somebody fills.

use super::Manner;
use crate::path;
use crate::state::{Table, World, Write};
use crate::tree::{Node, Tree};
use crate::values::{self, Leaves, Types};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often leaves are looked for whose time is over.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Local {
    world: Arc<World>,
    clock: Mutex<Clock>,
}

/// A key: of a table, a path, and of a value there or of its type.
type Place = (Table, Vec<u8>, bool);

#[derive(Debug, Default)]
struct Clock {
    /// Keys that have been put or deleted so far, which is the version in metad.
    revision: i64,
    ends: BTreeMap<Place, Instant>,
}

impl Local {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, clock: Mutex::default() }
    }

    /// Writes leaves, whose paths are allowed, below a path.
    pub(super) fn put(&self, table: Table, path: &[u8], leaves: Leaves, types: Types, manner: Manner) {
        let mut clock = self.clock.lock();
        let state = self.world.state();
        let tree = if table == Table::Mapping { state.mapping() } else { state.data() };
        let end = manner.ttl.map(|ttl| Instant::now() + ttl);
        let known_types = if table == Table::Data { state.types() } else { &Tree::default() };
        let known = known_types.get(path).map(AsRef::as_ref);
        let mut gone = BTreeSet::new();
        if manner.replace {
            let values = below(tree, path).into_iter().filter(|below| !leaves.contains_key(below));
            gone.extend(values.map(|below| (below, false)));
            let kinds = known.map(Node::values_below).unwrap_or_default().into_iter();
            gone.extend(kinds.filter(|below| !types.contains_key(below)).map(|below| (below, true)));
        } else {
            gone.extend(values::outdated(known, &leaves, &types).into_iter().map(|below| (below, true)));
        }
        let textless = values::containers(&types).filter(|below| !leaves.contains_key(*below));
        let textless = textless.filter(|below| text(tree, &path::join(path, below)).is_some());
        gone.extend(textless.map(|below| (below.clone(), false)));
        let mut writes = Vec::new();
        for (below, is_type) in gone {
            writes.push(clock.write((table, path::join(path, &below), is_type), None));
        }
        let values = leaves.into_iter().map(|(below, value)| (below, value, false));
        for (below, value, is_type) in values.chain(types.into_iter().map(|(below, json)| (below, json, true))) {
            let path = path::join(path, &below);
            // The same value again is no change.
            let is_same = text(if is_type { known_types } else { tree }, &path) == Some(value.as_slice());
            let place = (table, path, is_type);
            if table == Table::Rule || !is_same {
                writes.push(clock.write(place.clone(), Some(value)));
            }
            match end {
                Some(end) => drop(clock.ends.insert(place, end)),
                None => drop(clock.ends.remove(&place)),
            }
        }
        drop(state);
        self.world.write(table, &writes);
    }

    /// Takes paths away, with all below.
    pub(super) fn delete(&self, table: Table, paths: &[Vec<u8>]) {
        let mut clock = self.clock.lock();
        let state = self.world.state();
        let mut gone = BTreeSet::new();
        for path in paths {
            if table == Table::Rule {
                gone.insert((path.clone(), false));
                continue;
            }
            if table == Table::Data {
                let types = state.types().get(path).map(|node| node.values_below()).unwrap_or_default();
                gone.extend(types.into_iter().map(|below| (path::join(path, &below), true)));
            }
            let tree = if table == Table::Mapping { state.mapping() } else { state.data() };
            let below = below(tree, path);
            if below.is_empty() {
                gone.extend(text(tree, path).map(|_| (path.clone(), false)));
            }
            // The value that these hide is seen again, as in a store.
            gone.extend(below.into_iter().map(|below| (path::join(path, &below), false)));
        }
        drop(state);
        let mut writes = Vec::new();
        for (path, is_type) in gone {
            writes.push(clock.write((table, path, is_type), None));
        }
        self.world.write(table, &writes);
    }

    /// Takes leaves away whose time is over, until it is stopped.
    pub(crate) async fn expire(&self, stop: CancellationToken) {
        let expiring = async {
            loop {
                sleep(EXPIRY_INTERVAL).await;
                self.expire_now();
            }
        };
        stop.run_until_cancelled(expiring).await;
    }

    fn expire_now(&self) {
        let mut clock = self.clock.lock();
        let now = Instant::now();
        let over: Vec<Place> = clock.ends.iter().filter(|(_, end)| **end <= now).map(|(key, _)| key.clone()).collect();
        let mut writes: BTreeMap<Table, Vec<Write>> = BTreeMap::new();
        for place in over {
            let table = place.0;
            let write = clock.write(place, None);
            writes.entry(table).or_default().push(write);
        }
        // What goes together is seen to go together.
        for (table, writes) in writes {
            self.world.write(table, &writes);
        }
    }
}

/// The text at a path, hidden or not.
fn text<'t>(tree: &'t Tree, path: &[u8]) -> Option<&'t [u8]> {
    tree.get(path)?.value().map(AsRef::as_ref)
}

/// Paths of all texts below a path, from there, without its own.
fn below(tree: &Tree, path: &[u8]) -> Vec<Vec<u8>> {
    let values = tree.get(path).map(|node| node.values_below()).unwrap_or_default();
    values.into_iter().filter(|below| below != b"/").collect()
}

impl Clock {
    fn write(&mut self, place: Place, value: Option<Vec<u8>>) -> Write {
        if value.is_none() {
            self.ends.remove(&place);
        }
        let (table, path, is_type) = place;
        if table == Table::Data {
            self.revision += 1;
        }
        Write { path, value, revision: self.revision, is_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(leaves: &[(&str, &str)]) -> Leaves {
        leaves.iter().map(|(path, value)| (path.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    fn local() -> (Arc<World>, Local) {
        let world = Arc::new(World::default());
        (Arc::clone(&world), Local::new(world))
    }

    fn shown(world: &World) -> (i64, String) {
        let state = world.state();
        (state.version(), String::from_utf8(state.all(Table::Data, b"/").unwrap().text()).unwrap())
    }

    const MERGE: Manner = Manner { replace: false, ttl: None };
    const REPLACE: Manner = Manner { replace: true, ttl: None };

    #[test]
    fn versions_count_changes_and_replacing_leaves_no_gap() {
        let (world, local) = local();
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/y", "2")]), Types::new(), MERGE);
        local.put(Table::Data, b"/a", leaves(&[("/x", "1")]), Types::new(), MERGE);
        assert_eq!(shown(&world), (2, "/a/x\t1\n/a/y\t2\n".to_owned()));
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/z", "3")]), Types::new(), REPLACE);
        assert_eq!(shown(&world), (4, "/a/x\t1\n/a/z\t3\n".to_owned()));
        local.delete(Table::Data, &[b"/a".to_vec()]);
        assert_eq!(shown(&world), (6, String::new()));
    }

    /// As in a store, where a directory is the keys below its own.
    #[test]
    fn a_hidden_value_is_none_of_its_directory() {
        let (world, local) = local();
        local.put(Table::Data, b"/a", leaves(&[("/", "hidden")]), Types::new(), MERGE);
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/y", "2")]), Types::new(), REPLACE);
        local.put(Table::Data, b"/a", leaves(&[("/y", "2")]), Types::new(), REPLACE);
        assert_eq!(shown(&world).1, "/a/y\t2\n");
        local.delete(Table::Data, &[b"/a".to_vec(), b"/nothing".to_vec()]);
        assert_eq!(shown(&world).1, "/a\thidden\n");
        local.delete(Table::Data, &[b"/a".to_vec()]);
        assert_eq!(shown(&world).1, "");
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_with_a_time_go_by_themselves() {
        let (world, local) = local();
        let manner = Manner { replace: false, ttl: Some(Duration::from_secs(10)) };
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/y", "2")]), Types::new(), manner);
        local.put(Table::Data, b"/a", leaves(&[("/y", "2")]), Types::new(), MERGE);
        let stop = CancellationToken::new();
        let stopping = async {
            sleep(Duration::from_secs(9)).await;
            assert_eq!(shown(&world).1, "/a/x\t1\n/a/y\t2\n");
            sleep(Duration::from_secs(2)).await;
            stop.cancel();
        };
        tokio::join!(local.expire(stop.clone()), stopping);
        assert_eq!(shown(&world).1, "/a/y\t2\n");
    }
}
