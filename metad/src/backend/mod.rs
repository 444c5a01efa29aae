//! Where writes go, and where the state comes from: memory, or a cluster of etcd or Cleat.

mod etcd;
mod follow;
mod layout;
mod local;
mod plan;
mod stage;

pub(crate) use etcd::Etcd;
pub(crate) use local::Local;

use crate::access::Rule;
use crate::path;
use crate::state::Table;
use crate::values::{Body, Leaves, OBJECT, Types};
use std::sync::Arc;
use std::time::Duration;

/// Names within each other. Deeper leaves are not written, and in a store they are not seen: what walks the tree calls
/// itself for each.
const MAX_DEPTH: usize = 128;

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
    /// Writes a body at a clean path, and its types, with which those that do not fit it any more go. Who reads this instance afterwards reads it, unless the store's news of it take
    /// longer than two seconds. It is done to its end though the future may be dropped.
    ///
    /// # Errors
    /// [`Failure`]. After [`Failure::Invalid`] nothing was done; what a store that broke off has done is not known.
    pub(crate) async fn put(
        &self,
        table: Table,
        path: &[u8],
        body: Body,
        mut types: Types,
        manner: Manner,
    ) -> Result<(), Failure> {
        let (leaves, replace) = match body {
            // As in metad, a text replaces nothing but the text before.
            Body::Leaf(value) => (Leaves::from([(b"/".to_vec(), value)]), false),
            Body::Dir(leaves) => (leaves, manner.replace),
        };
        if path == b"/" && types.get(path).map(Vec::as_slice) == Some(OBJECT.as_bytes()) {
            // It is there in any case.
            types.remove(path);
        }
        self.check(table, path, leaves.keys().chain(types.keys()))?;
        let manner = Manner { replace, ..manner };
        match self {
            Self::Local(local) => {
                local.put(table, path, leaves, types, manner);
                Ok(())
            }
            Self::Etcd(etcd) => etcd.put(table, path, leaves, types, manner).await,
        }
    }

    /// Refuses leaves that cannot be, before anything is done.
    fn check<'p>(&self, table: Table, path: &[u8], leaves: impl Iterator<Item = &'p Vec<u8>>) -> Result<(), Failure> {
        for below in leaves {
            let path = path::join(path, below);
            if path == b"/" {
                return Err(Failure::Invalid("the root cannot be a value: give an object".to_owned()));
            }
            if path::names(&path).len() > MAX_DEPTH {
                return Err(Failure::Invalid(format!("a path has more than {MAX_DEPTH} names")));
            }
            if let Self::Etcd(etcd) = self
                && let Some(problem) = etcd.reserves(table, &path)
            {
                return Err(Failure::Invalid(problem.to_owned()));
            }
        }
        Ok(())
    }

    /// Takes clean paths away, with all below, all at once. Like [`Backend::put`], it is done to its end.
    ///
    /// # Errors
    /// [`Failure::Store`].
    pub(crate) async fn delete(&self, table: Table, paths: Vec<Vec<u8>>) -> Result<(), Failure> {
        match self {
            Self::Local(local) => {
                local.delete(table, &paths);
                Ok(())
            }
            Self::Etcd(etcd) => etcd.delete(table, paths).await,
        }
    }

    /// Sets the rules of hosts, all at once, for a time if one is given.
    ///
    /// # Errors
    /// As [`Backend::put`]. Hosts are names of one piece, or networks.
    pub(crate) async fn put_rules(
        &self,
        hosts: Vec<(String, Vec<Rule>)>,
        ttl: Option<Duration>,
    ) -> Result<(), Failure> {
        let mut leaves = Leaves::new();
        for (host, rules) in hosts.into_iter().filter(|(host, _)| !host.is_empty()) {
            let name = crate::mapping::client_name(&host);
            if name.contains('/') || matches!(name.as_str(), "." | "..") {
                let problem = format!("the host {host:?} of rules is neither a name nor an address nor a network");
                return Err(Failure::Invalid(problem));
            }
            leaves.insert(format!("/{name}").into_bytes(), crate::rules::encode(&rules));
        }
        self.put(Table::Rule, b"/", Body::Dir(leaves), Types::new(), Manner { replace: false, ttl }).await
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
