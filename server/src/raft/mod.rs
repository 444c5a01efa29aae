//! Consensus: the only place that knows openraft.
//!
//! [`types`] closes openraft's generics once; everything else in the member uses its aliases.

pub(crate) mod network;
pub(crate) mod state_machine;
pub mod types;
