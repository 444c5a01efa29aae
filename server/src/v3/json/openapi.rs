//! The `OpenAPI` document of the gateway, made from the list of routes and the descriptors when somebody asks for it.

use super::routes::{self, ROUTES};
use crate::version::CLEAT_VERSION;
use api::descriptor::{Field, Kind, Message, Method};
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Map, Value, json};

/// Name of the schema of errors.
const ERROR: &str = "Error";

/// Answers with the document.
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document().to_string()).into_response()
}

fn document() -> Value {
    let mut schemas = Map::from_iter([(ERROR.to_owned(), error_schema())]);
    let mut paths = Map::new();
    for (path, _) in ROUTES {
        if let Some(method) = routes::find(path) {
            collect(method.input, &mut schemas);
            collect(method.output, &mut schemas);
            paths.insert(format!("/v3{path}"), json!({ "post": operation(path, method) }));
        }
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "etcd v3 API as JSON",
            "version": CLEAT_VERSION,
            "description": "Every path takes a POST. Bytes are base64, 64-bit integers are strings (numbers are read, too), and fields with their default are left out. Keys are bytes.",
            "license": { "name": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "The token of /v3/auth/authenticate, as it is.",
                },
            },
        },
        "security": [{}, { "token": [] }],
    })
}

fn operation(path: &str, method: &'static Method) -> Value {
    let (service, name) = method.path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    let tag = service.rsplit('.').next().unwrap_or(service);
    let mut answer = reference(method.output);
    let mut about = format!("The RPC {}.", method.path);
    if method.is_server_stream {
        let error = json!({ "$ref": format!("#/components/schemas/{ERROR}") });
        answer = json!({ "type": "object", "properties": { "result": answer, "error": error } });
        about.push_str(" The answer is a stream: one such object on each line, as soon as it is there.");
    }
    if method.is_client_stream {
        about.push_str(" The request is a stream as well: any number of objects one after the other.");
    }
    json!({
        "tags": [tag],
        // One RPC may have several paths.
        "operationId": format!("{tag}_{name}{}", if path.starts_with("/kv/lease") { "_kv" } else { "" }),
        "description": about,
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": reference(method.input) } },
        },
        "responses": {
            "200": { "description": "The answer.", "content": { "application/json": { "schema": answer } } },
            "default": {
                "description": "An error; the status follows from its code.",
                "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{ERROR}") } } },
            },
        },
    })
}

fn reference(message: &Message) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", message.name) })
}

/// Adds the schema of a message, and of those in it.
fn collect(message: &'static Message, schemas: &mut Map<String, Value>) {
    if schemas.contains_key(message.name) {
        return;
    }
    let properties: Map<_, _> =
        message.fields.iter().map(|field| (field.name.to_owned(), field_schema(field))).collect();
    schemas.insert(message.name.to_owned(), json!({ "type": "object", "properties": properties }));
    for field in message.fields {
        if let Kind::Message(inner) = field.kind {
            collect(inner, schemas);
        }
    }
}

fn field_schema(field: &Field) -> Value {
    let mut schema = match &field.kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Uint32 => json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX }),
        Kind::Int64 => json!({ "type": "string", "format": "int64" }),
        Kind::Uint64 => json!({ "type": "string", "format": "uint64" }),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "format": "byte" }),
        Kind::Enum(kind) => {
            let names: Vec<_> = kind.values.iter().map(|(name, _)| *name).collect();
            json!({ "type": "string", "enum": names })
        }
        Kind::Message(message) => reference(message),
    };
    if field.oneof.is_some() {
        // Beside a reference nothing else is looked at.
        if !matches!(field.kind, Kind::Message(_)) {
            schema["description"] = "At most one of the fields with this remark.".into();
        }
    }
    if field.is_repeated { json!({ "type": "array", "items": schema }) } else { schema }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "code": { "type": "integer", "format": "int32", "description": "The gRPC code." },
            "message": { "type": "string" },
            "error": { "type": "string", "description": "The message again, for clients of etcd before 3.6." },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_path_and_every_reference() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len());
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let references: Vec<_> = text.split(r##"{"$ref":"#/components/schemas/"##).skip(1).collect();
        assert!(references.len() > 100);
        for reference in references {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let ids: BTreeSet<_> = paths.values().map(|path| path["post"]["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), paths.len(), "ids are unique");

        let range = &schemas["etcdserverpb.RangeRequest"]["properties"];
        assert_eq!(range["limit"], json!({ "type": "string", "format": "int64" }));
        assert_eq!(range["sort_order"]["enum"], json!(["NONE", "ASCEND", "DESCEND"]));
        let watch = &paths["/v3/watch"]["post"]["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(watch["properties"]["result"]["$ref"], "#/components/schemas/etcdserverpb.WatchResponse");
        assert!(watch["properties"]["error"].is_object());
        let kvs = &schemas["etcdserverpb.RangeResponse"]["properties"]["kvs"];
        assert_eq!(kvs["items"]["$ref"], "#/components/schemas/mvccpb.KeyValue");
    }
}
