//! What the state machine tells of users: logins, tokens that are worth nothing any more, and that something changed.

use super::simple::SimpleTokens;
use crate::sync::watch;
use store::{Notice, Reader};

/// Told before whoever proposed the command is answered.
pub(crate) struct Feed {
    tokens: SimpleTokens,
    revision: watch::Sender<u64>,
}

impl Feed {
    pub(crate) fn new(tokens: SimpleTokens, reader: &Reader) -> Self {
        Self { tokens, revision: watch::Sender::new(reader.auth_revision_if_enabled()) }
    }

    /// Does not wait.
    pub(crate) fn observe(&self, notices: &[Notice], reader: &Reader) {
        for notice in notices {
            match notice {
                Notice::Authenticated { user, token_sum, index } => self.tokens.add(user, token_sum, *index),
                Notice::TokensRevoked { user } => self.tokens.revoke(user),
                Notice::AuthDisabled => self.tokens.clear(),
                Notice::LeaseGranted { .. }
                | Notice::LeaseRevoked { .. }
                | Notice::LeaseCheckpointed { .. }
                | Notice::Compacted { .. }
                | Notice::AlarmsChanged => {}
            }
        }
        self.tell(reader);
    }

    /// A snapshot took the place of entries: what was revoked in them is not known.
    pub(crate) fn replaced(&self, reader: &Reader) {
        self.tokens.clear();
        self.tell(reader);
    }

    fn tell(&self, reader: &Reader) {
        let now = reader.auth_revision_if_enabled();
        self.revision.send_if_modified(|before| std::mem::replace(before, now) != now);
    }

    pub(crate) fn tokens(&self) -> &SimpleTokens {
        &self.tokens
    }

    pub(crate) fn watch_revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
