//! `cleatctl migrate`: data comes from etcd, and goes back, and etcd and Cleat answer the same about it.
//!
//! `CLEAT_MIGRATE_KEYS` says how many keys the store of the first test has; `ETCD_BIN`, `ETCDCTL_BIN` and `ETCDUTL_BIN` whose
//! etcd it comes from and goes back to:
//!
//! ```text
//! CLEAT_MIGRATE_KEYS=1000000 cargo test --release -p cleat-tests --test tools migrate::a_store -- --nocapture
//! ```

mod content;
mod fill;

use crate::restore::{cleatctl, fails, succeeds, text};
use anyhow::{Result, ensure};
use api::authpb::Permission;
use api::etcdserverpb::{
    AlarmRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest, RangeRequest,
};
use content::content;
use fill::{fill, keys};
use harness::tool::{etcdctl_binary, etcdutl_binary, run};
use harness::{Kind, Options, Server};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A tool ends in this time and a millisecond for each key.
const LIMIT: Duration = Duration::from_secs(30);

/// Tells how long the steps of a large migration take.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        if keys() >= 100_000 {
            eprintln!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        }
        self.0 = Instant::now();
    }
}

/// A server that was not started yet, with a data directory made by `cleatctl migrate from-etcd`.
fn migrated(source: &Path) -> Result<Server> {
    let server = Server::prepare(Kind::Cleat, Options::default())?;
    let (data_dir, peer) = (server.data_dir(), server.peer_url());
    let args = ["migrate", "from-etcd", text(source)?, "--data-dir", text(&data_dir)?];
    succeeds(&[&args[..], &["--initial-advertise-peer-urls", &peer]].concat())?;
    Ok(server)
}

async fn etcdctl(args: &[&str]) -> Result<()> {
    etcd_tool(Command::new(etcdctl_binary()), args).await
}

async fn etcd_tool(mut command: Command, args: &[&str]) -> Result<()> {
    command.env("ETCDCTL_API", "3").args(args);
    let output = run(command, b"", LIMIT + Duration::from_millis(keys() as u64)).await?;
    ensure!(output.code == Some(0), "{args:?}: {output:?}");
    Ok(())
}

/// An etcd that was not started yet, restored from a file.
async fn restored(file: &Path) -> Result<Server> {
    let server = Server::prepare(Kind::Etcd, Options::default())?;
    let (data_dir, peer) = (server.data_dir(), server.peer_url());
    let cluster = format!("default={peer}");
    let args = ["snapshot", "restore", text(file)?, "--data-dir", text(&data_dir)?, "--name", "default"];
    let flags = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
    // From 3.6 on it is another tool that restores.
    let tool = etcdutl_binary().unwrap_or_else(etcdctl_binary);
    etcd_tool(Command::new(tool), &[&args[..], &flags].concat()).await?;
    Ok(server)
}

/// Raises an alarm, or takes it back. The member is none of the cluster's, as after a restore.
async fn alarm(server: &Server, action: i32) -> Result<()> {
    let alarm = AlarmRequest { action, member_id: 0x77, alarm: 1 };
    server.client().await?.maintenance.alarm(alarm).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_comes_from_etcd_and_goes_back_and_answers_the_same() -> Result<()> {
    for compact in [false, true] {
        let what = |what: &str| format!("{what}, {} keys, compacted: {compact}", keys());
        let mut steps = Steps(Instant::now());
        let mut etcd = Server::start(Kind::Etcd).await?;
        fill(&etcd.client().await?, compact).await?;
        alarm(&etcd, 1).await?;
        steps.done("fill etcd");
        let (snapshot, endpoint) = (etcd.scratch().join("snapshot"), etcd.endpoint());
        etcdctl(&["--endpoints", &endpoint, "snapshot", "save", text(&snapshot)?]).await?;
        steps.done("etcdctl snapshot save");
        let at_snapshot = content(&etcd).await?;
        eprintln!("etcd: {at_snapshot}");
        steps.done("read all of etcd");
        alarm(&etcd, 2).await?;
        // Only in the log: its process ends before the database has it.
        etcd.client().await?.kv.put(PutRequest { key: "last".into(), ..Default::default() }).await?;
        let at_end = content(&etcd).await?;
        etcd.kill()?;

        steps.done("read all of etcd");
        let mut from_directory = migrated(&etcd.data_dir())?;
        steps.done("migrate from the member's directory");
        from_directory.restart().await?;
        steps.done("start Cleat");
        let found = content(&from_directory).await?;
        ensure!(found == at_end, "{}: {found}, and in etcd {at_end}", what("the member's directory"));
        drop(from_directory);
        steps.done("read all of Cleat");
        let mut cleat = migrated(&snapshot)?;
        steps.done("migrate from a snapshot");
        cleat.restart().await?;
        steps.done("start Cleat");
        let found = content(&cleat).await?;
        ensure!(found == at_snapshot, "{}: {found}, and in etcd {at_snapshot}", what("the snapshot"));

        steps.done("read all of Cleat");
        let (ours, back) = (etcd.scratch().join("ours"), etcd.scratch().join("back"));
        succeeds(&["snapshot", "save", text(&ours)?, "--endpoints", &cleat.endpoint()])?;
        steps.done("cleatctl snapshot save");
        succeeds(&["migrate", "to-etcd", text(&ours)?, text(&back)?])?;
        steps.done("migrate to etcd");
        fails(&["migrate", "to-etcd", text(&ours)?, text(&back)?], "exists")?;
        let mut again = restored(&back).await?;
        steps.done("etcd's restore");
        again.restart().await?;
        steps.done("start etcd");
        let found = content(&again).await?;
        ensure!(found == at_snapshot, "{}: {found}, and before {at_snapshot}", what("back in etcd"));
        steps.done("read all of etcd");
        again.client().await?.kv.put(PutRequest { key: "more".into(), ..Default::default() }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_migrated_is_refused() -> Result<()> {
    let etcd = Server::start(Kind::Etcd).await?;
    let (snapshot, into, endpoint) = (etcd.scratch().join("snapshot"), etcd.scratch().join("into"), etcd.endpoint());
    etcdctl(&["--endpoints", &endpoint, "snapshot", "save", text(&snapshot)?]).await?;
    let refused = |source: &Path, with: &str| -> Result<()> {
        fails(&["migrate", "from-etcd", text(source)?, "--data-dir", text(&into)?], with)?;
        ensure!(!into.exists(), "{} was left", into.display());
        Ok(())
    };
    refused(&etcd.data_dir(), "in use")?;
    refused(&etcd.scratch().join("missing"), "No such file")?;
    let cut = etcd.scratch().join("cut");
    std::fs::write(&cut, &std::fs::read(&snapshot)?[..9000])?;
    refused(&cut, "the file is cut: it has ")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_stay_behind_and_are_told() -> Result<()> {
    let etcd = Server::start(Kind::Etcd).await?;
    let (snapshot, into, endpoint) = (etcd.scratch().join("snapshot"), etcd.scratch().join("into"), etcd.endpoint());
    let mut client = etcd.client().await?;
    for (member_id, alarm) in [(0x77, 1), (0x78, 2)] {
        client.maintenance.alarm(AlarmRequest { action: 1, member_id, alarm }).await?;
    }
    etcdctl(&["--endpoints", &endpoint, "snapshot", "save", text(&snapshot)?]).await?;
    let told = cleatctl(&["migrate", "from-etcd", text(&snapshot)?, "--data-dir", text(&into)?])?;
    let stderr = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "{stderr}");
    for expected in ["the alarm NOSPACE of member 77 ", "the alarm CORRUPT of member 78 "] {
        ensure!(stderr.contains(expected), "{expected}: {stderr}");
    }
    Ok(())
}

fn as_user<T>(message: T, token: &str) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("token", token.parse()?);
    Ok(request)
}

/// What a user may, on either server.
async fn grants(server: &Server) -> Result<()> {
    let mut client = server.client().await?;
    let login = AuthenticateRequest { name: "eve".to_owned(), password: "secret".to_owned() };
    let token = client.auth.authenticate(login).await?.into_inner().token;
    let get = |key: &'static str| RangeRequest { key: key.into(), ..Default::default() };
    let mine = client.kv.range(as_user(get("mine"), &token)?).await?.into_inner();
    ensure!(mine.kvs.len() == 1, "{mine:?}");
    let error = client.kv.range(as_user(get("other"), &token)?).await.expect_err("it was not granted");
    ensure!(error.message() == "etcdserver: permission denied", "{error}");
    let error = client.kv.range(get("mine")).await.expect_err("nobody may");
    ensure!(error.message() == "etcdserver: user name is empty", "{error}");
    let wrong = AuthenticateRequest { name: "eve".to_owned(), password: "guess".to_owned() };
    client.auth.authenticate(wrong).await.expect_err("another password");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_come_along_and_go_back() -> Result<()> {
    let etcd = Server::start(Kind::Etcd).await?;
    let mut client = etcd.client().await?;
    for key in ["mine", "other"] {
        client.kv.put(PutRequest { key: key.into(), ..Default::default() }).await?;
    }
    for (user, role) in [("root", "root"), ("eve", "reader")] {
        client.auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await?;
        let add = AuthUserAddRequest { name: user.to_owned(), password: "secret".to_owned(), ..Default::default() };
        client.auth.user_add(add).await?;
        client.auth.user_grant_role(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }).await?;
    }
    let perm = Some(Permission { key: "mine".into(), ..Default::default() });
    client.auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm }).await?;
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    grants(&etcd).await?;
    let (snapshot, endpoint) = (etcd.scratch().join("snapshot"), etcd.endpoint());
    etcdctl(&["--endpoints", &endpoint, "--user", "root:secret", "snapshot", "save", text(&snapshot)?]).await?;
    let mut cleat = migrated(&snapshot)?;
    cleat.restart().await?;
    grants(&cleat).await?;

    let (ours, back) = (etcd.scratch().join("ours"), etcd.scratch().join("back"));
    etcdctl(&["--endpoints", &cleat.endpoint(), "--user", "root:secret", "snapshot", "save", text(&ours)?]).await?;
    succeeds(&["migrate", "to-etcd", text(&ours)?, text(&back)?])?;
    let mut again = restored(&back).await?;
    again.restart().await?;
    grants(&again).await
}
