//! The functions of yunify's fork: numbers may come as strings, and comparisons take them so.

use super::json;
use super::store::PAIR_LIST;
use super::text::{decode_base64, encode_base64};
use super::{bytes, pattern, yaml};
use crate::template::{Function, Functions, Object, Param, TEXTS, Value, same};
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

/// A number, or a string that is one: a point makes it a float.
fn number(value: &Value, refusal: &str) -> Result<Number> {
    let wrapped = |error: NumError<'_>| {
        let shown = String::from_utf8_lossy(error.text);
        format!("Can't apply the operator to the value [{shown}] ,err [{error}] ")
    };
    match value {
        Value::Int(number) | Value::Int64(number) => Ok(Number::Int(*number)),
        Value::Byte(byte) => Ok(Number::Int(i64::from(*byte))),
        Value::Float(number) => Ok(Number::Float(*number)),
        Value::Text(text) if text.contains(&b'.') => strconv::parse_float(text).map(Number::Float).map_err(wrapped),
        Value::Text(text) => strconv::parse_int(text, 10).map(Number::Int).map_err(wrapped),
        _ => Err(refusal.to_owned()),
    }
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
        other => Err(format!("unsupported type {}", other.type_name())),
    };
    functions.add(Function::new("base64Encode", &[Param::Any], move |args| {
        of_text(&args[0], |text| Ok(encode_base64(text)))
    }));
    functions.add(Function::new("base64Decode", &[Param::Any], move |args| of_text(&args[0], decode_base64)));
}

fn add_arithmetic(functions: &mut Functions) {
    let operator = |ints: fn(i64, i64) -> i64, floats: fn(f64, f64) -> f64| {
        move |args: &[Value]| match (number(&args[0], REFUSAL)?, number(&args[1], REFUSAL)?) {
            (Number::Int(left), Number::Int(right)) => Ok(Value::Int64(ints(left, right))),
            (left, right) => Ok(Value::Float(floats(left.float(), right.float()))),
        }
    };
    functions.add(Function::new("add", TWO, operator(i64::wrapping_add, |left, right| left + right)));
    functions.add(Function::new("sub", TWO, operator(i64::wrapping_sub, |left, right| left - right)));
    functions.add(Function::new("mul", TWO, operator(i64::wrapping_mul, |left, right| left * right)));
    let divide = operator(i64::wrapping_div, |left, right| left / right);
    functions.add(Function::new("div", TWO, move |args| {
        if number(&args[1], REFUSAL)?.float() == 0.0 {
            return Err("Can't divide the value by 0".to_owned());
        }
        divide(args)
    }));
    functions.add(Function::new("mod", TWO, |args| match (number(&args[0], REFUSAL)?, number(&args[1], REFUSAL)?) {
        (Number::Int(_), Number::Int(0)) => Err("The number can't be divided by zero at modulo operation".to_owned()),
        (Number::Int(left), Number::Int(right)) => Ok(Value::Int64(left.wrapping_rem(right))),
        _ => Err("Modulo operator can't be used with non integer value".to_owned()),
    }));
    let extreme = |choose: fn(f64, f64) -> f64| {
        move |args: &[Value]| {
            // The fork's min says so, too.
            let refusal = "Max operator can't apply to the values";
            let (left, right) = (number(&args[0], refusal)?, number(&args[1], refusal)?);
            Ok(Value::Float(choose(left.float(), right.float())))
        }
    };
    functions.add(Function::new("max", TWO, extreme(f64::max)));
    functions.add(Function::new("min", TWO, extreme(f64::min)));
}

/// A number for a comparison, if the value is one.
fn comparable(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => strconv::parse_float(text).ok(),
        value => number(value, REFUSAL).ok().map(Number::float),
    }
}

fn equal(args: &[Value]) -> bool {
    match (comparable(&args[0]), comparable(&args[1])) {
        (Some(left), Some(right)) => left.partial_cmp(&right) == Some(Ordering::Equal),
        _ => same(&args[0], &args[1]) || (args[0].is_nil() && args[1].is_nil()),
    }
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    if let (Value::Text(left), Value::Text(right)) = (left, right)
        && (strconv::parse_float(left).is_err() || strconv::parse_float(right).is_err())
    {
        return Some(left.cmp(right));
    }
    weight(left).partial_cmp(&weight(right))
}

/// What a value counts where sizes are compared. Text that is no number counts nothing.
fn weight(value: &Value) -> f64 {
    match value {
        Value::List(list) => list.len() as f64,
        Value::Map(map) => map.entries.len() as f64,
        Value::Object(object) => super::time::unix_seconds(&**object).unwrap_or_default() as f64,
        value => comparable(value).unwrap_or_default(),
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

/// The strings that match, or the pairs whose value does. What is neither is left out.
fn filter(expression: &[u8], value: &Value) -> Result {
    let regex = pattern::regex(expression)?;
    let Value::List(list) = value else { return Err("filter only support slice or array.".to_owned()) };
    let text_of = |item: &Value| match item {
        Value::Text(text) => Some(text.to_vec()),
        Value::Object(object) => pair_value(&**object),
        _ => None,
    };
    let kept: Vec<Value> =
        list.to_vec().into_iter().filter(|item| text_of(item).is_some_and(|text| regex.is_match(&text))).collect();
    let are_pairs = list.type_name == PAIR_LIST || list.type_name == "memkv.KVPairs";
    let are_texts = list.type_name == TEXTS;
    Ok(Value::list(if are_pairs || are_texts { list.type_name } else { crate::template::ANYS }, kept))
}

fn pair_value(object: &dyn Object) -> Option<Vec<u8>> {
    match object.field("Value") {
        Some(Value::Text(text)) if object.type_name() == "memkv.KVPair" => Some(text.to_vec()),
        _ => None,
    }
}
