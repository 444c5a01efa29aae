//! `get`, `put` and `del`; `txn` reads the same flags for its operations.

use crate::cli::{Command, Flag};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::people::destructive::{DRY_RUN, YES, permits_del};
use crate::print::{Fields, Format, Simple};
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
};
use client::message::prefix_range;
use go::strconv;
use std::io::Read as _;

/// The first key that there can be, and as an end: no end.
const ZERO: &[u8] = b"\0";

const CONSISTENCY: Flag = Flag::string("consistency", "l", "Linearizable(l) or Serializable(s)").one_of(&["l", "s"]);
const COUNT_ONLY: Flag = Flag::switch("count-only", "Get only the count").later();
const GET_FROM_KEY: Flag =
    Flag::switch("from-key", "Get keys that are greater than or equal to the given key using byte compare");
const KEYS_ONLY: Flag = Flag::switch("keys-only", "Get only the keys");
const LIMIT: Flag = Flag::int("limit", "0", "Maximum number of results");
const MAX_CREATE_REV: Flag = Flag::int("max-create-rev", "0", "Maximum create revision").later();
const MAX_MOD_REV: Flag = Flag::int("max-mod-rev", "0", "Maximum modification revision").later();
const MIN_CREATE_REV: Flag = Flag::int("min-create-rev", "0", "Minimum create revision").later();
const MIN_MOD_REV: Flag = Flag::int("min-mod-rev", "0", "Minimum modification revision").later();
const ORDER: Flag =
    Flag::string("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)").one_of(&["ASCEND", "DESCEND"]);
const GET_PREFIX: Flag = Flag::switch("prefix", "Get keys with matching prefix");
const PRINT_VALUE_ONLY: Flag =
    Flag::switch("print-value-only", "Only write values when using the \"simple\" output format");
const REV: Flag = Flag::int("rev", "0", "Specify the kv revision");
const STREAM: Flag = Flag::switch("stream", "Use the RangeStream RPC").later();
const SORT_BY: Flag = Flag::string("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION")
    .one_of(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]);

const DEL_FROM_KEY: Flag =
    Flag::switch("from-key", "delete keys that are greater than or equal to the given key using byte compare");
const DEL_PREFIX: Flag = Flag::switch("prefix", "delete keys with matching prefix");
const DEL_PREV_KV: Flag = Flag::switch("prev-kv", "return deleted key-value pairs");
const DEL_RANGE: Flag = Flag::switch("range", "delete range of keys without delay").later();

const IGNORE_LEASE: Flag = Flag::switch("ignore-lease", "updates the key using its current lease");
const IGNORE_VALUE: Flag = Flag::switch("ignore-value", "updates the key using its current value");
const LEASE: Flag = Flag::string("lease", "0", "lease ID (in hexadecimal) to attach to the key");
const PUT_PREV_KV: Flag = Flag::switch("prev-kv", "return the previous key-value pair before modification");

pub(crate) const GET: Command = Command {
    name: "get",
    usage: "[options] <key> [range_end]",
    short: "Gets the key or a range of keys",
    flags: &[
        CONSISTENCY,
        COUNT_ONLY,
        GET_FROM_KEY,
        KEYS_ONLY,
        LIMIT,
        MAX_CREATE_REV,
        MAX_MOD_REV,
        MIN_CREATE_REV,
        MIN_MOD_REV,
        ORDER,
        GET_PREFIX,
        PRINT_VALUE_ONLY,
        REV,
        SORT_BY,
        STREAM,
    ],
    run: Some(|context| Box::pin(get(context))),
    ..Command::NONE
};

pub(crate) const DEL: Command = Command {
    name: "del",
    usage: "[options] <key> [range_end]",
    short: "Removes the specified key or range of keys [key, range_end)",
    flags: &[DRY_RUN, DEL_FROM_KEY, DEL_PREFIX, DEL_PREV_KV, DEL_RANGE, YES],
    run: Some(|context| Box::pin(del(context))),
    ..Command::NONE
};

pub(crate) const PUT: Command = Command {
    name: "put",
    usage: "[options] <key> <value> (<value> can also be given from stdin)",
    short: "Puts the given key into the store",
    long: "
Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.
",
    flags: &[IGNORE_LEASE, IGNORE_VALUE, LEASE, PUT_PREV_KV],
    run: Some(|context| Box::pin(put(context))),
    ..Command::NONE
};

async fn get(mut context: Context) -> Result<(), Failure> {
    let request = get_request(&context)?;
    let value_only = context.switch(&PRINT_VALUE_ONLY);
    let (client, mut printer) = context.connect().await?;
    if request.count_only && request.keys_only {
        let text = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Failure::bad_args(text));
    }
    // The format shows keys, and there are none.
    if request.count_only && printer.format == Format::Simple {
        return Err(Failure::bad_args("--count-only is only for `--write-out=fields`, json and protobuf"));
    }
    let streams = context.switch(&STREAM);
    let answer = if streams { client.range_stream(request).await } else { client.range(request).await }?;
    if value_only {
        if printer.format != Format::Simple {
            return Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"));
        }
        printer.value_only = true;
    }
    printer.answer("/etcdserverpb.KV/Range", &answer, |out| got(out, &answer), |out| got_fields(out, &answer))
}

async fn put(mut context: Context) -> Result<(), Failure> {
    let request = put_request(&context, standard_input)?;
    let (client, printer) = context.connect().await?;
    let answer = client.put(request).await?;
    printer.answer("/etcdserverpb.KV/Put", &answer, |out| did_put(out, &answer), |out| did_put_fields(out, &answer))
}

async fn del(mut context: Context) -> Result<(), Failure> {
    let request = del_request(&context)?;
    let (client, printer) = context.connect().await?;
    if !permits_del(&context, &client, &request).await? {
        return Ok(());
    }
    let answer = client.delete(request).await?;
    printer.answer(
        "/etcdserverpb.KV/DeleteRange",
        &answer,
        |out| deleted(out, &answer),
        |out| deleted_fields(out, &answer),
    )
}

/// What `get` asks for.
///
/// # Errors
/// Flags and arguments that do not go together.
pub(super) fn get_request(context: &Context) -> Result<RangeRequest, Failure> {
    let Some(key) = context.arg(0) else {
        return Err(Failure::bad_args("get command needs one argument as key and an optional argument as range_end"));
    };
    let (prefix, from_key) = (context.switch(&GET_PREFIX), context.switch(&GET_FROM_KEY));
    exclusive(prefix, from_key)?;
    let consistency = context.string(&CONSISTENCY);
    if !["l", "s"].contains(&&*consistency) {
        let quoted = strconv::quote(consistency.as_bytes());
        return Err(Failure::new(code::BAD_FEATURE, format!("unknown consistency flag {quoted}")));
    }
    let (key, range_end) = range(key, context.arg(1), prefix, from_key)?;
    let (sort_order, sort_target) = match (sort_order(context)?, sort_target(context)?) {
        // That is the order without sorting, in which a server need not read everything for a limit.
        (SortOrder::Ascend, SortTarget::Key) => (SortOrder::None, SortTarget::Key),
        sorted => sorted,
    };
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: context.int(&LIMIT),
        revision: context.int(&REV).max(0),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable: consistency == "s",
        keys_only: context.switch(&KEYS_ONLY),
        count_only: context.switch(&COUNT_ONLY),
        min_mod_revision: context.int(&MIN_MOD_REV),
        max_mod_revision: context.int(&MAX_MOD_REV),
        min_create_revision: context.int(&MIN_CREATE_REV),
        max_create_revision: context.int(&MAX_CREATE_REV),
    })
}

fn sort_order(context: &Context) -> Result<SortOrder, Failure> {
    let order = context.string(&ORDER);
    match &*order.to_uppercase() {
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        "" => Ok(SortOrder::None),
        _ => Err(Failure::new(code::BAD_FEATURE, format!("bad sort order {order}"))),
    }
}

fn sort_target(context: &Context) -> Result<SortTarget, Failure> {
    let target = context.string(&SORT_BY);
    match &*target.to_uppercase() {
        "CREATE" => Ok(SortTarget::Create),
        "KEY" | "" => Ok(SortTarget::Key),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Failure::new(code::BAD_FEATURE, format!("bad sort target {target}"))),
    }
}

fn exclusive(prefix: bool, from_key: bool) -> Result<(), Failure> {
    if prefix && from_key {
        return Err(Failure::bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    Ok(())
}

/// Key and end of the range that arguments and flags mean. An empty key with a flag means all keys.
fn range(key: &[u8], end: Option<&[u8]>, prefix: bool, from_key: bool) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    if end.is_some() && (prefix || from_key) {
        return Err(Failure::bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        ));
    }
    Ok(match (prefix, from_key) {
        (true, _) | (_, true) if key.is_empty() => (ZERO.to_vec(), ZERO.to_vec()),
        (true, _) => (key.to_vec(), prefix_range(key.to_vec()).1.to_vec()),
        (_, true) => (key.to_vec(), ZERO.to_vec()),
        _ => (key.to_vec(), end.unwrap_or_default().to_vec()),
    })
}

/// What `put` asks for. Reads the value with `read` if it is not given.
///
/// # Errors
/// Flags and arguments that do not go together.
pub(super) fn put_request(context: &Context, read: fn() -> Option<Vec<u8>>) -> Result<PutRequest, Failure> {
    let bad = || Failure::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let key = context.arg(0).ok_or_else(bad)?;
    let ignore_value = context.switch(&IGNORE_VALUE);
    if ignore_value && context.args.len() > 1 {
        return Err(Failure::bad_args("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match context.arg(1) {
        Some(value) => value.to_vec(),
        None if ignore_value => Vec::new(),
        None => read().filter(|value| !value.is_empty()).ok_or_else(bad)?,
    };
    let lease = strconv::parse_int(context.string(&LEASE).as_bytes(), 16)
        .map_err(|why| Failure::bad_args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.to_vec().into(),
        value: value.into(),
        lease,
        prev_kv: context.switch(&PUT_PREV_KV),
        ignore_value,
        ignore_lease: context.switch(&IGNORE_LEASE),
    })
}

/// All of it; None if it cannot be read. What a server takes at all fits into memory.
pub(crate) fn standard_input() -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What `del` asks for.
///
/// # Errors
/// Flags and arguments that do not go together.
pub(super) fn del_request(context: &Context) -> Result<DeleteRangeRequest, Failure> {
    let Some(key) = context.arg(0).filter(|_| context.args.len() <= 2) else {
        return Err(Failure::bad_args("del command needs one argument as key and an optional argument as range_end"));
    };
    let (prefix, from_key) = (context.switch(&DEL_PREFIX), context.switch(&DEL_FROM_KEY));
    exclusive(prefix, from_key)?;
    let (key, range_end) = range(key, context.arg(1), prefix, from_key)?;
    Ok(DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: context.switch(&DEL_PREV_KV) })
}

pub(super) fn got(out: &mut Simple, answer: &RangeResponse) {
    answer.kvs.iter().for_each(|kv| out.kv(kv));
}

pub(super) fn got_fields(out: &mut Fields, answer: &RangeResponse) {
    out.header(answer.header.as_ref());
    answer.kvs.iter().for_each(|kv| out.kv("", kv));
    out.plain("More", answer.more);
    out.plain("Count", answer.count);
}

pub(super) fn did_put(out: &mut Simple, answer: &PutResponse) {
    out.line("OK");
    answer.prev_kv.iter().for_each(|kv| out.kv(kv));
}

pub(super) fn did_put_fields(out: &mut Fields, answer: &PutResponse) {
    out.header(answer.header.as_ref());
    answer.prev_kv.iter().for_each(|kv| out.kv("Prev", kv));
}

pub(super) fn deleted(out: &mut Simple, answer: &DeleteRangeResponse) {
    out.line(answer.deleted.to_string());
    answer.prev_kvs.iter().for_each(|kv| out.kv(kv));
}

pub(super) fn deleted_fields(out: &mut Fields, answer: &DeleteRangeResponse) {
    out.header(answer.header.as_ref());
    out.plain("Deleted", answer.deleted);
    answer.prev_kvs.iter().for_each(|kv| out.kv("Prev", kv));
}
