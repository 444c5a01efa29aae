//! The program as its users run it: files, environment, flags, signals and exit codes.

mod exec;
mod faults;
mod flow;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod operations;
mod site;
