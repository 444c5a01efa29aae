//! The member process.

mod bootstrap;
mod compactor;
pub mod config;
mod data_dir;
pub mod health;
pub mod http;
pub mod listen;
pub mod metrics;
mod node;
mod quota;
pub mod raft;
pub mod server;
mod storage;
mod v3;
pub mod version;
