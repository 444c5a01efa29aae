//! Label and field selectors.

use crate::failure::Failure;
use serde_json::Value;

/// Requirements that an object meets all of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Vec<String>, bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    is: Is,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Is {
    OneOf(Vec<String>),
    /// Also true without the label.
    NoneOf(Vec<String>),
    Present,
    Absent,
}

impl Selector {
    /// Reads the parameters `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split_outside_parentheses(labels).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = fields.split(',').filter(|term| !term.is_empty()).map(field).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let has_labels = self.labels.iter().all(|Requirement { key, is }| {
            let value = labels.get(key).and_then(Value::as_str);
            match is {
                Is::OneOf(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                Is::NoneOf(values) => value.is_none_or(|value| !values.iter().any(|v| v == value)),
                Is::Present => value.is_some(),
                Is::Absent => value.is_none(),
            }
        });
        has_labels && self.fields.iter().all(|(path, equal, wanted)| (field_text(object, path) == *wanted) == *equal)
    }
}

/// A field as selectors compare it: what is absent is empty.
fn field_text(object: &Value, path: &[String]) -> String {
    let value = path.iter().fold(object, |value, part| &value[part.as_str()]);
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The terms of a selector: commas inside `in (a,b)` do not count.
fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.retain(|term| !term.trim().is_empty());
    terms
}

fn requirement(term: &str) -> Result<Requirement, Failure> {
    let term = term.trim();
    let refused = || Failure::bad_request(format!("unable to parse requirement: '{term}'"));
    let made = |key: &str, is| {
        let key = key.trim();
        let is_name = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if is_name { Ok(Requirement { key: key.to_owned(), is }) } else { Err(refused()) }
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, set)) = term.split_once('(') {
        let values = set.strip_suffix(')').ok_or_else(refused)?.split(',').map(|v| v.trim().to_owned()).collect();
        let key = key.trim();
        return match (key.strip_suffix(" notin"), key.strip_suffix(" in")) {
            (Some(key), _) => made(key, Is::NoneOf(values)),
            (None, Some(key)) => made(key, Is::OneOf(values)),
            (None, None) => Err(refused()),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return made(key, Is::NoneOf(one(value)));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return made(key, Is::OneOf(one(value)));
    }
    match term.strip_prefix('!') {
        Some(key) => made(key, Is::Absent),
        None => made(term, Is::Present),
    }
}

fn field(term: &str) -> Result<(Vec<String>, bool, String), Failure> {
    let parts = term
        .split_once("!=")
        .map(|(path, value)| (path, false, value))
        .or_else(|| term.split_once("==").or_else(|| term.split_once('=')).map(|(path, value)| (path, true, value)));
    let (path, equal, value) =
        parts.ok_or_else(|| Failure::bad_request(format!("invalid field selector: '{term}'")))?;
    Ok((path.trim().split('.').map(str::to_owned).collect(), equal, value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match() {
        let pod = json!({
            "metadata": {"name": "db-0", "labels": {"app": "db", "role": "leader"}}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"},
        });
        let cases = [
            ("", "", true),
            ("app=db", "", true),
            ("app==db,role=leader", "", true),
            ("app=db,role=follower", "", false),
            ("role in (leader, follower),app", "", true),
            ("role notin (leader)", "", false),
            ("zone notin (a,b)", "", true),
            ("!zone", "", true),
            ("!app", "", false),
            ("app!=web", "", true),
            ("", "spec.nodeName=n1", true),
            ("", "spec.nodeName=n1,status.phase!=Succeeded", true),
            ("", "spec.nodeName=n2", false),
            ("", "metadata.name==db-0", true),
            ("", "status.podIP=", true),
            ("app=db", "metadata.name=db-1", false),
        ];
        for (labels, fields, expected) in cases {
            assert_eq!(Selector::parse(labels, fields).unwrap().matches(&pod), expected, "{labels} {fields}");
        }
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        for (labels, fields) in [("a b", ""), ("x in (a", ""), ("x of (a)", ""), ("=", ""), ("", "name")] {
            assert_eq!(Selector::parse(labels, fields).unwrap_err().code, 400, "{labels} {fields}");
        }
    }
}
