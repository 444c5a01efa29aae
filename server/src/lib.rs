//! The member process.

pub mod config;
pub mod data_dir;
pub mod health;
pub mod http;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod version;
