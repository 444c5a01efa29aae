//! Users of the tools and of the client library, against etcd and Cleat with authentication.

use crate::client::client_of;
use crate::cutter::{Cutter, MARK};
use crate::restore::{command, text};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
};
use client::{Client, Error, Options, User, WatchOptions, message};
use harness::{Kind, Server};
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

pub(crate) const PASSWORD: &str = "s3cret";

/// A server with the user root; authentication is not enabled yet.
pub(crate) async fn with_root(kind: Kind, flags: &[&str]) -> Result<Server> {
    let flags = ["--bcrypt-cost=4"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    let server = Server::start_with(kind, harness::Options { flags, ..harness::Options::default() }).await?;
    let mut client = server.client().await?;
    let (name, password) = ("root".to_owned(), PASSWORD.to_owned());
    client.auth.user_add(AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() }).await?;
    client.auth.role_add(AuthRoleAddRequest { name: "root".to_owned() }).await?;
    let (user, role) = ("root".to_owned(), "root".to_owned());
    client.auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
    Ok(server)
}

pub(crate) async fn enable(server: &Server) -> Result<()> {
    server.client().await?.auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(())
}

fn client_as(server: &Server, name: &str, password: &str) -> Result<Client> {
    let user = Some(User { name: name.to_owned(), password: password.to_owned() });
    let request_timeout = Duration::from_secs(20);
    Ok(Client::new(&Options { endpoints: vec![server.endpoint()], user, request_timeout, ..Options::default() })?)
}

#[tokio::test]
async fn a_client_logs_in_when_it_must() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut server = with_root(kind, &[]).await?;
        let client = client_as(&server, "root", PASSWORD)?;
        // A user does no harm where none is needed, and counts from the moment when one is.
        client.put(message::put("a", "1")).await?;
        enable(&server).await?;
        client.put(message::put("a", "2")).await?;
        let mut watch = client.watch(WatchOptions { key: "a".into(), ..WatchOptions::default() }).await?;
        // No member remembers a simple token: it is fetched again, for a write and for the watch.
        server.kill()?;
        server.restart().await?;
        ensure!(client.get("a").await?.context("it was put")?.version == 2);
        client.put(message::put("a", "3")).await?;
        let seen = watch.next().await?;
        ensure!(seen.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| &*kv.value == b"3")), "{seen:?}");
        ensure!(client.status(&server.endpoint()).await?.leader != 0);
        let mut download = client.snapshot(None).await?;
        ensure!(download.next().await?.is_some());

        let error = client_of(&[server.endpoint()])?.get("a").await.err().context("nobody may read")?;
        ensure!(error.is(api::error::Error::UserEmpty), "{error}");
        let wrong = client_as(&server, "root", "wr0ng")?;
        let error = wrong.put(message::put("a", "4")).await.err().context("the password is wrong")?;
        ensure!(matches!(error, Error::Answered { .. }) && error.is(api::error::Error::AuthFailed), "{error}");
        let printed = format!("{error} {error:?} {wrong:?} {client:?}");
        ensure!(!printed.contains("wr0ng") && !printed.contains(PASSWORD), "{printed}");
        // What was needed is needed no more.
        let root = server.client().await?;
        let token = root.login("root", PASSWORD).await?;
        let mut request = tonic::Request::new(AuthDisableRequest {});
        request.metadata_mut().insert("token", token.parse()?);
        root.clone().auth.auth_disable(request).await?;
        client.put(message::put("a", "5")).await?;
    }
    Ok(())
}

/// Whatever becomes of a sign-in, the write that it is for was not sent yet.
#[tokio::test]
async fn a_write_goes_elsewhere_when_its_sign_in_is_lost() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = with_root(kind, &[]).await?;
        let add = AuthUserAddRequest { name: "u".to_owned(), password: MARK.to_owned(), ..Default::default() };
        let mut client = server.client().await?;
        client.auth.user_add(add).await?;
        let (user, role) = ("u".to_owned(), "root".to_owned());
        client.auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
        enable(&server).await?;
        let cutter = Cutter::before(&server).await?;
        let user = Some(User { name: "u".to_owned(), password: MARK.to_owned() });
        let (endpoints, request_timeout) = (vec![cutter.endpoint.clone(), server.endpoint()], Duration::from_secs(20));
        let client = Client::new(&Options { endpoints, user, request_timeout, ..Options::default() })?;
        client.put(message::put("a", "1")).await?;
        ensure!(client.get("a").await?.context("it was put")?.version == 1);
    }
    Ok(())
}

/// What `cleatctl` prints in both places, and whether it succeeded.
fn cleatctl(args: &[&str], environment: &[(&str, &str)], input: &str) -> Result<(bool, String)> {
    let mut command = command(args)?;
    command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut pipe = child.stdin.take().context("standard input is piped")?;
    // It may end without reading.
    drop(pipe.write_all(input.as_bytes()));
    drop(pipe);
    let output = child.wait_with_output()?;
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!printed.contains(PASSWORD) && !printed.contains("wr0ng"), "{args:?} prints a password: {printed}");
    Ok((output.status.success(), printed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleatctl_names_its_user_as_etcdctl_does() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = with_root(kind, &[]).await?;
        enable(&server).await?;
        let (file, endpoint) = (server.scratch().join("snapshot"), server.endpoint());
        let save = |flags: &[&str], environment: &[(&str, &str)], input: &str| {
            let args = ["snapshot", "save", text(&file)?, "--endpoints", &endpoint];
            cleatctl(&[&args, flags].concat(), environment, input)
        };
        let (with_password, typed) = (format!("root:{PASSWORD}"), format!("{PASSWORD}\n"));
        let good: [(&[&str], &[(&str, &str)], &str); 6] = [
            (&["--user", &with_password], &[], ""),
            (&["--user", "root", "--password", PASSWORD], &[], ""),
            (&[], &[("ETCDCTL_USER", &with_password)], ""),
            (&["--user=root"], &[("ETCDCTL_PASSWORD", PASSWORD)], ""),
            (&["--user", "root"], &[], &typed),
            // The flag counts, not the environment.
            (&["--user", &with_password], &[("ETCDCTL_USER", "root:wr0ng")], ""),
        ];
        for (flags, environment, input) in good {
            let (is_done, printed) = save(flags, environment, input)?;
            ensure!(is_done && file.exists(), "{kind} {flags:?}: {printed}");
            ensure!(printed.contains("Password: ") != input.is_empty(), "{flags:?}: {printed}");
            std::fs::remove_file(&file)?;
        }
        let refused = "authentication failed, invalid user ID or password";
        let bad: [(&[&str], &str, &str); 5] = [
            (&["--user", "root:wr0ng"], "", refused),
            (&["--user", "root"], "wr0ng\n", refused),
            (&["--user", "root"], "", "no password: write it on standard input"),
            (&["--password", PASSWORD], "", "name the user with --user"),
            (&["--user", &with_password, "--usr=root:wr0ng"], "", "unknown flag: --usr"),
        ];
        for (flags, input, with) in bad {
            let (is_done, printed) = save(flags, &[], input)?;
            ensure!(!is_done && printed.contains(with) && !file.exists(), "{kind} {flags:?}: {printed}");
        }
        // What asks no server needs nobody.
        for args in [&["version", "--user", "root"][..], &["snapshot", "status", "--user", "root", "nofile"]] {
            let (_, printed) = cleatctl(args, &[], "")?;
            ensure!(!printed.contains("Password: "), "{args:?}: {printed}");
        }
        let (_, help) = cleatctl(&["--help"], &[("ETCDCTL_USER", &with_password)], "")?;
        ensure!(help.contains("ETCDCTL_COMMAND_TIMEOUT"), "{help}");
    }
    // A cluster that needs nobody may be asked by somebody; with Cleat, nobody may take a snapshot where users are needed.
    let server = with_root(Kind::Cleat, &[]).await?;
    let (file, endpoint) = (server.scratch().join("snapshot"), server.endpoint());
    let args = ["snapshot", "save", text(&file)?, "--endpoints", &endpoint];
    let (is_done, printed) = cleatctl(&[&args[..], &["--user", "root:wr0ng"]].concat(), &[], "")?;
    ensure!(is_done, "{printed}");
    enable(&server).await?;
    let (is_done, printed) = cleatctl(&args, &[], "")?;
    ensure!(!is_done && printed.contains("user name is empty"), "{printed}");
    Ok(())
}

/// An error that says nothing about what an earlier run left does not remove it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_takes_no_part_of_a_snapshot_away() -> Result<()> {
    let server = with_root(Kind::Cleat, &[]).await?;
    enable(&server).await?;
    let (file, endpoint) = (server.scratch().join("snapshot"), server.endpoint());
    let (part, id) = (server.scratch().join("snapshot.part"), server.scratch().join("snapshot.part.id"));
    std::fs::write(&part, "what has come")?;
    std::fs::write(&id, "abcd\n")?;
    let save =
        |user: &str| cleatctl(&["snapshot", "save", text(&file)?, "--endpoints", &endpoint, "--user", user], &[], "");
    let (is_done, printed) = save("root:wr0ng")?;
    ensure!(!is_done && printed.contains("authentication failed"), "{printed}");
    ensure!(std::fs::read(&part)? == b"what has come" && std::fs::read(&id)? == b"abcd\n", "it was changed");
    let (is_done, printed) = save(&format!("root:{PASSWORD}"))?;
    ensure!(is_done && printed.contains("the member cannot go on behind") && !part.exists(), "{printed}");
    Ok(())
}

#[tokio::test]
async fn a_token_that_was_got_elsewhere_is_taken() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = with_root(kind, &[]).await?;
        enable(&server).await?;
        let token = server.client().await?.login("root", PASSWORD).await?;
        let get = |flags: &[&str]| -> Result<std::process::Output> {
            let endpoint = server.endpoint();
            Ok(command(&[&["--endpoints", &endpoint, "user", "list"], flags].concat())?.output()?)
        };
        let known = get(&["--auth-jwt-token", &token])?;
        ensure!(known.status.success() && known.stdout == b"root\n", "{known:?}");
        for wrong in [&["--auth-jwt-token", "s3cret.token"][..], &["--auth-jwt-token", "s3cret\u{7}"], &[]] {
            let refused = get(wrong)?;
            ensure!(!refused.status.success(), "{refused:?}");
            ensure!(!String::from_utf8_lossy(&refused.stderr).contains("s3cret"), "{refused:?}");
        }
        let both = get(&["--auth-jwt-token", &token, "--user", "root:x"])?;
        ensure!(both.status.code() == Some(128), "{both:?}");
    }
    Ok(())
}
