//! `export` and `import`.

use super::{fails, outcome, same, says};
use crate::restore::command;
use anyhow::{Result, ensure};
use harness::{Kind, Server};

/// Every key with its value, as `get` prints them.
async fn all(server: &Server, prefix: &str) -> Result<String> {
    says(server, &["get", "--prefix", prefix]).await
}

#[tokio::test]
async fn every_format_brings_the_same_keys_back() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        for (key, value) in [
            ("/app/color", "red"),
            ("/app/db/port", "05432"),
            ("/app/db", "beside its directory"),
            ("/app/text", "one\n  two\n"),
            ("/app/größe", "ü \"quoted\" $HOME"),
        ] {
            says(&server, &["put", key, value]).await?;
        }
        let before = all(&server, "/app/").await?;
        for target in ["app.yaml", "app.json", "app/"] {
            let exported = says(&server, &["export", "/app/", "-o", target]).await?;
            same(&exported, &format!("5 keys written to {target}, as of revision {}\n", revision(&server).await?))?;
            let to = format!("/copy-{target}");
            let imported = says(&server, &["import", target, &to]).await?;
            ensure!(imported.starts_with("5 created, 0 changed, 0 the same, at revision "), "{imported}");
            let copy = all(&server, &to).await?;
            same(&copy.replace(&to, "/app/"), &before)?;
            same(&says(&server, &["import", target, &to]).await?, "0 created, 0 changed, 5 the same\n")?;
        }
        let full = fails(&server, &["export", "/app/", "-o", "app/"], 1).await?;
        ensure!(full.contains("app/ is not empty; name a new directory"), "{full}");
        let nested = fails(&server, &["export", "/app/", "--nested"], 1).await?;
        ensure!(nested.contains("leave --nested out"), "{nested}");
        let dotenv = says(&server, &["export", "/app/db/", "--format", "dotenv"]).await?;
        same(&dotenv, "port=05432\n")?;
    }
    Ok(())
}

/// Behind these names are pipes, which have no other one.
#[tokio::test]
async fn what_is_written_to_a_pipe_is_all_that_is_in_it() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    says(&server, &["put", "/app/color", "red"]).await?;
    for name in ["/dev/stdout", "/dev/fd/1"] {
        let output = outcome(&server, &["export", "/app/", "-o", name, "--format", "yaml"], &[], "").await?;
        ensure!(output.code == Some(0), "{output:?}");
        same(&output.stdout, "color: red\n")?;
        same(&output.stderr, &format!("1 key written to {name}, as of revision 2\n"))?;
    }
    // A file that a shell has begun goes on.
    let file = server.scratch().join("begun.yaml");
    std::fs::write(&file, "shape: round\n")?;
    let begun = std::fs::OpenOptions::new().append(true).open(&file)?;
    let mut command = command(&["--endpoints", &server.endpoint(), "export", "/app/", "-o", "/dev/stdout"])?;
    let status = command.args(["--format", "yaml"]).stdout(begun).stderr(std::process::Stdio::null()).status()?;
    ensure!(status.success(), "{status}");
    same(&std::fs::read_to_string(&file)?, "shape: round\ncolor: red\n")
}

/// The present revision.
async fn revision(server: &Server) -> Result<i64> {
    let status: serde_json::Value = serde_json::from_str(&says(server, &["get", "x", "-w", "json"]).await?)?;
    Ok(status["header"]["revision"].as_i64().unwrap_or_default())
}

#[tokio::test]
async fn a_key_that_is_imported_keeps_its_lease() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let lease = says(&server, &["lease", "grant", "600"]).await?;
        let lease = lease.split_whitespace().nth(1).unwrap_or_default().to_owned();
        says(&server, &["put", "/app/leased", "1", "--lease", &lease]).await?;
        let imported = outcome(&server, &["import", "-", "/app/", "--format", "yaml"], &[], "leased: 2\n").await?;
        same(&imported.stdout, "0 created, 1 changed, 0 the same, at revision 3\n")?;
        let kv: serde_json::Value = serde_json::from_str(&says(&server, &["get", "/app/leased", "-w", "json"]).await?)?;
        let expected = i64::from_str_radix(&lease, 16)?;
        ensure!(kv["kvs"][0]["value"] == "Mg==" && kv["kvs"][0]["lease"] == expected, "{kv} {lease}");
    }
    Ok(())
}

#[tokio::test]
async fn import_changes_only_what_differs() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        says(&server, &["put", "/app/same", "1"]).await?;
        says(&server, &["put", "/app/old", "1"]).await?;
        let file = "same: 1\nold: 2\nnew:\n  deep: 3\n";
        let import = async |flags: &[&str]| {
            let args = [&["import", "-", "/app/", "--format", "yaml"], flags].concat();
            outcome(&server, &args, &[], file).await
        };
        let dry = import(&["--dry-run"]).await?;
        let plan =
            "+ /app/new/deep\n~ /app/old\n1 to create, 1 to change, 1 the same; nothing was written (--dry-run)\n";
        same(&dry.stdout, plan)?;
        let kept = import(&["--keep-existing"]).await?;
        same(&kept.stdout, "1 created, 0 changed, 1 kept, 1 the same, at revision 4\n")?;
        same(&import(&[]).await?.stdout, "0 created, 1 changed, 2 the same, at revision 5\n")?;
        same(&all(&server, "/app/").await?, "/app/new/deep\n3\n/app/old\n2\n/app/same\n1\n")?;
        // More than one transaction takes.
        let many: Vec<String> = (0..500).map(|n| format!("KEY_{n:03}={n}")).collect();
        std::fs::write(server.scratch().join("many.env"), many.join("\n"))?;
        let imported = says(&server, &["import", "many.env", "/many/"]).await?;
        ensure!(imported.starts_with("500 created, "), "{imported}");
        ensure!(all(&server, "/many/").await?.lines().count() == 1000);
        let bad = outcome(&server, &["import", "-", "--format", "json"], &[], "{\"a\": [1]}").await?;
        ensure!(bad.code == Some(1) && bad.stderr.contains("cannot import -: line 1"), "{bad:?}");
        let unnamed = fails(&server, &["import", "none"], 1).await?;
        ensure!(unnamed.contains("cannot import none: No such file or directory"), "{unnamed}");
        let missing = fails(&server, &["import", "none.yaml"], 1).await?;
        ensure!(missing.contains("cannot import none.yaml: No such file or directory"), "{missing}");
    }
    Ok(())
}
