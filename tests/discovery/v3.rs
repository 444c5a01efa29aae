//! v3 discovery: members of ours at one token, kept by etcd and by Cleat.

use crate::{Member, names, options, resolve, sorted_ids};
use anyhow::Result;
use api::etcdserverpb::PutRequest;
use discovery::{InitialCluster, Source, V3};
use harness::{Kind, Server};

fn source(store: &Server, token: &str) -> Source {
    Source::V3(V3 { endpoints: vec![store.endpoint()], token: token.to_owned(), ..V3::default() })
}

async fn put(store: &Server, key: &str, value: &str) -> Result<()> {
    let (key, value) = (format!("/_etcd/registry/{key}").into(), value.to_owned().into());
    store.client().await?.kv.put(PutRequest { key, value, ..PutRequest::default() }).await?;
    Ok(())
}

async fn three_members_meet(kind: Kind) -> Result<()> {
    let store = Server::start(kind).await?;
    put(&store, "t/_config/size", "3").await?;
    // Not a member: it is not counted.
    put(&store, "t/members/junk", "junk").await?;
    let members = ["m1", "m2", "m3"].map(Member::new).into_iter().collect::<Result<Vec<_>>>()?;
    let source = source(&store, "t");
    let found = futures::future::join_all(members.iter().map(|member| resolve(&source, &member.me))).await;
    let cluster = found[0].clone().map_err(anyhow::Error::msg)?;
    assert!(found.iter().all(|other| other.as_ref() == Ok(&cluster)), "{found:?}");
    // The token is what ids are hashed with, as in etcd 3.6.
    assert_eq!(cluster.token, "t");
    let mut names = names(&cluster);
    names.sort_unstable();
    assert_eq!(names, ["m1", "m2", "m3"]);
    let same = InitialCluster::parse(&cluster.to_string(), "t")?;
    assert_eq!(sorted_ids(&same), sorted_ids(&cluster));
    // A start that was cut off finds its registration; another member finds the cluster full.
    assert_eq!(resolve(&source, &members[1].me).await, Ok(cluster));
    let late = Member::new("m4")?;
    let full = "failed to join discovery cluster (discovery: cluster is full; its 3 members are m";
    assert!(matches!(resolve(&source, &late.me).await, Err(error) if error.starts_with(full)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_meet_in_etcd() -> Result<()> {
    three_members_meet(Kind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_meet_in_cleat() -> Result<()> {
    three_members_meet(Kind::Cleat).await
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_key() -> Result<()> {
    let mut store = Server::start(Kind::Cleat).await?;
    let member = Member::new("m1")?;
    let peer = &member.me.peer_urls[0];
    let own_id = format!("{:x}", discovery::id::member_id(&member.me.peer_urls, "renamed"));
    let keys: [(&str, &str); 10] = [
        ("bad/_config/size", "x"),
        ("zero/_config/size", "0"),
        ("full/_config/size", "1"),
        ("full/members/aa", "z=http://127.0.0.1:1"),
        ("url/_config/size", "2"),
        ("url/members/aa", "z=ftp://x"),
        ("name/_config/size", "2"),
        ("name/members/aa", "m1=http://127.0.0.1:1"),
        ("same/_config/size", "2"),
        ("renamed/_config/size", "2"),
    ];
    for (key, value) in keys {
        put(&store, key, value).await?;
    }
    put(&store, "same/members/aa", &format!("m2={peer}")).await?;
    put(&store, &format!("renamed/members/{own_id}"), &format!("m2={peer}")).await?;
    let cases = [
        ("none", "discovery: size key not found; write the number of members to /_etcd/registry/none/_config/size"),
        (
            "bad",
            "discovery: size key is bad; /_etcd/registry/bad/_config/size must be a number from 1 to 100, it is \"x\"",
        ),
        ("zero", "discovery: size key is bad; "),
        ("full", "discovery: cluster is full; its 1 members are z=http://127.0.0.1:1: use a new token"),
        ("url", "discovery: invalid peer URL; member aa registered \"z=ftp://x\": URL scheme must be http"),
        ("name", "discovery: found duplicate name; several members registered as \"m1\""),
        ("same", "has duplicate url"),
        ("renamed", "discovery: found duplicate id; member "),
    ];
    for (token, expected) in cases {
        let error = resolve(&source(&store, token), &member.me).await.unwrap_err();
        assert!(error.contains(expected), "{token}: {error}");
    }
    store.kill()?;
    let gone = V3 {
        request_timeout: options().first_pause,
        endpoints: vec![store.endpoint()],
        token: "t".to_owned(),
        ..V3::default()
    };
    let error = resolve(&Source::V3(gone), &member.me).await.unwrap_err();
    assert!(error.contains("discovery: too many retries; 127.0.0.1:"), "{error}");
    Ok(())
}
