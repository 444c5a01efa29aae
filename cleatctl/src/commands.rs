//! All commands. The names of a group stand in order.

use crate::cli::Command;
use crate::{globals, migrate, people, snapshot, v3};

/// The program itself.
pub(crate) static ROOT: Command = Command {
    short: "A simple command line client for etcd3.",
    persistent: globals::ALL,
    commands: &[
        &v3::kv::DEL,
        &people::DIFF,
        &people::DOCTOR,
        &people::EDIT,
        &people::EXPORT,
        &v3::kv::GET,
        &people::HISTORY,
        &people::IMPORT,
        &migrate::COMMAND,
        &v3::kv::PUT,
        &people::REVERT,
        &snapshot::COMMAND,
        &people::STATUS,
        &people::TREE,
        &v3::version::COMMAND,
    ],
    ..Command::NONE
};
