//! The few calls of the Kubernetes API that are needed: Secrets, by a pod's own token.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use client::TlsOptions;
use client::http::{Answer, Http, Server};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Where a pod finds its token and the API's authority.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const LIMIT: Duration = Duration::from_secs(30);
/// A Secret is at most 1 MiB, in base64 with everything around it.
const MAX_BODY_BYTES: usize = 4 << 20;

/// The API, and the namespace that is worked in.
pub(crate) struct Api {
    server: Server,
    http: Http,
    token: Option<HeaderValue>,
    namespace: String,
}

/// A Secret. Its Debug output would have the keys, so there is none.
#[derive(Clone, Default)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) data: BTreeMap<String, String>,
    /// The object as it was read, without its data: labels, owners and type stay, and a change of another version is
    /// refused.
    read: Option<Value>,
}

impl Secret {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn of(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &value["metadata"];
        let annotations = metadata["annotations"].as_object().into_iter().flatten();
        let mut data = BTreeMap::new();
        for (key, value) in value["data"].as_object().into_iter().flatten() {
            let bytes = BASE64.decode(text(value)).with_context(|| format!("{key} of a Secret is no base64"))?;
            data.insert(
                key.clone(),
                String::from_utf8(bytes).with_context(|| format!("{key} of a Secret is no text"))?,
            );
        }
        Ok(Self {
            name: text(&metadata["name"]),
            annotations: annotations.map(|(key, value)| (key.clone(), text(value))).collect(),
            data,
            read: Some(json!({"metadata": metadata, "type": value["type"], "immutable": value["immutable"]})),
        })
    }

    fn json(&self) -> Value {
        let encoded = self.data.iter().map(|(key, value)| (key.clone(), json!(BASE64.encode(value))));
        let mut object = self.read.clone().unwrap_or_else(|| json!({"metadata": {}, "type": "kubernetes.io/tls"}));
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Secret");
        object["metadata"]["name"] = json!(self.name);
        object["metadata"]["annotations"] = json!(self.annotations);
        object["data"] = Value::Object(encoded.collect());
        object
    }
}

impl Api {
    /// The API that the pod's environment names, or the one at a URL.
    ///
    /// # Errors
    /// This is no pod, or its token cannot be read.
    pub(crate) fn new(url: Option<&str>, namespace: &str) -> Result<Self> {
        let account = Path::new(ACCOUNT);
        let url = if let Some(url) = url {
            url.to_owned()
        } else {
            let variable =
                |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: this is no pod"));
            let host = variable("KUBERNETES_SERVICE_HOST")?;
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            format!("https://{host}:{}", variable("KUBERNETES_SERVICE_PORT")?)
        };
        let (server, _) =
            Server::parse(&url).map_err(|reason| anyhow::anyhow!("the Kubernetes API at {url:?}: {reason}"))?;
        let token = match std::fs::read_to_string(account.join("token")) {
            Ok(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).context("the pod's token")?;
                value.set_sensitive(true);
                Some(value)
            }
            // A test's API asks for none.
            Err(_) if url.starts_with("http://") => None,
            Err(error) => {
                return Err(error).context(format!("cannot read {ACCOUNT}/token: mount the ServiceAccount's token"));
            }
        };
        let ca_file = Some(account.join("ca.crt")).filter(|path| path.exists());
        let http = Http {
            proxy: None,
            tls: TlsOptions { ca_file, ..TlsOptions::default() },
            connect_timeout: Duration::from_secs(10),
            max_body_bytes: MAX_BODY_BYTES,
        };
        Ok(Self { server, http, token, namespace: namespace.to_owned() })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        self.http.ask(&self.server, request.body(body)?, LIMIT).await.context(what)
    }

    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets{}{name}", self.namespace, if name.is_empty() { "" } else { "/" })
    }

    /// A Secret, if it is there.
    ///
    /// # Errors
    /// The API cannot be asked, or refuses.
    pub(crate) async fn secret(&self, name: &str) -> Result<Option<Secret>> {
        let answer = self.call(Method::GET, &self.path(name), None).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => Ok(Some(Secret::of(&serde_json::from_slice(&answer.body)?)?)),
            _ => bail!("cannot read the Secret {name}: {}", refusal(&answer)),
        }
    }

    /// Makes a Secret, or replaces the one that was read before.
    ///
    /// # Errors
    /// The API refuses, or somebody else changed the Secret meanwhile.
    pub(crate) async fn write(&self, secret: &Secret) -> Result<()> {
        let (method, path) = match secret.read {
            None => (Method::POST, self.path("")),
            Some(_) => (Method::PUT, self.path(&secret.name)),
        };
        let answer = self.call(method, &path, Some(&secret.json())).await?;
        if !answer.status.is_success() {
            bail!("cannot write the Secret {}: {}", secret.name, refusal(&answer));
        }
        Ok(())
    }
}

/// What the API says about a refusal; never what it was sent.
fn refusal(answer: &Answer) -> String {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message = said.as_ref().and_then(|value| value["message"].as_str()).unwrap_or_default();
    format!("{} {message}", answer.status)
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_is_read_as_it_is_written() {
        let mut secret = Secret::new("a");
        secret.data.insert("tls.key".to_owned(), "text\n".to_owned());
        secret.annotations.insert("b".to_owned(), "c".to_owned());
        let mut json = secret.json();
        json["metadata"]["resourceVersion"] = "7".into();
        json["metadata"]["labels"] = serde_json::json!({"team": "storage"});
        json["type"] = "Opaque".into();
        let read = Secret::of(&json).unwrap();
        assert_eq!((read.name.as_str(), &read.data, &read.annotations), ("a", &secret.data, &secret.annotations));
        let mut written = read.json();
        assert_eq!(written["immutable"].take(), serde_json::Value::Null);
        written.as_object_mut().unwrap().remove("immutable");
        assert_eq!(written, json, "what somebody else wrote stays");
    }
}
