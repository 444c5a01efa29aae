//! SRV records, served by dnsmasq.

use crate::process::Dns;
use crate::{Member, names, options, resolve};
use anyhow::{Result, ensure};
use discovery::{InitialCluster, Me, Options, Source, Srv};
use harness::server::built_binary;
use harness::tool::{cleatctl_as_etcdctl, etcdctl_binary};
use harness::{Kind, Options as ServerOptions, Server};
use std::time::Duration;

const HOSTS: [&str; 3] =
    ["host-record=m1.test,127.0.0.1", "host-record=m2.test,127.0.0.2", "host-record=m3.test,127.0.0.3"];

fn records(lines: &[&str]) -> Vec<String> {
    HOSTS.iter().chain(lines).map(ToString::to_string).collect()
}

fn source(service_name: &str) -> Source {
    let (domain, token) = ("c.test".to_owned(), "token".to_owned());
    Source::Srv(Srv { domain, service_name: service_name.to_owned(), token })
}

async fn ask(dns: &Dns, source: &Source, me: &Me, patience: Duration) -> Result<InitialCluster, String> {
    let options = Options { name_server: Some(dns.address()), srv_patience: patience, ..options() };
    discovery::resolve(source, me, &options).await.map_err(|error| error.to_string())
}

fn me(name: &str, url: &str) -> Me {
    Me { name: name.to_owned(), peer_urls: vec![url.to_owned()] }
}

#[tokio::test]
async fn records_of_both_schemes_are_merged_and_self_has_its_name() -> Result<()> {
    let dns = Dns::start(&records(&[
        "srv-host=_etcd-server._tcp.c.test,m1.test,2380",
        "srv-host=_etcd-server._tcp.c.test,m2.test,2380",
        "srv-host=_etcd-server-ssl._tcp.c.test,m3.test,2380",
        "srv-host=_etcd-server-x._tcp.c.test,m1.test,7001",
        "srv-host=_etcd-server-ssl-x._tcp.c.test,m1.test,7001",
    ]))
    .await?;
    // By address and by name; the ids are of the names in DNS, so every member computes the same.
    let expected = "0=https://m3.test:2380,1=http://m2.test:2380,m1=http://m1.test:2380";
    for url in ["http://127.0.0.1:2380", "http://m1.test:2380"] {
        let found = ask(&dns, &source(""), &me("m1", url), Duration::ZERO).await;
        let found = found.map_err(anyhow::Error::msg)?;
        assert_eq!(found.members.iter().map(|m| m.peer_urls.len()).sum::<usize>(), 3);
        assert_eq!(found.cluster_id(), InitialCluster::parse(expected, "token")?.cluster_id(), "{found}");
        assert_eq!(
            found.members.iter().find(|m| m.name == "m1").map(|m| m.peer_urls.clone()),
            Some(vec!["http://m1.test:2380".to_owned()])
        );
    }
    // Numbers stay clear of this member's own name.
    let numbered = ask(&dns, &source(""), &me("0", "https://127.0.0.3:2380"), Duration::ZERO).await;
    let numbered = numbered.map_err(anyhow::Error::msg)?;
    assert_eq!(
        numbered.members.iter().find(|m| m.name == "0").map(|m| m.peer_urls.clone()),
        Some(vec!["https://m3.test:2380".to_owned()])
    );
    assert_eq!(numbered.members.len(), 3);
    // The suffix of the service; a member with records of both schemes is one member.
    let alone = ask(&dns, &source("x"), &me("m1", "https://127.0.0.1:7001"), Duration::ZERO).await;
    assert_eq!(alone.map(|cluster| cluster.to_string()), Ok("m1=https://m1.test:7001".to_owned()));
    Ok(())
}

#[tokio::test]
async fn what_dns_lacks_is_named() -> Result<()> {
    let dns = Dns::start(&records(&[
        "srv-host=_etcd-server._tcp.c.test,m1.test,2380",
        "srv-host=_etcd-server._tcp.c.test,m2.test,2380",
        "srv-host=_etcd-server-lost._tcp.c.test,m9.test,2380",
    ]))
    .await?;
    let good = me("m1", "http://127.0.0.1:2380");
    let cases = [
        (
            source("none"),
            good.clone(),
            "error querying DNS SRV records for _etcd-server-ssl-none._tcp.c.test: no such host; _etcd-server-none._tcp.c.test: no such host; create SRV records",
        ),
        (
            source(""),
            me("m9", "http://127.0.0.9:2380"),
            "cannot find local etcd member \"m9\" in SRV records; they are http://m1.test:2380, http://m2.test:2380",
        ),
        (source(""), me("m1", "http://127.0.0.1:2381"), "cannot find local etcd member \"m1\" in SRV records"),
        (
            source(""),
            me("m1", "https://127.0.0.1:2380"),
            "bootstrap at http://m1.test:2380 from DNS has scheme mismatch with expected peer https://127.0.0.1:2380",
        ),
        (source("lost"), good, "failed to resolve \"m9.test\": "),
        (source(""), me("m1", "http://m9.test:2380"), "failed to resolve \"m9.test\": "),
        (source(""), me("m1", "m1:2380"), "--initial-advertise-peer-urls: URL scheme must be http"),
    ];
    for (source, me, expected) in cases {
        let error = ask(&dns, &source, &me, Duration::ZERO).await.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn records_may_appear_late() -> Result<()> {
    let first = "srv-host=_etcd-server._tcp.c.test,m1.test,2380";
    let second = "srv-host=_etcd-server._tcp.c.test,m2.test,2380";
    let mut dns = Dns::start(&records(&[])).await?;
    let options = Options { name_server: Some(dns.address()), srv_patience: crate::DEADLINE, ..options() };
    let waiting = tokio::spawn(async move {
        let me = me("m2", "http://127.0.0.2:2380");
        discovery::resolve(&source(""), &me, &options).await
    });
    // Nothing at first, then another member alone, then this one as well.
    dns.serve(&records(&[first])).await?;
    dns.serve(&records(&[first, second])).await?;
    assert_eq!(names(&waiting.await??), ["0", "m2"]);
    Ok(())
}

#[tokio::test]
async fn a_name_server_that_is_silent_is_not_waited_for_long() -> Result<()> {
    let member = Member::new("m1")?;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let options = Options { name_server: Some(silent.local_addr()?), ..options() };
    let error = discovery::resolve(&source(""), &member.me, &options).await.unwrap_err().to_string();
    assert!(error.starts_with("error querying DNS SRV records for "), "{error}");
    assert!(resolve(&source(""), &Member::new("m2")?.me).await.is_err());
    Ok(())
}

/// The whole way: members that know nothing but a domain, with the system's resolver.
#[tokio::test]
async fn members_start_from_a_domain() -> Result<()> {
    let mut dns = Dns::start_for_systems(&[]).await?;
    let member = |name: &str| {
        let (name, flags) = (name.to_owned(), vec!["--discovery-srv=c.test".to_owned()]);
        let wrapper = dns.wrapper()?;
        Server::prepare(
            Kind::Cleat,
            ServerOptions { name, flags, discovers: true, wrapper, ..ServerOptions::default() },
        )
    };
    let mut members = ["m1", "m2", "m3"].into_iter().map(member).collect::<Result<Vec<_>>>()?;
    for member in &mut members {
        member.spawn()?;
    }
    // As in Kubernetes, the records are there later than the processes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut lines = Vec::new();
    for (name, member) in ["m1", "m2", "m3"].iter().zip(&members) {
        let port = member.peer_url().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default();
        lines.push(format!("host-record={name}.test,127.0.0.1"));
        lines.push(format!("srv-host=_etcd-server._tcp.c.test,{name}.test,{port}"));
    }
    dns.serve(&lines).await?;
    for member in &mut members {
        member.wait_ready().await?;
    }
    let mut client = members[0].client().await?;
    let list = client.cluster.member_list(api::etcdserverpb::MemberListRequest { linearizable: true }).await?;
    let urls: Vec<String> = list.into_inner().members.into_iter().flat_map(|member| member.peer_urls).collect();
    ensure!(urls.len() == 3 && urls.iter().all(|url| url.contains(".test:")), "{urls:?}");
    Ok(())
}

/// What `cleatctl` finds by a domain: endpoints to talk to, and records that `doctor` judges.
#[tokio::test]
async fn cleatctl_finds_members_by_a_domain() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut dns = Dns::start_for_systems(&records(&[])).await?;
    let port = server.endpoint().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default();
    dns.serve(&records(&[
        &format!("srv-host=_etcd-client._tcp.c.test,m1.test,{port}"),
        &format!("srv-host=_etcd-server._tcp.c.test,m1.test,{port}"),
        &format!("srv-host=_etcd-client-x._tcp.c.test,m1.test,{port}"),
    ]))
    .await?;
    let wrapper = dns.wrapper()?;
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).arg(built_binary("cleatctl")?).args(args);
        harness::tool::run(command, b"", crate::DEADLINE).await
    };
    let found = ["--discovery-srv", "c.test", "--insecure-discovery"];
    let put = run(&[&found[..], &["put", "a", "1"]].concat()).await?;
    ensure!(put.code == Some(0) && put.stdout == "OK\n", "{put:?}");
    for args in [&["history", "a"][..], &["status"]] {
        let seen = run(&[&found[..], args].concat()).await?;
        ensure!(seen.code == Some(0), "{seen:?}");
    }
    // Without those that are not secure only records with TLS count, and there are none: the default endpoint is left.
    let ignored =
        run(&["--discovery-srv", "c.test", "--insecure-discovery=false", "--command-timeout", "1s", "get", "a"])
            .await?;
    ensure!(ignored.stderr.contains("ignoring discovered insecure endpoint"), "{ignored:?}");
    let doctor = async |args: &[&str]| {
        let endpoint = server.endpoint();
        let report = run(&[&["doctor", "--endpoints", &endpoint], args].concat()).await?;
        // Words alone: the columns are as wide as the longest of them.
        let words = report.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        anyhow::Ok((words, report.code))
    };
    let (report, _) = doctor(&["--srv-domain", "c.test"]).await?;
    for what in ["members", "clients"] {
        ensure!(report.contains(&format!("PASS DNS SRV the {what} are m1.test:{port}")), "{report}");
    }
    let (report, code) = doctor(&["--srv-domain", "c.test", "--srv-name", "x"]).await?;
    ensure!(report.contains("FAIL DNS SRV no records name the members (_etcd-server-ssl-x._tcp.c.test"), "{report}");
    ensure!(report.contains(&format!("PASS DNS SRV the clients are m1.test:{port}")) && code == Some(1), "{report}");
    Ok(())
}

/// A domain tells both tools the same, with both APIs.
#[tokio::test]
async fn cleatctl_goes_where_etcdctl_goes_by_a_domain() -> Result<()> {
    let options = ServerOptions { flags: vec!["--enable-v2".to_owned()], ..ServerOptions::default() };
    let server = Server::start_with(Kind::Cleat, options).await?;
    let mut dns = Dns::start_for_systems(&records(&[])).await?;
    let port = server.endpoint().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default();
    dns.serve(&records(&[
        &format!("srv-host=_etcd-client._tcp.c.test,m1.test,{port}"),
        &format!("srv-host=_etcd-client-x._tcp.c.test,m1.test,{port}"),
        // Nobody has TLS there.
        &format!("srv-host=_etcd-client-ssl._tcp.s.test,m1.test,{port}"),
    ]))
    .await?;
    let (scratch, wrapper) = (tempfile::tempdir()?, dns.wrapper()?);
    let programs = [etcdctl_binary(), cleatctl_as_etcdctl(scratch.path())?.into(), built_binary("cleatctl")?.into()];
    let run = async |program: &std::ffi::OsString, api: &str, line: &str| {
        let mut command = tokio::process::Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).arg(program).env("ETCDCTL_API", api).current_dir(server.scratch());
        let words: Vec<&str> = line.split(' ').collect();
        let variables = words.iter().take_while(|word| word.starts_with("ETCDCTL_")).count();
        command.envs(words[..variables].iter().filter_map(|word| word.split_once('='))).args(&words[variables..]);
        harness::tool::run(command, b"", crate::DEADLINE).await
    };
    let mut different = Vec::new();
    for (api, line, is_found) in [
        ("3", "--discovery-srv c.test put a 1", true),
        ("3", "-d c.test --insecure-discovery get a", true),
        ("3", "-d=c.test --discovery-srv-name x get a", true),
        ("3", "ETCDCTL_DISCOVERY_SRV=c.test get a", true),
        ("3", "ETCDCTL_DISCOVERY_SRV=c.test ETCDCTL_DISCOVERY_SRV_NAME=x get a --print-value-only", true),
        ("3", "--discovery-srv c.test --endpoints 127.0.0.1:1 get a", true),
        ("3", "--discovery-srv c.test member list", true),
        ("3", "--discovery-srv none.test get a", false),
        ("3", "--discovery-srv c.test --discovery-srv-name none get a", false),
        ("3", "--discovery-srv c.test --insecure-discovery=false --command-timeout 1s get a", false),
        ("3", "--discovery-srv s.test --command-timeout 1s get a", false),
        ("2", "--discovery-srv c.test --insecure-discovery set /a 1", true),
        ("2", "-D c.test --insecure-discovery --no-sync ls /", true),
        ("2", "ETCDCTL_DISCOVERY_SRV=c.test ETCDCTL_INSECURE_DISCOVERY=true ls", true),
        ("2", "-D none.test ls", false),
        ("2", "-D c.test ls", false),
    ] {
        let theirs = run(&programs[0], api, line).await?;
        if (theirs.code == Some(0)) != is_found {
            different.push(format!("{line}: {theirs:?}"));
        }
        for program in &programs[1..] {
            let ours = run(program, api, line).await?;
            if (ours.code, &ours.stdout) != (theirs.code, &theirs.stdout) {
                different.push(format!("{line}: {theirs:?}\n{program:?}: {ours:?}"));
            }
        }
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    // By the ledger: these commands of etcdctl go to the endpoints of the flag all the same, which are none here.
    for line in ["endpoint health", "endpoint status", "endpoint hashkv", "defrag"] {
        let line = format!("--discovery-srv c.test --dial-timeout 1s --command-timeout 1s {line}");
        for (program, code) in programs.iter().zip([1, 0, 0]) {
            let ended = run(program, "3", &line).await?;
            ensure!(ended.code == Some(code), "{line}: {program:?} {ended:?}");
        }
    }
    Ok(())
}
