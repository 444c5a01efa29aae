//! The tools as real processes, and the client library that they share, against Cleat and etcd.

mod bolt;
mod client;
mod completion;
mod confd;
mod cutter;
mod discovery;
mod endings;
mod members;
mod metad;
mod migrate;
mod migrate_v2;
mod offline;
mod people;
mod refusals;
mod requests;
mod restore;
mod save;
mod user;
