//! What is known of ranges, whatever becomes of the store.

use super::*;
use crate::source::{etcd, etcd_v2};

fn resource(keys: &[&str]) -> Resource {
    Resource::for_tests(keys)
}

fn key(text: &str) -> Text {
    Text::from(text.as_bytes())
}

/// A store of the v3 API that is away. Nobody listens there, and a connection is refused at once.
fn away() -> Followed {
    let etcd = etcd::Etcd::new(&["http://127.0.0.1:1".to_owned()], None, None).unwrap();
    Followed::new(etcd.into(), errors())
}

fn errors() -> IntCounter {
    IntCounter::new("errors", "errors").unwrap()
}

/// Followers of a store that is away, but for what is read by hand.
fn read_by_hand(followed: &Followed, range: &str, name: &str) -> Change {
    followed.follower(range).replace(Entries::from([(key(name), key("v"))]), BTreeSet::new())
}

#[tokio::test]
async fn a_range_that_cannot_be_read_stops_its_own_resources_alone() {
    let mut etcd = away();
    let (a, b) = (resource(&["/a/x"]), resource(&["/b"]));
    let of = |etcd: &Followed, resource: &Resource| etcd.mirrored(&resource.keys, Entries::len);
    assert_eq!(of(&etcd, &a), None);
    let both = [a.clone(), b.clone()];
    {
        let followed = etcd.follow(&both);
        tokio::pin!(followed);
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut followed).await;
        assert!(waits.is_err(), "nothing was read, so there is nothing to go on with");
    }
    assert_eq!(read_by_hand(&etcd, "/a/x", "/a/x/1"), Change::Everything);
    assert_eq!(of(&etcd, &a), Some(Ok(1)));
    let error = of(&etcd, &b).unwrap().unwrap_err();
    assert!(error.starts_with("the keys of /b have not been read yet"), "{error}");
    // After a hangup what stays is known, although the store is away, and what nobody wants any more is not.
    let c = resource(&["/c"]);
    etcd.follow(&[a.clone(), c.clone()]).await;
    assert_eq!(of(&etcd, &a), Some(Ok(1)));
    assert!(of(&etcd, &c).unwrap().is_err());
    assert!(etcd.errors.get() > 0, "a read that failed is not counted");
    etcd.follow(&[c]).await;
    assert_eq!(etcd.mirrored(&[], Entries::len), Some(Ok(0)));
}

#[tokio::test]
async fn what_was_read_is_known_until_the_new_range_around_it_is_read_or_refused() {
    let mut etcd = away();
    let of = |etcd: &Followed, name: &str| etcd.mirrored(&[name.to_owned()], Entries::len).unwrap();
    let is_unread = |known: Result<usize, String>| known.is_err_and(|error| error.contains("not been read yet"));
    locked(&etcd.mirror).is_followed = true;
    // The ranges are others before anything is waited for.
    let follow = async |etcd: &mut Followed, keys: &[&str]| {
        drop(tokio::time::timeout(Duration::from_millis(20), etcd.follow(&[resource(keys)])).await);
    };
    follow(&mut etcd, &["/a/x"]).await;
    assert_eq!(read_by_hand(&etcd, "/a/x", "/a/x/1"), Change::Everything);
    // A range around it, which cannot be read: the store is away.
    follow(&mut etcd, &["/a/x", "/a"]).await;
    assert_eq!(of(&etcd, "/a/x"), Ok(1));
    assert!(is_unread(of(&etcd, "/a")) && is_unread(of(&etcd, "/a/z")));
    follow(&mut etcd, &["/"]).await;
    assert_eq!(of(&etcd, "/a/x/1"), Ok(1));
    assert_eq!(read_by_hand(&etcd, "/", "/a/y"), Change::Everything);
    assert_eq!((of(&etcd, "/"), of(&etcd, "/a/x")), (Ok(1), Ok(1)));
    // Of a range that was larger only what was kept is known.
    follow(&mut etcd, &["/a/y"]).await;
    assert_eq!(of(&etcd, "/a/y"), Ok(1));
    follow(&mut etcd, &["/a/y", "/a/z"]).await;
    assert_eq!(of(&etcd, "/a/y"), Ok(1));
    assert!(is_unread(of(&etcd, "/a/z")));
    // A store that does not let it be read does not let it be known.
    follow(&mut etcd, &["/a"]).await;
    assert_eq!(of(&etcd, "/a/y"), Ok(1));
    etcd.follower("/a").note(&Failure { error: "no".to_owned(), is_refused: true });
    assert!(is_unread(of(&etcd, "/a/y")));
}

#[test]
fn ranges_cover_all_keys_and_are_few() {
    let of = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        ranges(keys.into_iter().collect(), MAX_RANGES).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(&["/b", "/a/x", "/a", "/a/x/y"]), ["/a", "/b"]);
    let many: Vec<String> = (0..100).map(|number| format!("/app/{number}/key")).collect();
    assert_eq!(ranges(many.iter().cloned().collect(), MAX_RANGES).into_iter().collect::<Vec<_>>(), ["/app/"]);
    let many: Vec<String> = (0..100).map(|number| format!("/{number:03}")).collect();
    assert_eq!(ranges(many.iter().cloned().collect(), MAX_RANGES).into_iter().collect::<Vec<_>>(), ["/"]);
    assert_eq!(of(&["/a/x", "/a-b", "/a", "/ab", "/b/c", "/b/cd", "/b/d"]), ["/a", "/b/c", "/b/d"]);
    // As many as a large site has; looking at each pair would take hours.
    let many: Vec<String> = (0..200_000).map(|number| format!("/app/{number}/key")).collect();
    assert_eq!(ranges(many.iter().cloned().collect(), MAX_RANGES).into_iter().collect::<Vec<_>>(), ["/app/"]);
}

/// The keys in the mirror.
fn known(followed: &Followed) -> Vec<String> {
    locked(&followed.mirror).entries.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

#[tokio::test]
async fn a_tree_loses_what_is_below_a_directory_and_keeps_its_neighbours() {
    let etcd = etcd_v2::EtcdV2::new(&["http://127.0.0.1:1".to_owned()], None, None).unwrap();
    let mut followed = Followed::new(etcd.into(), errors());
    let wanted = |name: &str| vec![name.to_owned()];
    locked(&followed.mirror).is_followed = true;
    let follower = followed.follower("/app/");
    let entries = ["/app", "/app/a", "/app/a/b", "/app/ab", "/app/empty/x"].map(|name| (key(name), key("v")));
    let directories = BTreeSet::from([key("/app/empty"), key("/app/a")]);
    assert!(follower.read(entries.into(), directories).await.is_ok_and(|is_new| is_new));
    // What was removed meanwhile, and what only has a name that begins alike.
    locked(&followed.mirror).entries.insert(key("/apple"), key("v"));
    let news =
        [News::AllDeleted(key("/app/a")), News::Deleted(key("/app/empty/x")), News::Put(key("/app/c"), key("v"))];
    assert!(follower.apply(news).await.is_ok());
    assert_eq!(known(&followed), ["/app", "/app/ab", "/app/c", "/apple"]);
    // A directory without files is there, and a key without anything is not.
    let of = |name: &str| followed.mirrored(&wanted(name), Entries::len).unwrap();
    assert!(of("/app/empty").is_ok() && of("/app").is_ok() && of("/").is_ok());
    let error = of("/app/a").unwrap_err();
    assert!(error.starts_with("100: Key not found (/app/a)"), "{error}");
    // What is read next is all that there is.
    assert!(follower.read(Entries::from([(key("/app/new"), key("v"))]), BTreeSet::new()).await.is_ok());
    assert_eq!(known(&followed), ["/app/new", "/apple"]);
    assert!(matches!(followed.changed().await, Change::Keys(_)));
}

#[test]
fn directories_cover_what_is_below_them_and_nothing_that_begins_alike() {
    let of = |keys: &[&str]| {
        let keys = keys.iter().map(|key| format!("{key}/")).collect();
        ranges(keys, MAX_RANGES).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(&["/a", "/a-b", "/a/x", "/ab"]), ["/a-b/", "/a/", "/ab/"]);
    assert!(is_in("/a/", b"/a") && is_in("/a/", b"/a/x") && is_in("/", b"/a"));
    assert!(!is_in("/a/", b"/ab") && !is_in("/a/b", b"/a"));
}
