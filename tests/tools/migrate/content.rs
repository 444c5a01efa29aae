//! Everything that a client can tell of a store, in a form that is small however large the store is.

use anyhow::{Context, Result, ensure};
use api::authpb::Permission;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    AuthRoleGetRequest, AuthRoleListRequest, AuthUserGetRequest, AuthUserListRequest, HashKvRequest,
    LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};
use harness::{Client, Server};
use prost::Message;
use std::fmt::{self, Display};

/// Keys of an answer.
const PAGE: i64 = 10_000;

/// How many messages there were, and what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    bytes: u64,
    crc: u32,
}

impl Sum {
    fn add(&mut self, message: &impl Message) {
        let bytes = message.encode_to_vec();
        self.count += 1;
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
    }
}

/// The answers of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    revision: i64,
    compacted: i64,
    /// `HashKV` of these revisions.
    hashes: Vec<(i64, u32)>,
    /// All keys with all that is known of them, at the same revisions.
    ranges: Vec<(i64, Sum)>,
    /// Every event since the last compaction.
    history: Sum,
    /// With the time they were granted for, and the attached keys.
    leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    users: Vec<(String, Vec<String>)>,
    roles: Vec<(String, Vec<(i32, Vec<u8>, Vec<u8>)>)>,
}

impl Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, compacted, hashes, ranges, history, leases, users, roles } = self;
        let keys: usize = leases.iter().map(|(_, _, keys)| keys.len()).sum();
        write!(
            f,
            "revision {revision}, compacted {compacted}, HashKV {hashes:?}, keys {ranges:?}, history {history:?}, {} \
             leases with {keys} keys, users {users:?}, roles {roles:?}",
            leases.len()
        )
    }
}

/// Asks a server for everything.
pub(crate) async fn content(server: &Server) -> Result<Content> {
    let mut client = server.client().await?;
    let hash = client.maintenance.hash_kv(HashKvRequest::default()).await?.into_inner();
    let (revision, compacted) = (hash.header.context("no header")?.revision, hash.compact_revision);
    let mut content = Content {
        revision,
        compacted,
        hashes: vec![(0, hash.hash)],
        ranges: vec![(0, range(&mut client, revision).await?)],
        history: history(&mut client, compacted.max(0) + 1, revision).await?,
        leases: leases(&mut client).await?,
        users: Vec::new(),
        roles: Vec::new(),
    };
    // Up to 3.4 etcd has no hash of the compacted revision itself.
    let first = compacted.max(1) + 1;
    for before in [first, i64::midpoint(first, revision)] {
        let hash = client.maintenance.hash_kv(HashKvRequest { revision: before }).await?.into_inner();
        content.hashes.push((before, hash.hash));
        content.ranges.push((before, range(&mut client, before).await?));
    }
    for name in client.auth.user_list(AuthUserListRequest {}).await?.into_inner().users {
        let roles = client.auth.user_get(AuthUserGetRequest { name: name.clone() }).await?.into_inner().roles;
        content.users.push((name, roles));
    }
    for role in client.auth.role_list(AuthRoleListRequest {}).await?.into_inner().roles {
        let perms = client.auth.role_get(AuthRoleGetRequest { role: role.clone() }).await?.into_inner().perm;
        let fields = |perm: Permission| (perm.perm_type, perm.key.to_vec(), perm.range_end.to_vec());
        content.roles.push((role, perms.into_iter().map(fields).collect()));
    }
    Ok(content)
}

/// Every key at a revision, page by page.
async fn range(client: &mut Client, revision: i64) -> Result<Sum> {
    let (mut sum, mut from) = (Sum::default(), vec![0]);
    loop {
        let page = RangeRequest {
            key: from.into(),
            range_end: vec![0].into(),
            limit: PAGE,
            revision,
            ..RangeRequest::default()
        };
        let page = client.kv.range(page).await?.into_inner();
        page.kvs.iter().for_each(|kv| sum.add(kv));
        let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok(sum) };
        from = [&last.key[..], &[0]].concat();
    }
}

/// Every event from a revision on, up to another one. There is at least one.
async fn history(client: &mut Client, from: i64, to: i64) -> Result<Sum> {
    let (key, range_end) = (vec![0].into(), vec![0].into());
    let create = WatchCreateRequest { key, range_end, start_revision: from, prev_kv: true, ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open.
    let requests = futures::StreamExt::chain(tokio_stream::once(request), futures::stream::pending());
    let mut stream = client.watch.watch(requests).await?.into_inner();
    let (mut sum, mut last) = (Sum::default(), from - 1);
    while last < to {
        let answer = stream.message().await?.context("the watch ended")?;
        ensure!(!answer.canceled, "the watch was cancelled: {} {}", answer.cancel_reason, answer.compact_revision);
        for event in &answer.events {
            last = event.kv.as_ref().context("an event has a key")?.mod_revision;
            sum.add(event);
        }
    }
    Ok(sum)
}

async fn leases(client: &mut Client) -> Result<Vec<(i64, i64, Vec<Vec<u8>>)>> {
    let mut leases = Vec::new();
    for lease in client.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases {
        let request = LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let lease = client.lease.lease_time_to_live(request).await?.into_inner();
        let mut keys: Vec<_> = lease.keys.iter().map(|key| key.to_vec()).collect();
        keys.sort();
        leases.push((lease.id, lease.granted_ttl, keys));
    }
    leases.sort();
    Ok(leases)
}
