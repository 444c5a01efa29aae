//! `cleat-discovery` with members of a real etcd, and its answers beside those of etcd's v2 API.

mod bootstrap;
mod life;
mod protocol;
mod service;

use std::time::Duration;

/// For what a busy machine may need; nothing waits that long when all is well.
const DEADLINE: Duration = Duration::from_mins(1);
