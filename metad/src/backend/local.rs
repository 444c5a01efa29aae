//! Data in memory alone, gone with the process: for tests, and for hosts that somebody fills.

use super::{Failure, Manner, Target, surplus};
use crate::path;
use crate::state::{Table, World, Write};
use crate::values::Leaves;
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

#[derive(Debug, Default)]
struct Clock {
    /// Keys that have been put or deleted so far, which is the version in metad.
    revision: i64,
    ends: BTreeMap<(Table, Vec<u8>), Instant>,
}

impl Local {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, clock: Mutex::default() }
    }

    pub(super) fn put(&self, table: Table, path: &[u8], leaves: Leaves, manner: Manner) -> Result<(), Failure> {
        let mut clock = self.clock.lock();
        let gone = if manner.replace { surplus(&self.world, table, path, &leaves) } else { Vec::new() };
        let end = manner.ttl.map(|ttl| Instant::now() + ttl);
        let mut writes = Vec::new();
        let state = self.world.state();
        let tree = if table == Table::Mapping { state.mapping() } else { state.data() };
        for below in gone {
            let path = path::join(path, &below);
            clock.ends.remove(&(table, path.clone()));
            writes.push(clock.write(table, path, None));
        }
        for (below, value) in leaves {
            let path = path::join(path, &below);
            if path == b"/" {
                return Err(Failure::Invalid("the root cannot be a value: give an object".to_owned()));
            }
            match end {
                Some(end) => drop(clock.ends.insert((table, path.clone()), end)),
                None => drop(clock.ends.remove(&(table, path.clone()))),
            }
            // The same value again is no change.
            if table == Table::Rule || !tree.get(&path).is_some_and(|node| node.has_value(&value)) {
                writes.push(clock.write(table, path, Some(value)));
            }
        }
        drop(state);
        self.world.write(table, &writes);
        Ok(())
    }

    pub(super) fn delete(&self, table: Table, targets: &[Target]) {
        let mut clock = self.clock.lock();
        let state = self.world.state();
        let mut gone = BTreeSet::new();
        for target in targets {
            if table == Table::Rule {
                gone.insert(target.path.clone());
                continue;
            }
            let tree = if table == Table::Mapping { state.mapping() } else { state.data() };
            let below = tree.get(&target.path).map(|node| node.values_below()).unwrap_or_default();
            gone.extend(below.into_iter().map(|below| path::join(&target.path, &below)));
        }
        let mut writes = Vec::new();
        for path in gone {
            clock.ends.remove(&(table, path.clone()));
            writes.push(clock.write(table, path, None));
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
        let over: Vec<(Table, Vec<u8>)> =
            clock.ends.iter().filter(|(_, end)| **end <= now).map(|(key, _)| key.clone()).collect();
        for (table, path) in over {
            clock.ends.remove(&(table, path.clone()));
            let write = clock.write(table, path, None);
            self.world.write(table, &[write]);
        }
    }
}

impl Clock {
    fn write(&mut self, table: Table, path: Vec<u8>, value: Option<Vec<u8>>) -> Write {
        if table == Table::Data {
            self.revision += 1;
        }
        Write { path, value, revision: self.revision }
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

    #[test]
    fn versions_count_changes_and_replacing_leaves_no_gap() {
        let (world, local) = local();
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/y", "2")]), MERGE).unwrap();
        local.put(Table::Data, b"/a", leaves(&[("/x", "1")]), MERGE).unwrap();
        assert_eq!(shown(&world), (2, "/a/x\t1\n/a/y\t2\n".to_owned()));
        let replace = Manner { replace: true, ttl: None };
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/z", "3")]), replace).unwrap();
        assert_eq!(shown(&world), (4, "/a/x\t1\n/a/z\t3\n".to_owned()));
        local.delete(Table::Data, &[Target { path: b"/a".to_vec(), is_dir: true }]);
        assert_eq!(shown(&world), (6, String::new()));
        assert!(local.put(Table::Data, b"/", leaves(&[("/", "1")]), MERGE).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_with_a_time_go_by_themselves() {
        let (world, local) = local();
        let manner = Manner { replace: false, ttl: Some(Duration::from_secs(10)) };
        local.put(Table::Data, b"/a", leaves(&[("/x", "1"), ("/y", "2")]), manner).unwrap();
        local.put(Table::Data, b"/a", leaves(&[("/y", "2")]), MERGE).unwrap();
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
