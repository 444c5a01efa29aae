//! What becomes of the v2 API when only v3 asks for users: it would be a way around them.

use crate::observed::send;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
    StatusRequest,
};
use harness::{Kind, Options, Server, with_token};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Makes v3 ask for users, and returns root's token.
async fn enable(server: &Server) -> Result<String> {
    let mut client = server.client().await?;
    let (name, password) = ("root".to_owned(), "rootpw".to_owned());
    let user = AuthUserAddRequest { name: name.clone(), password: password.clone(), ..Default::default() };
    client.auth.user_add(user).await?;
    client.auth.user_grant_role(AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() }).await?;
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(client.auth.authenticate(AuthenticateRequest { name, password }).await?.into_inner().token)
}

/// Waits until the log has a line.
async fn wait_logged(server: &Server, text: &str) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !server.log().contains(text) {
        ensure!(Instant::now() < deadline, "no line has {text}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test]
async fn it_is_shut_until_it_has_users_or_is_asked_for() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    ensure!(send(&server, "PUT", "/v2/keys/a", "value=1", "").await? == 201);
    ensure!(send(&server, "PUT", "/v2/auth/users/root", r#"{"user":"root","password":"v2pw"}"#, "").await? == 201);
    let token = enable(&server).await?;
    for (method, path, body) in [
        ("GET", "/v2/keys/a", ""),
        ("PUT", "/v2/keys/a", "value=2"),
        ("GET", "/v2/keys/a?wait=true", ""),
        ("DELETE", "/v2/keys/a", ""),
        ("GET", "/v2/auth/users", ""),
        ("PUT", "/v2/auth/users/x", r#"{"user":"x","password":"x"}"#),
        ("PUT", "/v2/auth/enable", ""),
    ] {
        let status = send(&server, method, path, body, "").await?;
        ensure!(status == 401, "{method} {path} answers {status}");
    }
    wait_logged(&server, "the v2 API is refused").await?;
    let mut client = server.client().await?;
    let errors = client.maintenance.status(with_token(StatusRequest {}, Some(&token))).await?.into_inner().errors;
    ensure!(errors.iter().any(|error| error.contains("v2")), "status says nothing of it: {errors:?}");
    client.auth.auth_disable(with_token(AuthDisableRequest {}, Some(&token))).await?;
    ensure!(send(&server, "GET", "/v2/keys/a", "", "").await? == 200, "it is served again");
    wait_logged(&server, "the v2 API is served again").await?;
    // With users of its own it is not shut.
    ensure!(send(&server, "PUT", "/v2/auth/enable", "", "").await? == 200);
    client.auth.auth_enable(AuthEnableRequest {}).await.context("v3 asks for users again")?;
    ensure!(send(&server, "GET", "/v2/auth/users", "", "root:v2pw").await? == 200);
    ensure!(send(&server, "GET", "/v2/auth/users", "", "").await? == 401);
    Ok(())
}

#[tokio::test]
async fn it_is_open_where_it_was_asked_for() -> Result<()> {
    let v2 = Options { flags: vec!["--enable-v2=true".to_owned()], ..Options::default() };
    let server = Server::start_with(Kind::Cleat, v2).await?;
    enable(&server).await?;
    ensure!(send(&server, "PUT", "/v2/keys/a", "value=1", "").await? == 201);
    wait_logged(&server, "the v2 API is served to everybody").await
}
