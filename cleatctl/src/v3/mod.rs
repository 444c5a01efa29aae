//! etcdctl's commands for the v3 API, a module for each group of them.

pub(crate) mod kv;
pub(crate) mod version;
