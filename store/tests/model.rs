//! Random commands against a plain model: every answer, every old revision, events, leases and hashes are compared,
//! through flushes, restarts, compactions and defragmentations at random moments.
//!
//! `CLEAT_SEED` replays a run, `CLEAT_MODEL_STEPS` sets its length.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::cleatpb::Command;
use api::encoded::RangeResponse;
use store::{Change, InstallError, Options, ReadError, Rejection, RevisionEvents};
use support::Member;
use support::model::{Event, Model, encode};
use support::random::Random;

struct Run {
    random: Random,
    model: Model,
    member: Member,
    /// Another member, that gets a snapshot of the first now and then, and takes its place.
    behind: Member,
}

#[test]
fn the_store_equals_the_model() {
    let steps = std::env::var("CLEAT_MODEL_STEPS").map_or(5000, |steps| steps.parse().unwrap());
    // A small cache, so that reads come from everywhere.
    let options = Options { cache_bytes: 60, database_cache_bytes: 1 << 20, ..Options::default() };
    let (member, behind) = (Member::new(options.clone()), Member::new(options));
    let mut run = Run { random: Random::new(), model: Model::new(), member, behind };
    for _ in 0..steps {
        run.step();
    }
}

impl Run {
    fn step(&mut self) {
        match self.random.below(100) {
            0..=39 => {
                let commands: Vec<_> = (0..=self.random.below(3)).map(|_| self.random.command()).collect();
                self.write(&commands);
            }
            40..=59 => self.range(),
            60..=66 => self.read_txn(),
            67..=76 => self.events(),
            77..=82 => self.previous(),
            83..=86 => self.hash(),
            87..=90 => self.leases(),
            91..=94 => drop(self.member.flusher().flush().unwrap()),
            95 | 96 => {
                let keys = 1 + self.random.below(4);
                self.member.flusher().compact_step(keys);
            }
            97 => {
                self.member.finish_compaction();
                assert_eq!(self.member.reader().status().stored_bytes, self.model.stored_bytes());
                self.hash();
            }
            98 => self.member.reopen(),
            _ => match self.random.below(4) {
                3 => self.change_places(),
                0 => self.member.flusher().defragment().unwrap().unwrap(),
                1 => self.member.reimport(),
                _ => self.everything(),
            },
        }
    }

    fn write(&mut self, commands: &[Command]) {
        let before = self.model.revision;
        let applied = self.member.apply_entry(commands.to_vec());
        let expected: Vec<_> = commands.iter().map(|command| self.model.apply(command)).collect();
        assert_eq!(applied.outcomes, [expected], "{commands:?}");
        let changes: Vec<_> = self.model.history.range(before + 1..).map(|(r, e)| (*r, e.clone())).collect();
        assert_eq!(show(&applied.changes, -1), show_model(&changes), "{commands:?}");
        (self.random.revision, self.random.compacted) = (self.model.revision, self.model.compacted);
        let status = self.member.reader().status();
        assert_eq!((status.revision, status.compacted), (self.model.revision, self.model.compacted));
        assert_eq!((status.keys, status.leases), (self.model.current().len(), self.model.leases.len()));
    }

    /// The member that is behind gets a snapshot, while the other one goes on.
    fn change_places(&mut self) {
        self.member.flush();
        let mut snapshot = self.member.reader().snapshot().unwrap();
        let mut import = self.behind.import();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            let cut = self.random.below(frame.len());
            import.feed(&frame[..cut]).unwrap();
            if self.random.once_in(3) {
                // The connection broke, both sides begin anew.
                assert!(snapshot.resume_after(&import.rewind()).unwrap());
                continue;
            }
            import.feed(&frame[cut..]).unwrap();
            let command = self.random.command();
            self.write(&[command]);
            self.member.flusher().compact_step(3);
            self.member.flusher().flush().unwrap();
        }
        let received = import.finish().unwrap();
        assert_eq!((received.position(), received.revision()), (snapshot.position(), snapshot.revision()));
        let log = self.member.log.clone();
        if snapshot.position().index <= self.behind.reader().applied().0.index {
            assert!(matches!(self.behind.install(received), Err(InstallError::NotNewer { .. })));
        } else {
            // A part of a flush, as it comes.
            if self.random.once_in(2) {
                self.behind.flusher().compact_step(2);
                self.behind.flusher().flush().unwrap();
            }
            let installed = self.behind.install(received).unwrap();
            let reader = self.behind.reader();
            assert_eq!(reader.durable(), (installed.position, installed.membership.clone()));
            assert_eq!(reader.applied(), reader.durable());
            assert_eq!((reader.leases(), reader.alarms(0)), (installed.leases, installed.alarms));
            assert_eq!(reader.compacted_and_revision(), (installed.compacted, installed.revision));
            assert_eq!(reader.tail_bytes(), 0);
        }
        self.behind.follow(&log);
        assert_eq!(self.behind.files(), Vec::<String>::new());
        std::mem::swap(&mut self.member, &mut self.behind);
        self.hash();
        self.everything();
    }

    fn range(&mut self) {
        let request = self.random.range();
        let expected = self.model.range(&request).map(|response| (response, self.model.revision));
        let answer = self.member.reader().range(&request).map_err(rejection);
        assert_eq!(answer, expected, "{request:?}");
        let page = self.member.reader().range_page(&request).map_err(rejection);
        let uncounted = expected.map(|(response, at)| (RangeResponse { count: 0, ..response }, at));
        assert_eq!(page, uncounted, "{request:?}");
    }

    fn read_txn(&mut self) {
        let request = self.random.txn(2, true);
        assert!(store::is_read_only(&request));
        let expected = self.model.read_txn(&request).map(|response| (response, self.model.revision));
        assert_eq!(self.member.reader().txn(&request).map_err(rejection), expected, "{request:?}");
    }

    fn events(&mut self) {
        let from = self.random.near();
        let max = self.random.below(200);
        if from < self.model.compacted {
            let answer = self.member.reader().past(from, max).map(|past| past.next).map_err(rejection);
            assert_eq!(answer, Err(Rejection::Compacted));
            return;
        }
        let mut changes = Vec::new();
        let mut next = from;
        loop {
            let past = self.member.reader().past(next, max).unwrap();
            assert_eq!(past.current, self.model.revision);
            assert!(past.next > next || past.next > past.current, "no progress from {next}");
            assert!(past.changes.iter().all(|change| (next..past.next).contains(&change.revision)));
            changes.extend(past.changes);
            next = past.next;
            if next > past.current {
                break;
            }
        }
        let expected = self.model.events(from);
        assert_eq!(show(&changes, self.model.compacted), show_model(&expected), "from {from} max {max}");
    }

    fn previous(&mut self) {
        let (key, revision) = (self.random.key(), self.random.near());
        let at = revision - 1;
        let state = self.model.states.get(&at).filter(|_| at >= self.model.compacted);
        let expected = state.and_then(|state| state.get(&key)).map(|kv| encode(&key, kv));
        assert!(self.member.reader().previous(&key, revision).unwrap() == expected, "{key:?} before {revision}");
    }

    fn hash(&mut self) {
        let revision = self.random.readable();
        let hash = self.member.reader().hash_kv(revision).unwrap();
        assert_eq!(hash.hash, self.model.hash(revision), "at {revision}");
    }

    fn leases(&mut self) {
        let reader = self.member.reader();
        let leases: Vec<_> = reader.leases().into_iter().map(|(id, l)| (id, (l.ttl, l.remaining_ttl))).collect();
        assert_eq!(leases, self.model.leases.clone().into_iter().collect::<Vec<_>>());
        for id in 1..=4 {
            let keys: Vec<Vec<u8>> = reader.lease_keys(id).into_iter().map(Into::into).collect();
            assert_eq!(keys, self.model.lease_keys(id));
        }
    }

    /// Every readable revision.
    fn everything(&mut self) {
        for revision in self.model.compacted.max(1)..=self.model.revision {
            let request = api::etcdserverpb::RangeRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                revision,
                ..Default::default()
            };
            let answer = self.member.reader().range(&request).unwrap().0;
            assert_eq!(answer, self.model.range(&request).unwrap(), "at {revision}");
        }
        self.leases();
    }
}

fn rejection(error: ReadError) -> Rejection {
    match error {
        ReadError::Rejected(rejection) => rejection,
        ReadError::Fault(fault) => panic!("{fault}"),
    }
}

fn show(changes: &[Change], compacted: i64) -> Vec<String> {
    let plain = |change: &RevisionEvents| {
        let mut seen = std::collections::BTreeSet::new();
        let certain = |key: &[u8]| change.revision > compacted || seen.insert(key.to_vec());
        let mut certain = certain;
        let kept: Vec<_> = change.events.iter().rev().filter(|event| certain(event.key())).collect();
        let shown = kept
            .iter()
            .rev()
            .map(|event| format!("{} {} {}", event.deleted, event.created, support::script::show_kv(&event.kv)));
        format!("{} {:?}", change.revision, shown.collect::<Vec<_>>())
    };
    changes.iter().map(|change| plain(change)).collect()
}

fn show_model(changes: &[(i64, Vec<Event>)]) -> Vec<String> {
    let event = |revision: i64, event: &Event| {
        let kv = event.kv.as_ref().map_or_else(
            || api::encoded::KeyValueFields { key: &event.key, mod_revision: revision, ..Default::default() }.encode(),
            |kv| encode(&event.key, kv),
        );
        format!("{} {} {}", event.kv.is_none(), event.created, support::script::show_kv(&kv))
    };
    let change = |(revision, events): &(i64, Vec<Event>)| {
        format!("{revision} {:?}", events.iter().map(|e| event(*revision, e)).collect::<Vec<_>>())
    };
    changes.iter().map(change).collect()
}
