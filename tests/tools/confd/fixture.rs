//! The integration test of confd's own project: the same keys and resources on every kind of store.

use super::double::Metad as Double;
use super::{LIMIT, Running, Site, Store, put, read, until};
use crate::metad::Metad;
use anyhow::{Result, ensure};
use client::v2;
use harness::{Client, Kind, Server};
use serde_json::{Map, Value, json};

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

/// Beside those that are wanted, keys that only begin like them.
const MORE: [(&str, &str); 6] = [
    ("/nested/production/name", "n"),
    ("/nested/production/app1/host", "h"),
    ("/nested/production/app1/port", "p"),
    ("/nested/productions/other", "no"),
    ("/upstreams/no", "no"),
    ("/keys", "no"),
];

const NAMES: [&str; 5] = ["basic", "exists", "iteration", "manykeys", "nested"];

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

/// All keys of the fixture.
fn keys() -> Vec<(String, String)> {
    let many = (0..MANY).map(|number| (format!("/many/key{number:03}"), number.to_string()));
    KEYS.iter().chain(&MORE).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).chain(many).collect()
}

async fn fill_v3(client: &mut Client) -> Result<()> {
    for (key, value) in keys() {
        client.kv.put(put(&key, &value)).await?;
    }
    Ok(())
}

async fn fill_v2(server: &Server) -> Result<()> {
    let options = v2::Options { endpoints: vec![server.endpoint()], request_timeout: LIMIT, ..v2::Options::default() };
    let client = v2::Client::new(&options)?;
    for (key, value) in keys() {
        client.set(&key, value).await?;
    }
    Ok(())
}

/// The keys as metad shows them.
fn tree() -> Value {
    let mut tree = Value::Object(Map::new());
    for (key, value) in keys() {
        let node = key.trim_start_matches('/').split('/').fold(&mut tree, |node, name| {
            if node.is_null() {
                *node = json!({});
            }
            &mut node[name]
        });
        *node = Value::String(value);
    }
    tree
}

fn expected() -> [String; 5] {
    let many: String = (0..MANY).map(|number| number.to_string() + ",").collect::<Vec<_>>().concat();
    [
        "host: 127.0.0.1\npassword: p@sSw0rd\nport: 3306\nusername: confd\nfoobar\n".to_owned(),
        "yes false".to_owned(),
        "upstream app {\n  server 10.0.1.10:8080;\n  server 10.0.1.11:8080;\n}\n".to_owned(),
        format!("{many}{MANY}"),
        "name host=h;port=p;".to_owned(),
    ]
}

/// The files by one round that reads the store, by rounds in an interval, and from the mirror that a watch keeps.
async fn gives_the_files(store: &Store) -> Result<()> {
    for flags in [&["-onetime", "-log-level", "debug"][..], &["-interval", "600"], &["-watch", "-log-level", "debug"]] {
        let site = Site::new()?;
        resources(&site)?;
        if flags[0] == "-onetime" {
            let output = site.once(store, &flags[1..]).await?;
            ensure!(output.code == Some(0), "{store:?}: {output:?}");
            ensure!(!output.stderr.contains("p@sSw0rd"), "a value is in the log: {}", output.stderr);
            let found: Vec<String> = NAMES.iter().map(|name| read(&site.out(name))).collect();
            ensure!(found == expected(), "{store:?}: {found:?}");
            continue;
        }
        let confd = Running::start(site.command(store, flags)?)?;
        for (name, expected) in NAMES.iter().zip(&expected()) {
            until(&format!("{store:?} {flags:?}"), &site.out(name), expected).await?;
        }
        ensure!(!confd.log().contains("p@sSw0rd"), "a value is in the log: {}", confd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confds_integration_test_passes_on_the_v3_api_of_both_stores() -> Result<()> {
    for kind in [Kind::Cleat, Kind::Etcd] {
        let server = Server::start(kind).await?;
        fill_v3(&mut server.client().await?).await?;
        gives_the_files(&Store::v3(&server)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confds_integration_test_passes_on_the_v2_api_of_both_stores() -> Result<()> {
    for kind in [Kind::Cleat, Kind::Etcd] {
        let server = crate::client::v2::v2_server(kind, &[]).await?;
        fill_v2(&server).await?;
        gives_the_files(&Store::v2(&server)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confds_integration_test_passes_on_metad() -> Result<()> {
    // The double answers as the original does; the other one is the program itself, which has the keys for every client.
    let double = Double::start(tree()).await?;
    gives_the_files(&double.store()).await?;
    let metad = Metad::start(&[]).await?;
    metad.write("PUT", "/v1/data", &tree().to_string()).await?;
    metad.write("PUT", "/v1/rule", r#"{"127.0.0.1":[{"path":"/","mode":1}]}"#).await?;
    gives_the_files(&Store { backend: "metad", node: metad.query.clone() }).await
}
