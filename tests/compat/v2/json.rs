//! JSON as it was written: the order of fields and the spelling of strings and numbers count.

/// A value, with every scalar as its own text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    /// With the quotes of a string.
    Scalar(String),
}

impl Raw {
    /// Reads a text that is one value without any space in it, as etcd writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (value, rest) = value(text)?;
        rest.is_empty().then_some(value)
    }

    /// A field of an object.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| value),
            Self::Array(_) | Self::Scalar(_) => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            Self::Object(_) | Self::Array(_) => None,
        }
    }
}

/// The text that was read.
impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar(text) => f.write_str(text),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}\"{name}\":{value}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn value(text: &str) -> Option<(Raw, &str)> {
    match text.bytes().next()? {
        b'{' => {
            let mut fields = Vec::new();
            let mut rest = &text[1..];
            while !rest.starts_with('}') {
                if !fields.is_empty() {
                    rest = rest.strip_prefix(',')?;
                }
                let (name, after) = string(rest)?;
                let (field, after) = value(after.strip_prefix(':')?)?;
                fields.push((name[1..name.len() - 1].to_owned(), field));
                rest = after;
            }
            Some((Raw::Object(fields), &rest[1..]))
        }
        b'[' => {
            let mut elements = Vec::new();
            let mut rest = &text[1..];
            while !rest.starts_with(']') {
                if !elements.is_empty() {
                    rest = rest.strip_prefix(',')?;
                }
                let (element, after) = value(rest)?;
                elements.push(element);
                rest = after;
            }
            Some((Raw::Array(elements), &rest[1..]))
        }
        b'"' => string(text).map(|(text, rest)| (Raw::Scalar(text.to_owned()), rest)),
        _ => {
            let end = text.find([',', '}', ']']).unwrap_or(text.len());
            let is_scalar =
                end > 0 && text[..end].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            is_scalar.then(|| (Raw::Scalar(text[..end].to_owned()), &text[end..]))
        }
    }
}

/// A string with its quotes, and what follows.
fn string(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut is_escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'"' if !is_escaped => return Some((&text[..at + 2], &inner[at + 1..])),
            0..b' ' => return None,
            _ => is_escaped = byte == b'\\' && !is_escaped,
        }
    }
    None
}

#[test]
fn texts_are_kept_as_they_are() {
    let written = r#"{"a":{"b":[1,-2.5e3,null,"x\"\\"],"c":{}},"d":[]}"#;
    assert_eq!(Raw::parse(written).map(|raw| raw.to_string()).as_deref(), Some(written));
    for flawed in ["", "{", r#"{"a":1,}"#, r#"{"a": 1}"#, "[1,,2]", "[1]x", "\"a", "\"a\nb\""] {
        assert_eq!(Raw::parse(flawed), None, "{flawed}");
    }
}
