//! The Kubernetes API: follows pods, and asks whose a service account's token is.
//!
//! kube's watcher does the following: it goes on behind bookmarks, lists again when history is gone, and comes back
//! after broken connections.

use crate::address;
use crate::pods::{Facts, Pods};
use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod as WholePod};
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The claim of a token that says which pod it is bound to.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// How long an answer about a token counts.
const REVIEW_HOLDS: Duration = Duration::from_secs(10);
/// Answers that are kept. When there are more all are forgotten.
const MAX_REVIEWS: usize = 4096;
/// Questions at a time; more wait.
const MAX_QUESTIONS: usize = 8;
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// Longest token that is asked about.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// A client of the API server, by the environment: in a pod its service account, elsewhere `KUBECONFIG`.
///
/// # Errors
/// There is neither.
pub(crate) async fn connect() -> Result<Client, String> {
    let config = Config::infer().await.map_err(|error| format!("cannot find the Kubernetes API: {error}"))?;
    apiserver::client(config).map_err(|error| format!("the Kubernetes API: {error}"))
}

/// Pods in one answer to a list. Each has ten kilobytes and more, and an answer is read as a whole.
const PODS_IN_A_PAGE: u32 = 100;

/// What is read of a pod. The rest, which is nearly all of it, is passed over.
#[derive(Clone, Debug, Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    spec: Option<Spec>,
    status: Option<Status>,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(of: &()) -> Cow<'_, str> {
        WholePod::kind(of)
    }

    fn group(of: &()) -> Cow<'_, str> {
        WholePod::group(of)
    }

    fn version(of: &()) -> Cow<'_, str> {
        WholePod::version(of)
    }

    fn plural(of: &()) -> Cow<'_, str> {
        WholePod::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: String,
}

/// Follows the pods of all nodes, or of one, for ever.
pub(crate) async fn follow(client: Client, node: String, pods: Arc<Pods>) {
    let config = watcher::Config::default().page_size(PODS_IN_A_PAGE);
    let config = if node.is_empty() { config } else { config.fields(&format!("spec.nodeName={node}")) };
    let mut events = pin!(watcher(Api::<Pod>::all(client), config).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => listed.extend(facts(pod)),
            Ok(Event::InitDone) => {
                tracing::info!(pods = listed.len(), "listed the pods");
                pods.replace(&std::mem::take(&mut listed));
            }
            Ok(Event::Apply(pod)) => {
                if let Some(facts) = facts(pod) {
                    pods.apply(&facts);
                }
            }
            Ok(Event::Delete(pod)) => pods.remove(&pod.metadata.uid.unwrap_or_default()),
            Err(error) => tracing::warn!("cannot follow the pods, trying again: {}", apiserver::shown_of_watch(&error)),
        }
    }
}

/// What is told of a pod. Without a uid it is none.
fn facts(pod: Pod) -> Option<Facts> {
    let (metadata, spec, status) = (pod.metadata, pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    let one = status.pod_ip.into_iter();
    let all = status.pod_ips.into_iter().flatten().map(|address| address.ip);
    let mut addresses = Vec::new();
    for address in one.chain(all).filter_map(|text| address::parse(&text)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let owners = metadata.owner_references.unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first());
    let mut ports = Vec::new();
    for container in spec.containers {
        for port in container.ports.unwrap_or_default() {
            let name = port.name.unwrap_or_else(|| port.container_port.to_string());
            ports.push((container.name.clone(), name, port.container_port));
        }
    }
    Some(Facts {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid?,
        node: spec.node_name.unwrap_or_default(),
        is_host_network: spec.host_network.unwrap_or_default(),
        addresses,
        is_over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        owner: owner.map(|owner| (owner.kind.clone(), owner.name.clone())),
        ports,
    })
}

/// Asks the API server about tokens, and remembers the answers for a moment.
pub(crate) struct Reviewer {
    api: Api<TokenReview>,
    audience: String,
    /// By the hash of the token.
    answers: Mutex<HashMap<[u8; 32], Arc<Reviewed>>>,
    questions: Semaphore,
}

/// The uid of a token's pod, and when that was asked. Who asks holds the lock, so others wait for the same answer.
type Reviewed = tokio::sync::Mutex<Option<(Option<String>, Instant)>>;

impl Reviewer {
    pub(crate) fn new(client: Client, audience: &str) -> Self {
        let questions = Semaphore::new(MAX_QUESTIONS);
        Self { api: Api::all(client), audience: audience.to_owned(), answers: Mutex::default(), questions }
    }

    /// The uid of the pod that a token is bound to; None if it is no good.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(crate) async fn pod_uid(&self, token: &str) -> Result<Option<String>, String> {
        if token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let reviewed = {
            let mut answers = self.answers.lock();
            if answers.len() >= MAX_REVIEWS && !answers.contains_key(&hash) {
                answers.clear();
            }
            Arc::clone(answers.entry(hash).or_default())
        };
        let asking = async {
            let mut reviewed = reviewed.lock().await;
            if let Some((uid, at)) = &*reviewed
                && at.elapsed() < REVIEW_HOLDS
            {
                return Ok(uid.clone());
            }
            let uid = self.ask(token).await?;
            *reviewed = Some((uid.clone(), Instant::now()));
            Ok(uid)
        };
        timeout(QUESTION_DEADLINE, asking).await.map_err(|_| "no answer in time".to_owned())?
    }

    async fn ask(&self, token: &str) -> Result<Option<String>, String> {
        let _place = self.questions.acquire().await.map_err(|error| error.to_string())?;
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer =
            self.api.create(&PostParams::default(), &review).await.map_err(|error| apiserver::shown(&error))?;
        Ok(pod_uid(answer.status.unwrap_or_default(), &self.audience))
    }
}

/// The uid of the pod that a reviewed token is bound to; None if the token is no good. An API server that does not say
/// for whom the token is has not looked at the audience.
fn pod_uid(status: TokenReviewStatus, audience: &str) -> Option<String> {
    let is_for_us = status.audiences.is_some_and(|audiences| audiences.iter().any(|other| other == audience));
    let is_good = status.authenticated == Some(true) && is_for_us;
    let mut extra = status.user.and_then(|user| user.extra).filter(|_| is_good)?;
    extra.remove(POD_UID)?.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// What is in a token is a secret.
    #[tokio::test]
    async fn of_a_review_that_does_not_fit_the_place_alone_is_told() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let client = apiserver::client(Config::new(url.parse().unwrap())).unwrap();
        let answer = async {
            let (mut stream, _) = socket.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let body = r#"{"metadata":{},"spec":"hunter2"}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let reviewer = Reviewer::new(client, "metad");
        let both = async { tokio::join!(reviewer.pod_uid("hunter2"), answer) };
        let (reviewed, ()) = timeout(Duration::from_mins(1), both).await.unwrap();
        let error = reviewed.unwrap_err();
        assert!(error.starts_with("something that is no such object, at line 1, column "), "{error}");
    }

    #[test]
    fn a_token_is_good_for_whom_it_says() {
        let status = |authenticated, audiences: Option<&[&str]>| {
            let extra = [(POD_UID.to_owned(), vec!["u".to_owned()])].into();
            let user = UserInfo { extra: Some(extra), ..UserInfo::default() };
            let audiences = audiences.map(|audiences| audiences.iter().map(ToString::to_string).collect());
            TokenReviewStatus { audiences, authenticated, user: Some(user), ..TokenReviewStatus::default() }
        };
        let uid = |status| pod_uid(status, "metad");
        assert_eq!(uid(status(Some(true), Some(&["x", "metad"]))).as_deref(), Some("u"));
        for no in [
            status(Some(true), Some(&["x"])),
            status(Some(true), Some(&[])),
            status(Some(true), None),
            status(None, Some(&["metad"])),
            status(Some(false), Some(&["metad"])),
            TokenReviewStatus { user: None, ..status(Some(true), Some(&["metad"])) },
        ] {
            assert_eq!(uid(no), None);
        }
    }
}
