//! From the store through metad and confd to a file and its reload.

use super::{LIMIT, Metad};
use anyhow::{Result, ensure};
use api::etcdserverpb::PutRequest;
use harness::server::built_binary;
use harness::{Kind, Server};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

async fn until(path: &Path, expected: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        if found == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} is {found:?}, not {expected:?}", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_the_store_reloads_who_uses_the_file() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let metad = Metad::start(&["--backend=etcdv3", "--nodes", &server.client_url()]).await?;
    metad.write("PUT", "/v1/data/nodes/1", r#"{"name":"one","peers":["a","b"]}"#).await?;
    metad.write("PUT", "/v1/mapping/127.0.0.1", r#"{"node":"/nodes/1"}"#).await?;
    let dir = tempfile::tempdir()?;
    for name in ["conf.d", "templates"] {
        std::fs::create_dir(dir.path().join(name))?;
    }
    let (out, reloads) = (dir.path().join("out"), dir.path().join("reloads"));
    let resource = format!(
        "[template]\nprefix = \"/self\"\nsrc = \"a.tmpl\"\ndest = \"{}\"\nkeys = [\"/node\"]\nreload_cmd = \"echo x >> {}\"\n",
        out.display(),
        reloads.display()
    );
    std::fs::write(dir.path().join("conf.d/a.toml"), resource)?;
    let template = "{{getv \"/node/name\"}}:{{range gets \"/node/peers/*\"}} {{.Value}}{{end}}\n";
    std::fs::write(dir.path().join("templates/a.tmpl"), template)?;
    let mut confd = tokio::process::Command::new(built_binary("confd")?);
    confd.args(["-config-file", "/nonexistent", "-backend", "metad", "-watch", "-node", &metad.query, "-confdir"]);
    confd.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _running = confd.spawn()?;
    until(&out, "one: a b\n").await?;
    until(&reloads, "x\n").await?;
    let put = PutRequest { key: "/nodes/1/name".into(), value: "uno".into(), ..PutRequest::default() };
    server.client().await?.kv.put(put).await?;
    until(&out, "uno: a b\n").await?;
    until(&reloads, "x\nx\n").await?;
    metad.write("POST", "/v1/data/nodes/1", r#"{"name":"dos","peers":["c"]}"#).await?;
    until(&out, "dos: c\n").await
}
