//! Users and roles of a cluster: a token of one member at another, changes that count everywhere at once, a leader that is
//! killed, and a member that gets users with a snapshot.

use anyhow::{Result, bail, ensure};
use api::authpb::Permission;
use api::authpb::permission::Type;
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, PutRequest, RangeRequest,
};
use harness::{Client, Cluster, Place, Subject, with_token};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const FLAGS: [&str; 2] = ["--snapshot-count=20", "--bcrypt-cost=4"];
/// Changes of one permission, each made at one member and looked at from another.
const CHANGES: usize = 20;
/// Far more than an election takes.
const ELECTION: Duration = Duration::from_secs(20);

async fn found(client: &Client) -> Result<()> {
    let mut auth = client.auth.clone();
    for name in ["root", "ann"] {
        let (name, password) = (name.to_owned(), format!("{name}pw"));
        auth.user_add(AuthUserAddRequest { name: name.clone(), password, ..Default::default() }).await?;
        auth.role_add(AuthRoleAddRequest { name: name.clone() }).await?;
        auth.user_grant_role(AuthUserGrantRoleRequest { user: name.clone(), role: name }).await?;
    }
    auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(())
}

async fn grant(client: &Client, root: &str) -> Result<(), Status> {
    let perm = Some(Permission { perm_type: Type::Readwrite as i32, key: "k".into(), range_end: "l".into() });
    let request = AuthRoleGrantPermissionRequest { name: "ann".to_owned(), perm };
    client.auth.clone().role_grant_permission(with_token(request, Some(root))).await.map(drop)
}

async fn revoke(client: &Client, root: &str) -> Result<(), Status> {
    let request = AuthRoleRevokePermissionRequest { role: "ann".to_owned(), key: "k".into(), range_end: "l".into() };
    client.auth.clone().role_revoke_permission(with_token(request, Some(root))).await.map(drop)
}

async fn put(client: &Client, token: &str) -> Result<(), Status> {
    let request = PutRequest { key: "key".into(), ..PutRequest::default() };
    client.kv.clone().put(with_token(request, Some(token))).await.map(drop)
}

async fn range(client: &Client, token: &str) -> Result<(), Status> {
    let request = RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() };
    client.kv.clone().range(with_token(request, Some(token))).await.map(drop)
}

fn is_denied(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_the_same_everywhere() -> Result<()> {
    let _turn = crate::CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start_with(&Subject::under_test()?, Place::Loopback, 3, &FLAGS).await?;
    // Before nobody is told any more.
    let leader = cluster.leader().await?;
    let mut clients = Vec::new();
    for member in cluster.members() {
        clients.push(cluster.client(member).await?);
    }
    found(&clients[leader]).await?;
    let (root, ann) = (clients[0].login("root", "rootpw").await?, clients[1].login("ann", "annpw").await?);
    for client in &clients {
        ensure!(is_denied(&put(client, &ann).await), "a token of one member is good at all of them");
    }
    for change in 0..CHANGES {
        let (here, there) = (&clients[change % 3], &clients[(change + 1) % 3]);
        grant(here, &root).await?;
        put(there, &ann).await?;
        range(&clients[(change + 2) % 3], &ann).await?;
        revoke(there, &root).await?;
        let (write, read) = (put(here, &ann).await, range(here, &ann).await);
        ensure!(is_denied(&write) && is_denied(&read), "change {change}: {write:?}, {read:?}\n{}", cluster.logs());
    }
    grant(&clients[0], &root).await?;

    cluster.kill(leader)?;
    let others: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    for member in &others {
        let begun = Instant::now();
        loop {
            match put(&clients[*member], &ann).await {
                Ok(()) => break,
                Err(status) if status.code() == Code::Unavailable && begun.elapsed() < ELECTION => {}
                Err(status) => bail!("a token does not outlive a leader: {status:?}\n{}", cluster.logs()),
            }
        }
    }
    cluster.restart(leader).await?;
    let restarted = cluster.client(leader).await?;
    let again = restarted.login("ann", "annpw").await?;
    range(&restarted, &again).await?;
    range(&clients[others[0]], &again).await?;

    // Members are added by root alone, which the harness is not.
    let root = restarted.login("root", "rootpw").await?;
    restarted.auth.clone().auth_disable(with_token(AuthDisableRequest {}, Some(&root))).await?;
    cluster.add().await?;
    restarted.auth.clone().auth_enable(AuthEnableRequest {}).await?;
    let newest = cluster.members().into_iter().max().unwrap_or_default();
    let added = cluster.client(newest).await?;
    let token = added.login("ann", "annpw").await?;
    range(&added, &token).await?;
    let forbidden = RangeRequest { key: "x".into(), ..RangeRequest::default() };
    let answer = added.kv.clone().range(with_token(forbidden, Some(&token))).await.map(drop);
    ensure!(is_denied(&answer), "{answer:?}");
    Ok(())
}
