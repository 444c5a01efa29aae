//! confd: keeps configuration files up to date with a store.
//!
//! A [`resource`] says which keys a template sees and where the result goes. `source` gets the keys from either API of
//! etcd, from a metadata proxy, from Kubernetes, from the environment or from files, [`template`] renders with the
//! [`functions`] of confd, `stage` puts the result in its place, and `runner` does so once, in intervals or on changes;
//! `exec` keeps a program running that uses the files, and `web` says how it goes. [`settings`] are flags, environment
//! and `confd.toml`.
//!
//! The program is a thin layer above; the template engine knows nothing of the rest.

pub mod check;
mod children;
mod command;
mod diff;
mod exec;
mod format;
pub mod functions;
#[cfg(any(test, fuzzing))]
pub mod fuzz_target;
pub mod keys;
mod process;
pub mod program;
pub mod resource;
pub mod runner;
pub mod settings;
mod source;
mod stage;
mod status;
mod table;
pub mod template;
mod wait;
mod web;
