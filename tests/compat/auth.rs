//! Random users, roles, grants, and requests of everybody, to etcd and to Cleat: every answer is the same, byte for byte
//! but for its header.
//!
//! What etcd 3.4 leaves open is not asked, or accepted where it changes nothing (see [`is_accepted`]). `CLEAT_SEED` replays
//! a sequence, `CLEAT_FIRST_SEED` runs the same ones each time.

use anyhow::{Result, ensure};
use api::authpb::{Permission, UserAddOptions};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest,
    AuthUserListRequest, AuthUserRevokeRoleRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use bytes::Bytes;
use harness::seeds::seeds;
use harness::{Client, Kind, Options, Server};
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tonic::Code;

const SEQUENCES: usize = 3;
const REQUESTS: usize = 700;

pub(crate) const USERS: [&str; 4] = ["root", "ann", "bob", "eve"];
pub(crate) const ROLES: [&str; 4] = ["root", "one", "two", "three"];
pub(crate) const KEYS: [&str; 7] = ["\0", "a", "a\0", "ab", "b", "c", "d"];
pub(crate) const ENDS: [&str; 9] = ["", "", "", "\0", "a\0", "b", "c", "d", "e"];

/// A request of somebody.
#[derive(Debug)]
struct Step {
    /// Of [`USERS`]; none is nobody.
    user: Option<&'static str>,
    path: &'static str,
    payload: Bytes,
    /// For a reader.
    what: String,
    /// It has transactions inside transactions.
    is_nested: bool,
}

struct Generator {
    rng: StdRng,
    /// The end that the permissions of a role and a key have. etcd does not find a second one of a key again.
    granted: BTreeMap<(&'static str, &'static str), &'static str>,
}

impl Generator {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("alphabets are not empty")
    }

    fn step(&mut self) -> Step {
        let user = if self.rng.random_bool(0.05) { None } else { Some(self.pick(&USERS)) };
        if self.rng.random_bool(0.25) { self.change(user) } else { self.ask(user) }
    }

    fn change(&mut self, user: Option<&'static str>) -> Step {
        let (name, role) = (self.pick(&USERS).to_owned(), self.pick(&ROLES).to_owned());
        // Mostly root, or little would ever change.
        let user = if self.rng.random_bool(0.8) { Some("root") } else { user };
        match self.rng.random_range(0..20) {
            0 | 1 => {
                let options = Some(UserAddOptions { no_password: self.rng.random_bool(0.1) });
                let password = password(&name);
                let request = AuthUserAddRequest { name, password, options, ..AuthUserAddRequest::default() };
                step(user, "/etcdserverpb.Auth/UserAdd", &request)
            }
            2 => step(user, "/etcdserverpb.Auth/UserDelete", &AuthUserDeleteRequest { name }),
            3 => {
                let password = password(&name);
                let request = AuthUserChangePasswordRequest { name, password, ..Default::default() };
                step(user, "/etcdserverpb.Auth/UserChangePassword", &request)
            }
            4..8 => step(user, "/etcdserverpb.Auth/UserGrantRole", &AuthUserGrantRoleRequest { user: name, role }),
            8 => step(user, "/etcdserverpb.Auth/UserRevokeRole", &AuthUserRevokeRoleRequest { name, role }),
            9 | 10 => step(user, "/etcdserverpb.Auth/RoleAdd", &AuthRoleAddRequest { name: role }),
            11 => step(user, "/etcdserverpb.Auth/RoleDelete", &AuthRoleDeleteRequest { role }),
            12 => {
                let (key, end) = (self.pick(&KEYS), self.pick(&ENDS));
                let (key, range_end) = (key.into(), end.into());
                let request = AuthRoleRevokePermissionRequest { role, key, range_end };
                step(user, "/etcdserverpb.Auth/RoleRevokePermission", &request)
            }
            13 if self.rng.random_bool(0.2) => step(user, "/etcdserverpb.Auth/AuthDisable", &AuthDisableRequest {}),
            13 | 14 => step(user, "/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {}),
            _ => self.grant(user),
        }
    }

    fn grant(&mut self, user: Option<&'static str>) -> Step {
        let (role, key, end) = (self.pick(&ROLES), self.pick(&KEYS), self.pick(&ENDS));
        // An empty range is refused since 3.5.
        let end = if end > key || end == "\0" { end } else { "" };
        let end = *self.granted.entry((role, key)).or_insert(end);
        let perm_type = self.rng.random_range(0..3);
        let perm = Some(Permission { perm_type, key: key.into(), range_end: end.into() });
        let request = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
        step(user, "/etcdserverpb.Auth/RoleGrantPermission", &request)
    }

    fn ask(&mut self, user: Option<&'static str>) -> Step {
        match self.rng.random_range(0..20) {
            0 => step(user, "/etcdserverpb.Auth/UserGet", &AuthUserGetRequest { name: self.pick(&USERS).to_owned() }),
            1 => step(user, "/etcdserverpb.Auth/RoleGet", &AuthRoleGetRequest { role: self.pick(&ROLES).to_owned() }),
            2 => step(user, "/etcdserverpb.Auth/UserList", &AuthUserListRequest {}),
            3 => step(user, "/etcdserverpb.Auth/RoleList", &AuthRoleListRequest {}),
            4..9 => step(user, "/etcdserverpb.KV/Range", &self.range()),
            9..13 => step(user, "/etcdserverpb.KV/Put", &self.put()),
            13..15 => step(user, "/etcdserverpb.KV/DeleteRange", &self.delete()),
            _ => {
                let request = self.txn();
                let ops = request.success.iter().chain(&request.failure);
                let is_nested = ops.into_iter().any(|op| matches!(op.request, Some(Request::RequestTxn(_))));
                Step { is_nested, ..step(user, "/etcdserverpb.KV/Txn", &request) }
            }
        }
    }

    /// A range. One the wrong way round has no keys, and what etcd answers then depends on how its tree of grants grew.
    fn keys(&mut self) -> (Bytes, Bytes) {
        let (key, end) = (self.pick(&KEYS), self.pick(&ENDS));
        (key.into(), if end > key || end == "\0" { end.into() } else { Bytes::new() })
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.keys();
        let (serializable, count_only) = (self.rng.random_bool(0.2), self.rng.random_bool(0.1));
        RangeRequest { key, range_end, serializable, count_only, ..RangeRequest::default() }
    }

    fn put(&mut self) -> PutRequest {
        let (key, prev_kv) = (self.pick(&KEYS).into(), self.rng.random_bool(0.3));
        PutRequest { key, value: self.rng.random_range(0..9).to_string().into(), prev_kv, ..PutRequest::default() }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = self.keys();
        DeleteRangeRequest { key, range_end, prev_kv: self.rng.random_bool(0.3) }
    }

    fn txn(&mut self) -> TxnRequest {
        let compare = (0..self.rng.random_range(0..3)).map(|_| {
            let (key, range_end) = self.keys();
            Compare { key, range_end, ..Compare::default() }
        });
        let compare = compare.collect();
        // At least one operation: one without any is refused to nobody, see `docs/compatibility.md`.
        let (then, otherwise) = (self.rng.random_range(1..4), self.rng.random_range(0..3));
        let success = (0..then).map(|_| self.op()).collect();
        TxnRequest { compare, success, failure: (0..otherwise).map(|_| self.op()).collect() }
    }

    fn op(&mut self) -> RequestOp {
        let request = match self.rng.random_range(0..10) {
            // etcd 3.4 does not look whether the previous value may be read.
            0..3 => Request::RequestPut(PutRequest { prev_kv: false, ..self.put() }),
            3..5 => Request::RequestDeleteRange(DeleteRangeRequest { range_end: Bytes::new(), ..self.delete() }),
            5 => {
                // Only ranges, so that it changes nothing where it is not checked.
                let success = vec![RequestOp { request: Some(Request::RequestRange(self.range())) }];
                Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() })
            }
            _ => Request::RequestRange(self.range()),
        };
        RequestOp { request: Some(request) }
    }
}

/// Everybody and every role is there, and authentication is enabled.
fn beginning() -> Vec<Step> {
    let add = |name: &str| {
        let (name, password) = (name.to_owned(), password(name));
        let request = AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() };
        step(None, "/etcdserverpb.Auth/UserAdd", &request)
    };
    let role = |name: &str| step(None, "/etcdserverpb.Auth/RoleAdd", &AuthRoleAddRequest { name: name.to_owned() });
    let grant = |(user, role): (&str, &str)| {
        let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        step(None, "/etcdserverpb.Auth/UserGrantRole", &request)
    };
    let granted = [("root", "root"), ("ann", "one"), ("bob", "one"), ("bob", "two")].map(grant);
    let enable = step(None, "/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {});
    USERS.map(add).into_iter().chain(ROLES.map(role)).chain(granted).chain([enable]).collect()
}

pub(crate) fn password(name: &str) -> String {
    format!("{name}-secret")
}

fn step(user: Option<&'static str>, path: &'static str, request: &(impl Message + std::fmt::Debug)) -> Step {
    Step { user, path, payload: request.encode_to_vec().into(), what: format!("{request:?}"), is_nested: false }
}

type Answer = Result<Vec<u8>, (Code, String)>;

/// One of the two servers, and the tokens of its users.
struct Side {
    _server: Server,
    client: Client,
    tokens: HashMap<&'static str, String>,
}

impl Side {
    async fn start(kind: Kind) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = memory.is_dir().then(|| memory.to_owned());
        let flags = vec!["--bcrypt-cost=4".to_owned()];
        let server = Server::start_with(kind, Options { parent, flags, ..Options::default() }).await?;
        let client = server.client().await?;
        Ok(Self { _server: server, client, tokens: HashMap::new() })
    }

    /// Asks as a client library does: it logs in, and once more if its token is worth nothing.
    async fn ask(&mut self, step: &Step) -> Answer {
        for attempt in 0..2 {
            if let Some(user) = step.user
                && !self.tokens.contains_key(user)
                && let Ok(token) = self.client.login(user, &password(user)).await
            {
                self.tokens.insert(user, token);
            }
            let token = step.user.and_then(|user| self.tokens.get(user)).map(String::as_str);
            match self.client.raw_as(token, step.path, step.payload.clone()).await {
                Err(status) if attempt == 0 && status.code() == Code::Unauthenticated => {
                    self.tokens.remove(step.user.unwrap_or_default());
                }
                Err(status) => return Err((status.code(), status.message().to_owned())),
                Ok(answer) => return Ok(without_header(&answer)),
            }
        }
        Err((Code::Unauthenticated, "its login is worth nothing".to_owned()))
    }
}

/// Answers without their first field, in which ids differ.
fn without_header(bytes: &[u8]) -> Vec<u8> {
    let Some((0x0a, rest)) = bytes.split_first() else { return bytes.to_vec() };
    let length = prost::decode_length_delimiter(rest).unwrap_or_default();
    rest.get(prost::length_delimiter_len(length) + length..).unwrap_or_default().to_vec()
}

/// etcd 3.4 does not look into transactions inside transactions, whoever asks: here the ones who may not are refused, and
/// so are those who do not say who they are.
fn is_accepted(step: &Step, etcd: &Answer, cleat: &Answer) -> bool {
    let is_denied = cleat.as_ref().is_err_and(|(code, message)| match code {
        Code::PermissionDenied => true,
        Code::InvalidArgument => message == "etcdserver: user name is empty",
        _ => false,
    });
    step.is_nested && etcd.is_ok() && is_denied
}

/// True if a transaction may have written although it is refused here.
fn diverges(step: &Step) -> bool {
    TxnRequest::decode(step.payload.clone()).is_ok_and(|request| {
        let ops = request.success.iter().chain(&request.failure);
        let mut ops = ops.filter_map(|op| op.request.as_ref());
        ops.any(|op| matches!(op, Request::RequestPut(_) | Request::RequestDeleteRange(_)))
    })
}

async fn sequence(seed: u64) -> Result<(usize, usize)> {
    eprintln!("CLEAT_SEED={seed}");
    let (mut etcd, mut cleat) = tokio::try_join!(Side::start(Kind::Etcd), Side::start(Kind::Cleat))?;
    let mut generator = Generator { rng: StdRng::seed_from_u64(seed), granted: BTreeMap::new() };
    let (mut refused, mut answered) = (0, 0);
    let mut begin = beginning().into_iter();
    for number in 0..REQUESTS {
        let step = begin.next().unwrap_or_else(|| generator.step());
        if step.is_nested && diverges(&step) {
            continue;
        }
        let (theirs, ours) = tokio::join!(etcd.ask(&step), cleat.ask(&step));
        let is_same = theirs == ours || is_accepted(&step, &theirs, &ours);
        ensure!(
            is_same,
            "seed {seed}, request {number}: {:?} {} {}\n  etcd:  {theirs:?}\n  cleat: {ours:?}",
            step.user,
            step.path,
            step.what
        );
        match ours {
            Err((Code::PermissionDenied, _)) => refused += 1,
            _ => answered += 1,
        }
    }
    Ok((refused, answered))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_are_the_same() -> Result<()> {
    let seeds = seeds(SEQUENCES)?;
    let (mut refused, mut answered) = (0, 0);
    for seed in &seeds {
        let (denied, other) = sequence(*seed).await?;
        refused += denied;
        answered += other;
    }
    let is_varied = refused > 10 * seeds.len() && answered > 100 * seeds.len();
    ensure!(is_varied, "{refused} requests were refused, {answered} answered");
    Ok(())
}
