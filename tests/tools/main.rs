//! The tools as real processes, and the client library that they share, against Cleat and etcd.

mod bolt;
mod client;
mod confd;
mod cutter;
mod discovery;
mod metad;
mod migrate;
mod migrate_v2;
mod people;
mod restore;
mod save;
mod user;
