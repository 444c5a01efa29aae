//! Commands of keys and directories.

use super::{Call, Command, Flag, Kind, code, error, fail, flag};
use crate::failure::Failure;
use crate::print::{self, Json};
use crate::v3;
use client::Effect;
use client::v2::{self, Condition, Delete, Event, Get, Node, Put, Response};
use std::process::Stdio;
use tokio::signal::unix::{SignalKind, signal};

const TTL: Flag = flag(&["ttl"], Kind::Int, "key time-to-live in seconds");
const SORT: Flag = flag(&["sort"], Kind::Bool, "returns result in sorted order");
const QUORUM: Flag = flag(&["quorum", "q"], Kind::Bool, "require quorum for get request");
const AFTER_INDEX: Flag = flag(&["after-index"], Kind::Int, "watch after the given index");

/// Commands of `exec-watch` that run at one time. More wait.
const CHILDREN_MAX: usize = 64;

pub(super) const GET: Command = Command {
    name: "get",
    usage: "<key>",
    about: "retrieve the value of a key",
    flags: &[SORT, QUORUM],
    run: Some(|call| Box::pin(get(call))),
    ..Command::NONE
};

pub(super) const LS: Command = Command {
    name: "ls",
    usage: "[key]",
    about: "retrieve a directory",
    flags: &[
        SORT,
        flag(&["recursive", "r"], Kind::Bool, "returns all key names recursively for the given path"),
        flag(&["p"], Kind::Bool, "append slash (/) to directories"),
        QUORUM,
    ],
    run: Some(|call| Box::pin(ls(call))),
    ..Command::NONE
};

pub(super) const SET: Command = Command {
    name: "set",
    usage: "<key> <value>",
    about: "set the value of a key",
    description: "Set sets the value of a key.\n\n   When <value> begins with '-', <value> is interpreted as a flag.\n   \
                  Insert '--' for workaround:\n\n   $ set -- <key> <value>",
    flags: &[
        TTL,
        flag(&["swap-with-value"], Kind::Text, "previous value"),
        flag(&["swap-with-index"], Kind::Int, "previous index"),
    ],
    run: Some(|call| Box::pin(set(call))),
    ..Command::NONE
};

pub(super) const MK: Command = Command {
    name: "mk",
    usage: "<key> <value>",
    about: "make a new key with a given value",
    flags: &[flag(&["in-order"], Kind::Bool, "create in-order key under directory <key>"), TTL],
    run: Some(|call| Box::pin(mk(call))),
    ..Command::NONE
};

pub(super) const UPDATE: Command = Command {
    name: "update",
    usage: "<key> <value>",
    about: "update an existing key with a given value",
    flags: &[TTL],
    run: Some(|call| Box::pin(write(call, Condition::Exists))),
    ..Command::NONE
};

pub(super) const MKDIR: Command = Command {
    name: "mkdir",
    usage: "<key>",
    about: "make a new directory",
    flags: &[TTL],
    run: Some(|call| Box::pin(directory(call, Condition::Absent))),
    ..Command::NONE
};

pub(super) const SETDIR: Command = Command {
    name: "setdir",
    usage: "<key>",
    about: "create a new directory or update an existing directory TTL",
    flags: &[TTL],
    run: Some(|call| Box::pin(directory(call, Condition::Any))),
    ..Command::NONE
};

pub(super) const UPDATEDIR: Command = Command {
    name: "updatedir",
    usage: "<key> <value>",
    about: "update an existing directory",
    flags: &[TTL],
    run: Some(|call| Box::pin(directory(call, Condition::Exists))),
    ..Command::NONE
};

pub(super) const RM: Command = Command {
    name: "rm",
    usage: "<key>",
    about: "remove a key or a directory",
    flags: &[
        flag(&["dir"], Kind::Bool, "removes the key if it is an empty directory or a key-value pair"),
        flag(&["recursive", "r"], Kind::Bool, "removes the key and all child keys(if it is a directory)"),
        flag(&["with-value"], Kind::Text, "previous value"),
        flag(&["with-index"], Kind::Int, "previous index"),
    ],
    run: Some(|call| {
        Box::pin(async move {
            let delete = Delete {
                dir: call.values.switch("dir"),
                recursive: call.values.switch("recursive"),
                value: given(call.values.text("with-value")),
                index: index(call.values.int("with-index")),
            };
            rm(call, delete).await
        })
    }),
    ..Command::NONE
};

pub(super) const RMDIR: Command = Command {
    name: "rmdir",
    usage: "<key>",
    about: "removes the key if it is an empty directory or a key-value pair",
    run: Some(|call| Box::pin(rm(call, Delete { dir: true, ..Delete::default() }))),
    ..Command::NONE
};

pub(super) const WATCH: Command = Command {
    name: "watch",
    usage: "<key>",
    about: "watch a key for changes",
    flags: &[
        flag(&["forever", "f"], Kind::Bool, "forever watch a key until CTRL+C"),
        AFTER_INDEX,
        flag(&["recursive", "r"], Kind::Bool, "returns all values for key and child keys"),
    ],
    run: Some(|call| Box::pin(until_interrupted(watch(call)))),
    ..Command::NONE
};

pub(super) const EXEC_WATCH: Command = Command {
    name: "exec-watch",
    usage: "<key> <command> [args...]",
    about: "watch a key for changes and exec an executable",
    flags: &[AFTER_INDEX, flag(&["recursive", "r"], Kind::Bool, "watch all values for key and child keys")],
    run: Some(|call| Box::pin(until_interrupted(exec_watch(call)))),
    ..Command::NONE
};

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A time in seconds, None if it is not above zero.
fn ttl(call: &Call) -> Option<u64> {
    u64::try_from(call.values.int("ttl")).ok().filter(|seconds| *seconds > 0)
}

/// An index or a time, None if it is zero. One below zero is a large one, as in etcdctl: no key has it.
fn index(number: i64) -> Option<u64> {
    Some(number.cast_unsigned()).filter(|number| *number > 0)
}

fn key(call: &Call) -> Result<String, Failure> {
    call.args.first().cloned().ok_or_else(|| error(code::BAD_ARGS, "key required"))
}

/// The second argument, or standard input.
fn value(call: &Call) -> Result<String, Failure> {
    let read = || v3::kv::standard_input().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let value = call.args.get(1).cloned().or_else(|| read().filter(|value| !value.is_empty()));
    value.ok_or_else(|| error(code::BAD_ARGS, "value required"))
}

/// A read that failed.
fn unread(call: &Call, why: &v2::Error) -> Failure {
    call.failed(code::SERVER, why, Effect::Read)
}

/// A write that failed. What is created is asked of one endpoint by etcdctl, too, which then tells no others.
fn unwritten(call: &Call, why: &v2::Error, is_once: bool) -> Failure {
    if is_once {
        call.failed_once(code::SERVER, why, Effect::Write)
    } else {
        call.failed(code::SERVER, why, Effect::Write)
    }
}

async fn get(call: Call) -> Result<(), Failure> {
    let client = call.connect().await?;
    let key = key(&call)?;
    let how = Get { sorted: call.values.switch("sort"), quorum: call.values.switch("quorum"), recursive: false };
    let response = client.get(&key, how).await.map_err(|why| unread(&call, &why))?;
    if response.event.node.dir {
        return Err(fail(code::BAD_ARGS, &format!("{}: is a directory", response.event.node.key)));
    }
    show(&response, &call.output())
}

async fn ls(call: Call) -> Result<(), Failure> {
    let client = call.connect().await?;
    let key = call.args.first().cloned().unwrap_or_else(|| "/".to_owned());
    let how = Get {
        sorted: call.values.switch("sort"),
        quorum: call.values.switch("quorum"),
        recursive: call.values.switch("recursive"),
    };
    let response = client.get(&key, how).await.map_err(|why| unread(&call, &why))?;
    if call.output() != "simple" {
        return show(&response, &call.output());
    }
    let node = &response.event.node;
    let mut text = if node.dir { String::new() } else { format!("{}\n", node.key) };
    node.nodes.iter().for_each(|child| list(&mut text, child, call.values.switch("p")));
    print::out(text.as_bytes())
}

fn list(out: &mut String, node: &Node, slash: bool) {
    out.extend([node.key.as_str(), if node.dir && slash { "/\n" } else { "\n" }]);
    node.nodes.iter().for_each(|child| list(out, child, slash));
}

async fn set(call: Call) -> Result<(), Failure> {
    let (value, index) = (given(call.values.text("swap-with-value")), index(call.values.int("swap-with-index")));
    let is_any = value.is_none() && index.is_none();
    write(call, if is_any { Condition::Any } else { Condition::Matches { value, index } }).await
}

async fn write(call: Call, condition: Condition) -> Result<(), Failure> {
    let client = call.connect().await?;
    let (key, value) = (key(&call)?, value(&call)?);
    let put = Put { value: Some(value), ttl: ttl(&call), condition, ..Put::default() };
    let is_once = put.condition == Condition::Absent;
    let response = client.put(&key, put).await.map_err(|why| unwritten(&call, &why, is_once))?;
    show(&response, &call.output())
}

async fn mk(call: Call) -> Result<(), Failure> {
    if !call.values.switch("in-order") {
        return write(call, Condition::Absent).await;
    }
    let client = call.connect().await?;
    let (key, value) = (key(&call)?, value(&call)?);
    let created = client.create_in_order(&key, value, index(call.values.int("ttl"))).await;
    show(&created.map_err(|why| unwritten(&call, &why, false))?, &call.output())
}

async fn directory(call: Call, condition: Condition) -> Result<(), Failure> {
    let client = call.connect().await?;
    let put = Put { dir: true, ttl: ttl(&call), condition, ..Put::default() };
    let is_once = put.condition == Condition::Absent;
    let response = client.put(&key(&call)?, put).await;
    let response = response.map_err(|why| unwritten(&call, &why, is_once))?;
    if call.output() == "simple" { Ok(()) } else { show(&response, &call.output()) }
}

async fn rm(call: Call, delete: Delete) -> Result<(), Failure> {
    let client = call.connect().await?;
    let response = client.delete(&key(&call)?, delete).await.map_err(|why| unwritten(&call, &why, false))?;
    let is_silent = response.event.node.dir && call.output() == "simple";
    if is_silent { Ok(()) } else { show(&response, &call.output()) }
}

/// Prints what was done, in the format that was asked for.
fn show(response: &Response, format: &str) -> Result<(), Failure> {
    let Event { action, node, prev_node } = &response.event;
    let value = |node: Option<&Node>| node.and_then(|node| node.value.clone()).unwrap_or_default();
    let is_gone = action == "delete";
    match format {
        "simple" if is_gone => print::line(&format!("PrevNode.Value: {}", value(prev_node.as_ref()))),
        "simple" => print::line(&value(Some(node))),
        "extended" => {
            let mut text = format!(
                "Key: {}\nCreated-Index: {}\nModified-Index: {}\n",
                node.key, node.created_index, node.modified_index
            );
            if let Some(before) = prev_node {
                text += &format!("PrevNode.Value: {}\n", value(Some(before)));
            }
            text += &format!("TTL: {}\nIndex: {}\n", node.ttl.unwrap_or_default(), response.index);
            if !is_gone {
                text += &format!("\n{}\n", value(Some(node)));
            }
            print::out(text.as_bytes())
        }
        "json" => {
            let mut json = Json::default();
            json.object(|json| {
                json.member_string("action", action);
                json.name("node");
                node_json(json, Some(node));
                json.name("prevNode");
                node_json(json, prev_node.as_ref());
            });
            print::line(&json.text)
        }
        other => {
            tell!("Unsupported output format: {other}");
            Ok(())
        }
    }
}

fn node_json(json: &mut Json, node: Option<&Node>) {
    let Some(node) = node else { return json.raw("null") };
    json.object(|json| {
        json.member_string("key", &node.key);
        if node.dir {
            json.member("dir", true);
        }
        json.member_string("value", node.value.as_deref().unwrap_or_default());
        json.name("nodes");
        if node.nodes.is_empty() {
            json.raw("null");
        } else {
            json.array(|json| node.nodes.iter().for_each(|child| node_json(json, Some(child))));
        }
        json.member("createdIndex", node.created_index);
        json.member("modifiedIndex", node.modified_index);
        if let Some(expiration) = &node.expiration {
            json.member_string("expiration", expiration);
        }
        if let Some(ttl) = node.ttl.filter(|ttl| *ttl != 0) {
            json.member("ttl", ttl);
        }
    });
}

/// Ends without an error when this process is interrupted.
async fn until_interrupted(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = work => ended,
        _ = interrupt.recv() => Ok(()),
    }
}

/// The next event of a watch.
async fn next(call: &Call, watch: &mut v2::Watch) -> Result<Response, Failure> {
    watch.next_event().await.map_err(|why| unread(call, &why))
}

async fn watch(call: Call) -> Result<(), Failure> {
    let client = call.connect().await?;
    let key = key(&call)?;
    let recursive = call.values.switch("recursive");
    let mut watch = client.watch(&key, recursive, index(call.values.int("after-index")));
    loop {
        let response = next(&call, &mut watch).await?;
        if response.event.node.dir {
            continue;
        }
        if recursive {
            print::line(&format!("[{}] {}", response.event.action, response.event.node.key))?;
        }
        show(&response, &call.output())?;
        if !call.values.switch("forever") {
            return Ok(());
        }
    }
}

async fn exec_watch(call: Call) -> Result<(), Failure> {
    let client = call.connect().await?;
    let (key, command) = match &*call.args {
        [] | [_] => return Err(error(code::BAD_ARGS, "key and command to exec required")),
        [key, _, command @ ..] if call.args.iter().skip(1).any(|arg| arg == "--") => (key, command),
        [command @ .., key] => (key, command),
    };
    let Some((program, args)) = command.split_first() else {
        return Err(error(code::BAD_ARGS, "key and command to exec required"));
    };
    let mut watch = client.watch(key, call.values.switch("recursive"), index(call.values.int("after-index")));
    let mut children = tokio::task::JoinSet::new();
    loop {
        let Response { event, .. } = next(&call, &mut watch).await?;
        if event.node.dir {
            tell!("Ignored dir {} change", event.node.key);
            continue;
        }
        if children.len() >= CHILDREN_MAX {
            children.join_next().await;
        }
        let mut child = tokio::process::Command::new(program);
        child
            .args(args)
            .env("ETCD_WATCH_ACTION", &event.action)
            .env("ETCD_WATCH_MODIFIED_INDEX", event.node.modified_index.to_string())
            .env("ETCD_WATCH_KEY", &event.node.key)
            .env("ETCD_WATCH_VALUE", event.node.value.as_deref().unwrap_or_default())
            .stdin(Stdio::null());
        let mut running =
            child.spawn().map_err(|why| fail(code::BAD_ARGS, &v3::lock::not_started(program.as_ref(), &why)))?;
        children.spawn(async move { running.wait().await });
    }
}
