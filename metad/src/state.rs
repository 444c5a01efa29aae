//! All that is known, as of one moment: data, mappings and rules. A [`State`] never changes; [`World`] has the newest, and
//! makes the next one.

use crate::access::{Access, Place};
use crate::address::Addressed;
use crate::hub::{Hub, Topic};
use crate::mapping::Mapped;
use crate::path;
use crate::rules;
use crate::shown::{self, Shown};
use crate::tree::{Effect, Tree};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One of the three stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Table {
    Data,
    Mapping,
    Rule,
}

/// A key that has another value than before, or is new or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) topic: Topic,
    /// Clean. In the rules it is the host.
    pub(crate) path: Vec<u8>,
}

/// A write to one key of a table, as the backend tells it.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) path: Vec<u8>,
    /// None takes it away.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) revision: i64,
}

/// A version of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    data: Tree,
    /// Revision of the last write to the data.
    version: i64,
    mapping: Tree,
    mapped: Addressed<Arc<Mapped>>,
    /// By host, as it was written.
    rules: BTreeMap<String, Arc<Access>>,
    access: Addressed<Arc<Access>>,
}

impl State {
    pub(crate) fn data(&self) -> &Tree {
        &self.data
    }

    pub(crate) fn mapping(&self) -> &Tree {
        &self.mapping
    }

    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    pub(crate) fn rules(&self) -> &BTreeMap<String, Arc<Access>> {
        &self.rules
    }

    /// The mapping that a client's address has.
    pub(crate) fn mapped(&self, client: IpAddr) -> Option<&Arc<Mapped>> {
        self.mapped.get(client)
    }

    /// The rules that a client's address has.
    pub(crate) fn access(&self, client: IpAddr) -> Option<&Arc<Access>> {
        self.access.get(client)
    }

    /// The begin of a client's walk through the data.
    pub(crate) fn enter<'a>(&'a self, access: &'a Access) -> Place<'a> {
        access.enter(self.data.root())
    }

    /// All of a path of the data or the mappings, for who may see everything. A directory without leaves is none.
    pub(crate) fn all(&self, table: Table, path: &[u8]) -> Option<Shown> {
        let tree = if table == Table::Data { &self.data } else { &self.mapping };
        shown::all(tree.root(), path)
    }

    /// Does writes of one table. Returns what changed.
    fn write(&mut self, table: Table, writes: &[Write]) -> Vec<Change> {
        let mut changes = Vec::new();
        for write in writes {
            let effect = match table {
                Table::Data => {
                    self.version = self.version.max(write.revision);
                    put(&mut self.data, write)
                }
                Table::Mapping => put(&mut self.mapping, write),
                Table::Rule => self.write_rule(write),
            };
            if effect == Effect::Changed {
                changes.push(Change { topic: table.into(), path: write.path.clone() });
            }
        }
        if table == Table::Mapping {
            self.map_again(&changes);
        }
        changes
    }

    fn map_again(&mut self, changes: &[Change]) {
        let mut clients: Vec<&[u8]> =
            changes.iter().filter_map(|change| path::names(&change.path).first().copied()).collect();
        clients.sort_unstable();
        clients.dedup();
        for client in clients {
            let mapped = self.mapping.root().child(client).and_then(|links| Mapped::new(client, links)).map(Arc::new);
            self.mapped.set(&String::from_utf8_lossy(client), mapped);
        }
    }

    fn write_rule(&mut self, write: &Write) -> Effect {
        let host = String::from_utf8_lossy(&write.path).trim_start_matches('/').to_owned();
        let access = write.value.as_ref().map(|text| {
            let (access, error) = rules::stored(text);
            if let Some(error) = error {
                tracing::error!(host, "the stored rules cannot be read, so everything is forbidden: {error}");
            }
            Arc::new(access)
        });
        self.access.set(&crate::mapping::client_name(&host), access.clone());
        match access {
            Some(access) => drop(self.rules.insert(host, access)),
            None => drop(self.rules.remove(&host)),
        }
        Effect::Changed
    }
}

fn put(tree: &mut Tree, write: &Write) -> Effect {
    match &write.value {
        Some(value) => tree.put(&write.path, value, write.revision),
        None => tree.remove(&write.path, write.revision),
    }
}

/// The newest state, and who waits for the next.
#[derive(Debug, Default)]
pub(crate) struct World {
    state: RwLock<Arc<State>>,
    /// One writer at a time; it makes the next state while the one before is read.
    writing: Mutex<()>,
    pub(crate) hub: Arc<Hub>,
}

impl World {
    /// The newest state. It does not change while it is looked at.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// Does writes of one table, all at once for who reads, and wakes who waits for them.
    pub(crate) fn write(&self, table: Table, writes: &[Write]) {
        let _writer = self.writing.lock();
        let mut next = State::clone(&self.state());
        let changes = next.write(table, writes);
        *self.state.write() = Arc::new(next);
        self.hub.publish(&changes);
    }

    /// Puts all keys of a table in the place of those that were known: what is gone was gone as of `revision`.
    pub(crate) fn replace(&self, table: Table, present: Vec<Write>, revision: i64) {
        let old = self.state();
        let known: Vec<Vec<u8>> = match table {
            Table::Rule => old.rules.keys().map(|host| format!("/{host}").into_bytes()).collect(),
            Table::Data => old.data.values(),
            Table::Mapping => old.mapping.values(),
        };
        let listed: std::collections::HashSet<&[u8]> = present.iter().map(|write| write.path.as_slice()).collect();
        let gone = known.into_iter().filter(|path| !listed.contains(path.as_slice()));
        let mut writes: Vec<Write> = gone.map(|path| Write { path, value: None, revision }).collect();
        drop((listed, old));
        writes.extend(present);
        self.write(table, &writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    fn write(path: &str, value: Option<&str>, revision: i64) -> Write {
        Write { path: path.as_bytes().to_vec(), value: value.map(|value| value.as_bytes().to_vec()), revision }
    }

    #[test]
    fn clients_follow_their_mappings_and_rules() {
        let world = World::default();
        let client = address::parse("1.1.1.1").unwrap();
        world.write(Table::Data, &[write("/a", Some("x"), 3)]);
        world.write(Table::Mapping, &[write("/1.1.1.1/a", Some("/a"), 4), write("/2.2.2.2", Some("/a"), 4)]);
        let state = world.state();
        assert!(state.mapped(client).is_some() && state.mapped(address::parse("2.2.2.2").unwrap()).is_none());
        assert_eq!((state.version(), state.data().len()), (3, 1));
        world.write(Table::Rule, &[write("/1.1.1.1", Some("[]"), 5), write("/h", Some("rubbish"), 5)]);
        let state = world.state();
        assert!(state.access(client).is_some() && state.rules()["h"].rules().is_empty());
        world.write(Table::Mapping, &[write("/1.1.1.1/a", None, 6)]);
        assert!(world.state().mapped(client).is_none() && state.mapped(client).is_some());
    }

    #[test]
    fn a_listing_takes_away_what_it_lacks() {
        let world = World::default();
        world.write(Table::Data, &[write("/a", Some("x"), 3), write("/b", Some("y"), 4), write("/b/c", Some("z"), 5)]);
        world.write(Table::Rule, &[write("/h", Some("[]"), 5)]);
        world.replace(Table::Data, vec![write("/b", Some("y"), 4)], 9);
        world.replace(Table::Rule, Vec::new(), 9);
        let state = world.state();
        assert_eq!(state.all(Table::Data, b"/").unwrap().text(), b"/b\ty\n");
        assert_eq!((state.version(), state.rules().len(), state.data().root().version()), (9, 0, 9));
    }
}
