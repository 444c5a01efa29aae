//! The Kubernetes API: follows pods, and asks whose a service account's token is.
//!
//! kube's watcher does the following: it goes on behind bookmarks, lists again when history is gone, and comes back
//! after broken connections.

use crate::address;
use crate::pods::{Facts, Pods};
use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
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
    // Fails when somebody has chosen one already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::try_default().await.map_err(|error| format!("cannot find the Kubernetes API: {error}"))
}

/// Follows the pods of all nodes, or of one, for ever.
pub(crate) async fn follow(client: Client, node: String, pods: Arc<Pods>) {
    let config = watcher::Config::default();
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
            Err(error) => tracing::warn!("cannot follow the pods, trying again: {error}"),
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
    /// By the hash of the token: the uid of its pod.
    answers: Mutex<HashMap<[u8; 32], (Option<String>, Instant)>>,
    questions: Semaphore,
}

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
        if let Some((uid, at)) = self.answers.lock().get(&hash)
            && at.elapsed() < REVIEW_HOLDS
        {
            return Ok(uid.clone());
        }
        let asking = async {
            let _place = self.questions.acquire().await.map_err(|error| error.to_string())?;
            let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            self.api.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())
        };
        let answer = timeout(QUESTION_DEADLINE, asking).await.map_err(|_| "no answer in time".to_owned())??;
        let status = answer.status.unwrap_or_default();
        let is_for_us = status.audiences.is_none_or(|audiences| audiences.contains(&self.audience));
        let is_good = status.authenticated == Some(true) && is_for_us;
        let extra = status.user.and_then(|user| user.extra).filter(|_| is_good);
        let uid = extra.and_then(|mut extra| extra.remove(POD_UID)?.pop());
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_REVIEWS {
            answers.clear();
        }
        answers.insert(hash, (uid.clone(), Instant::now()));
        Ok(uid)
    }
}
