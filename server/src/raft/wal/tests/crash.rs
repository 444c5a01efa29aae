//! Random histories with crashes: what was acknowledged is there after reopening, and what was not is
//! there up to some record of the last write, or not at all.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const HISTORIES: u64 = 12;
const GROUPS: usize = 60;
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Op {
    Append(Entry),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(LogId),
    Vote(Vote),
}

/// What the log should hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(entry) => self.entries.push(entry.clone()),
            Op::Truncate(last) => self.entries.retain(|e| last.is_some_and(|last| e.log_id.index <= last.index)),
            Op::Purge(id) => {
                self.purged = Some(*id);
                self.entries.retain(|entry| entry.log_id.index > id.index);
            }
            Op::Committed(id) => self.committed = Some(*id),
            Op::Vote(vote) => self.vote = Some(*vote),
        }
    }

    fn of(wal: &Wal, opened: &Opened) -> Self {
        let model =
            Self { vote: opened.vote, committed: opened.committed, purged: opened.purged, entries: wal.entries() };
        assert_eq!(opened.last, model.last());
        assert_eq!(opened.first, model.entries.first().map(|entry| entry.log_id.index));
        model
    }
}

/// A random write: what may precede entries, then entries, so that one sync covers all.
fn random_group(rng: &mut StdRng, model: &Model, term: &mut u64) -> Vec<Op> {
    let mut after = model.clone();
    let mut ops = Vec::new();
    let add = |after: &mut Model, ops: &mut Vec<Op>, op: Op| {
        after.apply(&op);
        ops.push(op);
    };
    if rng.random_bool(0.2) {
        *term += 1;
        add(&mut after, &mut ops, Op::Vote(Vote::new_committed(*term, rng.random())));
    }
    if rng.random_bool(0.25) && !after.entries.is_empty() {
        let keep = rng.random_range(0..after.entries.len());
        let last = keep.checked_sub(1).map_or(after.purged, |at| Some(after.entries[at].log_id));
        add(&mut after, &mut ops, Op::Truncate(last));
    }
    if rng.random_bool(0.15) && !after.entries.is_empty() {
        let upto = after.entries[rng.random_range(0..after.entries.len())].log_id;
        add(&mut after, &mut ops, Op::Purge(upto));
    } else if rng.random_bool(0.03) {
        // A snapshot beyond the end was installed.
        let upto = log_id(*term, after.next() + rng.random_range(0..5));
        add(&mut after, &mut ops, Op::Purge(upto));
    }
    if rng.random_bool(0.4)
        && let Some(last) = after.last()
    {
        add(&mut after, &mut ops, Op::Committed(last));
    }
    for _ in 0..rng.random_range(1..8) {
        let value_bytes = if rng.random_bool(0.05) { 6_000 } else { rng.random_range(0..400) };
        let entry = put(*term, after.next(), value_bytes);
        add(&mut after, &mut ops, Op::Append(entry));
    }
    ops
}

/// Everything but the entries stays in the queue until the entries are submitted, or goes ahead in a
/// write of its own; both are legal.
async fn write(wal: &Wal, ops: &[Op]) {
    let mut entries = Vec::new();
    for op in ops {
        match op {
            Op::Append(entry) => entries.push(entry.clone()),
            Op::Truncate(last) => wal.truncate_after(*last).unwrap(),
            Op::Purge(id) => wal.purge(*id).unwrap(),
            Op::Committed(id) => wal.committed(*id).unwrap(),
            Op::Vote(vote) => drop(wal.vote(vote).unwrap()),
        }
    }
    wal.append_durably(entries).await.unwrap();
}

/// Opens a copy after a crash, checks it, and goes on with it for one entry.
async fn check_copy(from: &Path, allowed: &[Model], context: &str) {
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    let (wal, opened) = open(dir.path()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut model = Model::of(&wal, &opened);
    assert!(allowed.contains(&model), "{context}: {opened:?} is none of {} allowed states", allowed.len());
    let entry = put(99, model.next(), 30);
    wal.append_durably([entry.clone()]).await.unwrap();
    model.apply(&Op::Append(entry));
    drop(wal);
    let (wal, opened) = open(dir.path()).unwrap_or_else(|e| panic!("{context}, again: {e}"));
    assert_eq!(Model::of(&wal, &opened), model, "{context}, again");
}

/// Loses random sectors of what the last write wrote into the last segment.
fn lose_sectors(rng: &mut StdRng, dir: &Path, acknowledged: &(PathBuf, usize)) {
    let (last, written) = end(dir);
    let from = if last.file_name() == acknowledged.0.file_name() { acknowledged.1 } else { segment::HEADER_BYTES };
    edit(&last, |bytes| {
        for sector in from / SECTOR_BYTES..written.div_ceil(SECTOR_BYTES) {
            if rng.random_bool(0.3) {
                let start = (sector * SECTOR_BYTES).max(from);
                bytes[start..((sector + 1) * SECTOR_BYTES).min(written)].fill(0);
            }
        }
    });
}

async fn history(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path()).unwrap();
    let mut model = Model::default();
    let mut term = 1;
    for group in 0..GROUPS {
        let context = format!("seed {seed}, group {group}");
        let before = tempfile::tempdir().unwrap();
        copy(dir.path(), before.path());
        let acknowledged = end(before.path());
        let ops = random_group(&mut rng, &model, &mut term);
        write(&wal, &ops).await;
        let mut allowed = vec![model.clone()];
        for op in &ops {
            model.apply(op);
            allowed.push(model.clone());
        }
        if rng.random_bool(0.3) {
            check_copy(dir.path(), std::slice::from_ref(&model), &context).await;
        }
        // Only a group that went out as one write may lose sectors as one.
        let is_one_write = !ops.iter().any(|op| matches!(op, Op::Vote(_) | Op::Purge(_)));
        if is_one_write && rng.random_bool(0.5) {
            let torn = tempfile::tempdir().unwrap();
            copy(dir.path(), torn.path());
            lose_sectors(&mut rng, torn.path(), &acknowledged);
            check_copy(torn.path(), &allowed, &format!("{context}, torn")).await;
        }
        if rng.random_bool(0.1) {
            drop(wal);
            let (reopened, opened) = open(dir.path()).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(Model::of(&reopened, &opened), model, "{context}, reopened");
            // The positions repeated at opening are a write of their own, before the next one.
            while reopened.reader().flushed() < reopened.shared.queue.lock().position() {
                tokio::task::yield_now().await;
            }
            wal = reopened;
        }
    }
}

#[tokio::test]
async fn random_histories_survive_crashes() {
    let seed = std::env::var("WAL_SEED").or_else(|_| std::env::var("CLEAT_FIRST_SEED"));
    let first: u64 = seed.map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("WAL_SEED={first}");
    for seed in first..first.saturating_add(HISTORIES) {
        history(seed).await;
    }
}
