//! Logins: tokens of both kinds, many at once, users that come from etcd, and names in certificates.

use super::{Secured, Who, found, put};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, RangeRequest, StatusRequest,
};
use harness::site::{HOSTS, Site};
use harness::{Authority, Kind, Options, Server, with_token};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::time::{Duration, Instant};
use tonic::Code;

fn range(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

/// Code and text of what a token gets for the key `a`.
async fn verdict(secured: &Secured, token: &str) -> Option<(Code, String)> {
    let answer = secured.client.kv.clone().range(with_token(range("a"), Some(token))).await;
    answer.err().map(|status| (status.code(), status.message().to_owned()))
}

fn is_invalid(verdict: Option<&(Code, String)>) -> bool {
    verdict.is_some_and(|(code, text)| *code == Code::Unauthenticated && text == "etcdserver: invalid auth token")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_while_it_is_used() -> Result<()> {
    const TTL: Duration = Duration::from_secs(2);
    let secured = Secured::start(Kind::Cleat, &["--auth-token-ttl=2"]).await?;
    let begun = Instant::now();
    let (mut used, mut lived) = (begun, 0);
    let mut token = secured.client.login("ann", "annpw").await?;
    while lived < 4 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        let now = Instant::now();
        match verdict(&secured, &token).await {
            None => (used, lived) = (now, lived + 1),
            // The machine was so busy that it was not used in time.
            Some(_) if used.elapsed() >= TTL && begun.elapsed() < Duration::from_mins(1) => {
                (used, lived) = (Instant::now(), 0);
                token = secured.client.login("ann", "annpw").await?;
            }
            ended => anyhow::bail!("{ended:?} after {:?}", used.elapsed()),
        }
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    ensure!(is_invalid(verdict(&secured, &token).await.as_ref()), "it was not used");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_what_it_was_given_for() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let (mut auth, root) = (secured.client.auth.clone(), async || secured.client.login("root", "rootpw").await);
    let token = secured.client.login("ann", "annpw").await?;
    for bad in ["", "x", "abcdefghijklmnop.3", "abcdefghijklmnop.18446744073709551615", &token[..18], "Bearer"] {
        ensure!(is_invalid(verdict(&secured, bad).await.as_ref()), "{bad}");
    }
    ensure!(verdict(&secured, &format!("Bearer {token}")).await.is_none());
    let request = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: "other".to_owned(),
        ..AuthUserChangePasswordRequest::default()
    };
    auth.user_change_password(with_token(request, Some(&root().await?))).await?;
    ensure!(is_invalid(verdict(&secured, &token).await.as_ref()), "the password is another one");
    ensure!(secured.client.login("ann", "annpw").await.is_err());
    let token = secured.client.login("ann", "other").await?;
    ensure!(verdict(&secured, &token).await.is_none());
    let request = AuthUserDeleteRequest { name: "ann".to_owned() };
    auth.user_delete(with_token(request, Some(&root().await?))).await?;
    ensure!(is_invalid(verdict(&secured, &token).await.as_ref()), "the user is deleted");
    Ok(())
}

/// bcrypt takes its time: a crowd must neither keep others waiting nor pile up without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_logins_do_not_hold_up_others() -> Result<()> {
    // As slow as it is in production: a thousand wrong passwords are minutes of work.
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let slow =
        Server::start_with(Kind::Cleat, Options { flags: vec!["--bcrypt-cost=13".to_owned()], ..Options::default() })
            .await?;
    let client = slow.client().await?;
    found(&client).await?;
    drop(secured);
    let logins: Vec<_> = (0..1000)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(
                async move { client.login("ann", &format!("wrong{n}")).await.map_err(|s| s.message().to_owned()) },
            )
        })
        .collect();
    let mut status = client.maintenance.clone();
    let mut others = 0;
    let began = tokio::time::Instant::now();
    // More than a thousand: refusals must not use up the connection either.
    while began.elapsed() < Duration::from_secs(3) || others < 1100 {
        // Refused, but answered: it has no token.
        let answer = tokio::time::timeout(Duration::from_secs(20), status.status(StatusRequest {})).await;
        ensure!(answer.context("nobody answers")?.is_err());
        others += 1;
        ensure!(began.elapsed() < Duration::from_mins(1), "only {others} answers within a minute");
    }
    let (mut wrong, mut busy) = (0, 0);
    for login in logins {
        match login.await? {
            Ok(_) => anyhow::bail!("a wrong password was right"),
            Err(text) if text.contains("authentication failed") => wrong += 1,
            Err(text) if text == "etcdserver: too many requests" => busy += 1,
            Err(text) => anyhow::bail!("{text}\n{}", slow.log_tail()),
        }
    }
    ensure!(wrong + busy == 1000 && wrong > 0 && busy > 0, "{wrong} wrong, {busy} busy");
    // It is not deaf afterwards.
    client.login("ann", "annpw").await?;
    Ok(())
}

/// What is right once is not compared again: all of a fleet with one password gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_logs_in_with_one_password() -> Result<()> {
    let server =
        Server::start_with(Kind::Cleat, Options { flags: vec!["--bcrypt-cost=10".to_owned()], ..Options::default() })
            .await?;
    let client = server.client().await?;
    found(&client).await?;
    let logins = (0..1000).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.login("ann", "annpw").await })
    });
    let logins: Vec<_> = logins.collect();
    for login in logins {
        login.await??;
    }
    Ok(())
}

/// A user's hash from etcd is one here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_from_another_store_is_a_password() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let mut auth = secured.client.auth.clone();
    // What another library made of "secret", in base64.
    for (hash, is_taken) in [
        ("JDJhJDA0JElNQzVTVmJGWGdHdGw5ZUdGeWJDZnV5VjdUcVdsUno1ZWFPYXZSNnhGaEwzTE0xZUNxTmdh", true),
        ("bm8gaGFzaA==", false),
        ("???", false),
    ] {
        let request = AuthUserAddRequest {
            name: "moved".to_owned(),
            hashed_password: hash.to_owned(),
            ..AuthUserAddRequest::default()
        };
        let answer = auth.user_add(with_token(request, secured.token(Who::Root))).await;
        ensure!(answer.is_ok() == is_taken, "{hash}: {answer:?}");
    }
    ensure!(secured.client.login("moved", "wrong").await.is_err());
    secured.client.login("moved", "secret").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_say_who_it_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (key, public) = (dir.path().join("key"), dir.path().join("pub"));
    std::fs::write(&key, pair.serialize_pem())?;
    std::fs::write(&public, pair.public_key_pem())?;
    let flag =
        format!("--auth-token=jwt,sign-method=ES256,priv-key={},pub-key={},ttl=1h", key.display(), public.display());
    let mut secured = Secured::start(Kind::Cleat, &[&flag]).await?;
    ensure!(secured.ann.split('.').count() == 3, "{}", secured.ann);
    ensure!(verdict(&secured, &secured.ann).await.is_none());
    ensure!(secured.ask(Who::Ann, "/etcdserverpb.KV/Put", &put("z", "1", 0)).await.is_err());
    ensure!(is_invalid(verdict(&secured, &format!("{}x", secured.ann)).await.as_ref()));
    // Nothing of it is kept by the member.
    secured.server.terminate().await?;
    secured.server.restart().await?;
    secured.client = secured.server.client().await?;
    ensure!(verdict(&secured, &secured.ann).await.is_none());
    // It says who it was as of a revision of users and roles.
    let request = AuthUserDeleteRequest { name: "bob".to_owned() };
    secured.client.auth.user_delete(with_token(request, Some(&secured.root))).await?;
    let old = Some((Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned()));
    ensure!(verdict(&secured, &secured.ann).await == old);
    let write = secured.ask(Who::Ann, "/etcdserverpb.KV/Put", &put("a", "1", 0)).await;
    ensure!(write.err() == old, "a write is refused alike");
    let token = secured.client.login("ann", "annpw").await?;
    ensure!(verdict(&secured, &token).await.is_none());
    Ok(())
}

/// CVE-2018-16886: who comes through a gateway is not who the gateway's certificate names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_in_a_certificate_is_a_user() -> Result<()> {
    let (ca, name) = (Authority::new("ca")?, "m");
    let site = Site::new(&ca)?;
    site.admit(&ca, name)?;
    site.install("ann", &ca.issue("ann", &HOSTS)?)?;
    site.install("root", &ca.issue("root", &HOSTS)?)?;
    let mut flags = site.flags(name);
    flags.push("--bcrypt-cost=4".to_owned());
    let options = Options {
        name: name.to_owned(),
        flags,
        is_secure: true,
        secures_peers: true,
        client_tls: Some(site.caller("client")),
        ..Options::default()
    };
    let server = Server::start_with(Kind::Cleat, options).await?;
    found(&server.client().await?).await?;
    let connect = async |who: &str| harness::Client::connect_with(&server.client_url(), Some(&site.caller(who))).await;
    let code = |answer: Result<tonic::Response<_>, tonic::Status>| answer.err().map(|status| status.code());
    let mut ann = connect("ann").await?;
    ensure!(code(ann.kv.range(range("a")).await).is_none());
    ensure!(code(ann.kv.range(range("z")).await) == Some(Code::PermissionDenied));
    ensure!(code(connect("root").await?.kv.range(range("z")).await).is_none());
    ensure!(code(connect("client").await?.kv.range(range("a")).await) == Some(Code::PermissionDenied), "no such user");
    // A token counts more than the name.
    let token = ann.login("root", "rootpw").await?;
    ensure!(code(ann.kv.range(with_token(range("z"), Some(&token))).await).is_none());
    ensure!(
        code(ann.kv.range(with_token(range("a"), Some("abcdefghijklmnop.1"))).await) == Some(Code::Unauthenticated)
    );
    let mut through_gateway = tonic::Request::new(range("z"));
    through_gateway.metadata_mut().insert("grpcgateway-accept", "application/json".parse()?);
    let answer = connect("root").await?.kv.range(through_gateway).await.err().context("the gateway is root")?;
    ensure!(answer.message() == "etcdserver: user name is empty", "{answer:?}");
    Ok(())
}
