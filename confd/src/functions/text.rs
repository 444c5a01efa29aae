//! Functions on strings, paths, lists and maps.

use super::convert::{camelcase, map_case, replace, separated, split};
use super::json::{self, Into};
use super::store::PAIR_LIST;
use super::{bytes, fits, int, items, pattern, product, string};
use crate::template::{ANYS, Function, Functions, MAP, Param, TEXTS, Text, Value};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use go::strconv;
use std::collections::BTreeMap;

/// Most elements that one call may make of nothing.
const MAX_ELEMENTS: i64 = 1_000_000;

type Result<T = Value> = std::result::Result<T, String>;

/// What all three programs have.
pub(super) fn add_common(functions: &mut Functions) {
    use Param::{Any, Text};
    functions.add(Function::new("base", &[Text], |args| Ok(Value::text(pattern::base(bytes(&args[0]))))));
    functions.add(Function::new("dir", &[Text], |args| Ok(pattern::dir(bytes(&args[0])).into())));
    functions
        .add(Function::new("split", &[Text, Text], |args| Ok(Value::texts(split(bytes(&args[0]), bytes(&args[1]))))));
    functions.add(Function::new("join", &[Param::TEXTS, Text], |args| {
        let parts: Vec<Vec<u8>> = items(&args[0]).iter().map(|part| bytes(part).to_vec()).collect();
        let length: usize = parts.iter().map(Vec::len).sum();
        fits(length as u128 + product(parts.len(), bytes(&args[1]).len()))?;
        Ok(parts.join(bytes(&args[1])).into())
    }));
    functions.add(Function::new("toUpper", &[Text], |args| {
        Ok(map_case(bytes(&args[0]), |c| {
            let mut upper = c.to_uppercase();
            // Go maps one character to one.
            if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
        }))
    }));
    functions.add(Function::new("toLower", &[Text], |args| {
        Ok(map_case(bytes(&args[0]), |c| c.to_lowercase().next().unwrap_or(c)))
    }));
    functions
        .add(Function::new("contains", &[Text, Text], |args| Ok(contains(bytes(&args[0]), bytes(&args[1])).into())));
    functions.add(Function::new("replace", &[Text, Text, Text, Param::Int], |args| {
        let (text, old, new) = (bytes(&args[0]), bytes(&args[1]), bytes(&args[2]));
        let found = if old.is_empty() { text.len() + 1 } else { split(text, old).len() - 1 };
        fits(text.len() as u128 + product(found, new.len()))?;
        Ok(replace(text, old, new, int(&args[3])).into())
    }));
    functions.add(Function::new("json", &[Text], |args| json::decode(bytes(&args[0]), Into::Map)));
    functions.add(Function::new("jsonArray", &[Text], |args| json::decode(bytes(&args[0]), Into::List)));
    functions.add(Function::variadic("map", &[], Any, make_map));
}

/// What confd and abtreece's fork have.
pub(super) fn add_confd(functions: &mut Functions) {
    use Param::{Any, Int, Text};
    functions.add(Function::new("trimSuffix", &[Text, Text], |args| {
        let text = bytes(&args[0]);
        Ok(Value::text(text.strip_suffix(bytes(&args[1])).unwrap_or(text)))
    }));
    functions.add(Function::new("base64Encode", &[Text], |args| Ok(encode_base64(bytes(&args[0])))));
    functions.add(Function::new("base64Decode", &[Text], |args| decode_base64(bytes(&args[0]))));
    functions
        .add(Function::new("parseBool", &[Text], |args| Ok(strconv::parse_bool(bytes(&args[0])).map(Value::Bool)?)));
    functions.add(Function::new("atoi", &[Text], |args| Ok(strconv::atoi(bytes(&args[0])).map(Value::Int)?)));
    functions.add(Function::new("seq", &[Int, Int], |args| sequence(int(&args[0]), int(&args[1]), false)));
    functions.add(Function::new("reverse", &[Any], |args| {
        if let Value::List(list) = &args[0]
            && [TEXTS, PAIR_LIST].contains(&list.type_name)
        {
            // In place: confd's templates see it in the variable, too.
            list.reorder(<[Value]>::reverse);
        }
        Ok(args[0].clone())
    }));
    functions.add(Function::new("sortByLength", &[Param::TEXTS], |args| {
        if let Value::List(list) = &args[0] {
            list.reorder(|items| items.sort_by_key(|item| bytes(item).len()));
        }
        Ok(args[0].clone())
    }));
    functions.add(Function::new("sortKVByLength", &[Param::Named(PAIR_LIST)], |args| {
        let length = |item: &Value| match item {
            Value::Object(pair) => pair.field("Key").map_or(0, |key| bytes(&key).len()),
            _ => 0,
        };
        if let Value::List(list) = &args[0] {
            list.reorder(|items| items.sort_by_key(length));
        }
        Ok(Value::list(PAIR_LIST, items(&args[0])))
    }));
    add_arithmetic(functions, "runtime error: integer divide by zero", "runtime error: integer divide by zero");
}

fn add_arithmetic(functions: &mut Functions, division: &'static str, modulo: &'static str) {
    let two: &[Param] = &[Param::Int, Param::Int];
    functions.add(Function::new("add", two, |args| Ok(int(&args[0]).wrapping_add(int(&args[1])).into())));
    functions.add(Function::new("sub", two, |args| Ok(int(&args[0]).wrapping_sub(int(&args[1])).into())));
    functions.add(Function::new("mul", two, |args| Ok(int(&args[0]).wrapping_mul(int(&args[1])).into())));
    functions.add(Function::new("div", two, move |args| match int(&args[1]) {
        0 => Err(division.to_owned()),
        divisor => Ok(int(&args[0]).wrapping_div(divisor).into()),
    }));
    functions.add(Function::new("mod", two, move |args| match int(&args[1]) {
        0 => Err(modulo.to_owned()),
        divisor => Ok(int(&args[0]).wrapping_rem(divisor).into()),
    }));
}

/// What abtreece's fork has besides confd's, and confd does not have at all.
pub(super) fn add_more(functions: &mut Functions) {
    use Param::{Any, Bool, Int, Text};
    let or_default = |args: &[Value]| if is_empty(&args[1]) { args[0].clone() } else { args[1].clone() };
    functions.add(Function::new("default", &[Any, Any], move |args| Ok(or_default(args))));
    functions.add(Function::new("ternary", &[Any, Any, Bool], |args| {
        Ok(if args[2].is_true() { args[0].clone() } else { args[1].clone() })
    }));
    functions.add(Function::variadic("coalesce", &[], Any, |args| {
        Ok(args.iter().find(|value| !is_empty(value)).cloned().unwrap_or(Value::Nil))
    }));
    functions.add(Function::new("empty", &[Any], |args| Ok(is_empty(&args[0]).into())));
    functions.add(Function::new("toJson", &[Any], |args| json::encode(&args[0], None).map(Value::from)));
    functions.add(Function::new("toPrettyJson", &[Any], |args| json::encode(&args[0], Some("  ")).map(Value::from)));
    functions.add(Function::new("fromJson", &[Text], |args| json::decode(bytes(&args[0]), Into::Anything)));
    functions.add(Function::new("indent", &[Int, Text], |args| indent(int(&args[0]), bytes(&args[1]))));
    functions.add(Function::new("nindent", &[Int, Text], |args| {
        let indented = indent(int(&args[0]), bytes(&args[1]))?;
        Ok([b"\n", bytes(&indented)].concat().into())
    }));
    functions.add(Function::new("quote", &[Text], |args| Ok(strconv::quote(bytes(&args[0])).into())));
    functions.add(Function::new("squote", &[Text], |args| {
        let doubled = replace(bytes(&args[0]), b"'", b"''", -1);
        Ok([b"'", doubled.as_slice(), b"'"].concat().into())
    }));
    functions.add(Function::new("trimPrefix", &[Text, Text], |args| {
        let text = bytes(&args[0]);
        Ok(Value::text(text.strip_prefix(bytes(&args[1])).unwrap_or(text)))
    }));
    functions.add(Function::new("repeat", &[Int, Text], |args| {
        let (count, text) = (int(&args[0]).max(0), bytes(&args[1]));
        fits(product(count as usize, text.len()))?;
        Ok(text.repeat(count as usize).into())
    }));
    functions.add(Function::new("nospace", &[Text], |args| {
        Ok(string(&args[0]).chars().filter(|c| !c.is_whitespace()).collect::<String>().into())
    }));
    functions.add(Function::new("snakecase", &[Text], |args| Ok(separated(&string(&args[0]), '_').into())));
    functions.add(Function::new("kebabcase", &[Text], |args| Ok(separated(&string(&args[0]), '-').into())));
    functions.add(Function::new("camelcase", &[Text], |args| Ok(camelcase(&string(&args[0])).into())));
    functions.add(Function::new("sha256sum", &[Text], |args| {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(bytes(&args[0]));
        Ok(format!("{digest:x}").into())
    }));
    add_regular_expressions(functions);
    add_collections(functions);
}

fn add_regular_expressions(functions: &mut Functions) {
    use Param::Text;
    functions.add(Function::new("regexMatch", &[Text, Text], |args| {
        Ok(pattern::regex(bytes(&args[0]))?.is_match(bytes(&args[1])).into())
    }));
    functions.add(Function::new("regexFind", &[Text, Text], |args| {
        let regex = pattern::regex(bytes(&args[0]))?;
        Ok(Value::text(regex.find(bytes(&args[1])).map_or(&b""[..], |found| found.as_bytes())))
    }));
    functions.add(Function::new("regexReplaceAll", &[Text, Text, Text], |args| {
        let regex = pattern::regex(bytes(&args[0]))?;
        let (text, new) = (bytes(&args[1]), bytes(&args[2]));
        // The replacement for each match, and what it takes from the matches, which are no more than the text.
        fits(product(regex.find_iter(text).count(), new.len()) + product(text.len(), new.len() / 2 + 1))?;
        Ok(regex.replace_all(text, new).into_owned().into())
    }));
}

fn add_collections(functions: &mut Functions) {
    use Param::{Any, Text};
    functions.add(Function::variadic("dict", &[], Any, make_map));
    functions.add(Function::variadic("list", &[], Any, |args| Ok(Value::list(ANYS, args.to_vec()))));
    functions.add(Function::new("hasKey", &[Param::MAP, Text], |args| Ok(lookup(&args[0], &args[1]).is_some().into())));
    functions.add(Function::new("keys", &[Param::MAP], |args| match &args[0] {
        Value::Map(map) => Ok(Value::texts(map.entries.keys())),
        _ => Ok(Value::texts::<&str>([])),
    }));
    functions.add(Function::new("values", &[Param::MAP], |args| match &args[0] {
        Value::Map(map) => Ok(Value::list(ANYS, map.entries.values().cloned().collect())),
        _ => Ok(Value::list(ANYS, Vec::new())),
    }));
    functions.add(Function::new("append", &[Param::ANYS, Any], |args| {
        let mut items = items(&args[0]);
        items.push(args[1].clone());
        Ok(Value::list(ANYS, items))
    }));
    functions.add(Function::variadic("pluck", &[Text], Param::MAP, |args| {
        let found = args[1..].iter().filter_map(|map| lookup(map, &args[0])).collect();
        Ok(Value::list(ANYS, found))
    }));
}

/// Where abtreece's fork has other results than confd.
pub(super) fn add_abtreece(functions: &mut Functions) {
    functions.add(Function::new("reverse", &[Param::Any], |args| match &args[0] {
        Value::List(list) if [TEXTS, PAIR_LIST].contains(&list.type_name) => {
            Ok(Value::list(list.type_name, list.to_vec().into_iter().rev().collect()))
        }
        other => Ok(other.clone()),
    }));
    functions.add(Function::new("seq", &[Param::Int, Param::Int], |args| sequence(int(&args[0]), int(&args[1]), true)));
    add_arithmetic(functions, "division by zero", "modulo by zero");
}

fn lookup(map: &Value, key: &Value) -> Option<Value> {
    match map {
        Value::Map(map) => map.entries.get(bytes(key)).cloned(),
        _ => None,
    }
}

/// What `default` replaces: nothing, zero, false and the empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(object) => {
            object.integer().is_none_or(|number| number == 0)
                && !object.is_pointer()
                && object.string().is_none()
                && object.fields().iter().all(|(_, field)| is_empty(field))
        }
        value => !value.is_true(),
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

fn sequence(first: i64, last: i64, counts_down: bool) -> Result {
    let count = i128::from(last) - i128::from(first);
    if count.abs() >= i128::from(MAX_ELEMENTS) {
        return Err(format!("a sequence from {first} to {last} is too long, the limit is {MAX_ELEMENTS} numbers"));
    }
    let numbers = if counts_down && first > last {
        (last..=first).rev().map(Value::Int).collect()
    } else {
        (first..=last).map(Value::Int).collect()
    };
    Ok(Value::list("[]int", numbers))
}

fn make_map(args: &[Value]) -> Result {
    if !args.len().is_multiple_of(2) {
        return Err("invalid map call".to_owned());
    }
    let mut entries: BTreeMap<Text, Value> = BTreeMap::new();
    for pair in args.chunks(2) {
        let Value::Text(key) = &pair[0] else { return Err("map keys must be strings".to_owned()) };
        entries.insert(key.clone(), pair[1].clone());
    }
    debug_assert_eq!(Value::map(BTreeMap::new()).type_name(), MAP);
    Ok(Value::map(entries))
}

fn indent(spaces: i64, text: &[u8]) -> Result {
    if text.is_empty() {
        return Ok("".into());
    }
    let spaces = spaces.max(0) as usize;
    let lines = text.split(|&byte| byte == b'\n').count();
    fits(text.len() as u128 + product(lines, spaces))?;
    let margin = " ".repeat(spaces);
    let lines = text.split(|&byte| byte == b'\n').map(|line| [margin.as_bytes(), line].concat());
    Ok(lines.collect::<Vec<_>>().join(&b'\n').into())
}

pub(super) fn encode_base64(text: &[u8]) -> Value {
    base64::engine::general_purpose::STANDARD.encode(text).into()
}

/// The standard alphabet with padding; ends of lines are skipped. The error says where Go would stop.
pub(super) fn decode_base64(text: &[u8]) -> Result {
    let strict = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    let kept: Vec<(usize, u8)> =
        text.iter().copied().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).collect();
    let data: Vec<u8> = kept.iter().map(|(_, byte)| *byte).collect();
    if let Ok(decoded) = GeneralPurpose::new(&STANDARD, strict).decode(&data) {
        return Ok(decoded.into());
    }
    let is_symbol = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // Go reads four symbols at a time, and reports a group that is not complete at its beginning.
    let symbols = data.iter().take_while(|&&byte| is_symbol(byte)).count();
    let at = match data.get(symbols) {
        None => symbols / 4 * 4,
        Some(b'=') if symbols % 4 >= 2 => {
            let padding = 4 - symbols % 4;
            if data[symbols..].starts_with(&b"=="[..padding]) { symbols + padding } else { symbols + 1 }
        }
        Some(_) => symbols,
    };
    let at = kept.get(at).map_or(text.len(), |(at, _)| *at);
    Err(format!("illegal base64 data at input byte {at}"))
}
