//! A member that was stopped or killed: what its database lacks is in its log, and nothing that it acknowledged is lost.

use super::{alarm, fill, hash_kv, keys, put, same_hash};
use ::bolt::etcd::Change;
use ::bolt::wal::Payload;
use ::bolt::{Error, Member, OpenOptions, Pending};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::DeleteRangeRequest;
use api::etcdserverpb::alarm_request::AlarmAction;
use harness::{Client, Kind, Options, Server};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn open(server: &Server) -> Result<Member, Error> {
    Member::open(&server.data_dir(), None, OpenOptions::default())
}

/// An etcd whose database is written when it ends well, and at no other time.
async fn lazy() -> Result<Server> {
    let flags = vec!["--backend-batch-interval=1h".to_owned(), "--backend-batch-limit=1000000".to_owned()];
    Server::start_with(Kind::Etcd, Options { flags, ..Options::default() }).await
}

/// Keys and values by the database, then by the changes that only the log has.
fn recovered(member: &Member) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for change in member.database().records::<Change>()? {
        let change = change?;
        let kv = change.fields();
        if change.is_tombstone {
            found.remove(kv.key);
        } else {
            found.insert(kv.key.to_vec(), kv.value.to_vec());
        }
    }
    for entry in member.entries() {
        let Payload::Request(request) = entry?.payload else { continue };
        if let Some(put) = request.put {
            found.insert(put.key.to_vec(), put.value.to_vec());
        } else if let Some(delete) = request.delete_range {
            found.remove(&delete.key[..]);
        } else if request.changes_the_store() {
            bail!("only puts and deletions were made");
        }
    }
    Ok(found)
}

async fn served(client: &mut Client) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let keys = keys(client, 0).await?;
    Ok(keys.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect())
}

fn segments(server: &Server) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(server.data_dir().join("member/wal"))?;
    let mut paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "wal"));
    paths.sort();
    Ok(paths)
}

#[tokio::test]
async fn a_member_that_ended_well_has_it_all() -> Result<()> {
    let mut server = Server::start(Kind::Etcd).await?;
    let mut client = server.client().await?;
    fill(&mut client).await?;
    ensure!(matches!(open(&server), Err(Error::InUse { .. })));
    alarm(&mut client, AlarmAction::Deactivate).await?;
    client.kv.put(put("last", "1")).await?;
    let hash = hash_kv(&mut client, 0).await?;
    server.terminate().await?;
    let member = open(&server)?;
    same_hash(member.database().hash_kv(0)?, &hash)?;
    let header = hash.header.context("a header")?;
    let metadata = member.log().metadata();
    ensure!((metadata.member_id, metadata.cluster_id) == (header.member_id, header.cluster_id), "{metadata:?}");
    ensure!(member.log().bounds().state.term == header.raft_term && member.log().torn().is_none());
    ensure!(member.pending()? == Pending::default(), "{:?}", member.pending()?);
    Ok(())
}

#[tokio::test]
async fn what_a_killed_member_acknowledged_is_in_its_log() -> Result<()> {
    let mut server = lazy().await?;
    let mut client = server.client().await?;
    for number in 0..200 {
        client.kv.put(put(&format!("key/{}", number % 70), format!("{number}"))).await?;
    }
    let key = "key/7".into();
    client.kv.delete_range(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }).await?;
    client.kv.put(put("last", "acknowledged")).await?;
    let expected = served(&mut client).await?;
    server.kill()?;
    let member = open(&server)?;
    let pending = member.pending()?;
    ensure!(pending.changes == 202 && pending.unknown == 0, "{pending:?}");
    ensure!(pending.entries == member.committed() - member.applied() && pending.entries > pending.changes);
    ensure!(recovered(&member)? == expected && expected["last".as_bytes()] == b"acknowledged");
    drop(member);
    // etcd comes to the same.
    server.restart().await?;
    ensure!(served(&mut server.client().await?).await? == expected);
    Ok(())
}

#[tokio::test]
async fn a_log_of_several_segments_is_read_and_its_damage_told() -> Result<()> {
    let mut server = lazy().await?;
    let mut client = server.client().await?;
    for number in 0..70_u8 {
        client.kv.put(put(&format!("key/{}", number % 9), vec![number; 1 << 20])).await?;
    }
    let expected = served(&mut client).await?;
    server.kill()?;
    let segments = segments(&server)?;
    ensure!(segments.len() > 1, "{segments:?}");
    let member = open(&server)?;
    ensure!(member.pending()?.changes == 70 && recovered(&member)? == expected);
    drop(member);

    let first = &segments[0];
    let good = std::fs::read(first)?;
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(first, bad)?;
    let error = open(&server).err().context("a byte is another one")?;
    ensure!(error.to_string().starts_with(&format!("{}: offset ", first.display())), "{error}");
    std::fs::remove_file(first)?;
    let error = open(&server).err().context("a segment is missing")?;
    ensure!(error.to_string().contains("no segment holds index"), "{error}");
    Ok(())
}
