//! Files that change while connections come in.

use super::*;
use crate::tls::files::{Contents, TlsError};
use crate::tls::reload::Reloading;
use crate::tls::{PeerConnector, Tls};
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Opts};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tries until it is as expected. Every try lets the member look at its files, which it does once in a second.
async fn becomes<T: PartialEq + std::fmt::Debug>(expected: &T, mut next: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = next().await;
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "still {found:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_new_leaf_is_shown() {
    let site = Site::new();
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    let renewed = site.ca.issue("member", &["localhost"]).unwrap();
    site.serve(&renewed);
    becomes(&renewed.der, async || shown(&meet(&acceptor, caller(&site.ca, None, BOTH)).await.unwrap())).await;
}

#[tokio::test]
async fn the_end_of_the_certificate_that_is_shown_is_told() {
    let site = Site::new();
    let until = |year| {
        let ends = rcgen::date_time_ymd(year, 1, 1);
        site.ca.issue_with("member", &["localhost"], |params| params.not_after = ends).unwrap()
    };
    site.serve(&until(2050));
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    assert_eq!(acceptor.not_after().await, 2_524_608_000);
    site.serve(&until(2051));
    let renewed = 2_556_144_000;
    becomes(&renewed, async || acceptor.not_after().await).await;
    let gauge = IntGaugeVec::new(Opts::new("expiry", "It ends."), &["side"]).unwrap();
    let stop = CancellationToken::new();
    let tls = Tls { client: Some(acceptor), peer: None, connector: PeerConnector::plain() };
    let telling = tokio::spawn(tls.tell_expiry(gauge.clone(), stop.clone()));
    becomes(&renewed, async || gauge.with_label_values(&["client"]).get()).await;
    stop.cancel();
    telling.await.unwrap();
}

#[tokio::test]
async fn a_new_ca_replaces_the_old_one() {
    let site = Site::new();
    let acceptor = site.acceptor(&site.settings(Side::Client));
    let next = Authority::new("the next ca").unwrap();
    let (old, new) = (site.ca.issue("old", &[]).unwrap(), next.issue("new", &[]).unwrap());
    let try_both = async || {
        let mut let_in = Vec::new();
        for own in [&old, &new] {
            let_in.push(meet(&acceptor, caller(&site.ca, Some(own), BOTH)).await.is_ok());
        }
        let_in
    };
    assert_eq!(try_both().await, [true, false]);
    site.write("ca.pem", &format!("{}{}", site.ca.pem(), next.pem()));
    becomes(&vec![true, true], try_both).await;
    site.write("ca.pem", &next.pem());
    becomes(&vec![false, true], try_both).await;
}

#[tokio::test]
async fn a_new_revocation_counts() {
    let site = Site::new();
    site.write("crl.pem", &site.ca.revoke(&[]).unwrap().pem().unwrap());
    let settings = TlsSettings { crl_file: Some(site.path("crl.pem")), ..site.settings(Side::Client) };
    let acceptor = site.acceptor(&settings);
    let own = site.ca.issue_numbered("a", &[], 0x77).unwrap();
    let call = async || meet(&acceptor, caller(&site.ca, Some(&own), BOTH)).await.map(drop);
    assert_eq!(call().await, Ok(()));
    // By a rename, as tools do that never leave half a file.
    site.write("crl.new", &site.ca.revoke(&[0x77]).unwrap().pem().unwrap());
    std::fs::rename(site.path("crl.new"), site.path("crl.pem")).unwrap();
    becomes(&Err("transport: certificate serial 77 revoked".to_owned()), call).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_ones() {
    let site = Site::new();
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    let see = async || shown(&meet(&acceptor, caller(&site.ca, None, BOTH)).await.unwrap());
    let first = see().await;
    // The key of another certificate, as if a renewal stood still half way.
    let renewed = site.ca.issue("member", &["localhost"]).unwrap();
    site.write("server.key", &renewed.key);
    let until = Instant::now() + 3 * crate::tls::reload::LOOK_INTERVAL;
    while Instant::now() < until {
        assert_eq!(see().await, first);
    }
    site.write("server.pem", &renewed.cert);
    becomes(&renewed.der, see).await;
}

/// What a value is made of, and every attempt to make one.
#[derive(Clone, Default)]
struct Attempts(Arc<Mutex<Vec<String>>>);

impl Attempts {
    fn build(&self, contents: &Contents, path: &std::path::Path) -> Result<String, TlsError> {
        let result = contents.certificates(path).map(|found| found.len().to_string());
        self.0.lock().push(result.as_ref().map_or_else(ToString::to_string, Clone::clone));
        result
    }
}

#[tokio::test]
async fn each_content_is_tried_once_and_links_are_followed() {
    let site = Site::new();
    let ca = site.ca.pem();
    site.write("one.pem", &ca);
    site.write("two.pem", &format!("{ca}{ca}"));
    site.write("bad.pem", "nothing");
    let link = site.path("link.pem");
    let turn = |to: &str| {
        std::os::unix::fs::symlink(site.path(to), site.path("link.new")).unwrap();
        std::fs::rename(site.path("link.new"), &link).unwrap();
    };
    turn("one.pem");
    let attempts = Attempts::default();
    let (own, path) = (attempts.clone(), link.clone());
    let value = Reloading::new(vec![link.clone()], "test", move |contents| own.build(contents, &path)).unwrap();
    let state = async || (value.current().await.to_string(), attempts.0.lock().len());
    assert_eq!(state().await, ("1".to_owned(), 1));
    turn("bad.pem");
    becomes(&("1".to_owned(), 2), state).await;
    assert_eq!(attempts.0.lock()[1], format!("cannot use TLS file {}: no PEM certificate in it", link.display()));
    std::fs::remove_file(&link).unwrap();
    turn("two.pem");
    becomes(&("2".to_owned(), 3), state).await;
    // The same bytes in another file are no news.
    site.write("same.pem", &format!("{ca}{ca}"));
    turn("same.pem");
    let until = Instant::now() + 3 * crate::tls::reload::LOOK_INTERVAL;
    while Instant::now() < until {
        assert_eq!(state().await, ("2".to_owned(), 3));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_read_that_failed_is_made_again() {
    let site = Site::new();
    let (path, ca) = (site.path("ca.pem"), site.ca.pem());
    // As if long settled: after a failure, nothing in how the file looks says that it must be read again.
    let write = |text: &str, seconds: u64| {
        site.write("ca.pem", text);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    write(&ca, 1);
    let attempts = Attempts::default();
    let (own, file) = (attempts.clone(), path.clone());
    let value = Reloading::new(vec![path.clone()], "test", move |contents| own.build(contents, &file)).unwrap();
    write(&format!("{ca}{ca}"), 2);
    for _ in 0..2 {
        value.look(|_| Err(TlsError::file(&path, "Too many open files")));
    }
    assert_eq!(attempts.0.lock().len(), 1);
    let state = async || (value.current().await.to_string(), attempts.0.lock().len());
    becomes(&("2".to_owned(), 2), state).await;
    // What could not be read for a while and is the same afterwards is not made again.
    write(&format!("{ca}{ca}"), 3);
    value.look(|_| Err(TlsError::file(&path, "Too many open files")));
    value.look(Contents::read);
    assert_eq!(state().await, ("2".to_owned(), 2));
    // And then it is not read again, either.
    value.look(|_| panic!("the files were read without a change"));
}

#[tokio::test]
async fn a_look_that_ends_in_a_panic_is_not_the_last() {
    let site = Site::new();
    site.write("value", "1");
    let builds = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&builds);
    let value = Reloading::new(vec![site.path("value")], "test", move |_| {
        let build = count.fetch_add(1, Ordering::Relaxed);
        assert!(build != 1, "the second one fails");
        Ok(build)
    });
    let value = value.unwrap();
    site.write("value", "2");
    becomes(&2, async || *value.current().await).await;
}
