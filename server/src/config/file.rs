//! The configuration file: etcd's YAML keys, turned into the text of flags.
//!
//! Keys are flag names; a few settings live in blocks (TLS, discovery, socket options). A key that no flag has is an
//! error, because a misspelt security setting must not be ignored. Called by `values` only.

use super::flags::{self, Flag, Kind};
use serde_json::Value;
use std::path::Path;

/// A file larger than this is not a configuration.
const MAX_BYTES: u64 = 1 << 20;

type Texts = Vec<(&'static Flag, String)>;

/// Reads a file.
///
/// # Errors
/// A text that names the file and the key.
pub(super) fn read(path: &Path) -> Result<Texts, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("cannot read {shown}: {e}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("{shown} is too large for a configuration file"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
    parse(&text).map_err(|reason| format!("{shown}: {reason}"))
}

/// Turns the text of a file into texts of flags.
fn parse(text: &str) -> Result<Texts, String> {
    let root: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let entries = match root {
        Value::Null => return Ok(Vec::new()),
        Value::Object(entries) => entries,
        _ => return Err("expected a mapping of settings".to_owned()),
    };
    let mut texts = Vec::new();
    for (key, value) in entries {
        match key.as_str() {
            "client-transport-security" => block(&key, &value, &mut texts, client_tls)?,
            "peer-transport-security" => block(&key, &value, &mut texts, peer_tls)?,
            "socket-options" => block(&key, &value, &mut texts, socket)?,
            "discovery-config" => discovery(&value, &mut texts)?,
            _ => setting(&key, &key, &value, &mut texts)?,
        }
    }
    Ok(texts)
}

fn client_tls(key: &str) -> Option<String> {
    match key {
        "cert-file" | "key-file" | "client-cert-file" | "client-key-file" | "client-cert-auth" | "trusted-ca-file"
        | "auto-tls" | "client-crl-file" => Some(key.to_owned()),
        "crl-file" => Some("client-crl-file".to_owned()),
        "allowed-hostname" | "allowed-hostnames" => Some("client-cert-allowed-hostname".to_owned()),
        _ => None,
    }
}

fn peer_tls(key: &str) -> Option<String> {
    match key {
        "allowed-cn" | "allowed-hostname" => Some(format!("peer-cert-{key}")),
        "allowed-hostnames" => Some("peer-cert-allowed-hostname".to_owned()),
        _ => flags::find(&format!("peer-{key}")).map(|flag| flag.name.to_owned()),
    }
}

fn socket(key: &str) -> Option<String> {
    matches!(key, "reuse-port" | "reuse-address").then(|| format!("socket-{key}"))
}

fn discovery(value: &Value, texts: &mut Texts) -> Result<(), String> {
    let Value::Object(entries) = value else { return Err("discovery-config: expected a mapping".to_owned()) };
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("client", Value::Object(_)) => discovery(value, texts)?,
            ("secure", _) => block(key, value, texts, |key| Some(format!("discovery-{key}")))?,
            ("auth", _) => block(key, value, texts, |key| match key {
                "username" => Some("discovery-user".to_owned()),
                _ => Some(format!("discovery-{key}")),
            })?,
            _ => setting(&format!("discovery-{key}"), key, value, texts)?,
        }
    }
    Ok(())
}

fn block(name: &str, value: &Value, texts: &mut Texts, rename: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let entries = match value {
        Value::Null => return Ok(()),
        Value::Object(entries) => entries,
        _ => return Err(format!("{name}: expected a mapping")),
    };
    for (key, value) in entries {
        let flag = rename(key).ok_or_else(|| format!("unknown key {key:?} in {name}"))?;
        setting(&flag, &format!("{name}.{key}"), value, texts)?;
    }
    Ok(())
}

fn setting(name: &str, key: &str, value: &Value, texts: &mut Texts) -> Result<(), String> {
    if name == "config-file" {
        return Err("config-file cannot be set in the file".to_owned());
    }
    let Some(flag) = flags::find(name) else {
        let hint = flags::nearest(name).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        return Err(format!("unknown key {key:?}{hint}"));
    };
    if let Some(text) = text(flag.kind, value).ok_or_else(|| format!("{key}: expected a single value"))? {
        texts.push((flag, text));
    }
    Ok(())
}

/// The flag's text for a YAML value: None inside if the key is empty.
#[allow(clippy::option_option, reason = "the outer level is an error, the inner an absent value")]
fn text(kind: Kind, value: &Value) -> Option<Option<String>> {
    let text = match value {
        Value::Null => return Some(None),
        Value::Bool(on) => on.to_string(),
        Value::String(text) => text.clone(),
        // Durations are whole nanoseconds in etcd's files.
        Value::Number(number) if kind == Kind::Duration => format!("{number}ns"),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => {
            let parts: Option<Vec<String>> = items.iter().map(|item| text(kind, item).flatten()).collect();
            parts?.join(",")
        }
        Value::Object(_) => return None,
    };
    Some(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(yaml: &str) -> Result<Vec<(&'static str, String)>, String> {
        parse(yaml).map(|texts| texts.into_iter().map(|(flag, text)| (flag.name, text)).collect())
    }

    #[test]
    fn blocks_and_kinds_become_flags() {
        let yaml = "
name: a
election-timeout: 2000
watch-progress-notify-interval: 5000000000
warning-apply-duration: 50ms
log-outputs: [stderr, /tmp/x.log]
pre-vote: false
wal-dir:
client-transport-security:
  cert-file: /c
  client-cert-auth: true
peer-transport-security:
  key-file: /k
  allowed-cn: [a, b]
  skip-client-san-verification: true
socket-options:
  reuse-port: true
discovery-config:
  token: t
  client:
    endpoints: [http://a:1, http://b:1]
    dial-timeout: 1s
    secure: { insecure-transport: false }
    auth: { username: u }
";
        let mut found = texts(yaml).unwrap();
        found.sort();
        let found: Vec<(&str, &str)> = found.iter().map(|(n, t)| (*n, t.as_str())).collect();
        assert_eq!(
            found,
            [
                ("cert-file", "/c"),
                ("client-cert-auth", "true"),
                ("discovery-dial-timeout", "1s"),
                ("discovery-endpoints", "http://a:1,http://b:1"),
                ("discovery-insecure-transport", "false"),
                ("discovery-token", "t"),
                ("discovery-user", "u"),
                ("election-timeout", "2000"),
                ("log-outputs", "stderr,/tmp/x.log"),
                ("name", "a"),
                ("peer-cert-allowed-cn", "a,b"),
                ("peer-key-file", "/k"),
                ("peer-skip-client-san-verification", "true"),
                ("pre-vote", "false"),
                ("socket-reuse-port", "true"),
                ("warning-apply-duration", "50ms"),
                ("watch-progress-notify-interval", "5000000000ns"),
            ]
        );
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("nme: x", "unknown key \"nme\"; did you mean \"name\"?"),
            ("zzz: x", "unknown key \"zzz\""),
            ("config-file: x", "config-file cannot be set in the file"),
            ("- a", "expected a mapping of settings"),
            ("name: {a: b}", "name: expected a single value"),
            ("client-transport-security: {nope: 1}", "unknown key \"nope\" in client-transport-security"),
        ];
        for (yaml, expected) in cases {
            assert_eq!(texts(yaml).unwrap_err(), expected, "{yaml}");
        }
        assert_eq!(texts("").unwrap(), []);
    }
}
