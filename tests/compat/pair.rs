//! The two servers side by side: one step, and the rule for when watchers have received everything.

use crate::answer::Answer;
use crate::compare::{Difference, compare, compare_events};
use crate::generate::Generator;
use crate::ledger::{self, Ledger};
use crate::op::{self, Op, Resolver};
use crate::run::Contest;
use crate::side::{HISTORY, Revisions, Side};
use anyhow::{Result, bail};
use api::etcdserverpb::{CompactionRequest, WatchCreateRequest};
use api::mvccpb::Event;
use api::mvccpb::event::EventType;
use harness::Kind;
use std::collections::BTreeSet;
use std::time::Duration;

/// etcd brings a watcher with a start in the past up to date every 100 ms.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// What is known about the state of both servers, taken from etcd's answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) revisions: Revisions,
    /// The compacted revision deleted something.
    pub(crate) compacted_at_delete: bool,
    /// Slot and id of the watchers that ended because of a compaction.
    pub(crate) ended_by_compaction: BTreeSet<(usize, i64)>,
    /// A NOSPACE alarm is raised.
    pub(crate) no_space: bool,
    /// Slots with a watcher that starts at a revision still to come.
    pub(crate) waits_for_future: BTreeSet<usize>,
    /// Number of lease ids that the servers chose.
    pub(crate) chosen_leases: usize,
}

impl World {
    /// A revision behind its placeholder.
    pub(crate) fn resolve(&self, revision: i64) -> i64 {
        let Revisions { current, compacted } = self.revisions;
        Resolver { current, compacted, leases: &[], member: 0 }.revision(revision)
    }
}

/// How a watcher is expected to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Never,
    Canceled,
}

/// One watcher of both servers.
#[derive(Debug)]
struct Watched {
    slot: usize,
    id: i64,
    /// Position among the watchers of its stream, the same on both sides.
    index: usize,
    request: WatchCreateRequest,
    end: End,
    /// Events owed so far, counted over the first `scanned` events of the history.
    owed: usize,
    scanned: usize,
    compared: usize,
}

impl Watched {
    fn owes(&self, event: &Event, oldest: i64) -> bool {
        let Some(kv) = &event.kv else { return false };
        let (key, end) = (&self.request.key[..], &self.request.range_end[..]);
        // An empty key means the smallest one.
        let key = if key.is_empty() { b"\0" } else { key };
        let inside = match end {
            b"" => kv.key == key,
            b"\0" => &kv.key[..] >= key,
            end => key <= &kv.key[..] && &kv.key[..] < end,
        };
        let kind = event.r#type;
        inside && kv.mod_revision >= oldest && !self.request.filters.contains(&kind)
    }
}

/// Two servers and what they were asked.
pub(crate) struct Pair {
    etcd: Side,
    cleat: Side,
    pub(crate) world: World,
    watched: Vec<Watched>,
    /// Watchers made so far on each stream.
    made: Vec<usize>,
    /// A watcher was created with a start in the past, and it is not known to have caught up.
    behind: bool,
    /// The last compaction was answered before what it removes was deleted.
    compacting: bool,
}

/// In the words of the methods below, which have the same names.
impl Contest for Pair {
    type Op = Op;
    type Generator = Generator;
    type Ledger = Ledger;
    const WORKERS: usize = 3;

    async fn start() -> Result<Self> {
        Self::start().await
    }

    fn generator(seed: u64) -> Generator {
        Generator::new(seed)
    }

    fn draw(&self, generator: &mut Generator) -> Op {
        generator.next(&self.world)
    }

    async fn step(&mut self, op: &Op, ledger: &Ledger) -> Result<Option<Difference>> {
        self.step(op, ledger).await
    }

    async fn settle(&mut self) -> Result<Option<Difference>> {
        self.settle().await
    }
}

impl Pair {
    /// Starts both servers.
    pub(crate) async fn start() -> Result<Self> {
        let (etcd, cleat) = tokio::try_join!(Side::start(Kind::Etcd), Side::start(Kind::Cleat))?;
        let world = World { revisions: Revisions { current: 1, compacted: 0 }, ..World::default() };
        let mut pair = Self {
            etcd,
            cleat,
            world,
            watched: Vec::new(),
            made: vec![0; HISTORY + 1],
            behind: false,
            compacting: false,
        };
        let everything = WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        pair.add_watched(HISTORY, 0, everything);
        Ok(pair)
    }

    /// Asks both servers the same and compares.
    pub(crate) async fn step(&mut self, op: &Op, ledger: &Ledger) -> Result<Option<Difference>> {
        let current = self.world.revisions.current;
        let waiting = self.watched.iter().filter(|watched| watched.request.start_revision > current + 1);
        self.world.waits_for_future = waiting.map(|watched| watched.slot).collect();
        if ledger::not_asked(op, &self.world) {
            return Ok(None);
        }
        if op.needs_settled_watchers()
            && let Some(difference) = self.settle().await?
        {
            return Ok(Some(difference));
        }
        if matches!(op, Op::Compact(_)) {
            self.catch_up().await?;
        }
        if let Op::HashKv(revision) = op
            && self.compacting
            && let Some(difference) = self.finish_compaction(*revision, ledger).await?
        {
            return Ok(Some(difference));
        }
        let revisions = self.world.revisions;
        let (mut etcd, mut cleat) = tokio::join!(self.etcd.ask(op, revisions), self.cleat.ask(op, revisions));
        if let Some(log) = self.etcd.death() {
            bail!("etcd died of `{op}`:\n{log}");
        }
        if let Some(log) = self.cleat.death() {
            return Ok(Some(Difference::new(op.kind(), "the server died", format!("{etcd:#?}"), log)));
        }
        let answered = etcd.clone();
        let difference = compare(op, &mut etcd, &mut cleat, ledger);
        self.learn(op, &answered);
        if difference.is_some() {
            return Ok(difference);
        }
        if matches!(op, Op::WatchCancel { .. }) {
            // Its answer carries the revision of the moment, so nothing may follow before it.
            return self.settle().await;
        }
        Ok(None)
    }

    fn learn(&mut self, op: &Op, answer: &Answer) {
        let Revisions { current, compacted } = self.world.revisions;
        match (op, answer) {
            (Op::Compact(request), Answer::Compact(_)) => {
                self.compacting = !request.physical;
                let compacted = self.world.resolve(request.revision).max(compacted);
                self.world.revisions.compacted = compacted;
                self.world.compacted_at_delete = self.history(|events| {
                    events.iter().any(|e| e.r#type() == EventType::Delete && revision_of(e) == compacted)
                });
            }
            (Op::Grant(request), Answer::Grant(_)) if request.id == 0 => self.world.chosen_leases += 1,
            (Op::Alarm(request), Answer::Alarm(_)) if request.alarm == 1 && request.action != 0 => {
                self.world.no_space = request.action == 1;
            }
            (Op::WatchOpen(slot), _) => {
                self.watched.retain(|watched| watched.slot != *slot);
                self.world.ended_by_compaction.retain(|(other, _)| other != slot);
                self.made[*slot] = 0;
            }
            (Op::WatchCreate { slot, request }, Answer::Watch(created)) if !created.canceled => {
                let request = WatchCreateRequest {
                    start_revision: self.world.resolve(request.start_revision),
                    ..request.clone()
                };
                self.add_watched(*slot, created.watch_id, request);
            }
            (Op::WatchCancel { slot, id }, _) => {
                for watched in self.watched.iter_mut().filter(|w| w.slot == *slot && w.id == *id) {
                    watched.end = End::Canceled;
                }
            }
            _ => {}
        }
        self.world.revisions.current = current.max(answer.revision());
    }

    fn add_watched(&mut self, slot: usize, id: i64, request: WatchCreateRequest) {
        let compacted = self.world.revisions.compacted;
        let start = request.start_revision;
        let end = if start != 0 && start < compacted { End::Canceled } else { End::Never };
        if end == End::Canceled {
            self.world.ended_by_compaction.insert((slot, id));
        }
        self.behind |= start != 0;
        let index = self.made[slot];
        self.made[slot] += 1;
        let mut watched = Watched { slot, id, index, request, end, owed: 0, scanned: 0, compared: 0 };
        if start == 0 {
            watched.request.start_revision = self.world.revisions.current + 1;
        }
        self.watched.push(watched);
    }

    /// A compaction ends the watchers that still have to read what it removes, so none may be left.
    async fn catch_up(&mut self) -> Result<()> {
        let Revisions { current, compacted } = self.world.revisions;
        // With everything compacted a further compaction is refused, and etcd may have no event left to wait for.
        if current > compacted.max(1) && std::mem::take(&mut self.behind) {
            tokio::try_join!(self.etcd.catch_up(current), self.cleat.catch_up(current))?;
        }
        Ok(())
    }

    /// At a revision without keys, etcd hashes whatever its background compaction has not deleted yet: before such
    /// a hash, that must be over. A physical compaction waits for it even when it is refused, as this one is.
    async fn finish_compaction(&mut self, asked: i64, ledger: &Ledger) -> Result<Option<Difference>> {
        let difference = self.settle().await?;
        let revision = if asked == 0 { self.world.revisions.current } else { self.world.resolve(asked) };
        if difference.is_some() || self.history(|events| any_key_exists(events, revision)) {
            return Ok(difference);
        }
        let again = Op::Compact(CompactionRequest { revision: op::compacted(0), physical: true });
        let difference = Box::pin(self.step(&again, ledger)).await?;
        self.compacting = false;
        Ok(difference)
    }

    /// Every event since the start of the servers, as etcd told it.
    fn history<T>(&self, read: impl FnOnce(&[Event]) -> T) -> T {
        read(&self.etcd.stream(HISTORY).log().watchers[0].events)
    }

    /// Waits until every watcher of both servers has received what it is owed, and compares the events.
    pub(crate) async fn settle(&mut self) -> Result<Option<Difference>> {
        let target = self.world.revisions.current;
        let seen = |log: &mut crate::watch::StreamLog| {
            let newest = log.watchers[0].events.last().map_or(1, revision_of);
            (newest >= target).then_some(())
        };
        if self.etcd.stream(HISTORY).wait(SETTLE_DEADLINE, seen).await.is_none() {
            let log = self.etcd.stream(HISTORY).log();
            let newest = log.watchers[0].events.last().map_or(1, revision_of);
            bail!("etcd's history watcher is at revision {newest} of {target}; its stream: {:?}", log.ended);
        }
        let mut watched = std::mem::take(&mut self.watched);
        self.history(|events| {
            for w in &mut watched {
                let oldest = w.request.start_revision;
                w.owed += events[w.scanned..].iter().filter(|event| w.owes(event, oldest)).count();
                w.scanned = events.len();
            }
        });
        let mut difference = None;
        for w in &mut watched {
            if difference.is_none() {
                difference = self.settle_one(w).await;
            }
        }
        watched.retain(|w| w.end == End::Never);
        self.watched = watched;
        Ok(difference.or_else(|| self.violation()))
    }

    async fn settle_one(&self, w: &mut Watched) -> Option<Difference> {
        let (index, owed, end) = (w.index, w.owed, w.end);
        let enough = |log: &mut crate::watch::StreamLog| {
            let watcher = &log.watchers[index];
            let complete = match end {
                End::Never => watcher.events.len() >= owed || watcher.canceled.is_some(),
                End::Canceled => watcher.canceled.is_some(),
            };
            complete.then_some(())
        };
        let (etcd, cleat) = (self.etcd.stream(w.slot), self.cleat.stream(w.slot));
        // A side that stays behind shows as a difference below.
        let (_, _) = tokio::join!(etcd.wait(SETTLE_DEADLINE, enough), cleat.wait(SETTLE_DEADLINE, enough));
        let (theirs, ours) = (etcd.log(), cleat.log());
        let (theirs, ours) = (&theirs.watchers[index], &ours.watchers[index]);
        let difference = compare_events(&w.request, w.compared, (theirs, self.etcd.ids()), (ours, self.cleat.ids()));
        w.compared = theirs.events.len().min(ours.events.len());
        difference
    }

    /// Promises about watch responses that hold whatever the batching is.
    fn violation(&self) -> Option<Difference> {
        for side in [&self.etcd, &self.cleat] {
            for slot in 0..=HISTORY {
                if let Some(violation) = side.stream(slot).log().violations.first() {
                    let text = format!("{}: {violation}", side.kind());
                    return Some(Difference::new("Watch", "a broken promise", text, String::new()));
                }
            }
        }
        None
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn any_key_exists(events: &[Event], revision: i64) -> bool {
    let mut keys = BTreeSet::new();
    for event in events.iter().take_while(|event| revision_of(event) <= revision) {
        let key = event.kv.as_ref().map(|kv| &kv.key);
        match event.r#type() {
            EventType::Put => keys.insert(key),
            EventType::Delete => keys.remove(&key),
        };
    }
    !keys.is_empty()
}
