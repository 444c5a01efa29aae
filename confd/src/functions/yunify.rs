//! The functions of yunify's fork: numbers may come as strings, and comparisons take them so.

use super::json;
use super::text::{decode_base64, encode_base64};
use super::{bytes, pattern, yaml};
use crate::template::{ANYS, Function, Functions, Object, Param, Value, same};
use go::strconv::{self, NumError};
use std::cmp::Ordering;

#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

type Result<T = Value> = std::result::Result<T, String>;

/// A number, or a string that is one: a point makes it a float. None if it is neither a number nor a string.
fn number(value: &Value) -> Result<Option<Number>> {
    let wrapped = |error: NumError<'_>| {
        let shown = String::from_utf8_lossy(error.text);
        format!("Can't apply the operator to the value [{shown}] ,err [{error}] ")
    };
    Ok(Some(match value {
        Value::Int(number) | Value::Int64(number) => Number::Int(*number),
        Value::Byte(byte) => Number::Int(i64::from(*byte)),
        Value::Float(number) => Number::Float(*number),
        Value::Text(text) if text.contains(&b'.') => Number::Float(strconv::parse_float(text).map_err(wrapped)?),
        Value::Text(text) => Number::Int(strconv::parse_int(text, 10).map_err(wrapped)?),
        _ => return Ok(None),
    }))
}

/// Both arguments. Strings are looked at before anything else is.
fn numbers(args: &[Value], refusal: &str) -> Result<(Number, Number)> {
    let (left, right) = (number(&args[0])?, number(&args[1])?);
    left.zip(right).ok_or_else(|| refusal.to_owned())
}

const REFUSAL: &str = "Can't apply the operator to the values";
const TWO: &[Param] = &[Param::Any, Param::Any];

pub(super) fn add(functions: &mut Functions) {
    add_arithmetic(functions);
    add_comparisons(functions);
    functions.add(Function::new("filter", &[Param::Text, Param::Any], |args| filter(bytes(&args[0]), &args[1])));
    functions.add(Function::new("toJson", &[Param::Any], |args| json::encode(&args[0], None).map(Value::from)));
    functions.add(Function::new("toYaml", &[Param::Any], |args| yaml::encode(&args[0]).map(Value::from)));
    let of_text = |value: &Value, convert: fn(&[u8]) -> Result| match value {
        Value::Text(text) => convert(text),
        other => Err(format!("unsupported type {}", kind(other))),
    };
    functions.add(Function::new("base64Encode", &[Param::Any], move |args| {
        of_text(&args[0], |text| Ok(encode_base64(text)))
    }));
    functions.add(Function::new("base64Decode", &[Param::Any], move |args| of_text(&args[0], decode_base64)));
}

/// What Go's reflection calls the kind of a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Absent | Value::Nil => "invalid",
        Value::List(_) => "slice",
        Value::Map(_) => "map",
        Value::Object(_) => "struct",
        Value::Function(_) => "func",
        value => value.type_name(),
    }
}

fn add_arithmetic(functions: &mut Functions) {
    let operator = |ints: fn(i64, i64) -> i64, floats: fn(f64, f64) -> f64| {
        move |args: &[Value]| match numbers(args, REFUSAL)? {
            // The fork has no type for a result when it has nothing to add.
            (left, right) if left.float() == 0.0 && right.float() == 0.0 => Ok(Value::Int(0)),
            (Number::Int(left), Number::Int(right)) => Ok(Value::Int64(ints(left, right))),
            (left, right) => Ok(Value::Float(floats(left.float(), right.float()))),
        }
    };
    functions.add(Function::new("add", TWO, operator(i64::wrapping_add, |left, right| left + right)));
    functions.add(Function::new("sub", TWO, operator(i64::wrapping_sub, |left, right| left - right)));
    functions.add(Function::new("mul", TWO, operator(i64::wrapping_mul, |left, right| left * right)));
    functions.add(Function::new("div", TWO, |args| match numbers(args, REFUSAL)? {
        (_, right) if right.float() == 0.0 => Err("Can't divide the value by 0".to_owned()),
        (Number::Int(left), Number::Int(right)) => Ok(Value::Int64(left.wrapping_div(right))),
        (left, right) => Ok(Value::Float(left.float() / right.float())),
    }));
    let integers = "Modulo operator can't be used with non integer value";
    functions.add(Function::new("mod", TWO, move |args| match numbers(args, integers)? {
        (Number::Int(_), Number::Int(0)) => Err("The number can't be divided by zero at modulo operation".to_owned()),
        (Number::Int(left), Number::Int(right)) => Ok(Value::Int64(left.wrapping_rem(right))),
        _ => Err(integers.to_owned()),
    }));
    let extreme = |choose: fn(f64, f64) -> f64| {
        move |args: &[Value]| {
            // The fork's min says so, too.
            let refusal = "Max operator can't apply to the values";
            let (left, right) = numbers(args, refusal)?;
            Ok(Value::Float(choose(left.float(), right.float())))
        }
    };
    functions.add(Function::new("max", TWO, extreme(f64::max)));
    functions.add(Function::new("min", TWO, extreme(f64::min)));
}

/// Numbers are equal if their floats are. A string is a number here as it is one for arithmetic.
fn equal(args: &[Value]) -> bool {
    let float = |value| number(value).ok().flatten().map(Number::float);
    match (float(&args[0]), float(&args[1])) {
        (Some(left), Some(right)) => left.partial_cmp(&right) == Some(Ordering::Equal),
        (None, None) => same(&args[0], &args[1]) || (args[0].is_nil() && args[1].is_nil()),
        _ => false,
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    let word = |value: &Value| match value {
        Value::Text(text) => strconv::parse_float(text).is_err().then(|| text.clone()),
        _ => None,
    };
    match (word(left), word(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => weight(left).partial_cmp(&weight(right)),
    }
}

/// What a value counts where sizes are compared. What has no size counts nothing, nor does text that is no number.
fn weight(value: &Value) -> f64 {
    match value {
        Value::List(list) => list.len() as f64,
        Value::Map(map) => map.entries.len() as f64,
        Value::Object(object) => super::time::unix_seconds(&**object).unwrap_or_default() as f64,
        Value::Int(number) | Value::Int64(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Text(text) => strconv::parse_float(text).unwrap_or_default(),
        _ => 0.0,
    }
}

fn add_comparisons(functions: &mut Functions) {
    functions.add(Function::new("eq", TWO, |args| Ok(equal(args).into())));
    functions.add(Function::new("ne", TWO, |args| Ok((!equal(args)).into())));
    let ordered = |wanted: &'static [Ordering]| {
        move |args: &[Value]| Ok(order(&args[0], &args[1]).is_some_and(|order| wanted.contains(&order)).into())
    };
    functions.add(Function::new("gt", TWO, ordered(&[Ordering::Greater])));
    functions.add(Function::new("ge", TWO, ordered(&[Ordering::Greater, Ordering::Equal])));
    functions.add(Function::new("lt", TWO, ordered(&[Ordering::Less])));
    functions.add(Function::new("le", TWO, ordered(&[Ordering::Less, Ordering::Equal])));
}

/// The strings that match, or the pairs whose value does. What is neither is left out. Whether the expression is one is
/// seen with the first of them.
fn filter(expression: &[u8], value: &Value) -> Result {
    let Value::List(list) = value else { return Err("filter only support slice or array.".to_owned()) };
    let text_of = |item: &Value| match item {
        Value::Text(text) => Some(text.to_vec()),
        Value::Object(object) => pair_value(&**object),
        _ => None,
    };
    let mut regex = None;
    let mut kept = Vec::new();
    for item in list.to_vec() {
        let Some(text) = text_of(&item) else { continue };
        let regex = match &mut regex {
            Some(regex) => regex,
            None => regex.insert(pattern::regex(expression)?),
        };
        if regex.is_match(&text) {
            kept.push(item);
        }
    }
    Ok(Value::list(ANYS, kept))
}

fn pair_value(object: &dyn Object) -> Option<Vec<u8>> {
    match object.field("Value") {
        Some(Value::Text(text)) if object.type_name() == "memkv.KVPair" => Some(text.to_vec()),
        _ => None,
    }
}
