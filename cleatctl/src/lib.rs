//! `cleatctl`: etcdctl's commands, flags and environment, for Cleat and etcd; and what is done to files offline.
//!
//! `cli` reads the command line, `commands` has them all, `context` is what each is given, `failure` how it ends, `print`
//! has etcdctl's output formats. `v3` are etcdctl's commands, `snapshot`, `migrate` and `migrate_v2` work on whole stores,
//! `people` are the commands that etcdctl has not. Called as `etcdctl`, this program is etcdctl.

#![warn(clippy::print_stderr, reason = "a closed standard error is no reason to panic: `tell!`")]
#![allow(
    clippy::format_push_string,
    clippy::needless_for_each,
    reason = "what is printed is put together from short texts and lists of lines"
)]

/// A line on standard error, see [`print::error_line`]. The macro of the standard library panics if it is closed.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::print::error_line(format_args!($($text)*))
    };
}

mod cli;
mod commands;
mod completion;
mod context;
mod environment;
mod failure;
mod founder;
mod globals;
mod http_get;
mod migrate;
mod migrate_v2;
mod offline;
mod password;
mod people;
mod print;
pub mod program;
mod progress;
mod scratch;
mod snapshot;
mod srv;
mod v2;
mod v3;
