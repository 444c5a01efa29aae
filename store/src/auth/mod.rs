//! Users, roles and their permissions, as etcd v3 has them: replicated like everything else, so that a change is seen
//! by whatever is applied after it.
//!
//! - this file: what is kept;
//! - [`change`]: the commands that change it, with etcd's rules;
//! - [`permit`]: whether who asks may do what it asks for;
//! - [`interval`]: sets of keys;
//! - [`rows`]: the tables.
//!
//! Passwords are bcrypt hashes by the time that a command is made; nothing is hashed or compared here. Tokens belong to
//! the server: here is only decided whether somebody may have one.

pub(crate) mod change;
mod interval;
pub(crate) mod permit;
pub(crate) mod rows;

use crate::mvcc::key_range::KeyRange;
use api::authpb::permission::Type;
use api::authpb::{self, Permission, UserAddOptions};
use bytes::Bytes;
use interval::Intervals;
use std::collections::{BTreeMap, BTreeSet};

/// The user that has to exist before authentication is enabled, and the role that has every permission.
pub const ROOT: &str = "root";

/// Everything about users and roles.
pub(crate) struct Auth {
    enabled: bool,
    /// Grows with every change but the enabling, as etcd's. A request that was admitted under an older one is refused.
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    changed: rows::Changed,
}

/// A fresh store: etcd's auth revision begins at 1, because 0 is a request without a user.
impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            changed: rows::Changed::default(),
        }
    }
}

#[derive(Default)]
struct User {
    /// A bcrypt hash, as text.
    password: Bytes,
    no_password: bool,
    roles: BTreeSet<String>,
    /// What its roles allow together. Follows them.
    grants: Grants,
}

#[derive(Default)]
struct Role {
    /// By key; those of one key in the order of their grants.
    permissions: Vec<Permission>,
}

/// What a user may do without the role root.
#[derive(Default)]
struct Grants {
    read: Intervals,
    write: Intervals,
}

/// What is known of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// A bcrypt hash, as text.
    Hash(Bytes),
    /// The user can not log in with one.
    None,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Hash(_)) { "Hash(..)" } else { "None" })
    }
}

impl User {
    fn of(record: authpb::User) -> Self {
        let no_password = record.options.is_some_and(|options| options.no_password);
        let (password, roles) = (record.password, record.roles.into_iter().collect());
        Self { password, no_password, roles, grants: Grants::default() }
    }

    /// The record that etcd stores.
    fn record(&self, name: &str) -> authpb::User {
        authpb::User {
            name: Bytes::copy_from_slice(name.as_bytes()),
            password: self.password.clone(),
            roles: self.roles.iter().cloned().collect(),
            options: Some(UserAddOptions { no_password: self.no_password }),
        }
    }

    fn is_root(&self) -> bool {
        self.roles.contains(ROOT)
    }
}

impl Grants {
    fn of(user: &User, roles: &BTreeMap<String, Role>) -> Self {
        let permissions = || user.roles.iter().filter_map(|name| roles.get(name)).flat_map(|role| &role.permissions);
        let ranges = |own: Type| {
            permissions().filter(move |permission| {
                let granted = permission.perm_type;
                granted == Type::Readwrite as i32 || granted == own as i32
            })
        };
        let of = |own| Intervals::of(ranges(own).map(|p| KeyRange::new(&p.key, &p.range_end)));
        Self { read: of(Type::Read), write: of(Type::Write) }
    }
}

impl Auth {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether a user can log in, and how; none for a name that nobody has.
    pub(crate) fn password(&self, user: &str) -> Option<Password> {
        let user = self.users.get(user)?;
        Some(if user.no_password { Password::None } else { Password::Hash(user.password.clone()) })
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The names of a user's roles, ascending.
    pub(crate) fn roles_of(&self, user: &str) -> Option<Vec<String>> {
        self.users.get(user).map(|user| user.roles.iter().cloned().collect())
    }

    /// The permissions that were granted to a role; that root needs none is not among them, as in etcd 3.4.
    pub(crate) fn permissions_of(&self, role: &str) -> Option<Vec<Permission>> {
        self.roles.get(role).map(|role| role.permissions.clone())
    }

    /// Brings the grants of users up to date with their roles.
    fn follow_roles(&mut self, is_concerned: impl Fn(&str, &User) -> bool) {
        let concerned = self.users.iter_mut().filter(|(name, user)| is_concerned(name, user));
        for (_, user) in concerned {
            user.grants = Grants::of(user, &self.roles);
        }
    }
}
