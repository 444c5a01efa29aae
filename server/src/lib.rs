//! The member process.

mod bootstrap;
mod compactor;
pub mod config;
pub mod data_dir;
pub mod health;
pub mod http;
mod lessor;
pub mod listen;
pub mod logging;
pub mod metrics;
mod node;
pub mod notify;
mod quota;
pub mod raft;
pub mod server;
mod storage;
mod v3;
pub mod version;
mod watch;
