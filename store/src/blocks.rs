//! The revisions table: changes in blocks, several in one row of redb.
//!
//! redb takes about 2 us for a row, whatever its size, and a change is small. So neighbours share a row: a flush, an import
//! and a copy write a tenth of the rows, and a scan reads a tenth.
//!
//! ```text
//! block = rows:u32 change*                              big endian; the key is the revision of the first change
//! change = revision (12 bytes) length:u32 row           row: the checksum and the key-value, see schema::decode_row
//! ```
//!
//! A block fills a page of redb, or is a single large change. Only its end is ever added to, at the end of the table;
//! changes that a compaction drops are taken out of it, and what is left joins the block before when there is room.

use crate::error::Fault;
use crate::mvcc::revision::Revision;
use crate::mvcc::state::stored_size;
use crate::schema;
use api::encoded::KeyValue;
use redb::ReadableTable;

/// Bytes of a revision as a key.
type Key = [u8; 12];

/// The revisions table in a write transaction.
pub(crate) type Table<'txn> = redb::Table<'txn, &'static Key, &'static [u8]>;

/// The largest block of several changes: a page of redb (4,096 bytes) without the page's head (4 bytes), the end of the
/// value (4 bytes) and the key.
const BLOCK_BYTES: usize = 4096 - 4 - 4 - 12;

/// Bytes before the first change, and of a change before its row.
const HEAD: usize = 4;
const CHANGE_HEAD: usize = 12 + 4;

/// The changes of a block, in order: revision and row.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    first: &'a Key,
    /// Changes that should follow.
    left: u32,
    rest: &'a [u8],
    /// Nothing was read yet.
    fresh: bool,
}

impl<'a> Block<'a> {
    /// The block that has this key in the table.
    ///
    /// # Errors
    /// It has no changes at all.
    pub(crate) fn new(first: &'a Key, bytes: &'a [u8]) -> Result<Self, Fault> {
        match bytes.split_first_chunk() {
            Some((rows, rest)) if *rows != [0; HEAD] => {
                Ok(Self { first, left: u32::from_be_bytes(*rows), rest, fresh: true })
            }
            _ => Err(damaged(first)),
        }
    }

    /// The last change's revision.
    pub(crate) fn last(self) -> Result<Revision, Fault> {
        let mut last = Revision::from_key(self.first);
        for change in self {
            last = Revision::from_key(change?.0);
        }
        Ok(last)
    }

    fn take(&mut self) -> Option<(&'a Key, &'a [u8])> {
        let (key, rest) = self.rest.split_first_chunk::<12>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (row, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let begins_well = !std::mem::take(&mut self.fresh) || key == self.first;
        self.rest = rest;
        self.left -= 1;
        let ends_well = self.left > 0 || rest.is_empty();
        (begins_well && ends_well).then_some((key, row))
    }
}

impl<'a> Iterator for Block<'a> {
    type Item = Result<(&'a Key, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let taken = self.take().ok_or_else(|| damaged(self.first));
        if taken.is_err() {
            self.left = 0;
        }
        Some(taken)
    }
}

fn damaged(first: &Key) -> Fault {
    schema::damaged(Revision::from_key(first), "begins a block that is damaged")
}

/// Gathers changes into a block.
#[derive(Default)]
pub(crate) struct Builder {
    first: Key,
    rows: u32,
    /// The block, but for the number of rows in its head.
    bytes: Vec<u8>,
}

impl Builder {
    /// Goes on where the table ends: in its last block, if that has room.
    pub(crate) fn at_end(table: &Table<'_>) -> Result<Self, Fault> {
        let mut builder = Self::default();
        if let Some((first, block)) = table.last()?
            && block.value().len() < BLOCK_BYTES / 2
        {
            builder.extend(Block::new(first.value(), block.value())?)?;
        }
        Ok(builder)
    }

    /// Adds a change that is younger than all before. A block that is full goes to the table.
    pub(crate) fn push(&mut self, table: &mut Table<'_>, key: &Key, row: &[u8]) -> Result<(), Fault> {
        if self.rows > 0 && self.bytes.len() + CHANGE_HEAD + row.len() > BLOCK_BYTES {
            self.write(table)?;
        }
        self.append(key, row);
        Ok(())
    }

    /// Puts what was gathered into the table.
    pub(crate) fn write(&mut self, table: &mut Table<'_>) -> Result<(), Fault> {
        if self.rows > 0 {
            self.bytes[..HEAD].copy_from_slice(&self.rows.to_be_bytes());
            table.insert(&self.first, &*self.bytes)?;
            self.clear();
        }
        Ok(())
    }

    fn append(&mut self, key: &Key, row: &[u8]) {
        if self.rows == 0 {
            self.first = *key;
            self.bytes.resize(HEAD, 0);
        }
        self.rows += 1;
        self.bytes.extend(key);
        self.bytes.extend((row.len() as u32).to_be_bytes());
        self.bytes.extend(row);
    }

    fn extend(&mut self, block: Block<'_>) -> Result<(), Fault> {
        for change in block {
            let (key, row) = change?;
            self.append(key, row);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.rows = 0;
        self.bytes.clear();
    }
}

/// The stored key-value of a change.
///
/// # Errors
/// A block or a row that is damaged.
pub(crate) fn find(
    table: &impl ReadableTable<&'static Key, &'static [u8]>,
    revision: Revision,
) -> Result<Option<KeyValue>, Fault> {
    let wanted = revision.to_key();
    let Some(found) = table.range::<&Key>(..=&wanted)?.next_back() else { return Ok(None) };
    let (first, block) = found?;
    for change in Block::new(first.value(), block.value())? {
        let (key, row) = change?;
        if *key == wanted {
            return Ok(Some(KeyValue::from_stored(schema::decode_row(key, row)?)));
        }
    }
    Ok(None)
}

/// The key of the block from which a scan must begin that wants a revision and what follows it.
pub(crate) fn begin_of(
    table: &impl ReadableTable<&'static Key, &'static [u8]>,
    revision: Revision,
) -> Result<Key, Fault> {
    let wanted = revision.to_key();
    match table.range::<&Key>(..=&wanted)?.next_back() {
        Some(found) => Ok(*found?.0.value()),
        None => Ok(wanted),
    }
}

/// Takes changes out of the table, and returns the stored bytes that this frees. Revisions ascend; those that are not there
/// count for nothing.
pub(crate) fn remove(table: &mut Table<'_>, revisions: &[Revision]) -> Result<u64, Fault> {
    let mut freed = 0;
    let mut kept = Builder::default();
    let mut rest = revisions;
    while let Some(next) = rest.first() {
        let wanted = next.to_key();
        kept.clear();
        let first;
        {
            let Some(found) = table.range::<&Key>(..=&wanted)?.next_back() else {
                rest = &rest[1..];
                continue;
            };
            let (key, block) = found?;
            first = *key.value();
            let before = rest.len();
            for change in Block::new(&first, block.value())? {
                let (key, row) = change?;
                let revision = Revision::from_key(key);
                rest = &rest[rest.partition_point(|dropped| *dropped < revision)..];
                if rest.first() == Some(&revision) {
                    freed += stored_size(schema::decode_row(key, row)?);
                    rest = &rest[1..];
                } else {
                    kept.append(key, row);
                }
            }
            if rest.len() == before {
                rest = &rest[1..];
                continue;
            }
        }
        replace(table, &first, &mut kept)?;
    }
    Ok(freed)
}

/// Puts what is left of a block in its place.
fn replace(table: &mut Table<'_>, first: &Key, kept: &mut Builder) -> Result<(), Fault> {
    if kept.rows == 0 {
        table.remove(first)?;
        return Ok(());
    }
    let mut joined = Builder::default();
    if let Some(previous) = table.range::<&Key>(..first)?.next_back() {
        let (key, block) = previous?;
        if block.value().len() + kept.bytes.len() - HEAD <= BLOCK_BYTES {
            joined.extend(Block::new(key.value(), block.value())?)?;
            joined.rows += kept.rows;
            joined.bytes.extend(&kept.bytes[HEAD..]);
        }
    }
    let whole = if joined.rows > 0 { &mut joined } else { kept };
    if whole.first != *first {
        table.remove(first)?;
    }
    whole.write(table)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, Block, Builder, Key, begin_of, find, remove};
    use crate::mvcc::revision::Revision;
    use crate::mvcc::state::stored_size;
    use crate::schema;
    use api::encoded::KeyValueFields;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, ReadableTableMetadata};
    use std::collections::BTreeMap;

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    fn row(key: &Key, value: usize) -> Vec<u8> {
        let value = vec![b'v'; value];
        let kv = KeyValueFields { key: b"key", mod_revision: 9, value: &value, ..Default::default() }.encode();
        schema::encode_row(key, kv.as_bytes(), &mut Vec::new()).to_vec()
    }

    /// What the table has, and what its blocks are.
    fn content(database: &Database) -> (BTreeMap<Revision, Vec<u8>>, Vec<(Revision, usize)>) {
        let table = database.begin_read().unwrap().open_table(schema::REVISIONS).unwrap();
        let (mut changes, mut blocks) = (BTreeMap::new(), Vec::new());
        for found in table.range::<&Key>(..).unwrap() {
            let (first, block) = found.unwrap();
            let mut last = None;
            for change in Block::new(first.value(), block.value()).unwrap() {
                let (key, row) = change.unwrap();
                last = Some(Revision::from_key(key));
                assert!(changes.insert(Revision::from_key(key), row.to_vec()).is_none());
            }
            let block = Block::new(first.value(), block.value()).unwrap();
            blocks.push((Revision::from_key(first.value()), block.rest.len()));
            assert_eq!(Some(block.last().unwrap()), last);
        }
        (changes, blocks)
    }

    /// Random appends and removals, and what the table has of each revision afterwards.
    #[test]
    fn the_table_has_what_was_pushed_and_not_removed() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let database = database();
            let mut model = BTreeMap::new();
            let mut next = Revision::first(2);
            for _ in 0..30 {
                let txn = database.begin_write().unwrap();
                let mut table = txn.open_table(schema::REVISIONS).unwrap();
                let mut block = Builder::at_end(&table).unwrap();
                for _ in 0..rng.random_range(0..60) {
                    let size = *[0, 100, 300, 2000, 4000, 9000].get(rng.random_range(0..6)).unwrap();
                    let row = row(&next.to_key(), size);
                    block.push(&mut table, &next.to_key(), &row).unwrap();
                    model.insert(next, row);
                    next.sub += 1;
                    if rng.random_bool(0.7) {
                        next = Revision::first(next.main + 1);
                    }
                }
                block.write(&mut table).unwrap();
                let share = *[0.0, 0.02, 0.5, 0.98].get(rng.random_range(0..4)).unwrap();
                let mut dropped: Vec<_> = model.keys().copied().filter(|_| rng.random_bool(share)).collect();
                let freed: u64 = dropped.iter().map(|r| stored_size(&model.remove(r).unwrap()[4..])).sum();
                // Some that are not there, before, between and after the others.
                dropped.extend([Revision::first(1), Revision { main: 5, sub: 1 << 20 }, Revision::first(1 << 40)]);
                dropped.sort_unstable();
                assert_eq!(remove(&mut table, &dropped).unwrap(), freed, "seed {seed}");
                drop(table);
                txn.commit().unwrap();

                let (changes, blocks) = content(&database);
                assert!(changes == model, "seed {seed}");
                for pair in blocks.windows(2) {
                    assert!(pair[0].0 < pair[1].0);
                }
                let table = database.begin_read().unwrap().open_table(schema::REVISIONS).unwrap();
                for main in 0..next.main + 2 {
                    let wanted = Revision { main, sub: rng.random_range(0..3) };
                    let found = find(&table, wanted).unwrap().map(|kv| kv.as_bytes().to_vec());
                    assert_eq!(found.as_deref(), model.get(&wanted).map(|row| &row[4..]), "seed {seed}");
                    let begin = Revision::from_key(&begin_of(&table, wanted).unwrap());
                    let expected = blocks.iter().map(|(first, _)| *first).rfind(|first| *first <= wanted);
                    assert_eq!(begin, expected.unwrap_or(wanted), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn blocks_fill_pages_also_when_most_was_removed() {
        let database = database();
        let txn = database.begin_write().unwrap();
        let mut table = txn.open_table(schema::REVISIONS).unwrap();
        let mut block = Builder::default();
        let keys: Vec<_> = (2..10_002).map(Revision::first).collect();
        let size = row(&keys[0].to_key(), 250).len() + super::CHANGE_HEAD;
        for (at, key) in keys.iter().enumerate() {
            if at % 50 == 0 {
                block.write(&mut table).unwrap();
                block = Builder::at_end(&table).unwrap();
            }
            block.push(&mut table, &key.to_key(), &row(&key.to_key(), 250)).unwrap();
        }
        block.write(&mut table).unwrap();
        let at_least = |changes: usize| (changes * size).div_ceil(BLOCK_BYTES) as u64;
        let blocks = table.len().unwrap();
        assert!(blocks <= at_least(keys.len()) * 3 / 2, "{blocks} blocks for {} pages", at_least(keys.len()));
        let mut rng = StdRng::seed_from_u64(1);
        let (kept, dropped): (Vec<_>, Vec<_>) = keys.into_iter().partition(|_| rng.random_bool(0.1));
        // As a compaction does: in key order, which has nothing to do with the order of the table.
        for turn in 0..10 {
            let part: Vec<_> = dropped.iter().copied().filter(|key| key.main % 10 == turn).collect();
            remove(&mut table, &part).unwrap();
        }
        let blocks = table.len().unwrap();
        assert!(blocks <= 2 * at_least(kept.len()), "{blocks} blocks for {} pages", at_least(kept.len()));
    }

    #[test]
    fn a_damaged_block_is_no_block() {
        let (first, second) = (Revision::first(3).to_key(), Revision::first(4).to_key());
        let mut builder = Builder::default();
        builder.append(&first, b"sum one");
        builder.append(&second, b"sum and another");
        builder.bytes[..4].copy_from_slice(&builder.rows.to_be_bytes());
        let whole = |first: &Key, bytes: &[u8]| Block::new(first, bytes)?.try_for_each(|change| change.map(|_| ()));
        whole(&first, &builder.bytes).unwrap();
        assert!(whole(&second, &builder.bytes).is_err());
        for len in 0..builder.bytes.len() {
            assert!(whole(&first, &builder.bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(whole(&first, &[&*builder.bytes, &[0]].concat()).is_err());
        for (at, byte) in [(0, 1), (3, 1), (3, 3), (15, 2), (19, 6), (19, 255)] {
            let mut bytes = builder.bytes.clone();
            bytes[at] = byte;
            let error = whole(&first, &bytes).unwrap_err().to_string();
            assert!(error.contains("revision 3.0 begins a block that is damaged"), "{at}: {error}");
        }
    }
}
