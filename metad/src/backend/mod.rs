//! Where writes go, and where the state comes from: memory, or a cluster of etcd or Cleat.

mod etcd;
mod local;
mod plan;

pub(crate) use etcd::Etcd;
pub(crate) use local::Local;

use crate::access::Rule;
use crate::state::{Table, World};
use crate::values::{Body, Leaves};
use std::sync::Arc;
use std::time::Duration;

/// A write that was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It can never be done.
    #[error("{0}")]
    Invalid(String),
    /// The store refused it, or is away.
    #[error("{0}")]
    Store(String),
}

/// A subtree or a leaf that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: Vec<u8>,
    pub(crate) is_dir: bool,
}

/// How leaves are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// What is below the path and not among the leaves goes.
    pub(crate) replace: bool,
    /// The leaves go by themselves after this time.
    pub(crate) ttl: Option<Duration>,
}

#[derive(Debug)]
pub(crate) enum Backend {
    Local(Arc<Local>),
    Etcd(Arc<Etcd>),
}

impl Backend {
    /// Writes a body at a clean path. Who reads this instance afterwards reads it.
    ///
    /// # Errors
    /// [`Failure`]. What a store that broke off has done is not known.
    pub(crate) async fn put(&self, table: Table, path: &[u8], body: Body, manner: Manner) -> Result<(), Failure> {
        let (leaves, replace) = match body {
            // As in metad, a text replaces nothing but the text before.
            Body::Leaf(value) => (Leaves::from([(b"/".to_vec(), value)]), false),
            Body::Dir(leaves) => (leaves, manner.replace),
        };
        let manner = Manner { replace, ..manner };
        match self {
            Self::Local(local) => local.put(table, path, leaves, manner),
            Self::Etcd(etcd) => etcd.put(table, path, leaves, manner).await,
        }
    }

    /// Takes subtrees and leaves away, all at once.
    pub(crate) async fn delete(&self, table: Table, targets: Vec<Target>) -> Result<(), Failure> {
        match self {
            Self::Local(local) => {
                local.delete(table, &targets);
                Ok(())
            }
            Self::Etcd(etcd) => etcd.delete(table, &targets).await,
        }
    }

    /// Sets the rules of hosts, all at once.
    pub(crate) async fn put_rules(&self, hosts: Vec<(String, Vec<Rule>)>) -> Result<(), Failure> {
        let leaf = |(host, rules): (String, Vec<Rule>)| {
            (format!("/{}", crate::mapping::client_name(&host)).into_bytes(), crate::rules::encode(&rules))
        };
        let body = Body::Dir(hosts.into_iter().filter(|(host, _)| !host.is_empty()).map(leaf).collect());
        self.put(Table::Rule, b"/", body, Manner { replace: false, ttl: None }).await
    }

    /// True once all tables have been read.
    pub(crate) fn is_synced(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Etcd(etcd) => etcd.is_synced(),
        }
    }

    /// Waits until all tables have been read.
    pub(crate) async fn synced(&self) {
        match self {
            Self::Local(_) => {}
            Self::Etcd(etcd) => etcd.synced().await,
        }
    }

    /// How long the store has not answered; zero while it does.
    pub(crate) fn silence(&self) -> Duration {
        match self {
            Self::Local(_) => Duration::ZERO,
            Self::Etcd(etcd) => etcd.silence(),
        }
    }
}

/// The paths of leaves below a path that must go when only `kept` are to be there.
fn surplus(world: &Arc<World>, table: Table, path: &[u8], kept: &Leaves) -> Vec<Vec<u8>> {
    let state = world.state();
    let tree = if table == Table::Mapping { state.mapping() } else { state.data() };
    let below = tree.get(path).map(|node| node.values_below()).unwrap_or_default();
    below.into_iter().filter(|below| !kept.contains_key(below)).collect()
}
