//! The member process.

mod assembly;
mod audit;
mod auth;
mod background;
mod blocking;
mod bootstrap;
mod cluster;
mod compactor;
pub mod config;
mod corruption;
pub mod data_dir;
#[cfg(any(test, fuzzing))]
pub mod fuzz_target;
pub mod health;
pub mod http;
mod lessor;
pub mod listen;
mod log_level;
pub mod logging;
pub mod metrics;
mod newcomer;
mod node;
pub mod offline;
mod open;
mod otlp;
mod outlet;
mod peer;
mod probes;
pub mod program;
mod quota;
pub mod raft;
mod rate_limit;
pub mod server;
#[cfg(test)]
mod simulation;
mod steady_clock;
mod steps;
mod storage;
mod sync;
pub mod tls;
mod v2;
mod v3;
pub mod version;
mod wall_clock;
mod watch;
