//! The hash of a history does not depend on whether a compaction has removed what it had to.

use super::*;
use crate::etcd::{Change, Meta, Record, Revision};
use api::encoded::KeyValueFields;
use std::collections::BTreeMap;

/// A change of a key at a revision; without a value for a deletion.
fn change(revision: Revision, key: &[u8], put: Option<(i64, i64)>) -> Change {
    let value = &revision.main.to_be_bytes();
    let fields = match put {
        Some((create_revision, version)) => {
            KeyValueFields { key, create_revision, mod_revision: revision.main, version, value, lease: 0 }
        }
        None => KeyValueFields { key, ..KeyValueFields::default() },
    };
    let mut stored = [&revision.main.to_be_bytes()[..], b"_", &revision.sub.to_be_bytes()].concat();
    stored.extend(put.is_none().then_some(b't'));
    Change::from_entry(&stored.into(), &bytes::Bytes::copy_from_slice(fields.encode().as_bytes())).unwrap()
}

fn history(random: &mut StdRng) -> Vec<Change> {
    let mut alive: BTreeMap<Vec<u8>, (i64, i64)> = BTreeMap::new();
    let mut changes = Vec::new();
    let last = random.random_range(3..60);
    for main in 2..=last {
        for sub in 0..random.random_range(1..4) {
            let key = vec![b'a' + random.random_range(0..6)];
            let put = match alive.get(&key) {
                Some(_) if random.random_range(0..5) < 2 => None,
                Some((create, version)) => Some((*create, version + 1)),
                None => Some((main, 1)),
            };
            match put {
                Some(put) => drop(alive.insert(key.clone(), put)),
                None => drop(alive.remove(&key)),
            }
            changes.push(change(Revision { main, sub }, &key, put));
        }
    }
    // Some histories end without any key.
    if random.random_range(0..4) == 0 {
        for (sub, key) in (0..).zip(alive.into_keys()) {
            changes.push(change(Revision { main: last + 1, sub }, &key, None));
        }
    }
    changes
}

/// What a compaction leaves: all that is later, and of each key the last change, unless that is a deletion.
fn compacted(changes: &[Change], at: i64) -> Vec<Change> {
    let mut last = BTreeMap::new();
    for change in changes.iter().filter(|change| change.revision.main <= at) {
        last.insert(change.fields().key, change.revision);
    }
    let kept = |change: &&Change| {
        change.revision.main > at || !change.is_tombstone && last[change.fields().key] == change.revision
    };
    changes.iter().filter(kept).cloned().collect()
}

fn database(path: &Path, changes: &[Change], meta: &Meta) -> Database {
    let mut writer = Writer::create(path, &WriteOptions::default()).unwrap();
    writer.records(changes.iter().cloned().map(Ok)).unwrap();
    writer.settings(meta).unwrap();
    writer.finish().unwrap();
    Database::open(path, OpenOptions::default()).unwrap()
}

#[test]
fn a_hash_is_the_same_before_and_after_a_compaction() {
    let (scratch, mut random) = (Scratch::new(), random());
    let mut without_keys = 0;
    for round in 0..60 {
        let changes = history(&mut random);
        let last = changes.last().unwrap().revision.main;
        let at = random.random_range(2..=last);
        let scheduled = Meta { scheduled_compaction: Some(at), ..Meta::default() };
        let finished = Meta { finished_compaction: Some(at), ..scheduled.clone() };
        let path = |name: &str| scratch.path(&format!("{round} {name}"));
        let whole = database(&path("whole"), &changes, &scheduled);
        let short = database(&path("short"), &compacted(&changes, at), &finished);
        let never = database(&path("never"), &changes, &Meta::default());
        for revision in at..=last {
            let hash = whole.hash_kv(revision).unwrap();
            assert_eq!(hash, short.hash_kv(revision).unwrap(), "revision {revision}, compacted at {at}");
            assert_eq!((hash.revision, hash.compacted), (revision, at));
            // etcd leaves nothing out when no key exists.
            if compacted(&changes, revision).iter().all(|change| change.revision.main > revision) {
                let left = compacted(&changes, at);
                let left = left.iter().filter(|change| change.revision.main <= revision);
                let everything = left.fold(crc32c::crc32c(b"key"), |hash, change| {
                    let (key, value) = change.to_entry();
                    crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value)
                });
                assert_eq!(hash.hash, everything);
                without_keys += 1;
            }
            if compacted(&changes, at).len() < changes.len() && revision > at {
                assert_ne!(hash.hash, never.hash_kv(revision).unwrap().hash);
            }
        }
        assert_eq!(whole.hash_kv(0).unwrap(), whole.hash_kv(last).unwrap());
        assert!(matches!(whole.hash_kv(at - 1), Err(Error::Compacted { .. })));
        assert!(matches!(whole.hash_kv(last + 1), Err(Error::FutureRevision { .. })));
        let summary = short.summary().unwrap();
        assert_eq!(summary.buckets[0].entries, compacted(&changes, at).len() as u64);
        assert!(short.records::<Change>().unwrap().map(Result::unwrap).eq(compacted(&changes, at)));
        assert_eq!(short.settings::<Meta>().unwrap(), finished);
    }
    assert!(without_keys > 0);
}

#[test]
fn a_record_that_is_none_is_named() {
    let scratch = Scratch::new();
    let contents = vec![("key".to_owned(), vec![(b"no revision".to_vec(), vec![])])];
    write(&scratch.path("db"), &WriteOptions::default(), &contents);
    let database = Database::open(&scratch.path("db"), OpenOptions::default()).unwrap();
    let mut records = database.records::<Change>().unwrap();
    let error = records.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "page 0: bucket key: a key of 11 bytes");
    assert!(records.next().is_none());
    assert!(database.hash_kv(0).is_err() && database.summary().is_err());
}
