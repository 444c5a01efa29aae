//! All that is known, as of one moment: data, mappings and rules. A [`State`] never changes; [`World`] has the newest, and
//! makes the next one.

use crate::access::{Access, Place};
use crate::address::{self, Addressed, DEFAULT, Net};
use crate::hub::{Hub, Topic};
use crate::mapping::Mapped;
use crate::path;
use crate::rules;
use crate::shown::{self, Shown};
use crate::tree::{Effect, Tree};
use crate::values;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashSet};
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
    /// It is the type of the value at the path, of the data only.
    pub(crate) is_type: bool,
}

/// A version of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    data: Tree,
    /// Types in the data, also those that count no more because the text is another.
    types: Tree,
    /// Revision of the last write to the data.
    version: i64,
    mapping: Tree,
    // Shared with the states before, unless it is written.
    mapped: Arc<Addressed<Arc<Mapped>>>,
    /// By host, as it was written.
    rules: Arc<BTreeMap<String, Arc<Access>>>,
    access: Arc<Addressed<Arc<Access>>>,
}

impl State {
    pub(crate) fn data(&self) -> &Tree {
        &self.data
    }

    pub(crate) fn types(&self) -> &Tree {
        &self.types
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
                    self.write_data(write)
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
        if table != Table::Data {
            let others = changes.iter().filter_map(|change| Some((change.topic, told_at(table, change)?)));
            // Once each, however many links of a network have changed.
            let others: BTreeSet<(Topic, String)> = others.collect();
            changes.extend(others.into_iter().map(|(topic, path)| Change { topic, path: path.into_bytes() }));
        }
        changes
    }

    /// What is shown depends on the text and on its type, whichever of them is written first.
    fn write_data(&mut self, write: &Write) -> Effect {
        if write.is_type {
            put(&mut self.types, write);
        } else if self.types.root().children().is_none() {
            return put(&mut self.data, write);
        }
        let text = if write.is_type {
            self.data.get(&write.path).and_then(|node| node.value()).cloned()
        } else {
            write.value.as_deref().map(Arc::from)
        };
        let kind = self.types.get(&write.path).and_then(|node| node.value());
        match values::leaf(text, kind.map(AsRef::as_ref)) {
            Some(leaf) => self.data.set(&write.path, leaf),
            None => self.data.remove(&write.path),
        }
    }

    fn map_again(&mut self, changes: &[Change]) {
        let mut clients: Vec<&[u8]> =
            changes.iter().filter_map(|change| path::names(&change.path).first().copied()).collect();
        clients.sort_unstable();
        clients.dedup();
        for client in clients {
            let mapped = self.mapping.root().child(client).and_then(Mapped::new).map(Arc::new);
            Arc::make_mut(&mut self.mapped).set(&String::from_utf8_lossy(client), mapped);
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
        Arc::make_mut(&mut self.access).set(&host, access.clone());
        let rules = Arc::make_mut(&mut self.rules);
        match access {
            Some(access) => drop(rules.insert(host, access)),
            None => drop(rules.remove(&host)),
        }
        Effect::Changed
    }
}

/// Where a change of a client's mapping or rules is told, too: clients wait at the own form of their address, and at
/// `default` for what networks and everybody have.
fn told_at(table: Table, change: &Change) -> Option<String> {
    // A host may be a network with its slash.
    let host = change.path.get(1..)?;
    let name = if table == Table::Rule { host } else { host.split(|byte| *byte == b'/').next()? };
    let name = String::from_utf8_lossy(name).into_owned();
    match address::parse(&name) {
        Some(address) => Some(address.to_string()).filter(|own| *own != name).map(|own| format!("/{own}")),
        None => Net::parse(&name).map(|_| format!("/{DEFAULT}")),
    }
}

fn put(tree: &mut Tree, write: &Write) -> Effect {
    match &write.value {
        Some(value) => tree.put(&write.path, value),
        None => tree.remove(&write.path),
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
        let types = if table == Table::Data { old.types.values() } else { Vec::new() };
        let listed: HashSet<(bool, &[u8])> =
            present.iter().map(|write| (write.is_type, write.path.as_slice())).collect();
        let known = known.into_iter().map(|path| (false, path)).chain(types.into_iter().map(|path| (true, path)));
        let gone = known.filter(|(is_type, path)| !listed.contains(&(*is_type, path.as_slice())));
        let gone = gone.map(|(is_type, path)| Write { path, value: None, revision, is_type });
        let mut writes: Vec<Write> = gone.collect();
        drop((listed, old));
        writes.extend(present);
        self.write(table, &writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str, value: Option<&str>, revision: i64) -> Write {
        let value = value.map(|value| value.as_bytes().to_vec());
        Write { path: path.as_bytes().to_vec(), value, revision, is_type: false }
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

    /// Others write such keys: with the slash, or with bits that do not count.
    #[test]
    fn rules_of_two_names_of_a_network_do_not_touch_each_other() {
        let world = World::default();
        let client = address::parse("10.9.9.9").unwrap();
        let modes = |world: &World| {
            let state = world.state();
            state.access(client).map(|access| access.rules().len())
        };
        let rules = r#"[{"path":"/a","mode":1}]"#;
        world.write(Table::Rule, &[write("/10.0.0.0/8", Some("[]"), 1), write("/10.0.0.0_8", Some(rules), 2)]);
        assert_eq!(modes(&world), Some(0));
        world.write(Table::Rule, &[write("/10.0.0.0/8", None, 3)]);
        assert_eq!(modes(&world), Some(1));
        world.write(Table::Rule, &[write("/10.0.0.0_8", None, 4)]);
        assert_eq!(modes(&world), None);
    }

    #[test]
    fn a_write_to_the_data_copies_no_clients() {
        let world = World::default();
        world.write(Table::Mapping, &[write("/1.1.1.1/a", Some("/a"), 1)]);
        world.write(Table::Rule, &[write("/1.1.1.1", Some("[]"), 2)]);
        let before = world.state();
        world.write(Table::Data, &[write("/a", Some("x"), 3)]);
        let state = world.state();
        assert!(Arc::ptr_eq(&before.mapped, &state.mapped) && Arc::ptr_eq(&before.access, &state.access));
        assert!(Arc::ptr_eq(&before.rules, &state.rules));
    }

    #[test]
    fn what_is_for_many_is_told_at_one_path() {
        let mut state = State::default();
        let writes = ["/10.0.0.0_8/a", "/10.0.0.0_8/b", "/default/a", "/0:0::1/a", "/1.1.1.1/a"];
        let changes = state.write(Table::Mapping, &writes.map(|path| write(path, Some("/a"), 1)));
        let told: Vec<String> = changes.into_iter().map(|change| String::from_utf8(change.path).unwrap()).collect();
        assert_eq!(told, [writes.as_slice(), &["/::1", "/default"]].concat());
        let changes = state.write(Table::Rule, &[write("/10.0.0.0/8", Some("[]"), 1), write("/host", Some("[]"), 1)]);
        assert_eq!(changes.len(), 3);
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
        assert_eq!((state.version(), state.rules().len()), (9, 0));
    }
}
