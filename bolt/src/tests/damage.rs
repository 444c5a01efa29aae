//! Files that are damaged: an error that names the place, or the same contents, and never a panic.

use super::*;
use crate::page::{BRANCH, BUCKET, FREELIST, HEADER, Header, LEAF, Meta};
use crate::{Check, Damage, MetaFault};
use bytes::BufMut;
use std::fs::OpenOptions as FileOptions;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;
const FLIPS: usize = 4000;

fn plain() -> WriteOptions {
    WriteOptions { digest: false, ..WriteOptions::default() }
}

/// Inline buckets, a bucket of one page, one with branches, one with overflow pages.
fn sample() -> Contents {
    vec![
        ("alarm".to_owned(), vec![]),
        ("auth".to_owned(), numbered(3, |i| vec![i as u8; 20])),
        ("key".to_owned(), numbered(300, |i| vec![i as u8; 90])),
        ("lease".to_owned(), numbered(16, |i| vec![i as u8; 100])),
        ("meta".to_owned(), numbered(3, |i| vec![i as u8; 9000])),
    ]
}

/// A file whose bytes can be changed.
struct Damaged {
    scratch: Scratch,
    bytes: Vec<u8>,
}

impl Damaged {
    fn new(options: &WriteOptions, contents: &Contents) -> Self {
        let scratch = Scratch::new();
        write(&scratch.path("good"), options, contents);
        let bytes = std::fs::read(scratch.path("good")).unwrap();
        Self { scratch, bytes }
    }

    /// Reads the file after a change.
    fn after(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<Contents, Error> {
        self.after_with(OpenOptions::default(), change)
    }

    fn after_with(&self, options: OpenOptions, change: impl FnOnce(&mut Vec<u8>)) -> Result<Contents, Error> {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        std::fs::write(self.scratch.path("bad"), bytes).unwrap();
        read(&self.scratch.path("bad"), options)
    }

    /// What is wrong with which page after a change.
    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) -> (u64, Damage) {
        match self.after(change) {
            Err(Error::Page { page, damage }) => (page, damage),
            other => panic!("{:?}", other.map(|_| "no damage")),
        }
    }

    fn header(&self, page: usize) -> Header {
        Header::decode(self.bytes[page * PAGE..].first_chunk().unwrap())
    }

    /// Pages of a kind, in order.
    fn pages(&self, flags: u16) -> Vec<usize> {
        (2..self.bytes.len() / PAGE)
            .filter(|page| (self.header(*page).id, self.header(*page).flags) == (*page as u64, flags))
            .collect()
    }
}

fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_flipped_bit_is_seen_with_a_digest() {
    let contents = sample().into_iter().filter(|(name, _)| !["key", "meta"].contains(&name.as_str())).collect();
    let (good, mut random) = (Damaged::new(&WriteOptions::default(), &contents), random());
    let path = good.scratch.path("flipped");
    std::fs::write(&path, &good.bytes).unwrap();
    assert!(read(&path, OpenOptions::default()).unwrap() == contents);
    let file = FileOptions::new().write(true).open(&path).unwrap();
    for _ in 0..FLIPS / 2 {
        let at = random.random_range(0..good.bytes.len());
        file.write_all_at(&[good.bytes[at] ^ 1 << random.random_range(0..8)], at as u64).unwrap();
        assert!(matches!(read(&path, OpenOptions::default()), Err(Error::Digest)), "byte {at}");
        file.write_all_at(&good.bytes[at..=at], at as u64).unwrap();
    }
}

/// Without a digest nothing can tell that a key or a value is another one. All else is an error.
#[test]
fn a_flipped_bit_hides_no_entry() {
    let (good, mut random) = (Damaged::new(&plain(), &sample()), random());
    let path = good.scratch.path("flipped");
    std::fs::write(&path, &good.bytes).unwrap();
    let file = FileOptions::new().write(true).open(&path).unwrap();
    let counts = |contents: &Contents| contents.iter().map(|(_, entries)| entries.len()).collect::<Vec<_>>();
    let mut seen = [0; 2];
    for _ in 0..FLIPS {
        let mut at = random.random_range(0..good.bytes.len());
        if random.random() {
            // More of them where lengths and page numbers are.
            at = at / PAGE * PAGE + random.random_range(0..200);
        }
        file.write_all_at(&[good.bytes[at] ^ 1 << random.random_range(0..8)], at as u64).unwrap();
        match read(&path, OpenOptions::default()) {
            // A bucket whose name is no text any more is not asked for its entries.
            Ok(read) if read.len() == sample().len() => assert_eq!(counts(&read), counts(&sample()), "byte {at}"),
            Ok(_) => {}
            Err(_) => seen[0] += 1,
        }
        seen[1] += 1;
        file.write_all_at(&good.bytes[at..=at], at as u64).unwrap();
    }
    assert!(seen[0] > FLIPS / 8 && seen[0] < seen[1], "{seen:?}");
}

#[test]
fn random_bytes_in_a_page_are_no_panic() {
    let (good, mut random) = (Damaged::new(&plain(), &sample()), random());
    for _ in 0..FLIPS / 4 {
        let options = OpenOptions { one_meta_is_enough: true, ..OpenOptions::default() };
        let read = good.after_with(options, |bytes| {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len() / PAGE) * PAGE + random.random_range(0..300);
                let len = random.random_range(1..9);
                bytes[at..at + len].fill_with(|| if random.random() { random.random() } else { 0 });
            }
        });
        drop(read);
    }
}

#[test]
fn a_cut_file_is_an_error() {
    let mut random = random();
    for options in [plain(), WriteOptions::default()] {
        let good = Damaged::new(&options, &sample());
        let (len, digest) = (good.bytes.len(), good.bytes.len() % PAGE);
        // Without all of its digest the file is as good as one that never had it, unless it is taken for one that has.
        let lens = (0..1000).map(|_| random.random_range(0..len - digest)).chain([0, 1, 32, 63, 80, PAGE, PAGE + 32]);
        for cut in lens {
            assert!(good.after(|bytes| bytes.truncate(cut)).is_err(), "cut at {cut} of {len}");
        }
    }
    let error = Damaged::new(&plain(), &sample()).after(|bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(error, Err(Error::Truncated { .. })), "{error:?}");
}

#[test]
fn one_damaged_meta_page_is_told() {
    let good = Damaged::new(&plain(), &sample());
    for page in 0..2 {
        let change = |bytes: &mut Vec<u8>| bytes[page * PAGE + HEADER + 20] ^= 1;
        let error = good.after(change);
        assert!(
            matches!(error, Err(Error::OneMeta { page: named, fault: MetaFault::Checksum }) if named == page as u64),
            "{error:?}"
        );
        let options = OpenOptions { one_meta_is_enough: true, ..OpenOptions::default() };
        assert!(good.after_with(options, change).unwrap() == sample());
    }
    let error = good.after(|bytes| {
        bytes[HEADER] ^= 1;
        bytes[PAGE + HEADER + 4] = 3;
    });
    let expected = (MetaFault::Magic(0xED0C_DAEC), MetaFault::Version(3));
    assert!(matches!(error, Err(Error::NoMeta { first, second }) if (first, second) == expected), "{error:?}");
    let error = good.after(|bytes| bytes.fill(0));
    assert!(matches!(error, Err(Error::NoMeta { .. })), "{error:?}");
}

#[test]
fn a_cycle_of_pages_ends() {
    let good = Damaged::new(&plain(), &sample());
    let branch = *good.pages(BRANCH).last().unwrap();
    // To itself, and to a page that leads to it.
    let found = good.damage(|bytes| set_u64(bytes, branch * PAGE + HEADER + 8, branch as u64));
    assert_eq!(found, (branch as u64, Damage::Twice));

    let entries = (0..300).map(|i| ([format!("{i:08}").into_bytes(), vec![b'x'; 500]].concat(), vec![])).collect();
    let good = Damaged::new(&plain(), &vec![("key".to_owned(), entries)]);
    let branches = good.pages(BRANCH);
    let (lower, upper) = (branches[0], *branches.last().unwrap());
    let found = good.damage(|bytes| set_u64(bytes, lower * PAGE + HEADER + 8, upper as u64));
    assert_eq!(found, (upper as u64, Damage::Twice));

    // The same leaf under two keys.
    let leaf = good.pages(LEAF)[0];
    let second = HEADER + 16 + 8;
    let found = good.damage(|bytes| set_u64(bytes, lower * PAGE + second, leaf as u64));
    assert_eq!(found, (leaf as u64, Damage::Twice));
}

#[test]
fn a_page_that_is_not_what_it_should_be_is_named() {
    let good = Damaged::new(&plain(), &sample());
    let pages = good.bytes.len() as u64 / PAGE as u64;
    let (branch, leaf) = (good.pages(BRANCH)[0], good.pages(LEAF)[1]);
    let (at, page) = (leaf * PAGE, leaf as u64);
    assert_eq!(good.damage(|bytes| set_u64(bytes, at, 77)), (page, Damage::OtherId { found: 77 }));
    assert_eq!(good.damage(|bytes| set_u16(bytes, at + 8, 0x20)), (page, Damage::Kind { flags: 0x20 }));
    assert_eq!(good.damage(|bytes| set_u16(bytes, at + 8, 0x04)), (page, Damage::Kind { flags: 0x04 }));
    assert_eq!(good.damage(|bytes| set_u16(bytes, at + 10, 0)), (page, Damage::NoElements));
    assert_eq!(good.damage(|bytes| set_u16(bytes, at + 10, 5000)), (page, Damage::Elements { count: 5000 }));
    let found = good.damage(|bytes| set_u32(bytes, at + 12, u32::MAX));
    assert_eq!(found, (page, Damage::Overflow { overflow: u32::MAX }));
    let element = |index: usize| at + HEADER + index * 16;
    for change in [|b: &mut Vec<u8>, at| set_u32(b, at + 4, u32::MAX), |b: &mut Vec<u8>, at| set_u32(b, at + 4, 0)] {
        assert_eq!(good.damage(|bytes| change(bytes, element(3))), (page, Damage::Element { index: 3 }));
    }
    assert_eq!(good.damage(|bytes| set_u32(bytes, element(3) + 8, 0)), (page, Damage::EmptyKey { index: 3 }));
    // Longer or shorter, a value ends where the next key does not begin.
    assert_eq!(good.damage(|bytes| set_u32(bytes, element(3) + 12, 91)), (page, Damage::Element { index: 4 }));
    assert_eq!(good.damage(|bytes| set_u32(bytes, element(3) + 12, 89)), (page, Damage::Element { index: 4 }));
    assert_eq!(good.damage(|bytes| set_u32(bytes, element(3), 2)), (page, Damage::Flags { index: 3, flags: 2 }));
    let first_key = at + HEADER + 16 * usize::from(good.header(leaf).count);
    assert_eq!(good.damage(|bytes| bytes[first_key] = b'z'), (page, Damage::Order { index: 0 }));
    // A key that has the right place in its page, but not below its branch.
    assert_eq!(good.damage(|bytes| bytes[first_key] = b'!'), (page, Damage::Order { index: 0 }));
    let found = good.damage(|bytes| set_u64(bytes, branch * PAGE + HEADER + 8, pages));
    assert_eq!(found, (pages, Damage::OutOfRange { pages }));
    let found = good.damage(|bytes| set_u64(bytes, branch * PAGE + HEADER + 8, 1));
    assert_eq!(found, (1, Damage::OutOfRange { pages }));
    assert_eq!(good.damage(|bytes| set_u16(bytes, branch * PAGE + 10, 0)), (branch as u64, Damage::NoElements));
}

#[test]
fn a_nested_bucket_is_named() {
    let good = Damaged::new(&plain(), &sample());
    let leaf = good.pages(LEAF)[0];
    let (_, damage) = good.damage(|bytes| set_u32(bytes, leaf * PAGE + HEADER, BUCKET));
    assert_eq!(damage.to_string(), "bucket \"key\" has a nested bucket \"00000000\": etcd has none");
    // An entry beside the buckets.
    let root = *good.pages(LEAF).last().unwrap();
    let found = good.damage(|bytes| set_u32(bytes, root * PAGE + HEADER, 0));
    assert_eq!(found, (root as u64, Damage::Flags { index: 0, flags: 0 }));
}

#[test]
fn a_page_is_not_read_beyond_the_limit() {
    let good = Damaged::new(&plain(), &sample());
    let options = |max_page_bytes| OpenOptions { max_page_bytes, ..OpenOptions::default() };
    assert!(good.after_with(options(7 * PAGE as u64), |_| {}).is_ok());
    let error = good.after_with(options(5 * PAGE as u64), |_| {});
    assert!(matches!(error, Err(Error::Page { damage: Damage::TooLarge { .. }, .. })), "{error:?}");
}

/// Makes the pages behind the end free, and puts these on the list.
fn with_free_pages(bytes: &mut Vec<u8>, more: usize, listed: &[u64]) {
    let pages = bytes.len() / PAGE;
    let mut list = Vec::new();
    let count = if listed.len() < 0xFFFF { listed.len() as u16 } else { 0xFFFF };
    let span = (HEADER + 8 * (listed.len() + 1)).div_ceil(PAGE);
    let id = (pages + more) as u64;
    Header { id, flags: FREELIST, count, overflow: span as u32 - 1 }.encode(&mut list);
    if count == 0xFFFF {
        list.put_u64_le(listed.len() as u64);
    }
    for page in listed {
        list.put_u64_le(*page);
    }
    let old = Meta::decode(0, bytes.first_chunk().unwrap()).unwrap();
    bytes.resize((pages + more + span) * PAGE, 0);
    bytes[id as usize * PAGE..][..list.len()].copy_from_slice(&list);
    let meta = Meta { freelist: id, pages: id + span as u64, ..old };
    for page in 0..2 {
        let encoded = Meta { txid: 2 - page, ..meta }.encode(page);
        bytes[page as usize * PAGE..][..encoded.len()].copy_from_slice(&encoded);
    }
}

#[test]
fn the_list_of_free_pages_is_checked() {
    let good = Damaged::new(&plain(), &sample());
    // The list that the writer had made becomes free, too.
    let end = good.bytes.len() as u64 / PAGE as u64;
    let old = end - 1;
    for more in [0, 3, 70_000] {
        let listed: Vec<u64> = (old..end + more).collect();
        let mut bytes = good.bytes.clone();
        with_free_pages(&mut bytes, more as usize, &listed);
        let path = good.scratch.path("free");
        std::fs::write(&path, &bytes).unwrap();
        assert!(read(&path, OpenOptions::default()).unwrap() == sample());
        let check = Database::open(&path, OpenOptions::default()).unwrap().check().unwrap();
        let used = (bytes.len() / PAGE - listed.len()) as u64;
        assert_eq!(check, Check { used, free: listed.len() as u64, has_freelist: true });
    }
    let with = |listed: &[u64]| good.damage(|bytes| with_free_pages(bytes, 1, listed));
    assert_eq!(with(&[old]), (end, Damage::Lost));
    assert_eq!(with(&[old, end, 4]), (4, Damage::FreeInUse));
    assert_eq!(with(&[old, end, end]), (end, Damage::FreeTwice));
    assert_eq!(with(&[old, end, end + 2]), (end + 2, Damage::OutOfRange { pages: end + 2 }));
    let (page, damage) = good.damage(|bytes| set_u16(bytes, old as usize * PAGE + 10, 512));
    assert_eq!((page, damage), (old, Damage::Elements { count: 512 }));
}

#[test]
fn a_file_without_a_list_of_free_pages_is_read() {
    let good = Damaged::new(&plain(), &sample());
    let read = good.after(|bytes| {
        let old = Meta::decode(0, bytes.first_chunk().unwrap()).unwrap();
        for page in 0..2 {
            let encoded = Meta { txid: 2 - page, freelist: u64::MAX, ..old }.encode(page);
            bytes[page as usize * PAGE..][..encoded.len()].copy_from_slice(&encoded);
        }
    });
    assert!(read.unwrap() == sample());
    let check = Database::open(&good.scratch.path("bad"), OpenOptions::default()).unwrap().check().unwrap();
    assert_eq!((check.free, check.has_freelist), (1, false));
}

#[test]
fn the_later_meta_page_counts() {
    let good = Damaged::new(&plain(), &sample());
    let old = Meta::decode(0, good.bytes.first_chunk().unwrap()).unwrap();
    // Page 1 of a later transaction that has no list of free pages; page 0 of an earlier one without a root.
    let read = good.after(|bytes| {
        let earlier = Meta { root: 3000, ..old }.encode(0);
        bytes[..earlier.len()].copy_from_slice(&earlier);
        let later = Meta { txid: 3, freelist: u64::MAX, ..old }.encode(1);
        bytes[PAGE..][..later.len()].copy_from_slice(&later);
    });
    assert!(read.unwrap() == sample());
}

#[test]
fn a_file_in_use_is_told() {
    let good = Damaged::new(&plain(), &sample());
    let path = good.scratch.path("good");
    let held = std::fs::File::open(&path).unwrap();
    held.try_lock().unwrap();
    assert!(matches!(read(&path, OpenOptions::default()), Err(Error::InUse { .. })));
    drop(held);
    assert!(read(&path, OpenOptions::default()).is_ok());
}
