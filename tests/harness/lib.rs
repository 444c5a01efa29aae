//! Starts servers and etcd tools for tests.
//!
//! Every test of a real process goes through here: ports that parallel test processes do not share
//! ([`ports`]), a server of either maker with a data directory of its own ([`server`]), gRPC clients to it
//! ([`client`]), and command line tools with a deadline ([`tool`]).
//!
//! `CLEAT_BIN` names the server under test (default: `cleat` beside the test binaries), `ETCD_BIN` and
//! `ETCDCTL_BIN` name etcd's programs (default: from `PATH`). Setting `CLEAT_BIN` to an etcd runs every test
//! against etcd itself, which shows that the test asks for nothing that etcd does not do.

pub mod client;
pub mod ports;
pub mod server;
pub mod tool;

pub use client::Client;
pub use server::{Kind, Options, Server};
pub use tool::{Output, etcdctl};
