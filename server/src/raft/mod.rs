//! Consensus: the only place that knows openraft.
//!
//! [`types`] closes openraft's generics once; everything else in the member uses its aliases.

pub mod types;
