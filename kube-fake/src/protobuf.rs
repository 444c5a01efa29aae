//! Secrets and config maps as Go clients write them: Helm keeps its releases so.
//!
//! Such a body is four bytes of magic, and a message `Unknown` around the object. Answers are JSON, which these clients
//! read as well.

use crate::failure::Failure;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    types: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
}

/// Reads a body.
///
/// # Errors
/// It is malformed, or of another kind.
pub(crate) fn object(body: &[u8]) -> Result<Value, Failure> {
    let malformed = |_| Failure::bad_request("the protobuf body cannot be read");
    let body = body.strip_prefix(MAGIC).ok_or_else(|| Failure::bad_request("the protobuf body has no magic number"))?;
    let unknown = Unknown::decode(body).map_err(malformed)?;
    let types = unknown.types.unwrap_or_default();
    let (metadata, rest) = match types.kind.as_str() {
        "Secret" => {
            let secret = Secret::decode(unknown.raw.as_slice()).map_err(malformed)?;
            let data: BTreeMap<String, String> =
                secret.data.into_iter().map(|(name, value)| (name, base64(&value))).collect();
            (secret.metadata, json!({"data": data, "type": secret.kind}))
        }
        "ConfigMap" => {
            let map = ConfigMap::decode(unknown.raw.as_slice()).map_err(malformed)?;
            (map.metadata, json!({"data": map.data}))
        }
        kind => return Err(Failure::unsupported(&format!("application/vnd.kubernetes.protobuf of kind {kind}"))),
    };
    let mut object = rest;
    object["apiVersion"] = json!(types.api_version);
    object["kind"] = json!(types.kind);
    object["metadata"] = meta(metadata.unwrap_or_default());
    Ok(object)
}

/// Metadata without what is empty, as JSON clients send it.
fn meta(meta: ObjectMeta) -> Value {
    let ObjectMeta { name, generate_name, namespace, uid, resource_version, labels, annotations } = meta;
    let mut value = json!({});
    let texts = [
        ("name", name),
        ("generateName", generate_name),
        ("namespace", namespace),
        ("uid", uid),
        ("resourceVersion", resource_version),
    ];
    for (field, text) in texts {
        if !text.is_empty() {
            value[field] = json!(text);
        }
    }
    for (field, map) in [("labels", labels), ("annotations", annotations)] {
        if !map.is_empty() {
            value[field] = json!(map);
        }
    }
    value
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str, raw: Vec<u8>) -> Vec<u8> {
        let types = Some(TypeMeta { api_version: "v1".to_owned(), kind: kind.to_owned() });
        [MAGIC, &Unknown { types, raw }.encode_to_vec()].concat()
    }

    #[test]
    fn secrets_and_config_maps_are_read() {
        let metadata = Some(ObjectMeta {
            name: "r".to_owned(),
            labels: [("owner".to_owned(), "helm".to_owned())].into(),
            ..ObjectMeta::default()
        });
        let secret =
            Secret { metadata: metadata.clone(), data: [("a".to_owned(), vec![0, 255])].into(), kind: "t".into() };
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "r", "labels": {"owner": "helm"}},
            "data": {"a": "AP8="}, "type": "t",
        });
        assert_eq!(object(&body("Secret", secret.encode_to_vec())), Ok(expected));
        let map = ConfigMap { metadata, data: [("a".to_owned(), "b".to_owned())].into() };
        assert_eq!(object(&body("ConfigMap", map.encode_to_vec())).unwrap()["data"], json!({"a": "b"}));
    }

    #[test]
    fn other_bodies_are_refused() {
        assert_eq!(object(b"{}").unwrap_err().code, 400);
        assert_eq!(object(b"k8s\0\xff").unwrap_err().code, 400);
        assert_eq!(object(&body("Pod", vec![])).unwrap_err().code, 415);
    }
}
