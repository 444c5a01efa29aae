//! The program as its users run it: files, environment, flags, signals and exit codes.

mod exec;
mod faults;
mod flow;
mod operations;
mod site;
