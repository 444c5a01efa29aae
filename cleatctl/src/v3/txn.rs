//! `txn`: comparisons and operations, one a line, from standard input.

use super::kv;
use crate::cli::parse::{Parsed, parse};
use crate::cli::{Command, Flag};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::print::{Fields, Printer, Simple, line};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};
use client::message::op;
use go::strconv;
use std::ffi::OsString;
use std::io::BufRead as _;
use std::os::unix::ffi::OsStringExt as _;

const INTERACTIVE: Flag = Flag::switch("interactive", "Input transaction in interactive mode").short('i');

/// Longest line that is read: what the largest request of etcd can be, and quotes.
const LINE_BYTES_MAX: u64 = 8 << 20;

pub(crate) const COMMAND: Command = Command {
    name: "txn",
    usage: "[options]",
    short: "Txn processes all the requests in one transaction",
    flags: &[INTERACTIVE],
    run: Some(|context| Box::pin(txn(context))),
    ..Command::NONE
};

/// The commands that a line of operations can have.
static OPERATIONS: Command = Command { commands: &[&kv::DEL, &kv::GET, &kv::PUT], ..Command::NONE };

async fn txn(mut context: Context) -> Result<(), Failure> {
    if !context.args.is_empty() {
        return Err(Failure::bad_args("txn command does not accept argument"));
    }
    let (client, printer) = context.connect().await?;
    let prompt = |text| if context.switch(&INTERACTIVE) { line(text) } else { Ok(()) };
    prompt("compares:")?;
    let compare = read_block(|line| compare(&context, line))?;
    prompt("success requests (get, put, del):")?;
    let success = read_block(|line| operation(&context, line))?;
    prompt("failure requests (get, put, del):")?;
    let failure = read_block(|line| operation(&context, line))?;
    let answer = client.txn(TxnRequest { compare, success, failure }).await?;
    print(printer, &answer)
}

fn print(printer: Printer, answer: &TxnResponse) -> Result<(), Failure> {
    printer.answer("/etcdserverpb.KV/Txn", answer, |out| simple(out, answer), |out| fields(out, answer))
}

fn simple(out: &mut Simple, answer: &TxnResponse) {
    out.line(if answer.succeeded { "SUCCESS" } else { "FAILURE" });
    for response in &answer.responses {
        out.line("");
        match &response.response {
            Some(Response::ResponseRange(range)) => kv::got(out, range),
            Some(Response::ResponsePut(put)) => kv::did_put(out, put),
            Some(Response::ResponseDeleteRange(delete)) => kv::deleted(out, delete),
            // What was sent has none inside.
            Some(Response::ResponseTxn(inner)) => simple(out, inner),
            None => {}
        }
    }
}

fn fields(out: &mut Fields, answer: &TxnResponse) {
    out.header(answer.header.as_ref());
    out.plain("Succeeded", answer.succeeded);
    for response in &answer.responses {
        match &response.response {
            Some(Response::ResponseRange(range)) => kv::got_fields(out, range),
            Some(Response::ResponsePut(put)) => kv::did_put_fields(out, put),
            Some(Response::ResponseDeleteRange(delete)) => kv::deleted_fields(out, delete),
            Some(Response::ResponseTxn(inner)) => fields(out, inner),
            None => {}
        }
    }
}

/// Reads lines up to an empty one.
fn read_block<T>(mut read: impl FnMut(&str) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let mut found = Vec::new();
    loop {
        let text = read_line()?.ok_or_else(|| invalid("EOF".to_owned()))?;
        let text = text.trim();
        if text.is_empty() {
            return Ok(found);
        }
        found.push(read(text)?);
    }
}

/// A line of standard input without its end; None if it has no end. What is no UTF-8 becomes the replacement character.
pub(super) fn read_line() -> Result<Option<String>, Failure> {
    let mut bytes = Vec::new();
    let mut input = std::io::Read::take(std::io::stdin().lock(), LINE_BYTES_MAX);
    input.read_until(b'\n', &mut bytes)?;
    Ok(bytes.strip_suffix(b"\n").map(|line| String::from_utf8_lossy(line).into_owned()))
}

fn invalid(text: String) -> Failure {
    Failure::new(code::INVALID_INPUT, text)
}

/// `mod("key") > "0"`.
fn compare(context: &Context, line: &str) -> Result<Compare, Failure> {
    let malformed = |why: String| invalid(format!("malformed comparison: {line}{why}"));
    let (target, rest) = line.split_once('(').ok_or_else(|| malformed(String::new()))?;
    let (key, operator, value) = scan(rest);
    let (Some(key), Some(operator), Some(value)) = (&key, &operator, &value) else {
        let quoted = |part: &Option<Vec<u8>>| strconv::quote(part.as_deref().unwrap_or_default());
        let (key, value) = (quoted(&key), quoted(&value));
        return Err(malformed(format!("; got {target}({key}) {} {value}", operator.unwrap_or_default())));
    };
    let number =
        |base| strconv::parse_int(value, base).map_err(|_| invalid(format!("invalid txn compare request: {line}")));
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        // etcdctl 3.4 cannot read this, and panics.
        "lease" if context.is_etcdctl() => return Err(panic("bad value")),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(malformed(format!(" (unknown target {target})"))),
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        // etcdctl panics, with this exit code.
        _ if context.is_etcdctl() => return Err(panic("Unknown result op")),
        _ => return Err(Failure::new(code::BAD_CONNECTION, format!("unknown operator {operator}; use =, !=, < or >"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone().into(),
        range_end: Vec::new().into(),
        target_union: Some(union),
    })
}

/// What is left of a panic of etcdctl.
fn panic(text: &str) -> Failure {
    tell!("panic: {text}");
    Failure::silent(code::PANIC)
}

/// Key, operator and value of `"key") > "0"`, as far as they can be read.
fn scan(text: &str) -> (Option<Vec<u8>>, Option<String>, Option<Vec<u8>>) {
    let Some((key, rest)) = strconv::scan_quoted(text) else { return (None, None, None) };
    let Some(rest) = rest.strip_prefix(')').filter(|rest| rest.starts_with([' ', '\t'])) else {
        return (Some(key), None, None);
    };
    let rest = rest.trim_start();
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (operator, rest) = rest.split_at(end);
    if operator.is_empty() {
        return (Some(key), None, None);
    }
    (Some(key), Some(operator.to_owned()), strconv::scan_quoted(rest).map(|(value, _)| value))
}

/// `put key value`, `get key`, `del key`, with their flags.
fn operation(context: &Context, line: &str) -> Result<RequestOp, Failure> {
    let words = words(line).ok_or_else(|| invalid(format!("invalid quoting: {line}")))?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let bad = || invalid(format!("invalid txn request: {line}"));
    let parsed = parse(&OPERATIONS, context.personality(), &words).map_err(|_| bad())?;
    let Parsed { path, values, args, wants_help } = parsed;
    let name = path.command().name;
    if wants_help {
        return Err(bad());
    }
    let inner = Context::new(path, values, args, words);
    match name {
        "get" => Ok(op::range(kv::get_request(&inner)?)),
        // Standard input has the transaction.
        "put" => Ok(op::put(kv::put_request(&inner, || None)?)),
        "del" => Ok(op::delete(kv::del_request(&inner)?)),
        _ => Err(bad()),
    }
}

/// Words between spaces; quotes hold words together, and double ones have Go's escapes. None for a quoted text that is none.
pub(super) fn words(line: &str) -> Option<Vec<OsString>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, behind) = match first {
            '"' if has_end(rest) => strconv::scan_quoted(rest)?,
            '\'' if rest[1..].contains('\'') => {
                let (word, behind) = rest[1..].split_once('\'')?;
                (word.as_bytes().to_vec(), behind)
            }
            // A quote without an end is left out.
            '"' | '\'' => {
                rest = rest[1..].trim_start();
                continue;
            }
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        found.push(OsString::from_vec(word));
        rest = behind.trim_start();
    }
    Some(found)
}

/// True if the double quote at the beginning has another one that is not escaped.
fn has_end(text: &str) -> bool {
    let mut escaped = false;
    text[1..].chars().any(|c| {
        let is_end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end
    })
}

#[cfg(test)]
mod tests {
    use super::{scan, words};

    #[test]
    fn comparisons_are_scanned() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        for (text, expected) in [
            (r#""key1") > "0""#, (some("key1"), Some(">".to_owned()), some("0"))),
            (r#""a b\n")   != "x y""#, (some("a b\n"), Some("!=".to_owned()), some("x y"))),
            (r#""k")="0""#, (some("k"), None, None)),
            (r#""k") = 0"#, (some("k"), Some("=".to_owned()), None)),
            ("k) = 0", (None, None, None)),
        ] {
            assert_eq!(scan(text), expected, "{text}");
        }
    }

    #[test]
    fn quotes_hold_words_together() {
        for (line, expected) in [
            ("put a b", &["put", "a", "b"][..]),
            (r#"put "a b" 'c d'"#, &["put", "a b", "c d"]),
            (r#"  put "a\"b\x41"  --prefix"#, &["put", "a\"bA", "--prefix"]),
            ("", &[]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
    }
}
