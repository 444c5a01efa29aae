//! Users and roles in the bodies of requests, as Go's decoder reads them: names of fields in any case, null for what is
//! not there, and no list in the place of an object.

use super::auth::{Permissions, ReadWrite, Role, User};
use serde_json::{Map, Value};

/// A body was not what it should be.
pub(super) struct Malformed;

/// What can be read from an object, or from nothing at all.
pub(super) trait Given: Default {
    fn of(fields: &Fields<'_>) -> Result<Self, Malformed>;
}

/// Reads the first value of a body: what follows it is left alone.
pub(super) fn read<T: Given>(body: &[u8]) -> Result<T, Malformed> {
    match serde_json::Deserializer::from_slice(body).into_iter().next() {
        Some(Ok(value)) => object(&value).map(Option::unwrap_or_default),
        Some(Err(_)) | None => Err(Malformed),
    }
}

/// None for null.
fn object<T: Given>(value: &Value) -> Result<Option<T>, Malformed> {
    match value {
        Value::Null => Ok(None),
        Value::Object(fields) => T::of(&Fields(fields)).map(Some),
        _ => Err(Malformed),
    }
}

/// The fields of an object.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .get(name)
            .or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }

    fn text(&self, name: &str) -> Result<String, Malformed> {
        self.get(name).map_or(Ok(String::new()), text)
    }

    fn list(&self, name: &str) -> Result<Option<Vec<String>>, Malformed> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(values)) => values.iter().map(text).collect::<Result<_, _>>().map(Some),
            Some(_) => Err(Malformed),
        }
    }

    fn object<T: Given>(&self, name: &str) -> Result<Option<T>, Malformed> {
        self.get(name).map_or(Ok(None), object)
    }
}

fn text(value: &Value) -> Result<String, Malformed> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        _ => Err(Malformed),
    }
}

impl Given for User {
    fn of(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: fields.text("user")?,
            password: fields.text("password")?,
            roles: fields.list("roles")?,
            grant: fields.list("grant")?,
            revoke: fields.list("revoke")?,
        })
    }
}

impl Given for Role {
    fn of(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: fields.text("role")?,
            permissions: fields.object("permissions")?.unwrap_or_default(),
            grant: fields.object("grant")?,
            revoke: fields.object("revoke")?,
        })
    }
}

impl Given for Permissions {
    fn of(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self { kv: fields.object("kv")?.unwrap_or_default() })
    }
}

impl Given for ReadWrite {
    fn of(fields: &Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self { read: fields.list("read")?, write: fields.list("write")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_as_by_go() {
        let user = User { name: "u".into(), roles: Some(vec!["r".into(), String::new()]), ..User::default() };
        for body in [
            r#"{"user":"u","roles":["r",null]}"#,
            r#" {"USER":"u","Roles":["r",null],"password":null,"grant":null,"other":[{}]} and more"#,
        ] {
            assert_eq!(read::<User>(body.as_bytes()).ok(), Some(user.clone()), "{body}");
        }
        for body in ["null", "{}", r#"{"roles":null}"#] {
            assert_eq!(read::<User>(body.as_bytes()).ok(), Some(User::default()), "{body}");
        }
        for body in ["", "[]", r#"["u"]"#, r#""u""#, "1", r#"{"user":1}"#, r#"{"roles":"r"}"#, r#"{"roles":[1]}"#, "{"]
        {
            assert!(read::<User>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn roles_are_read_as_by_go() {
        let kv = ReadWrite { read: Some(vec!["/a".into()]), write: None };
        let permissions = Permissions { kv };
        let role = Role { name: "r".into(), permissions: permissions.clone(), grant: Some(permissions), revoke: None };
        let body = r#"{"role":"r","Permissions":{"KV":{"read":["/a"]}},"grant":{"kv":{"Read":["/a"],"write":null}},"revoke":null}"#;
        assert_eq!(read::<Role>(body.as_bytes()).ok(), Some(role));
        for body in [r#"{"permissions":[]}"#, r#"{"permissions":{"kv":[[],[]]}}"#, r#"{"grant":"x"}"#] {
            assert!(read::<Role>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
