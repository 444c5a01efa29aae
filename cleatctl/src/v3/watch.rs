//! `watch`: events as lines, as long as anybody reads them, and a command for each if one is given.

use super::txn::{read_line, words};
use crate::cli::parse::{Parsed, Refused, parse};
use crate::cli::{Command, Flag};
use crate::context::Context;
use crate::failure::{Failure, code, text_of};
use crate::print::{Format, Json, Printer, json_message, out, output};
use api::descriptor::{Kind, Message};
use api::etcdserverpb::{ResponseHeader, WatchResponse};
use api::mvccpb::Event;
use api::mvccpb::event::EventType;
use client::message::prefix_range;
use client::{Client, Error, Watch, WatchOptions};
use go::strconv;
use prost::Message as _;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use tokio::sync::mpsc;

const INTERACTIVE: Flag = Flag::switch("interactive", "Interactive mode").short('i');
const PREFIX: Flag = Flag::switch("prefix", "Watch on a prefix if prefix is set");
const PREV_KV: Flag = Flag::switch("prev-kv", "get the previous key-value pair before the event happens");
const PROGRESS_NOTIFY: Flag =
    Flag::switch("progress-notify", "get periodic watch progress notification from server").later();
const REV: Flag = Flag::int("rev", "0", "Revision to start watching");

const KEY_VARIABLE: &str = "ETCDCTL_WATCH_KEY";
const END_VARIABLE: &str = "ETCDCTL_WATCH_RANGE_END";

const SEPARATOR: &str = "--";

const BAD_NUMBER: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const NO_COMMAND: &str = "bad number of arguments (found separator --, but no commands)";

/// Lines of interactive input, and requests of a watch, that wait.
const QUEUE: usize = 16;

pub(crate) const COMMAND: Command = Command {
    name: "watch",
    usage: "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    short: "Watches events stream on keys or prefixes",
    flags: &[INTERACTIVE, PREFIX, PREV_KV, PROGRESS_NOTIFY, REV],
    run: Some(|context| Box::pin(watch(context))),
    variables: &[KEY_VARIABLE, END_VARIABLE],
    ..Command::NONE
};

/// What an interactive line can be.
static LINES: Command = Command { commands: &[&COMMAND], ..Command::NONE };

/// Key and end, as far as the environment has them.
struct Environment {
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let read = |name| std::env::var_os(name).unwrap_or_default().as_bytes().to_vec();
        let found = Self { key: read(KEY_VARIABLE), end: read(END_VARIABLE) };
        if found.key.is_empty() && !found.end.is_empty() {
            let end = strconv::quote(&found.end);
            return Err(Failure::bad_args(format!("{KEY_VARIABLE} is empty but got {END_VARIABLE}={end}")));
        }
        Ok(found)
    }
}

async fn watch(mut context: Context) -> Result<(), Failure> {
    let environment = Environment::read()?;
    if context.switch(&INTERACTIVE) {
        return interactive(context, &environment).await;
    }
    let (keys, command) = match arguments(&context, &environment) {
        // etcdctl counts words first, flags among them, and keys when it is connected.
        Err(BAD_NUMBER) if context.is_etcdctl() && context.words.last().is_some_and(|word| word != "watch") => {
            context.connect().await?;
            return Err(Failure::bad_args(BAD_NUMBER));
        }
        found => found.map_err(Failure::bad_args)?,
    };
    let (client, printer) = context.connect().await?;
    let options = options(&context, &keys).map_err(Failure::bad_args)?;
    let watch = client.watch(options).await;
    let watched = match watch {
        Ok(mut watch) => print_events(&mut watch, None, printer, &command).await,
        Err(error) => Err(Ended::at_once(error)),
    };
    match watched {
        Err(Ended::Failed(failure)) => Err(failure),
        Err(Ended::Canceled(
            error @ (Error::Compacted { .. } | Error::WatchCanceled { .. } | Error::Answered { .. }),
        )) => {
            canceled(printer, &error)?;
            Err(Failure::new(code::INTERRUPTED, "watch is canceled by the server"))
        }
        Err(Ended::Canceled(error)) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

/// Keys and the command behind `--`, by etcdctl's rules: the environment's key stands before the arguments.
fn arguments(context: &Context, environment: &Environment) -> Result<(Vec<Vec<u8>>, Vec<OsString>), &'static str> {
    let at = context.words.iter().position(|word| word == "watch").map_or(0, |at| at + 1);
    let raw = &context.words[at.min(context.words.len())..];
    let separator = raw.iter().position(|word| word == SEPARATOR);
    let command = separator.map(|at| raw[at + 1..].to_vec()).unwrap_or_default();
    let given = &context.args[..context.args.len().saturating_sub(command.len())];
    if separator.is_some() && command.is_empty() {
        return Err(NO_COMMAND);
    }
    let has_environment = !environment.key.is_empty();
    if !has_environment && given.is_empty() {
        return Err(BAD_NUMBER);
    }
    if has_environment && !given.is_empty() {
        return Err(CONFLICT);
    }
    let of_environment = [&environment.key, &environment.end].into_iter().filter(|key| !key.is_empty()).cloned();
    let keys = of_environment.chain(given.iter().map(|key| key.as_bytes().to_vec())).collect();
    Ok((keys, command))
}

/// What to watch, by the flags of a line.
fn options(context: &Context, keys: &[Vec<u8>]) -> Result<WatchOptions, &'static str> {
    let prefix = context.switch(&PREFIX);
    let key = keys.first().cloned().unwrap_or_default();
    let range_end = match keys {
        [_, _] if prefix => return Err("`range_end` and `--prefix` are mutually exclusive"),
        [_, end] => end.clone(),
        _ if prefix => prefix_range(key.clone()).1.to_vec(),
        _ => Vec::new(),
    };
    let key = if prefix { prefix_range(key).0 } else { key.into() };
    Ok(WatchOptions {
        key,
        range_end: range_end.into(),
        start_revision: context.int(&REV),
        prev_kv: context.switch(&PREV_KV),
        progress_notify: context.switch(&PROGRESS_NOTIFY),
    })
}

/// How a watch ends.
enum Ended {
    Canceled(Error),
    Failed(Failure),
}

impl Ended {
    /// The server does not want the watch. etcdctl knows no answer then, only the reason.
    fn at_once(error: Error) -> Self {
        Self::Canceled(match error {
            Error::WatchCanceled { endpoint, reason, .. } => {
                Error::WatchCanceled { endpoint, reason, header: ResponseHeader::default() }
            }
            other => other,
        })
    }
}

/// Prints what a watch hears until it ends. Each message on `progress` asks the server how far it is.
async fn print_events(
    watch: &mut Watch,
    mut progress: Option<mpsc::Receiver<()>>,
    printer: Printer,
    command: &[OsString],
) -> Result<(), Ended> {
    loop {
        let asked = async {
            match &mut progress {
                Some(progress) => progress.recv().await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = watch.next_answer() => answer.map_err(Ended::Canceled)?,
            Some(()) = asked => {
                watch.request_progress();
                continue;
            }
        };
        show(printer, &answer).map_err(Ended::Failed)?;
        let revision = answer.header.map_or(0, |header| header.revision);
        for event in &answer.events {
            run(command, event, revision).await.map_err(Ended::Failed)?;
        }
    }
}

fn show(printer: Printer, answer: &WatchResponse) -> Result<(), Failure> {
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.events.is_empty() && !answer.canceled && revision != 0 {
        out(format!("progress notify: {revision}\n").as_bytes())?;
    }
    match printer.format {
        Format::Simple => printer.simple(|out| {
            for event in &answer.events {
                out.line(event.r#type().as_str_name());
                event.prev_kv.iter().chain(&event.kv).for_each(|kv| out.kv(kv));
            }
        }),
        Format::Fields => Printer::fields(|out| {
            out.header(answer.header.as_ref());
            for event in &answer.events {
                out.plain("Type", event.r#type().as_str_name());
                event.prev_kv.iter().for_each(|kv| out.kv("Prev", kv));
                event.kv.iter().for_each(|kv| out.kv("", kv));
            }
        }),
        Format::Json => Printer::json(|json| json_answer(json, answer)),
        Format::Protobuf => out(&WatchResponse { watch_id: 0, ..answer.clone() }.encode_to_vec()),
        Format::Table => Err(printer.unsupported()),
    }
}

/// An answer has the form of etcdctl's client, not of the API.
fn json_answer(json: &mut Json, answer: &WatchResponse) {
    let header = answer.header.unwrap_or_default();
    json.object(|json| {
        json.name("Header");
        json.raw(&json_message(field("header"), &header.encode_to_vec()));
        json.name("Events");
        if answer.canceled && header == ResponseHeader::default() {
            json.raw("null");
        } else {
            json.array(|json| {
                for event in &answer.events {
                    json.raw(&json_message(field("events"), &event.encode_to_vec()));
                }
            });
        }
        json.member("CompactRevision", answer.compact_revision);
        json.member("Canceled", answer.canceled);
        json.member("Created", answer.created);
    });
}

/// What a field of an answer looks like.
fn field(name: &str) -> &'static Message {
    static NOTHING: Message = Message { name: "", fields: &[] };
    let fields = output("/etcdserverpb.Watch/Watch").fields;
    let found = fields.iter().find(|field| field.name == name).map(|field| &field.kind);
    if let Some(Kind::Message(message)) = found { message } else { &NOTHING }
}

/// Says why the server ended the watch.
fn canceled(printer: Printer, error: &Error) -> Result<(), Failure> {
    tell!("watch was canceled ({})", text_of(error));
    let (header, compact_revision) = match error {
        Error::Compacted { header, compact_revision, .. } => (*header, *compact_revision),
        Error::WatchCanceled { header, .. } => (*header, 0),
        _ => (ResponseHeader::default(), 0),
    };
    let header = Some(header);
    show(printer, &WatchResponse { header, compact_revision, canceled: true, ..WatchResponse::default() })
}

/// Runs a command for an event, which it finds in its environment.
async fn run(command: &[OsString], event: &Event, revision: i64) -> Result<(), Failure> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let kv = event.kv.clone().unwrap_or_default();
    let kind = if event.r#type() == EventType::Put { "PUT" } else { "DELETE" };
    let mut child = tokio::process::Command::new(program);
    child
        .args(args)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", strconv::quote(kind.as_bytes()))
        .env("ETCD_WATCH_KEY", strconv::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", strconv::quote(&kv.value))
        .stdin(Stdio::null());
    let why = match child.status().await {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => super::lock::ended(status),
        Err(error) => super::lock::not_started(program, &error),
    };
    let words: Vec<String> = command.iter().map(|word| strconv::quote(word.as_bytes())).collect();
    tell!("command [{}] error ({why})", words.join(" "));
    Err(Failure::silent(code::ERROR))
}

/// Begins a watch for each line `watch ...`, and asks all of them for progress at `progress`, until there are no more lines.
async fn interactive(mut context: Context, environment: &Environment) -> Result<(), Failure> {
    let (client, printer) = context.connect().await?;
    let mut lines = read_lines();
    let (mut watches, mut asking) = (tokio::task::JoinSet::new(), Vec::new());
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(ended) = watches.join_next() => match ended {
                Ok(Err(failure)) => return Err(failure),
                _ => continue,
            },
        };
        let Some(line) = line.flatten() else {
            // The two releases of etcdctl differ in a letter.
            let reading = if context.is_etcdctl() { "Error reading" } else { "error reading" };
            return Err(Failure::new(code::INVALID_INPUT, format!("{reading} watch request line: EOF")));
        };
        let words = words(&line).ok_or_else(|| Failure::new(code::INVALID_INPUT, "bad quoting"))?;
        match words.first().and_then(|word| word.to_str()) {
            None => tell!("Invalid command: {line} (watch and progress supported)"),
            Some("watch") if words.len() < 2 && environment.key.is_empty() => {
                tell!("Invalid command {line} (command type or key is not provided)");
            }
            Some("watch") => {
                let (options, command) = match read_watch(&context, &words, environment)? {
                    Ok(read) => read,
                    Err(why) => {
                        tell!("Invalid command {line} ({why})");
                        continue;
                    }
                };
                let (ask, asked) = mpsc::channel(QUEUE);
                asking.push(ask);
                watches.spawn(one(client.clone(), options, asked, printer, command));
            }
            Some("progress") => {
                // etcdctl asks the server, whose answer no watch is there to hear.
                if asking.is_empty() && !context.is_etcdctl() {
                    tell!("nothing is watched yet: `watch KEY` comes first");
                }
                // One that is full has been asked already.
                for ask in &asking {
                    let _is_asked = ask.try_send(());
                }
            }
            Some(_) => tell!("Invalid command {line} (only support watch)"),
        }
    }
}

/// Lines of standard input, read on a thread of their own: the last one is None.
fn read_lines() -> mpsc::Receiver<Option<String>> {
    let (send, lines) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        loop {
            let line = read_line().ok().flatten();
            let is_last = line.is_none();
            if send.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

async fn one(
    client: Client,
    options: WatchOptions,
    asked: mpsc::Receiver<()>,
    printer: Printer,
    command: Vec<OsString>,
) -> Result<(), Failure> {
    let ended = match client.watch(options).await {
        Ok(mut watch) => print_events(&mut watch, Some(asked), printer, &command).await,
        Err(error) => Err(Ended::at_once(error)),
    };
    match ended {
        // The others go on.
        Err(Ended::Canceled(error)) => canceled(printer, &error),
        Err(Ended::Failed(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

/// What an interactive line watches, and the command for its events; or why it is left out.
fn read_watch(
    context: &Context,
    words: &[OsString],
    environment: &Environment,
) -> Result<Result<(WatchOptions, Vec<OsString>), &'static str>, Failure> {
    let parsed = parse(&LINES, context.personality(), words).map_err(|refused| match refused {
        Refused::Flag { text, .. } | Refused::Command { text, .. } => Failure::bad_args(text),
    })?;
    let Parsed { path, values, args, .. } = parsed;
    let line = Context::new(path, values, args, words.to_vec());
    let (keys, command) = arguments(&line, environment).map_err(Failure::bad_args)?;
    Ok(options(&line, &keys).map(|options| (options, command)))
}
