//! What the script tests say about users and roles.
//!
//! ```text
//! enable | disable | user NAME [HASH] | passwd NAME HASH | user_del NAME | grant_role USER ROLE | revoke_role USER ROLE
//! role NAME | role_del NAME | allow ROLE read|write|readwrite KEYS | forbid ROLE KEYS | login USER HASH
//! auth | users | roles | roles_of USER | permissions ROLE | may USER[@REVISION] KEYS | may_renew USER LEASE
//! ```

use super::Member;
use super::script::{bytes, keys, show};
use api::authpb::{Permission, UserAddOptions};
use api::cleatpb::command::Op;
use api::cleatpb::{Authentication, CommandHeader};
use api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
};
use std::collections::VecDeque;
use store::{Asked, KeyRange, Rejection};

const TYPES: [&str; 3] = ["read", "write", "readwrite"];

/// Whose a command is.
pub(crate) fn header(member: &Member, words: &mut VecDeque<&str>) -> Option<CommandHeader> {
    match words.front() {
        Some(&"own") => {
            words.pop_front();
            Some(CommandHeader { by_member: true, ..Default::default() })
        }
        Some(&"as") => {
            words.pop_front();
            Some(user(member, words))
        }
        _ => None,
    }
}

fn user(member: &Member, words: &mut VecDeque<&str>) -> CommandHeader {
    let word = words.pop_front().expect("a user");
    let (name, revision) = word.split_once('@').unwrap_or((word, ""));
    let auth_revision = revision.parse().unwrap_or_else(|_| member.reader().auth_status().1);
    CommandHeader { username: text(name), auth_revision, by_member: false }
}

fn text(word: &str) -> String {
    String::from_utf8(bytes(word)).unwrap()
}

fn next(words: &mut VecDeque<&str>) -> String {
    text(words.pop_front().expect("a word"))
}

pub(crate) fn permission(perm_type: i32, key: Vec<u8>, range_end: Vec<u8>) -> Permission {
    Permission { perm_type, key: key.into(), range_end: range_end.into() }
}

pub(crate) fn op(name: &str, words: &mut VecDeque<&str>) -> Option<Op> {
    Some(match name {
        "enable" => Op::AuthEnable(AuthEnableRequest {}),
        "disable" => Op::AuthDisable(AuthDisableRequest {}),
        "user" => {
            let name = next(words);
            let hashed = words.pop_front();
            let options = Some(UserAddOptions { no_password: hashed.is_none() });
            let hashed_password = hashed.map(str::to_owned).unwrap_or_default();
            Op::AuthUserAdd(AuthUserAddRequest { name, hashed_password, options, ..Default::default() })
        }
        "passwd" => {
            let (name, hashed_password) = (next(words), next(words));
            Op::AuthUserChangePassword(AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() })
        }
        "user_del" => Op::AuthUserDelete(AuthUserDeleteRequest { name: next(words) }),
        "grant_role" => Op::AuthUserGrantRole(AuthUserGrantRoleRequest { user: next(words), role: next(words) }),
        "revoke_role" => Op::AuthUserRevokeRole(AuthUserRevokeRoleRequest { name: next(words), role: next(words) }),
        "role" => Op::AuthRoleAdd(AuthRoleAddRequest { name: next(words) }),
        "role_del" => Op::AuthRoleDelete(AuthRoleDeleteRequest { role: next(words) }),
        "allow" => {
            let (name, kind) = (next(words), next(words));
            let kind = TYPES.iter().position(|t| *t == kind).expect("a type") as i32;
            let (key, range_end) = keys(words);
            let perm = Some(permission(kind, key, range_end));
            Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest { name, perm })
        }
        "forbid" => {
            let role = next(words);
            let (key, range_end) = keys(words);
            let (key, range_end) = (key.into(), range_end.into());
            Op::AuthRoleRevokePermission(AuthRoleRevokePermissionRequest { role, key, range_end })
        }
        "login" => {
            let (name, hash) = (next(words), next(words));
            let (password_sum, token_sum) = (store::password_sum(hash.as_bytes()), "sum".into());
            Op::Authentication(Authentication { name, password_sum, token_sum })
        }
        _ => return None,
    })
}

pub(crate) fn read(member: &Member, name: &str, words: &mut VecDeque<&str>) -> Option<String> {
    let reader = member.reader();
    let verdict = |result: Result<(), Rejection>| match result {
        Ok(()) => "yes".to_owned(),
        Err(rejection) => format!("refused: {}", rejection.text()),
    };
    Some(match name {
        "auth" => {
            let (enabled, revision) = reader.auth_status();
            format!("enabled={enabled} revision={revision} in force={}", reader.auth_revision_if_enabled())
        }
        "users" => format!("{:?} {:?}", reader.users().0, reader.password("root")),
        "roles" => format!("{:?}", reader.roles().0),
        "roles_of" => format!("{:?}", reader.roles_of(&next(words)).0),
        "permissions" => match reader.permissions_of(&next(words)).0 {
            None => "none".into(),
            Some(permissions) => {
                let show = |p: &Permission| {
                    format!("{} {}..{}", TYPES[p.perm_type as usize], show(&p.key), show(&p.range_end))
                };
                format!("[{}]", permissions.iter().map(show).collect::<Vec<_>>().join(", "))
            }
        },
        "may" => {
            let header = user(member, words);
            let (key, range_end) = keys(words);
            verdict(reader.permit(Some(&header), Asked::Range(KeyRange::new(&key, &range_end))))
        }
        "may_renew" => {
            let header = user(member, words);
            let id = words.pop_front().expect("a lease").parse().unwrap();
            verdict(reader.permit(Some(&header), Asked::LeaseRenewal(id)))
        }
        _ => return None,
    })
}
