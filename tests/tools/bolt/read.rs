//! What a file of etcd holds is what etcd answers.

use super::{COMPACTED, fill, hash_kv, keys, keys_in, open, our_status, put, same_hash, snapshot, status};
use ::bolt::etcd::{Auth, Cluster, Lease, Member, Meta};
use ::bolt::{Database, Error, OpenOptions, Snapshot};
use anyhow::{Context, Result, ensure};
use api::authpb::{Role, User};
use api::etcdserverpb::{
    AlarmMember, AlarmRequest, AuthRoleGetRequest, AuthRoleListRequest, AuthUserGetRequest, AuthUserListRequest,
    LeaseLeasesRequest, LeaseTimeToLiveRequest, MemberListRequest, RequestOp, StatusRequest, TxnRequest,
    request_op::Request,
};
use bytes::Bytes;
use harness::{Client, Kind, Options, Server};

/// Records of a bucket.
fn all<R: ::bolt::etcd::Record>(database: &Database) -> Result<Vec<R>> {
    Ok(database.records()?.collect::<Result<_, Error>>()?)
}

#[tokio::test]
async fn a_snapshot_is_what_etcd_answers() -> Result<()> {
    let mut server = Server::start(Kind::Etcd).await?;
    let mut client = server.client().await?;
    fill(&mut client).await?;
    let path = snapshot(&server, "snapshot").await?;
    let database = open(&path)?;
    ensure!(database.snapshot() == Snapshot::Verified);
    ensure!(!database.check()?.has_freelist, "etcd writes none");
    ensure!(our_status(&database)? == status(&path).await?);
    same_history(&mut client, &database).await?;
    same_rest(&mut client, &database).await?;

    // The member's own file holds the same, once the member has ended.
    let db = server.data_dir().join("member/snap/db");
    let error = Database::open(&db, OpenOptions::default()).err().context("the file is in use")?;
    ensure!(matches!(error, Error::InUse { .. }), "{error}");
    server.terminate().await?;
    let own = open(&db)?;
    ensure!(own.snapshot() == Snapshot::WithoutDigest);
    ensure!(own.hash_kv(0)? == database.hash_kv(0)? && entries(&own)? == entries(&database)?);
    Ok(())
}

type BucketEntries = (Bytes, Vec<(Bytes, Bytes)>);

/// What there is in every bucket but `meta`: from 3.5 on a member that ends notes there how far it had applied.
fn entries(database: &Database) -> Result<Vec<BucketEntries>> {
    let mut buckets = Vec::new();
    for name in database.buckets() {
        let name = name?;
        if name != "meta" {
            let entries = database.bucket(std::str::from_utf8(&name)?)?.into_iter().flatten();
            let entries = entries.map(|entry| entry.map(|entry| (entry.key, entry.value)));
            buckets.push((name, entries.collect::<Result<_, _>>()?));
        }
    }
    Ok(buckets)
}

/// Keys and hashes at every revision that there is.
async fn same_history(client: &mut Client, database: &Database) -> Result<()> {
    let current = database.hash_kv(0)?.current;
    for revision in COMPACTED..=current {
        let (ours, theirs) = (keys_in(database, revision)?, keys(client, revision).await?);
        ensure!(ours == theirs, "at revision {revision}: {} and {} keys", ours.len(), theirs.len());
        // etcd 3.4 refuses the compacted revision itself.
        if revision > COMPACTED {
            same_hash(database.hash_kv(revision)?, &hash_kv(client, revision).await?)?;
        }
    }
    let last = hash_kv(client, 0).await?;
    ensure!(last.header.context("a header")?.revision == current && current > 40);
    let meta: Meta = database.settings()?;
    ensure!((meta.finished_compaction, meta.scheduled_compaction) == (Some(COMPACTED), Some(COMPACTED)), "{meta:?}");
    Ok(())
}

/// Everything but keys.
async fn same_rest(client: &mut Client, database: &Database) -> Result<()> {
    let leases = client.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
    let mut theirs = Vec::new();
    for lease in leases {
        let request = LeaseTimeToLiveRequest { id: lease.id, keys: false };
        let ttl = client.lease.lease_time_to_live(request).await?.into_inner().granted_ttl;
        theirs.push(Lease { id: lease.id, ttl, remaining_ttl: 0 });
    }
    theirs.sort_by_key(|lease| lease.id);
    ensure!(all::<Lease>(database)? == theirs && theirs.len() == 2, "{theirs:?}");

    let users = client.auth.user_list(AuthUserListRequest {}).await?.into_inner().users;
    let ours: Vec<User> = all(database)?;
    ensure!(ours.iter().map(|user| &user.name[..]).eq(users.iter().map(String::as_bytes)) && ours.len() == 2);
    for user in ours {
        let name = String::from_utf8(user.name.to_vec())?;
        let theirs = client.auth.user_get(AuthUserGetRequest { name }).await?.into_inner();
        ensure!(user.roles == theirs.roles && user.password.starts_with(b"$2a$"));
    }
    let roles = client.auth.role_list(AuthRoleListRequest {}).await?.into_inner().roles;
    let ours: Vec<Role> = all(database)?;
    ensure!(ours.iter().map(|role| &role.name[..]).eq(roles.iter().map(String::as_bytes)) && ours.len() == 2);
    for role in ours {
        let name = String::from_utf8(role.name.to_vec())?;
        let theirs = client.auth.role_get(AuthRoleGetRequest { role: name.clone() }).await?.into_inner();
        ensure!(role.key_permission == theirs.perm, "{name}");
    }
    let auth: Auth = database.settings()?;
    ensure!(auth.enabled != Some(true) && auth.revision.is_some_and(|revision| revision > 1), "{auth:?}");

    let alarms = client.maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    ensure!(all::<AlarmMember>(database)? == alarms && alarms.len() == 1);
    let [theirs] = &client.cluster.member_list(MemberListRequest::default()).await?.into_inner().members[..] else {
        anyhow::bail!("one member");
    };
    let [ours] = &all::<Member>(database)?[..] else { anyhow::bail!("one member") };
    ensure!((ours.id, &ours.peer_urls, ours.is_learner) == (theirs.id, &theirs.peer_urls, false), "{ours:?}");
    ensure!((&ours.name, &ours.client_urls) == (&theirs.name, &theirs.client_urls), "{ours:?}");
    let release = client.maintenance.status(StatusRequest {}).await?.into_inner().version;
    let minor = release.rsplit_once('.').context("a release has three numbers")?.0;
    let cluster: Cluster = database.settings()?;
    ensure!(cluster == Cluster { version: Some(format!("{minor}.0")), downgrade: None }, "{cluster:?}");
    Ok(())
}

/// More than one level of branches, pages that were split and freed, and a file that has both.
#[tokio::test]
async fn a_hundred_thousand_keys_are_read() -> Result<()> {
    const IN_TXN: usize = 1000;
    let flags = vec![format!("--max-txn-ops={IN_TXN}")];
    let server = Server::start_with(Kind::Etcd, Options { flags, ..Options::default() }).await?;
    let mut client = server.client().await?;
    for txn in 0..100 {
        let put = |number| put(&format!("key/{:08}", (txn * IN_TXN + number) * 7919 % 100_003), format!("{txn}"));
        let success = (0..IN_TXN).map(|number| RequestOp { request: Some(Request::RequestPut(put(number))) }).collect();
        client.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    }
    let path = snapshot(&server, "snapshot").await?;
    let database = open(&path)?;
    database.check()?;
    ensure!(our_status(&database)? == status(&path).await?);
    let theirs = keys(&mut client, 0).await?;
    ensure!(theirs.len() == 100_000 && keys_in(&database, i64::MAX)? == theirs);
    same_hash(database.hash_kv(0)?, &hash_kv(&mut client, 0).await?)?;

    // The copy is a deep tree as well, written in one go.
    let copy = server.scratch().join("copy");
    super::write::rewrite(&database, &copy)?;
    ensure!(status(&copy).await?[..3] == our_status(&database)?[..3]);
    let copied = open(&copy)?.check()?;
    ensure!(copied.free == 0 && copied.has_freelist, "{copied:?}");
    Ok(())
}
