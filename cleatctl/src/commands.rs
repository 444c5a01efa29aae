//! All commands. The names of a group stand in order.

use crate::cli::Command;
use crate::{globals, migrate, snapshot, v3};

/// The program itself.
pub(crate) static ROOT: Command = Command {
    short: "A simple command line client for etcd3.",
    persistent: globals::ALL,
    commands: &[&v3::kv::DEL, &v3::kv::GET, &migrate::COMMAND, &v3::kv::PUT, &snapshot::COMMAND, &v3::version::COMMAND],
    ..Command::NONE
};
