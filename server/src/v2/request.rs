//! The parameters of a request for keys: read by the rules of Go's `net/http`, checked in etcd's order.

use super::error::{
    INDEX_NAN, INVALID_FIELD, INVALID_FORM, KeyError, PREV_VALUE_REQUIRED, REFRESH_TTL_REQUIRED, REFRESH_VALUE, TTL_NAN,
};
use super::path::hex;
use http::Method;
use std::borrow::Cow;

/// What a request for keys can have.
const NAMES: [&str; 14] = [
    "value",
    "dir",
    "ttl",
    "prevExist",
    "prevIndex",
    "prevValue",
    "refresh",
    "noValueOnSuccess",
    "recursive",
    "sorted",
    "quorum",
    "wait",
    "waitIndex",
    "stream",
];

/// A request for keys.
#[derive(Default)]
pub(super) struct KeyRequest {
    pub(super) value: Vec<u8>,
    pub(super) dir: bool,
    /// Nanoseconds since 1970; 0 for never.
    pub(super) expiration: i64,
    pub(super) prev_exist: Option<bool>,
    pub(super) prev_index: u64,
    pub(super) prev_value: Vec<u8>,
    pub(super) refresh: bool,
    pub(super) no_value_on_success: bool,
    pub(super) recursive: bool,
    pub(super) quorum: bool,
    pub(super) wait: bool,
    pub(super) wait_index: u64,
    pub(super) stream: bool,
}

const SECOND: i64 = 1_000_000_000;

/// The first value of each of [`NAMES`]: those of the body count before those of the query. What nobody asks for is not
/// kept, however much of it there is.
#[derive(Default)]
pub(super) struct Form([Option<Vec<u8>>; NAMES.len()]);

impl Form {
    /// Reads `name=value&...`. What cannot be read is left out; the first such thing is the error, in Go's words.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), String> {
        let mut result = Ok(());
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if pair.contains(&b';') {
                result = result.and(Err("invalid semicolon separator in query".to_owned()));
                continue;
            }
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let mut part = || unescaped(parts.next().unwrap_or_default());
            match (part(), part()) {
                (Ok(name), Ok(value)) => {
                    let place = NAMES.iter().position(|known| known.as_bytes() == &*name);
                    if let Some(place) = place.and_then(|place| self.0.get_mut(place)) {
                        place.get_or_insert_with(|| value.into_owned());
                    }
                }
                (Err(error), _) | (_, Err(error)) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// True if it has none of the parameters.
    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The first value of a parameter.
    fn get(&self, name: &str) -> Option<&[u8]> {
        let place = NAMES.iter().position(|known| *known == name)?;
        self.0.get(place)?.as_deref()
    }

    fn take(&mut self, name: &str) -> Vec<u8> {
        let place = NAMES.iter().position(|known| *known == name);
        place.and_then(|place| self.0.get_mut(place)?.take()).unwrap_or_default()
    }

    fn number(&self, name: &str, code: u16) -> Result<u64, KeyError> {
        let Some(text) = self.get(name) else { return Ok(0) };
        number(text).ok_or_else(|| KeyError::of_request(code, format!("invalid value for \"{name}\"")))
    }

    fn boolean(&self, name: &str) -> Result<bool, KeyError> {
        let Some(text) = self.get(name) else { return Ok(false) };
        boolean(text).ok_or_else(|| KeyError::of_request(INVALID_FIELD, format!("invalid value for \"{name}\"")))
    }

    /// As [`Self::boolean`], where what is absent is not false, and etcd leaves the quotes out.
    fn optional(&self, name: &str) -> Result<Option<bool>, KeyError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let known = boolean(text);
        known.map(Some).ok_or_else(|| KeyError::of_request(INVALID_FIELD, format!("invalid value for {name}")))
    }
}

/// Decodes a part of a form: percent signs, and a plus for a space.
fn unescaped(text: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if !text.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Ok(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let decoded = tail.first_chunk::<2>().and_then(|digits| hex(*digits));
                let Some(decoded) = decoded else {
                    let escape = String::from_utf8_lossy(&rest[..rest.len().min(3)]);
                    return Err(format!("invalid URL escape {escape:?}"));
                };
                out.push(decoded);
                rest = &tail[2..];
                continue;
            }
            byte => out.push(*byte),
        }
        rest = tail;
    }
    Ok(out.into())
}

/// A number as Go reads it: no sign.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn boolean(text: &[u8]) -> Option<bool> {
    crate::config::parse::boolean(str::from_utf8(text).ok()?)
}

impl KeyRequest {
    /// Checks the parameters; `now` is what a TTL is counted from, nanoseconds since 1970.
    pub(super) fn of(method: &Method, mut form: Form, now: i64) -> Result<Self, KeyError> {
        if form.is_empty() {
            return Ok(Self::default());
        }
        let mut request = Self {
            prev_index: form.number("prevIndex", INDEX_NAN)?,
            wait_index: form.number("waitIndex", INDEX_NAN)?,
            recursive: form.boolean("recursive")?,
            ..Self::default()
        };
        // Children are sorted anyway.
        form.boolean("sorted")?;
        request.wait = form.boolean("wait")?;
        request.dir = form.boolean("dir")?;
        request.quorum = form.boolean("quorum")?;
        request.stream = form.boolean("stream")?;
        if request.wait && method != Method::GET {
            return Err(KeyError::of_request(INVALID_FIELD, "\"wait\" can only be used with GET requests"));
        }
        if form.get("prevValue").is_some_and(<[u8]>::is_empty) {
            return Err(KeyError::of_request(PREV_VALUE_REQUIRED, "\"prevValue\" cannot be empty"));
        }
        request.no_value_on_success = form.boolean("noValueOnSuccess")?;
        let has_ttl = form.get("ttl").is_some_and(|ttl| !ttl.is_empty());
        if has_ttl {
            // As Go does, around the end of what 64 bits hold: what comes out before 2000 is no expiration to the tree.
            let ttl = form.number("ttl", TTL_NAN)? as i64;
            request.expiration = now.wrapping_add(ttl.wrapping_mul(SECOND));
        }
        request.prev_exist = form.optional("prevExist")?;
        request.refresh = form.optional("refresh")?.unwrap_or(false);
        if request.refresh {
            if form.get("value").is_some_and(|value| !value.is_empty()) {
                return Err(KeyError::of_request(REFRESH_VALUE, "A value was provided on a refresh"));
            }
            if !has_ttl {
                return Err(KeyError::of_request(REFRESH_TTL_REQUIRED, "No TTL value set"));
            }
        }
        request.value = form.take("value");
        request.prev_value = form.take("prevValue");
        Ok(request)
    }
}

/// A form that cannot be read.
pub(super) fn bad_form(reason: String) -> KeyError {
    KeyError::of_request(INVALID_FORM, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &Method, body: &str, query: &str) -> Result<KeyRequest, String> {
        let mut form = Form::default();
        let first = form.read(body.as_bytes());
        first.and(form.read(query.as_bytes()))?;
        KeyRequest::of(method, form, 5 * SECOND).map_err(|error| error.cause())
    }

    #[test]
    fn forms_are_read_as_in_go() {
        let request =
            read(&Method::PUT, "value=a%20b+c&&=x&dir=1&dir=0&other=1&value=2", "value=q&prevValue=%3D").unwrap();
        assert_eq!((request.value.as_slice(), request.prev_value.as_slice()), (&b"a b c"[..], &b"="[..]));
        assert!(request.dir, "only the first counts");
        let mut form = Form::default();
        form.read("a&".repeat(10_000).as_bytes()).unwrap();
        assert!(form.is_empty(), "what nobody asks for is not kept");
        for (query, reason) in [
            ("a;b", "invalid semicolon separator in query"),
            ("value=%zz&x=%", "invalid URL escape \"%zz\""),
            ("%a=1", "invalid URL escape \"%a\""),
        ] {
            assert_eq!(read(&Method::PUT, "", query).err().unwrap(), reason);
        }
    }

    #[test]
    fn numbers_and_booleans_are_gos() {
        for (query, is_good) in [
            ("prevIndex=18446744073709551615", true),
            ("prevIndex=18446744073709551616", false),
            ("prevIndex=+1", false),
            ("prevIndex=", false),
            ("prevIndex=0x1", false),
            ("dir=t", true),
            ("dir=yes", false),
            ("dir", false),
            ("ttl=", true),
            ("ttl=-1", false),
            ("prevExist=", false),
            ("prevValue=", false),
            ("refresh=true", false),
            ("refresh=true&ttl=5", true),
            ("refresh=true&ttl=5&value=", true),
            ("refresh=true&ttl=5&value=x", false),
            ("wait=true", false),
        ] {
            assert_eq!(read(&Method::PUT, "", query).is_ok(), is_good, "{query}");
        }
        assert_eq!(read(&Method::PUT, "", "ttl=7").unwrap().expiration, 12 * SECOND);
        assert_eq!(read(&Method::PUT, "", "ttl=18446744073709551615").unwrap().expiration, 4 * SECOND);
        assert!(read(&Method::PUT, "", "ttl=9223372036").unwrap().expiration < 0);
    }

    #[test]
    fn checks_come_in_etcds_order() {
        let error = |query: &str| read(&Method::PUT, "", query).err().unwrap();
        let order = ["prevIndex", "waitIndex", "recursive", "sorted", "wait", "dir", "quorum", "stream"];
        for (at, name) in order.iter().enumerate() {
            let query: Vec<String> = order[at..].iter().rev().map(|name| format!("{name}=x")).collect();
            assert_eq!(error(&query.join("&")), format!("invalid value for \"{name}\""));
        }
    }
}
