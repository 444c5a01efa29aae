//! What is known of ranges, whatever becomes of the store.

use super::*;
use crate::source::{etcd, etcd_v2};

fn resource(keys: &[&str]) -> Resource {
    Resource {
        path: "a.toml".into(),
        src: "a".into(),
        dest: "/a".into(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        prefix: "/".to_owned(),
        mode: None,
        uid: None,
        gid: None,
        check: None,
        reload: None,
        wait: None,
        dialect: crate::functions::Dialect::default(),
        delims: (String::new(), String::new()),
        backup: false,
        rollback: false,
        make_dirs: false,
    }
}

fn key(text: &str) -> Text {
    Text::from(text.as_bytes())
}

/// A store of the v3 API that is away. Nobody listens there, and a connection is refused at once.
fn away() -> Followed {
    Followed::new(etcd::Etcd::new(&["http://127.0.0.1:1".to_owned()], None, None).unwrap().into())
}

/// The follower of a range, driven by hand.
fn follower(followed: &Followed, range: &str) -> Follower {
    Follower::new(range.to_owned(), followed.mirror.clone(), followed.sender.clone())
}

/// Followers of a store that is away, but for what is read by hand.
fn read_by_hand(followed: &Followed, range: &str, name: &str) -> Change {
    follower(followed, range).replace(Entries::from([(key(name), key("v"))]), BTreeSet::new())
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
    etcd.follow(&[c]).await;
    assert_eq!(etcd.mirrored(&[], Entries::len), Some(Ok(0)));
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
    let mut followed = Followed::new(etcd.into());
    let wanted = |name: &str| vec![name.to_owned()];
    locked(&followed.mirror).is_followed = true;
    let follower = follower(&followed, "/app/");
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
