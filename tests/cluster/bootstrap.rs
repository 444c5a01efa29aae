//! Clusters that begin: TLS between all of them, any order of starts, one member late, one with a wrong token; and one
//! that goes on with a single member after the majority was lost.

use anyhow::{Result, ensure};
use harness::Secure;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn bootstrap_with_tls_in_any_order() -> Result<()> {
    let mut cluster = Secure::new()?;
    // The last first, and one so late that the others go on without it.
    cluster.members[2].spawn()?;
    cluster.wait_for_line(2, &["serving peer traffic"]).await?;
    cluster.members[0].spawn()?;
    cluster.ready(&[0, 2]).await?;
    let put = cluster.etcdctl_of(&[0, 2], &["put", "k", "early"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    cluster.members[1].spawn()?;
    cluster.ready(&[1]).await?;

    cluster.check().await?;
    // A member that has data goes on with it, whatever the flags say now.
    cluster.members[0].terminate().await?;
    cluster.members[0].options_mut().flags.push("--initial-cluster-token=another".to_owned());
    cluster.members[0].options_mut().initial_cluster = "z=https://127.0.0.1:1".to_owned();
    cluster.members[0].restart().await?;
    cluster.check().await?;
    let get = cluster.etcdctl(&["get", "k"]).await?;
    ensure!(get.stdout == "k\nearly\n", "{get:#?}");
    Ok(())
}

#[tokio::test]
async fn bootstrap_with_a_wrong_token_joins_nobody() -> Result<()> {
    let mut cluster = Secure::new()?;
    cluster.members[1].options_mut().flags.push("--initial-cluster-token=wrong".to_owned());
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.ready(&[0, 2]).await?;
    // Both sides say what is wrong.
    cluster.wait_for_line(1, &["a member that is listed in --initial-cluster is of another cluster"]).await?;
    // Of the others, the one that leads calls it.
    cluster.wait_for_line_of_any(&[0, 2], &["another member refuses to talk to this one"]).await?;
    let put = cluster.etcdctl_of(&[0, 2], &["put", "k", "v"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    ensure!(!cluster.members[1].log().contains("ready to serve client requests"), "it serves");

    // The remedy: the right token and an empty directory.
    cluster.lose(1)?;
    cluster.members[1].options_mut().flags.pop();
    cluster.members[1].restart().await?;
    cluster.check().await
}

#[tokio::test]
async fn bootstrap_of_one_member_after_the_majority_is_lost() -> Result<()> {
    let mut cluster = Secure::new()?;
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.ready(&[0, 1, 2]).await?;
    let put = cluster.etcdctl(&["put", "k", "v"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    // A majority may have acknowledged it without the member that is to survive.
    let get = cluster.etcdctl_of(&[0], &["get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "{get:#?}");
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.members[0].options_mut().flags.push("--force-new-cluster".to_owned());
    cluster.members[0].restart().await?;
    let get = cluster.etcdctl_of(&[0], &["get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "what was acknowledged is gone: {get:#?}");
    let list = cluster.etcdctl_of(&[0], &["member", "list"]).await?;
    ensure!(list.stdout.lines().count() == 1 && list.stdout.contains(", a, "), "{list:#?}");
    let put = cluster.etcdctl_of(&[0], &["put", "k", "w"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");

    // The flag is for one start; the membership stays.
    cluster.members[0].kill()?;
    cluster.members[0].options_mut().flags.pop();
    cluster.members[0].restart().await?;
    let get = cluster.etcdctl_of(&[0], &["get", "k"]).await?;
    ensure!(get.stdout == "k\nw\n", "{get:#?}");
    // Those of the old cluster are told that they are no members any more.
    cluster.members[1].spawn()?;
    let status = cluster.members[1].wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(0), "{status}:\n{}", cluster.members[1].log_tail());
    cluster.wait_for_line(1, &["permanently removed from the cluster"]).await
}
