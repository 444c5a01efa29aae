//! Pods of a Kubernetes cluster as clients: which pod has an address, and what it is told about itself.
//!
//! A pod sees itself as `/self/pod`, and beside it what the store holds for it. All of that is below one directory of
//! its namespace, so who may make pods in a namespace reads nothing of another.
//!
//! ```text
//! /ROOT/NAMESPACE/pods/NAME            as /self/data
//! /ROOT/NAMESPACE/apps/APP             as /self/app, for the label app.kubernetes.io/name, or app
//! /ROOT/NAMESPACE/PATH                 as /self/NAME, for NAME=PATH in the annotation metad/links
//! ```

use crate::hub::{Hub, Topic};
use crate::mapping::Mapped;
use crate::path;
use crate::state::Change;
use crate::tree::{Node, Tree};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Links of one annotation; what is behind them has no effect.
const MAX_LINKS: usize = 64;
/// The annotation that names what else a pod sees.
pub(crate) const LINKS: &str = "metad/links";
/// The whole object, as a tool keeps it for itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Labels that name the application of a pod, the first that it has.
const APP_LABELS: [&str; 2] = ["app.kubernetes.io/name", "app"];

/// What is known of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// It has the address of its node, like others there.
    pub(crate) is_host_network: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// It has ended; its addresses may be another's by now.
    pub(crate) is_over: bool,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Kind and name.
    pub(crate) owner: Option<(String, String)>,
    /// Container, name or number of the port, and the number.
    pub(crate) ports: Vec<(String, String, i32)>,
}

/// A pod as a client.
#[derive(Debug)]
pub(crate) struct Pod {
    uid: String,
    is_host_network: bool,
    addresses: Vec<IpAddr>,
    created: i64,
    /// What it is told about itself.
    pub(crate) view: Arc<Node>,
    /// What the store holds for it.
    pub(crate) mapped: Option<Mapped>,
}

impl Pod {
    fn new(facts: &Facts, root: &str) -> Self {
        let links = links(facts, root);
        Self {
            uid: facts.uid.clone(),
            is_host_network: facts.is_host_network,
            addresses: facts.addresses.clone(),
            created: facts.created,
            view: Arc::clone(view(facts).root()),
            mapped: Mapped::new(links.root()),
        }
    }

    /// True if a request from an address can be this pod's. On the network of its node that proves nothing.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.is_host_network || self.addresses.contains(&address)
    }

    pub(crate) fn is_host_network(&self) -> bool {
        self.is_host_network
    }

    /// What changes when the pod does.
    pub(crate) fn topic(&self) -> (Topic, Vec<u8>) {
        (Topic::Pod, uid_path(&self.uid))
    }
}

fn uid_path(uid: &str) -> Vec<u8> {
    path::clean(format!("/uid/{uid}").as_bytes())
}

/// What changes when an address becomes a pod's, or another pod's.
pub(crate) fn address_path(address: IpAddr) -> Vec<u8> {
    format!("/address/{address}").into_bytes()
}

fn view(facts: &Facts) -> Tree {
    let mut tree = Tree::default();
    let mut put = |path: String, value: &str| {
        tree.put(path.as_bytes(), value.as_bytes());
    };
    put("/namespace".to_owned(), &facts.namespace);
    put("/name".to_owned(), &facts.name);
    put("/uid".to_owned(), &facts.uid);
    put("/node".to_owned(), &facts.node);
    for (number, address) in facts.addresses.iter().enumerate() {
        put(format!("/addresses/{number}"), &address.to_string());
    }
    for (name, value) in &facts.labels {
        put(format!("/labels/{name}"), value);
    }
    for (name, value) in facts.annotations.iter().filter(|(name, _)| *name != LAST_APPLIED) {
        put(format!("/annotations/{name}"), value);
    }
    if let Some((kind, name)) = &facts.owner {
        put("/owner/kind".to_owned(), kind);
        put("/owner/name".to_owned(), name);
    }
    for (container, port, number) in &facts.ports {
        put(format!("/containers/{container}/ports/{port}"), &number.to_string());
    }
    tree
}

fn links(facts: &Facts, root: &str) -> Tree {
    let mut tree = Tree::default();
    let namespace = path::join(root.as_bytes(), facts.namespace.as_bytes());
    let mut link = |name: &str, path: &str| {
        // What an annotation says leads nowhere above the directory of the namespace.
        tree.put(name.as_bytes(), &path::join(&namespace, path.as_bytes()));
    };
    let annotation = facts.annotations.get(LINKS).map(String::as_str).unwrap_or_default();
    for entry in annotation.split(',').take(MAX_LINKS) {
        if let Some((name, path)) = entry.split_once('=').map(|(name, path)| (name.trim(), path.trim()))
            && !name.is_empty()
            && !name.contains('/')
        {
            link(name, path);
        }
    }
    if let Some(app) = APP_LABELS.iter().find_map(|label| facts.labels.get(*label)) {
        link("app", &format!("apps/{app}"));
    }
    link("data", &format!("pods/{}", facts.name));
    tree
}

/// The pods that are known.
#[derive(Debug)]
pub(crate) struct Pods {
    /// Directory of the data for pods.
    root: String,
    index: RwLock<Index>,
    hub: Arc<Hub>,
    synced: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Index {
    by_uid: HashMap<String, Arc<Pod>>,
    by_address: HashMap<IpAddr, Vec<Arc<Pod>>>,
}

impl Pods {
    pub(crate) fn new(root: &str, hub: Arc<Hub>) -> Self {
        let root = String::from_utf8_lossy(&path::clean(root.as_bytes())).into_owned();
        Self { root, index: RwLock::default(), hub, synced: watch::Sender::new(false) }
    }

    /// The pod at an address: of several the newest, since the others have ended, and it is not known yet. Pods on the
    /// network of their node are at no address of their own.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        let index = self.index.read();
        let pods = index.by_address.get(&address)?;
        pods.iter().max_by_key(|pod| (pod.created, &pod.uid)).cloned()
    }

    /// The pod with a uid.
    pub(crate) fn with_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        self.index.read().by_uid.get(uid).cloned()
    }

    /// True once all pods have been listed.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until all pods have been listed.
    pub(crate) async fn synced(&self) {
        // It is never closed while this lives.
        drop(self.synced.subscribe().wait_for(|is_synced| *is_synced).await);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.index.read().by_uid.len()
    }

    /// Takes a pod in, or what is new about it. One that has ended is forgotten at once.
    pub(crate) fn apply(&self, facts: &Facts) {
        if facts.is_over {
            return self.remove(&facts.uid);
        }
        let pod = Arc::new(Pod::new(facts, &self.root));
        let mut index = self.index.write();
        let mut changes = index.remove(&facts.uid);
        changes.extend(index.insert(pod));
        drop(index);
        self.hub.publish(&changes);
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, uid: &str) {
        let changes = self.index.write().remove(uid);
        self.hub.publish(&changes);
    }

    /// Puts a list of all pods in the place of what was known.
    pub(crate) fn replace(&self, all: &[Facts]) {
        let mut next = Index::default();
        for facts in all.iter().filter(|facts| !facts.is_over) {
            next.insert(Arc::new(Pod::new(facts, &self.root)));
        }
        let mut changes: Vec<Change> = next.changes().collect();
        let old = std::mem::replace(&mut *self.index.write(), next);
        changes.extend(old.changes());
        self.hub.publish(&changes);
        self.synced.send_replace(true);
    }
}

impl Index {
    fn changes(&self) -> impl Iterator<Item = Change> {
        self.by_uid.values().flat_map(|pod| changes(pod))
    }

    fn insert(&mut self, pod: Arc<Pod>) -> Vec<Change> {
        if !pod.is_host_network {
            for address in &pod.addresses {
                self.by_address.entry(*address).or_default().push(Arc::clone(&pod));
            }
        }
        let changes = changes(&pod);
        self.by_uid.insert(pod.uid.clone(), pod);
        changes
    }

    fn remove(&mut self, uid: &str) -> Vec<Change> {
        let Some(pod) = self.by_uid.remove(uid) else { return Vec::new() };
        for address in &pod.addresses {
            if let Some(pods) = self.by_address.get_mut(address) {
                pods.retain(|other| other.uid != uid);
                if pods.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        changes(&pod)
    }
}

fn changes(pod: &Pod) -> Vec<Change> {
    let of_addresses = pod.addresses.iter().map(|address| address_path(*address));
    let paths = std::iter::once(uid_path(&pod.uid)).chain(of_addresses);
    paths.map(|path| Change { topic: Topic::Pod, path }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shown::Shown;

    fn facts(name: &str, address: &str, created: i64) -> Facts {
        Facts {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            addresses: vec![address.parse().unwrap()],
            created,
            ..Facts::default()
        }
    }

    fn pods() -> Pods {
        Pods::new("/kubernetes/", Arc::default())
    }

    fn name(pods: &Pods, address: &str) -> Option<String> {
        let pod = pods.at(address.parse().unwrap())?;
        Some(String::from_utf8_lossy(pod.view.child(b"name")?.value()?).into_owned())
    }

    #[test]
    fn an_address_is_the_newest_pods_that_has_not_ended() {
        let pods = pods();
        assert!(!pods.is_synced());
        pods.replace(&[facts("a", "10.0.0.1", 1), Facts { is_over: true, ..facts("old", "10.0.0.9", 9) }]);
        assert!(pods.is_synced() && name(&pods, "10.0.0.9").is_none());
        // The address is given to another before the end of the first is known.
        pods.apply(&facts("b", "10.0.0.1", 2));
        pods.apply(&facts("a", "10.0.0.1", 1));
        assert_eq!(name(&pods, "10.0.0.1").as_deref(), Some("b"));
        pods.apply(&Facts { is_over: true, ..facts("b", "10.0.0.1", 2) });
        assert_eq!(name(&pods, "10.0.0.1").as_deref(), Some("a"));
        pods.remove("uid-a");
        assert_eq!((name(&pods, "10.0.0.1"), pods.len()), (None, 0));
        pods.apply(&Facts { is_host_network: true, ..facts("host", "10.0.0.5", 1) });
        assert!(
            name(&pods, "10.0.0.5").is_none() && pods.with_uid("uid-host").unwrap().has("1.1.1.1".parse().unwrap())
        );
    }

    #[test]
    fn annotations_lead_nowhere_else() {
        let mut pod = facts("p", "10.0.0.1", 1);
        pod.labels.insert("app".to_owned(), "../../other/apps/x".to_owned());
        let annotation = "db=databases/main, up=../../other/secret,=x,a/b=c,data=mine,deep=/a/../b";
        pod.annotations.insert(LINKS.to_owned(), annotation.to_owned());
        let links = links(&pod, "/k");
        let shown = String::from_utf8(Shown::of(links.root()).text()).unwrap();
        let expected = [
            "/app\t/k/ns/other/apps/x",
            "/data\t/k/ns/pods/p",
            "/db\t/k/ns/databases/main",
            "/deep\t/k/ns/b",
            "/up\t/k/ns/other/secret",
            "",
        ];
        assert_eq!(shown, expected.join("\n"));
    }
}
