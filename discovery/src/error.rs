//! Why the first cluster was not found: etcd's words where it has them, and what to do.

use crate::srv::SrvError;
use crate::static_cluster::{ParseError, SelfError};
use std::time::Duration;

/// A cluster that could not be discovered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list of members is wrong.
    #[error("error setting up initial cluster: {0}")]
    List(#[from] ParseError),
    /// This member is not in the list as it describes itself.
    #[error("{0}")]
    Own(#[from] SelfError),
    /// The discovery service, or what is written there.
    #[error("failed to join discovery cluster ({0})")]
    Service(#[from] ServiceError),
    /// DNS.
    #[error("{0}")]
    Srv(#[from] SrvError),
}

/// What went wrong with a discovery service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The token exists and has no size.
    #[error("discovery: size key not found; write the number of members to {key}")]
    SizeNotFound {
        /// Where it must be.
        key: String,
    },
    /// The size is not a number of members.
    #[error("discovery: size key is bad; {key} must be a number from 1 to {max}, it is {value:?}")]
    BadSize {
        /// Where it is.
        key: String,
        /// What is there.
        value: String,
        /// Most members of a cluster.
        max: usize,
    },
    /// The service does not know the token.
    #[error("discovery: token not found; {place} does not exist, make a new token and give it to every member")]
    TokenNotFound {
        /// The token's URL.
        place: String,
    },
    /// All places are taken by others.
    #[error(
        "discovery: cluster is full; its {size} members are {}: use a new token for a new cluster, or join that one \
         with member add and --initial-cluster-state=existing",
        members.join(", ")
    )]
    Full {
        /// How many there are.
        size: usize,
        /// What they registered.
        members: Vec<String>,
    },
    /// Another member registered this member's id.
    #[error(
        "discovery: found duplicate id; member {id} is registered as {registered}, this one is {own}: give each \
         member its own peer URLs, or use a new token if this member changed its name"
    )]
    DuplicateId {
        /// The id in hexadecimal.
        id: String,
        /// What is registered.
        registered: String,
        /// What this member would register.
        own: String,
    },
    /// Two members have one name.
    #[error(
        "discovery: found duplicate name; several members registered as {name:?}: give each its own --name, and \
         use a new token, because registrations stay"
    )]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A member registered something else than `name=url`.
    #[error("discovery: invalid peer URL; member {id} registered {value:?}: {reason}; use a new token")]
    InvalidPeerUrl {
        /// Its id as registered.
        id: String,
        /// What it registered.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two members have one URL.
    #[error("discovery cluster {cluster} has duplicate url; {source}")]
    DuplicateUrl {
        /// All registrations.
        cluster: String,
        /// Which.
        source: ParseError,
    },
    /// What answers is no discovery service, or the settings for it are wrong.
    #[error("discovery: bad discovery endpoint; {place}: {reason}")]
    BadEndpoint {
        /// The URL or the endpoints, without a password.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The service could not be reached, or did not work, each time.
    #[error("discovery: too many retries; {place} failed {tries} times, at last with: {reason}")]
    TooManyRetries {
        /// The URL or the endpoints, without a password.
        place: String,
        /// How often.
        tries: u32,
        /// The last failure.
        reason: String,
    },
    /// The other members did not come in time.
    #[error(
        "discovery: {} of {size} members registered within {patience:?}: {}; start the others, this member's \
         registration stays",
        members.len(), members.join(", ")
    )]
    Incomplete {
        /// How many there must be.
        size: usize,
        /// What those who came registered.
        members: Vec<String>,
        /// How long was waited.
        patience: Duration,
    },
}
