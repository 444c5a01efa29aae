//! The member process.

pub mod config;
pub mod version;
