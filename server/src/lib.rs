//! The member process.

pub mod config;
pub mod health;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod version;
