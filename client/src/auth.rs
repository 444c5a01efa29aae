//! Whose requests these are: a token is fetched before the first call, goes with every request, and is fetched again when
//! a server takes it no more.

use crate::options::User;
use api::error::Error as ApiError;
use api::etcdserverpb::AuthenticateRequest;
use api::etcdserverpb::auth_client::AuthClient;
use std::sync::{Arc, PoisonError, RwLock};
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

    fn hold(&self, held: Held) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = held;
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
        let held = self.token.held();
        // Without a token, "user name is empty" means that authentication has been enabled since.
        let needs_user = held.value.is_none() && text == ApiError::UserEmpty.text();
        let is_refused = text == ApiError::InvalidAuthToken.text() || text == ApiError::AuthOldRevision.text();
        if self.user.is_none() || !(is_refused || needs_user) {
            return false;
        }
        if held.number == number {
            self.token.hold(Held { is_good: false, ..held });
        }
        true
    }
}
