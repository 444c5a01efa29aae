//! The member process.

mod node;
mod quota;
pub mod raft;
mod storage;
mod v3;
pub mod version;
