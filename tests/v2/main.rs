//! Tests of the v2 API: what etcd 3.4 was recorded to answer, what it answers now, what its etcdctl prints, and how confd
//! reads.

mod confd;
mod guarded;
mod observed;
mod recorded;
mod same;

use anyhow::Result;
use harness::{Kind, Options, Server};

/// A server that serves the v2 API: etcd needs to be told.
async fn server(kind: Kind) -> Result<Server> {
    Server::start_with(kind, Options { flags: vec!["--enable-v2=true".to_owned()], ..Options::default() }).await
}

harness::same_transcripts! {
    etcdctl_prints_the_same_for_keys: "keys";
    etcdctl_prints_the_same_for_watches: "watch";
    etcdctl_prints_the_same_for_users_and_roles: "auth";
    etcdctl_prints_the_same_for_members: "cluster";
}
