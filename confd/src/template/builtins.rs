//! The functions that every template of Go has.

use super::call::prepare;
use super::compare;
use super::escape;
use super::function::{Function, Functions, Kind, Param};
use super::print;
use super::value::{List, Text, Value};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

/// All of them.
pub(super) fn all() -> &'static Functions {
    static ALL: OnceLock<Functions> = OnceLock::new();
    ALL.get_or_init(make)
}

fn make() -> Functions {
    use Param::{Any, Reflect, Text};
    let two: &[Param] = &[Reflect, Reflect];
    let mut functions = Functions::default();
    functions.add(Function::special("and", Kind::And));
    functions.add(Function::special("or", Kind::Or));
    functions.add(Function::special("call", Kind::Call));
    functions.add(Function::new("not", &[Reflect], |args| Ok((!args[0].is_true()).into())));
    functions.add(Function::new("len", &[Reflect], |args| length(&args[0]).map(Value::Int)));
    functions.add(Function::variadic("index", &[Reflect], Reflect, |args| index(&args[0], &args[1..])));
    functions.add(Function::special("slice", Kind::Slice));
    functions.add(Function::variadic("print", &[], Any, |args| Ok(print::sprint(args).into())));
    functions.add(Function::variadic("println", &[], Any, |args| Ok(print::sprintln(args).into())));
    functions.add(Function::variadic("printf", &[Text], Any, |args| match &args[0] {
        Value::Text(format) => Ok(print::sprintf(format, &args[1..]).into()),
        _ => Ok(Value::Absent),
    }));
    functions.add(Function::variadic("html", &[], Any, |args| Ok(escape::html(&joined(args)).into())));
    functions.add(Function::variadic("js", &[], Any, |args| Ok(escape::js(&joined(args)).into())));
    functions.add(Function::variadic("urlquery", &[], Any, |args| Ok(escape::urlquery(&joined(args)).into())));
    functions.add(Function::variadic("eq", &[Reflect], Reflect, |args| {
        compare::equal_to_any(&args[0], &args[1..]).map(Value::Bool)
    }));
    functions.add(Function::new("ne", two, |args| {
        compare::equal_to_any(&args[0], &args[1..]).map(|equal| Value::Bool(!equal))
    }));
    functions.add(Function::new("lt", two, |args| compare::less(&args[0], &args[1]).map(Value::Bool)));
    functions.add(Function::new("le", two, |args| compare::less_or_equal(&args[0], &args[1]).map(Value::Bool)));
    functions.add(Function::new("gt", two, |args| {
        compare::less_or_equal(&args[0], &args[1]).map(|truth| Value::Bool(!truth))
    }));
    functions.add(Function::new("ge", two, |args| compare::less(&args[0], &args[1]).map(|truth| Value::Bool(!truth))));
    functions
}

/// What the escaping functions escape: one string as it is, anything else as it prints.
fn joined(args: &[Value]) -> Text {
    if let [Value::Text(text)] = args {
        return text.clone();
    }
    let shown = |value: &Value| if value.is_nil() { Value::from("<no value>") } else { value.clone() };
    let args: Vec<Value> = args.iter().map(shown).collect();
    Arc::from(print::sprint(&args))
}

fn length(value: &Value) -> Result<i64, String> {
    match value {
        Value::Text(text) => Ok(text.len() as i64),
        Value::List(list) => Ok(list.len() as i64),
        Value::Map(map) => Ok(map.entries.len() as i64),
        Value::Nil => Err("len of nil pointer".to_owned()),
        Value::Absent => Err("reflect: call of reflect.Value.Type on zero Value".to_owned()),
        other => Err(format!("len of type {}", other.type_name())),
    }
}

/// A number for an index, at most `limit`.
fn position(index: &Value, limit: usize) -> Result<usize, String> {
    let number = match index {
        Value::Int(number) | Value::Int64(number) => *number,
        Value::Byte(byte) => i64::from(*byte),
        Value::Absent | Value::Nil => return Err("cannot index slice/array with nil".to_owned()),
        other => return Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match usize::try_from(number) {
        Ok(position) if position <= limit => Ok(position),
        _ => Err(format!("index out of range: {number}")),
    }
}

fn index(item: &Value, indexes: &[Value]) -> Result<Value, String> {
    if item.is_nil() {
        return Err("index of untyped nil".to_owned());
    }
    let mut item = item.clone();
    for index in indexes {
        item = match &item {
            Value::Absent | Value::Nil => return Err("index of nil pointer".to_owned()),
            Value::Text(text) => {
                let at = position(index, text.len())?;
                // Go lets the index just behind the end come so far.
                Value::Byte(*text.get(at).ok_or("reflect: string index out of range")?)
            }
            Value::List(list) => {
                let at = position(index, list.len())?;
                list.get(at).ok_or("reflect: slice index out of range")?
            }
            Value::Map(map) => match prepare(index, Param::Text)? {
                Value::Text(key) => map.entries.get(&key).cloned().unwrap_or(Value::Nil),
                _ => Value::Nil,
            },
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

/// `boxed` is the first index that an `interface {}` holds. Go refuses it, a number or not.
pub(super) fn slice(item: &Value, indexes: &[Value], boxed: Option<usize>) -> Result<Value, String> {
    if item.is_nil() {
        return Err("slice of untyped nil".to_owned());
    }
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    let length = match item {
        Value::Text(_) if indexes.len() == 3 => return Err("cannot 3-index slice a string".to_owned()),
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut bounds = [0, length, length];
    for (at, (bound, index)) in bounds.iter_mut().zip(indexes).enumerate() {
        if boxed == Some(at) {
            return Err(format!("cannot index slice/array with type {}", Value::Nil.type_name()));
        }
        *bound = position(index, length)?;
    }
    let [from, to, end] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if to > end {
        return Err(format!("invalid slice index: {to} > {end}"));
    }
    Ok(match item {
        Value::Text(text) => Value::text(&text[from..to]),
        Value::List(list) => {
            let items = list.to_vec().drain(from..to).collect();
            Value::List(Rc::new(List::new(list.type_name, items)))
        }
        _ => Value::Absent,
    })
}
