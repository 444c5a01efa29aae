//! Who asks, and whether it may: users and roles of the v2 API, which are files of its tree, as in etcd.
//!
//! They are looked at on this member's state when a request comes, and not again when its change is applied. What was read
//! of them is kept until one of them changes; a password that was right is remembered by [`Passwords`].

use super::observe;
use crate::auth::CommonName;
use crate::auth::password::Passwords;
use crate::node::Node;
use crate::sync::watch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use store::v2::AUTH;
use tokio_util::sync::CancellationToken;

/// The user, and the role, that may do everything.
pub(super) const ROOT: &str = "root";

/// The role of whoever gives no name.
pub(super) const GUEST: &str = "guest";

/// etcd's words.
const INSUFFICIENT: &str = "Insufficient credentials";

/// What is said while v3 has users and v2 has none.
pub(crate) const NOT_GUARDED: &str = "v3 authentication is enabled and that of the v2 API is not: the v2 API is refused \
                                      until its own is enabled; start the members with --enable-v2 to serve it";

/// A user, in etcd's JSON.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    #[serde(default, rename = "user")]
    pub(super) name: String,
    /// A bcrypt hash where it is stored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) password: String,
    #[serde(default)]
    pub(super) roles: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoke: Option<Vec<String>>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("roles", &self.roles).finish_non_exhaustive()
    }
}

/// A role, in etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Role {
    #[serde(default, rename = "role")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) permissions: Permissions,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<Permissions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoke: Option<Permissions>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Permissions {
    #[serde(default)]
    pub(super) kv: ReadWrite,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadWrite {
    #[serde(default)]
    pub(super) read: Option<Vec<String>>,
    #[serde(default)]
    pub(super) write: Option<Vec<String>>,
}

impl User {
    pub(super) fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.iter().flatten()
    }

    /// The root user has the root role, whatever is stored.
    pub(super) fn with_root_role(mut self) -> Self {
        if self.name == ROOT && !self.roles().any(|role| role == ROOT) {
            self.roles.get_or_insert_default().push(ROOT.to_owned());
        }
        self
    }
}

impl Role {
    /// A role that may do everything with keys.
    pub(super) fn everything(name: &str) -> Self {
        let all = || Some(vec!["/*".to_owned()]);
        let permissions = Permissions { kv: ReadWrite { read: all(), write: all() } };
        Self { name: name.to_owned(), permissions, ..Self::default() }
    }

    /// Whether it allows a key, or all that begins with it.
    fn allows(&self, key: &[u8], recursive: bool, write: bool) -> bool {
        if self.name == ROOT {
            return true;
        }
        let kv = &self.permissions.kv;
        let patterns = if write { &kv.write } else { &kv.read };
        patterns.iter().flatten().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix.as_bytes()),
            None => !recursive && key == pattern.as_bytes(),
        })
    }
}

/// See the module.
pub(super) struct Auth {
    node: Node,
    pub(super) passwords: Arc<Passwords>,
    takes_common_names: bool,
    is_wanted: bool,
    known: Mutex<Known>,
}

/// What was read, as of a number of changes.
#[derive(Default)]
struct Known {
    changes: u64,
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Auth {
    pub(super) fn new(node: Node, passwords: Arc<Passwords>, takes_common_names: bool, is_wanted: bool) -> Self {
        Self { node, passwords, takes_common_names, is_wanted, known: Mutex::default() }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.node.reader().v2_auth().0
    }

    /// Whether everybody would be served although v3 asks for users, and nobody said that this is wanted.
    pub(super) fn is_shut(&self) -> bool {
        !self.is_wanted && is_unguarded(&self.node)
    }

    /// Refuses who may not do what it asks for with a key.
    ///
    /// # Errors
    /// The cause, for the client.
    pub(super) async fn check_key(&self, head: &Parts, key: &[u8], recursive: bool) -> Result<(), &'static str> {
        if !self.is_enabled() {
            return if self.is_shut() { Err(NOT_GUARDED) } else { Ok(()) };
        }
        let write = head.method != Method::GET && head.method != Method::HEAD;
        let roles = match self.caller(head).await {
            Caller::User(user) => user.roles().filter_map(|role| self.role(role)).collect(),
            Caller::Guest => self.role(GUEST).into_iter().collect::<Vec<_>>(),
            Caller::Unknown => return Err(INSUFFICIENT),
        };
        if roles.iter().any(|role| role.allows(key, recursive, write)) { Ok(()) } else { Err(INSUFFICIENT) }
    }

    /// Refuses who is not root.
    ///
    /// # Errors
    /// The message, for the client.
    pub(super) async fn check_root(&self, head: &Parts) -> Result<(), &'static str> {
        if !self.is_enabled() {
            return if self.is_shut() { Err(NOT_GUARDED) } else { Ok(()) };
        }
        match self.caller(head).await {
            Caller::User(user) if user.roles().any(|role| role == ROOT) => Ok(()),
            _ => Err(INSUFFICIENT),
        }
    }

    /// As [`Self::check_root`], for requests that change something.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn check_root_to_change(&self, head: &Parts) -> Result<(), &'static str> {
        if head.method == Method::GET || head.method == Method::HEAD {
            return Ok(());
        }
        self.check_root(head).await
    }

    async fn caller(&self, head: &Parts) -> Caller {
        if !head.headers.contains_key(header::AUTHORIZATION) {
            let name = head.extensions.get::<CommonName>().filter(|_| self.takes_common_names);
            let user = name.and_then(|name| self.user(&name.0));
            if let Some(user) = &user {
                observe::is_asked_by(&head.extensions, &user.name);
            }
            return user.map_or(Caller::Guest, Caller::User);
        }
        let Some((name, password)) = basic(&head.headers) else { return Caller::Unknown };
        let user = self.user(&name);
        let hash = user.as_ref().map(|user| user.password.as_bytes());
        if let (Ok(true), Some(user)) = (self.passwords.is_right(hash, &password).await, user) {
            observe::is_asked_by(&head.extensions, &user.name);
            return Caller::User(user);
        }
        tracing::warn!(user = name, "v2: wrong user or password");
        Caller::Unknown
    }

    /// A user as it is stored.
    pub(super) fn user(&self, name: &str) -> Option<Arc<User>> {
        self.cached(|known| &mut known.users, "users", name, User::with_root_role)
    }

    /// A role as it is stored. Root's is not stored.
    pub(super) fn role(&self, name: &str) -> Option<Arc<Role>> {
        if name == ROOT {
            return Some(Arc::new(Role::everything(ROOT)));
        }
        self.cached(|known| &mut known.roles, "roles", name, |role| role)
    }

    fn cached<T: for<'a> Deserialize<'a>>(
        &self,
        map: impl Fn(&mut Known) -> &mut BTreeMap<String, Arc<T>>,
        kind: &str,
        name: &str,
        complete: impl Fn(T) -> T,
    ) -> Option<Arc<T>> {
        // A path that is cleaned would be another one's, and there are any number of ways to write it.
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return None;
        }
        // Before the file is read: what changes behind that is read again.
        let changes = self.node.reader().v2_auth().1;
        let mut known = self.known.lock();
        if known.changes != changes {
            *known = Known { changes, ..Known::default() };
        }
        if let Some(found) = map(&mut known).get(name) {
            return Some(Arc::clone(found));
        }
        let file = self.node.reader().v2_value(&resource(kind, name))?;
        let read = Arc::new(complete(serde_json::from_slice(&file).ok()?));
        map(&mut known).insert(name.to_owned(), Arc::clone(&read));
        Some(read)
    }

    /// The names of users or roles, ascending.
    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        let names = self.node.reader().v2_names(&resource(kind, ""));
        names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

/// Whether the v2 API has no users while v3 has.
pub(crate) fn is_unguarded(node: &Node) -> bool {
    node.reader().auth_revision_if_enabled() != 0 && !node.reader().v2_auth().0
}

const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Says in the log when the v2 API is shut, or open to everybody, because only v3 asks for users. Runs until the member
/// stops.
pub(crate) async fn tell(node: Node, is_wanted: bool, mut revision: watch::Receiver<u64>, stop: CancellationToken) {
    let mut told = false;
    loop {
        let unguarded = is_unguarded(&node);
        match (unguarded, is_wanted) {
            (true, false) if !told => tracing::warn!("{NOT_GUARDED}"),
            (true, true) if !told => tracing::warn!(
                "the v2 API is served to everybody although v3 authentication is enabled, as --enable-v2 says: enable its \
                 own authentication to guard it"
            ),
            (false, false) if told => tracing::info!("the v2 API is served again"),
            _ => {}
        }
        told = unguarded;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = revision.changed() => if changed.is_err() { return },
            // The users of the v2 API change without a revision of v3's.
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

enum Caller {
    User(Arc<User>),
    /// Gave no name.
    Guest,
    /// Gave a wrong one, or a wrong password.
    Unknown,
}

/// The path of a user's or a role's file.
pub(super) fn resource(kind: &str, name: &str) -> Vec<u8> {
    super::path::clean(format!("{AUTH}/{kind}/{name}").as_bytes())
}

/// Name and password of HTTP's basic scheme.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = given.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case("Basic ") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_keys_and_what_is_below() {
        let role = |patterns: &[&str]| {
            let read = Some(patterns.iter().map(ToString::to_string).collect());
            Role {
                name: "r".into(),
                permissions: Permissions { kv: ReadWrite { read, write: None } },
                ..Role::default()
            }
        };
        for (patterns, key, recursive, allowed) in [
            (&["/a/*"][..], "/a/b", false, true),
            (&["/a/*"], "/a/b", true, true),
            (&["/a/*"], "/a", false, false),
            (&["/a/b"], "/a/b", false, true),
            (&["/a/b"], "/a/b", true, false),
            (&["/a/b"], "/a/bc", false, false),
            (&["/*"], "", false, false),
            (&["*"], "", true, true),
            (&[""], "", false, true),
            (&[], "/a", false, false),
        ] {
            assert_eq!(role(patterns).allows(key.as_bytes(), recursive, false), allowed, "{patterns:?} {key}");
            assert!(!role(patterns).allows(key.as_bytes(), recursive, true));
        }
        assert!(Role::everything(ROOT).allows(b"", true, true));
    }

    #[test]
    fn credentials_are_those_of_http() {
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            basic(&headers)
        };
        let encoded = STANDARD.encode("ann:a:b");
        assert_eq!(given(&format!("basic {encoded}")), Some(("ann".into(), "a:b".into())));
        for bad in ["Bearer x", "Basic", "Basic ???", "Basic YQ=="] {
            assert_eq!(given(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_hash_is_printed() {
        let user = User { name: "ann".into(), password: "s3cret".into(), ..User::default() };
        assert!(!format!("{user:?}").contains("s3cret"));
        let stored = serde_json::to_string(&user).unwrap();
        assert_eq!(stored, r#"{"user":"ann","password":"s3cret","roles":null}"#);
    }
}
