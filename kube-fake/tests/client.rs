//! The fake API server, as kube's own client sees it.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests, called with json!")]

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::KubeConfigOptions;
use kube::core::ApiResource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event as Seen, watcher};
use kube::{Client, Config, Discovery, ResourceExt as _};
use kube_fake::{Access, Account, FakeKube, Fault, Options, Resource};
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

async fn fake() -> FakeKube {
    FakeKube::start(Options { bookmark_interval: Duration::from_millis(50), ..Options::default() }).await.unwrap()
}

fn client(kube: &FakeKube) -> Client {
    Client::try_from(Config::new(kube.url().parse().unwrap())).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    })
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn objects_live_and_die() {
    let kube = fake().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&kube));
    let made = pods.create(&PostParams::default(), &read(pod("p-0", json!({"app": "db"})))).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"), "the status is the server's");
    assert_eq!(code(pods.create(&PostParams::default(), &read(pod("p-0", json!({})))).await), 409);
    assert_eq!(code(pods.get("p-1").await), 404);
    assert!(pods.get_opt("p-1").await.unwrap().is_none());

    let mut changed = made.clone();
    changed.labels_mut().insert("zone".to_owned(), "a".to_owned());
    let changed = pods.replace("p-0", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(changed.resource_version(), made.resource_version());
    assert_eq!(code(pods.replace("p-0", &PostParams::default(), &made).await), 409, "it is of an old version");
    let same = pods.replace("p-0", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(same.resource_version(), changed.resource_version(), "nothing changed");

    let patch =
        Patch::Merge(json!({"metadata": {"labels": {"zone": null, "role": "leader"}}, "status": {"phase": "x"}}));
    let patched = pods.patch("p-0", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.labels().keys().collect::<Vec<_>>(), ["app", "role"]);
    assert_eq!(patched.status.unwrap().phase.as_deref(), Some("Pending"));
    let status = Patch::Merge(json!({"status": {"phase": "Running", "podIP": "10.0.0.9"}}));
    let patched = pods.patch_status("p-0", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(patched.status.unwrap().pod_ip.as_deref(), Some("10.0.0.9"));

    let terminating = pods.delete("p-0", &DeleteParams::default().grace_period(30)).await.unwrap().left().unwrap();
    assert!(terminating.metadata.deletion_timestamp.is_some());
    pods.delete("p-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(code(pods.get("p-0").await), 404);
    kube.stop().await;
}

#[tokio::test]
async fn lists_have_pages_and_selectors() {
    let kube = fake().await;
    for number in 0..5 {
        kube.put(pod(&format!("p-{number}"), json!({"parity": if number % 2 == 0 { "even" } else { "odd" }}))).unwrap();
    }
    let pods: Api<Pod> = Api::all(client(&kube));
    let even = pods.list(&ListParams::default().labels("parity=even")).await.unwrap();
    assert_eq!(even.items.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["p-0", "p-2", "p-4"]);
    assert_eq!(even.items[0].status.as_ref().unwrap().pod_ip.as_deref(), Some("10.0.0.1"), "put sets the status");
    let named = pods.list(&ListParams::default().fields("metadata.name=p-3,spec.nodeName=n1")).await.unwrap();
    assert_eq!(named.items.len(), 1);

    let mut params = ListParams::default().limit(2);
    let mut names = Vec::new();
    for _ in 0..3 {
        let page = pods.list(&params).await.unwrap();
        names.extend(page.items.iter().map(kube::ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["p-0", "p-1", "p-2", "p-3", "p-4"]);
    kube.expire_history();
    assert_eq!(code(pods.list(&params).await), 410);
}

#[tokio::test]
async fn watches_see_every_change_once() {
    let kube = fake().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&kube));
    kube.put(pod("p-0", json!({"app": "db"}))).unwrap();
    let from = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watched = WatchParams::default().labels("app=db").timeout(60);
    let mut stream = pods.watch(&watched, &from).await.unwrap().boxed();
    kube.put(pod("p-1", json!({"app": "web"}))).unwrap();
    kube.put(pod("p-1", json!({"app": "db"}))).unwrap();
    kube.put(pod("p-1", json!({"app": "db", "role": "x"}))).unwrap();
    kube.put(pod("p-1", json!({"app": "web"}))).unwrap();
    kube.delete("v1", "Pod", "default", "p-0").unwrap();
    let mut seen = Vec::new();
    let mut bookmark = false;
    while seen.len() < 4 || !bookmark {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
        match event {
            WatchEvent::Added(pod) => seen.push(format!("added {}", pod.name_any())),
            WatchEvent::Modified(pod) => seen.push(format!("modified {}", pod.name_any())),
            WatchEvent::Deleted(pod) => seen.push(format!("deleted {}", pod.name_any())),
            WatchEvent::Bookmark(mark) => bookmark = mark.metadata.resource_version > from,
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(seen, ["added p-1", "modified p-1", "deleted p-1", "deleted p-0"]);

    kube.expire_history();
    let last = async { stream.try_collect::<Vec<_>>().await.unwrap().pop() };
    match tokio::time::timeout(PATIENCE, last).await.unwrap() {
        Some(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

/// What kube's watcher makes of the events: the names that are there.
async fn follow(
    stream: &mut (impl futures::Stream<Item = watcher::Result<Seen<Pod>>> + Unpin),
    names: &mut Vec<String>,
    wanted: &[&str],
) -> u32 {
    let mut inits = 0;
    while *names != wanted {
        // An error is followed by another attempt.
        match tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap() {
            Ok(Seen::Init) => (inits, *names) = (inits + 1, Vec::new()),
            Ok(Seen::InitApply(pod) | Seen::Apply(pod)) => {
                names.retain(|name| *name != pod.name_any());
                names.push(pod.name_any());
            }
            Ok(Seen::Delete(pod)) => names.retain(|name| *name != pod.name_any()),
            Ok(Seen::InitDone) | Err(_) => {}
        }
    }
    inits
}

#[tokio::test]
async fn watchers_survive_what_a_test_does() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let kube = fake().await;
        let pods: Api<Pod> = Api::default_namespaced(client(&kube));
        kube.put(pod("p-0", json!({}))).unwrap();
        let (mut stream, mut names) = (watcher(pods, config).boxed(), Vec::new());
        assert_eq!(follow(&mut stream, &mut names, &["p-0"]).await, 1);
        kube.cut_watches();
        kube.put(pod("p-1", json!({}))).unwrap();
        assert_eq!(follow(&mut stream, &mut names, &["p-0", "p-1"]).await, 0, "it goes on where it was");
        kube.expire_history();
        kube.delete("v1", "Pod", "default", "p-0").unwrap();
        assert_eq!(follow(&mut stream, &mut names, &["p-1"]).await, 1, "it begins again");
        let fault = Fault { verb: Some("watch".to_owned()), plural: Some("pods".to_owned()), code: 500, count: 2 };
        kube.fail(fault).unwrap();
        kube.cut_watches();
        kube.put(pod("p-2", json!({}))).unwrap();
        follow(&mut stream, &mut names, &["p-1", "p-2"]).await;
        assert!(kube.requests().iter().filter(|request| request.verb == "watch" && request.code == 500).count() >= 2);
        kube.stop().await;
    }
}

#[tokio::test]
async fn appliers_share_an_object() {
    let kube = fake().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&kube));
    kube.put(pod("p-0", json!({"app": "db"}))).unwrap();
    let label = |role: &str| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p-0", "labels": {"role": role}}}))
    };
    let one = pods.patch("p-0", &PatchParams::apply("agent"), &label("leader")).await.unwrap();
    assert_eq!(one.labels()["role"], "leader");
    assert_eq!(one.labels()["app"], "db");
    assert_eq!(code(pods.patch("p-0", &PatchParams::apply("other"), &label("learner")).await), 409);
    let forced = pods.patch("p-0", &PatchParams::apply("other").force(), &label("learner")).await.unwrap();
    assert_eq!(forced.labels()["role"], "learner");
    let nothing = Patch::Apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p-0"}}));
    let none = pods.patch("p-0", &PatchParams::apply("other"), &nothing).await.unwrap();
    assert_eq!(none.labels().keys().collect::<Vec<_>>(), ["app"]);

    let status = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p-0"},
        "status": {"conditions": [{"type": "Led", "status": "True"}]},
    });
    let applied = pods.patch_status("p-0", &PatchParams::apply("agent"), &Patch::Apply(status)).await.unwrap();
    let status = applied.status.unwrap();
    assert_eq!(status.conditions.unwrap()[0].type_, "Led");
    assert_eq!(status.phase.as_deref(), Some("Running"), "what it does not mention is left alone");

    let maps: Api<ConfigMap> = Api::default_namespaced(client(&kube));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}});
    let made = maps.patch("m", &PatchParams::apply("agent"), &Patch::Apply(map)).await.unwrap();
    assert_eq!(made.data.unwrap()["a"], "1");
}

#[tokio::test]
async fn scale_events_leases_and_custom_resources() {
    let added = Resource::parse("example.org/v1/Widget/widgets/namespaced").unwrap();
    let kube = FakeKube::start(Options { resources: vec![added], ..Options::default() }).await.unwrap();
    let client = client(&kube);
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    let set = json!({
        "metadata": {"name": "db"},
        "spec": {"replicas": 3, "selector": {}, "serviceName": "db", "template": {}},
    });
    assert_eq!(sets.create(&PostParams::default(), &read(set)).await.unwrap().metadata.generation, Some(1));
    let scaled = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scaled = sets.patch("db", &PatchParams::default(), &scaled).await.unwrap();
    assert_eq!((scaled.metadata.generation, scaled.spec.unwrap().replicas), (Some(2), Some(5)));

    let reporter = Reporter { controller: "agent".to_owned(), instance: Some("db-0".to_owned()) };
    let about =
        ObjectReference { kind: Some("StatefulSet".to_owned()), name: Some("db".to_owned()), ..Default::default() };
    let about = ObjectReference { namespace: Some("default".to_owned()), ..about };
    let event = Event {
        type_: EventType::Normal,
        reason: "MemberReplaced".to_owned(),
        note: Some("db-1".to_owned()),
        action: "Replace".to_owned(),
        secondary: None,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let events = kube.list("events.k8s.io/v1", "Event", "default").unwrap();
    assert_eq!(events.len(), 1, "the second is the first again");
    assert_eq!(events[0]["series"]["count"], 2);

    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}});
    let lease = leases.create(&PostParams::default(), &read(lease)).await.unwrap();
    let mut taken = lease.clone();
    taken.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    leases.replace("l", &PostParams::default(), &taken).await.unwrap();
    assert_eq!(code(leases.replace("l", &PostParams::default(), &lease).await), 409, "only one wins");

    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    assert!(discovery.has_group("example.org") && discovery.has_group("apps"));
    let widget = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("example.org", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &widget);
    let new = DynamicObject {
        metadata: ObjectMeta { generate_name: Some("w-".to_owned()), ..Default::default() },
        ..DynamicObject::new("", &widget)
    };
    let made = widgets.create(&PostParams::default(), &new).await.unwrap();
    assert!(made.name_any().starts_with("w-"));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    widgets.create(&dry, &new).await.unwrap();
    assert_eq!(widgets.list(&ListParams::default()).await.unwrap().items.len(), 1);
    widgets.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert_eq!(widgets.list(&ListParams::default()).await.unwrap().items.len(), 0);
    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");
}

#[tokio::test]
async fn tokens_and_rules_decide() {
    let kube = fake().await;
    kube.put(pod("p-0", json!({}))).unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
    let account = Account {
        username: "system:serviceaccount:default:agent".to_owned(),
        audiences: vec!["metad".to_owned()],
        pod: Some(("p-0".to_owned(), "u-0".to_owned())),
        access: Access::Rules { namespace: Some("default".to_owned()), rules },
    };
    kube.add_account("agent-token", account).unwrap();
    kube.add_account("admin-token", Account::default()).unwrap();
    let with = |token: &str| {
        let config: kube::config::Kubeconfig = serde_json::from_str(&kube.kubeconfig(Some(token), "default")).unwrap();
        async move {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        }
    };
    let pods: Api<Pod> = Api::default_namespaced(with("agent-token").await);
    pods.get("p-0").await.unwrap();
    assert_eq!(code(pods.delete("p-0", &DeleteParams::default()).await), 403);
    let everywhere: Api<Pod> = Api::all(with("agent-token").await);
    assert_eq!(code(everywhere.list(&ListParams::default()).await), 403);
    let nobody: Api<Pod> = Api::default_namespaced(client(&kube));
    assert_eq!(code(nobody.get("p-0").await), 401);

    let reviews: Api<TokenReview> = Api::all(with("admin-token").await);
    let review = json!({"metadata": {}, "spec": {"token": "agent-token", "audiences": ["metad"]}});
    let status = reviews.create(&PostParams::default(), &read(review)).await.unwrap().status.unwrap();
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.user.unwrap().extra.unwrap()["authentication.kubernetes.io/pod-name"], ["p-0"]);
    let refused = kube.requests().into_iter().find(|request| request.code == 403).unwrap();
    assert_eq!((refused.verb, refused.plural.as_str()), ("delete", "pods"));
}

#[tokio::test]
async fn only_loopback_addresses_are_served() {
    let options = Options { listen: "0.0.0.0:0".parse().unwrap(), ..Options::default() };
    let refused = FakeKube::start(options).await.map(drop).unwrap_err().to_string();
    assert_eq!(refused, "0.0.0.0:0 is not a loopback address");
}
