//! How messages with secrets are printed: without them. Passwords, their hashes and tokens must not reach a log, and what
//! has a `Debug` will be printed one day.

use crate::authpb::User;
use crate::cleatpb::{Authentication, V2EventNode, V2Node, V2Request};
use crate::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse,
};
use std::fmt::{Debug, Formatter, Result};

impl Debug for User {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, roles) = (&self.name, &self.roles);
        f.debug_struct("User").field("name", name).field("roles", roles).finish_non_exhaustive()
    }
}

impl Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateResponse").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Debug for AuthUserAddRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, options) = (&self.name, &self.options);
        f.debug_struct("AuthUserAddRequest").field("name", name).field("options", options).finish_non_exhaustive()
    }
}

impl Debug for AuthUserChangePasswordRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthUserChangePasswordRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for Authentication {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Authentication").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for V2Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("V2Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Debug for V2Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("V2Node").field("modified_index", &self.modified_index).finish_non_exhaustive()
    }
}

impl Debug for V2EventNode {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("V2EventNode").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::descriptor::{Enum, Field, Kind, Message};
    use prost::encoding::{WireType, encode_key, encode_varint};

    include!(concat!(env!("OUT_DIR"), "/all_descriptors.rs"));

    /// In every field that is a secret.
    const SECRET: &str = "s3cret";
    /// In every other field of text.
    const OPEN: &str = "open";

    fn printed<M: prost::Message + Default + std::fmt::Debug>(bytes: &[u8]) -> Option<String> {
        M::decode(bytes).ok().map(|message| format!("{message:?} {message:#?}"))
    }

    /// Passwords, tokens, and what is computed of them.
    fn is_secret(field: &Field) -> bool {
        let is_text = matches!(field.kind, Kind::String | Kind::Bytes);
        is_text && ["password", "token"].iter().any(|part| field.name.to_lowercase().contains(part))
    }

    /// A message with every field set, and of each oneof the `choice`th. Those within it go so deep.
    fn example(message: &Message, choice: usize, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for field in message.fields {
            let alternatives = message.fields.iter().filter(|other| other.oneof == field.oneof);
            let chosen = choice % alternatives.clone().count();
            let is_other = |other: Option<&Field>| other.is_some_and(|other| other.number != field.number);
            if field.oneof.is_some() && is_other(alternatives.clone().nth(chosen)) {
                continue;
            }
            let text = match field.kind {
                Kind::String | Kind::Bytes => if is_secret(field) { SECRET } else { OPEN }.as_bytes().to_vec(),
                Kind::Message(_) if depth == 0 => continue,
                Kind::Message(message) => example(message, choice, depth - 1),
                _ => {
                    encode_key(field.number, WireType::Varint, &mut out);
                    encode_varint(1, &mut out);
                    continue;
                }
            };
            encode_key(field.number, WireType::LengthDelimited, &mut out);
            encode_varint(text.len() as u64, &mut out);
            out.extend(text);
        }
        out
    }

    /// Every message there is, with the secrets of the messages within it.
    #[test]
    fn no_secret_is_printed() {
        let mut with_secrets = Vec::new();
        for (message, printed) in MESSAGES {
            // More than any oneof has members.
            for choice in 0..24 {
                let bytes = example(message, choice, 4);
                let text = printed(&bytes).unwrap_or_else(|| panic!("no {message:?}: {bytes:02x?}"));
                assert!(!text.contains(SECRET) && !text.contains("115, 51, 99"), "{message:?}: {text}");
                if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
                    with_secrets.push(message.name);
                }
            }
        }
        with_secrets.dedup();
        // That they were looked at: those that have secrets of their own, and those that contain them.
        for name in [
            "authpb.User",
            "cleatpb.Authentication",
            "cleatpb.Batch",
            "cleatpb.Command",
            "etcdserverpb.AuthUserAddRequest",
            "etcdserverpb.AuthUserChangePasswordRequest",
            "etcdserverpb.AuthenticateRequest",
            "etcdserverpb.AuthenticateResponse",
        ] {
            assert!(with_secrets.contains(&name), "{name} is not among {with_secrets:?}");
        }
    }

    /// What is printed is not nothing.
    #[test]
    fn what_is_no_secret_is_printed() {
        for (message, printed) in MESSAGES {
            let is_open = |field: &&Field| matches!(field.kind, Kind::String) && !is_secret(field);
            if message.fields.iter().filter(|field| field.oneof.is_none()).any(|field| is_open(&field)) {
                let text = printed(&example(message, 0, 0)).unwrap();
                assert!(text.contains(OPEN), "{message:?}: {text}");
            }
        }
    }

    /// A value of the v2 API may be a user with the hash of its password.
    #[test]
    fn no_value_of_the_v2_api_is_printed() {
        use super::{V2EventNode, V2Node, V2Request};
        use bytes::Bytes;
        let secret = || Bytes::from_static(SECRET.as_bytes());
        let request = V2Request { value: secret(), prev_value: secret(), ..V2Request::default() };
        let node = V2Node { value: secret(), ..V2Node::default() };
        let event = V2EventNode { value: Some(secret()), ..V2EventNode::default() };
        let text = format!("{request:?} {node:?} {event:?}");
        assert!(!text.contains(SECRET), "{text}");
    }
}
