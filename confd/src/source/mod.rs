//! Where keys come from. [`Source::read`] gives the keys of a resource as they are now; [`Source::changed`] tells which
//! keys are others than before, in watch mode.

mod env;
mod etcd;
mod file;

use crate::keys::Keys;
use crate::resource::{Resource, covers};
use crate::settings::{Backend, Settings};
use crate::template::Text;
use std::collections::BTreeMap;

/// All keys of a store that anybody wants, with their values.
pub(crate) type Entries = BTreeMap<Text, Text>;

/// A source of keys.
#[derive(Debug)]
pub(crate) enum Source {
    Env(env::Env),
    File(file::Files),
    Etcd(Box<etcd::Etcd>),
}

/// Which keys have other values than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keys(Vec<Text>),
    /// Any may have changed.
    Everything,
}

impl Change {
    pub(crate) fn concerns(&self, resource: &Resource) -> bool {
        match self {
            Self::Everything => true,
            Self::Keys(keys) => keys.iter().any(|key| resource.wants(key)),
        }
    }
}

impl Source {
    /// Opens a source. Nothing is asked yet. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the settings cannot be right, like certificates that are not there.
    pub(crate) fn open(settings: &Settings, environment: &BTreeMap<String, String>) -> Result<Self, String> {
        Ok(match settings.backend {
            Backend::Env => Self::Env(env::Env::new(environment)),
            Backend::File => Self::File(file::Files::new(settings.files.clone(), &settings.filter)?),
            Backend::Etcd => Self::Etcd(Box::new(etcd::Etcd::new(&settings.nodes, settings.tls.clone())?)),
        })
    }

    /// The keys of a resource as they are now.
    ///
    /// # Errors
    /// The store's, or the file's.
    pub(crate) async fn read(&self, resource: &Resource) -> Result<Keys, String> {
        match self {
            Self::Env(env) => Ok(select(env.entries(&resource.keys), resource)),
            Self::File(files) => Ok(select_by_prefix(files.read().await?.as_ref(), resource)),
            Self::Etcd(etcd) => {
                if let Some(keys) = etcd.mirrored(&resource.keys, |entries| select_ranges(entries, resource)) {
                    return keys.map_err(|error| format!("{}: {error}", resource.path.display()));
                }
                Ok(select_ranges(&etcd.read(&resource.keys).await?, resource))
            }
        }
    }

    /// Ends a round, in which files are read once for all resources.
    pub(crate) fn end_round(&mut self) {
        match self {
            Self::File(files) => files.forget(),
            Self::Env(_) | Self::Etcd(_) => {}
        }
    }

    /// Begins to follow the keys of these resources, instead of those before.
    pub(crate) async fn follow(&mut self, resources: &[Resource]) {
        match self {
            Self::Env(_) => {}
            Self::File(files) => files.follow(),
            Self::Etcd(etcd) => etcd.follow(resources).await,
        }
    }

    /// The next change. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Change {
        match self {
            // A process's environment never changes.
            Self::Env(_) => std::future::pending().await,
            Self::File(files) => files.changed().await,
            Self::Etcd(etcd) => etcd.changed().await,
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
        let below = if wanted == "/" { wanted.clone() } else { format!("{wanted}/") };
        for (key, value) in from(entries, below.as_bytes()).take_while(|(key, _)| key.starts_with(below.as_bytes())) {
            debug_assert!(covers(wanted, key));
            keys.insert_below(prefix_of(resource), key, value.clone());
        }
    }
    keys
}

fn from<'e>(entries: &'e Entries, first: &[u8]) -> impl Iterator<Item = (&'e Text, &'e Text)> + use<'e> {
    entries.range::<[u8], _>((std::ops::Bound::Included(first), std::ops::Bound::Unbounded))
}
