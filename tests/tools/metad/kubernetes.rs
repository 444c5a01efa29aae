//! Pods as clients, by an API server that forgets, breaks off and gives addresses away again.

use super::Metad;
use anyhow::{Context, Result, ensure};
use harness::http;
use hyper::Request;
use kube_fake::{Access, Account, Certificates, FakeKube, Fault, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The rules of docs/operations/metad.md.
fn least() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    ])
}

fn pod(name: &str, node: &str, addresses: &[&str]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"app.kubernetes.io/name": "web", "tier": "front"},
            "annotations": {"metad/links": "db=databases/main,up=../other/secret"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true}
            ],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips},
    })
}

async fn fake() -> Result<FakeKube> {
    fake_with(None).await
}

/// One that serves https if there are certificates.
async fn fake_with(certificates: Option<Certificates>) -> Result<FakeKube> {
    let bookmark_interval = Duration::from_millis(50);
    let kube = FakeKube::start(Options { bookmark_interval, certificates, ..Options::default() }).await?;
    let metad = Account {
        username: "system:serviceaccount:kube-system:metad".to_owned(),
        access: Access::Rules { namespace: None, rules: least() },
        ..Account::default()
    };
    kube.add_account("metad-token", metad).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(kube)
}

fn put(kube: &FakeKube, object: Value) -> Result<Value> {
    kube.put(object).map_err(|error| anyhow::anyhow!("{error:?}"))
}

fn delete(kube: &FakeKube, name: &str) -> Result<()> {
    kube.delete("v1", "Pod", "shop", name).map_err(|error| anyhow::anyhow!("{error:?}"))
}

async fn start(kube: &FakeKube, flags: &[&str]) -> Result<(Metad, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("kubeconfig");
    std::fs::write(&path, kube.kubeconfig(Some("metad-token"), "kube-system"))?;
    let flags = [&["--xff", "--kubernetes"], flags].concat();
    let metad = Metad::start_with(&flags, &[("KUBECONFIG", &path.display().to_string())]).await?;
    Ok((metad, dir))
}

/// Waits until a client has, or has not, this name.
async fn named(metad: &Metad, client: &str, name: Option<&str>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let answer = metad.ask("/self/pod/name", Some(client)).await?;
        let found = if answer.status == 200 { Some(answer.json()?) } else { None };
        if found == name.map(|name| json!(name)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{client} is {found:?} and not {name:?}: {}", metad.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_learns_who_it_is_and_what_there_is_for_it() -> Result<()> {
    let kube = fake().await?;
    put(&kube, pod("web-0", "n1", &["10.0.0.1", "fd00::1"]))?;
    let (metad, _dir) = start(&kube, &[]).await?;
    named(&metad, "10.0.0.1", Some("web-0")).await?;
    let data = json!({"kubernetes": {
        "shop": {"pods": {"web-0": {"weight": "5"}}, "apps": {"web": {"theme": "dark"}}, "databases": {"main": {"host": "h"}}},
        "other": {"secret": "no"},
    }});
    metad.write("PUT", "/v1/data", &data.to_string()).await?;
    let own = metad.ask("/self", Some("fd00::1")).await?.json()?;
    assert_eq!(own["data"], json!({"weight": "5"}));
    assert_eq!(own["app"], json!({"theme": "dark"}));
    assert_eq!(own["db"], json!({"host": "h"}));
    assert_eq!(own.get("up"), None, "another namespace's: {own}");
    let view = &own["pod"];
    assert_eq!((&view["namespace"], &view["node"]), (&json!("shop"), &json!("n1")));
    assert_eq!(view["owner"], json!({"kind": "StatefulSet", "name": "web"}));
    assert_eq!(view["labels"]["app.kubernetes.io"]["name"], "web");
    assert_eq!(view["containers"]["c"]["ports"]["http"], "8080");
    assert_eq!(view["addresses"], json!({"0": "10.0.0.1", "1": "fd00::1"}));
    assert_eq!(metad.ask("/kubernetes/other/secret", Some("10.0.0.1")).await?.status, 404);
    // The store's own mapping of the address is beside it.
    metad.write("PUT", "/v1/mapping/10.0.0.1", r#"{"extra":"/kubernetes/other"}"#).await?;
    let own = metad.ask("/self", Some("10.0.0.1")).await?.json()?;
    assert_eq!((&own["extra"], &own["pod"]["name"]), (&json!({"secret": "no"}), &json!("web-0")));
    // A wait ends with a change of the pod.
    let wait = {
        let request = Request::get("/self/pod/labels/tier?wait=true").header("x-forwarded-for", "fd00::1");
        let (address, request) = (metad.query.clone(), request.body(http::full(""))?);
        tokio::spawn(async move { http::send(&address, request).await })
    };
    metad.waiting(1).await?;
    let mut changed = pod("web-0", "n1", &["10.0.0.1", "fd00::1"]);
    changed["metadata"]["labels"]["tier"] = json!("back");
    put(&kube, changed)?;
    assert_eq!(wait.await??.body.as_ref(), b"back");
    // It asked for nothing but what the rules allow.
    ensure!(kube.requests().iter().all(|request| request.code != 403), "{:?}", kube.requests());
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_followed_over_https_with_a_clients_certificate() -> Result<()> {
    let kube = fake_with(Some(Certificates::make(true)?)).await?;
    put(&kube, pod("web-0", "n1", &["10.0.0.1"]))?;
    let (metad, _dir) = start(&kube, &[]).await?;
    named(&metad, "10.0.0.1", Some("web-0")).await?;
    kube.cut_watches();
    put(&kube, pod("web-1", "n1", &["10.0.0.2"]))?;
    named(&metad, "10.0.0.2", Some("web-1")).await?;
    kube.stop().await;
    Ok(())
}

/// Rules and `--access deny` are for pods as well, but each may know who it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_for_pods_too() -> Result<()> {
    let kube = fake().await?;
    put(&kube, pod("web-0", "n1", &["10.0.0.1"]))?;
    let data =
        json!({"kubernetes": {"shop": {"pods": {"web-0": {"weight": "5"}}, "apps": {"web": {"theme": "dark"}}}}});
    for (access, before) in [("--access=mapping", json!(["app/", "data/", "pod/"])), ("--access=deny", json!(["pod/"]))]
    {
        let (metad, _dir) = start(&kube, &[access]).await?;
        named(&metad, "10.0.0.1", Some("web-0")).await?;
        metad.write("PUT", "/v1/data", &data.to_string()).await?;
        let own = async || metad.ask("/self?recursive=false", Some("10.0.0.1")).await?.json();
        assert_eq!(own().await?, before, "{access}");
        metad.write("PUT", "/v1/rule", r#"{"10.0.0.0/8":[{"path":"/kubernetes/shop/apps","mode":1}]}"#).await?;
        assert_eq!(own().await?, json!(["app/", "pod/"]), "{access}");
        assert_eq!(metad.ask("/self/data", Some("10.0.0.1")).await?.status, 404);
        metad.write("PUT", "/v1/rule", r#"{"10.0.0.1":[]}"#).await?;
        assert_eq!(own().await?, json!(["pod/"]), "{access}");
        let all = metad.ask("/?recursive=false", Some("10.0.0.1")).await?.json()?;
        assert_eq!(all, json!(["self/"]), "{access}");
    }
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_given_away_is_the_new_pods() -> Result<()> {
    let kube = fake().await?;
    put(&kube, pod("a", "n1", &["10.0.0.1"]))?;
    put(&kube, pod("elsewhere", "n2", &["10.0.0.9"]))?;
    let (metad, _dir) = start(&kube, &["--kubernetes_node=n1"]).await?;
    named(&metad, "10.0.0.1", Some("a")).await?;
    named(&metad, "10.0.0.9", None).await?;
    // It has ended, and is still listed.
    let mut ended = pod("a", "n1", &["10.0.0.1"]);
    ended["status"]["phase"] = json!("Succeeded");
    put(&kube, ended)?;
    named(&metad, "10.0.0.1", None).await?;
    put(&kube, pod("b", "n1", &["10.0.0.1"]))?;
    named(&metad, "10.0.0.1", Some("b")).await?;
    delete(&kube, "a")?;
    // Events come in order, so this one is behind the delete.
    put(&kube, pod("later", "n1", &["10.0.0.7"]))?;
    named(&metad, "10.0.0.7", Some("later")).await?;
    named(&metad, "10.0.0.1", Some("b")).await?;
    // Watches break, and history is gone: what happened meanwhile is seen all the same.
    let away = Fault { verb: Some("watch".to_owned()), plural: Some("pods".to_owned()), code: 500, count: 3 };
    kube.fail(away).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    kube.cut_watches();
    delete(&kube, "b")?;
    put(&kube, pod("c", "n1", &["10.0.0.1"]))?;
    kube.expire_history();
    named(&metad, "10.0.0.1", Some("c")).await?;
    kube.cut_watches();
    put(&kube, pod("d", "n1", &["10.0.0.2"]))?;
    named(&metad, "10.0.0.2", Some("d")).await?;
    // The API server is away: what is known is answered.
    kube.stop().await;
    named(&metad, "10.0.0.2", Some("d")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_its_nodes_network_shows_its_token() -> Result<()> {
    let kube = fake().await?;
    let mut host = pod("host", "n1", &["192.168.0.1"]);
    host["spec"]["hostNetwork"] = json!(true);
    let uid = |made: Value| made["metadata"]["uid"].as_str().map(str::to_owned).context("a uid");
    let host = uid(put(&kube, host)?)?;
    let other = uid(put(&kube, pod("web-0", "n1", &["10.0.0.1"]))?)?;
    for (token, name, uid, audience) in [
        ("host-token", "host", &host, "metad"),
        ("web-token", "web-0", &other, "metad"),
        ("api-token", "host", &host, "x"),
    ] {
        let account = Account {
            username: "system:serviceaccount:shop:default".to_owned(),
            audiences: vec![audience.to_owned()],
            pod: Some((name.to_owned(), uid.clone())),
            access: Access::Rules { namespace: None, rules: json!([]) },
        };
        kube.add_account(token, account).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    let (metad, _dir) = start(&kube, &["--kubernetes_audience=metad"]).await?;
    named(&metad, "10.0.0.1", Some("web-0")).await?;
    named(&metad, "192.168.0.1", None).await?;
    let with = async |client: &str, token: &str| {
        let request = Request::get("/self/pod/name").header("x-forwarded-for", client);
        let request = request.header("authorization", format!("Bearer {token}"));
        let answer = http::send(&metad.query, request.body(http::full(""))?).await?;
        anyhow::Ok((answer.status, String::from_utf8(answer.body.to_vec())?))
    };
    // Many at once are one question.
    let asked = || kube.requests().iter().filter(|request| request.plural == "tokenreviews").count();
    let both = futures::future::try_join_all((0..16).map(|_| with("192.168.0.1", "host-token"))).await?;
    assert_eq!((both, asked()), (vec![(200, "host".to_owned()); 16], 1));
    assert_eq!(with("10.0.0.1", "web-token").await?, (200, "web-0".to_owned()));
    // A stolen token is no good from elsewhere, and neither is one for another audience.
    for (client, token) in [("10.0.0.2", "web-token"), ("192.168.0.1", "api-token"), ("192.168.0.1", "rubbish")] {
        assert_eq!(with(client, token).await?.0, 401, "{client} {token}");
    }
    ensure!(!metad.log().contains("-token"), "a token is in the log");
    kube.stop().await;
    Ok(())
}
