//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use super::renewal::{Renewal, Renewed};
use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::{Failure, code, text_of};
use crate::globals;
use crate::people::{self, explain};
use crate::print::{Format, Json, Printer, header_text, out};
use api::error::Error as ApiError;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, ResponseHeader,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use go::strconv;
use prost::Message;
use std::time::Duration;

const KEYS: Flag = Flag::switch("keys", "Get keys attached to this lease");
const ONCE: Flag = Flag::switch("once", "Resets the keep-alive time to its original value and exits immediately");

/// More than the time for a connection, until the first answer must be there: nothing is known of the lease before.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

pub(crate) const COMMAND: Command = Command {
    name: "lease",
    usage: "<subcommand>",
    short: "Lease related commands",
    group: Group::Leases,
    commands: &[&GRANT, &KEEP_ALIVE, &LIST, &REVOKE, &TIMETOLIVE],
    ..Command::NONE
};

const GRANT: Command = Command {
    name: "grant",
    usage: "<ttl>",
    short: "Creates leases",
    run: Some(|context| Box::pin(grant(context))),
    ..Command::NONE
};

const KEEP_ALIVE: Command = Command {
    name: "keep-alive",
    usage: "[options] <leaseID>",
    short: "Keeps leases alive (renew)",
    flags: &[ONCE],
    run: Some(|context| Box::pin(keep_alive(context))),
    ..Command::NONE
};

const LIST: Command = Command {
    name: "list",
    short: "List all active leases",
    run: Some(|context| Box::pin(list(context))),
    ..Command::NONE
};

const REVOKE: Command = Command {
    name: "revoke",
    usage: "<leaseID>",
    short: "Revokes leases",
    run: Some(|context| Box::pin(revoke(context))),
    ..Command::NONE
};

const TIMETOLIVE: Command = Command {
    name: "timetolive",
    usage: "<leaseID> [options]",
    short: "Get lease information",
    flags: &[KEYS],
    run: Some(|context| Box::pin(time_to_live(context))),
    ..Command::NONE
};

/// The lease that an argument names.
fn id(text: &str) -> Result<i64, Failure> {
    strconv::parse_int(text.as_bytes(), 16)
        .map_err(|why| Failure::bad_args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// As etcdctl's client has it in the answer itself.
fn header(json: &mut Json, header: Option<&ResponseHeader>) {
    let Some(header) = header else { return };
    let mut member = |name, value: String| {
        if value != "0" {
            json.member(name, value);
        }
    };
    member("cluster_id", header.cluster_id.to_string());
    member("member_id", header.member_id.to_string());
    member("revision", header.revision.to_string());
    member("raft_term", header.raft_term.to_string());
}

/// The answers about leases are types of etcdctl's client. The only part of them that has an encoding is the header.
fn protobuf(header: Option<&ResponseHeader>) -> Result<(), Failure> {
    out(&header.map(Message::encode_to_vec).unwrap_or_default())
}

async fn grant(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("lease grant command needs TTL argument"));
    }
    let ttl = strconv::parse_int(context.text(0).as_bytes(), 10)
        .map_err(|why| Failure::bad_args(format!("bad TTL ({why})")))?;
    let (client, printer) = context.connect().await?;
    let answer = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let answer =
        answer.map_err(|error| Failure::from(error).map_text(|text| format!("failed to grant lease ({text})")))?;
    match printer.format {
        Format::Simple => {
            printer.simple(|out| out.line(format!("lease {:016x} granted with TTL({}s)", answer.id, answer.ttl)))
        }
        Format::Fields => Printer::fields(|out| {
            out.header(answer.header.as_ref());
            out.plain("ID", answer.id);
            out.plain("TTL", answer.ttl);
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                header(json, answer.header.as_ref());
                json.member("ID", answer.id);
                json.member("TTL", answer.ttl);
                json.member_string("Error", &answer.error);
            });
        }),
        Format::Protobuf => protobuf(answer.header.as_ref()),
        Format::Table => Err(printer.unsupported()),
    }
}

async fn revoke(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("lease revoke command needs 1 argument"));
    }
    let id = id(&context.text(0))?;
    let (client, printer) = context.connect().await?;
    let answer = client.lease_revoke(LeaseRevokeRequest { id }).await;
    let answer =
        answer.map_err(|error| Failure::from(error).map_text(|text| format!("failed to revoke lease ({text})")))?;
    if printer.format == Format::Protobuf && context.is_etcdctl() {
        let header = header_text(answer.header.as_ref());
        let text = format!("marshal unsupported for type clientv3.LeaseRevokeResponse ({{{header}}})");
        return Err(Failure::new(code::BAD_FEATURE, text));
    }
    printer.answer(
        "/etcdserverpb.Lease/LeaseRevoke",
        &answer,
        |out| out.line(format!("lease {id:016x} revoked")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn time_to_live(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("lease timetolive command needs lease ID as argument"));
    }
    let keys = context.switch(&KEYS);
    let (client, printer) = context.connect().await?;
    let request = LeaseTimeToLiveRequest { id: id(&context.text(0))?, keys };
    let answer = client.lease_time_to_live(request).await;
    let answer = answer.map_err(|error| Failure::from(error).with_code(code::BAD_CONNECTION))?;
    match printer.format {
        Format::Simple => printer.simple(|out| out.line(left(&answer, keys))),
        Format::Fields => Printer::fields(|out| {
            out.header(answer.header.as_ref());
            out.plain("ID", answer.id);
            out.plain("TTL", answer.ttl);
            out.plain("GrantedTTL", answer.granted_ttl);
            answer.keys.iter().for_each(|key| out.quoted("Key", key));
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                header(json, answer.header.as_ref());
                json.member("id", answer.id);
                json.member("ttl", answer.ttl);
                json.member("granted-ttl", answer.granted_ttl);
                json.name("keys");
                if answer.keys.is_empty() {
                    json.raw("null");
                } else {
                    json.array(|json| {
                        answer.keys.iter().for_each(|key| json.raw(&format!("\"{}\"", STANDARD.encode(key))));
                    });
                }
            });
        }),
        Format::Protobuf => protobuf(answer.header.as_ref()),
        Format::Table => Err(printer.unsupported()),
    }
}

fn left(answer: &LeaseTimeToLiveResponse, keys: bool) -> Vec<u8> {
    let LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = answer;
    if *granted_ttl == 0 && *ttl == -1 {
        return format!("lease {id:016x} already expired").into();
    }
    let mut text = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
    if keys {
        text.extend_from_slice(b", attached keys([");
        text.extend_from_slice(&answer.keys.join(&b' '));
        text.extend_from_slice(b"])");
    }
    text
}

async fn list(mut context: Context) -> Result<(), Failure> {
    let (client, printer) = context.connect().await?;
    let answer = client.leases(LeaseLeasesRequest {}).await;
    let answer = answer.map_err(|error| Failure::from(error).with_code(code::BAD_CONNECTION))?;
    match printer.format {
        Format::Simple => printer.simple(|out| {
            out.line(format!("found {} leases", answer.leases.len()));
            answer.leases.iter().for_each(|lease| out.line(format!("{:016x}", lease.id)));
        }),
        Format::Fields => Printer::fields(|out| {
            out.header(answer.header.as_ref());
            answer.leases.iter().for_each(|lease| out.plain("ID", lease.id));
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                header(json, answer.header.as_ref());
                json.name("leases");
                json.array(|json| {
                    answer.leases.iter().for_each(|lease| json.object(|json| json.member("id", lease.id)));
                });
            });
        }),
        Format::Protobuf => protobuf(answer.header.as_ref()),
        Format::Table => Err(printer.unsupported()),
    }
}

async fn keep_alive(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("lease keep-alive command needs lease ID as argument"));
    }
    let id = id(&context.text(0))?;
    let once = context.switch(&ONCE);
    let (client, printer) = context.connect().await?;
    let failed = |error| Failure::from(error).with_code(code::BAD_CONNECTION);
    if once {
        let answer = client.keep_alive_once(id).await.map_err(failed)?;
        if answer.ttl <= 0 {
            return Err(Failure::new(code::BAD_CONNECTION, ApiError::LeaseNotFound.text()));
        }
        return renewed(printer, &answer);
    }
    let mut renewal = Renewal::new(client, id, context.duration(&globals::DIAL_TIMEOUT) + FIRST_ANSWER);
    let mut is_known = false;
    let unheard = loop {
        match renewal.next().await.map_err(failed)? {
            Renewed::Alive(answer) => renewed(printer, &answer)?,
            Renewed::Gone => break None,
            Renewed::Unheard(why) => break why,
        }
        is_known = true;
    };
    // etcdctl says the same of a lease that is over and of a server that is.
    if let Some(why) = unheard.filter(|_| !context.is_etcdctl()) {
        if !is_known {
            return Err(failed(why));
        }
        people::say(&format!("warning: lease {id:016x} could not be renewed: {}", explain(&why, &text_of(&why))));
    }
    match printer.format {
        Format::Simple => printer.simple(|out| out.line(format!("lease {id:016x} expired or revoked."))),
        _ => Ok(()),
    }
}

fn renewed(printer: Printer, answer: &LeaseKeepAliveResponse) -> Result<(), Failure> {
    let LeaseKeepAliveResponse { id, ttl, .. } = answer;
    match printer.format {
        Format::Simple => printer.simple(|out| out.line(format!("lease {id:016x} keepalived with TTL({ttl})"))),
        Format::Fields => Printer::fields(|out| {
            out.header(answer.header.as_ref());
            out.plain("ID", id);
            out.plain("TTL", ttl);
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                header(json, answer.header.as_ref());
                json.member("ID", id);
                json.member("TTL", ttl);
            });
        }),
        Format::Protobuf => protobuf(answer.header.as_ref()),
        Format::Table => Err(printer.unsupported()),
    }
}
