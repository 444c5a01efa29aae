//! Watches: permitted when they are created, and ended when the permission is taken back.

use super::{Secured, Who, put};
use anyhow::{Context, Result, ensure};
use api::authpb::permission::Type;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleDeleteRequest, AuthRoleRevokePermissionRequest,
    AuthUserDeleteRequest, AuthUserRevokeRoleRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use harness::{Kind, with_token};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);
const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
const NOBODY: &str = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
const INVALID: &str = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    /// etcd answers a call with its first response only.
    call: Option<JoinHandle<Result<Response<Streaming<WatchResponse>>, Status>>>,
    responses: Option<Streaming<WatchResponse>>,
}

impl Stream {
    fn open(secured: &Secured, who: Who) -> Self {
        let (requests, rx) = mpsc::channel(16);
        let call = with_token(ReceiverStream::new(rx), secured.token(who));
        let mut client = secured.client.watch.clone();
        let call = Some(tokio::spawn(async move { client.watch(call).await }));
        Self { requests, call, responses: None }
    }

    async fn next(&mut self) -> Result<WatchResponse> {
        let next = async {
            if let Some(call) = self.call.take() {
                self.responses = Some(call.await??.into_inner());
            }
            let responses = self.responses.as_mut().context("the call failed")?;
            responses.message().await?.context("the stream ended")
        };
        tokio::time::timeout(DEADLINE, next).await.context("no response")?
    }

    /// Creates a watcher; the answer is why it was refused, or its id.
    async fn create(&mut self, key: &str, end: &str) -> Result<Result<i64, String>> {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let create = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        self.requests.send(request).await?;
        let answer = self.next().await?;
        ensure!(answer.created, "{answer:?}");
        Ok(if answer.canceled { Err(answer.cancel_reason) } else { Ok(answer.watch_id) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_permitted_as_by_etcd() -> Result<()> {
    let (etcd, cleat) = tokio::try_join!(Secured::start(Kind::Etcd, &[]), Secured::start(Kind::Cleat, &[]))?;
    for who in [Who::Nobody, Who::Forger, Who::Ann, Who::Root] {
        let (mut theirs, mut ours) = (Stream::open(&etcd, who), Stream::open(&cleat, who));
        let ranges = [("a", ""), ("z", ""), ("a", "c"), ("a", "d"), ("r", ""), ("w", ""), ("", ""), ("\0", "\0")];
        for (key, end) in ranges {
            let (etcd, cleat) = tokio::try_join!(theirs.create(key, end), ours.create(key, end))?;
            ensure!(etcd == cleat, "{who:?} {key:?} {end:?}: {etcd:?}, {cleat:?}");
        }
    }
    Ok(())
}

/// etcd's CVE-2026-73499: a grant of one key must not open everything behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_of_a_key_does_not_allow_a_watch_of_what_follows() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let mut stream = Stream::open(&secured, Who::Ann);
    for (key, end) in [("r", "\0"), ("r", "s"), ("a", "\0"), ("", "\0")] {
        ensure!(stream.create(key, end).await? == Err(DENIED.to_owned()), "{key:?} {end:?}");
    }
    ensure!(stream.create("r", "").await?.is_ok());
    Ok(())
}

/// What takes a permission back.
#[derive(Clone, Copy, Debug)]
enum Revocation {
    Permission,
    Role,
    User,
    RoleOfUser,
}

async fn revoke(secured: &Secured, what: Revocation) -> Result<()> {
    let (mut auth, root) = (secured.client.auth.clone(), secured.token(Who::Root));
    let (role, name) = ("r".to_owned(), "ann".to_owned());
    match what {
        Revocation::Permission => {
            let request = AuthRoleRevokePermissionRequest { role, key: "a".into(), range_end: "c".into() };
            auth.role_revoke_permission(with_token(request, root)).await?;
        }
        Revocation::Role => drop(auth.role_delete(with_token(AuthRoleDeleteRequest { role }, root)).await?),
        Revocation::User => drop(auth.user_delete(with_token(AuthUserDeleteRequest { name }, root)).await?),
        Revocation::RoleOfUser => {
            auth.user_revoke_role(with_token(AuthUserRevokeRoleRequest { name, role }, root)).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_taken_back_ends_its_watches() -> Result<()> {
    for what in [Revocation::Permission, Revocation::Role, Revocation::User, Revocation::RoleOfUser] {
        let secured = Secured::start(Kind::Cleat, &[]).await?;
        let (mut anns, mut roots) = (Stream::open(&secured, Who::Ann), Stream::open(&secured, Who::Root));
        let id = anns.create("a", "c").await?.map_err(anyhow::Error::msg)?;
        roots.create("a", "c").await?.map_err(anyhow::Error::msg)?;
        let (mut kv, root) = (secured.client.kv.clone(), secured.token(Who::Root));
        kv.put(with_token(put("a", "before", 0), root)).await?;
        ensure!(anns.next().await?.events.len() == 1);
        // Something else changes: nothing happens to it.
        secured
            .client
            .auth
            .clone()
            .role_grant_permission(with_token(super::grant("s", Type::Read, "q", ""), root))
            .await?;
        kv.put(with_token(put("a", "beside", 0), root)).await?;
        ensure!(anns.next().await?.events.len() == 1, "{what:?}: another change ended the watch");
        revoke(&secured, what).await?;
        kv.put(with_token(put("a", "after", 0), root)).await?;
        let ended = anns.next().await?;
        ensure!(ended.canceled && ended.watch_id == id && ended.events.is_empty(), "{what:?}: {ended:?}");
        ensure!(ended.cancel_reason == DENIED, "{what:?}: {ended:?}");
        // Nobody read them meanwhile: they may come together.
        let mut told = 0;
        while told < 3 {
            let events = roots.next().await?.events.len();
            ensure!(events > 0, "root's watch goes on");
            told += events;
        }
        let again = anns.create("a", "").await?;
        let expected = if matches!(what, Revocation::User) { INVALID } else { DENIED };
        ensure!(again == Err(expected.to_owned()), "{what:?}: {again:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabling_authentication_ends_watches_of_nobody() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let (mut auth, root) = (secured.client.auth.clone(), secured.token(Who::Root));
    auth.auth_disable(with_token(AuthDisableRequest {}, root)).await?;
    let mut stream = Stream::open(&secured, Who::Nobody);
    let id = stream.create("a", "").await?.map_err(anyhow::Error::msg)?;
    auth.auth_enable(AuthEnableRequest {}).await?;
    let ended = stream.next().await?;
    ensure!(ended.canceled && ended.watch_id == id && ended.cancel_reason == NOBODY, "{ended:?}");
    Ok(())
}
