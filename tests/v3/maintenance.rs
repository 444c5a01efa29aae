//! What etcd has added to the Maintenance service since 3.4.

use anyhow::{Result, ensure};
use api::etcdserverpb::downgrade_request::DowngradeAction::{Cancel, Enable, Validate};
use api::etcdserverpb::{DowngradeInfo, DowngradeRequest, StatusRequest};
use harness::{Kind, Server};
use tonic::Code;

/// No older release reads what this one writes, so nothing can be downgraded to, and nothing be under way.
#[tokio::test]
async fn downgrades_are_refused_as_etcd_refuses_them() -> Result<()> {
    const FORMAT: (Code, &str) = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    const TARGET: (Code, &str) = (Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    const NOTHING: (Code, &str) = (Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for (action, version, expected) in [
        (Validate as i32, "3.4.0", TARGET),
        (Validate as i32, "3.5", TARGET),
        (Validate as i32, "", FORMAT),
        (Enable as i32, "3.4", TARGET),
        (Enable as i32, "older", FORMAT),
        (Cancel as i32, "", NOTHING),
        (7, "3.4.0", (Code::Unknown, "etcdserver: unknown method")),
    ] {
        let request = DowngradeRequest { action, version: version.to_owned() };
        let answer = client.maintenance.downgrade(request).await;
        let Err(status) = answer else { anyhow::bail!("{action} {version:?} is done: {answer:?}") };
        ensure!((status.code(), status.message()) == expected, "{action} {version:?}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn the_status_has_every_field() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let status = server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
    let header = status.header.unwrap_or_default();
    ensure!(header.cluster_id != 0 && header.member_id != 0 && header.revision == 1 && header.raft_term > 0);
    ensure!(status.version.starts_with("3.5.") && status.storage_version == "3.5.0", "{status:?}");
    ensure!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0, "{status:?}");
    ensure!(status.leader == header.member_id && status.raft_term == header.raft_term, "{status:?}");
    ensure!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0, "{status:?}");
    ensure!(status.db_size_quota > 0 && status.downgrade_info == Some(DowngradeInfo::default()), "{status:?}");
    ensure!(!status.is_learner && status.errors.is_empty(), "{status:?}");
    Ok(())
}
