//! Commands of members: `member`, `cluster-health`, `backup`.

use super::connection::dial_error;
use super::{Call, Command, Kind, code, error, fail, flag};
use crate::cli::Personality;
use crate::failure::Failure;
use crate::{print, v3};
use client::Effect;
use client::http::{Call as Request, Http, Server};
use client::v2::{self, Member};
use go::strconv;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two checks of `cluster-health --forever`.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest answer of a member about its health, and time for it.
const HEALTH_BYTES_MAX: usize = 64 << 10;
const HEALTH_DEADLINE: Duration = Duration::from_secs(5);

pub(super) const BACKUP: Command = Command {
    name: "backup",
    usage: " ",
    about: "backup an etcd directory",
    flags: &[
        flag(&["data-dir"], Kind::Text, "Path to the etcd data dir"),
        flag(&["wal-dir"], Kind::Text, "Path to the etcd wal dir"),
        flag(&["backup-dir"], Kind::Text, "Path to the backup dir"),
        flag(&["backup-wal-dir"], Kind::Text, "Path to the backup wal dir"),
        flag(&["with-v3"], Kind::Bool, "Backup v3 backend data"),
    ],
    run: Some(|_| {
        Box::pin(async {
            let remedy =
                "cleatctl migrate v2-to-v3 copies the keys of a running etcd, cleatctl snapshot save a whole member";
            Err(fail(
                code::BAD_ARGS,
                &format!("backup rewrites directories of etcd, which this program does not; {remedy}"),
            ))
        })
    }),
    ..Command::NONE
};

pub(super) const HEALTH: Command = Command {
    name: "cluster-health",
    usage: " ",
    about: "check the health of the etcd cluster",
    flags: &[flag(&["forever", "f"], Kind::Bool, "forever check the health every 10 second until CTRL+C")],
    run: Some(|call| Box::pin(health(call))),
    ..Command::NONE
};

pub(super) const MEMBER: Command = Command {
    name: "member",
    about: "member add, remove and list subcommands",
    commands: &[
        &Command {
            name: "list",
            usage: " ",
            about: "enumerate existing cluster members",
            run: Some(|call| Box::pin(list(call))),
            ..Command::NONE
        },
        &Command {
            name: "add",
            usage: "<name> <peerURL>",
            about: "add a new member to the etcd cluster",
            run: Some(|call| Box::pin(add(call))),
            ..Command::NONE
        },
        &Command {
            name: "remove",
            usage: "<memberID>",
            about: "remove an existing member from the etcd cluster",
            run: Some(|call| Box::pin(remove(call))),
            ..Command::NONE
        },
        &Command {
            name: "update",
            usage: "<memberID> <peerURLs>",
            about: "update an existing member in the etcd cluster",
            run: Some(|call| Box::pin(update(call))),
            ..Command::NONE
        },
    ],
    ..Command::NONE
};

/// What `/health` says; older servers say it as a text.
#[derive(Deserialize)]
struct Health {
    health: serde_json::Value,
}

/// Why the server does not do something about members. Of other statuses than these etcdctl does not read what it says.
fn refusal(call: &Call, why: &v2::Error, read: &[u16], effect: Effect) -> String {
    match why {
        v2::Error::Refused { status: status @ ..500, .. }
            if call.personality == Personality::Etcdctl && !read.contains(status) =>
        {
            format!("unexpected status code {status}")
        }
        _ => call.why(why, effect),
    }
}

fn refused(call: &Call, why: &v2::Error, read: &[u16], effect: Effect) -> Failure {
    fail(code::BAD_ARGS, &call.fit(&refusal(call, why, read, effect)))
}

async fn list(call: Call) -> Result<(), Failure> {
    if !call.args.is_empty() {
        return Err(fail(code::BAD_ARGS, "No arguments accepted"));
    }
    let client = call.connect().await?;
    let members = client.members().await.map_err(|why| refused(&call, &why, &[], Effect::Read))?;
    let leader = client.leader().await.map_err(|why| {
        let text = format!("Failed to get leader:  {}", refusal(&call, &why, &[], Effect::Read));
        fail(code::BAD_ARGS, &call.fit(&text))
    })?;
    for member in &members {
        let Member { id, name, peer_urls, client_urls } = member;
        let (peers, clients) = (peer_urls.join(","), client_urls.join(","));
        print::line(&if name.is_empty() {
            format!("{id}[unstarted]: peerURLs={peers}")
        } else {
            format!("{id}: name={name} peerURLs={peers} clientURLs={clients} isLeader={}", *id == leader.id)
        })?;
    }
    Ok(())
}

async fn add(call: Call) -> Result<(), Failure> {
    let [name, url] = &*call.args else {
        return Err(fail(code::BAD_ARGS, "Provide a name and a single member peerURL"));
    };
    let client = call.connect().await?;
    if let Some(why) = v3::member::client_refuses(url) {
        return Err(fail(code::BAD_ARGS, &why));
    }
    let body = json!({ "peerURLs": [url] }).to_string();
    let added =
        client.post_json("/v2/members", body).await.map_err(|why| refused(&call, &why, &[409], Effect::Write))?;
    let added: Member = serde_json::from_slice(&added).map_err(|why| fail(code::BAD_ARGS, &why.to_string()))?;
    print::line(&format!("Added member named {name} with ID {} to cluster", added.id))?;
    let members = client.members().await.map_err(|why| refused(&call, &why, &[], Effect::Read))?;
    let of = |member: &Member| if member.id == added.id { name.clone() } else { member.name.clone() };
    let cluster: Vec<String> = members
        .iter()
        .flat_map(|member| member.peer_urls.iter().map(move |url| format!("{}={url}", of(member))))
        .collect();
    let quote = |text: &str| strconv::quote(text.as_bytes());
    let (name, cluster) = (quote(name), quote(&cluster.join(",")));
    print::line(&format!("\nETCD_NAME={name}\nETCD_INITIAL_CLUSTER={cluster}\nETCD_INITIAL_CLUSTER_STATE=\"existing\""))
}

async fn remove(call: Call) -> Result<(), Failure> {
    let [id] = &*call.args else { return Err(fail(code::BAD_ARGS, "Provide a single member ID")) };
    let client = call.connect().await?;
    let members = client.members().await.map_err(|why| {
        let text =
            format!("Error while verifying ID against known members: {}", refusal(&call, &why, &[], Effect::Read));
        fail(code::BAD_ARGS, &call.fit(&text))
    })?;
    if let Some(named) = members.iter().find(|member| member.name == *id) {
        let program = call.personality.program();
        tell!(
            "Found a member named {id}; if this is correct, please use its ID, eg:\n\t{program} member remove {}\n",
            named.id
        );
    }
    if !members.iter().any(|member| member.id == *id) {
        let text = format!("Couldn't find a member in the cluster with an ID of {id}.");
        return Err(fail(code::BAD_ARGS, &text));
    }
    client.delete_path(&format!("/v2/members/{}", v2::segment(id))).await.map_err(|why| {
        let text =
            format!("Received an error trying to remove member {id}: {}", refusal(&call, &why, &[410], Effect::Write));
        fail(code::BAD_ARGS, &call.fit(&text))
    })?;
    print::line(&format!("Removed member {id} from cluster"))
}

async fn update(call: Call) -> Result<(), Failure> {
    let [id, urls] = &*call.args else {
        let text =
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)";
        return Err(fail(code::BAD_ARGS, text));
    };
    let client = call.connect().await?;
    let urls: Vec<&str> = urls.split(',').collect();
    if let Some(why) = urls.iter().find_map(|url| v3::member::client_refuses(url)) {
        return Err(fail(code::BAD_ARGS, &why));
    }
    let body = json!({ "peerURLs": urls }).to_string();
    let path = format!("/v2/members/{}", v2::segment(id));
    client.put_json(&path, body).await.map_err(|why| refused(&call, &why, &[400, 404, 409], Effect::Write))?;
    print::line(&format!("Updated member with ID {id} in cluster"))
}

async fn health(call: Call) -> Result<(), Failure> {
    let client = call.connect_or(|text| error(code::SERVER, text)).await?;
    call.tell_endpoints(&client);
    let members = match client.members().await {
        Ok(members) => members,
        Err(why) => {
            print::line("cluster may be unhealthy: failed to list members")?;
            return Err(call.failed(code::SERVER, &why, Effect::Read));
        }
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let healthy = check(&call, &members).await?;
        print::line(match healthy {
            all if all == members.len() => "cluster is healthy",
            0 => "cluster is unavailable",
            _ => "cluster is degraded",
        })?;
        if !call.values.switch("forever") {
            return if healthy == members.len() { Ok(()) } else { Err(Failure::silent(code::UNHEALTHY)) };
        }
        print::line("\nnext check after 10 second...\n")?;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// How many members say that they are healthy.
async fn check(call: &Call, members: &[Member]) -> Result<usize, Failure> {
    let http = Http {
        proxy: None,
        tls: call.tls().unwrap_or_default(),
        connect_timeout: HEALTH_DEADLINE,
        max_body_bytes: HEALTH_BYTES_MAX,
    };
    let mut healthy = 0;
    for Member { id, client_urls, .. } in members {
        if client_urls.is_empty() {
            print::line(&format!("member {id} is unreachable: no available published client urls"))?;
            continue;
        }
        let mut is_checked = false;
        for url in client_urls {
            match ask(&http, url).await {
                Ok(is_healthy) => {
                    let word = if is_healthy { "healthy" } else { "unhealthy" };
                    print::line(&format!("member {id} is {word}: got {word} result from {url}"))?;
                    healthy += usize::from(is_healthy);
                    is_checked = true;
                    break;
                }
                Err(why) => print::line(&format!("failed to check the health of member {id} on {url}: {why}"))?,
            }
        }
        if !is_checked {
            let urls = client_urls.join(" ");
            print::line(&format!("member {id} is unreachable: [{urls}] are all unreachable"))?;
        }
    }
    Ok(healthy)
}

async fn ask(http: &Http, url: &str) -> Result<bool, String> {
    let (server, _) = Server::parse(url)?;
    let answer = http.send(&server, &Request::get("/health"), HEALTH_DEADLINE).await;
    let answer = answer.map_err(|why| format!("Get \"{url}/health\": {}", dial_error(&why.to_string())))?;
    let Health { health } = serde_json::from_slice(&answer.body).map_err(|why| why.to_string())?;
    Ok(health == "true" || health == true)
}
