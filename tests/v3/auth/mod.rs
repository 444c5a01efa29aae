//! Users, roles and permissions of real processes: the same requests to etcd, every RPC by everybody, tokens, and what
//! etcd and its imitations left open.

mod holes;
mod login;
mod rpcs;
mod same;
mod watch;

use anyhow::{Context, Result};
use api::authpb::permission::Type;
use api::authpb::{Permission, UserAddOptions};
use api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, LeaseGrantRequest, PutRequest,
};
use harness::{Client, Kind, Options, Server};
use prost::Message;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    /// With a token that nobody gave out.
    Forger,
    /// A user with the role r.
    Ann,
    Root,
}

const FORGED: &str = "abcdefghijklmnop.3";
/// Attached to the key z, which Ann may not touch.
const LEASE_OF_Z: i64 = 100;
const FREE_LEASE: i64 = 101;

/// A server with authentication. Ann may read and write [a, c), read r and write w.
struct Secured {
    server: Server,
    client: Client,
    root: String,
    ann: String,
}

impl Secured {
    async fn start(kind: Kind, flags: &[&str]) -> Result<Self> {
        let mut flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        flags.push("--bcrypt-cost=4".to_owned());
        let server = Server::start_with(kind, Options { flags, ..Options::default() }).await?;
        let client = server.client().await?;
        found(&client).await?;
        let (root, ann) = (client.login("root", "rootpw").await?, client.login("ann", "annpw").await?);
        Ok(Self { server, client, root, ann })
    }

    fn token(&self, who: Who) -> Option<&str> {
        match who {
            Who::Nobody => None,
            Who::Forger => Some(FORGED),
            Who::Ann => Some(&self.ann),
            Who::Root => Some(&self.root),
        }
    }

    /// Code and text of a refusal, or the answer without its header.
    async fn ask(&self, who: Who, path: &str, request: &impl Message) -> Result<Vec<u8>, (tonic::Code, String)> {
        let answer = self.client.raw_as(self.token(who), path, request.encode_to_vec().into()).await;
        answer.map(|bytes| without_header(&bytes)).map_err(|status| (status.code(), status.message().to_owned()))
    }
}

/// Users, roles, keys and leases; then authentication is enabled.
async fn found(client: &Client) -> Result<()> {
    let mut client = client.clone();
    let add = |name: &str, password: &str, no_password: bool| AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        options: Some(UserAddOptions { no_password }),
        ..AuthUserAddRequest::default()
    };
    for request in [add("root", "rootpw", false), add("ann", "annpw", false), add("bob", "", true)] {
        client.auth.user_add(request).await?;
    }
    for role in ["root", "r", "s"] {
        client.auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await?;
    }
    for (kind, key, end) in [(Type::Readwrite, "a", "c"), (Type::Read, "r", ""), (Type::Write, "w", "")] {
        client.auth.role_grant_permission(grant("r", kind, key, end)).await?;
    }
    for (user, role) in [("root", "root"), ("ann", "r")] {
        let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        client.auth.user_grant_role(request).await?;
    }
    for id in [LEASE_OF_Z, FREE_LEASE] {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await?;
    }
    for (key, lease) in [("a", 0), ("r", 0), ("w", 0), ("z", LEASE_OF_Z)] {
        client.kv.put(put(key, "0", lease)).await?;
    }
    client.auth.auth_enable(AuthEnableRequest {}).await.context("enable")?;
    Ok(())
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> AuthRoleGrantPermissionRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    let perm = Some(Permission { perm_type: kind as i32, key, range_end });
    AuthRoleGrantPermissionRequest { name: role.to_owned(), perm }
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

/// An encoded answer without its first field, in which servers differ.
fn without_header(bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    match bytes.first() {
        Some(0x0a) => {
            rest = &rest[1..];
            let length = prost::decode_length_delimiter(rest).unwrap_or_default();
            rest.get(prost::length_delimiter_len(length) + length..).unwrap_or_default().to_vec()
        }
        _ => rest.to_vec(),
    }
}
