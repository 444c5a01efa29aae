//! Keeps a table of the state like its keys in the store. Parts of a write of several transactions are held back until
//! its marker is gone, so whoever reads sees all of it or nothing.

use super::etcd::{Etcd, STAGING};
use crate::state::{Table, World, Write};
use api::mvccpb::event::EventType;
use api::mvccpb::{Event, KeyValue};
use client::{Events, Listing, Mirror, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a write of several parts is waited for: longer than its marker lives without its writer.
const PATIENCE: Duration = STAGING.saturating_add(Duration::from_secs(10));
/// Writes that are held back for such a write, at most.
const MAX_HELD: usize = 1_000_000;

/// What was told and is not shown yet.
#[derive(Default)]
struct Held {
    /// All keys, in the place of those that are known.
    listing: Option<BTreeMap<(Vec<u8>, bool), Write>>,
    writes: Vec<Write>,
    revision: i64,
    since: Option<Instant>,
}

/// Keeps one table.
pub(super) struct Follower {
    etcd: Arc<Etcd>,
    world: Arc<World>,
    table: Table,
    /// Markers of writes under way.
    open: BTreeSet<Vec<u8>>,
    held: Held,
}

impl Follower {
    pub(super) fn new(etcd: Arc<Etcd>, table: Table) -> Self {
        let world = Arc::clone(&etcd.world);
        Self { etcd, world, table, open: BTreeSet::new(), held: Held::default() }
    }

    /// Follows the keys for ever.
    pub(super) async fn run(&mut self) {
        let mut watched = self.etcd.layout.base(self.table).into_bytes();
        watched.push(b'/');
        let mut keys = Mirror::new(self.etcd.client.clone(), watched);
        loop {
            let next = async {
                match self.held.since {
                    None => Some(keys.next().await),
                    Some(since) => timeout(PATIENCE.saturating_sub(since.elapsed()), keys.next()).await.ok(),
                }
            };
            match next.await {
                Some(update) => self.take(update),
                None => self.lose_patience(),
            }
        }
    }

    /// Shows the parts of a write that has not ended in time. If the store was away meanwhile it may have ended, and it
    /// gets its time again: when the store is back it tells.
    fn lose_patience(&mut self) {
        if self.held.since.is_some_and(|since| self.etcd.heard() < since + STAGING) {
            self.held.since = Some(Instant::now());
            return;
        }
        tracing::warn!(table = ?self.table, "a write of several parts did not end; its parts are shown");
        self.open.clear();
        self.publish();
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Listing(listing) => self.list(listing),
            Update::Events(events) => self.events(&events),
            Update::Unread(error) => {
                tracing::warn!(table = ?self.table, "cannot read the store, trying again: {error}");
                // It may be heard again before the keys are read.
                self.held.since = self.held.since.map(|_| Instant::now());
                return;
            }
            Update::Lost(error) => {
                tracing::warn!(table = ?self.table, "{error}; reading everything again");
                return;
            }
        }
        self.etcd.hear();
        if self.open.is_empty() || self.held.writes.len() > MAX_HELD {
            self.publish();
        }
    }

    fn list(&mut self, listing: Listing) {
        let before = std::mem::take(&mut self.open);
        self.held = Held { since: self.held.since, revision: listing.revision, ..Held::default() };
        let mut present = BTreeMap::new();
        for kv in listing.kvs {
            if let Some(write) = self.write(&kv, false) {
                present.insert((write.path.clone(), write.is_type), write);
            }
        }
        self.held.listing = Some(present);
        if self.open.is_disjoint(&before) {
            // The time of others is no concern of these.
            self.held.since = (!self.open.is_empty()).then(Instant::now);
        }
    }

    fn events(&mut self, events: &Events) {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let markers = self.etcd.layout.markers(self.table);
        let is_marker = |event: &Event| event.kv.as_ref().is_some_and(|kv| kv.key.starts_with(&markers));
        let begins = |event: &Event| !is_delete(event) && is_marker(event);
        for events in events.events.chunk_by(|left, right| revision(left) == revision(right)) {
            // A write of several parts has ended with the revision before, or one begins with this one. If all that was
            // done before were held back until none is open, that could be never.
            if self.open.is_empty() && (self.held.since.is_some() || events.iter().any(begins)) {
                self.publish();
            }
            for event in events {
                self.event(event);
            }
            self.held.revision = self.held.revision.max(events.first().map_or(0, revision));
        }
        self.held.revision = self.held.revision.max(events.revision);
    }

    fn event(&mut self, event: &Event) {
        let Some(write) = event.kv.as_ref().and_then(|kv| self.write(kv, is_delete(event))) else { return };
        self.held.writes.push(write);
    }

    /// The write of a key, unless it is a marker or nothing of the table's.
    fn write(&mut self, kv: &KeyValue, is_delete: bool) -> Option<Write> {
        if kv.key.starts_with(&self.etcd.layout.markers(self.table)) {
            if is_delete {
                self.open.remove(kv.key.as_ref());
            } else {
                self.open.insert(kv.key.to_vec());
                self.held.since.get_or_insert_with(Instant::now);
            }
            return None;
        }
        let (path, is_type) = self.etcd.layout.path(self.table, &kv.key)?;
        // A copy: the field is a slice of the whole answer.
        Some(Write { path, value: (!is_delete).then(|| kv.value.to_vec()), revision: kv.mod_revision, is_type })
    }

    /// Shows all that was held back, at once.
    fn publish(&mut self) {
        let held = std::mem::take(&mut self.held);
        // Those that are open still have their time from now on.
        self.held.since = (!self.open.is_empty()).then(Instant::now);
        let revision = held.revision;
        match held.listing {
            Some(mut listing) => {
                for write in held.writes {
                    let place = (write.path.clone(), write.is_type);
                    if write.value.is_some() {
                        listing.insert(place, write);
                    } else {
                        listing.remove(&place);
                    }
                }
                let count = listing.len();
                self.world.replace(self.table, listing.into_values().collect(), revision);
                tracing::info!(table = ?self.table, keys = count, revision, "read the store");
            }
            None if held.writes.is_empty() => {}
            None => self.world.write(self.table, &held.writes),
        }
        self.etcd.apply(self.table, revision);
    }
}

fn is_delete(event: &Event) -> bool {
    event.r#type == i32::from(EventType::Delete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    /// The follower of the data of a store that nobody can reach.
    fn follower() -> Follower {
        // Nothing listens there.
        let options =
            client::Options { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..client::Options::default() };
        let (tasks, stop) = <(tokio_util::task::TaskTracker, tokio_util::sync::CancellationToken)>::default();
        let echo = prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("echo", "echo")).unwrap();
        let etcd = Arc::new(Etcd::new(&options, "", "g", &Arc::default(), echo, &tasks, &stop).unwrap());
        Follower::new(etcd, Table::Data)
    }

    fn kv(key: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: revision.to_string().into(),
            mod_revision: revision,
            ..KeyValue::default()
        }
    }

    fn marker(number: usize) -> String {
        format!("/_metad/mapping-stage/{number}")
    }

    /// Puts, and deletes of keys that begin with `-`, told together.
    fn told(follower: &mut Follower, events: &[(&str, i64)]) {
        let event = |(key, revision): &(&str, i64)| {
            let kind = if key.starts_with('-') { EventType::Delete } else { EventType::Put };
            let kv = Some(kv(key.trim_start_matches('-'), *revision));
            Event { r#type: kind.into(), kv, prev_kv: None }
        };
        let revision = events.last().unwrap().1;
        follower.take(Update::Events(Events { revision, events: events.iter().map(event).collect() }));
    }

    fn listed(follower: &mut Follower, keys: &[(&str, i64)]) {
        let kvs = keys.iter().map(|(key, revision)| kv(key, *revision)).collect();
        follower.take(Update::Listing(Listing { revision: keys.last().unwrap().1, kvs }));
    }

    fn shown(follower: &Follower) -> String {
        let text = follower.world.state().all(Table::Data, b"/").unwrap().text();
        String::from_utf8(text).unwrap().replace('\t', "=").replace('\n', " ")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_does_not_wait_for_a_write_that_begins() {
        let mut follower = follower();
        told(&mut follower, &[("/a", 5), (&marker(1), 6), ("/b", 6), ("/c", 6)]);
        assert_eq!(shown(&follower), "/a=5 ");
        // One ends, something else is written, and another begins.
        told(&mut follower, &[("/b", 7), (&format!("-{}", marker(1)), 7), ("/d", 8), (&marker(2), 9), ("/b", 9)]);
        assert_eq!(shown(&follower), "/a=5 /b=7 /c=6 /d=8 ");
        told(&mut follower, &[(&format!("-{}", marker(2)), 10)]);
        assert_eq!(shown(&follower), "/a=5 /b=9 /c=6 /d=8 ");
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_a_write_is_not_shown_while_the_store_is_away() {
        let mut follower = follower();
        told(&mut follower, &[("/a", 5), (&marker(1), 6), ("/a", 6)]);
        assert!(timeout(PATIENCE * 5, follower.run()).await.is_err());
        assert_eq!(shown(&follower), "/a=5 ");
        // It is back, and the marker still there.
        follower.etcd.hear();
        listed(&mut follower, &[("/a", 6), (&marker(1), 6)]);
        assert_eq!(shown(&follower), "/a=5 ");
        advance(PATIENCE).await;
        follower.etcd.hear();
        assert!(timeout(Duration::from_millis(1), follower.run()).await.is_err());
        assert_eq!(shown(&follower), "/a=6 ");
    }

    #[tokio::test(start_paused = true)]
    async fn each_write_has_its_own_time() {
        let mut follower = follower();
        told(&mut follower, &[("/a", 5), (&marker(1), 6)]);
        advance(PATIENCE / 2).await;
        listed(&mut follower, &[("/a", 6), (&marker(1), 6)]);
        assert!(follower.held.since.unwrap().elapsed() == PATIENCE / 2);
        // The end of one was not told, and another has begun.
        listed(&mut follower, &[("/a", 7), (&marker(2), 7)]);
        assert!(follower.held.since.unwrap().elapsed().is_zero());
        listed(&mut follower, &[("/a", 8)]);
        assert_eq!((follower.held.since, shown(&follower).as_str()), (None, "/a=8 "));
    }
}
