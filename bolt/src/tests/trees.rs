//! What is written is read, whatever the shape of its trees.

use super::*;
use crate::page::{Kind, Root};
use crate::walk::Visited;
use crate::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Snapshot, WriteFault};

/// Levels of a bucket's tree; 0 for an inline one. Every page but the root has two elements at least.
fn depth(database: &Database, bucket: &str) -> usize {
    fn below(database: &Database, page: u64, visited: &mut Visited, is_root: bool) -> usize {
        let node = database.node(page, visited).unwrap();
        assert!(node.len() >= 2 || is_root, "page {page} has {} elements", node.len());
        match node.kind {
            Kind::Leaf => 1,
            Kind::Branch => {
                assert!(node.len() >= 2, "branch {page} has one child");
                let depths: Vec<usize> =
                    (0..node.len()).map(|index| below(database, node.child(index), visited, false)).collect();
                assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "{depths:?}");
                depths[0] + 1
            }
        }
    }
    let mut buckets = database.buckets();
    while let Some(found) = buckets.next_root() {
        let (name, root) = found.unwrap();
        if name == bucket.as_bytes() {
            return match root {
                Root::Inline(_) => 0,
                Root::Page(page) => below(database, page, &mut Visited::new(database.pages()), true),
            };
        }
    }
    panic!("no bucket {bucket}");
}

#[test]
fn trees_of_every_size_come_back() {
    let scratch = Scratch::new();
    let path = scratch.path("db");
    for count in (0..30).chain([63, 64, 120, 500, 5_000]) {
        // About two, and about twenty, entries to a page.
        for (len, page_size) in [(1700, 4096), (150, 4096), (3000, 65_536)] {
            let contents = vec![("key".to_owned(), numbered(count, |i| vec![i as u8; len]))];
            if contents[0].1.len() > 1000 && len > 1000 {
                continue;
            }
            write(&path, &WriteOptions { page_size, digest: count % 2 == 0 }, &contents);
            assert!(read(&path, OpenOptions::default()).unwrap() == contents, "{count} entries of {len} bytes");
            depth(&Database::open(&path, OpenOptions::default()).unwrap(), "key");
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn random_buckets_come_back() {
    let (scratch, mut random) = (Scratch::new(), random());
    for round in 0..10 {
        let path = scratch.path(&format!("{round}"));
        let mut contents = Contents::new();
        for bucket in 0..random.random_range(0..30) {
            let mut entries: Entries = (0..random.random_range(0..100))
                .map(|_| {
                    let key = match random.random_range(0..50) {
                        0 => random.random_range(1..=MAX_KEY_BYTES),
                        _ => random.random_range(1..100),
                    };
                    let value = match random.random_range(0..50) {
                        0 => random.random_range(0..100_000),
                        _ => random.random_range(0..200),
                    };
                    (bytes(&mut random, key), bytes(&mut random, value))
                })
                .collect();
            entries.sort();
            entries.dedup_by(|a, b| a.0 == b.0);
            contents.push((format!("{:03}", bucket * 7), entries));
        }
        let page_size = 4096 << random.random_range(0..5);
        write(&path, &WriteOptions { page_size, digest: random.random() }, &contents);
        assert!(read(&path, OpenOptions::default()).unwrap() == contents);
        let database = Database::open(&path, OpenOptions::default()).unwrap();
        for (name, _) in &contents {
            depth(&database, name);
        }
        assert!(database.bucket("none").unwrap().is_none());
    }
}

#[test]
fn long_keys_make_deep_trees() {
    let scratch = Scratch::new();
    let path = scratch.path("db");
    let entries = (0..700).map(|i| ([format!("{i:08}").into_bytes(), vec![b'x'; 5000]].concat(), vec![])).collect();
    let contents = vec![("key".to_owned(), entries)];
    write(&path, &WriteOptions::default(), &contents);
    assert!(read(&path, OpenOptions::default()).unwrap() == contents);
    let database = Database::open(&path, OpenOptions::default()).unwrap();
    assert!(depth(&database, "key") > 7);
}

#[test]
fn a_file_appears_when_it_is_complete() {
    let scratch = Scratch::new();
    let path = scratch.path("db");
    let begun = Writer::create(&path, &WriteOptions::default()).unwrap();
    assert!(!path.exists());
    drop(begun);
    assert_eq!(std::fs::read_dir(scratch.0.path()).unwrap().count(), 0, "what was begun is removed");

    let (first, second) =
        (Writer::create(&path, &WriteOptions::default()), Writer::create(&path, &WriteOptions::default()));
    first.unwrap().finish().unwrap();
    assert!(matches!(second.unwrap().finish(), Err(Error::Io { .. })), "another file has the name");
    assert!(matches!(Writer::create(&path, &WriteOptions::default()), Err(Error::Io { .. })));
    assert_eq!(read(&path, OpenOptions::default()).unwrap(), []);
    let database = Database::open(&path, OpenOptions::default()).unwrap();
    assert_eq!(database.snapshot(), Snapshot::Verified);
}

#[test]
fn what_bbolt_would_not_take_is_refused() {
    let scratch = Scratch::new();
    let refused = |page_size| Writer::create(&scratch.path("db"), &WriteOptions { page_size, digest: false });
    for page_size in [0, 2048, 5000, 1 << 17] {
        assert!(matches!(refused(page_size), Err(Error::Write(WriteFault::PageSize(size))) if size == page_size));
    }
    let mut writer = Writer::create(&scratch.path("db"), &WriteOptions::default()).unwrap();
    let fault = |result: Result<(), Error>| match result {
        Err(Error::Write(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(writer.put(b"a", b"")), WriteFault::NoBucket);
    assert_eq!(fault(writer.bucket("")), WriteFault::EmptyKey);
    writer.bucket("key").unwrap();
    assert_eq!(fault(writer.put(b"", b"")), WriteFault::EmptyKey);
    writer.put(b"b", b"1").unwrap();
    assert_eq!(fault(writer.put(b"b", b"")), WriteFault::Order);
    assert_eq!(fault(writer.put(b"a", b"")), WriteFault::Order);
    let long = vec![b'c'; MAX_KEY_BYTES + 1];
    assert_eq!(fault(writer.put(&long, b"")), WriteFault::LargeKey { len: long.len(), limit: MAX_KEY_BYTES });
    let large = vec![0; MAX_VALUE_BYTES + 1];
    assert_eq!(fault(writer.put(b"c", &large)), WriteFault::LargeValue { len: large.len(), limit: MAX_VALUE_BYTES });
    writer.bucket("lease").unwrap();
    assert_eq!(fault(writer.bucket("key")), WriteFault::Twice);
    writer.finish().unwrap();
    let contents = read(&scratch.path("db"), OpenOptions::default()).unwrap();
    assert_eq!(contents[0], ("key".to_owned(), vec![(b"b".to_vec(), b"1".to_vec())]));
    assert_eq!(contents.len(), 2);
}
