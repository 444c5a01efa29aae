//! The member process.

pub mod raft;
