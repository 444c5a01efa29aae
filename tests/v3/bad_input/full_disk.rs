//! A full disk: whatever was acknowledged is there once there is room again.
//!
//! The disk is a small tmpfs in a mount namespace of its own, which needs no privileges where the kernel lets users
//! have namespaces; elsewhere these tests say so and do nothing.

use super::{refusal, says};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::{Client, Kind, Options, Server};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CALL_DEADLINE: Duration = Duration::from_secs(10);
const END_DEADLINE: Duration = Duration::from_secs(20);
/// In the unit of disk sizes.
const MEBIBYTE: u32 = 1 << 10;
const VALUE_BYTES: usize = 1 << 20;
/// More than any disk here holds.
const MAX_PUTS: u32 = 300;

/// A mounted disk; it goes with the process that holds its namespace.
struct Disk {
    dir: TempDir,
    /// Reads its standard input until it is closed.
    holder: Child,
}

impl Disk {
    /// `None`, with a line that says why, where there can be none.
    fn mount(kibibytes: u32) -> Result<Option<Self>> {
        let dir = tempfile::Builder::new().prefix("cleat-test-disk-").tempdir()?;
        let script = format!("mount -t tmpfs -o size={kibibytes}k,mode=700 tmpfs \"$0\" && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script]).arg(dir.path());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut holder = match spawned {
            Ok(holder) => holder,
            Err(error) => {
                eprintln!("skipped: cannot run unshare: {error}");
                return Ok(None);
            }
        };
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("standard output is piped")?).read_line(&mut line)?;
        let disk = Self { dir, holder };
        if line.trim() == "mounted" && disk.enter(&["true"]).status().is_ok_and(|status| status.success()) {
            return Ok(Some(disk));
        }
        eprintln!("skipped: this machine does not let its users mount a tmpfs in a namespace of their own");
        Ok(None)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What runs a program where the disk is mounted.
    fn wrapper(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", &target].map(str::to_owned).to_vec()
    }

    fn enter(&self, program: &[&str]) -> Command {
        let wrapper = self.wrapper();
        let mut command = Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(program);
        command
    }

    fn enlarge(&self, kibibytes: u32) -> Result<()> {
        let options = format!("remount,size={kibibytes}k");
        let path = self.path().display().to_string();
        let status = self.enter(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &path]).status()?;
        ensure!(status.success(), "could not enlarge the disk: {status}");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        if let Err(error) = self.holder.wait() {
            eprintln!("could not unmount: {error}");
        }
    }
}

fn value(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(VALUE_BYTES / 4)
}

fn key(n: u32) -> String {
    format!("key/{n:04}")
}

/// Puts until one is refused; returns how many were acknowledged.
async fn fill(client: &mut Client) -> Result<u32> {
    for n in 0..MAX_PUTS {
        let request = PutRequest { key: key(n).into(), value: value(n).into(), ..Default::default() };
        let answer = tokio::time::timeout(CALL_DEADLINE, client.kv.put(request)).await;
        if answer.context("a put was neither acknowledged nor refused")?.is_err() {
            return Ok(n);
        }
    }
    bail!("the disk did not become full")
}

async fn has_all(client: &mut Client, count: u32) -> Result<()> {
    for n in 0..count {
        let request = RangeRequest { key: key(n).into(), ..Default::default() };
        let found = client.kv.range(request).await?.into_inner();
        ensure!(found.kvs.len() == 1, "key {n} of {count} that were acknowledged is missing");
        ensure!(found.kvs[0].value == value(n), "key {n} has another value");
    }
    Ok(())
}

/// The member ended by itself and its log says, after the first `from` bytes, which file found no room.
async fn ended_by_full_disk(server: &mut Server, from: usize, file: &str) -> Result<()> {
    let status = server.wait_exit(END_DEADLINE).await?;
    server.kill()?;
    let log = server.log();
    let printed = &log[from..];
    ensure!(status.code() == Some(1), "ended with {status}:\n{printed}");
    ensure!(!printed.contains("panicked"), "panicked:\n{printed}");
    says(printed, &["member failed", file, "No space left on device", "make room"])
}

/// Fills the disk below `file`, and sees what becomes of the member and of what it acknowledged.
async fn fill_and_enlarge(mut server: Server, disk: &Disk, file: &str, enlarged: u32) -> Result<()> {
    let mut client = server.client().await?;
    let count = fill(&mut client).await?;
    ensure!(count > 3, "only {count} puts fitted");
    ended_by_full_disk(&mut server, 0, file).await?;
    let printed = server.log();

    // As long as there is no room, a start serves everything, or ends and says the same.
    let before = printed.len();
    server.spawn()?;
    let served = match server.wait_ready().await {
        Ok(()) => has_all(&mut server.client().await?, count).await,
        Err(error) => Err(error),
    };
    if served.is_err() {
        ended_by_full_disk(&mut server, before, file).await?;
    }
    server.kill()?;

    disk.enlarge(enlarged)?;
    server.restart().await?;
    let mut client = server.client().await?;
    has_all(&mut client, count).await?;
    let more = PutRequest { key: "more".into(), value: value(0).into(), ..Default::default() };
    client.kv.put(more).await?;
    Ok(())
}

/// A member with what `flag` names on the disk, and what `elsewhere` says somewhere else.
async fn member_on(disk: &Disk, flag: &str, elsewhere: &[String]) -> Result<(Server, PathBuf)> {
    let path = disk.path().join("member");
    let mut flags = vec![flag.to_owned(), path.display().to_string()];
    flags.extend_from_slice(elsewhere);
    let options = Options { flags, wrapper: disk.wrapper(), ..Default::default() };
    Ok((Server::start_with(Kind::Cleat, options).await?, path))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_fills_the_disk() -> Result<()> {
    // Room for one segment of the log, not for two.
    let Some(disk) = Disk::mount(12 * MEBIBYTE)? else { return Ok(()) };
    let (server, path) = member_on(&disk, "--wal-dir", &[]).await?;
    fill_and_enlarge(server, &disk, &path.display().to_string(), 210 * MEBIBYTE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_fills_the_disk() -> Result<()> {
    let Some(disk) = Disk::mount(24 * MEBIBYTE)? else { return Ok(()) };
    let log = TempDir::new()?;
    let elsewhere = ["--wal-dir".to_owned(), log.path().join("wal").display().to_string()];
    let (server, path) = member_on(&disk, "--data-dir", &elsewhere).await?;
    fill_and_enlarge(server, &disk, &path.join("member/store.redb").display().to_string(), 400 * MEBIBYTE).await
}

#[tokio::test]
async fn a_full_disk_at_the_first_start() -> Result<()> {
    // Room for the lock file; for every small file; for half a segment of the log; for the log and no database.
    for kibibytes in [4, 40, 4 * MEBIBYTE, 8 * MEBIBYTE + 40] {
        let Some(disk) = Disk::mount(kibibytes)? else { return Ok(()) };
        let options = Options { wrapper: disk.wrapper(), ..Default::default() };
        let server = Server::prepare(Kind::Cleat, options)?;
        let path = disk.path().join("member");
        let printed = refusal(&server, &path, &[]).await.with_context(|| format!("a disk of {kibibytes} KiB"))?;
        says(&printed, &[&path.display().to_string(), "No space left on device", "make room"])?;
        disk.enlarge(200 * MEBIBYTE)?;
        let flags = vec!["--data-dir".to_owned(), path.display().to_string()];
        let options = Options { flags, wrapper: disk.wrapper(), ..Default::default() };
        Server::start_with(Kind::Cleat, options).await?;
    }
    Ok(())
}
