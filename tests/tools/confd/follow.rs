//! A store that goes away, comes back, forgets its history or changes often: no change is lost, and none reloads too much.

use super::double::Metad;
use super::{LIMIT, Running, Site, Store, put, read, until};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, RangeRequest};
use client::v2;
use harness::tool::run;
use harness::{Kind, Server};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn follows_through_everything(kind: Kind) -> Result<()> {
    let mut server = Server::start(kind).await?;
    let site = Site::new()?;
    let keys = ["/app".to_owned()];
    let reloads = site.out("reloads");
    site.resource(
        "a",
        &keys,
        "{{getv \"/app/name\" \"-\"}}",
        &format!("reload_cmd = \"echo x >> {}\"", reloads.display()),
    )?;
    site.resource("b", &["/other".to_owned()], "{{getv \"/other\" \"none\"}}", "")?;
    let mut confd = Running::start(site.command(&Store::v3(&server), &["-watch"])?)?;
    let (a, b) = (site.out("a"), site.out("b"));
    until("an empty store", &a, "-").await?;
    until("the other file", &b, "none").await?;
    let mut client = server.client().await?;
    client.kv.put(put("/app/name", "one")).await?;
    until("a put", &a, "one").await?;
    client.kv.delete_range(DeleteRangeRequest { key: "/app/name".into(), ..Default::default() }).await?;
    until("a delete", &a, "-").await?;
    // What did not change was not touched.
    assert_eq!(read(&b), "none");

    // The store is killed and comes back.
    server.kill()?;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(read(&a), "-");
    // What is known is known without it, to a resource that is new, too; one with other keys waits for it alone.
    site.resource("c", &keys, "c{{getv \"/app/name\" \"-\"}}", "")?;
    site.resource("d", &["/new".to_owned()], "{{getv \"/new\" \"none\"}}", "")?;
    confd.signal("HUP")?;
    until("a new resource while the store is away", &site.out("c"), "c-").await?;
    assert_eq!(read(&site.out("d")), "");
    server.restart().await?;
    until("a new resource after it", &site.out("d"), "none").await?;
    // It goes away and comes back while confd stands still, and goes on; the history is compacted.
    let rereads = |confd: &Running| confd.log().matches("reading the keys again").count();
    let before = rereads(&confd);
    confd.signal("STOP")?;
    server.kill()?;
    server.restart().await?;
    let mut client = server.client().await?;
    for value in ["two", "three"] {
        client.kv.put(put("/app/name", value)).await?;
    }
    let answer = client.kv.range(RangeRequest { key: "/app/name".into(), ..Default::default() }).await?.into_inner();
    let revision = answer.header.context("no header")?.revision;
    client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    confd.signal("CONT")?;
    until("the change that is in no history", &a, "three").await?;
    ensure!(rereads(&confd) > before, "{}", confd.log());
    client.kv.put(put("/other", "x")).await?;
    until("a change after it", &b, "x").await?;
    ensure!(!confd.has_ended()?, "confd has ended");
    assert!(read(&reloads).lines().count() >= 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_when_cleat_goes_away() -> Result<()> {
    follows_through_everything(Kind::Cleat).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_when_etcd_goes_away() -> Result<()> {
    follows_through_everything(Kind::Etcd).await
}

/// The same with the tree of the v2 API, whose servers remember a thousand events.
async fn follows_a_tree_through_everything(kind: Kind) -> Result<()> {
    let mut server = crate::client::v2::v2_server(kind, &[]).await?;
    let options = v2::Options { endpoints: vec![server.endpoint()], request_timeout: LIMIT, ..v2::Options::default() };
    let client = v2::Client::new(&options)?;
    let store = Store::v2(&server);
    let site = Site::new()?;
    let list = "{{range gets \"/app/*\"}}{{base .Key}}={{.Value}};{{end}}{{range gets \"/app/d/*\"}}{{.Value}};{{end}}";
    site.resource("a", &["/app".to_owned()], list, "")?;
    site.resource("b", &["/other".to_owned()], "{{getv \"/other\"}}", "")?;
    // What is not there is an error here, as in confd 0.16, and no empty file.
    client.set("/app/name", "one").await?;
    let once = site.once(&store, &[]).await?;
    ensure!(once.code == Some(1) && once.stderr.contains("100: Key not found (/other)"), "{once:?}");
    ensure!(read(&site.out("a")) == "name=one;" && !site.out("b").exists());

    let mut confd = Running::start(site.command(&store, &["-watch"])?)?;
    client.set("/app/d/x", "1").await?;
    client.set("/app/d/y", "2").await?;
    until("files in a directory", &site.out("a"), "name=one;1;2;").await?;
    client.set("/other", "there").await?;
    until("a key that was not there", &site.out("b"), "there").await?;
    client.delete("/app/d", v2::Delete { recursive: true, ..v2::Delete::default() }).await?;
    until("a deleted directory", &site.out("a"), "name=one;").await?;
    // It lives long enough to be seen, and then a second.
    let soon = |ttl| v2::Put { value: Some("gone".to_owned()), ttl: Some(ttl), ..v2::Put::default() };
    client.put("/app/soon", soon(600)).await?;
    until("a file that expires", &site.out("a"), "name=one;soon=gone;").await?;
    client.put("/app/soon", soon(1)).await?;
    until("its end", &site.out("a"), "name=one;").await?;
    // The directory above the wanted one is gone, and comes back.
    let condition = v2::Condition::Matches { value: Some("one".to_owned()), index: None };
    client.put("/app/name", v2::Put { value: Some("two".to_owned()), condition, ..v2::Put::default() }).await?;
    until("a conditional change", &site.out("a"), "name=two;").await?;
    client.delete("/app", v2::Delete { recursive: true, ..v2::Delete::default() }).await?;
    client.set("/app/name", "three").await?;
    until("a directory that came back", &site.out("a"), "name=three;").await?;

    // The server goes away and comes back while confd stands still.
    confd.signal("STOP")?;
    server.kill()?;
    ensure!(read(&site.out("a")) == "name=three;");
    server.restart().await?;
    client.set("/app/name", "four").await?;
    // So many that the change above is forgotten before it is asked for.
    for number in 0..1_100 {
        client.set("/elsewhere", number.to_string()).await?;
    }
    confd.signal("CONT")?;
    until("a change that the server has forgotten", &site.out("a"), "name=four;").await?;
    client.set("/app/name", "five").await?;
    until("a change after it", &site.out("a"), "name=five;").await?;
    ensure!(!confd.has_ended()?, "confd has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_cleats_v2_api_is_lost() -> Result<()> {
    follows_a_tree_through_everything(Kind::Cleat).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_etcds_v2_api_is_lost() -> Result<()> {
    follows_a_tree_through_everything(Kind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_proxy_is_followed_and_not_asked_in_a_loop() -> Result<()> {
    let data = |name: &str| json!({"self": {"node": {"name": name, "up": true}, "disks": [{"name": "sda", "gb": 10}]}});
    let metad = Metad::start(data("one")).await?;
    let site = Site::new()?;
    let more = "prefix = \"/self\"";
    site.resource("a", &["/node".to_owned()], "{{getv \"/node/name\" \"-\"}} {{getv \"/node/up\" \"-\"}}", more)?;
    let disks = "{{range gets \"/disks/*/*\"}}{{.Key}}={{.Value}};{{end}}";
    site.resource("disks", &["/disks".to_owned()], disks, more)?;
    let mut confd = Running::start(site.command(&metad.store(), &["-watch"])?)?;
    until("the first file", &site.out("a"), "one true").await?;
    until("a list", &site.out("disks"), "/disks/sda/gb=10;/disks/sda/name=sda;").await?;
    let before = metad.requests();
    metad.change(data("two"));
    until("a change", &site.out("a"), "two true").await?;
    ensure!(metad.requests() <= before + 8, "{} requests for one change", metad.requests() - before);
    // An error is none of the keys, and no reason to forget them.
    metad.answer_with(Some(500));
    sleep(Duration::from_secs(1)).await;
    ensure!(read(&site.out("a")) == "two true");
    metad.answer_with(None);
    metad.restart(data("three"));
    until("a change after a restart", &site.out("a"), "three true").await?;
    // Nothing is there for this machine.
    metad.change(json!({}));
    until("no keys", &site.out("a"), "- -").await?;
    metad.change(data("four"));
    until("keys again", &site.out("a"), "four true").await?;
    // A server that answers every wait at once is asked once a second.
    metad.never_wait();
    metad.change(data("five"));
    until("a change at a server that never waits", &site.out("a"), "five true").await?;
    let before = metad.requests();
    sleep(Duration::from_secs(3)).await;
    ensure!(metad.requests() - before < 30, "{} requests in three seconds", metad.requests() - before);
    ensure!(!confd.has_ended()?, "confd has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_proxy_that_refuses_waits_is_not_read_in_a_loop() -> Result<()> {
    let data = |name: &str| json!({"self": {"node": {"name": name}}});
    // One that is full is asked now and then, and no failure; any other refusal is one.
    for (status, is_failure) in [(429, false), (500, true)] {
        let metad = Metad::start(data("one")).await?;
        metad.answer_waits_with(Some(status));
        let site = Site::new()?;
        site.resource("a", &["/node".to_owned()], "{{getv \"/node/name\"}}", "prefix = \"/self\"")?;
        let confd = Running::start(site.command(&metad.store(), &["-watch"])?)?;
        until("the first file", &site.out("a"), "one").await?;
        let before = metad.requests();
        sleep(Duration::from_secs(3)).await;
        let requests = metad.requests() - before;
        ensure!(requests < 25, "{requests} requests in three seconds while waits are answered with {status}");
        metad.change(data("two"));
        until("a change meanwhile", &site.out("a"), "two").await?;
        ensure!(confd.log().contains("reading the keys again") == is_failure, "{}", confd.log());
        metad.answer_waits_with(None);
        metad.change(data("three"));
        until("a change after it", &site.out("a"), "three").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confd_waits_for_a_store_that_is_not_there_yet() -> Result<()> {
    let mut server = Server::prepare(Kind::Cleat, harness::Options::default())?;
    let site = Site::new()?;
    site.resource("a", &["/a".to_owned()], "{{getv \"/a\" \"empty\"}}", "")?;
    let _confd = Running::start(site.command(&Store::v3(&server), &["-watch"])?)?;
    let once = run(site.command(&Store::v3(&server), &["-onetime"])?, b"", LIMIT).await?;
    assert_eq!((once.code, read(&site.out("a")).as_str()), (Some(1), ""), "{once:?}");
    server.restart().await?;
    until("the first file", &site.out("a"), "empty").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_come_together_are_one_reload_of_who_uses_them() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let site = Site::new()?;
    let count = |name: &str| read(&site.out(name)).lines().count();
    for name in ["a", "b"] {
        let keys = [format!("/{name}")];
        let more =
            format!("wait = \"1s:30s\"\nreload_cmd = \"echo x >> {}\"", site.out(&format!("{name}.log")).display());
        site.resource(name, &keys, &format!("{{{{range gets \"/{name}/*\"}}}}{{{{.Value}}}};{{{{end}}}}"), &more)?;
    }
    let _confd = Running::start(site.command(&Store::v3(&server), &["-watch"])?)?;
    until("the first reload", &site.out("b.log"), "x\n").await?;
    until("the first reload", &site.out("a.log"), "x\n").await?;
    let mut client = server.client().await?;
    for number in 0..40 {
        client.kv.put(put(&format!("/a/{number:02}"), &number.to_string())).await?;
    }
    let expected: String = (0..40).map(|number| number.to_string() + ";").collect::<Vec<_>>().concat();
    until("all changes", &site.out("a"), &expected).await?;
    // The command runs after the file has its place.
    let deadline = Instant::now() + LIMIT;
    while count("a.log") < 2 {
        ensure!(Instant::now() < deadline, "the changes were not followed by a reload");
        sleep(Duration::from_millis(20)).await;
    }
    // One for them all, unless the machine stood still for a second in between.
    assert!(count("a.log") < 12, "{} reloads", count("a.log"));
    assert_eq!(count("b.log"), 1, "nothing that b uses has changed");
    Ok(())
}
