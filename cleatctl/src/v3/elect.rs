//! `elect`: takes part in an election, or tells who leads.

use super::kv;
use super::session::{Interrupts, Session, TTL};
use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::print::Printer;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::{RangeRequest, RangeResponse};
use api::mvccpb::KeyValue;
use api::mvccpb::event::EventType;
use client::message::{self, prefix_range};
use client::{Client, WatchOptions};

const LISTEN: Flag = Flag::switch("listen", "observation mode").short('l');

pub(crate) const COMMAND: Command = Command {
    name: "elect",
    usage: "<election-name> [proposal]",
    short: "Observes and participates in leader election",
    group: Group::Leases,
    flags: &[LISTEN],
    run: Some(|context| Box::pin(elect(context))),
    ..Command::NONE
};

async fn elect(mut context: Context) -> Result<(), Failure> {
    if !(1..=2).contains(&context.args.len()) {
        return Err(Failure::bad_args("elect takes one election name argument and an optional proposal argument"));
    }
    let listens = context.switch(&LISTEN);
    let (client, printer) = context.connect().await?;
    let name = context.arg(0).unwrap_or_default();
    match context.arg(1) {
        None if !listens => Err(Failure::bad_args("no proposal argument but -l not set")),
        Some(_) if listens => Err(Failure::bad_args("proposal given but -l is set")),
        Some(proposal) => {
            let mut interrupts = Interrupts::listen()?;
            let session = Session::begin(client, TTL, context.is_etcdctl()).await?;
            let ended = tokio::select! {
                ended = campaign(&session, name, proposal, printer, &mut interrupts) => ended,
                expired = session.expired() => Err(expired.map_text(|text| format!("elect: {text}"))),
            };
            session.end().await;
            ended
        }
        None => {
            let mut interrupts = Interrupts::listen()?;
            tokio::select! {
                ended = observe(&client, name, printer) => ended,
                () = interrupts.next() => Ok(()),
            }
        }
    }
}

async fn campaign(
    session: &Session,
    name: &[u8],
    proposal: &[u8],
    printer: Printer,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let claim = session.claim(name, proposal).await?;
    session.propose(&claim, proposal).await?;
    tokio::select! {
        first = session.wait_for_first(name, &claim) => drop(first?),
        () = interrupts.next() => {
            session.release(&claim).await?;
            return Err(Failure::new(code::ERROR, "context canceled"));
        }
    }
    print(printer, &session.own(&claim).await?)?;
    interrupts.next().await;
    session.release(&claim).await
}

fn print(printer: Printer, answer: &RangeResponse) -> Result<(), Failure> {
    printer.answer("/etcdserverpb.KV/Range", answer, |out| kv::got(out, answer), |out| kv::got_fields(out, answer))
}

/// Prints the leader, and every one after it.
async fn observe(client: &Client, name: &[u8], printer: Printer) -> Result<(), Failure> {
    let prefix = [name, b"/"].concat();
    loop {
        let oldest = RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            limit: 1,
            ..message::get_prefix(prefix.clone())
        };
        let mut answer = client.range(oldest).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let leader = match answer.kvs.pop() {
            Some(leader) => leader,
            None => first_put(client, &prefix, revision + 1).await?,
        };
        let next = leader.mod_revision.max(revision) + 1;
        let of = |kv: KeyValue| RangeResponse { header: answer.header, kvs: vec![kv], more: false, count: 0 };
        print(printer, &of(leader.clone()))?;
        let options = WatchOptions { key: leader.key, start_revision: next, ..WatchOptions::default() };
        let mut watch = client.watch(options).await?;
        'leads: loop {
            for event in watch.next().await?.events {
                match (event.r#type(), event.kv) {
                    (EventType::Delete, _) => break 'leads,
                    (EventType::Put, Some(kv)) => print(printer, &of(kv))?,
                    (EventType::Put, None) => {}
                }
            }
        }
    }
}

async fn first_put(client: &Client, prefix: &[u8], start_revision: i64) -> Result<KeyValue, Failure> {
    let (key, range_end) = prefix_range(prefix.to_vec());
    let mut watch = client.watch(WatchOptions { key, range_end, start_revision, ..WatchOptions::default() }).await?;
    loop {
        let mut puts = watch.next().await?.events.into_iter().filter(|event| event.r#type() == EventType::Put);
        if let Some(kv) = puts.find_map(|event| event.kv) {
            return Ok(kv);
        }
    }
}
