//! `metad`: an application asks `/self` and learns who it is. Data, mappings and rules are mirrored from a store into
//! memory, and each client is answered by its address.
//!
//! It takes the place of yunify's metad: the same APIs, flags and keys.

#![allow(clippy::result_large_err, reason = "a step that ends a request gives the answer, which is made once")]

mod access;
mod address;
mod app;
mod backend;
mod caller;
mod hub;
mod json;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod listen;
mod look;
mod manage;
mod mapping;
mod metrics;
mod path;
mod pods;
pub mod program;
mod query;
mod rate;
mod reply;
mod rules;
pub mod serve;
mod session;
pub mod settings;
mod shown;
mod state;
mod tree;
mod values;
mod wait;
mod yaml;
