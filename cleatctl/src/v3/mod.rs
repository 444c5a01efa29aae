//! etcdctl's commands for the v3 API, a module for each group of them.

pub(crate) mod auth;
pub(crate) mod check;
pub(crate) mod elect;
pub(crate) mod endpoint;
pub(crate) mod kv;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod maintenance;
pub(crate) mod member;
pub(crate) mod mirror;
mod renewal;
pub(crate) mod role;
mod session;
pub(crate) mod txn;
pub(crate) mod user;
pub(crate) mod version;
pub(crate) mod watch;
