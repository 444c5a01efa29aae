//! Fuzz targets: templates as anybody could write them, and what they may find in a store.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is what a fuzz target reports")]

use crate::functions::{Context, Dialect, functions};
use crate::keys::Keys;
use crate::template::{Function, Functions, Limits, Param, Template, Value};
use ::fuzz::{Memory, Target};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub static TARGETS: [Target; 2] = [TEMPLATE, RENDERING];

/// A source. The first byte says whose functions it has. What it does happens on a thread with the stack that is
/// promised to it, so its memory is that thread's and not counted.
const TEMPLATE: Target = Target { name: "template", seeds: sources, run: parse_and_render, memory: MEMORY };

/// A source, then a document of JSON for the dot, then keys and values, with a zero byte after each. Here the evaluator, the
/// functions and printing get data that nobody chose.
const RENDERING: Target = Target { name: "rendering", seeds: sources_with_data, run: render_data, memory: MEMORY };

const MEMORY: Memory = Memory { base: 4 << 20, per_byte: 64 };

const LIMITS: Limits = Limits { output_bytes: 1 << 20, depth: 1000, time: Duration::from_secs(5) };

fn parse_and_render(input: &[u8]) {
    let Some((&how, source)) = input.split_first() else { return };
    let mut keys = Keys::default();
    for key in ["/a", "/a/b", "/a/c/d", "/n/1", "/n/2"] {
        keys.insert(key.as_bytes(), b"{\"x\": [1, 2.5, null]}".as_slice());
    }
    render(how, source.to_vec(), Vec::new(), keys);
}

fn render_data(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    let mut parts = rest.split(|&byte| byte == 0);
    let mut next = || parts.next().map(<[u8]>::to_vec);
    let (source, dot) = (next().unwrap_or_default(), next().unwrap_or_default());
    let mut keys = Keys::default();
    while let (Some(key), Some(value)) = (next(), next()) {
        keys.insert(key, value);
    }
    render(how, source, dot, keys);
}

fn render(how: u8, source: Vec<u8>, dot: Vec<u8>, keys: Keys) {
    let work = move || {
        let dialect = [Dialect::Confd, Dialect::Yunify, Dialect::Abtreece][usize::from(how) % 3];
        let context = Context::new(Arc::new(BTreeMap::new()), None);
        context.set_keys(Arc::new(keys));
        let from_json = functions(Dialect::Abtreece, &context).get("fromJson").cloned().unwrap();
        let mut functions = functions(dialect, &context);
        without_network(&mut functions);
        let Ok(template) = Template::parse("t", &source, &functions) else { return };
        let dot = from_json.call(&[Value::text(dot)]).unwrap_or(Value::Absent);
        match template.render(&dot, &LIMITS) {
            // A node writes some text more before the limit is looked at.
            Ok(output) => assert!(output.len() <= LIMITS.output_bytes + source.len(), "the output is bounded"),
            Err(error) => assert!(error.text.starts_with("template: "), "{}", error.text),
        }
    };
    std::thread::Builder::new().stack_size(Limits::STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// The resolver would make every run another one.
fn without_network(functions: &mut Functions) {
    for name in ["lookupIP", "lookupIPV4", "lookupIPV6", "lookupIfaceIPV4", "lookupIfaceIPV6"] {
        functions.add(Function::new(name, &[Param::Text], |_| Ok("".into())));
    }
    functions.add(Function::new("lookupSRV", &[Param::Text, Param::Text, Param::Text], |_| Ok("".into())));
}

/// All templates of the recorded cases.
fn sources() -> Vec<Vec<u8>> {
    cases().iter().map(|(how, case)| [&[*how], case["template"].as_str().unwrap().as_bytes()].concat()).collect()
}

/// The same with their keys, and with data that has the names of those that the engine's cases use.
fn sources_with_data() -> Vec<Vec<u8>> {
    let dot = serde_json::json!({
        "Name": "Bob", "N": 3, "F": 2.5, "Big": 12_345_678_901_u64, "Neg": -7, "T": true, "Fa": false, "Empty": "",
        "L": ["a", "b", "c"], "Nums": [3, 1, 2], "M": {"zeta": 1, "alpha": 2, "mid": {"x": "y"}}, "EL": [], "Nil": null,
        "U": {"Name": "Al"}, "Html": "<a&b>", "LM": [{"Name": "lm"}],
    });
    let with_data = |(how, case): &(u8, serde_json::Value)| {
        let mut parts = vec![case["template"].as_str().unwrap().to_owned()];
        match case.get("kv").and_then(serde_json::Value::as_object) {
            None => parts.push(dot.to_string()),
            Some(keys) => {
                parts.push(String::new());
                parts.extend(keys.iter().flat_map(|(key, value)| [key.clone(), value.as_str().unwrap().to_owned()]));
            }
        }
        [&[*how], parts.join("\0").as_bytes()].concat()
    };
    cases().iter().map(with_data).collect()
}

/// The recorded cases, with the byte that says whose functions they use.
fn cases() -> Vec<(u8, serde_json::Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases = Vec::new();
    for file in ["corpus.jsonl", "confd.jsonl", "engine.jsonl", "gotemplate.jsonl"] {
        for line in std::fs::read_to_string(directory.join(file)).unwrap().lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let how = match case["engine"].as_str() {
                Some("confd-yunify") => 1,
                Some("confd-abtreece-funcs") => 2,
                _ => 0,
            };
            cases.push((how, case));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn template() {
        fuzz::short::run(&TARGETS[0]);
    }

    #[test]
    fn rendering() {
        fuzz::short::run(&TARGETS[1]);
    }
}
