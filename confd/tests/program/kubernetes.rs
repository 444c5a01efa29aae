//! `ConfigMaps` and `Secrets` of an API server made for tests, as kube's client sees it.

use crate::site::{Running, Site, read, text};
use anyhow::{Result, ensure};
use kube_fake::{Access, Account, Certificates, FakeKube, Fault, Options};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const TOKEN: &str = "t0ken-of-confd";
const PATIENCE: Duration = Duration::from_mins(1);

fn object(kind: &str, name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "data": data})
}

async fn until(what: &str, site: &Site, name: &str, expected: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while read(&site.out(name)) != expected {
        ensure!(Instant::now() < deadline, "{what}: {:?}, not {expected:?}", read(&site.out(name)));
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_maps_and_secrets_are_keys_and_followed_through_everything() -> Result<()> {
    let kube = FakeKube::start(Options { bookmark_interval: Duration::from_millis(50), ..Options::default() }).await?;
    let put = |kind: &str, name: &str, data: Value| kube.put(object(kind, name, &data));
    put("ConfigMap", "app", json!({"name": "one", "extra": "x"}))?;
    put("ConfigMap", "apple", json!({"name": "no"}))?;
    put("Secret", "db", json!({"password": "aHVudGVyMg=="}))?;
    let site = Site::new()?;
    let template = "{{getv \"/configmaps/app/name\" \"-\"}} {{len (ls \"/configmaps/app\")}} {{getv \"/secrets/db/password\" \"-\"}}";
    site.resource("a", template, "prefix = '/shop'\nkeys = ['/configmaps/app', '/secrets/db']")?;
    let url = kube.url();
    let flags = ["-backend", "kubernetes", "-node", &url];
    let mut once = site.command(&[&flags[..], &["-onetime", "-log-level", "debug"]].concat());
    let output = tokio::task::spawn_blocking(move || once.output()).await??;
    ensure!(output.status.success() && read(&site.out("a")) == "one 2 hunter2", "{}", text(&output));
    ensure!(!text(&output).contains("hunter2"), "a value is in the log: {}", text(&output));
    std::fs::remove_file(site.out("a"))?;
    // Parts of one object, for others.
    site.resource("name", "{{getv \"/name\" \"-\"}}", "prefix = '/shop/configmaps/app'\nkeys = ['/name']")?;
    site.resource("extra", "{{getv \"/extra\" \"-\"}}", "prefix = '/shop/configmaps/app'\nkeys = ['/extra']")?;

    let mut confd = Running::start(&mut site.command(&[&flags[..], &["-watch"]].concat()))?;
    until("the first file", &site, "a", "one 2 hunter2").await?;
    put("ConfigMap", "app", json!({"name": "two"}))?;
    until("a key less", &site, "a", "two 1 hunter2").await?;
    until("the part that changed", &site, "name", "two").await?;
    until("the part that is gone", &site, "extra", "-").await?;
    kube.cut_watches();
    put("Secret", "db", json!({"password": "bmV3"}))?;
    until("a change while nobody watched", &site, "a", "two 1 new").await?;
    // The history since then is gone: 410.
    kube.cut_watches();
    put("ConfigMap", "app", json!({"name": "three"}))?;
    kube.expire_history();
    until("a change that was forgotten", &site, "a", "three 1 new").await?;
    kube.delete("v1", "Secret", "shop", "db")?;
    until("a secret that is gone", &site, "a", "three 1 -").await?;
    ensure!(confd.child.try_wait()?.is_none(), "confd has ended");
    // What names no objects is told.
    site.resource("b", "x", "keys = ['/shop']")?;
    for (more, expected) in [
        (&["-onetime"][..], "begin with /NAMESPACE/configmaps"),
        (&["-onetime", "-node", "http://127.0.0.1:1"], "has one API server: give -node once"),
    ] {
        let mut once = site.command(&[&flags[..], more].concat());
        let output = tokio::task::spawn_blocking(move || once.output()).await??;
        ensure!(output.status.code() == Some(1) && text(&output).contains(expected), "{}", text(&output));
    }
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_for_one_object_is_enough_for_it() -> Result<()> {
    let kube = FakeKube::start(Options::default()).await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "one"})))?;
    kube.put(object("Secret", "db", &json!({"password": "aHVudGVyMg=="})))?;
    let rules =
        json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["app"], "verbs": ["list", "watch"]}]);
    let access = Access::Rules { namespace: Some("shop".to_owned()), rules };
    kube.add_account(TOKEN, Account { username: "confd".to_owned(), access, ..Account::default() })?;
    let site = Site::new()?;
    std::fs::write(site.path("kubeconfig"), kube.kubeconfig(Some(TOKEN), "shop"))?;
    site.resource("a", "{{getv \"/name\"}}", "prefix = '/shop/configmaps/app'\nkeys = ['/']")?;
    site.resource("b", "{{getv \"/password\"}}", "prefix = '/shop/secrets/db'\nkeys = ['/']")?;
    let mut command = site.command(&["-backend", "kubernetes", "-watch", "-log-level", "debug"]);
    let mut confd = Running::start(command.env("KUBECONFIG", site.path("kubeconfig")))?;
    until("the first file", &site, "a", "one").await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "two"})))?;
    until("the change", &site, "a", "two").await?;
    // The other one is refused, and stops nothing else.
    told(&confd, "b.toml: the keys of /shop/secrets/db/ have not been read yet").await?;
    told(&confd, "forbidden").await?;
    let log = confd.log();
    ensure!(!log.contains(TOKEN) && !log.contains("hunter2"), "{log}");
    ensure!(!site.out("b").exists() && confd.child.try_wait()?.is_none());
    // The server is broken for a while, and the history is gone then.
    kube.fail(Fault { verb: None, plural: Some("configmaps".to_owned()), code: 500, count: 3 })?;
    kube.cut_watches();
    kube.put(object("ConfigMap", "app", &json!({"name": "three"})))?;
    kube.expire_history();
    until("a change while the server was broken", &site, "a", "three").await?;
    kube.stop().await;
    Ok(())
}

/// Waits until a text is in the log.
async fn told(confd: &Running, expected: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !confd.log().contains(expected) {
        ensure!(Instant::now() < deadline, "{expected:?} was not told: {}", confd.log());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_whose_keys_name_no_objects_stops_no_other() -> Result<()> {
    let kube = FakeKube::start(Options::default()).await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "one"})))?;
    let (site, url) = (Site::new()?, kube.url());
    site.resource("a", "{{getv \"/configmaps/app/name\"}}", "prefix = '/shop'\nkeys = ['/configmaps/app']")?;
    let flags = ["-backend", "kubernetes", "-node", &url];
    let mut confd = Running::start(&mut site.command(&[&flags[..], &["-watch"]].concat()))?;
    until("the first file", &site, "a", "one").await?;
    // All that there is in the namespace, as one would write it for other stores.
    site.resource("b", "x", "prefix = '/shop'\nkeys = ['/']")?;
    let expected = "b.toml:5: keys: the key \"/shop\" names no objects";
    confd.signal("HUP")?;
    told(&confd, expected).await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "two"})))?;
    until("a change beside the bad resource", &site, "a", "two").await?;
    ensure!(confd.child.try_wait()?.is_none() && !site.out("b").exists());
    let mut check = site.command(&[&["check"], &flags[..]].concat());
    let output = tokio::task::spawn_blocking(move || check.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), text(&output));
    ensure!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    // They are keys of any other store.
    let output = site.run(&["check", "-backend", "env"], &[])?;
    ensure!(output.status.success(), "{}", text(&output));
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_beside_a_key_renders_nothing() -> Result<()> {
    let kube = FakeKube::start(Options::default()).await?;
    let put = |data: Value, annotations: Value| {
        let mut app = object("ConfigMap", "app", &data);
        app["metadata"]["annotations"] = annotations;
        kube.put(app)
    };
    put(json!({"name": "one", "extra": "x"}), json!({}))?;
    let (site, url) = (Site::new()?, kube.url());
    for name in ["name", "extra"] {
        let keys = format!("prefix = '/shop/configmaps/app'\nkeys = ['/{name}']");
        site.resource(name, &format!("{{{{getv \"/{name}\" \"-\"}}}}"), &keys)?;
    }
    let flags = ["-backend", "kubernetes", "-node", &url, "-watch", "-log-level", "debug"];
    let confd = Running::start(&mut site.command(&flags))?;
    until("the first file", &site, "name", "one").await?;
    put(json!({"name": "two", "extra": "x"}), json!({}))?;
    // What is told at the start is behind us, too.
    until("the key that changed", &site, "name", "two").await?;
    let rendered = |name: &str| confd.log().matches(&format!("{name}.toml has ")).count();
    let before = rendered("name");
    put(json!({"name": "two", "extra": "x"}), json!({"note": "new"}))?;
    put(json!({"name": "two", "extra": "y"}), json!({"note": "newer"}))?;
    until("the other key", &site, "extra", "y").await?;
    put(json!({"name": "two"}), json!({"note": "newer"}))?;
    until("the key that is gone", &site, "extra", "-").await?;
    ensure!(before > 0 && rendered("name") == before, "{}", confd.log());
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_fit_is_told_without_what_is_in_it() -> Result<()> {
    let kube = FakeKube::start(Options::default()).await?;
    kube.put(object("Secret", "db", &json!("hunter2")))?;
    let (site, url) = (Site::new()?, kube.url());
    site.resource("a", "{{getv \"/password\"}}", "prefix = '/shop/secrets/db'\nkeys = ['/']")?;
    let flags = ["-backend", "kubernetes", "-node", &url, "-log-level", "debug"];
    let mut once = site.command(&[&flags[..], &["-onetime"]].concat());
    let output = tokio::task::spawn_blocking(move || once.output()).await??;
    let (log, expected) = (text(&output), "something that is no such object, at line 1, column ");
    ensure!(output.status.code() == Some(1) && log.contains(expected), "{log}");
    ensure!(!log.contains("hunter2"), "a value is in the log: {log}");
    // When it is listed to be followed, and while it is.
    let confd = Running::start(&mut site.command(&[&flags[..], &["-watch"]].concat()))?;
    told(&confd, expected).await?;
    kube.put(object("Secret", "db", &json!({"password": "b25l"})))?;
    until("what fits", &site, "a", "one").await?;
    kube.put(object("Secret", "db", &json!("hunter2")))?;
    told(&confd, "; trying again").await?;
    ensure!(!confd.log().contains("hunter2"), "a value is in the log: {}", confd.log());
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_for_those_who_know_the_ca_and_whom_it_knows() -> Result<()> {
    let certificates = Certificates::make(true)?;
    let kube = FakeKube::start(Options { certificates: Some(certificates.clone()), ..Options::default() }).await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "one"})))?;
    let (site, url) = (Site::new()?, kube.url());
    site.resource("a", "{{getv \"/name\"}}", "prefix = '/shop/configmaps/app'\nkeys = ['/']")?;
    let files = [("ca", &certificates.ca), ("cert", &certificates.client_cert), ("key", &certificates.client_key)];
    let files =
        files.map(|(name, pem)| std::fs::write(site.path(name), pem).map(|()| site.path(name).display().to_string()));
    let [ca, cert, key] = files.map(Result::unwrap_or_default);
    let (ca, client) = (["-client-ca-keys", &ca], ["-client-cert", &cert, "-client-key", &key]);
    for (flags, is_let_in) in [
        ([&ca[..], &client].concat(), true),
        ([&["-client-insecure"][..], &client].concat(), true),
        (client.to_vec(), false),
        (ca.to_vec(), false),
    ] {
        let mut once = site.command(&[&["-backend", "kubernetes", "-node", &url, "-onetime"], &flags[..]].concat());
        let output = tokio::task::spawn_blocking(move || once.output()).await??;
        ensure!(output.status.code() == Some(i32::from(!is_let_in)), "{flags:?}: {}", text(&output));
        ensure!(site.out("a").exists() == is_let_in, "{flags:?}");
        if is_let_in {
            std::fs::remove_file(site.out("a"))?;
        }
    }
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_file_with_another_token_is_read_again() -> Result<()> {
    let certificates = Certificates::make(false)?;
    let kube = FakeKube::start(Options { certificates: Some(certificates), ..Options::default() }).await?;
    kube.put(object("ConfigMap", "app", &json!({"name": "one"})))?;
    kube.add_account(TOKEN, Account::default())?;
    let site = Site::new()?;
    site.resource("a", "{{getv \"/name\"}}", "prefix = '/shop/configmaps/app'\nkeys = ['/']")?;
    // As a service account's: the file is there, and now and then another one.
    let mut config: Value = serde_json::from_str(&kube.kubeconfig(None, "shop"))?;
    config["users"][0]["user"] = json!({"tokenFile": site.path("token")});
    std::fs::write(site.path("kubeconfig"), config.to_string())?;
    std::fs::write(site.path("token"), TOKEN)?;
    let mut command = site.command(&["-backend", "kubernetes", "-watch", "-log-level", "debug"]);
    let mut confd = Running::start(command.env("KUBECONFIG", site.path("kubeconfig")))?;
    until("the first file", &site, "a", "one").await?;
    let other = "another-t0ken";
    kube.add_account(other, Account::default())?;
    kube.remove_account(TOKEN);
    std::fs::write(site.path("token"), other)?;
    kube.cut_watches();
    kube.put(object("ConfigMap", "app", &json!({"name": "two"})))?;
    // kube's client reads the file again once it has had a token for 50 seconds, and pauses between tries meanwhile.
    let deadline = Instant::now() + PATIENCE * 3;
    while read(&site.out("a")) != "two" {
        ensure!(Instant::now() < deadline, "the new token was not read: {}", confd.log());
        sleep(Duration::from_millis(100)).await;
    }
    let log = confd.log();
    ensure!(log.contains("trying again") && !log.contains(TOKEN) && !log.contains(other), "{log}");
    ensure!(confd.child.try_wait()?.is_none(), "confd has ended");
    kube.stop().await;
    Ok(())
}
