//! The same requests to etcd 3.4 and to Cleat, in the same order: status, headers and bodies must be the same, but for ids,
//! ports and times. Users and roles, what is odd in HTTP, and streams.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::http::{self, Body, Lines};
use harness::{Kind, Options, Server};
use hyper::Request;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Headers that are compared.
const HEADERS: [&str; 4] = ["content-type", "x-etcd-index", "allow", "location"];
/// Headers of which is compared whether they are there.
const PRESENT: [&str; 3] = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"];

struct Pair {
    etcd: Server,
    cleat: Server,
}

/// A request; the body is a form unless it is JSON.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    body: Given<'a>,
    user: &'a str,
}

enum Given<'a> {
    Nothing,
    Form(&'a str),
    Json(Value),
    /// A content type, and a body.
    As(&'a str, &'a str),
}

impl Asked<'_> {
    fn request(&self) -> Result<Request<Body>> {
        let mut request = Request::builder().method(self.method).uri(self.path);
        if !self.user.is_empty() {
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(self.user)));
        }
        let (kind, body) = match &self.body {
            Given::Nothing => ("", String::new()),
            Given::Form(form) => ("application/x-www-form-urlencoded", (*form).to_owned()),
            Given::Json(value) => ("application/json", value.to_string()),
            Given::As(kind, body) => (*kind, (*body).to_owned()),
        };
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        Ok(request.body(http::full(body))?)
    }
}

impl Pair {
    async fn start() -> Result<Self> {
        let v2 = Options { flags: vec!["--enable-v2=true".to_owned()], ..Options::default() };
        let (etcd, cleat) = tokio::join!(Server::start_with(Kind::Etcd, v2), Server::start(Kind::Cleat));
        Ok(Self { etcd: etcd?, cleat: cleat? })
    }

    async fn check(&self, asked: Asked<'_>) -> Result<()> {
        let mut answers = Vec::new();
        for server in [&self.etcd, &self.cleat] {
            let answer = http::send(&server.endpoint(), asked.request()?).await;
            let answer = answer.with_context(|| format!("{} {} of {}", asked.method, asked.path, server.endpoint()))?;
            let headers: Vec<String> = HEADERS.iter().map(|name| answer.header(name).to_owned()).collect();
            let present: Vec<bool> = PRESENT.iter().map(|name| answer.headers.contains_key(*name)).collect();
            answers.push((answer.status, headers, present, normalised(server, &answer.body)));
        }
        let Asked { method, path, user, .. } = asked;
        ensure!(answers[0] == answers[1], "{method} {path} {user}\netcd  {:?}\ncleat {:?}", answers[0], answers[1]);
        Ok(())
    }

    async fn key(&self, method: &str, path: &str, form: &str) -> Result<()> {
        let path = &format!("/v2/keys{path}");
        self.check(Asked { method, path, body: Given::Form(form), user: "" }).await
    }

    async fn auth(&self, method: &str, path: &str, body: Value, user: &str) -> Result<()> {
        let path = &format!("/v2/auth{path}");
        let body = if body.is_null() { Given::Nothing } else { Given::Json(body) };
        self.check(Asked { method, path, body, user }).await
    }
}

/// A body without what must differ.
fn normalised(server: &Server, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).into_owned();
    let text = text.replace(&server.endpoint(), "CLIENT").replace(&server.peer_endpoint(), "PEER");
    let mut out = String::new();
    for (place, part) in text.split('"').enumerate() {
        let is_time = part.len() > 19 && part.ends_with('Z') && part.as_bytes()[10] == b'T';
        let is_id = (12..=16).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        out.push_str(if place == 0 { "" } else { "\"" });
        out.push_str(if is_time {
            "TIME"
        } else if is_id {
            "ID"
        } else {
            part
        });
    }
    out
}

/// Long because it is a list: users and roles are made, get permissions, are used and go.
#[tokio::test]
async fn users_and_roles_are_etcds() -> Result<()> {
    let pair = Pair::start().await?;
    let none = || Value::Null;
    for (method, path) in [
        ("GET", "/enable"),
        ("GET", "/users"),
        ("GET", "/roles"),
        ("GET", "/users/"),
        ("GET", "/users/a/b"),
        ("POST", "/users"),
        ("PUT", "/roles"),
        ("GET", "/users/ann"),
        ("GET", "/roles/x"),
        ("GET", "/foo"),
        ("POST", "/enable"),
        ("PUT", "/enable"),
        ("DELETE", "/enable"),
    ] {
        pair.auth(method, path, none(), "").await?;
    }
    let user = |name: &str, more: Value| {
        let mut user = json!({ "user": name });
        for (name, value) in more.as_object().into_iter().flatten() {
            user[name] = value.clone();
        }
        user
    };
    for (path, body) in [
        ("/users/ann", user("bob", json!({ "password": "x" }))),
        ("/users/ann", json!("no user")),
        ("/users/ann", user("ann", none())),
        ("/users/ann", user("ann", json!({ "password": "pw" }))),
        ("/users/ann", user("ann", json!({ "password": "pw2" }))),
        ("/users/bob", user("bob", json!({ "password": "pw", "roles": ["r1"] }))),
        ("/users/bob", user("bob", json!({ "password": "pw", "roles": ["r1"] }))),
        ("/users/bob", user("bob", json!({ "roles": ["r1"], "grant": ["r2"] }))),
        ("/users/bob", user("bob", json!({ "grant": ["r2"] }))),
        ("/users/bob", user("bob", json!({ "grant": ["r2"] }))),
        ("/users/bob", user("bob", json!({ "revoke": ["zz"] }))),
        ("/users/cc", user("cc", json!({ "grant": ["r"] }))),
        ("/roles/r1", json!({ "role": "r1", "permissions": { "kv": { "read": ["/a/*"], "write": ["/b"] } } })),
        ("/roles/r1", json!({ "role": "r1" })),
        ("/roles/r1", json!({ "role": "r3" })),
        ("/roles/root", json!({ "role": "root" })),
        ("/roles/r1", json!({ "role": "r1", "grant": { "kv": { "read": ["/c/*"], "write": [] } } })),
        ("/roles/r1", json!({ "role": "r1", "grant": { "kv": { "read": ["/c/*"] } } })),
        ("/roles/r1", json!({ "role": "r1", "revoke": { "kv": { "read": ["/zz"] } } })),
        (
            "/roles/r1",
            json!({ "role": "r1", "permissions": { "kv": { "read": ["/x"] } }, "grant": { "kv": { "read": ["/c"] } } }),
        ),
        ("/roles/nn", json!({ "role": "nn", "grant": { "kv": { "read": ["/c/*"] } } })),
        ("/roles/r2", json!({ "role": "r2" })),
        ("/users/root", user("root", json!({ "password": "rootpw" }))),
    ] {
        pair.auth("PUT", path, body, "").await?;
    }
    for path in ["/users", "/roles", "/users/bob", "/users/root", "/users/ann", "/roles/r1", "/roles/root"] {
        pair.auth("GET", path, none(), "").await?;
    }
    pair.key("PUT", "/a/1", "value=1").await?;
    for user in ["", "", "root:rootpw"] {
        pair.auth("PUT", "/enable", none(), user).await?;
    }
    for user in ["", "root:rootpw", "root:bad", "bob:pw"] {
        pair.auth("GET", "/users", none(), user).await?;
    }
    pair.auth("DELETE", "/users/root", none(), "root:rootpw").await?;
    for (method, path, user) in [
        ("GET", "", ""),
        ("GET", "/", ""),
        ("GET", "/a/1", ""),
        ("PUT", "/x", ""),
        ("GET", "/x", "zz:zz"),
        ("GET", "/x", "bob:pw"),
        ("GET", "/a/1", "bob:pw"),
        ("GET", "/a?recursive=true", "bob:pw"),
        ("GET", "/a/?recursive=true", "bob:pw"),
        ("PUT", "/b", "bob:pw"),
        ("PUT", "/a/1", "bob:pw"),
        ("GET", "?sorted=true", "root:rootpw"),
    ] {
        let path = &format!("/v2/keys{path}");
        pair.check(Asked { method, path, body: Given::Form("value=q"), user }).await?;
    }
    let no_guest = json!({ "role": "guest", "revoke": { "kv": { "write": ["/*"] } } });
    pair.auth("PUT", "/roles/guest", no_guest, "root:rootpw").await?;
    pair.key("PUT", "/x", "value=1").await?;
    pair.key("GET", "/x", "").await?;
    pair.check(Asked { method: "POST", path: "/v2/members", body: Given::Json(json!({})), user: "" }).await?;
    for (method, path, user) in [
        ("DELETE", "/enable", ""),
        ("DELETE", "/enable", "root:rootpw"),
        ("DELETE", "/users/bob", ""),
        ("DELETE", "/users/bob", ""),
        ("DELETE", "/roles/r1", ""),
        ("DELETE", "/roles/r1", ""),
        ("DELETE", "/roles/root", ""),
        ("DELETE", "/users/root", ""),
        ("GET", "/users", ""),
    ] {
        pair.auth(method, path, none(), user).await?;
    }
    Ok(())
}

/// etcd reads them with Go's decoder.
#[tokio::test]
async fn odd_bodies_of_users_and_roles_are_read_as_by_etcd() -> Result<()> {
    let pair = Pair::start().await?;
    for (path, body) in [
        ("users/a", r#"{"USER":"a","Password":"p","other":[1]} and more"#),
        ("users/a", r#"{"user":"a","roles":null,"grant":["r"]}"#),
        ("users/a", r#"{"user":"a","password":null,"grant":null}"#),
        ("users/a", r#"["a"]"#),
        ("users/a", "null"),
        ("users/a", ""),
        ("users/a", r#"{"user":1}"#),
        ("users/a", r#"{"user":"a","roles":"r"}"#),
        ("users/a", r#"{"user":"a","roles":[1]}"#),
        ("roles/r", r#"{"Role":"r","Permissions":{"KV":{"Read":["/a"],"write":null}}}"#),
        ("roles/r", r#"{"role":"r","grant":{"kv":{"write":["/b"]}},"revoke":null}"#),
        ("roles/s", r#"{"role":"s","permissions":[]}"#),
        ("roles/s", r#"{"role":"s","permissions":{"kv":[]}}"#),
        ("roles/s", r#"{"role":"s","permissions":null}"#),
    ] {
        let path = &format!("/v2/auth/{path}");
        pair.check(Asked { method: "PUT", path, body: Given::As("application/json", body), user: "" }).await?;
        pair.check(Asked { method: "GET", path, body: Given::Nothing, user: "" }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_odd_in_http_is_answered_as_by_etcd() -> Result<()> {
    let pair = Pair::start().await?;
    for path in [
        "/v2/keys/a?b;c",
        "/v2/keys/a?value=%zz",
        "/v2/keys/a?dir",
        "/v2",
        "/v2/",
        "/v2/keys/%C3%28",
        "/v2/keys/a%00b",
        "/v2/keys/./a",
        "/v2/keys/..",
        "//v2/keys",
        "/v2//keys/a?x=1",
        "/v2/stats/foo",
        "/v2/stats",
        "/v2/stats/",
        "/v2/members/leader/",
        "/v2/machines/",
        "/v2/keys/sp%20%2E",
        "/v2/keys/a/b/../c",
        "/x//y",
    ] {
        for method in ["GET", "PUT", "HEAD"] {
            pair.check(Asked { method, path, body: Given::Form("value=v"), user: "" }).await?;
        }
    }
    for (kind, body) in [
        ("application/x-www-form-urlencoded; charset=x", "value=%ff%fe"),
        ("text/plain", "value=1"),
        ("bad/", "value=1"),
        (";", "value=1"),
        ("a b/c", "value=1"),
        ("text", "value=1"),
        ("APPLICATION/x-www-form-urlencoded", "value=a%3Cb%3E%26"),
        ("application/x-www-form-urlencoded", "value=%01%08%09%22%5C%E2%80%A8"),
    ] {
        let body = Given::As(kind, body);
        pair.check(Asked { method: "PUT", path: "/v2/keys/q?ttl=", body, user: "" }).await?;
    }
    for ttl in ["9223372036", "99999999999", "9223372037", "1e3", "+5", "18446744073709551615"] {
        pair.key("PUT", &format!("/ttl{ttl}"), &format!("value=1&ttl={ttl}")).await?;
    }
    // What has expired goes within half a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // On a busy machine it may go later, and the seconds that are left change between the two answers.
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(differs) = pair.key("GET", "/?recursive=true&sorted=true", "").await {
        ensure!(Instant::now() < deadline, differs);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for method in ["HEAD", "PATCH"] {
        pair.key(method, "/q?wait=true", "").await?;
    }
    for (method, path, body) in [
        ("POST", "", json!({ "peerURLs": ["http://127.0.0.1:1/x"] })),
        ("POST", "", json!({ "peerURLs": "x" })),
        ("POST", "", json!({ "peerURLs": ["ftp://127.0.0.1:1"] })),
        ("POST", "", json!([])),
        ("POST", "", json!({ "peerURLs": [1] })),
        ("PUT", "/zz", json!({ "peerURLs": ["http://127.0.0.1:1"] })),
        ("PUT", "/", json!({ "peerURLs": ["http://127.0.0.1:1"] })),
    ] {
        let path = &format!("/v2/members{path}");
        pair.check(Asked { method, path, body: Given::Json(body), user: "" }).await?;
    }
    let body = || Given::As("application/json; charset=utf-8", "x");
    pair.check(Asked { method: "POST", path: "/v2/members", body: body(), user: "" }).await
}

/// More than is listed at once, and than fits in one piece of an answer: 1.2 MB.
#[tokio::test]
async fn a_large_tree_is_listed_as_by_etcd() -> Result<()> {
    const VALUE: usize = 1000;
    let pair = Pair::start().await?;
    let value = "v".repeat(VALUE);
    for directory in 0..12 {
        for file in 0..100 {
            let form = format!("value={value}%3c%00%ff{file}");
            let put = |server: &Server| {
                let path = format!("/v2/keys/large/d{directory}/f{file}");
                let asked = Asked { method: "PUT", path: &path, body: Given::Form(&form), user: "" }.request();
                let endpoint = server.endpoint();
                async move { http::send(&endpoint, asked?).await }
            };
            let (etcd, cleat) = tokio::try_join!(put(&pair.etcd), put(&pair.cleat))?;
            ensure!(etcd.status == 201 && cleat.status == 201, "{} {}", etcd.status, cleat.status);
        }
    }
    for path in [
        "?sorted=true",
        "?recursive=true&sorted=true",
        "/large?recursive=true&sorted=true",
        "/large/d3?sorted=true",
        "/large?quorum=true&recursive=true&sorted=true",
    ] {
        pair.key("GET", path, "").await?;
    }
    let request = Request::get("/v2/keys/?recursive=true").body(http::full(String::new()))?;
    let answer = http::send(&pair.cleat.endpoint(), request).await?;
    ensure!(answer.body.len() > 12 * 100 * VALUE && answer.header("content-length").is_empty(), "it came in pieces");
    pair.key("DELETE", "/large?recursive=true", "").await
}

#[tokio::test]
async fn streams_tell_what_etcds_tell() -> Result<()> {
    let pair = Pair::start().await?;
    for (path, changes, events) in [
        ("/s?wait=true&stream=true&recursive=true", &["PUT /s/a/b", "PUT /s/_h/b", "DELETE /s/a", "DELETE /s"][..], 4),
        ("/s/a?wait=true&stream=true", &["PUT /s/a", "DELETE /s/a", "PUT /s/a"], 4),
        ("/s/d/e?wait=true&stream=true&recursive=true", &["PUT /s/d/e/f", "DELETE /s/d", "PUT /s/d/e"], 3),
        ("/?wait=true&stream=true&recursive=true", &["PUT /_x", "PUT /y", "DELETE /y"], 2),
        ("/_x?wait=true&stream=true&recursive=true", &["DELETE /_x", "PUT /_x/y", "PUT /_x/_z", "POST /_x"], 4),
        // Of the past there is one.
        ("/y?wait=true&stream=true&waitIndex=5", &["PUT /y", "DELETE /y"], 1),
    ] {
        let open = async |server: &Server| {
            let request = Request::get(format!("/v2/keys{path}")).body(http::full(""))?;
            anyhow::Ok(http::open(&server.endpoint(), request).await?.lines)
        };
        let mut streams = [open(&pair.etcd).await?, open(&pair.cleat).await?];
        for change in changes {
            let (method, path) = change.split_once(' ').context("a method and a path")?;
            let all = if method == "DELETE" { "?recursive=true" } else { "" };
            pair.key(method, &format!("{path}{all}"), "value=1").await?;
        }
        for place in 0..events {
            let [etcd, cleat] = &mut streams;
            let (etcd, cleat) = (line(etcd).await?, line(cleat).await?);
            ensure!(etcd == cleat, "{path}, event {place}\netcd  {etcd}\ncleat {cleat}");
        }
    }
    Ok(())
}

async fn line(lines: &mut Lines) -> Result<Value> {
    lines.next().await?.context("the stream ended")
}
