//! Consensus: the only place that knows openraft.
//!
//! ```text
//!             ┌───────────── openraft ─────────────┐
//!             ▼                                    ▼
//!        [`log_store`]                     `state_machine`
//!   entries in memory, bounded            drives the store
//!             │
//!             ▼
//!          [`wal`]
//!   one stream of records, one writer
//! ```
//!
//! [`types`] closes openraft's generics once; everything else in the member uses its aliases.

pub(crate) mod alone;
pub(crate) mod catch_up;
#[cfg(test)]
pub(crate) mod double;
pub mod log_store;
pub(crate) mod network;
pub(crate) mod snapshot;
pub(crate) mod state_machine;
pub mod types;
pub mod wal;
pub(crate) mod wire;
