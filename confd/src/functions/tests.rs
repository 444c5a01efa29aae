//! What the three programs gave for the same templates and keys.

use super::{Context, Dialect, functions};
use crate::keys::Keys;
use crate::template::{Limits, Template, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Cases where Go has changed since they were recorded with 1.19, with what Go 1.27 gives.
const NEWER_GO: [(&str, Result<&str, &str>); 7] = [
    ("range-over-int", Ok("012")),
    ("call-non-func-error", Err("error calling call: non-function 3 of type int")),
    ("eq-mixed-types-error", Err("error calling eq: incompatible types for comparison: int and string")),
    ("eq-int-float-error", Err("error calling eq: incompatible types for comparison: int and float64")),
    ("eq-json-number-vs-int-literal", Err("error calling eq: incompatible types for comparison: float64 and int")),
    ("lt-mixed-int-float-error", Err("error calling lt: incompatible types for comparison: int and float64")),
    ("break-outside-range", Err("template: t.tmpl:1: {{break}} outside {{range}}")),
];

fn render(case: &serde_json::Value) -> Result<String, (String, Option<String>)> {
    let strings = |name: &str| -> BTreeMap<String, String> {
        let entries = case.get(name).and_then(serde_json::Value::as_object).into_iter().flatten();
        entries.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
    };
    let dialect = match case["engine"].as_str().unwrap() {
        "confd-yunify" => Dialect::Yunify,
        "confd-abtreece-funcs" => Dialect::Abtreece,
        _ => Dialect::Confd,
    };
    let context = Context::new(Arc::new(strings("env")), None);
    let mut keys = Keys::default();
    for (key, value) in strings("kv") {
        keys.insert(key.as_bytes(), value.as_bytes());
    }
    context.set_keys(Arc::new(keys));
    let source = case["template"].as_str().unwrap();
    let parsed = Template::parse("t.tmpl", source.as_bytes(), &functions(dialect, &context));
    let template = parsed.map_err(|error| (error, None))?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match template.render(&Value::Absent, &Limits::default()) {
        Ok(output) => Ok(text(output)),
        Err(error) => Err((error.text, Some(text(error.output)))),
    }
}

#[test]
fn a_debug_output_has_no_values() {
    let secret = || "hunter2".to_owned();
    let context = Context::new(Arc::new(BTreeMap::from([("PASSWORD".to_owned(), secret())])), None);
    let mut keys = Keys::default();
    keys.insert(&b"/password"[..], secret().as_bytes());
    context.set_keys(Arc::new(keys));
    let source = "{{getv \"/password\"}}{{getenv \"PASSWORD\"}}{{getv \"/none\"}}";
    let template = Template::parse("t.tmpl", source.as_bytes(), &functions(Dialect::Confd, &context)).unwrap();
    let error = template.render(&Value::Absent, &Limits::default()).unwrap_err();
    assert_eq!(error.output, b"hunter2hunter2");
    for shown in [format!("{context:?}"), format!("{error:?}"), format!("{error:#?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    }
}

#[test]
fn recorded_cases_give_what_they_gave() {
    assert_eq!(check("confd.jsonl"), (282, NEWER_GO.len()));
}

/// Templates as people write them for 150 services, from nginx to krb5, and what Go made of them. The name of one type is
/// that of confd's.
#[test]
fn templates_of_services_give_what_go_gives() {
    assert_eq!(check("corpus.jsonl"), (187, 0));
}

/// Calls made by chance, with what the functions of confd 0.16 and of both forks gave, built with Go 1.26.
#[test]
fn calls_made_at_random_give_what_confd_gives() {
    assert_eq!(check("functions.jsonl"), (637, 0));
}

/// Every case of a file has to give what it gave. Returns how many there are, and how many of them were compared with
/// [`NEWER_GO`].
fn check(file: &str) -> (usize, usize) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let mut wrong = Vec::new();
    let text = std::fs::read_to_string(path).unwrap();
    let mut newer = 0;
    for line in text.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| case.get(name).and_then(serde_json::Value::as_str);
        let name = field("name").unwrap();
        let got = render(&case);
        if let Some((_, expected)) = NEWER_GO.iter().find(|(newer, _)| *newer == name) {
            newer += 1;
            let fits = match (&got, expected) {
                (Ok(got), Ok(expected)) => got == expected,
                (Err((got, _)), Err(expected)) => got.ends_with(expected),
                _ => false,
            };
            if !fits {
                wrong.push(format!("{name}: got {got:?}, want {expected:?}"));
            }
            continue;
        }
        let fits = match (&got, field("expect")) {
            (Ok(got), Some(expected)) => got == expected,
            (Err((error, output)), None) => {
                Some(error.as_str()) == field("error")
                    && field("partial_output").is_none_or(|partial| output.as_deref() == Some(partial))
            }
            _ => false,
        };
        if !fits {
            let expected = field("expect").or(field("error"));
            wrong.push(format!("{name}: {}\n  got  {got:?}\n  want {expected:?}", case["template"]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    (text.lines().count(), newer)
}
