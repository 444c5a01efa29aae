//! Answers: their form by what the client accepts, and the texts of errors, as metad has them.

use crate::json;
use crate::shown::Shown;
use crate::tree::{Tag, Written, tag};
use crate::yaml;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// The version of the data that an answer shows.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-metad-version");
/// The number of the request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-metad-requestid");

/// Headers that almost every answer has at most: type, length, tag, number and version.
const MAX_HEADERS: usize = 6;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    Yaml,
}

/// What is offered, the default first.
const OFFERS: [(&str, Format); 6] = [
    ("text/plain", Format::Text),
    ("application/json", Format::Json),
    ("application/yaml", Format::Yaml),
    ("application/x-yaml", Format::Yaml),
    ("text/yaml", Format::Yaml),
    ("text/x-yaml", Format::Yaml),
];

impl Format {
    /// The best offer for what is accepted: the highest quality, then the most precise name, then the first offer.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Self {
        // Most clients say one of the names, and nothing else.
        let mut lines = headers.get_all(header::ACCEPT).iter();
        if let (Some(only), None) = (lines.next(), lines.next())
            && let Some((_, format)) = OFFERS.iter().find(|(name, _)| only.as_bytes() == name.as_bytes())
        {
            return *format;
        }
        let accepted: Vec<(String, f64)> = headers.get_all(header::ACCEPT).iter().flat_map(accepted).collect();
        let (mut best, mut best_quality, mut best_wild) = (Self::Text, -1.0, 3);
        for (offer, format) in OFFERS {
            for (name, quality) in &accepted {
                let wild = match name.strip_suffix('*') {
                    Some("*/") => 2,
                    Some(kind) if kind.ends_with('/') && offer.starts_with(kind) => 1,
                    None if name == offer => 0,
                    _ => continue,
                };
                // A quality of 0 is a refusal, which is not looked at further.
                if *quality > 0.0 && *quality >= best_quality && (*quality > best_quality || best_wild > wild) {
                    (best, best_quality, best_wild) = (format, *quality, wild);
                }
            }
        }
        best
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        })
    }
}

/// Names and qualities of one header, up to the first that is malformed.
fn accepted(value: &HeaderValue) -> Vec<(String, f64)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    let mut found = Vec::new();
    let mut rest = value.to_str().unwrap_or_default();
    loop {
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after.trim_start();
        let mut quality = Some(1.0);
        if let Some(parameter) = rest.strip_prefix(';') {
            quality = parameter.trim_start().strip_prefix("q=").and_then(|text| {
                let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
                rest = text[end..].trim_start();
                text[..end].parse().ok().filter(|quality| (0.0..2.0).contains(quality))
            });
        }
        let Some(quality) = quality.filter(|_| !name.is_empty()) else { return found };
        found.push((name.to_owned(), quality));
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None => return found,
        }
    }
}

/// How a request wants its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) format: Format,
    /// JSON over several lines.
    pub(crate) pretty: bool,
    /// A HEAD request has no body.
    pub(crate) is_head: bool,
    /// Values have their types, in JSON and YAML.
    pub(crate) is_typed: bool,
}

impl Wish {
    pub(crate) fn new(method: &Method, headers: &HeaderMap, pretty: bool, is_typed: bool) -> Self {
        Self { format: Format::negotiate(headers), pretty, is_head: method == Method::HEAD, is_typed }
    }

    /// The body of what is shown, whose JSON may have been made already, and the tag of this form of it.
    pub(crate) fn body(self, shown: &Shown, json: Option<Written>) -> (Bytes, String) {
        let of = |text: Vec<u8>, form| {
            let tag = tag(&text);
            (text.into(), quoted(tag, form))
        };
        match self.format {
            Format::Text => of(shown.text(), 't'),
            Format::Yaml => of(shown.yaml(self.is_typed), 'y'),
            Format::Json => {
                let json = json.unwrap_or_else(|| shown.json(self.is_typed));
                if self.pretty {
                    (json::indented(&json.text).into(), quoted(json.tag, 'p'))
                } else {
                    (json.text, quoted(json.tag, 'j'))
                }
            }
        }
    }

    /// An answer of what is shown.
    pub(crate) fn shown(self, body: Bytes, etag: String) -> Response {
        let mut response = self.success(body);
        if let Ok(etag) = HeaderValue::try_from(etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        response
    }

    fn success(self, body: Bytes) -> Response {
        self.response(StatusCode::OK, self.format.content_type(), body)
    }

    fn response(self, status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response {
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(if self.is_head { Body::empty() } else { Body::from(body) });
        *response.status_mut() = status;
        *response.headers_mut() = HeaderMap::with_capacity(MAX_HEADERS);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        response
    }

    /// That something was done.
    pub(crate) fn done(self) -> Response {
        let body: Vec<u8> = match self.format {
            Format::Text => b"OK".to_vec(),
            Format::Yaml => b"code: 200\ntype: OK\n".to_vec(),
            Format::Json => self.json(br#"{"code":200,"type":"OK"}"#),
        };
        self.success(body.into())
    }

    /// A document that is JSON, unless it is wanted as YAML.
    pub(crate) fn document(self, json: &[u8], yaml: impl FnOnce() -> Vec<u8>) -> Response {
        let body = match self.format {
            // metad cannot write such a thing as text, and answers with nothing.
            Format::Text => Vec::new(),
            Format::Json => self.json(json),
            Format::Yaml => yaml(),
        };
        self.success(body.into())
    }

    fn json(self, compact: &[u8]) -> Vec<u8> {
        if self.pretty { json::indented(compact) } else { compact.to_vec() }
    }

    /// An error. metad says that all of them are plain text; with `is_typed` they have the type that they are of.
    pub(crate) fn error(self, status: StatusCode, message: &str, is_typed: bool) -> Response {
        let code = status.as_u16();
        let mut body =
            match self.format {
                Format::Text => message.as_bytes().to_vec(),
                Format::Json => {
                    let mut body = format!("{{\"code\":{code},\"message\":").into_bytes();
                    json::write_text(&mut body, message.as_bytes());
                    body.extend_from_slice(b",\"type\":\"ERROR\"}");
                    body
                }
                Format::Yaml => {
                    let mut writer = yaml::Writer::new();
                    let code = code.to_string();
                    let fields: Vec<(&[u8], &str)> = vec![(b"code", &code), (b"message", message), (b"type", "ERROR")];
                    writer.map(fields, |writer, text| {
                        if text == code { writer.verbatim(text) } else { writer.scalar(text.as_bytes()) }
                    });
                    writer.finish()
                }
            };
        body.push(b'\n');
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let content_type = if is_typed && self.format != Format::Text { self.format.content_type() } else { plain };
        let mut response = self.response(status, content_type, body.into());
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// What Go's router says about a path or a method that it does not have.
    pub(crate) fn no_such_page(self) -> Response {
        Self { format: Format::Text, ..self }.error(StatusCode::NOT_FOUND, "404 page not found", false)
    }
}

fn quoted(tag: Tag, form: char) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut text = String::with_capacity(2 * tag.len() + 3);
    text.push('"');
    for byte in tag {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text.push(form);
    text.push('"');
    text
}

/// True if one of the tags of an `If-None-Match` is this one, or it is for any.
pub(crate) fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// That what the client has is still so.
pub(crate) fn not_modified(etag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The only form of a path, if this is not it. Go's routers send clients there.
pub(crate) fn cleaned(path: &[u8]) -> Option<Vec<u8>> {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
    if path.strip_prefix(b"/").is_some_and(|names| names.split(|byte| *byte == b'/').all(is_name)) {
        return None;
    }
    let mut clean = crate::path::clean(path);
    if path.ends_with(b"/") && clean != b"/" {
        clean.push(b'/');
    }
    (clean != path).then_some(clean)
}

/// Sends the client to a path.
pub(crate) fn redirect(path: &[u8], query: Option<&str>) -> Response {
    // What Go's `url.URL` leaves as it is.
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b'/')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    let mut location = percent_encoding::percent_encode(path, KEPT).to_string();
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())])
    }

    #[test]
    fn the_best_offer_wins() {
        for (accept, expected) in [
            ("*/*", Format::Text),
            ("application/json", Format::Json),
            ("text/html,application/json;q=0.9", Format::Json),
            ("application/*", Format::Json),
            ("text/*;q=0.5, application/x-yaml;q=0.4", Format::Text),
            ("application/yaml;q=0.1, application/json;q=0.1", Format::Json),
            ("*/*, text/x-yaml", Format::Yaml),
            ("image/png", Format::Text),
            ("application/json; charset=utf-8", Format::Text),
            ("text/plain;q=0, application/json;q=0", Format::Text),
            ("application/json ;q=x, text/yaml", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(Format::negotiate(&headers(accept)), expected, "{accept}");
        }
        assert_eq!(Format::negotiate(&HeaderMap::new()), Format::Text);
    }

    #[test]
    fn paths_have_one_form() {
        let of = |path: &str| cleaned(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        assert_eq!((of("/a/b"), of("/a/"), of("/")), (None, None, None));
        assert_eq!(of("/nodes//1").as_deref(), Some("/nodes/1"));
        assert_eq!(of("//a/../b/").as_deref(), Some("/b/"));
        let response = redirect("/a b/\u{e9}".as_bytes(), Some("wait=true"));
        assert_eq!(response.headers()[header::LOCATION], "/a%20b/%C3%A9?wait=true");
    }

    #[test]
    fn tags_are_compared_one_by_one() {
        let of = |value: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
        let tag = quoted([0xab; 16], 'j');
        assert!(matches(&of(&format!("\"x\", W/{tag}")), &tag) && matches(&of("*"), &tag));
        assert!(!matches(&of("\"x\""), &tag) && !matches(&HeaderMap::new(), &tag));
    }
}
