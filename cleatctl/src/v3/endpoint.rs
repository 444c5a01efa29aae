//! `endpoint health`, `status` and `hashkv`: every endpoint is asked for itself.

use crate::cli::{Command, Flag, Group, Personality};
use crate::context::{Context, why};
use crate::failure::{Failure, code};
use crate::print::{self, Format, Json, Printer, json_message, output};
use api::error::Error as ApiError;
use api::etcdserverpb::{HashKvResponse, MemberListRequest, StatusResponse};
use futures::future::join_all;
use go::time;
use prost::Message as _;
use std::time::Instant;

pub(crate) const CLUSTER: Flag = Flag::switch("cluster", "use all endpoints from the cluster member list");
const REV: Flag = Flag::int("rev", "0", "maximum revision to hash (default: all revisions)");

/// The key that a healthy member can read.
const HEALTH_KEY: &str = "health";

pub(crate) const COMMAND: Command = Command {
    name: "endpoint",
    usage: "<subcommand>",
    short: "Endpoint related commands",
    group: Group::Cluster,
    persistent: &[CLUSTER],
    commands: &[&HASHKV, &HEALTH, &STATUS],
    ..Command::NONE
};

const HASHKV: Command = Command {
    name: "hashkv",
    short: "Prints the KV history hash for each endpoint in --endpoints",
    persistent: &[REV],
    run: Some(|context| Box::pin(hashkv(context))),
    ..Command::NONE
};

const HEALTH: Command = Command {
    name: "health",
    short: "Checks the healthiness of endpoints specified in `--endpoints` flag",
    run: Some(|context| Box::pin(health(context))),
    ..Command::NONE
};

const STATUS: Command = Command {
    name: "status",
    short: "Prints out the status of endpoints specified in `--endpoints` flag",
    long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.
The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.
",
    run: Some(|context| Box::pin(status(context))),
    ..Command::NONE
};

/// The endpoints to ask: those given, or those of all members.
pub(crate) async fn endpoints(context: &mut Context) -> Result<Vec<String>, Failure> {
    let given = context.endpoints();
    if !context.switch(&CLUSTER) {
        return Ok(given);
    }
    // Nobody is asked for a password for that.
    let client = context.connect_without_user(&given)?;
    let members = client.members(MemberListRequest::default()).await.map_err(|error| {
        Failure::from(error).map_text(|text| format!("failed to fetch endpoints from etcd cluster member list: {text}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}

/// What one endpoint said to a read.
struct Health {
    endpoint: String,
    took: String,
    /// Empty for a healthy one.
    error: String,
}

async fn health(mut context: Context) -> Result<(), Failure> {
    context.discover().await?;
    let printer = context.printer()?;
    let endpoints = endpoints(&mut context).await?;
    let mut clients = Vec::new();
    for endpoint in endpoints {
        // Asks for the password before anything is waited for.
        let options = context.options(std::slice::from_ref(&endpoint)).await?;
        let client = client::Client::new(&options).map_err(|error| Failure::from(error).with_code(code::BAD_ARGS))?;
        clients.push((endpoint, client));
    }
    let personality = context.personality();
    let probes = clients.into_iter().map(|(endpoint, client)| probe(endpoint, client, personality));
    let mut found = join_all(probes).await;
    // Who answers first stands first.
    found.sort_by_key(|(answered, _)| *answered);
    let found: Vec<Health> = found.into_iter().map(|(_, health)| health).collect();
    print_health(printer, &found)?;
    if found.iter().any(|health| !health.error.is_empty()) {
        return Err(Failure::new(code::ERROR, "unhealthy cluster"));
    }
    Ok(())
}

/// When the endpoint was done, and what it said.
async fn probe(endpoint: String, client: client::Client, personality: Personality) -> (Instant, Health) {
    if let Err(error) = client.sign_in().await {
        let error = why(personality, &error);
        return (Instant::now(), Health { endpoint, took: String::new(), error });
    }
    let begun = Instant::now();
    let answer = client.range(client::message::get(HEALTH_KEY)).await;
    let took = time::duration(begun.elapsed());
    let error = match answer {
        Ok(_) => String::new(),
        // That was found out by asking all.
        Err(error) if error.is(ApiError::PermissionDenied) => String::new(),
        Err(error) => why(personality, &error),
    };
    (Instant::now(), Health { endpoint, took, error })
}

fn print_health(printer: Printer, found: &[Health]) -> Result<(), Failure> {
    match printer.format {
        // etcdctl 3.4 says it on standard error.
        Format::Simple => {
            for Health { endpoint, took, error } in found {
                if error.is_empty() {
                    tell!("{endpoint} is healthy: successfully committed proposal: took = {took}");
                } else {
                    tell!("{endpoint} is unhealthy: failed to commit proposal: {error}");
                }
            }
            Ok(())
        }
        Format::Fields => Printer::fields(|out| {
            for Health { endpoint, took, error } in found {
                out.quoted("Endpoint", endpoint);
                out.plain("Health", error.is_empty());
                out.plain("Took", took);
                out.plain("Error", error);
                out.line("");
            }
        }),
        Format::Json => Printer::json(|json| {
            json.array(|json| {
                for Health { endpoint, took, error } in found {
                    json.object(|json| {
                        json.member_string("endpoint", endpoint);
                        json.member("health", error.is_empty());
                        json.member_string("took", took);
                        if !error.is_empty() {
                            json.member_string("error", error);
                        }
                    });
                }
            });
        }),
        Format::Table => {
            let row = |health: &Health| {
                let Health { endpoint, took, error } = health;
                vec![endpoint.clone(), error.is_empty().to_string(), took.clone(), error.clone()]
            };
            let rows: Vec<_> = found.iter().map(row).collect();
            print::out(print::table(&["endpoint", "health", "took", "error"], &rows).as_bytes())
        }
        Format::Protobuf => Err(printer.unsupported()),
    }
}

async fn status(mut context: Context) -> Result<(), Failure> {
    let (_, printer) = context.connect().await?;
    let (mut found, mut failed) = (Vec::new(), false);
    for endpoint in endpoints(&mut context).await? {
        let client = context.client_of(&endpoint).await?;
        match client.member_status().await {
            Ok(status) => found.push((endpoint, status)),
            Err(error) => {
                let why = context.why(&error);
                tell!("Failed to get the status of endpoint {endpoint} ({why})");
                failed = true;
            }
        }
    }
    print_status(printer, &found)?;
    if failed { Err(Failure::silent(code::ERROR)) } else { Ok(()) }
}

fn print_status(printer: Printer, found: &[(String, StatusResponse)]) -> Result<(), Failure> {
    let rows: Vec<_> = found.iter().map(|(endpoint, status)| status_row(endpoint, status)).collect();
    match printer.format {
        Format::Simple => printer.simple(|out| rows.iter().for_each(|row| out.line(row.join(", ")))),
        Format::Fields => Printer::fields(|out| {
            for (endpoint, status) in found {
                out.header(status.header.as_ref());
                out.quoted("Version", &status.version);
                out.plain("DBSize", status.db_size);
                out.plain("Leader", status.leader);
                out.plain("IsLearner", status.is_learner);
                out.plain("RaftIndex", status.raft_index);
                out.plain("RaftTerm", status.raft_term);
                out.plain("RaftAppliedIndex", status.raft_applied_index);
                out.plain("Errors", format!("[{}]", status.errors.join(" ")));
                out.quoted("Endpoint", endpoint);
                out.line("");
            }
        }),
        Format::Json => Printer::json(|json| {
            let messages = found.iter().map(|(endpoint, status)| (endpoint, status.encode_to_vec()));
            each(json, messages, "Status", "/etcdserverpb.Maintenance/Status");
        }),
        Format::Table => {
            let heads = [
                "endpoint",
                "ID",
                "version",
                "db size",
                "is leader",
                "is learner",
                "raft term",
                "raft index",
                "raft applied index",
                "errors",
            ];
            print::out(print::table(&heads, &rows).as_bytes())
        }
        Format::Protobuf => Err(printer.unsupported()),
    }
}

fn status_row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let member_id = status.header.as_ref().map_or(0, |header| header.member_id);
    vec![
        endpoint.to_owned(),
        format!("{member_id:x}"),
        status.version.clone(),
        print::bytes(status.db_size.unsigned_abs()),
        (status.leader == member_id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
    ]
}

/// `[{"Endpoint":...,"Status":{...}}]`.
fn each<'a>(json: &mut Json, found: impl Iterator<Item = (&'a String, Vec<u8>)>, name: &str, method: &str) {
    json.array(|json| {
        for (endpoint, message) in found {
            json.object(|json| {
                json.member_string("Endpoint", endpoint);
                json.name(name);
                json.raw(&json_message(output(method), &message));
            });
        }
    });
}

async fn hashkv(mut context: Context) -> Result<(), Failure> {
    let (_, printer) = context.connect().await?;
    let revision = context.int(&REV);
    let (mut found, mut last) = (Vec::new(), None);
    for endpoint in endpoints(&mut context).await? {
        let client = context.client_of(&endpoint).await?;
        match client.hash_kv(revision).await {
            Ok(hash) => found.push((endpoint, hash)),
            Err(error) => {
                let why = context.why(&error);
                tell!("Failed to get the hash of endpoint {endpoint} ({why})");
                last = Some(error);
            }
        }
    }
    print_hashes(printer, &found)?;
    last.map_or(Ok(()), |error| Err(error.into()))
}

fn print_hashes(printer: Printer, found: &[(String, HashKvResponse)]) -> Result<(), Failure> {
    let rows: Vec<_> = found.iter().map(|(endpoint, hash)| vec![endpoint.clone(), hash.hash.to_string()]).collect();
    match printer.format {
        Format::Simple => printer.simple(|out| rows.iter().for_each(|row| out.line(row.join(", ")))),
        Format::Fields => Printer::fields(|out| {
            for (endpoint, hash) in found {
                out.header(hash.header.as_ref());
                out.quoted("Endpoint", endpoint);
                out.plain("Hash", hash.hash);
                out.line("");
            }
        }),
        Format::Json => Printer::json(|json| {
            let messages = found.iter().map(|(endpoint, hash)| (endpoint, hash.encode_to_vec()));
            each(json, messages, "HashKV", "/etcdserverpb.Maintenance/HashKV");
        }),
        Format::Table => print::out(print::table(&["endpoint", "hash"], &rows).as_bytes()),
        Format::Protobuf => Err(printer.unsupported()),
    }
}
