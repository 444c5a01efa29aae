//! Paths as Go's HTTP server takes them: decoded, and clean, or the client is sent to the clean one.

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use std::borrow::Cow;
use std::fmt::Write as _;

/// A path without its percent signs; none if one of them is not followed by two hexadecimal digits.
pub(super) fn decoded(path: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = path.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(bytes.into());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        out.push(hex(*digits)?);
        rest = tail;
    }
    Some(out.into())
}

/// The byte that two hexadecimal digits mean.
pub(super) fn hex([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// Sends a client to the clean path, if it asked for another one. A slash at the end stays.
pub(super) fn redirect(path: &[u8], method: &Method, query: Option<&str>) -> Option<Response> {
    if is_clean(path) {
        return None;
    }
    let mut clean = clean(path);
    if path.last() == Some(&b'/') && clean.last() != Some(&b'/') {
        clean.push(b'/');
    }
    if clean == path {
        return None;
    }
    let mut location = escaped(&clean);
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let body = match *method {
        Method::GET => format!("<a href=\"{}\">Moved Permanently</a>.\n\n", in_html(&location)),
        _ => String::new(),
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if matches!(*method, Method::GET | Method::HEAD) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
    }
    // Invariant: what is escaped, and a query that came in a request, can be in a header.
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    Some(response)
}

/// True if nothing in a path can be unclean: for most requests.
fn is_clean(path: &[u8]) -> bool {
    !path.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

/// A path from the root without empty parts, `.` and `..`, as Go's `path.Clean` makes it.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    clean_below("", path)
}

/// As [`clean`], behind a prefix.
pub(super) fn clean_below(prefix: &str, path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + path.len() + 1);
    out.extend(prefix.as_bytes());
    if path.first() == Some(&b'/') && path.last() != Some(&b'/') && is_clean(path) {
        out.extend(path);
        return out;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        out.push(b'/');
    }
    for part in parts {
        out.push(b'/');
        out.extend(part);
    }
    out
}

/// A path as Go writes it in a URL.
fn escaped(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

fn in_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, expected) in [
            ("/v2/keys/foo", None),
            ("/v2/keys/foo/", None),
            ("/v2/keys/.foo", None),
            ("/v2/keys/..foo/...", None),
            ("/v2/keys//foo", Some("/v2/keys/foo")),
            ("/v2/keys/a/../foo", Some("/v2/keys/foo")),
            ("/v2/keys/./", Some("/v2/keys/")),
            ("/v2/keys/..", Some("/v2")),
            ("/../../..", Some("/")),
            ("/v2/keys//a b?&", Some("/v2/keys/a%20b%3F&")),
            ("/v2/keys//é", Some("/v2/keys/%C3%A9")),
        ] {
            let response = redirect(path.as_bytes(), &Method::PUT, None);
            let location = response.as_ref().map(|response| response.headers()[header::LOCATION].to_str().unwrap());
            assert_eq!(location, expected, "{path}");
        }
        let response = redirect(b"//a", &Method::GET, Some("x=<1>&y=2")).unwrap();
        assert_eq!(response.headers()[header::LOCATION], "/a?x=<1>&y=2");
    }

    #[test]
    fn percent_signs_are_decoded_or_refused() {
        assert_eq!(&*decoded("/sp%20ace%2Fsub%fF").unwrap(), b"/sp ace/sub\xff");
        for bad in ["/%", "/%1", "/%zz", "/a%2"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
