//! Where keys come from. [`Source::read`] gives the keys of a resource as they are now; [`Source::changed`] tells which
//! keys are others than before, in watch mode.

mod env;
mod etcd;
mod etcd_v2;
mod file;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod leaves;
mod metad;
mod mirror;

use crate::keys::Keys;
use crate::resource::{Resource, covers};
use crate::settings::{Backend, Settings};
use crate::template::Text;
use prometheus::IntCounter;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// All keys of a store that anybody wants, with their values.
pub(crate) type Entries = BTreeMap<Text, Text>;

/// A source of keys.
#[derive(Debug)]
pub(crate) enum Source {
    Env(env::Env),
    File(file::Files),
    Followed(Box<mirror::Followed>),
}

/// A store over the network, whose keys are asked for or followed. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    V3(etcd::Etcd),
    V2(etcd_v2::EtcdV2),
    Metad(metad::Metad),
    #[cfg(feature = "kubernetes")]
    Kubernetes(kubernetes::Kubernetes),
}

impl Store {
    #[cfg_attr(
        not(feature = "kubernetes"),
        expect(clippy::unused_async, reason = "only Kubernetes is asked for at once")
    )]
    async fn open(settings: &Settings) -> Result<Self, String> {
        let (nodes, tls, user) = (&settings.nodes, settings.tls.clone(), settings.user.clone());
        Ok(match settings.backend {
            Backend::EtcdV2 => etcd_v2::EtcdV2::new(nodes, tls, user)?.into(),
            Backend::Metad => metad::Metad::new(nodes, tls)?.into(),
            #[cfg(feature = "kubernetes")]
            Backend::Kubernetes => kubernetes::Kubernetes::new(nodes, tls).await?.into(),
            Backend::Etcd | Backend::Env | Backend::File => etcd::Etcd::new(nodes, tls, user)?.into(),
        })
    }

    /// The wanted keys and what is below them.
    async fn read(&self, keys: &[String]) -> Result<Entries, ReadError> {
        match self {
            Self::V3(etcd) => Ok(etcd.read(keys).await?),
            Self::V2(etcd) => etcd.read(keys).await,
            Self::Metad(metad) => Ok(metad.read(keys).await?),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(kubernetes) => Ok(kubernetes.read(keys).await?),
        }
    }

    /// Reads a range and follows it until that fails.
    async fn follow(&self, follower: &mirror::Follower) -> mirror::Ended {
        match self {
            Self::V3(etcd) => etcd.follow(follower).await,
            Self::V2(etcd) => etcd.follow(follower).await,
            Self::Metad(metad) => metad.follow(follower).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(kubernetes) => kubernetes.follow(follower).await,
        }
    }

    /// Where the ranges of these resources begin: texts that keys begin with, or with a slash at the end directories.
    fn starts(&self, resources: &[Resource]) -> BTreeSet<String> {
        let directory = |key: &String| format!("{}/", key.trim_end_matches('/'));
        let keys = resources.iter().flat_map(|resource| &resource.keys);
        match self {
            Self::V3(_) => keys.cloned().collect(),
            Self::V2(_) => keys.map(directory).collect(),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => keys.filter_map(|key| kubernetes::range(key).ok()).collect(),
            Self::Metad(_) => {
                let starts = |resource: &Resource| match resource.prefix.as_str() {
                    "/" => resource.keys.iter().map(directory).collect(),
                    _ if resource.keys.is_empty() => Vec::new(),
                    _ => vec![directory(&resource.prefix)],
                };
                resources.iter().flat_map(starts).collect()
            }
        }
    }

    /// True if it may let this process see some keys only.
    fn has_user(&self) -> bool {
        match self {
            Self::V3(etcd) => etcd.has_user,
            Self::V2(etcd) => etcd.has_user,
            // Most of its ranges are the one that everything begins with.
            Self::Metad(_) => false,
            // A role names objects.
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => true,
        }
    }

    /// What is said about a key that is not there; None if that is no error.
    fn missing(&self, key: &str) -> Option<String> {
        match self {
            Self::V2(_) => Some(etcd_v2::missing(key)),
            Self::V3(_) | Self::Metad(_) => None,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => None,
        }
    }
}

/// Why a resource cannot have its keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The store or a file was asked, and could not be read.
    Failed(String),
    /// The store has no such key, or it was told before that it cannot be read.
    Known(String),
}

impl From<String> for ReadError {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// Asks a store whether it answers.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    store: Store,
    key: String,
}

/// Longest time for an answer that says that the store is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

impl Prober {
    pub(crate) async fn probe(&self) -> bool {
        let answers = async {
            match &self.store {
                Store::V3(etcd) => etcd.answers(&self.key).await,
                Store::V2(etcd) => etcd.answers(&self.key).await,
                Store::Metad(metad) => metad.answers().await,
                #[cfg(feature = "kubernetes")]
                Store::Kubernetes(kubernetes) => kubernetes.answers().await,
            }
        };
        tokio::time::timeout(PROBE_TIMEOUT, answers).await.unwrap_or(false)
    }
}

/// Refuses a key that a backend can have nothing for. Among the keys that are followed it would be a range around those of
/// others, which cannot be read.
///
/// # Errors
/// What such a key has to be.
pub(crate) fn check_key(backend: Backend, key: &str) -> Result<(), String> {
    match (backend, key) {
        #[cfg(feature = "kubernetes")]
        (Backend::Kubernetes, key) => kubernetes::range(key).map(drop),
        (Backend::Etcd | Backend::EtcdV2 | Backend::Metad | Backend::Env | Backend::File, _) => Ok(()),
    }
}

/// A copy: a field of an answer is a slice of the whole answer.
fn text(bytes: &[u8]) -> Text {
    Text::from(bytes)
}

/// Which keys have other values than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keys(BTreeSet<Text>),
    /// Any may have changed.
    Everything,
}

impl Change {
    pub(crate) fn concerns(&self, resource: &Resource) -> bool {
        match self {
            Self::Everything => true,
            Self::Keys(keys) => resource.keys.iter().any(|wanted| {
                let below = below(wanted);
                let next = keys.range::<[u8], _>((Bound::Included(below.as_bytes()), Bound::Unbounded)).next();
                keys.contains(wanted.as_bytes()) || next.is_some_and(|key| key.starts_with(below.as_bytes()))
            }),
        }
    }
}

impl Source {
    /// Opens a source, which counts the errors of what it does by itself. Nothing is asked yet. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the settings cannot be right, like certificates that are not there.
    pub(crate) async fn open(
        settings: &Settings,
        environment: &BTreeMap<String, String>,
        errors: IntCounter,
    ) -> Result<Self, String> {
        Ok(match settings.backend {
            Backend::Env => Self::Env(env::Env::new(environment)),
            Backend::File => Self::File(file::Files::new(settings.files.clone(), &settings.filter)?),
            _ => Self::Followed(Box::new(mirror::Followed::new(Store::open(settings).await?, errors))),
        })
    }

    /// The keys of a resource as they are now.
    ///
    /// # Errors
    /// The store's, or the file's.
    pub(crate) async fn read(&self, resource: &Resource) -> Result<Keys, ReadError> {
        match self {
            Self::Env(env) => Ok(select(env.entries(&resource.keys), resource)),
            Self::File(files) => Ok(select_by_prefix(files.read().await?.as_ref(), resource)),
            Self::Followed(followed) => {
                if let Some(keys) = followed.mirrored(&resource.keys, |entries| select_ranges(entries, resource)) {
                    return keys.map_err(ReadError::Known);
                }
                let entries = followed.store().read(&resource.keys).await?;
                Ok(select_ranges(&entries, resource))
            }
        }
    }

    /// How to ask whether the store answers; None for a source that is always there.
    pub(crate) fn prober(&self, key: &str) -> Option<Prober> {
        match self {
            Self::Env(_) | Self::File(_) => None,
            Self::Followed(followed) => Some(Prober { store: followed.store().clone(), key: key.to_owned() }),
        }
    }

    /// Ends a round, in which files are read once for all resources.
    pub(crate) fn end_round(&mut self) {
        match self {
            Self::File(files) => files.forget(),
            Self::Env(_) | Self::Followed(_) => {}
        }
    }

    /// Begins to follow the keys of these resources, instead of those before.
    pub(crate) async fn follow(&mut self, resources: &[Resource]) {
        match self {
            Self::Env(_) => {}
            Self::File(files) => files.follow().await,
            Self::Followed(followed) => followed.follow(resources).await,
        }
    }

    /// The next change. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Change {
        match self {
            // A process's environment never changes.
            Self::Env(_) => std::future::pending().await,
            Self::File(files) => files.changed().await,
            Self::Followed(followed) => followed.changed().await,
        }
    }
}

fn select(entries: Entries, resource: &Resource) -> Keys {
    let mut keys = Keys::default();
    for (key, value) in entries {
        keys.insert_below(prefix_of(resource), &key, value);
    }
    keys
}

/// The prefix that goes. Of `/` nothing goes but the slash, which is put back.
fn prefix_of(resource: &Resource) -> &[u8] {
    resource.prefix.as_bytes()
}

/// confd's files are looked through for keys that begin with the wanted text, whatever follows it.
fn select_by_prefix(entries: &Entries, resource: &Resource) -> Keys {
    let mut keys = Keys::default();
    for wanted in &resource.keys {
        for (key, value) in from(entries, wanted.as_bytes()).take_while(|(key, _)| key.starts_with(wanted.as_bytes())) {
            keys.insert_below(prefix_of(resource), key, value.clone());
        }
    }
    keys
}

/// The wanted keys and what is below them.
fn select_ranges(entries: &Entries, resource: &Resource) -> Keys {
    let mut keys = Keys::default();
    for wanted in &resource.keys {
        if let Some((key, value)) = entries.get_key_value(wanted.as_bytes()) {
            keys.insert_below(prefix_of(resource), key, value.clone());
        }
        let below = below(wanted);
        for (key, value) in from(entries, below.as_bytes()).take_while(|(key, _)| key.starts_with(below.as_bytes())) {
            debug_assert!(covers(wanted, key));
            keys.insert_below(prefix_of(resource), key, value.clone());
        }
    }
    keys
}

/// What keys below a wanted one begin with.
fn below(wanted: &str) -> String {
    if wanted == "/" { wanted.to_owned() } else { format!("{wanted}/") }
}

fn from<'e>(entries: &'e Entries, first: &[u8]) -> impl Iterator<Item = (&'e Text, &'e Text)> + use<'e> {
    entries.range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_who_wants_a_key_of_it() {
        let keys = ["/a", "/a/b", "/a-b", "/ab", "/c/d/e", "x"];
        for changed in (0..1 << keys.len()).map(|which: usize| (0..keys.len()).filter(move |at| which >> at & 1 == 1)) {
            let changed: BTreeSet<Text> = changed.map(|at| text(keys[at].as_bytes())).collect();
            for wanted in ["/", "/a", "/a/b", "/a-", "/c", "/c/d", "/c/d/e", "/c/d/e/f", "/b"] {
                let resource = Resource::for_tests(&[wanted]);
                let expected = changed.iter().any(|key| resource.wants(key));
                assert_eq!(Change::Keys(changed.clone()).concerns(&resource), expected, "{wanted} {changed:?}");
            }
        }
        assert!(Change::Everything.concerns(&Resource::for_tests(&[])));
    }
}
