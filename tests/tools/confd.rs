//! `confd` on a store: etcd's and Cleat's v3 API give the same files, and a store that goes away loses no change.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use harness::server::built_binary;
use harness::tool::{Output, run};
use harness::{Client, Kind, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_mins(1);
/// More than one transaction takes.
const MANY: usize = 196;

/// The keys of confd's own integration test.
const KEYS: [(&str, &str); 7] = [
    ("/key", "foobar"),
    ("/database/host", "127.0.0.1"),
    ("/database/password", "p@sSw0rd"),
    ("/database/port", "3306"),
    ("/database/username", "confd"),
    ("/upstream/app1", "10.0.1.10:8080"),
    ("/upstream/app2", "10.0.1.11:8080"),
];

/// A directory of confd with its output.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Result<Self> {
        let site = Self(tempfile::tempdir()?);
        for name in ["conf.d", "templates", "out"] {
            fs::create_dir(site.0.path().join(name))?;
        }
        Ok(site)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    fn resource(&self, name: &str, keys: &[String], template: &str, more: &str) -> Result<()> {
        let dest = self.out(name);
        let toml =
            format!("[template]\nsrc = \"{name}.tmpl\"\ndest = \"{}\"\nkeys = {keys:?}\n{more}\n", dest.display());
        fs::write(self.0.path().join("conf.d").join(format!("{name}.toml")), toml)?;
        fs::write(self.0.path().join("templates").join(format!("{name}.tmpl")), template)?;
        Ok(())
    }

    fn command(&self, server: &Server, flags: &[&str]) -> Result<Command> {
        let mut command = Command::new(built_binary("confd")?);
        command.args(["-config-file", "/nonexistent", "-backend", "etcdv3", "-node", &server.client_url()]);
        command.arg("-confdir").arg(self.0.path()).args(flags);
        Ok(command)
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.as_bytes().to_vec().into(), value: value.as_bytes().to_vec().into(), ..Default::default() }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn until(what: &str, path: &Path, expected: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while read(path) != expected {
        ensure!(Instant::now() < deadline, "{what}: {} is {:?}, not {expected:?}", path.display(), read(path));
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The five resources of confd's integration test, written for its fixture.
fn resources(site: &Site) -> Result<()> {
    let owned = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
    let database = owned(&["/database/host", "/database/password", "/database/port", "/database/username"]);
    site.resource(
        "basic",
        &[database, owned(&["/key", "/upstream"])].concat(),
        "{{range gets \"/database/*\"}}{{base .Key}}: {{.Value}}\n{{end}}{{getv \"/key\"}}\n",
        "",
    )?;
    site.resource("exists", &owned(&["/key"]), "{{if exists \"/key\"}}yes{{end}} {{exists \"/doesnotexist\"}}", "")?;
    let iteration = "upstream app {\n{{- range gets \"/upstream/*\" }}\n  server {{ .Value }};\n{{- end }}\n}\n";
    site.resource("iteration", &owned(&["/upstream"]), iteration, "")?;
    let many: Vec<String> = (0..MANY).map(|number| format!("/many/key{number:03}")).collect();
    site.resource("manykeys", &many, "{{range gets \"/many/*\"}}{{.Value}},{{end}}{{len (ls \"/many\")}}", "")?;
    let nested = "{{range ls \"/\"}}{{.}} {{end}}{{range ls \"/app1\"}}{{.}}={{getv (printf \"/app1/%s\" .)}};{{end}}";
    site.resource("nested", &owned(&["/"]), nested, "prefix = \"/nested/production\"")
}

async fn fill(client: &mut Client) -> Result<()> {
    for (key, value) in KEYS {
        client.kv.put(put(key, value)).await?;
    }
    for number in 0..MANY {
        client.kv.put(put(&format!("/many/key{number:03}"), &number.to_string())).await?;
    }
    // Beside those that are wanted, keys that only begin like them.
    for (key, value) in [
        ("/nested/production/name", "n"),
        ("/nested/production/app1/host", "h"),
        ("/nested/production/app1/port", "p"),
        ("/nested/productions/other", "no"),
        ("/upstreams/no", "no"),
        ("/keys", "no"),
    ] {
        client.kv.put(put(key, value)).await?;
    }
    Ok(())
}

const NAMES: [&str; 5] = ["basic", "exists", "iteration", "manykeys", "nested"];

/// Files of the resources, by one round that reads the store.
async fn outputs(server: &Server) -> Result<Vec<String>> {
    let site = Site::new()?;
    resources(&site)?;
    let output: Output = run(site.command(server, &["-onetime"])?, b"", LIMIT).await?;
    ensure!(output.code == Some(0), "{output:?}");
    ensure!(!output.stderr.contains("p@sSw0rd"), "a value is in the log: {}", output.stderr);
    Ok(NAMES.map(|name| read(&site.out(name))).into())
}

/// Waits for the same files from the mirror of the keys that a watch keeps.
async fn watched(server: &Server, expected: &[String]) -> Result<()> {
    let site = Site::new()?;
    resources(&site)?;
    let _confd = Running::start(site.command(server, &["-watch"])?)?;
    for (name, expected) in NAMES.iter().zip(expected) {
        until("a file of the mirror", &site.out(name), expected).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confds_integration_test_passes_on_both_stores() -> Result<()> {
    let many: String = (0..MANY).map(|number| number.to_string() + ",").collect::<Vec<_>>().concat();
    let expected = [
        "host: 127.0.0.1\npassword: p@sSw0rd\nport: 3306\nusername: confd\nfoobar\n".to_owned(),
        "yes false".to_owned(),
        "upstream app {\n  server 10.0.1.10:8080;\n  server 10.0.1.11:8080;\n}\n".to_owned(),
        format!("{many}{MANY}"),
        "name host=h;port=p;".to_owned(),
    ];
    for kind in [Kind::Cleat, Kind::Etcd] {
        let server = Server::start(kind).await?;
        fill(&mut server.client().await?).await?;
        assert_eq!(outputs(&server).await?, expected, "{kind}");
        watched(&server, &expected).await?;
    }
    Ok(())
}

/// A confd that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        Ok(Self(command.spawn()?))
    }

    fn hang_up(&self) -> Result<()> {
        let pid = self.0.id().context("confd has ended")?.to_string();
        ensure!(std::process::Command::new("kill").args(["-HUP", &pid]).status()?.success(), "kill -HUP {pid}");
        Ok(())
    }
}

async fn follows_through_everything(kind: Kind) -> Result<()> {
    let mut server = Server::start(kind).await?;
    let site = Site::new()?;
    let keys = ["/app".to_owned()];
    let reloads = site.out("reloads");
    site.resource(
        "a",
        &keys,
        "{{getv \"/app/name\" \"-\"}}",
        &format!("reload_cmd = \"echo x >> {}\"", reloads.display()),
    )?;
    site.resource("b", &["/other".to_owned()], "{{getv \"/other\" \"none\"}}", "")?;
    let mut confd = Running::start(site.command(&server, &["-watch"])?)?;
    let (a, b) = (site.out("a"), site.out("b"));
    until("an empty store", &a, "-").await?;
    until("the other file", &b, "none").await?;
    let mut client = server.client().await?;
    client.kv.put(put("/app/name", "one")).await?;
    until("a put", &a, "one").await?;
    client.kv.delete_range(DeleteRangeRequest { key: "/app/name".into(), ..Default::default() }).await?;
    until("a delete", &a, "-").await?;
    // What did not change was not touched.
    assert_eq!(read(&b), "none");

    // The store is killed, comes back, and goes on while confd may not be connected yet; the history is compacted.
    server.kill()?;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(read(&a), "-");
    // What is known is known without it, to a resource that is new, too; one with other keys waits for it alone.
    site.resource("c", &keys, "c{{getv \"/app/name\" \"-\"}}", "")?;
    site.resource("d", &["/new".to_owned()], "{{getv \"/new\" \"none\"}}", "")?;
    confd.hang_up()?;
    until("a new resource while the store is away", &site.out("c"), "c-").await?;
    assert_eq!(read(&site.out("d")), "");
    server.restart().await?;
    until("a new resource after it", &site.out("d"), "none").await?;
    let mut client = server.client().await?;
    for value in ["two", "three"] {
        client.kv.put(put("/app/name", value)).await?;
    }
    let answer = client.kv.range(RangeRequest { key: "/app/name".into(), ..Default::default() }).await?.into_inner();
    let revision = answer.header.context("no header")?.revision;
    client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    until("the change while the store was away", &a, "three").await?;
    client.kv.put(put("/other", "x")).await?;
    until("a change after it", &b, "x").await?;
    ensure!(confd.0.try_wait()?.is_none(), "confd has ended");
    assert!(read(&reloads).lines().count() >= 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_when_cleat_goes_away() -> Result<()> {
    follows_through_everything(Kind::Cleat).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_when_etcd_goes_away() -> Result<()> {
    follows_through_everything(Kind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confd_waits_for_a_store_that_is_not_there_yet() -> Result<()> {
    let mut server = Server::prepare(Kind::Cleat, harness::Options::default())?;
    let site = Site::new()?;
    site.resource("a", &["/a".to_owned()], "{{getv \"/a\" \"empty\"}}", "")?;
    let _confd = Running::start(site.command(&server, &["-watch"])?)?;
    let once = run(site.command(&server, &["-onetime"])?, b"", LIMIT).await?;
    assert_eq!((once.code, read(&site.out("a")).as_str()), (Some(1), ""), "{once:?}");
    server.restart().await?;
    until("the first file", &site.out("a"), "empty").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_come_together_are_one_reload_of_who_uses_them() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let site = Site::new()?;
    let count = |name: &str| read(&site.out(name)).lines().count();
    for name in ["a", "b"] {
        let keys = [format!("/{name}")];
        let more =
            format!("wait = \"1s:30s\"\nreload_cmd = \"echo x >> {}\"", site.out(&format!("{name}.log")).display());
        site.resource(name, &keys, &format!("{{{{range gets \"/{name}/*\"}}}}{{{{.Value}}}};{{{{end}}}}"), &more)?;
    }
    let _confd = Running::start(site.command(&server, &["-watch"])?)?;
    until("the first reload", &site.out("b.log"), "x\n").await?;
    until("the first reload", &site.out("a.log"), "x\n").await?;
    let mut client = server.client().await?;
    for number in 0..40 {
        client.kv.put(put(&format!("/a/{number:02}"), &number.to_string())).await?;
    }
    let expected: String = (0..40).map(|number| number.to_string() + ";").collect::<Vec<_>>().concat();
    until("all changes", &site.out("a"), &expected).await?;
    // The command runs after the file has its place.
    let deadline = Instant::now() + LIMIT;
    while count("a.log") < 2 {
        ensure!(Instant::now() < deadline, "the changes were not followed by a reload");
        sleep(Duration::from_millis(20)).await;
    }
    // One for them all, unless the machine stood still for a second in between.
    assert!(count("a.log") < 12, "{} reloads", count("a.log"));
    assert_eq!(count("b.log"), 1, "nothing that b uses has changed");
    Ok(())
}
