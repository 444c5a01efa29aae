//! `--debug`: the requests as lines of curl, on standard error.

use crate::cli::Personality;
use client::http::{Call, Server};
use go::strconv;
use http::header::CONTENT_TYPE;

/// Requests below it have passwords.
const USERS: &str = "/v2/auth/users/";

/// What tells of each request, if that is wanted.
pub(super) fn hook(personality: Personality, is_wanted: bool) -> Option<fn(&Server, &Call)> {
    let hook: fn(&Server, &Call) = match personality {
        Personality::Etcdctl => |server, call| tell!("cURL Command: {}", as_etcdctl(server, call)),
        Personality::Cleatctl => |server, call| tell!("cURL Command: {}", as_shell(server, call)),
    };
    is_wanted.then_some(hook)
}

/// In etcdctl's words, which a shell may read otherwise.
fn as_etcdctl(server: &Server, call: &Call) -> String {
    let body = body(call).map_or_else(String::new, |body| format!(" -d {}", strconv::quote(body.as_bytes())));
    format!("curl -X {} {server}{}{body}", call.method, call.path)
}

/// Such that a shell sends the same.
fn as_shell(server: &Server, call: &Call) -> String {
    let mut line = format!("curl -X {} {}", call.method, quote(&format!("{server}{}", call.path)));
    let kind = call.headers.iter().find(|(name, _)| name == CONTENT_TYPE).and_then(|(_, kind)| kind.to_str().ok());
    if let Some(kind) = kind {
        line += &format!(" -H {}", quote(&format!("Content-Type: {kind}")));
    }
    if let Some(body) = body(call) {
        line += &format!(" --data-raw {}", quote(&body));
    }
    line
}

/// The body without a password that may be in it.
fn body(call: &Call) -> Option<String> {
    let body = call.form.as_ref()?;
    if !call.path.starts_with(USERS) {
        return Some(body.clone());
    }
    let Ok(mut user) = serde_json::from_str::<serde_json::Value>(body) else { return Some("***".to_owned()) };
    if let Some(password) = user.get_mut("password") {
        *password = "***".into();
    }
    Some(user.to_string())
}

/// One word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn requests_are_lines_of_curl_without_passwords() {
        let (server, _) = Server::parse("http://root:secret@a:1").unwrap();
        let put = Call::new(Method::PUT, "/v2/keys/a?prevExist=true&x=y".to_owned(), Some("value=it's".to_owned()));
        assert_eq!(as_etcdctl(&server, &put), "curl -X PUT http://a:1/v2/keys/a?prevExist=true&x=y -d \"value=it's\"");
        let line = r"curl -X PUT 'http://a:1/v2/keys/a?prevExist=true&x=y' --data-raw 'value=it'\''s'";
        assert_eq!(as_shell(&server, &put), line);
        assert_eq!(as_shell(&server, &Call::get("/v2/members")), "curl -X GET 'http://a:1/v2/members'");
        let user = r#"{"user":"u","password":"secret"}"#.to_owned();
        let user = Call::json(Method::PUT, "/v2/auth/users/u", user);
        let line = r#"curl -X PUT http://a:1/v2/auth/users/u -d "{\"password\":\"***\",\"user\":\"u\"}""#;
        assert_eq!(as_etcdctl(&server, &user), line);
        let line = "-H 'Content-Type: application/json' --data-raw '{\"password\":\"***\",\"user\":\"u\"}'";
        assert_eq!(as_shell(&server, &user), format!("curl -X PUT 'http://a:1/v2/auth/users/u' {line}"));
    }
}
