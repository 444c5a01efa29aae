//! Access rules as they are written and stored: JSON lists of `path` and `mode`, a list for each host.

use crate::access::{Access, Mode, Rule};
use crate::json;
use go::json::Json;

/// Go's name of a list of rules in its errors.
const LIST_TYPE: &str = "[]store.AccessRule";

/// What is wrong with a body of rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadRules {
    /// Not of the right form; Go's text.
    Form(String),
    /// A mode that there is not.
    Mode(String),
}

/// Reads the body of a change: hosts with their lists. Of two lists for the same host the later counts.
pub(crate) fn decode_hosts(body: &Json) -> Result<Vec<(String, Vec<Rule>)>, BadRules> {
    let hosts = match body {
        Json::Null => return Ok(Vec::new()),
        Json::Map(hosts) => hosts,
        other => {
            let text = format!("json: cannot unmarshal {} into Go value of type map[string]{LIST_TYPE}", other.kind());
            return Err(BadRules::Form(text));
        }
    };
    // Go tells what has the wrong type first, wherever it is.
    let lists = hosts.iter().map(|(host, list)| Ok((host.clone(), decode_list(list).map_err(BadRules::Form)?)));
    let lists: Vec<(String, Vec<(String, i64)>)> = lists.collect::<Result<_, _>>()?;
    let checked = |(path, mode): (String, i64)| match Mode::of(mode) {
        Some(mode) => Ok(Rule { path, mode }),
        None => Err(BadRules::Mode(format!("Invalid AccessMode [{mode}]"))),
    };
    let mut found: Vec<(String, Vec<Rule>)> = Vec::new();
    for (host, list) in lists {
        let rules = list.into_iter().map(checked).collect::<Result<_, _>>()?;
        found.retain(|(other, _)| *other != host);
        found.push((host, rules));
    }
    Ok(found)
}

fn decode_list(list: &Json) -> Result<Vec<(String, i64)>, String> {
    match list {
        Json::Null => Ok(Vec::new()),
        Json::List(items) => items.iter().map(decode_rule).collect(),
        other => Err(format!("json: cannot unmarshal {} into Go value of type {LIST_TYPE}", other.kind())),
    }
}

/// Go finds fields whatever the case of their letters.
fn decode_rule(rule: &Json) -> Result<(String, i64), String> {
    let (mut path, mut mode) = (String::new(), 0);
    let fields = match rule {
        Json::Null => return Ok((path, mode)),
        Json::Map(fields) => fields,
        other => {
            return Err(format!("json: cannot unmarshal {} into Go value of type store.AccessRule", other.kind()));
        }
    };
    let wrong = |what: &str, field: &str, kind: &str| {
        format!("json: cannot unmarshal {what} into Go struct field AccessRule.{field} of type {kind}")
    };
    for (field, value) in fields {
        match (field.to_ascii_lowercase().as_str(), value) {
            ("path" | "mode", Json::Null) => {}
            ("path", Json::Text(text)) => path.clone_from(text),
            ("path", other) => return Err(wrong(other.kind(), "path", "string")),
            ("mode", Json::Number(number)) => {
                let read = number.parse();
                mode = read.map_err(|_| wrong(&format!("number {number}"), "mode", "store.AccessMode"))?;
            }
            ("mode", other) => return Err(wrong(other.kind(), "mode", "store.AccessMode")),
            _ => {}
        }
    }
    Ok((path, mode))
}

/// The stored text of a list.
pub(crate) fn encode(rules: &[Rule]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (at, rule) in rules.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"path\":");
        json::write_text(&mut out, rule.path.as_bytes());
        out.extend_from_slice(format!(",\"mode\":{}}}", rule.mode.number()).as_bytes());
    }
    out.push(b']');
    out
}

/// The rules of a stored text. What cannot be read forbids everything, and the error says why.
pub(crate) fn stored(text: &[u8]) -> (Access, Option<String>) {
    let read = json::decode(text).and_then(|list| decode_list(&list)).and_then(|list| {
        let checked = |(path, mode): (String, i64)| {
            Mode::of(mode).map(|mode| (path, mode)).ok_or_else(|| format!("Invalid AccessMode [{mode}]"))
        };
        list.into_iter().map(checked).collect::<Result<Vec<_>, _>>()
    });
    match read {
        Ok(rules) => (Access::new(rules.iter().map(|(path, mode)| (path.as_bytes(), *mode))), None),
        Err(error) => (Access::new([]), Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &str) -> Result<Vec<(String, Vec<Rule>)>, BadRules> {
        decode_hosts(&json::decode(body.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        let form = |text: &str| Err(BadRules::Form(text.to_owned()));
        for (body, expected) in [
            ("[]", form("json: cannot unmarshal array into Go value of type map[string][]store.AccessRule")),
            (r#"{"h":{}}"#, form("json: cannot unmarshal object into Go value of type []store.AccessRule")),
            (r#"{"h":["a"]}"#, form("json: cannot unmarshal string into Go value of type store.AccessRule")),
            (
                r#"{"h":[{"mode":"1"}]}"#,
                form("json: cannot unmarshal string into Go struct field AccessRule.mode of type store.AccessMode"),
            ),
            (
                r#"{"h":[{"mode":1.5}]}"#,
                form("json: cannot unmarshal number 1.5 into Go struct field AccessRule.mode of type store.AccessMode"),
            ),
            (
                r#"{"h":[{"path":1}]}"#,
                form("json: cannot unmarshal number into Go struct field AccessRule.path of type string"),
            ),
            (r#"{"h":[{"mode":5}]}"#, Err(BadRules::Mode("Invalid AccessMode [5]".to_owned()))),
        ] {
            assert_eq!(decoded(body), expected, "{body}");
        }
    }

    #[test]
    fn lists_are_read_and_stored_in_one_form() {
        let rule = |path: &str, mode| Rule { path: path.to_owned(), mode };
        let hosts =
            decoded(r#"{"h":null,"i":[{"Path":"/a<","MODE":1,"x":0},{"path":"rel"},{"mode":-1}],"h":[]}"#).unwrap();
        let expected = vec![rule("/a<", Mode::Read), rule("rel", Mode::Forbidden), rule("", Mode::None)];
        assert_eq!(hosts, [("i".to_owned(), expected.clone()), ("h".to_owned(), Vec::new())]);
        let text = encode(&expected);
        let shown = r#"[{"path":"/a\u003c","mode":1},{"path":"rel","mode":0},{"path":"","mode":-1}]"#;
        assert_eq!(String::from_utf8(text.clone()).unwrap(), shown);
        let (access, error) = stored(&text);
        assert_eq!((access.rules(), error), (vec![rule("/a<", Mode::Read), rule("/rel", Mode::Forbidden)], None));
        let (access, error) = stored(b"{}");
        assert_eq!((access.rules(), error.is_some()), (Vec::new(), true));
        assert!(stored(b"null").1.is_none());
    }
}
