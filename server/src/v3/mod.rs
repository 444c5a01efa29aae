//! etcd's v3 services over [`crate::node::Node`]: shape, propose or read, header.

pub(crate) mod auth;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod concurrency;
pub(crate) mod election;
pub(crate) mod json;
pub(crate) mod kv;
pub(crate) mod large_range;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod maintenance;
mod renewals;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod watch;
