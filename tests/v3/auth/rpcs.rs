//! Every RPC by nobody, by a user and by root: what the table of permissions says is what happens.

use super::{LEASE_OF_Z, Secured, Who};
use anyhow::{Result, ensure};
use api::etcdserverpb::{
    AlarmRequest, AuthUserAddRequest, AuthUserGetRequest, AuthenticateRequest, CompactionRequest, DeleteRangeRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, MoveLeaderRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use harness::Kind;
use prost::Message;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Code;

/// A service that streams without an end is asked for no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// What somebody gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The service answers, be it with an error of its own.
    Served,
    UserEmpty,
    Denied,
}
use Answer::{Denied, Served, UserEmpty};

type Row = (&'static str, Vec<u8>, Answer, Answer);

/// Path, request, and what nobody and a user get. Keys and leases are those that the user may not touch.
fn rows() -> Vec<Row> {
    let key = || "z".into();
    let range = RangeRequest { key: key(), ..RangeRequest::default() }.encode_to_vec();
    let op = RequestOp { request: Some(Request::RequestPut(PutRequest { key: key(), ..PutRequest::default() })) };
    let open = |path, request| (path, request, Served, Served);
    let known = |path, request| (path, request, UserEmpty, Served);
    let keys = |path, request| (path, request, UserEmpty, Denied);
    let nothing = Vec::new;
    let alarm = |action| AlarmRequest { action, member_id: 1, alarm: 1 }.encode_to_vec();
    let mut rows = vec![
        keys("KV/Range", range.clone()),
        keys("KV/RangeStream", range),
        keys("KV/Put", PutRequest { key: key(), ..PutRequest::default() }.encode_to_vec()),
        keys("KV/DeleteRange", DeleteRangeRequest { key: key(), ..DeleteRangeRequest::default() }.encode_to_vec()),
        keys("KV/Txn", TxnRequest { success: vec![op], ..TxnRequest::default() }.encode_to_vec()),
        keys("KV/Compact", CompactionRequest { revision: 2, physical: false }.encode_to_vec()),
        known("Lease/LeaseGrant", LeaseGrantRequest { ttl: 60, id: 0 }.encode_to_vec()),
        keys("Lease/LeaseKeepAlive", LeaseKeepAliveRequest { id: LEASE_OF_Z }.encode_to_vec()),
        keys("Lease/LeaseTimeToLive", LeaseTimeToLiveRequest { id: LEASE_OF_Z, keys: true }.encode_to_vec()),
        known("Lease/LeaseTimeToLive", LeaseTimeToLiveRequest { id: LEASE_OF_Z, keys: false }.encode_to_vec()),
        keys("Lease/LeaseLeases", nothing()),
        keys("Cluster/MemberAdd", nothing()),
        keys("Cluster/MemberRemove", nothing()),
        keys("Cluster/MemberUpdate", nothing()),
        known("Cluster/MemberList", nothing()),
        keys("Cluster/MemberPromote", nothing()),
        known("Maintenance/Alarm", alarm(0)),
        keys("Maintenance/Alarm", alarm(1)),
        keys("Maintenance/Alarm", alarm(2)),
        known("Maintenance/Status", nothing()),
        keys("Maintenance/Defragment", nothing()),
        keys("Maintenance/Hash", nothing()),
        keys("Maintenance/HashKV", nothing()),
        keys("Maintenance/Snapshot", nothing()),
        keys("Maintenance/MoveLeader", MoveLeaderRequest { target_id: 5 }.encode_to_vec()),
        keys("Maintenance/Downgrade", nothing()),
        keys("Auth/AuthEnable", nothing()),
        open("Auth/AuthStatus", nothing()),
        open("Auth/Authenticate", AuthenticateRequest { name: "ann".into(), password: "annpw".into() }.encode_to_vec()),
        keys("Auth/UserAdd", AuthUserAddRequest { name: "eve".into(), ..Default::default() }.encode_to_vec()),
        keys("Auth/UserGet", AuthUserGetRequest { name: "root".into() }.encode_to_vec()),
        (("Auth/UserGet"), AuthUserGetRequest { name: "ann".into() }.encode_to_vec(), UserEmpty, Served),
    ];
    let of_root = [
        "UserList",
        "UserDelete",
        "UserChangePassword",
        "UserGrantRole",
        "UserRevokeRole",
        "RoleAdd",
        "RoleGet",
        "RoleList",
        "RoleDelete",
        "RoleGrantPermission",
        "RoleRevokePermission",
        // At the end: afterwards everybody is served.
        "AuthDisable",
    ];
    rows.extend(of_root.map(|name| (&*format!("Auth/{name}").leak(), nothing(), UserEmpty, Denied)));
    rows.insert(5, keys("Lease/LeaseRevoke", LeaseRevokeRequest { id: LEASE_OF_Z }.encode_to_vec()));
    rows
}

async fn ask(secured: &Secured, who: Who, path: &str, request: &[u8]) -> Answer {
    let path = format!("/etcdserverpb.{path}");
    let call = secured.client.raw_as(secured.token(who), &path, request.to_vec().into());
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Err(status)) if status.code() == Code::PermissionDenied => Denied,
        Ok(Err(status)) if status.message() == "etcdserver: user name is empty" => UserEmpty,
        _ => Served,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_is_for_whom_it_is_meant() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let mut wrong = Vec::new();
    // Root last: what it does takes away what the others are refused.
    for who in [Who::Nobody, Who::Ann, Who::Root] {
        for (path, request, nobody, user) in rows() {
            let expected = match who {
                Who::Nobody => nobody,
                Who::Ann => user,
                Who::Forger | Who::Root => Served,
            };
            let found = ask(&secured, who, path, &request).await;
            if found != expected {
                wrong.push(format!("{path} {request:?}: {who:?} gets {found:?} instead of {expected:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A new RPC needs a row here, too. Watch has tests of its own.
#[test]
fn every_rpc_has_its_row() {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/proto/rpc.proto");
    let proto = std::fs::read_to_string(proto).unwrap();
    let (mut service, mut all) = (String::new(), BTreeSet::new());
    for line in proto.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("service ") {
            name.trim_end_matches([' ', '{']).clone_into(&mut service);
        } else if let Some((name, _)) = line.strip_prefix("rpc ").and_then(|rpc| rpc.split_once('(')) {
            all.insert(format!("{service}/{name}"));
        }
    }
    let mut rows: BTreeSet<String> = rows().into_iter().map(|(path, ..)| path.to_owned()).collect();
    rows.insert("Watch/Watch".to_owned());
    assert_eq!(all, rows);
}
