//! The first user: root, without whom authentication cannot be switched on. Over the JSON gateway, which has the calls.

use crate::cluster::{ClusterArgs, PAUSE};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::http::{Http, Server};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const ROOT: &str = "root";
const LIMIT: Duration = Duration::from_secs(10);
const MAX_BODY_BYTES: usize = 64 << 10;
/// What etcd says when a part of the work was done before.
const USER_THERE: &str = "etcdserver: user name already exists";
const ROLE_THERE: &str = "etcdserver: role name already exists";

/// Makes the user and the role, and requires users. What is there already stays as it is, the password too.
///
/// # Errors
/// The cluster does not answer in time, or refuses; or users are required and root has another password.
pub(crate) async fn make_root(args: &ClusterArgs) -> Result<()> {
    let password = args.password_of(ROOT)?;
    let gateway = Gateway::new(args)?;
    let signed_in = gateway.call("authenticate", &json!({"name": ROOT, "password": password})).await?;
    match signed_in {
        Ok(_) => {
            say!("users are required, and root can sign in");
            return Ok(());
        }
        Err(refusal) if refusal == "etcdserver: authentication is not enabled" => {}
        Err(refusal) => bail!(
            "users are required, and root cannot sign in with the password of the Secret ({refusal}): change one of them"
        ),
    }
    let steps = [
        ("user/add", json!({"name": ROOT, "password": password}), USER_THERE),
        ("role/add", json!({"name": ROOT}), ROLE_THERE),
        ("user/grant", json!({"user": ROOT, "role": ROOT}), ""),
        ("enable", json!({}), ""),
    ];
    for (path, body, done) in steps {
        if let Err(refusal) = gateway.call(path, &body).await? {
            ensure!(refusal == done, "/v3/auth/{path}: {refusal}");
            if done == USER_THERE {
                // It may have been made with another password, which nobody could sign in with afterwards.
                let changed = gateway.call("user/changepw", &json!({"name": ROOT, "password": password})).await?;
                changed.map_err(|refusal| anyhow::anyhow!("/v3/auth/user/changepw: {refusal}"))?;
            }
        }
    }
    say!("users are required from now on");
    Ok(())
}

/// The endpoints, as they serve JSON.
struct Gateway {
    servers: Vec<Server>,
    http: Http,
    wait: Duration,
}

impl Gateway {
    fn new(args: &ClusterArgs) -> Result<Self> {
        let tls = args.tls();
        let scheme = if tls.ca_file.is_some() { "https" } else { "http" };
        let mut servers = Vec::new();
        for endpoint in &args.endpoints {
            let url = if endpoint.contains("://") { endpoint.clone() } else { format!("{scheme}://{endpoint}") };
            let (server, _) =
                Server::parse(&url).map_err(|reason| anyhow::anyhow!("--endpoints {endpoint:?}: {reason}"))?;
            servers.push(server);
        }
        let http = Http { proxy: None, tls, connect_timeout: LIMIT, max_body_bytes: MAX_BODY_BYTES };
        Ok(Self { servers, http, wait: Duration::from_secs(args.wait) })
    }

    /// A request, made again while no endpoint can do it. The answer, or the text of a refusal. Each of ours may be done twice.
    async fn call(&self, path: &str, body: &Value) -> Result<Result<Value, String>> {
        let end = Instant::now() + self.wait;
        loop {
            let mut reason = "there is no endpoint".to_owned();
            for server in &self.servers {
                match self.once(server, path, body).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => reason = format!("{error:#}"),
                }
            }
            ensure!(Instant::now() < end, "the cluster does not answer: {reason}");
            terminal::complain(&format!("waiting for the cluster: {reason}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One attempt. An error may pass.
    async fn once(&self, server: &Server, path: &str, body: &Value) -> Result<Result<Value, String>> {
        let request = Request::builder().method(Method::POST).uri(format!("/v3/auth/{path}"));
        let request = request.header(CONTENT_TYPE, "application/json").body(Bytes::from(body.to_string()))?;
        let answer = self.http.ask(server, request, LIMIT).await?;
        let said: Value =
            serde_json::from_slice(&answer.body).context("the answer is no JSON: is this the client port?")?;
        if answer.status == StatusCode::OK {
            return Ok(Ok(said));
        }
        let refusal = said["message"].as_str().unwrap_or_default().to_owned();
        ensure!(!answer.status.is_server_error(), "{}: {refusal}", answer.status);
        Ok(Err(refusal))
    }
}
