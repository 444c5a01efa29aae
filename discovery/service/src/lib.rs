//! `cleat-discovery`: the service behind a discovery URL. Members of a cluster that starts register under a token and
//! wait there until they know each other, in etcd's v2 protocol.
//!
//! `http` answers requests from `registry` (tokens in a cluster over v3) and `hub` (long polls from one watch);
//! `embedded` runs a member in this process for those who have no cluster yet. It knows nothing about the bootstrap
//! of members; that is theirs.

mod args;
mod embedded;
mod http;
mod hub;
mod listener;
mod metrics;
mod pace;
pub mod program;
mod registry;
mod v2;
