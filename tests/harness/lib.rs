//! Starts servers and etcd tools for tests.
//!
//! Every test of a real process goes through here: ports that parallel test processes do not share
//! ([`ports`]), a server of either maker with a data directory of its own ([`server`]), gRPC clients to it
//! ([`client`]), plain requests ([`http`]), and command line tools with a deadline ([`tool`]), whose
//! sessions with either maker's server are compared ([`transcript`]). Whole clusters ([`cluster`]) have networks that can
//! be cut ([`network`]) and disks that can be slow ([`slow_disk`]); clients of them ([`load`]) record what they see
//! ([`history`]), and the [`checker`] judges it. A [`site`] has everybody's certificates, made by an [`authority`].
//!
//! `CLEAT_BIN` names the server under test (default: `cleat` beside the test binaries), `ETCD_BIN` and
//! `ETCDCTL_BIN` name etcd's programs (default: from `PATH`). Setting `CLEAT_BIN` to an etcd runs every test
//! against etcd itself, which shows that the test asks for nothing that etcd does not do.

pub mod authority;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod flood;
pub mod history;
pub mod http;
pub mod load;
pub mod network;
pub mod ports;
pub mod secure;
pub mod seeds;
pub mod server;
pub mod site;
pub mod slow_disk;
pub mod tls;
pub mod tool;
pub mod transcript;

pub use authority::Authority;
pub use client::{Client, with_token};
pub use cluster::{Cluster, Place, Subject};
pub use secure::Secure;
pub use server::{Kind, Options, Server, json_lines};
pub use site::Site;
pub use tls::ClientTls;
pub use tool::{Output, etcdctl};
