//! `member add`, `list`, `promote`, `remove` and `update`.

use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::globals;
use crate::people::destructive::{DRY_RUN, YES, permits_remove};
use crate::print::{self, Fields, Format, Json, Printer, Simple};
use api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, ResponseHeader,
};
use go::strconv;

const ADD_PEER_URLS: Flag = Flag::string("peer-urls", "", "comma separated peer URLs for the new member.");
const LEARNER: Flag = Flag::switch("learner", "indicates if the new member is raft learner");
const UPDATE_PEER_URLS: Flag = Flag::string("peer-urls", "", "comma separated peer URLs for the updated member.");
const CONSISTENCY: Flag =
    Flag::string("consistency", "l", "Linearizable(l) or Serializable(s)").one_of(&["l", "s"]).later();

pub(crate) const COMMAND: Command = Command {
    name: "member",
    usage: "<subcommand>",
    short: "Membership related commands",
    group: Group::Cluster,
    commands: &[&ADD, &LIST, &PROMOTE, &REMOVE, &UPDATE],
    ..Command::NONE
};

const ADD: Command = Command {
    name: "add",
    usage: "<memberName> [options]",
    short: "Adds a member into the cluster",
    flags: &[LEARNER, ADD_PEER_URLS],
    run: Some(|context| Box::pin(add(context))),
    ..Command::NONE
};

const LIST: Command = Command {
    name: "list",
    short: "Lists all members in the cluster",
    long: "When --write-out is set to simple, this command prints out comma-separated member lists for each endpoint.
The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.
",
    flags: &[CONSISTENCY],
    run: Some(|context| Box::pin(list(context))),
    ..Command::NONE
};

const PROMOTE: Command = Command {
    name: "promote",
    usage: "<memberID>",
    short: "Promotes a non-voting member in the cluster",
    long: "Promotes a non-voting learner member to a voting one in the cluster.
",
    run: Some(|context| Box::pin(promote(context))),
    ..Command::NONE
};

const REMOVE: Command = Command {
    name: "remove",
    usage: "<memberID>",
    short: "Removes a member from the cluster",
    flags: &[DRY_RUN, YES],
    run: Some(|context| Box::pin(remove(context))),
    ..Command::NONE
};

const UPDATE: Command = Command {
    name: "update",
    usage: "<memberID> [options]",
    short: "Updates a member in the cluster",
    flags: &[UPDATE_PEER_URLS],
    run: Some(|context| Box::pin(update(context))),
    ..Command::NONE
};

/// The member that the only argument names.
fn id(context: &Context) -> Result<u64, Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("member ID is not provided"));
    }
    strconv::parse_uint(context.text(0).as_bytes(), 16)
        .map_err(|why| Failure::bad_args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

fn cluster(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

/// Prints the answer to a change, for which etcdctl has no fields. It says so when the change is done.
fn print<M: prost::Message>(
    printer: Printer,
    method: &str,
    answer: &M,
    simple: impl FnOnce(&mut Simple),
) -> Result<(), Failure> {
    if printer.format == Format::Fields {
        return Err(printer.unsupported());
    }
    printer.answer(method, answer, simple, |_| {})
}

fn urls(context: &Context, flag: &Flag) -> Result<Vec<String>, Failure> {
    let urls = context.given(flag).ok_or_else(|| Failure::bad_args("member peer urls not provided"))?;
    let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    Ok(urls)
}

/// What etcdctl's client refuses before it asks a server.
fn check(urls: &[String]) -> Result<(), Failure> {
    let mut checked = urls.iter().map(|url| url.trim());
    match checked.find_map(client_refuses) {
        Some(why) => Err(Failure::new(code::ERROR, why)),
        None => Ok(()),
    }
}

pub(crate) fn client_refuses(url: &str) -> Option<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Some(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    };
    if !["http", "https", "unix", "unixs"].contains(&scheme) {
        return Some(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    }
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if !scheme.starts_with("unix") && host.rsplit_once(':').is_none() {
        return Some(format!("URL address does not have the form \"host:port\": {url}"));
    }
    (!path.is_empty()).then(|| format!("URL must not contain a path: {url}"))
}

async fn add(mut context: Context) -> Result<(), Failure> {
    if context.args.is_empty() {
        return Err(Failure::bad_args("member name not provided"));
    }
    if context.args.len() > 1 {
        let args = (0..context.args.len()).map(|at| context.text(at));
        let url = args.filter(|arg| arg.to_lowercase().starts_with("http"));
        let hints: Vec<String> = url.map(|url| format!(", did you mean --peer-urls={url}")).collect();
        return Err(Failure::bad_args(format!("too many arguments{}", hints.concat())));
    }
    let name = context.text(0);
    let peer_urls = urls(&context, &ADD_PEER_URLS)?;
    let (client, printer) = context.connect().await?;
    check(&peer_urls)?;
    let request = MemberAddRequest { peer_urls, is_learner: context.switch(&LEARNER) };
    let answer = client.member_add(request).await?;
    print(printer, "/etcdserverpb.Cluster/MemberAdd", &answer, |out| {
        out.bytes.extend_from_slice(added(&answer, &name, &context.string(&ADD_PEER_URLS)).as_bytes());
    })
}

/// What the new member is started with.
fn added(answer: &MemberAddResponse, name: &str, peer_urls: &str) -> String {
    let id = answer.member.as_ref().map_or(0, |member| member.id);
    let name_of = |member: &Member| if member.id == id { name.to_owned() } else { member.name.clone() };
    let cluster_of_all = answer
        .members
        .iter()
        .flat_map(|member| member.peer_urls.iter().map(move |url| format!("{}={url}", name_of(member))))
        .collect::<Vec<_>>()
        .join(",");
    let quote = |text: &str| strconv::quote(text.as_bytes());
    format!(
        "Member {id:16x} added to cluster {:16x}\n\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\n\
         ETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        cluster(answer.header.as_ref()),
        quote(name),
        quote(&cluster_of_all),
        quote(peer_urls)
    )
}

async fn remove(mut context: Context) -> Result<(), Failure> {
    let id = id(&context)?;
    let (client, printer) = context.connect().await?;
    if !permits_remove(&context, &client, id).await? {
        return Ok(());
    }
    let answer = client.member_remove(MemberRemoveRequest { id }).await?;
    let cluster = cluster(answer.header.as_ref());
    print(printer, "/etcdserverpb.Cluster/MemberRemove", &answer, |out| {
        out.line(format!("Member {id:16x} removed from cluster {cluster:16x}"));
    })
}

async fn update(mut context: Context) -> Result<(), Failure> {
    let id = id(&context)?;
    let peer_urls = urls(&context, &UPDATE_PEER_URLS)?;
    let (client, printer) = context.connect().await?;
    check(&peer_urls)?;
    let answer = client.member_update(MemberUpdateRequest { id, peer_urls }).await?;
    let cluster = cluster(answer.header.as_ref());
    print(printer, "/etcdserverpb.Cluster/MemberUpdate", &answer, |out| {
        out.line(format!("Member {id:16x} updated in cluster {cluster:16x}"));
    })
}

async fn promote(mut context: Context) -> Result<(), Failure> {
    let id = id(&context)?;
    let (client, printer) = context.connect().await?;
    let answer = client.member_promote(MemberPromoteRequest { id }).await?;
    let cluster = cluster(answer.header.as_ref());
    print(printer, "/etcdserverpb.Cluster/MemberPromote", &answer, |out| {
        out.line(format!("Member {id:16x} promoted in cluster {cluster:16x}"));
    })
}

async fn list(mut context: Context) -> Result<(), Failure> {
    let linearizable = match context.string(&CONSISTENCY).as_str() {
        // etcdctl 3.4 asks whichever member it is.
        _ if context.is_etcdctl() => false,
        "l" => true,
        "s" => false,
        other => {
            let text = format!("unknown consistency flag {}; l and s are known", strconv::quote(other.as_bytes()));
            return Err(Failure::new(code::BAD_FEATURE, text));
        }
    };
    let (client, printer) = context.connect().await?;
    let answer = client.members(MemberListRequest { linearizable }).await?;
    let rows = rows(&answer);
    if printer.format == Format::Table {
        let heads = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
        return print::out(print::table(&heads, &rows).as_bytes());
    }
    // Of etcdctl's JSON from 3.5 on, of this command alone.
    if printer.format == Format::Json && context.switch(&globals::HEX) && !context.is_etcdctl() {
        return Printer::json(|json| json_in_hex(json, &answer));
    }
    printer.answer(
        "/etcdserverpb.Cluster/MemberList",
        &answer,
        |out| rows.iter().for_each(|row| out.line(row.join(", "))),
        |out| fields(out, &answer),
    )
}

/// etcdctl's JSON with ids in hexadecimal, which has another name for client URLs.
fn json_in_hex(json: &mut Json, answer: &MemberListResponse) {
    let urls = |json: &mut Json, name: &str, urls: &[String]| {
        json.name(name);
        if urls.is_empty() {
            return json.raw("null");
        }
        json.array(|json| urls.iter().for_each(|url| json.element(url)));
    };
    json.object(|json| {
        let header = answer.header.unwrap_or_default();
        json.name("header");
        json.object(|json| {
            json.member_string("cluster_id", &format!("{:x}", header.cluster_id));
            json.member_string("member_id", &format!("{:x}", header.member_id));
            json.member("raft_term", header.raft_term);
        });
        json.name("members");
        json.array(|json| {
            for member in &answer.members {
                json.object(|json| {
                    json.member_string("ID", &format!("{:x}", member.id));
                    json.member_string("name", &member.name);
                    urls(json, "peerURLs", &member.peer_urls);
                    urls(json, "clientURLS", &member.client_urls);
                    if member.is_learner {
                        json.member("isLearner", true);
                    }
                });
            }
        });
    });
}

fn rows(answer: &MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner.to_string(),
        ]
    };
    answer.members.iter().map(row).collect()
}

fn fields(out: &mut Fields, answer: &MemberListResponse) {
    out.header(answer.header.as_ref());
    for member in &answer.members {
        out.plain("ID", member.id);
        out.quoted("Name", &member.name);
        member.peer_urls.iter().for_each(|url| out.quoted("PeerURL", url));
        member.client_urls.iter().for_each(|url| out.quoted("ClientURL", url));
        out.plain("IsLearner", member.is_learner);
        out.line("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_in_json() {
        let header = ResponseHeader { cluster_id: 0xab, member_id: 0x1f, raft_term: 2, ..ResponseHeader::default() };
        let url = |port| format!("http://a:{port}");
        let one = Member {
            id: 0x1f,
            name: "a".to_owned(),
            peer_urls: vec![url(1), url(2)],
            client_urls: vec![url(3)],
            is_learner: false,
        };
        let other = Member { id: 0xad, is_learner: true, peer_urls: vec![url(4)], ..Member::default() };
        let mut json = Json::default();
        json_in_hex(&mut json, &MemberListResponse { header: Some(header), members: vec![one, other] });
        // What etcdctl 3.5 prints, which does not tell a learner.
        let expected = concat!(
            r#"{"header":{"cluster_id":"ab","member_id":"1f","raft_term":2},"members":["#,
            r#"{"ID":"1f","name":"a","peerURLs":["http://a:1","http://a:2"],"clientURLS":["http://a:3"]},"#,
            r#"{"ID":"ad","name":"","peerURLs":["http://a:4"],"clientURLS":null,"isLearner":true}]}"#,
        );
        assert_eq!(json.text, expected);
    }
}
