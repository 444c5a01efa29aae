//! The body of a write as leaves of the tree: objects and lists become directories, everything else becomes a text.

use crate::json::Json;
use crate::path;
use std::collections::BTreeMap;

/// Leaves by their clean path. Of two with the same path the later counts.
pub(crate) type Leaves = BTreeMap<Vec<u8>, Vec<u8>>;

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
        // By itself, a value that is no text is written as Go's `%v` has it.
        Json::Null => return Ok(Body::Leaf(b"<nil>".to_vec())),
        Json::Number(number) => return Ok(Body::Leaf(general(float(number)?).into_bytes())),
        Json::Bool(_) | Json::Text(_) => return Ok(Body::Leaf(scalar(body)?)),
    }
    Ok(Body::Dir(leaves))
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
    use crate::json;

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
}
