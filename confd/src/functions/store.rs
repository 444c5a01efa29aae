//! Functions on the keys of a resource, with confd's results down to its quirks.

use super::pattern::{self, BadPattern};
use super::{Context, Dialect, bytes, text_value};
use crate::keys::Keys;
use crate::template::{Function, Functions, Object, Param, Text, Value};
use go::strconv;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The type of what `gets` returns; Go tells it from a list of pairs that has no name.
const PAIRS: &str = "memkv.KVPairs";
/// A list of pairs without a name of its own.
pub(super) const PAIR_LIST: &str = "[]memkv.KVPair";

/// A key with its value.
pub(super) struct Pair {
    pub(super) key: Text,
    pub(super) value: Text,
}

impl Object for Pair {
    fn type_name(&self) -> &'static str {
        "memkv.KVPair"
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        vec![("Key", text_value(&self.key)), ("Value", text_value(&self.value))]
    }

    fn field(&self, name: &str) -> Option<Value> {
        match name {
            "Key" => Some(text_value(&self.key)),
            "Value" => Some(text_value(&self.value)),
            _ => None,
        }
    }
}

fn pair(key: &Text, value: &Text) -> Value {
    Value::Object(Rc::new(Pair { key: key.clone(), value: value.clone() }))
}

fn missing(key: &[u8]) -> String {
    format!("key does not exist: {}", String::from_utf8_lossy(key))
}

pub(super) fn add(functions: &mut Functions, dialect: Dialect, context: &Context) {
    // yunify's fork is built with an older store of keys.
    let is_old = dialect == Dialect::Yunify;
    let refused = move |pattern: &Value, BadPattern: BadPattern| match dialect {
        Dialect::Abtreece => format!("invalid pattern {}: {}", strconv::quote(bytes(pattern)), BadPattern::TEXT),
        Dialect::Confd | Dialect::Yunify => BadPattern::TEXT.to_owned(),
    };
    let with = || context.clone();
    let context = with();
    functions.add(Function::new("exists", &[Param::Text], move |args| {
        Ok(context.keys().get(bytes(&args[0])).is_some().into())
    }));
    let context = with();
    functions.add(Function::new("get", &[Param::Text], move |args| {
        let keys = context.keys();
        let key = bytes(&args[0]);
        keys.entry(key).map(|(key, value)| pair(key, value)).ok_or_else(|| missing(key))
    }));
    let context = with();
    functions.add(Function::variadic("getv", &[Param::Text], Param::Text, move |args| {
        let key = bytes(&args[0]);
        match (context.keys().get(key), args.get(1)) {
            (Some(value), _) => Ok(text_value(value)),
            (None, Some(default)) if is_old && bytes(default).is_empty() => Err(missing(key)),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(missing(key)),
        }
    }));
    let context = with();
    functions.add(Function::new("gets", &[Param::Text], move |args| {
        let keys = context.keys();
        let found = matching(&keys, bytes(&args[0])).map_err(|bad| refused(&args[0], bad))?;
        Ok(Value::list(PAIRS, found.into_iter().map(|(key, value)| pair(key, value)).collect()))
    }));
    let context = with();
    functions.add(Function::new("getvs", &[Param::Text], move |args| {
        let keys = context.keys();
        let found = matching(&keys, bytes(&args[0])).map_err(|bad| refused(&args[0], bad))?;
        let mut values: Vec<&Text> = found.into_iter().map(|(_, value)| value).collect();
        values.sort();
        Ok(Value::texts(values))
    }));
    let context = with();
    functions.add(Function::new("ls", &[Param::Text], move |args| {
        let (keys, path) = (context.keys(), bytes(&args[0]));
        Ok(Value::texts(if is_old { list_either_way(&keys, path) } else { list(&keys, path) }))
    }));
    let context = with();
    functions.add(Function::new("lsdir", &[Param::Text], move |args| {
        Ok(Value::texts(list_directories(&context.keys(), bytes(&args[0]))))
    }));
}

/// The keys that a pattern matches. A bad pattern is an error only if there is a key to compare it with.
fn matching<'k>(keys: &'k Keys, pattern: &[u8]) -> Result<Vec<(&'k Text, &'k Text)>, BadPattern> {
    let literal = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    if let Some(first) = keys.iter().next() {
        // All keys are compared in Go. Any of them finds the mistake that is found before the first star, and
        // comparing the pattern with its own beginning finds the others.
        pattern::matches(pattern, first.0)?;
        pattern::matches(pattern, &pattern[..literal])?;
    }
    let prefix = &pattern[..literal];
    let mut found = Vec::new();
    for (key, value) in keys.from(prefix) {
        if !key.starts_with(prefix) {
            break;
        }
        if pattern::matches(pattern, key)? {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// The terms of a path. `/` has two, both empty.
fn terms(path: &[u8]) -> Vec<Vec<u8>> {
    pattern::clean(path).split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect()
}

/// Keys that a path's children can be among.
fn candidates<'k>(keys: &'k Keys, path: &[u8]) -> impl Iterator<Item = &'k [u8]> {
    let cleaned = pattern::clean(path);
    let begin = if cleaned == b"." { Vec::new() } else { cleaned };
    let prefix = begin.clone();
    keys.from(&begin).map(|(key, _)| &**key).take_while(move |key| key.starts_with(&prefix))
}

fn list(keys: &Keys, path: &[u8]) -> BTreeSet<Vec<u8>> {
    let prefix = terms(path);
    let mut found = BTreeSet::new();
    if keys.get(path).is_some() {
        found.insert(pattern::base(path).to_vec());
    }
    for key in candidates(keys, path) {
        if key != path && terms(&pattern::dir(key)).starts_with(&prefix) {
            found.insert(first_below(key, path));
        }
    }
    found
}

/// As [`list`], of yunify's fork: keys in a directory on the way to the path count as well, by what they begin with.
fn list_either_way(keys: &Keys, path: &[u8]) -> BTreeSet<Vec<u8>> {
    let prefix = terms(path);
    let mut found = BTreeSet::new();
    for (key, _) in keys.iter() {
        let directory = terms(&pattern::dir(key));
        if **key == *path {
            found.insert(pattern::base(path).to_vec());
        } else if directory.starts_with(&prefix) || prefix.starts_with(&directory) {
            found.insert(first_below(key, path));
        }
    }
    found
}

/// The first part of what follows the path in a key, or of the key.
fn first_below(key: &[u8], path: &[u8]) -> Vec<u8> {
    let rest = key.strip_prefix(path).unwrap_or(key);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    rest.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec()
}

fn list_directories(keys: &Keys, path: &[u8]) -> BTreeSet<Vec<u8>> {
    let prefix = terms(path);
    let mut found = BTreeSet::new();
    for key in candidates(keys, path) {
        let directory = terms(&pattern::dir(key));
        if directory.starts_with(&prefix)
            && let Some(child) = directory.get(prefix.len())
        {
            found.insert(child.clone());
        }
    }
    found
}
