//! Users and roles in the database and in snapshots: the records that etcd stores, by name.

use super::{Auth, Role, User};
use crate::error::Fault;
use crate::schema::{self, meta};
use api::authpb;
use bytes::Bytes;
use prost::Message;
use redb::{ReadTransaction, Table, WriteTransaction};
use std::collections::BTreeSet;

/// What differs from the database, by name.
#[derive(Default)]
pub(super) struct Changed {
    users: BTreeSet<String>,
    roles: BTreeSet<String>,
    numbers: bool,
}

impl Changed {
    pub(super) fn user(&mut self, name: &str) {
        self.users.insert(name.to_owned());
    }

    pub(super) fn role(&mut self, name: &str) {
        self.roles.insert(name.to_owned());
    }

    pub(super) fn numbers(&mut self) {
        self.numbers = true;
    }
}

/// What a flush writes: a record for each name that changed, none for one that is gone.
pub(crate) struct Changes {
    users: Vec<(String, Option<Vec<u8>>)>,
    roles: Vec<(String, Option<Vec<u8>>)>,
    enabled: bool,
    revision: u64,
}

impl Auth {
    /// The changes since the last call.
    pub(crate) fn take_changed(&mut self) -> Option<Changes> {
        let Changed { users, roles, numbers } = std::mem::take(&mut self.changed);
        if !numbers {
            return None;
        }
        let user = |name: String| {
            let record = self.users.get(&name).map(|user| user.record(&name).encode_to_vec());
            (name, record)
        };
        let role = |name: String| {
            let record = self.roles.get(&name).map(|role| {
                let name = Bytes::copy_from_slice(name.as_bytes());
                authpb::Role { name, key_permission: role.permissions.clone() }.encode_to_vec()
            });
            (name, record)
        };
        Some(Changes {
            users: users.into_iter().map(user).collect(),
            roles: roles.into_iter().map(role).collect(),
            enabled: self.enabled,
            revision: self.revision,
        })
    }

    /// All users and roles as etcd stores them, by name. With the hashes of passwords.
    pub(crate) fn records(&self) -> (Vec<authpb::User>, Vec<authpb::Role>) {
        let users = self.users.iter().map(|(name, user)| user.record(name)).collect();
        let roles = self.roles.iter().map(|(name, role)| authpb::Role {
            name: Bytes::copy_from_slice(name.as_bytes()),
            key_permission: role.permissions.clone(),
        });
        (users, roles.collect())
    }

    /// Takes a row of the users' table.
    pub(crate) fn restore_user(&mut self, name: &str, record: &[u8]) -> Result<(), Fault> {
        let record = authpb::User::decode(record).map_err(|error| damaged("auth_users", &error.to_string()))?;
        if record.name != name.as_bytes() {
            return Err(damaged("auth_users", "the name of a user is another one's"));
        }
        self.users.insert(name.to_owned(), User::of(record));
        Ok(())
    }

    /// Takes a row of the roles' table.
    pub(crate) fn restore_role(&mut self, name: &str, record: &[u8]) -> Result<(), Fault> {
        // A copy, because a decoded record is slices of the whole.
        let record = Bytes::copy_from_slice(record);
        let record = authpb::Role::decode(record).map_err(|error| damaged("auth_roles", &error.to_string()))?;
        if record.name != name.as_bytes() {
            return Err(damaged("auth_roles", "the name of a role is another one's"));
        }
        self.roles.insert(name.to_owned(), Role { permissions: record.key_permission });
        Ok(())
    }

    /// Takes a number of `meta`; false when it is none of these.
    pub(crate) fn restore_number(&mut self, name: &str, value: i64) -> bool {
        match name {
            meta::AUTH_ENABLED => self.enabled = value != 0,
            meta::AUTH_REVISION => self.revision = value as u64,
            _ => return false,
        }
        true
    }

    /// To be called when all rows are there.
    pub(crate) fn restored(&mut self) {
        self.follow_roles(|_, _| true);
    }
}

fn damaged(table: &'static str, reason: &str) -> Fault {
    Fault::Damaged { table, reason: reason.into() }
}

/// Creates the tables.
pub(crate) fn create(txn: &WriteTransaction) -> Result<(), Fault> {
    txn.open_table(schema::AUTH_USERS)?;
    txn.open_table(schema::AUTH_ROLES)?;
    Ok(())
}

pub(crate) fn write(txn: &WriteTransaction, changes: &Changes) -> Result<(), Fault> {
    write_table(&mut txn.open_table(schema::AUTH_USERS)?, &changes.users)?;
    write_table(&mut txn.open_table(schema::AUTH_ROLES)?, &changes.roles)?;
    let mut table = txn.open_table(schema::META)?;
    table.insert(meta::AUTH_ENABLED, i64::from(changes.enabled).to_be_bytes().as_slice())?;
    table.insert(meta::AUTH_REVISION, changes.revision.to_be_bytes().as_slice())?;
    Ok(())
}

type Records<'a> = Table<'a, &'static str, &'static [u8]>;

fn write_table(table: &mut Records<'_>, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), Fault> {
    for (name, record) in changes {
        match record {
            Some(record) => drop(table.insert(&**name, &**record)?),
            None => drop(table.remove(&**name)?),
        }
    }
    Ok(())
}

/// Reads everything at start.
pub(crate) fn read(txn: &ReadTransaction) -> Result<Auth, Fault> {
    let mut auth = Auth::default();
    for row in txn.open_table(schema::AUTH_USERS)?.range::<&str>(..)? {
        let (name, record) = row?;
        auth.restore_user(name.value(), record.value())?;
    }
    for row in txn.open_table(schema::AUTH_ROLES)?.range::<&str>(..)? {
        let (name, record) = row?;
        auth.restore_role(name.value(), record.value())?;
    }
    let table = txn.open_table(schema::META)?;
    for name in [meta::AUTH_ENABLED, meta::AUTH_REVISION] {
        if let Some(value) = table.get(name)? {
            auth.restore_number(name, schema::decode_int("meta", value.value())?);
        }
    }
    auth.restored();
    Ok(auth)
}

/// Copies both tables to another database.
pub(crate) fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), Fault> {
    for table in [schema::AUTH_USERS, schema::AUTH_ROLES] {
        let mut copy = to.open_table(table)?;
        for row in from.open_table(table)?.range::<&str>(..)? {
            let (name, record) = row?;
            copy.insert(name.value(), record.value())?;
        }
    }
    Ok(())
}
