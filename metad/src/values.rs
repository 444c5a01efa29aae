//! The body of a write as leaves of the tree: objects and lists become directories, everything else becomes a text. What
//! the body was otherwise than a text or an object stands beside it, as a type: the JSON of a number, a truth or null, `[]`
//! for a list, and `{}` for an object with nothing in it.

use crate::json;
use crate::path;
use crate::tree::{Leaf, Node};
use go::json::Json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Leaves by their clean path. Of two with the same path the later counts.
pub(crate) type Leaves = BTreeMap<Vec<u8>, Vec<u8>>;

/// Types by their clean path, as JSON.
pub(crate) type Types = Leaves;

/// The type of a list, whatever its elements are.
pub(crate) const LIST: &str = "[]";
/// The type of an object that has nothing in it. Others need none.
pub(crate) const OBJECT: &str = "{}";

/// What a body means at a path.
#[derive(PartialEq)]
pub(crate) enum Body {
    /// One text.
    Leaf(Vec<u8>),
    /// Texts below the path.
    Dir(Leaves),
}

/// Values are secrets of their owners.
impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Leaf(_) => f.write_str("Leaf"),
            Self::Dir(leaves) => write!(f, "Dir({})", leaves.len()),
        }
    }
}

/// Takes a body apart.
///
/// # Errors
/// Go's text for a number that it cannot hold.
pub(crate) fn flatten(body: &Json) -> Result<Body, String> {
    let mut leaves = Leaves::new();
    match body {
        Json::Map(entries) => {
            for (name, value) in entries.iter().filter(|(name, _)| !name.is_empty()) {
                add(&mut leaves, name, value)?;
            }
        }
        Json::List(items) => {
            for (at, value) in items.iter().enumerate() {
                add(&mut leaves, &at.to_string(), value)?;
            }
        }
        _ => return Ok(Body::Leaf(alone(body)?)),
    }
    Ok(Body::Dir(leaves))
}

/// The types in a body.
fn types(body: &Json) -> Types {
    let mut types = Types::new();
    match body {
        Json::Map(entries) if !entries.is_empty() => {
            for (name, value) in entries.iter().filter(|(name, _)| !name.is_empty()) {
                add_types(&mut types, name, value);
            }
        }
        _ => add_types(&mut types, "", body),
    }
    add_lists(&mut types, "", body);
    types
}

/// Elements hide what else is at the path of a list, so that is a list, wherever it stands in the body.
fn add_lists(types: &mut Types, at: &str, value: &Json) {
    match value {
        Json::Map(entries) => {
            let named = entries.iter().filter(|(name, _)| !at.is_empty() || !name.is_empty());
            named.for_each(|(name, value)| add_lists(types, &format!("{at}/{name}"), value));
        }
        Json::List(items) if !items.is_empty() => {
            types.insert(path::clean(at.as_bytes()), LIST.into());
            items.iter().enumerate().for_each(|(index, value)| add_lists(types, &format!("{at}/{index}"), value));
        }
        _ => {}
    }
}

fn add_types(types: &mut Types, at: &str, value: &Json) {
    let path = path::clean(at.as_bytes());
    // Of two with the same path the later counts.
    match value {
        Json::Null => types.insert(path, b"null".to_vec()),
        Json::Bool(truth) => types.insert(path, truth.to_string().into_bytes()),
        Json::Number(number) => types.insert(path, number.clone().into_bytes()),
        Json::List(_) => types.insert(path, LIST.into()),
        Json::Map(entries) if entries.is_empty() => types.insert(path, OBJECT.into()),
        Json::Text(_) | Json::Map(_) => types.remove(&path),
    };
    match value {
        Json::Map(entries) => entries.iter().for_each(|(name, value)| add_types(types, &format!("{at}/{name}"), value)),
        Json::List(items) => {
            items.iter().enumerate().for_each(|(index, value)| add_types(types, &format!("{at}/{index}"), value));
        }
        _ => {}
    }
}

/// Takes a body apart, and says the types in it.
///
/// # Errors
/// As [`flatten`].
pub(crate) fn typed(body: &Json) -> Result<(Body, Types), String> {
    let (mut flat, types) = (flatten(body)?, types(body));
    if let Body::Dir(leaves) = &mut flat {
        // `a` and `/a` are one place, where a body can have a text and a list.
        containers(&types).for_each(|path| drop(leaves.remove(path)));
    }
    Ok((flat, types))
}

/// The types at a place whose values are written and which are not written anew, by their path from there. Only what is
/// written is looked at, not all that is known.
pub(crate) fn outdated(known: Option<&Node>, leaves: &Leaves, types: &Types) -> Vec<Vec<u8>> {
    let Some(known) = known else { return Vec::new() };
    let mut old = BTreeSet::new();
    for written in leaves.keys().chain(types.keys()) {
        let (mut node, mut path) = (known, Vec::new());
        let mut names = path::names(written).into_iter();
        loop {
            let here = if path.is_empty() { b"/" } else { path.as_slice() };
            if node.value().is_some() && !types.contains_key(here) && !old.contains(here) {
                old.insert(here.to_vec());
            }
            let Some(name) = names.next() else { break };
            let Some(child) = node.child(name) else { break };
            node = child;
            path.push(b'/');
            path.extend_from_slice(name);
        }
    }
    old.into_iter().collect()
}

/// The paths of lists and empty objects. They have no text, and a type counts for none that it does not fit.
pub(crate) fn containers(types: &Types) -> impl Iterator<Item = &Vec<u8>> {
    let is_container = |json: &[u8]| json == LIST.as_bytes() || json == OBJECT.as_bytes();
    types.iter().filter(move |(_, json)| is_container(json)).map(|(path, _)| path)
}

/// The value at a place that has this text and this type, as far as they are there. A type of another text, which somebody
/// has written who knows no types, is none.
pub(crate) fn leaf(text: Option<Arc<[u8]>>, kind: Option<&[u8]>) -> Option<Leaf> {
    let kind = kind.and_then(|kind| std::str::from_utf8(kind).ok());
    match (text, kind) {
        (Some(text), Some(kind)) if is_type_of(kind, &text) => Some(Leaf::scalar(text, kind)),
        (Some(text), _) => Some(Leaf::text_of(text)),
        (None, Some(kind @ (LIST | OBJECT))) => Some(Leaf::container(kind)),
        (None, _) => None,
    }
}

fn is_type_of(kind: &str, text: &[u8]) -> bool {
    let Ok(json) = json::decode(kind.as_bytes()) else { return false };
    let is_whole = match &json {
        Json::Null => kind == "null",
        Json::Bool(truth) => kind == truth.to_string(),
        Json::Number(number) => kind == number,
        Json::Text(_) | Json::List(_) | Json::Map(_) => false,
    };
    let is_text = |written: Result<Vec<u8>, String>| written.is_ok_and(|written| written == text);
    is_whole && (is_text(scalar(&json)) || is_text(alone(&json)))
}

/// The text of a value that is the whole body. What is no text is written as Go's `%v` has it.
fn alone(value: &Json) -> Result<Vec<u8>, String> {
    match value {
        Json::Null => Ok(b"<nil>".to_vec()),
        Json::Number(number) => Ok(general(float(number)?).into_bytes()),
        _ => scalar(value),
    }
}

fn add(leaves: &mut Leaves, at: &str, value: &Json) -> Result<(), String> {
    match value {
        Json::Map(entries) => entries.iter().try_for_each(|(name, value)| add(leaves, &format!("{at}/{name}"), value)),
        Json::List(items) => {
            items.iter().enumerate().try_for_each(|(index, value)| add(leaves, &format!("{at}/{index}"), value))
        }
        _ => {
            leaves.insert(path::clean(at.as_bytes()), scalar(value)?);
            Ok(())
        }
    }
}

fn scalar(value: &Json) -> Result<Vec<u8>, String> {
    Ok(match value {
        Json::Bool(truth) => truth.to_string().into_bytes(),
        // Without an exponent, with as few digits as tell it from others.
        Json::Number(number) => float(number)?.to_string().into_bytes(),
        Json::Text(text) => text.clone().into_bytes(),
        Json::Null | Json::List(_) | Json::Map(_) => Vec::new(),
    })
}

fn float(number: &str) -> Result<f64, String> {
    let read = number.parse::<f64>().ok().filter(|number| number.is_finite());
    read.ok_or_else(|| format!("json: cannot unmarshal number {number} into Go value of type float64"))
}

/// Go's `%v` of a number.
fn general(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Local, Manner};
    use crate::state::{State, Table, World, Write};
    use crate::tree::Tree;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use serde_json::{Map, Value, json};

    /// Writes a body at a path, as the manage API does.
    async fn write(world: &Arc<World>, method: &str, path: &str, body: &str, is_typed: bool) {
        let json = json::decode(body.as_bytes()).unwrap();
        let (body, types) =
            if is_typed { typed(&json) } else { flatten(&json).map(|body| (body, Types::new())) }.unwrap();
        let backend = Backend::Local(Arc::new(Local::new(Arc::clone(world))));
        let manner = Manner { replace: method == "POST", ttl: None };
        backend.put(Table::Data, path.as_bytes(), body, types, manner).await.unwrap();
    }

    async fn put(world: &Arc<World>, body: &str, is_typed: bool) {
        write(world, "PUT", "/at", body, is_typed).await;
    }

    fn read(state: &State, is_typed: bool) -> String {
        let shown = state.all(Table::Data, b"/at");
        shown.map_or_else(String::new, |shown| String::from_utf8(shown.json(is_typed).text.to_vec()).unwrap())
    }

    fn random(rng: &mut StdRng, depth: usize) -> Value {
        let texts = ["", "5", "true", "null", "[]", "{}", "a: b", "- x", " y ", "\"q\"\n", "<nil>", "é"];
        let numbers = ["0", "-1", "5", "1.50", "1e21", "-2.5E-7", "123456789"];
        match rng.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => Value::Bool(rng.random()),
            2 => serde_json::from_str(numbers[rng.random_range(0..numbers.len())]).unwrap(),
            3 => texts[rng.random_range(0..texts.len())].into(),
            4 => (0..rng.random_range(0..13)).map(|_| random(rng, depth - 1)).collect(),
            _ => {
                let names = ["a", "b", "0", "1", "10", "-", "true"];
                let entry = |name: &&str| ((*name).to_owned(), random(rng, depth - 1));
                Value::Object(names.iter().take(5).map(entry).collect::<Map<_, _>>())
            }
        }
    }

    #[tokio::test]
    async fn values_with_types_are_read_as_they_were_written() {
        for seed in 0..300 {
            let value = random(&mut StdRng::seed_from_u64(seed), 3);
            let body = value.to_string();
            let (world, untyped) = <(Arc<World>, Arc<World>)>::default();
            put(&world, &body, true).await;
            put(&untyped, &body, false).await;
            let state = world.state();
            assert_eq!(serde_json::from_str::<Value>(&read(&state, true)).unwrap(), value, "{seed}: {body}");
            let yaml = state.all(Table::Data, b"/at").unwrap().yaml(true);
            let yaml = String::from_utf8(yaml).unwrap();
            assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), value, "{seed}: {body}\n{yaml}");
            // Who knows no types sees texts, as if there were none.
            let text = |world: &World| world.state().all(Table::Data, b"/").unwrap().text();
            assert_eq!(text(&world), text(&untyped), "{seed}: {body}");
            // And who writes without types writes texts.
            put(&world, &body, false).await;
            assert_eq!(text(&world), text(&untyped), "{seed}: {body}");
            let state = world.state();
            // Of what holds nothing it has written nothing.
            let is_empty = |path: &Vec<u8>| state.data().get(path).is_some_and(|node| node.children().is_none());
            assert!(state.types().values().iter().all(is_empty), "{seed}: {body}");
        }
    }

    #[tokio::test]
    async fn what_is_written_over_other_values_is_read_as_it_was_written() {
        for seed in 0..300 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let (old, new) = (random(rng, 3), random(rng, 3));
            let world = Arc::<World>::default();
            let is_read = |world: &World, value: &Value| {
                let text = read(&world.state(), true);
                assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), value, "{seed}: {old} {new}");
            };
            put(&world, &old.to_string(), true).await;
            // All of the parent's values are others then.
            write(&world, "POST", "/", &json!({"at": new}).to_string(), true).await;
            is_read(&world, &new);
            if old.is_array() || old.is_object() {
                write(&world, "POST", "/at", &old.to_string(), true).await;
                is_read(&world, &old);
            }
            for scalar in [Value::Null, true.into(), 5.into(), "5".into()] {
                for (method, is_container) in [("PUT", true), ("POST", new.is_array() || new.is_object())] {
                    let world = Arc::<World>::default();
                    put(&world, &scalar.to_string(), true).await;
                    if is_container {
                        write(&world, method, "/at", &new.to_string(), true).await;
                        is_read(&world, &new);
                    }
                }
            }
        }
    }

    /// Objects and lists over what is no container, one within the other and at their own path.
    #[tokio::test]
    async fn a_container_takes_the_place_of_a_text() {
        for (before, method, path, body, is_typed, after) in [
            (r#"{"l":null}"#, "PUT", "/at", r#"{"l":[1,2]}"#, true, r#"{"l":[1,2]}"#),
            (r#"{"e":5}"#, "PUT", "/at", r#"{"e":{}}"#, true, r#"{"e":{}}"#),
            (r#"{"e":5}"#, "PUT", "/at/e", "{}", true, r#"{"e":{}}"#),
            (r#"{"l":"x"}"#, "POST", "/at/l", "[1]", true, r#"{"l":[1]}"#),
            (r#"{"l":"x"}"#, "POST", "/at", r#"{"l":[]}"#, true, r#"{"l":[]}"#),
            // Two names of one place.
            (r#"{"l":"x"}"#, "PUT", "/at", r#"{"a":5,"/a":[1]}"#, true, r#"{"a":[1],"l":"x"}"#),
            (r#"{"l":"x"}"#, "PUT", "/at", r#"{"/a":[[2]],"a":5}"#, true, r#"{"a":[[2]],"l":"x"}"#),
            (r#"{"l":"x"}"#, "POST", "/at", r#"{"a":"x","/a":[]}"#, true, r#"{"a":[]}"#),
            (r#"{"l":"x"}"#, "POST", "/at", r#"{"/a":[],"a":5}"#, true, r#"{"a":5}"#),
            (
                r#"{"a":{"b":[1]}}"#,
                "PUT",
                "/at",
                r#"{"a":{"b/":true},"a//b":{"0":null}}"#,
                true,
                r#"{"a":{"b":{"0":null}}}"#,
            ),
            // What is written without types has none.
            (r#"{"l":[1,2],"x":1}"#, "POST", "/at/l", "{}", false, r#"{"x":1}"#),
            (r#"{"l":[1,2],"x":1}"#, "POST", "/at/l", r#"["1"]"#, false, r#"{"l":{"0":"1"},"x":1}"#),
            (r#"{"l":[1,2],"x":1}"#, "PUT", "/at/l", r#"{"0":"1"}"#, false, r#"{"l":{"0":"1","1":2},"x":1}"#),
            (r#"{"l":[1,2],"x":1}"#, "PUT", "/at", r#"{"x":"1"}"#, false, r#"{"l":[1,2],"x":"1"}"#),
            (r#"{"l":[1,2],"l-":[3]}"#, "PUT", "/at/l-", "{\"0\":\"3\"}", false, r#"{"l":[1,2],"l-":{"0":"3"}}"#),
        ] {
            let world = Arc::<World>::default();
            put(&world, before, true).await;
            write(&world, method, path, body, is_typed).await;
            assert_eq!(read(&world.state(), true), after, "{before} {method} {path} {body}");
        }
    }

    #[tokio::test]
    async fn a_type_counts_for_its_text_and_a_list_for_all_its_elements() {
        let world = Arc::<World>::default();
        let raw = |path: &str, value: Option<&str>, is_type| {
            let value = value.map(|value| value.as_bytes().to_vec());
            let write = Write { path: path.as_bytes().to_vec(), value, revision: 2, is_type };
            world.write(Table::Data, &[write]);
            read(&world.state(), true)
        };
        put(&world, r#"{"l":[1,{"x":[]},"2"],"n":1.50}"#, true).await;
        assert_eq!(read(&world.state(), false), r#"{"l":{"0":"1","1":{"x":{}},"2":"2"},"n":"1.5"}"#);
        assert_eq!(read(&world.state(), true), r#"{"l":[1,{"x":[]},"2"],"n":1.50}"#);
        // Somebody writes who knows no types.
        assert_eq!(raw("/at/n", Some("1.51"), false), r#"{"l":[1,{"x":[]},"2"],"n":"1.51"}"#);
        assert_eq!(raw("/at/l/0", None, false), r#"{"l":{"1":{"x":[]},"2":"2"},"n":"1.51"}"#);
        assert_eq!(raw("/at/l/0", Some("1"), false), r#"{"l":[1,{"x":[]},"2"],"n":"1.51"}"#);
        assert_eq!(raw("/at/l/1/x/0", Some("y"), false), r#"{"l":[1,{"x":["y"]},"2"],"n":"1.51"}"#);
        // What is no type changes nothing.
        for wrong in ["", " 1.51", "1.51 ", "\"1.51\"", "[]", "\u{0}", "1e"] {
            assert_eq!(raw("/at/n", Some(wrong), true), r#"{"l":[1,{"x":["y"]},"2"],"n":"1.51"}"#, "{wrong:?}");
        }
        assert_eq!(raw("/at/n", None, false), r#"{"l":[1,{"x":["y"]},"2"]}"#);
    }

    fn shown(body: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match flatten(&json::decode(body.as_bytes()).unwrap()) {
            Ok(Body::Leaf(value)) => text(&value),
            Ok(Body::Dir(leaves)) => leaves
                .iter()
                .map(|(path, value)| format!("{}={}", text(path), text(value)))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error,
        }
    }

    #[test]
    fn bodies_become_texts_as_in_metad() {
        for (body, expected) in [
            (r#"{"i":3,"f":1.50,"b":true,"n":null,"e":{},"l":[]}"#, "/b=true /f=1.5 /i=3 /n="),
            (r#"{"l":["a",{"x":1}],"o":{"x":{"y":"z"}},"":"gone"}"#, "/l/0=a /l/1/x=1 /o/x/y=z"),
            (r#"{"a/b":1,"/c":2,"d":{"":3},"../e":4,"a//b":5}"#, "/a/b=5 /c=2 /d=3 /e=4"),
            (
                r#"{"x":1e21,"y":0.0000001,"z":-0.0,"big":12345678901234567890}"#,
                "/big=12345678901234567000 /x=1000000000000000000000 /y=0.0000001 /z=-0",
            ),
            (r#"["a",[1]]"#, "/0=a /1/0=1"),
            ("5", "5"),
            ("1e21", "1e+21"),
            ("100000", "100000"),
            ("1000000", "1e+06"),
            ("0.00001", "1e-05"),
            ("0.0001", "0.0001"),
            ("123456789", "1.23456789e+08"),
            ("true", "true"),
            ("null", "<nil>"),
            ("\"t\"", "t"),
            ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ] {
            assert_eq!(shown(body), expected, "{body}");
        }
    }

    #[test]
    fn types_are_old_on_the_way_to_what_is_written() {
        let mut known = Tree::default();
        for path in ["/a", "/a/b", "/a/b/c", "/x", "/a-"] {
            known.put(path.as_bytes(), b"[]");
        }
        let of = |paths: &[&str]| paths.iter().map(|path| (path.as_bytes().to_vec(), Vec::new())).collect::<Leaves>();
        let old = |leaves: &[&str], types: &[&str]| {
            let old = outdated(Some(known.root()), &of(leaves), &of(types));
            old.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(old(&["/a/b", "/new/c"], &[]), ["/a", "/a/b"]);
        assert_eq!(old(&["/a/b/d"], &["/a/b", "/x"]), ["/a"]);
        assert_eq!(old(&[], &["/a-/c"]), ["/a-"]);
        assert!(old(&["/b"], &["/x"]).is_empty() && outdated(None, &of(&["/a"]), &of(&[])).is_empty());
        let root = outdated(Some(known.get(b"/a").unwrap()), &of(&["/b/q"]), &of(&[]));
        assert_eq!(root, [b"/".to_vec(), b"/b".to_vec()]);
    }
}
