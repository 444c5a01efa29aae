//! Kubernetes: the keys of `ConfigMaps` and `Secrets`, `/NAMESPACE/configmaps/NAME/KEY` and `/NAMESPACE/secrets/NAME/KEY`.
//!
//! A key of a resource names at least namespace and kind. One that names an object, too, is asked for with a selector of
//! its name, so that a role for this object is enough. What is followed are whole objects.

use super::mirror::{Ended, Failure, Follower};
use super::{Entries, Store, text};
use client::TlsOptions;
use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

/// Objects in one answer.
const PAGE_OBJECTS: u32 = 500;
/// Longest time for one answer, but for watches.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Statuses of HTTP for who may not ask this.
const REFUSALS: [u16; 2] = [401, 403];

/// A client of the API server. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    client: Client,
}

/// The client may hold a token.
impl Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

/// What is read of an object.
trait Object: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send {
    /// As it is called in keys.
    const KIND: &'static str;

    fn data(self) -> Vec<(String, Vec<u8>)>;
}

impl Object for ConfigMap {
    const KIND: &'static str = "configmaps";

    fn data(self) -> Vec<(String, Vec<u8>)> {
        let texts = self.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
        texts.chain(self.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
    }
}

impl Object for Secret {
    const KIND: &'static str = "secrets";

    fn data(self) -> Vec<(String, Vec<u8>)> {
        self.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
    }
}

/// Which objects a key or a range is about.
struct Scope<'k> {
    namespace: &'k str,
    kind: &'k str,
    name: Option<&'k str>,
}

impl<'k> Scope<'k> {
    fn of(key: &'k str) -> Result<Self, String> {
        let mut parts = key.split('/').filter(|part| !part.is_empty());
        match (parts.next(), parts.next()) {
            (Some(namespace), Some(kind)) if kind == ConfigMap::KIND || kind == Secret::KIND => {
                Ok(Self { namespace, kind, name: parts.next() })
            }
            _ => Err(format!(
                "the key {key:?} names no objects: keys of Kubernetes begin with /NAMESPACE/configmaps or /NAMESPACE/secrets"
            )),
        }
    }
}

/// The directory of an object's keys.
fn directory<K: Object>(object: &K) -> String {
    format!("/{}/{}/{}", object.namespace().unwrap_or_default(), K::KIND, object.name_any())
}

fn add<K: Object>(object: K, entries: &mut Entries) {
    let directory = directory(&object);
    for (key, value) in object.data() {
        entries.insert(text(format!("{directory}/{key}").as_bytes()), text(&value));
    }
}

/// The objects that a key is in, as a directory.
///
/// # Errors
/// The key names none.
pub(super) fn range(key: &str) -> Result<String, String> {
    Ok(match Scope::of(key)? {
        Scope { namespace, kind, name: Some(name) } => format!("/{namespace}/{kind}/{name}/"),
        Scope { namespace, kind, name: None } => format!("/{namespace}/{kind}/"),
    })
}

/// An API server by its URL.
fn at(node: &str, tls: TlsOptions) -> Result<Config, String> {
    let url = if node.contains("://") { node.to_owned() } else { format!("https://{node}") };
    let shown = client::without_user(&url);
    let mut config = Config::new(url.parse().map_err(|error| format!("the node {shown:?}: {error}"))?);
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    config.root_cert_file = tls.ca_file;
    config.accept_invalid_certs = tls.insecure_skip_verify;
    config.auth_info.client_certificate = path(tls.cert_file);
    config.auth_info.client_key = path(tls.key_file);
    Ok(config)
}

fn failure(error: &watcher::Error) -> Failure {
    let is_refused = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => REFUSALS.contains(&status.code),
        _ => false,
    };
    Failure { error: apiserver::shown_of_watch(error), is_refused }
}

impl Kubernetes {
    /// The API server of the only node with these certificates; without one, that of `KUBECONFIG` or of this pod's service
    /// account.
    pub(super) async fn new(nodes: &[String], tls: Option<TlsOptions>) -> Result<Self, String> {
        let config = match nodes {
            [] => Config::infer().await.map_err(|error| format!("cannot find the Kubernetes API: {error}"))?,
            [node] => at(node, tls.unwrap_or_default())?,
            _ => return Err("the backend kubernetes has one API server: give -node once".to_owned()),
        };
        let client = apiserver::client(config).map_err(|error| format!("the Kubernetes API: {error}"))?;
        Ok(Self { client })
    }

    /// True if there is an answer, even if it is that this is none of our business.
    pub(super) async fn answers(&self) -> bool {
        match self.client.apiserver_version().await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) => status.code < 500,
            Err(_) => false,
        }
    }

    /// The wanted objects.
    pub(super) async fn read(&self, keys: &[String]) -> Result<Entries, String> {
        let mut entries = Entries::new();
        for key in keys {
            let scope = Scope::of(key)?;
            let listed = async {
                match scope.kind {
                    ConfigMap::KIND => self.list::<ConfigMap>(&scope, &mut entries).await,
                    _ => self.list::<Secret>(&scope, &mut entries).await,
                }
            };
            tokio::time::timeout(READ_TIMEOUT, listed).await.map_err(|_| "no answer in time".to_owned())??;
        }
        entries.retain(|key, _| keys.iter().any(|wanted| crate::resource::covers(wanted, key)));
        Ok(entries)
    }

    async fn list<K: Object>(&self, scope: &Scope<'_>, entries: &mut Entries) -> Result<(), String> {
        let api: Api<K> = Api::namespaced(self.client.clone(), scope.namespace);
        let mut page = ListParams::default().limit(PAGE_OBJECTS);
        if let Some(name) = scope.name {
            page = page.fields(&format!("metadata.name={name}"));
        }
        loop {
            let listed = api.list(&page).await.map_err(|error| apiserver::shown(&error))?;
            listed.items.into_iter().for_each(|object| add(object, entries));
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    /// Reads a range and watches it until that fails.
    pub(super) async fn follow(&self, follower: &Follower) -> Ended {
        match Scope::of(&follower.range) {
            Ok(scope) if scope.kind == ConfigMap::KIND => self.watch::<ConfigMap>(&scope, follower).await,
            Ok(scope) => self.watch::<Secret>(&scope, follower).await,
            Err(error) => Ended::Unread(Failure { error, is_refused: true }),
        }
    }

    async fn watch<K: Object + 'static>(&self, scope: &Scope<'_>, follower: &Follower) -> Ended {
        let api: Api<K> = Api::namespaced(self.client.clone(), scope.namespace);
        let mut config = watcher::Config::default().page_size(PAGE_OBJECTS);
        if let Some(name) = scope.name {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let mut events = pin!(watcher(api, config).default_backoff());
        let (mut listed, mut is_read) = (Entries::new(), false);
        loop {
            let told = match events.next().await {
                Some(Ok(Event::Init)) => {
                    listed.clear();
                    Ok(())
                }
                Some(Ok(Event::InitApply(object))) => {
                    add(object, &mut listed);
                    Ok(())
                }
                Some(Ok(Event::InitDone)) => {
                    is_read = true;
                    follower.read(std::mem::take(&mut listed), BTreeSet::new()).await.map(|_| ())
                }
                Some(Ok(Event::Apply(object))) => {
                    let (part, mut present) = (format!("{}/", directory(&object)), Entries::new());
                    add(object, &mut present);
                    follower.read_part(&part, present).await
                }
                Some(Ok(Event::Delete(object))) => {
                    follower.read_part(&format!("{}/", directory(&object)), Entries::new()).await
                }
                // It goes on behind what was seen, or lists again.
                Some(Err(error)) if is_read => {
                    follower.interrupted(&apiserver::shown_of_watch(&error));
                    Ok(())
                }
                Some(Err(error)) => return Ended::Unread(failure(&error)),
                None => return Ended::Lost("the watch has ended".to_owned()),
            };
            if let Err(unheard) = told {
                return unheard.into();
            }
        }
    }
}

impl From<Kubernetes> for Store {
    fn from(kubernetes: Kubernetes) -> Self {
        Self::Kubernetes(kubernetes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_refusal_is_an_answer_and_a_server_that_is_broken_gives_none() {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let kubernetes = Kubernetes::new(&[format!("http://{address}")], None).await.unwrap();
        for (status, is_answer) in [("401 Unauthorized", true), ("403 Forbidden", true), ("500 Broken", false)] {
            let answer = async {
                let (mut stream, _) = socket.accept().await.unwrap();
                let length = stream.read(&mut [0; 4096]).await.unwrap();
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
                stream.write_all(text.as_bytes()).await.unwrap();
                length
            };
            let both = async { tokio::join!(kubernetes.answers(), answer) };
            let (answers, asked) = tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
            assert_eq!((answers, asked > 0), (is_answer, true), "{status}");
        }
        drop(socket);
        assert!(!kubernetes.answers().await);
    }
}
