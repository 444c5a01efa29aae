//! Who a caller is, and whether it may do what it asks for.
//!
//! ```text
//!   call --> listen/front: Credentials (token, name in the certificate), then the rule of the RPC (table)
//!        --> v3/*: asks here for the keys that it touches (permit, propose)
//!        --> store: decides (store/auth/permit), for a read now, for a command again when it is applied
//! ```
//!
//! What a caller may do is decided by the store, on its own state, so that it is the same on every member. Here is what
//! needs a clock, chance or time: tokens ([`simple`], [`jwt`]) and passwords ([`password`]).
//!
//! A refusal is looked at twice: this member may be behind, and somebody may just have been granted what it is refused.

pub(crate) mod feed;
pub(crate) mod jwt;
pub(crate) mod password;
pub(crate) mod simple;
pub(crate) mod table;

use crate::node::Node;
use crate::steps;
use api::cleatpb::command::Op;
use api::cleatpb::{Authentication, CommandHeader};
use api::error::Error;
use feed::Feed;
use http::HeaderMap;
use jwt::Jwt;
use password::Passwords;
use std::sync::Arc;
use std::time::Duration;
use store::{Asked, Outcome, Password, Reply};

/// How long a refusal waits for what this member may have missed.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often a command is made again whose user was known before a change of users and roles, and not since; and a login
/// whose password was changed meanwhile.
const ATTEMPTS: usize = 4;

/// Metadata of clients, and of the gateway.
const TOKEN: [&str; 2] = ["token", "authorization"];

/// Set by etcd's gateway, whose own certificate says nothing about the caller.
const GATEWAY: &str = "grpcgateway-accept";

/// The name in the certificate of a connection's caller, which was verified.
#[derive(Clone, Debug)]
pub(crate) struct CommonName(pub(crate) Arc<str>);

/// What a call shows of its caller. Kept by calls that last, because a token may come to its end.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    token: Option<Arc<str>>,
    common_name: Option<Arc<str>>,
}

impl Credentials {
    /// What the head of a call shows.
    pub(crate) fn of_call(headers: &HeaderMap, common_name: Option<&CommonName>) -> Self {
        let token = TOKEN.iter().find_map(|name| headers.get(*name));
        // What is not text is no token of ours, and must not pass for none.
        let token = token.map(|token| token.to_str().unwrap_or_default());
        let token = token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token).into());
        let common_name = common_name.filter(|_| !headers.contains_key(GATEWAY)).map(|name| Arc::clone(&name.0));
        Self { token, common_name }
    }

    /// What the front found; nothing if the call did not come through it.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.token.is_none() && self.common_name.is_none()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("has_token", &self.token.is_some())
            .field("common_name", &self.common_name)
            .finish()
    }
}

/// The kind of tokens that this member gives out and takes.
pub(crate) enum Tokens {
    /// Known to all members since they applied the login.
    Simple,
    /// Signed.
    Jwt(Box<Jwt>),
}

/// Who a caller is, as a command's header says it.
struct Identity {
    header: CommandHeader,
    /// It was found out now. A signed token says who it was when it was signed.
    is_current: bool,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    node: Node,
    feed: Arc<Feed>,
    tokens: Tokens,
    passwords: Arc<Passwords>,
    /// Names in certificates are names of users.
    takes_common_names: bool,
}

impl Auth {
    pub(crate) fn new(
        node: Node,
        feed: Arc<Feed>,
        tokens: Tokens,
        passwords: Arc<Passwords>,
        takes_common_names: bool,
    ) -> Self {
        Self(Arc::new(Inner { node, feed, tokens, passwords, takes_common_names }))
    }

    /// For a test without users.
    #[cfg(test)]
    pub(crate) fn for_tests(node: Node) -> Self {
        let tokens = simple::SimpleTokens::new(crate::steady_clock::SteadyClock::default(), CATCH_UP);
        let feed = Arc::new(Feed::new(tokens, node.reader()));
        Self::new(node, feed, Tokens::Simple, Arc::new(Passwords::new(4)), false)
    }

    /// What compares passwords: together, so that the v2 API's users take no other processors.
    pub(crate) fn passwords(&self) -> Arc<Passwords> {
        Arc::clone(&self.0.passwords)
    }

    /// True while requests need a user, as far as this member has applied the log.
    pub(crate) fn is_enabled(&self) -> bool {
        self.revision() != 0
    }

    /// The auth revision while requests need a user, 0 while they need none.
    pub(crate) fn revision(&self) -> u64 {
        self.0.node.reader().auth_revision_if_enabled()
    }

    /// Tells of every change of what [`Self::revision`] says.
    pub(crate) fn watch_revision(&self) -> crate::sync::watch::Receiver<u64> {
        self.0.feed.watch_revision()
    }

    /// Applies the rule of an RPC.
    ///
    /// # Errors
    /// The caller is nobody, or may not call it.
    pub(crate) async fn admit(&self, row: &table::Row, credentials: &Credentials) -> Result<(), Error> {
        match row.needs() {
            None => Ok(()),
            Some(asked) => self.permit(credentials, asked).await.map(drop),
        }
    }

    /// Refuses what a caller may not do. The answer is who it is; nobody, while requests need no user.
    ///
    /// # Errors
    /// etcd's: no user, an invalid token, an old auth revision, permission denied.
    pub(crate) async fn permit(&self, credentials: &Credentials, asked: Asked<'_>) -> Result<CommandHeader, Error> {
        self.permitted(credentials, asked).await.map(|identity| identity.header)
    }

    async fn permitted(&self, credentials: &Credentials, asked: Asked<'_>) -> Result<Identity, Error> {
        let refusal = match self.permitted_here(credentials, asked) {
            Ok(identity) => return Ok(identity),
            Err(refusal) => refusal,
        };
        match tokio::time::timeout(CATCH_UP, self.0.node.read_barrier()).await {
            Ok(Ok(())) => self.permitted_here(credentials, asked),
            // What this member knows counts.
            Ok(Err(_)) | Err(_) => Err(refusal),
        }
    }

    fn permitted_here(&self, credentials: &Credentials, asked: Asked<'_>) -> Result<Identity, Error> {
        let identity = self.identify(credentials)?;
        // As it is now, and not as it was when the token was looked at.
        self.0.node.reader().permit(Some(&identity.header), asked)?;
        Ok(identity)
    }

    /// The user that a caller shows to be, whatever it may do; None for nobody, and while requests need no user.
    pub(crate) fn user(&self, credentials: &Credentials) -> Option<String> {
        if credentials.is_empty() {
            return None;
        }
        let identity = self.identify(credentials).ok()?;
        Some(identity.header.username).filter(|user| !user.is_empty())
    }

    /// Whether somebody who was identified before may still read a range.
    pub(crate) fn may_still_read(&self, user: &str, range: store::KeyRange<'_>) -> Result<(), Error> {
        let header = CommandHeader { username: user.to_owned(), auth_revision: self.revision(), by_member: false };
        match self.0.node.reader().permit(Some(&header), Asked::Range(range)) {
            // Something else changed between the two looks, and will be looked at in its turn.
            Err(Error::AuthOldRevision) => Ok(()),
            answer => answer,
        }
    }

    /// Finds out who a caller is; nobody, if it shows nothing. What it shows must be right while requests need a user.
    fn identify(&self, credentials: &Credentials) -> Result<Identity, Error> {
        let nobody = Identity { header: CommandHeader::default(), is_current: true };
        let auth_revision = self.revision();
        if auth_revision == 0 {
            return Ok(nobody);
        }
        let (username, auth_revision) = match (&credentials.token, &credentials.common_name) {
            (Some(token), _) => match &self.0.tokens {
                Tokens::Simple => self.simple(token)?,
                Tokens::Jwt(jwt) => {
                    let (username, auth_revision) = jwt.verify(token).ok_or(Error::InvalidAuthToken)?;
                    steps::asked_by(&username);
                    let header = CommandHeader { username, auth_revision, by_member: false };
                    return Ok(Identity { header, is_current: false });
                }
            },
            (None, Some(name)) if self.0.takes_common_names => (name.to_string(), auth_revision),
            (None, _) => return Ok(nobody),
        };
        steps::asked_by(&username);
        let header = CommandHeader { username, auth_revision, by_member: false };
        Ok(Identity { header, is_current: true })
    }

    /// Whose a simple token is, and as of which auth revision. One that is not known here yet is looked for again, once this
    /// member has caught up: see [`Self::permit`].
    fn simple(&self, token: &str) -> Result<(String, u64), Error> {
        // First the revision: what makes the token worthless makes a later one.
        let auth_revision = self.revision();
        let user = self.0.feed.tokens().user(token).ok_or(Error::InvalidAuthToken)?;
        Ok((user, auth_revision))
    }

    /// Proposes a command for a caller. Whether it may is looked at here, so that nobody fills the log without a right to,
    /// and again when the command is applied.
    ///
    /// # Errors
    /// As [`Self::permit`], and as [`Node::propose`]. What the command answers is in the outcome.
    pub(crate) async fn propose(&self, credentials: &Credentials, op: Op) -> Result<Outcome, Error> {
        if !self.is_enabled() && credentials.is_empty() {
            return self.0.node.propose(op).await;
        }
        let mut attempts = ATTEMPTS;
        loop {
            let identity = self.permitted(credentials, Asked::Op(&op)).await?;
            let header = Some(identity.header).filter(|header| *header != CommandHeader::default());
            let was_nobody = header.is_none();
            let outcome = self.0.node.propose_as(header, op.clone()).await?;
            attempts -= 1;
            let again = match outcome.result {
                // Users or roles changed while it was on its way: it was not applied.
                Err(Error::AuthOldRevision) => identity.is_current,
                // Authentication was enabled while it was on its way.
                Err(Error::UserEmpty) => was_nobody && !credentials.is_empty(),
                _ => false,
            };
            if !again || attempts == 0 {
                return Ok(outcome);
            }
        }
    }

    /// Logs somebody in, and makes a token. The answer is the token, and the store revision.
    ///
    /// # Errors
    /// A wrong name or password; too many log in at the moment.
    pub(crate) async fn authenticate(&self, name: &str, password: &str) -> Result<(String, i64), Error> {
        let node = &self.0.node;
        // What was acknowledged on another member counts here: a user that was added, a password that was changed.
        node.read_barrier().await?;
        for _ in 0..ATTEMPTS {
            if !self.is_enabled() {
                return Err(Error::AuthNotEnabled);
            }
            let hash = match node.reader().password(name) {
                Some(Password::None) => return Err(Error::NoPasswordUser),
                Some(Password::Hash(hash)) => Some(hash),
                None => None,
            };
            if !self.0.passwords.is_right(hash.as_deref(), password).await? {
                tracing::debug!(user = name, "a login was refused");
                return Err(Error::AuthFailed);
            }
            let prefix = simple::prefix();
            let authentication = Authentication {
                name: name.to_owned(),
                password_sum: store::password_sum(&hash.unwrap_or_default()),
                token_sum: simple::sum(&prefix),
            };
            let outcome = node.propose(Op::Authentication(authentication)).await?;
            match outcome.result {
                Ok(Reply::Authentication { index, auth_revision }) => {
                    let token = match &self.0.tokens {
                        Tokens::Simple => format!("{prefix}.{index}"),
                        Tokens::Jwt(jwt) => jwt.sign(name, auth_revision)?,
                    };
                    return Ok((token, outcome.revision));
                }
                // The password was changed while it was compared.
                Err(Error::AuthOldRevision) => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(Error::AuthFailed),
            }
        }
        Err(Error::AuthOldRevision)
    }

    /// Makes the hash of a new password, as etcd's requests carry it.
    ///
    /// # Errors
    /// The password is too long; too many log in at the moment.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, Error> {
        self.0.passwords.hash(password).await
    }
}
