//! Go's comparisons: kinds have to agree, signs of integers need not.

use super::print;
use super::value::Value;
use std::cmp::Ordering;

#[derive(Clone, Copy, PartialEq)]
enum Basic {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Complex(f64, f64),
}

enum Kind<'a> {
    Number(Basic),
    Text(&'a [u8]),
    Other,
}

fn kind(value: &Value) -> Kind<'_> {
    match value {
        Value::Bool(truth) => Kind::Number(Basic::Bool(*truth)),
        Value::Int(number) | Value::Int64(number) => Kind::Number(Basic::Int(*number)),
        Value::Byte(byte) => Kind::Number(Basic::Uint(u64::from(*byte))),
        Value::Float(number) => Kind::Number(Basic::Float(*number)),
        Value::Complex(real, imaginary) => Kind::Number(Basic::Complex(*real, *imaginary)),
        Value::Text(text) => Kind::Text(text),
        Value::Object(object) => match object.integer() {
            Some(number) => Kind::Number(Basic::Int(number)),
            None => Kind::Other,
        },
        _ => Kind::Other,
    }
}

fn incompatible(left: &Value, right: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", left.type_name(), right.type_name())
}

/// `eq`: true if the first equals any of the others.
pub(super) fn equal_to_any(first: &Value, others: &[Value]) -> Result<bool, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (kind(left), kind(right)) {
        (Kind::Text(left), Kind::Text(right)) => Ok(left == right),
        (Kind::Number(left_number), Kind::Number(right_number)) => match (left_number, right_number) {
            (Basic::Int(int), Basic::Uint(uint)) | (Basic::Uint(uint), Basic::Int(int)) => {
                Ok(u64::try_from(int) == Ok(uint))
            }
            _ if std::mem::discriminant(&left_number) == std::mem::discriminant(&right_number) => {
                Ok(left_number == right_number)
            }
            _ => Err(incompatible(left, right)),
        },
        (Kind::Other, Kind::Other) => equal_others(left, right),
        // Nothing equals nothing, and nothing else.
        _ if left.is_nil() || right.is_nil() => Ok(false),
        _ => Err(incompatible(left, right)),
    }
}

fn equal_others(left: &Value, right: &Value) -> Result<bool, String> {
    if left.is_nil() || right.is_nil() {
        return Ok(left.is_nil() == right.is_nil());
    }
    let shown =
        |value: &Value| String::from_utf8_lossy(&print::sprintf(b"%s", std::slice::from_ref(value))).into_owned();
    let shown_v = |value: &Value| String::from_utf8_lossy(&print::sprint(std::slice::from_ref(value))).into_owned();
    let form = |value: &Value| match value {
        Value::List(_) => 0,
        Value::Map(_) => 1,
        Value::Function(_) => 2,
        Value::Object(object) if object.is_pointer() => 3,
        _ => 4,
    };
    let (left_type, right_type) = (left.type_name(), right.type_name());
    if form(left) != form(right) {
        let (left, right) = (shown(left), shown_v(right));
        return Err(format!("non-comparable types {left}: {left_type}, {right_type}: {right}"));
    }
    if form(left) < 3 {
        return Err(format!("non-comparable type {}: {right_type}", shown(right)));
    }
    Ok(same(left, right))
}

/// Values that are looked at for one comparison. Lists can hold the same list again and again.
const MAX_COMPARED: usize = 10_000_000;

/// Go's deep equality of two values. Values without an end in sight are not equal.
pub fn same(left: &Value, right: &Value) -> bool {
    let mut left_over = MAX_COMPARED;
    same_within(left, right, &mut left_over)
}

fn same_within(left: &Value, right: &Value, left_over: &mut usize) -> bool {
    if left.type_name() != right.type_name() || *left_over == 0 {
        return false;
    }
    *left_over -= 1;
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            let (left, right) = (left.to_vec(), right.to_vec());
            let mut pairs = left.iter().zip(&right);
            left.len() == right.len() && pairs.all(|(left, right)| same_within(left, right, left_over))
        }
        (Value::Map(left), Value::Map(right)) => {
            let mut entries = left.entries.iter();
            left.entries.len() == right.entries.len()
                && entries.all(|(key, value)| {
                    right.entries.get(key).is_some_and(|other| same_within(value, other, left_over))
                })
        }
        (Value::Object(left), Value::Object(right)) => {
            let (left_fields, right_fields) = (left.fields(), right.fields());
            let mut pairs = left_fields.iter().zip(&right_fields);
            left.integer() == right.integer()
                && left.string() == right.string()
                && left_fields.len() == right_fields.len()
                && pairs.all(|((_, left), (_, right))| same_within(left, right, left_over))
        }
        (left, right) => match (kind(left), kind(right)) {
            (Kind::Text(left), Kind::Text(right)) => left == right,
            (Kind::Number(left), Kind::Number(right)) => left == right,
            _ => left.is_nil() && right.is_nil(),
        },
    }
}

/// `lt`
pub(super) fn less(left: &Value, right: &Value) -> Result<bool, String> {
    let invalid = || "invalid type for comparison".to_owned();
    let ordering = match (kind(left), kind(right)) {
        (Kind::Other, _) | (_, Kind::Other) => return Err(invalid()),
        (Kind::Text(left), Kind::Text(right)) => Some(left.cmp(right)),
        (Kind::Number(left_number), Kind::Number(right_number)) => match (left_number, right_number) {
            (Basic::Int(left), Basic::Int(right)) => Some(left.cmp(&right)),
            (Basic::Uint(left), Basic::Uint(right)) => Some(left.cmp(&right)),
            (Basic::Float(left), Basic::Float(right)) => left.partial_cmp(&right),
            (Basic::Int(left), Basic::Uint(right)) => Some(i128::from(left).cmp(&i128::from(right))),
            (Basic::Uint(left), Basic::Int(right)) => Some(i128::from(left).cmp(&i128::from(right))),
            (Basic::Bool(_), Basic::Bool(_)) | (Basic::Complex(..), Basic::Complex(..)) => return Err(invalid()),
            _ => return Err(incompatible(left, right)),
        },
        _ => return Err(incompatible(left, right)),
    };
    Ok(ordering == Some(Ordering::Less))
}

/// `le`: less, or else equal.
pub(super) fn less_or_equal(left: &Value, right: &Value) -> Result<bool, String> {
    Ok(less(left, right)? || equal(left, right)?)
}
