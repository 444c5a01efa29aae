//! The tree by itself, without a database and with one. What it does to requests is compared with etcd in `tests/v2`.

use super::history::EVENTS_BYTES_MAX;
use super::{Action, Code, DEPTH_MAX, Event, FIRST_INDEX, NodeView, Refusal, Step, Told, Tree};
use crate::command::{Entry, Position, Reply};
use crate::snapshot::receive::Import;
use crate::{Options, Reader, Writer, open};
use api::cleatpb::command::Op;
use api::cleatpb::v2_request::Method;
use api::cleatpb::{Command, V2Request};
use api::etcdserverpb::{AlarmRequest, AlarmType};
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;
/// A time after 2000.
const NOW: i64 = 1_000_000_000 * SECOND;

fn request(method: Method, path: &str, value: &str) -> V2Request {
    let (path, value) = (path.as_bytes().to_vec().into(), value.as_bytes().to_vec().into());
    V2Request { method: method as i32, path, value, now: NOW, ..V2Request::default() }
}

fn set(path: &str, value: &str) -> V2Request {
    request(Method::Set, path, value)
}

fn expiring(path: &str, seconds: i64) -> V2Request {
    V2Request { expiration: NOW + seconds * SECOND, ..set(path, "") }
}

fn delete(path: &str) -> V2Request {
    V2Request { recursive: true, ..request(Method::Delete, path, "") }
}

fn expire(seconds: i64) -> V2Request {
    V2Request { now: NOW + seconds * SECOND, ..request(Method::Expire, "/", "") }
}

/// Applies a request to a tree: the index that it got, or the code of its refusal.
fn apply(tree: &mut Tree, request: &V2Request) -> Result<u64, Code> {
    let answer = tree.apply(request, 1, &mut Vec::new()).unwrap();
    answer.result.map(|event| event.index()).map_err(|refusal| refusal.code)
}

#[test]
fn what_expires_goes_oldest_first_each_at_its_index() {
    let mut tree = Tree::default();
    for (path, seconds) in [("/1/c", 3), ("/1/a", 9), ("/1/b/x", 2), ("/1/d", 0)] {
        apply(&mut tree, &expiring(path, seconds)).unwrap();
    }
    assert_eq!(tree.next_expiration(), Some(NOW));
    let mut told = Vec::new();
    assert!(tree.apply(&expire(3), 1, &mut told).is_none());
    let gone = |told: &[Told]| {
        let of = |told: &Told| (told.event.action, String::from_utf8(told.event.node.key.to_vec()).unwrap());
        told.iter().map(of).collect::<Vec<_>>()
    };
    let expected = ["/1/d", "/1/b/x", "/1/c"].map(|path| (Action::Expire, path.to_owned()));
    assert_eq!(gone(&told), expected);
    assert_eq!((tree.index(), tree.next_expiration()), (FIRST_INDEX + 7, Some(NOW + 9 * SECOND)));
    assert!(tree.find(b"/1/b").unwrap().children().unwrap().is_empty(), "the directory stays");
}

#[test]
fn a_directory_that_expires_takes_all_in_it_along_once() {
    let mut tree = Tree::default();
    apply(&mut tree, &V2Request { dir: true, ..expiring("/1/d", 1) }).unwrap();
    apply(&mut tree, &expiring("/1/d/a", 1)).unwrap();
    apply(&mut tree, &set("/1/d/e/f", "")).unwrap();
    let mut told = Vec::new();
    tree.apply(&expire(5), 1, &mut told);
    assert_eq!(told.len(), 1);
    let removed: Vec<&[u8]> = told[0].removed.iter().map(|path| &**path).collect();
    assert_eq!(removed, [&b"/1/d/a"[..], b"/1/d/e/f", b"/1/d/e"]);
    assert_eq!((tree.next_expiration(), tree.bytes() > 0), (None, true));
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut tree = Tree::default();
    apply(&mut tree, &set("/1/f", "v")).unwrap();
    let (index, bytes) = (tree.index(), tree.bytes());
    let deep = "/a".repeat(DEPTH_MAX);
    for (request, code) in [
        (set("/1/f/x/y", ""), Code::NotDir),
        (set("/1", ""), Code::RootReadOnly),
        (set("/", ""), Code::RootReadOnly),
        (request(Method::Create, "/1/f", ""), Code::KeyExists),
        (request(Method::Update, "/1/g/h", ""), Code::KeyNotFound),
        (request(Method::CreateInOrder, "/1/f", ""), Code::NotDir),
        (V2Request { prev_index: 1, ..request(Method::CompareAndSwap, "/1/f", "") }, Code::CompareFailed),
        (V2Request { prev_value: "w".into(), ..request(Method::CompareAndDelete, "/1/f", "") }, Code::CompareFailed),
        (delete("/1/g"), Code::KeyNotFound),
        (set(&format!("/1{deep}"), ""), Code::InvalidField),
        (set("/1//f", ""), Code::InvalidField),
        (set("1/f", ""), Code::InvalidField),
        (set("", ""), Code::InvalidField),
        (delete("/1/f/"), Code::InvalidField),
    ] {
        assert_eq!(apply(&mut tree, &request), Err(code), "{request:?}");
        assert_eq!((tree.index(), tree.bytes()), (index, bytes), "{request:?}");
    }
    assert_eq!(apply(&mut tree, &set(&format!("/1{}", &deep[2..]), "")), Ok(index + 1));
}

#[test]
fn what_the_tree_holds_is_counted() {
    let mut tree = Tree::default();
    for round in 0..3 {
        for n in 0..20 {
            apply(&mut tree, &set(&format!("/1/a/{n}/x"), &"v".repeat(n * 10 + round))).unwrap();
        }
        apply(&mut tree, &expiring("/1/a/1/y", 5)).unwrap();
        apply(&mut tree, &delete("/1/a/2")).unwrap();
        apply(&mut tree, &V2Request { dir: true, ..set("/1/a/3/x", "") }).unwrap();
        apply(&mut tree, &delete("/1/a/3")).unwrap();
    }
    assert!(tree.node_bytes > 0);
    apply(&mut tree, &delete("/1/a")).unwrap();
    assert_eq!((tree.node_bytes, tree.next_expiration()), (0, None));
    assert!(tree.bytes() > 0, "the history counts");
}

#[test]
fn the_history_has_the_last_thousand_events() {
    let mut tree = Tree::default();
    let start = |tree: &Tree| tree.scan(b"/1/k", false, 1, 0).map(|scan| scan.event.is_some());
    assert_eq!(start(&tree), Ok(false));
    for _ in 0..1000 - FIRST_INDEX {
        apply(&mut tree, &set("/1/k", "v")).unwrap();
    }
    assert_eq!(start(&tree), Ok(true), "the first ones are etcd's own");
    apply(&mut tree, &set("/1/k", "v")).unwrap();
    let refusal = start(&tree).unwrap_err();
    assert_eq!(refusal.code, Code::HistoryCleared);
    assert_eq!(&*refusal.cause, b"the requested history has been cleared [2/1]");
    for _ in 0..500 {
        apply(&mut tree, &set("/1/k", "v")).unwrap();
    }
    let found = tree.scan(b"/1/k", false, 900, 0).unwrap();
    assert_eq!(found.event.unwrap().index(), 900);
    assert_eq!(tree.scan(b"/1/k", false, 0, 0).unwrap().since, tree.index() + 1);
    assert!(tree.scan(b"/1/k", false, tree.index() + 7, 0).unwrap().event.is_none());
}

#[test]
fn large_events_make_the_history_shorter() {
    let mut tree = Tree::default();
    let value = "v".repeat(1 << 20);
    for _ in 0..100 {
        apply(&mut tree, &set("/1/k", &value)).unwrap();
    }
    assert!(tree.bytes() < EVENTS_BYTES_MAX + (2 << 20), "{}", tree.bytes());
    assert_eq!(tree.scan(b"/1/k", false, 1, 0).unwrap_err().code, Code::HistoryCleared);
    assert!(tree.scan(b"/1/k", false, tree.index(), 0).unwrap().event.is_some(), "the last one is kept");
    // And so does one that is larger than all of it.
    apply(&mut tree, &set("/1/k", &"v".repeat(65 << 20))).unwrap();
    assert!(tree.scan(b"/1/k", false, tree.index(), 0).unwrap().event.is_some());
    apply(&mut tree, &delete("/1/k")).unwrap();
    apply(&mut tree, &set("/1/k", "")).unwrap();
    assert!(tree.bytes() < 1 << 20, "what was deleted can be forgotten: {}", tree.bytes());
}

#[test]
fn refreshes_are_in_the_history_and_nobody_is_told() {
    let mut tree = Tree::default();
    apply(&mut tree, &expiring("/1/k", 5)).unwrap();
    let mut told = Vec::new();
    let refresh = V2Request { refresh: true, ..expiring("/1/k", 50) };
    let answer = tree.apply(&refresh, 1, &mut told).unwrap();
    assert_eq!((told.len(), answer.result.unwrap().index()), (0, FIRST_INDEX + 2));
    assert!(tree.scan(b"/1/k", false, FIRST_INDEX + 2, 0).unwrap().event.is_none());
    assert_eq!(tree.next_expiration(), Some(NOW + 50 * SECOND));
}

/// Everything that a reader can ask.
#[derive(Debug, PartialEq)]
struct Answers {
    trees: [Result<Vec<(usize, NodeView)>, Refusal>; 2],
    history: Vec<Result<Option<Arc<Event>>, Refusal>>,
    bytes: u64,
    auth_enabled: bool,
    next_expiration: Option<i64>,
}

/// A node, and all or one level of what is in it, with the depth of each.
fn get(reader: &Reader, path: &[u8], recursive: bool) -> Result<Vec<(usize, NodeView)>, Refusal> {
    let mut depth = 0;
    let found = reader.v2_get(path, recursive, NOW).result?;
    let nodes = found.walk(recursive).filter_map(|step| match step {
        Step::Node(view) => Some((depth, view)),
        Step::Enter(view) => {
            depth += 1;
            Some((depth - 1, view))
        }
        Step::Leave => {
            depth -= 1;
            None
        }
    });
    Ok(nodes.collect())
}

fn answers(reader: &Reader) -> Answers {
    let trees = [&b"/1"[..], b"/2"].map(|path| get(reader, path, true));
    let history = (1..=reader.v2_index()).map(|since| reader.v2_scan(b"/", true, since).map(|scan| scan.event));
    let history = history.collect();
    let state = reader.shared.state.read();
    let (bytes, auth_enabled, next_expiration) = (state.v2.bytes(), state.v2.auth().0, state.v2.next_expiration());
    Answers { trees, history, bytes, auth_enabled, next_expiration }
}

fn write(writer: &mut Writer, index: u64, op: Op) -> Result<Reply, crate::Rejection> {
    let commands = [Command { header: None, op: Some(op) }];
    let entry = Entry { position: Position { term: 1, index }, commands: &commands, membership: None };
    writer.apply([entry]).unwrap().outcomes[0][0].result.clone()
}

/// Some of everything, flushed now and then.
fn fill(writer: &mut Writer, flusher: &mut crate::Flusher) {
    for n in 1..1500_u64 {
        let request = match n % 10 {
            0 => delete(&format!("/1/d{}", n % 7)),
            1 => expiring(&format!("/1/t{}", n % 50), 5 + (n % 40) as i64),
            2 => V2Request { dir: true, ..expiring(&format!("/1/e{n}"), 100) },
            3 => request(Method::CreateInOrder, "/1/queue", "job"),
            4 => V2Request { refresh: true, ..expiring(&format!("/1/t{}", n % 50), 60) },
            5 => expire((n / 50) as i64),
            _ => set(&format!("/1/d{}/k{}", n % 7, n % 90), &format!("{n:0200}")),
        };
        write(writer, n, Op::V2(request)).unwrap();
        if n % 333 == 0 {
            flusher.flush().unwrap();
        }
    }
    write(writer, 1500, Op::V2(set("/2/enabled", "true"))).unwrap();
    flusher.flush().unwrap();
}

#[test]
fn a_restart_a_copy_and_a_snapshot_keep_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (path, options) = (directory.path().join("db"), Options::default());
    let (mut writer, mut flusher, reader) = open(&path, options.clone()).unwrap();
    fill(&mut writer, &mut flusher);
    let before = answers(&reader);
    flusher.defragment().unwrap().unwrap();
    let mut snapshot = reader.snapshot().unwrap();
    let behind = directory.path().join("behind");
    let (mut other, _other_flusher, other_reader) = open(&behind, options.clone()).unwrap();
    let mut import = Import::create(&behind, &options).unwrap();
    // As after broken connections: behind every few frames the stream is another one.
    let mut frames = 0;
    while let Some(frame) = snapshot.next_frame().unwrap() {
        import.feed(&frame).unwrap();
        frames += 1;
        if frames % 2 == 0 && !import.is_complete() {
            let progress = import.rewind();
            snapshot = reader.snapshot().unwrap();
            assert!(snapshot.resume_after(&progress).unwrap());
        }
    }
    assert!(frames > 5, "{frames} frames");
    // It knew as many changes of users as the snapshot has.
    for (index, path) in ["/2/enabled", "/2/users", "/2/roles"].into_iter().enumerate() {
        write(&mut other, 1 + index as u64, Op::V2(set(path, "true"))).unwrap();
    }
    let known = other_reader.v2_auth().1;
    drop(other.install(import.finish().unwrap()).unwrap());
    assert_eq!(answers(&other_reader), before);
    assert!(other_reader.v2_auth().1 > known, "what is remembered of users is worth nothing");
    drop((writer, flusher, reader, snapshot));
    let (_writer, _flusher, reader) = open(&path, options).unwrap();
    assert_eq!(answers(&reader), before);
}

#[test]
fn a_database_of_the_format_before_gets_an_empty_tree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    drop(open(&path, Options::default()).unwrap());
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.delete_table(crate::schema::V2_NODES).unwrap();
    txn.delete_table(crate::schema::V2_EVENTS).unwrap();
    {
        let format = crate::schema::FORMAT_WITHOUT_V2.to_be_bytes();
        let mut meta = txn.open_table(crate::schema::META).unwrap();
        meta.insert(crate::schema::meta::FORMAT, format.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    for expected in [FIRST_INDEX + 1, FIRST_INDEX + 2] {
        let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
        write(&mut writer, expected, Op::V2(set("/1/k", "v"))).unwrap();
        assert_eq!(reader.v2_index(), expected);
        flusher.flush().unwrap();
    }
}

#[test]
fn a_new_cluster_that_moves_revisions_up_forgets_the_history() {
    for (bump, index, kept) in [(0, FIRST_INDEX + 1, true), (1000, FIRST_INDEX + 1001, false)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
        write(&mut writer, 1, Op::V2(set("/1/k", "v"))).unwrap();
        flusher.flush().unwrap();
        drop((writer, flusher, reader));
        drop(crate::renew(&path, (Position { term: 1, index: 1 }, b"founders"), bump, &Options::default()).unwrap());
        let (_writer, _flusher, reader) = open(&path, Options::default()).unwrap();
        assert_eq!(reader.v2_index(), index);
        assert_eq!(reader.v2_scan(b"/1/k", false, FIRST_INDEX + 1).is_ok(), kept);
        assert!(get(&reader, b"/1/k", false).is_ok());
    }
}

#[test]
fn without_space_keys_can_be_kept_alive_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _flusher, reader) = open(&directory.path().join("db"), Options::default()).unwrap();
    let before = reader.stored_bytes();
    write(&mut writer, 1, Op::V2(expiring("/1/k", 5))).unwrap();
    assert!(reader.stored_bytes() > before);
    let alarm = AlarmRequest { action: 1, member_id: 7, alarm: AlarmType::Nospace as i32 };
    write(&mut writer, 2, Op::Alarm(alarm)).unwrap();
    let refused = [set("/1/k", "v"), request(Method::CreateInOrder, "/1/q", ""), request(Method::Update, "/1/k", "w")];
    for (index, request) in refused.into_iter().enumerate() {
        assert_eq!(write(&mut writer, 3 + index as u64, Op::V2(request)).unwrap_err(), crate::Rejection::NoSpace);
    }
    let refresh = V2Request { refresh: true, ..expiring("/1/k", 50) };
    for (index, request) in [refresh, expire(1), delete("/1/k")].into_iter().enumerate() {
        write(&mut writer, 10 + index as u64, Op::V2(request)).unwrap();
    }
    assert!(get(&reader, b"/1/k", false).is_err());
}

#[test]
fn a_listing_shows_names_in_order_and_nothing_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _flusher, reader) = open(&directory.path().join("db"), Options::default()).unwrap();
    let keys = ["/1/d/a", "/1/d/b/c", "/1/d/b/_hidden", "/1/d/_hidden/e", "/1/f", "/1/h/_hidden"];
    for (index, key) in keys.into_iter().enumerate() {
        write(&mut writer, 1 + index as u64, Op::V2(set(key, "v"))).unwrap();
    }
    for (path, recursive, expected) in [
        ("/1", false, &["0 /1", "1 /1/d", "1 /1/f", "1 /1/h"][..]),
        ("/1", true, &["0 /1", "1 /1/d", "2 /1/d/a", "2 /1/d/b", "3 /1/d/b/c", "1 /1/f", "1 /1/h"]),
        ("/1/d", true, &["0 /1/d", "1 /1/d/a", "1 /1/d/b", "2 /1/d/b/c"]),
        ("/1/d/_hidden", true, &["0 /1/d/_hidden", "1 /1/d/_hidden/e"]),
        ("/1/h", true, &["0 /1/h"]),
        ("/1/f", true, &["0 /1/f"]),
    ] {
        let found = get(&reader, path.as_bytes(), recursive).unwrap();
        let shown: Vec<_> =
            found.iter().map(|(depth, view)| format!("{depth} {}", String::from_utf8_lossy(&view.key))).collect();
        assert_eq!(shown, expected, "{path}");
    }
    assert_eq!(get(&reader, b"/1/no", true).unwrap_err().code, Code::KeyNotFound);
    let stats = reader.v2_stats();
    let counted = [stats.gets, stats.recursive_gets].map(|count| (count.succeeded, count.failed));
    assert_eq!(counted, [(1, 0), (5, 1)]);
    assert_eq!(reader.v2_names(b"/1/d"), [Arc::from(&b"a"[..]), Arc::from(&b"b"[..])]);
    let values = (reader.v2_value(b"/1/f"), reader.v2_value(b"/1/d"), reader.v2_exists(b"/1/no"));
    assert_eq!(values, (Some("v".into()), None, false));
}

#[test]
fn what_was_read_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _flusher, reader) = open(&directory.path().join("db"), Options::default()).unwrap();
    for (index, key) in ["/1/a/b/c", "/1/a/d", "/1/e", "/1/f/g"].into_iter().enumerate() {
        write(&mut writer, 1 + index as u64, Op::V2(set(key, "v"))).unwrap();
    }
    let before = get(&reader, b"/1", true).unwrap();
    let read = reader.v2_get(b"/1", true, NOW).result.unwrap();
    let mut walk = reader.v2_get(b"/1", true, NOW).result.unwrap().walk(true);
    assert!(matches!(walk.next(), Some(Step::Enter(_))));
    let changes =
        [set("/1/a/b/c", "w"), set("/1/a/b/new", ""), delete("/1/e"), V2Request { recursive: true, ..delete("/1/f") }];
    for (index, request) in changes.into_iter().enumerate() {
        write(&mut writer, 10 + index as u64, Op::V2(request)).unwrap();
    }
    assert_ne!(get(&reader, b"/1", true).unwrap(), before);
    let nodes = |walk: crate::v2::Walk| {
        walk.filter_map(|step| match step {
            Step::Node(view) | Step::Enter(view) => Some(view),
            Step::Leave => None,
        })
        .collect::<Vec<_>>()
    };
    let expected: Vec<_> = before.into_iter().map(|(_, view)| view).collect();
    assert_eq!(nodes(read.walk(true)), expected);
    assert_eq!(nodes(walk), expected[1..]);
}
