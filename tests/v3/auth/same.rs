//! The same requests of the same people to etcd 3.4 and to Cleat: same codes, same texts, same answers.

use super::{FREE_LEASE, LEASE_OF_Z, Secured, Who, grant};
use anyhow::{Result, ensure};
use api::authpb::permission::Type;
use api::authpb::{Permission, UserAddOptions};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest,
    AuthUserListRequest, AuthUserRevokeRoleRequest, AuthenticateRequest, Compare, DeleteRangeRequest,
    LeaseRevokeRequest, MemberRemoveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use harness::Kind;
use prost::Message;

/// A request: name, path and bytes.
struct Step(&'static str, String, Vec<u8>);

fn step(path: &'static str, request: &impl Message) -> Step {
    let name = path.rsplit('/').next().unwrap_or_default();
    Step(name, format!("/etcdserverpb.{path}"), request.encode_to_vec())
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..RangeRequest::default() }
}

fn put(key: &str, lease: i64, prev_kv: bool) -> PutRequest {
    PutRequest { prev_kv, ..super::put(key, "1", lease) }
}

fn delete(key: &str, end: &str, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), prev_kv }
}

fn txn(compare: &[(&str, &str)], success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    let op = |request| RequestOp { request: Some(request) };
    let compare = compare.iter().map(|(key, end)| Compare {
        key: key.to_string().into(),
        range_end: end.to_string().into(),
        ..Compare::default()
    });
    TxnRequest {
        compare: compare.collect(),
        success: success.into_iter().map(op).collect(),
        failure: failure.into_iter().map(op).collect(),
    }
}

/// Requests for keys.
fn keys() -> Vec<Step> {
    let ranges =
        [("a", ""), ("z", ""), ("a", "c"), ("a", "d"), ("b", "bb"), ("a", "\0"), ("r", ""), ("r", "s"), ("w", "")];
    let odd = [("", ""), ("\0", "\0"), ("c", "a"), ("b", "a"), ("z", "a"), ("", "\0")];
    let mut steps: Vec<Step> = ranges.iter().chain(&odd).map(|(key, end)| step("KV/Range", &range(key, end))).collect();
    for key in ["a", "z"] {
        steps.push(step("KV/Range", &RangeRequest { serializable: true, ..range(key, "") }));
        steps.push(step("KV/Range", &RangeRequest { count_only: true, ..range(key, "") }));
        steps.push(step("KV/Range", &RangeRequest { keys_only: true, revision: 1000, ..range(key, "") }));
    }
    for key in ["", "a", "r", "w", "z"] {
        steps.extend([false, true].map(|prev_kv| step("KV/Put", &put(key, 0, prev_kv))));
    }
    steps.extend([LEASE_OF_Z, FREE_LEASE, 999].map(|lease| step("KV/Put", &put("b", lease, false))));
    for (key, end) in [("", ""), ("b", ""), ("b", "c"), ("b", "d"), ("b", "\0"), ("r", ""), ("w", ""), ("z", "")] {
        steps.extend([false, true].map(|prev_kv| step("KV/DeleteRange", &delete(key, end, prev_kv))));
    }
    let r = |key, end| Request::RequestRange(range(key, end));
    let p = |key, prev_kv| Request::RequestPut(put(key, 0, prev_kv));
    let d = |key, end, prev_kv| Request::RequestDeleteRange(delete(key, end, prev_kv));
    steps.extend(
        [
            txn(&[("a", "")], vec![r("a", "")], vec![]),
            txn(&[("a", "")], vec![r("a", "")], vec![r("z", "")]),
            txn(&[("z", "")], vec![r("a", "")], vec![]),
            txn(&[("a", "\0")], vec![r("a", "")], vec![]),
            txn(&[("a", "c")], vec![r("a", "c")], vec![r("r", "")]),
            txn(&[], vec![p("a", false), p("w", false)], vec![]),
            txn(&[], vec![p("a", false)], vec![p("z", false)]),
            txn(&[], vec![d("a", "", true)], vec![]),
            txn(&[], vec![d("w", "", true)], vec![]),
            txn(&[], vec![], vec![d("a", "\0", false)]),
            txn(&[], vec![r("", "")], vec![]),
        ]
        .iter()
        .map(|request| step("KV/Txn", request)),
    );
    steps
}

fn user(name: &str, password: &str, no_password: bool) -> AuthUserAddRequest {
    AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        options: Some(UserAddOptions { no_password }),
        ..AuthUserAddRequest::default()
    }
}

/// Requests about users and roles that change nothing, whoever may make them.
fn looks() -> Vec<Step> {
    let mut steps =
        vec![step("Auth/UserList", &AuthUserListRequest {}), step("Auth/RoleList", &AuthRoleListRequest {})];
    for name in ["ann", "root", "none"] {
        steps.push(step("Auth/UserGet", &AuthUserGetRequest { name: name.to_owned() }));
    }
    for role in ["r", "s", "root", "none"] {
        steps.push(step("Auth/RoleGet", &AuthRoleGetRequest { role: role.to_owned() }));
    }
    steps.push(step("Auth/AuthEnable", &AuthEnableRequest {}));
    let login = |name: &str, password: &str| {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        step("Auth/Authenticate", &request)
    };
    // Only those that are refused: tokens differ.
    steps.extend([login("ann", "x"), login("none", "x"), login("bob", "x"), login("bob", ""), login("", "")]);
    steps
}

/// Requests that change users and roles. Long because it is a list, in which the order counts.
fn changes() -> Vec<Step> {
    let name = |name: &str| name.to_owned();
    let role = |role: &str| step("Auth/RoleAdd", &AuthRoleAddRequest { name: role.to_owned() });
    let password = |user: &str, password: &str| {
        let request = AuthUserChangePasswordRequest {
            name: user.to_owned(),
            password: password.to_owned(),
            ..AuthUserChangePasswordRequest::default()
        };
        step("Auth/UserChangePassword", &request)
    };
    let grant_role = |user: &str, role: &str| {
        step("Auth/UserGrantRole", &AuthUserGrantRoleRequest { user: name(user), role: name(role) })
    };
    let revoke_role = |user: &str, role: &str| {
        step("Auth/UserRevokeRole", &AuthUserRevokeRoleRequest { name: name(user), role: name(role) })
    };
    let allow = |request: &AuthRoleGrantPermissionRequest| step("Auth/RoleGrantPermission", request);
    let forbid = |role: &str, key: &str, end: &str| {
        let (key, range_end) = (name(key).into(), name(end).into());
        step("Auth/RoleRevokePermission", &AuthRoleRevokePermissionRequest { role: name(role), key, range_end })
    };
    let delete_user = |user: &str| step("Auth/UserDelete", &AuthUserDeleteRequest { name: name(user) });
    let delete_role = |role: &str| step("Auth/RoleDelete", &AuthRoleDeleteRequest { role: name(role) });
    vec![
        step("Auth/UserAdd", &user("", "x", false)),
        step("Auth/UserAdd", &user("eve", "x", false)),
        step("Auth/UserAdd", &user("eve", "x", false)),
        step("Auth/UserAdd", &user("empty", "", false)),
        step("Auth/UserAdd", &user("mute", "", true)),
        role(""),
        role("t"),
        role("t"),
        password("none", "x"),
        password("eve", "y"),
        password("bob", "y"),
        grant_role("none", "t"),
        grant_role("eve", "none"),
        grant_role("eve", "t"),
        grant_role("eve", "t"),
        grant_role("eve", ""),
        revoke_role("none", "t"),
        revoke_role("eve", "r"),
        revoke_role("root", "root"),
        allow(&grant("none", Type::Read, "k", "")),
        allow(&grant("t", Type::Read, "k", "")),
        allow(&grant("t", Type::Readwrite, "k", "")),
        allow(&grant("t", Type::Write, "k", "\0")),
        allow(&AuthRoleGrantPermissionRequest {
            name: name("t"),
            perm: Some(Permission { perm_type: 0, key: "b".into(), range_end: "c".into() }),
        }),
        step("Auth/RoleGet", &AuthRoleGetRequest { role: name("t") }),
        forbid("none", "k", ""),
        forbid("t", "x", ""),
        forbid("t", "k", "\0"),
        step("Auth/RoleGet", &AuthRoleGetRequest { role: name("t") }),
        step("Auth/UserGet", &AuthUserGetRequest { name: name("eve") }),
        revoke_role("eve", "t"),
        grant_role("eve", "t"),
        delete_role("none"),
        delete_role("root"),
        delete_role("t"),
        step("Auth/UserGet", &AuthUserGetRequest { name: name("eve") }),
        delete_user("none"),
        delete_user("root"),
        delete_user("eve"),
        step("Auth/UserList", &AuthUserListRequest {}),
        step("Auth/RoleList", &AuthRoleListRequest {}),
        step("Lease/LeaseRevoke", &LeaseRevokeRequest { id: 999 }),
        step("Lease/LeaseRevoke", &LeaseRevokeRequest { id: LEASE_OF_Z }),
        step("Cluster/MemberRemove", &MemberRemoveRequest { id: 5 }),
        // The last: afterwards etcd 3.4 refuses tokens that nobody needs any more.
        step("Auth/AuthDisable", &AuthDisableRequest {}),
    ]
}

/// What is answered differently on purpose.
fn is_accepted(who: Who, name: &str) -> bool {
    // etcd tells somebody unknown that a lease does not exist before it asks who it is; since 3.7 it does not.
    matches!(who, Who::Nobody | Who::Forger) && name == "LeaseRevoke"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_everybody_are_answered_as_by_etcd() -> Result<()> {
    let (etcd, cleat) = tokio::try_join!(Secured::start(Kind::Etcd, &[]), Secured::start(Kind::Cleat, &[]))?;
    let mut found = Vec::new();
    let mut asked = 0;
    for who in [Who::Nobody, Who::Forger, Who::Ann, Who::Root] {
        for Step(name, path, payload) in keys().into_iter().chain(looks()).chain(changes()) {
            let ask = async |side: &Secured| {
                let answer = side.client.raw_as(side.token(who), &path, payload.clone().into()).await;
                answer.map(|bytes| super::without_header(&bytes)).map_err(|s| (s.code(), s.message().to_owned()))
            };
            let (theirs, ours) = tokio::join!(ask(&etcd), ask(&cleat));
            asked += 1;
            if theirs != ours && !is_accepted(who, name) {
                found.push(format!("{who:?} {name} {payload:?}\n  etcd:  {theirs:?}\n  cleat: {ours:?}"));
            }
        }
    }
    ensure!(found.is_empty(), "{} of {asked} answers differ:\n{}", found.len(), found.join("\n"));
    ensure!(asked > 400, "only {asked} requests");
    Ok(())
}
