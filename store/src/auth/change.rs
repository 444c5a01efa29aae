//! The commands that change users and roles. The rules, and the order in which they are looked at, are etcd's; where
//! releases differ, those of the newest one.

use super::{Auth, Grants, ROOT, Role, User};
use crate::command::{Notice, Reply};
use crate::error::Rejection;
use api::authpb::Permission;
use api::cleatpb::Authentication;
use api::cleatpb::command::Op;
use api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Carries out a command about users or roles; none for any other command. Whether who asks may do that was decided
/// before.
pub(crate) fn apply(
    auth: &mut Auth,
    op: &Op,
    index: u64,
    notices: &mut Vec<Notice>,
) -> Option<Result<Reply, Rejection>> {
    let before = auth.revision;
    let changed = match op {
        Op::AuthEnable(_) => auth.enable(),
        Op::AuthDisable(_) => {
            auth.disable(notices);
            Ok(())
        }
        Op::Authentication(request) => return Some(auth.authenticate(request, index, notices)),
        Op::AuthUserAdd(request) => auth.add_user(request),
        Op::AuthUserDelete(request) => auth.delete_user(&request.name, notices),
        Op::AuthUserChangePassword(request) => auth.change_password(request, notices),
        Op::AuthUserGrantRole(request) => auth.grant_role(&request.user, &request.role),
        Op::AuthUserRevokeRole(request) => auth.revoke_role(&request.name, &request.role),
        Op::AuthRoleAdd(request) => auth.add_role(&request.name),
        Op::AuthRoleDelete(request) => auth.delete_role(&request.role),
        Op::AuthRoleGrantPermission(request) => auth.grant_permission(request),
        Op::AuthRoleRevokePermission(request) => auth.revoke_permission(request),
        _ => return None,
    };
    debug_assert!(changed.is_ok() || auth.revision == before, "a refused command changes nothing");
    Some(changed.map(|()| Reply::Auth))
}

impl Auth {
    fn enable(&mut self) -> Result<(), Rejection> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Rejection::RootUserNotExist)?;
        if !root.is_root() {
            return Err(Rejection::RootRoleNotGranted);
        }
        self.enabled = true;
        self.changed.numbers();
        Ok(())
    }

    fn disable(&mut self, notices: &mut Vec<Notice>) {
        if self.enabled {
            self.enabled = false;
            self.grow();
            notices.push(Notice::AuthDisabled);
        }
    }

    /// Lets a user have a token, whose password was checked before the command was made.
    fn authenticate(
        &self,
        request: &Authentication,
        index: u64,
        notices: &mut Vec<Notice>,
    ) -> Result<Reply, Rejection> {
        if !self.enabled {
            return Err(Rejection::AuthNotEnabled);
        }
        let user = self.users.get(&request.name).filter(|user| !user.no_password).ok_or(Rejection::AuthFailed)?;
        // Another password than the one that was checked; the proposer checks again.
        if request.password_sum != password_sum(&user.password) {
            return Err(Rejection::AuthOldRevision);
        }
        let (user, token_sum) = (request.name.clone(), request.token_sum.to_vec().into());
        notices.push(Notice::Authenticated { user, token_sum, index });
        Ok(Reply::Authentication { index, auth_revision: self.revision })
    }

    fn add_user(&mut self, request: &AuthUserAddRequest) -> Result<(), Rejection> {
        if request.name.is_empty() {
            return Err(Rejection::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Rejection::UserExists);
        }
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password = if no_password { Bytes::new() } else { hash(&request.hashed_password)? };
        self.users.insert(request.name.clone(), User { password, no_password, ..User::default() });
        self.change_user(&request.name);
        Ok(())
    }

    fn delete_user(&mut self, name: &str, notices: &mut Vec<Notice>) -> Result<(), Rejection> {
        if self.enabled && name == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(Rejection::UserNotFound)?;
        self.change_user(name);
        notices.push(Notice::TokensRevoked { user: name.to_owned() });
        Ok(())
    }

    fn change_password(
        &mut self,
        request: &AuthUserChangePasswordRequest,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Rejection> {
        let user = self.users.get_mut(&request.name).ok_or(Rejection::UserNotFound)?;
        // One without a password stays without.
        if !user.no_password {
            user.password = hash(&request.hashed_password)?;
        }
        self.change_user(&request.name);
        notices.push(Notice::TokensRevoked { user: request.name.clone() });
        Ok(())
    }

    fn grant_role(&mut self, name: &str, role: &str) -> Result<(), Rejection> {
        let user = self.users.get_mut(name).ok_or(Rejection::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(Rejection::RoleNotFound);
        }
        // Granted once more it changes nothing.
        if user.roles.insert(role.to_owned()) {
            self.change_user(name);
        }
        Ok(())
    }

    fn revoke_role(&mut self, name: &str, role: &str) -> Result<(), Rejection> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        let user = self.users.get_mut(name).ok_or(Rejection::UserNotFound)?;
        if !user.roles.remove(role) {
            return Err(Rejection::RoleNotGranted);
        }
        self.change_user(name);
        Ok(())
    }

    fn add_role(&mut self, name: &str) -> Result<(), Rejection> {
        if name.is_empty() {
            return Err(Rejection::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Rejection::RoleExists);
        }
        self.roles.insert(name.to_owned(), Role::default());
        self.change_role(name);
        Ok(())
    }

    fn delete_role(&mut self, name: &str) -> Result<(), Rejection> {
        if self.enabled && name == ROOT {
            return Err(Rejection::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(Rejection::RoleNotFound)?;
        let had: Vec<String> =
            self.users.iter().filter(|(_, user)| user.roles.contains(name)).map(|(name, _)| name.clone()).collect();
        for user in had {
            if let Some(record) = self.users.get_mut(&user) {
                record.roles.remove(name);
                record.grants = Grants::of(record, &self.roles);
            }
            self.changed.user(&user);
        }
        self.change_role(name);
        Ok(())
    }

    fn grant_permission(&mut self, request: &AuthRoleGrantPermissionRequest) -> Result<(), Rejection> {
        let Some(Permission { perm_type, key, range_end }) = &request.perm else {
            return Err(Rejection::PermissionNotGiven);
        };
        // Refused since etcd 3.5: nothing lies in such a range.
        let is_plausible = !key.is_empty() && (range_end.is_empty() || **range_end == [0] || key < range_end);
        if !is_plausible {
            return Err(Rejection::InvalidAuthManagement);
        }
        let role = self.roles.get_mut(&request.name).ok_or(Rejection::RoleNotFound)?;
        // etcd looks at the first permission of the key alone. Then a grant beside an older one of the same range could
        // not take anything back.
        let same = role.permissions.iter_mut().find(|p| p.key == key && p.range_end == range_end);
        if let Some(granted) = same {
            granted.perm_type = *perm_type;
        } else {
            let at = role.permissions.partition_point(|p| p.key <= key);
            // Copied: what comes over the wire is a slice of the receive buffer.
            let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
            role.permissions.insert(at, Permission { perm_type: *perm_type, key, range_end });
        }
        self.change_role(&request.name);
        Ok(())
    }

    fn revoke_permission(&mut self, request: &AuthRoleRevokePermissionRequest) -> Result<(), Rejection> {
        let role = self.roles.get_mut(&request.role).ok_or(Rejection::RoleNotFound)?;
        let before = role.permissions.len();
        role.permissions.retain(|p| p.key != request.key || p.range_end != request.range_end);
        if role.permissions.len() == before {
            return Err(Rejection::PermissionNotGranted);
        }
        self.change_role(&request.role);
        Ok(())
    }

    fn change_user(&mut self, name: &str) {
        self.changed.user(name);
        self.follow_roles(|user, _| user == name);
        self.grow();
    }

    fn change_role(&mut self, name: &str) {
        self.changed.role(name);
        self.follow_roles(|_, user| user.roles.contains(name));
        self.grow();
    }

    fn grow(&mut self) {
        self.revision += 1;
        self.changed.numbers();
    }
}

/// What tells a password's hash from another one, in an `Authentication`: nobody can log in with it.
pub fn password_sum(hash: &[u8]) -> Bytes {
    use sha2::{Digest, Sha256};
    Bytes::copy_from_slice(&Sha256::digest(hash))
}

/// The bcrypt hash out of its base64, which is how etcd's requests carry it.
fn hash(encoded: &str) -> Result<Bytes, Rejection> {
    STANDARD.decode(encoded).map(Bytes::from).map_err(|_| Rejection::NoPasswordUser)
}
