//! The member process.

mod bootstrap;
pub mod config;
mod lessor;
mod node;
mod quota;
pub mod raft;
mod storage;
mod v3;
pub mod version;
mod watch;
