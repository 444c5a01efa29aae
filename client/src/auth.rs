//! Whose requests these are: a token is fetched before the first call, goes with every request, and is fetched again when
//! a server takes it no more.

use crate::options::User;
use api::error::Error as ApiError;
use api::etcdserverpb::AuthenticateRequest;
use api::etcdserverpb::auth_client::AuthClient;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// etcd's name of the token among the metadata of a request.
const TOKEN: &str = "token";

/// A connection whose requests carry the token.
pub(crate) type Authorized = InterceptedService<Channel, Token>;

/// The user of a client, if it has one.
#[derive(Debug, Default)]
pub(crate) struct Login {
    user: Option<User>,
    token: Token,
    /// Held while a token is fetched: calls that need one at the same time share it.
    fetching: Mutex<()>,
}

/// What requests carry. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Arc<RwLock<Held>>);

#[derive(Clone, Debug, Default)]
struct Held {
    /// Which token this is, counted from 1; 0 before the first.
    number: u64,
    /// Whether it is good, as far as is known.
    is_good: bool,
    /// None while the cluster needs no users.
    value: Option<MetadataValue<Ascii>>,
}

impl Token {
    fn held(&self) -> Held {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn to_change(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, held: Held) {
        *self.to_change() = held;
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.held().value {
            request.metadata_mut().insert(TOKEN, value);
        }
        Ok(request)
    }
}

impl Login {
    pub(crate) fn new(user: Option<User>) -> Self {
        Self { user, ..Self::default() }
    }

    /// One whose requests carry this token. None if it is nothing that a header can have.
    pub(crate) fn with_token(token: &str) -> Option<Self> {
        let mut value = MetadataValue::try_from(token).ok()?;
        value.set_sensitive(true);
        let login = Self::default();
        login.token.hold(Held { number: 0, is_good: true, value: Some(value) });
        Some(login)
    }

    /// A connection that makes requests of this user.
    pub(crate) fn authorized(&self, channel: &Channel) -> Authorized {
        InterceptedService::new(channel.clone(), self.token.clone())
    }

    /// Fetches a token unless there is a good one. Returns its number, for [`Login::is_stale`].
    pub(crate) async fn sign_in(&self, channel: &Channel) -> Result<u64, Status> {
        let Some(user) = &self.user else { return Ok(0) };
        let held = self.token.held();
        if held.is_good {
            return Ok(held.number);
        }
        let _fetching = self.fetching.lock().await;
        let held = self.token.held();
        if held.is_good {
            return Ok(held.number);
        }
        let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let value = match AuthClient::new(channel.clone()).authenticate(request).await {
            Ok(answer) => {
                // The text of a token that is none would be in the error.
                let unusable = |_| Status::internal("the server's token is no header value");
                let mut value = MetadataValue::try_from(answer.into_inner().token).map_err(unusable)?;
                value.set_sensitive(true);
                Some(value)
            }
            // As etcd's clients: a user does no harm where none is needed.
            Err(status) if status.message() == ApiError::AuthNotEnabled.text() => None,
            Err(status) => return Err(status),
        };
        let number = held.number + 1;
        self.token.hold(Held { number, is_good: true, value });
        Ok(number)
    }

    /// True if a call failed only because of its token: nothing was done, and it may be made again with another one.
    pub(crate) fn is_stale(&self, number: u64, text: &str) -> bool {
        // Nothing is known of a token that another call has replaced since: it may have been none.
        let mut held = self.token.to_change();
        let is_held = held.number == number;
        // Without a token, "user name is empty" means that authentication has been enabled since.
        let needs_user = (held.value.is_none() || !is_held) && text == ApiError::UserEmpty.text();
        let is_refused = text == ApiError::InvalidAuthToken.text() || text == ApiError::AuthOldRevision.text();
        if self.user.is_none() || !(is_refused || needs_user) {
            return false;
        }
        if is_held {
            held.is_good = false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stale_if_it_was_refused_or_is_another_by_now() {
        let login = Login::new(Some(User { name: "u".to_owned(), password: "p".to_owned() }));
        let hold = |number, value| login.token.hold(Held { number, is_good: true, value });
        let (empty, refused) = (ApiError::UserEmpty.text(), ApiError::InvalidAuthToken.text());
        hold(1, None);
        assert!(!login.is_stale(1, "something else") && login.token.held().is_good);
        assert!(login.is_stale(1, empty) && !login.token.held().is_good);
        // Another call has fetched one meanwhile: this one goes again with it, and does not throw it away.
        hold(2, Some(MetadataValue::from_static("t")));
        assert!(login.is_stale(1, empty) && login.is_stale(1, refused) && login.token.held().is_good);
        // With a token, the server says so of the user.
        assert!(!login.is_stale(2, empty) && login.token.held().is_good);
        assert!(login.is_stale(2, refused) && !login.token.held().is_good);
        assert!(!Login::new(None).is_stale(0, refused));
    }
}
