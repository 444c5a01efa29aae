//! All commands, in the order of their names: the first page lists them like this.

use crate::cli::Command;
use crate::{completion, globals, migrate, offline, people, snapshot, v3};

/// The program itself.
pub(crate) static ROOT: Command = Command {
    short: "A simple command line client for etcd3.",
    persistent: globals::ALL,
    commands: &[
        &v3::maintenance::ALARM,
        &v3::auth::COMMAND,
        &v3::check::COMMAND,
        &v3::maintenance::COMPACTION,
        &completion::COMMAND,
        &v3::maintenance::DEFRAG,
        &v3::kv::DEL,
        &people::DIFF,
        &people::DOCTOR,
        &v3::maintenance::DOWNGRADE,
        &people::EDIT,
        &v3::elect::COMMAND,
        &v3::endpoint::COMMAND,
        &people::EXPORT,
        &v3::kv::GET,
        &offline::HASHKV,
        &completion::HELP_COMMAND,
        &people::HISTORY,
        &people::IMPORT,
        &v3::lease::COMMAND,
        &v3::lock::COMMAND,
        &v3::mirror::COMMAND,
        &v3::member::COMMAND,
        &migrate::COMMAND,
        &migrate::ETCDCTLS,
        &v3::maintenance::MOVE_LEADER,
        &v3::kv::PUT,
        &people::REVERT,
        &v3::role::COMMAND,
        &snapshot::COMMAND,
        &people::STATUS,
        &people::TREE,
        &v3::txn::COMMAND,
        &v3::user::COMMAND,
        &v3::version::COMMAND,
        &offline::WAL,
        &v3::watch::COMMAND,
    ],
    ..Command::NONE
};
