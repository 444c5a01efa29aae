//! Puts of one value size to a key space.

use api::etcdserverpb::PutRequest;
use bytes::Bytes;
use rand::rngs::SmallRng;

use super::keys::KeySpace;
use super::unary::{Check, RequestSource};
use crate::connection::{CallError, frame};

/// Makes put requests.
pub(crate) struct Put {
    /// Which keys.
    pub(crate) keys: KeySpace,
    /// The value of every put.
    pub(crate) value: Bytes,
}

impl RequestSource for Put {
    fn path(&self) -> &'static str {
        "/etcdserverpb.KV/Put"
    }

    fn request(&self, call: u64, random: &mut SmallRng) -> Bytes {
        let key = self.keys.key(self.keys.choose(call, random));
        frame(&PutRequest { key, value: self.value.clone(), ..Default::default() })
    }

    fn check(&self) -> Check<'_> {
        // The header with its revision is never empty.
        Check::Length(Box::new(|length| match length {
            0 => Err(CallError::Unexpected("the answer to a put has no header".to_owned())),
            _ => Ok(()),
        }))
    }
}
