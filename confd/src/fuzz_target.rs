//! Fuzz target: templates as anybody could write them, parsed and rendered.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is what a fuzz target reports")]

use crate::functions::{Context, Dialect, functions};
use crate::keys::Keys;
use crate::template::{Function, Functions, Limits, Param, Template, Value};
use ::fuzz::{Memory, Target};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub static TARGETS: [Target; 1] = [TEMPLATE];

/// A source. The first byte says whose functions it has. What it does happens on a thread with the stack that is
/// promised to it, so its memory is that thread's and not counted.
const TEMPLATE: Target =
    Target { name: "template", seeds: sources, run: render, memory: Memory { base: 4 << 20, per_byte: 64 } };

const LIMITS: Limits = Limits { output_bytes: 1 << 20, depth: 1000, time: Duration::from_secs(5) };

fn render(input: &[u8]) {
    let Some((&how, source)) = input.split_first() else { return };
    let source = source.to_vec();
    let work = move || {
        let dialect = [Dialect::Confd, Dialect::Yunify, Dialect::Abtreece][usize::from(how) % 3];
        let context = Context::new(Arc::new(BTreeMap::new()), None);
        let mut keys = Keys::default();
        for key in ["/a", "/a/b", "/a/c/d", "/n/1", "/n/2"] {
            keys.insert(key.as_bytes(), b"{\"x\": [1, 2.5, null]}".as_slice());
        }
        context.set_keys(Arc::new(keys));
        let mut functions = functions(dialect, &context);
        without_network(&mut functions);
        let Ok(template) = Template::parse("t", &source, &functions) else { return };
        match template.render(&Value::Absent, &LIMITS) {
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
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut sources = Vec::new();
    for file in ["corpus.jsonl", "confd.jsonl", "engine.jsonl", "gotemplate.jsonl"] {
        for line in std::fs::read_to_string(cases.join(file)).unwrap().lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let how = match case["engine"].as_str() {
                Some("confd-yunify") => 1,
                Some("confd-abtreece-funcs") => 2,
                _ => 0,
            };
            sources.push([&[how], case["template"].as_str().unwrap().as_bytes()].concat());
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn template() {
        fuzz::short::run(&TARGETS[0]);
    }
}
