//! Commands of the v2 API's own users and roles.

use super::{Call, Command, Flag, Kind, code, fail, flag};
use crate::cli::Personality;
use crate::failure::Failure;
use crate::{password, print};
use client::Effect;
use client::v2::{self, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ROLES: Flag = flag(&["roles"], Kind::List, "List of roles to grant or revoke");

const USERS: &str = "/v2/auth/users";
const ROLES_PATH: &str = "/v2/auth/roles";

macro_rules! command {
    ($name:literal, $usage:literal, $about:literal, $flags:expr, $run:expr) => {
        Command {
            name: $name,
            usage: $usage,
            about: $about,
            flags: $flags,
            run: Some(|call| Box::pin($run(call))),
            ..Command::NONE
        }
    };
}

pub(super) const USER: Command = Command {
    name: "user",
    about: "user add, grant and revoke subcommands",
    commands: &[
        &command!("add", "<user>", "add a new user for the etcd cluster", &[], user_add),
        &command!("get", "<user>", "get details for a user", &[], user_get),
        &command!("list", "<user>", "list all current users", &[], user_list),
        &command!("remove", "<user>", "remove a user for the etcd cluster", &[], user_remove),
        &command!("grant", "<user>", "grant roles to an etcd user", &[ROLES], user_grant),
        &command!("revoke", "<user>", "revoke roles for an etcd user", &[ROLES], user_revoke),
        &command!("passwd", "<user>", "change password for a user", &[], user_passwd),
    ],
    ..Command::NONE
};

const GRANT: &[Flag] = &[
    flag(&["path"], Kind::Text, "Path granted for the role to access"),
    flag(&["read"], Kind::Bool, "Grant read-only access"),
    flag(&["write"], Kind::Bool, "Grant write-only access"),
    flag(&["readwrite", "rw"], Kind::Bool, "Grant read-write access"),
];

const REVOKE: &[Flag] = &[
    flag(&["path"], Kind::Text, "Path revoked for the role to access"),
    flag(&["read"], Kind::Bool, "Revoke read access"),
    flag(&["write"], Kind::Bool, "Revoke write access"),
    flag(&["readwrite", "rw"], Kind::Bool, "Revoke read-write access"),
];

pub(super) const ROLE: Command = Command {
    name: "role",
    about: "role add, grant and revoke subcommands",
    commands: &[
        &command!("add", "<role> ", "add a new role for the etcd cluster", &[], role_add),
        &command!("get", "<role>", "get details for a role", &[], role_get),
        &command!("list", " ", "list all roles", &[], role_list),
        &command!("remove", "<role>", "remove a role from the etcd cluster", &[], role_remove),
        &command!("grant", "<role>", "grant path matches to an etcd role", GRANT, role_grant),
        &command!("revoke", "<role>", "revoke path matches for an etcd role", REVOKE, role_revoke),
    ],
    ..Command::NONE
};

pub(super) const AUTH: Command = Command {
    name: "auth",
    about: "overall auth controls",
    commands: &[
        &command!("enable", " ", "enable auth access controls", &[], auth_enable),
        &command!("disable", " ", "disable auth access controls", &[], auth_disable),
    ],
    ..Command::NONE
};

/// A role, or a user with them: servers write names alone in some answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    Role { role: String },
    User { user: String },
}

impl Named {
    fn name(self) -> String {
        match self {
            Self::Name(name) | Self::Role { role: name } | Self::User { user: name } => name,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Users {
    users: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Roles {
    roles: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    user: String,
    roles: Option<Vec<Named>>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(default)]
struct Role {
    role: String,
    permissions: Permissions,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(default)]
struct Permissions {
    kv: ReadWrite,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(default)]
struct ReadWrite {
    read: Option<Vec<String>>,
    write: Option<Vec<String>>,
}

fn user_path(user: &str) -> String {
    format!("{USERS}/{}", v2::segment(user))
}

fn role_path(role: &str) -> String {
    format!("{ROLES_PATH}/{}", v2::segment(role))
}

fn plain(call: &Call, why: &v2::Error, effect: Effect) -> Failure {
    fail(code::BAD_ARGS, &call.fit(&call.why(why, effect)))
}

/// etcdctl tells the endpoints once more.
async fn connect(call: &Call) -> Result<Client, Failure> {
    let client = call.connect().await?;
    if call.personality == Personality::Etcdctl {
        call.tell_endpoints(&client);
    }
    Ok(client)
}

async fn read<T: DeserializeOwned>(call: &Call, client: &Client, path: &str) -> Result<T, Failure> {
    let body = client.get_path(path).await.map_err(|why| plain(call, &why, Effect::Read))?;
    serde_json::from_slice(&body).map_err(|why| fail(code::BAD_ARGS, &why.to_string()))
}

async fn put(call: &Call, client: &Client, path: &str, body: &Value) -> Result<Vec<u8>, Failure> {
    client.put_json(path, body.to_string()).await.map_err(|why| plain(call, &why, Effect::Write))
}

fn name<'a>(call: &'a Call, what: &str) -> Result<&'a String, Failure> {
    match &*call.args {
        [name] => Ok(name),
        _ => Err(fail(code::BAD_ARGS, &format!("Please provide a {what}"))),
    }
}

fn no_arguments(call: &Call) -> Result<(), Failure> {
    if call.args.is_empty() { Ok(()) } else { Err(fail(code::BAD_ARGS, "No arguments accepted")) }
}

fn print_names(names: Vec<Named>) -> Result<(), Failure> {
    let lines: Vec<String> = names.into_iter().map(|named| named.name() + "\n").collect();
    print::out(lines.concat().as_bytes())
}

async fn user_list(call: Call) -> Result<(), Failure> {
    no_arguments(&call)?;
    let client = connect(&call).await?;
    let users: Users = read(&call, &client, USERS).await?;
    print_names(users.users.unwrap_or_default())
}

async fn user_add(call: Call) -> Result<(), Failure> {
    let argument = name(&call, "username")?;
    let client = connect(&call).await?;
    let (user, password) = match argument.split_once(':') {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (argument.clone(), password::ask_openly("New password: ").await?),
    };
    put(&call, &client, &user_path(&user), &json!({ "user": user, "password": password })).await?;
    print::line(&format!("User {user} created"))
}

async fn user_passwd(call: Call) -> Result<(), Failure> {
    let user = name(&call, "username")?;
    let client = connect(&call).await?;
    let password = password::ask_openly("New password: ").await?;
    // To put one that is not there would create it. One with a role that is not there cannot be read.
    match client.get_path(&user_path(user)).await {
        Err(why @ v2::Error::Refused { status: 404, .. }) if says_no_user(&why) => {
            return Err(plain(&call, &why, Effect::Read));
        }
        _ => {}
    }
    put(&call, &client, &user_path(user), &json!({ "user": user, "password": password })).await?;
    print::line("Password updated")
}

fn says_no_user(why: &v2::Error) -> bool {
    matches!(why, v2::Error::Refused { text, .. } if text.starts_with("auth: User "))
}

async fn user_remove(call: Call) -> Result<(), Failure> {
    let user = name(&call, "username")?;
    let client = connect(&call).await?;
    client.delete_path(&user_path(user)).await.map_err(|why| plain(&call, &why, Effect::Write))?;
    print::line(&format!("User {user} removed"))
}

async fn user_get(call: Call) -> Result<(), Failure> {
    let user = name(&call, "username")?;
    let client = connect(&call).await?;
    let User { user, roles } = read(&call, &client, &user_path(user)).await?;
    let roles: Vec<String> = roles.unwrap_or_default().into_iter().map(Named::name).collect();
    // etcdctl prints as many spaces more as there are roles.
    let spaces = " ".repeat(roles.len());
    print::line(&format!("User: {user}\nRoles: {spaces}{}", roles.join(" ")))
}

async fn user_grant(call: Call) -> Result<(), Failure> {
    change_roles(call, "grant").await
}

async fn user_revoke(call: Call) -> Result<(), Failure> {
    change_roles(call, "revoke").await
}

async fn change_roles(call: Call, how: &str) -> Result<(), Failure> {
    let roles = call.values.all("roles");
    if roles.is_empty() {
        return Err(fail(code::BAD_ARGS, "No roles specified; please use `--roles`"));
    }
    let user = name(&call, "username")?;
    let client = connect(&call).await?;
    put(&call, &client, &user_path(user), &json!({ "user": user, how: roles })).await?;
    print::line(&format!("User {user} updated"))
}

async fn role_list(call: Call) -> Result<(), Failure> {
    no_arguments(&call)?;
    let client = connect(&call).await?;
    let roles = client.get_path(ROLES_PATH).await.map_err(|why| match why {
        // Of this list alone etcdctl does not read what the server says.
        v2::Error::Refused { status: status @ ..500, .. } if call.personality == Personality::Etcdctl => {
            fail(code::BAD_ARGS, &format!("unexpected status code {status}"))
        }
        why => plain(&call, &why, Effect::Read),
    })?;
    let roles: Roles = serde_json::from_slice(&roles).map_err(|why| fail(code::BAD_ARGS, &why.to_string()))?;
    print_names(roles.roles.unwrap_or_default())
}

async fn role_add(call: Call) -> Result<(), Failure> {
    let role = name(&call, "role name")?;
    let client = connect(&call).await?;
    let path = role_path(role);
    if client.get_path(&path).await.is_ok() {
        return Err(fail(code::BAD_ARGS, &format!("Role {role} already exists")));
    }
    let none = json!({ "kv": { "read": null, "write": null } });
    put(&call, &client, &path, &json!({ "role": role, "permissions": none })).await?;
    print::line(&format!("Role {role} created"))
}

async fn role_remove(call: Call) -> Result<(), Failure> {
    let role = name(&call, "role name")?;
    let client = connect(&call).await?;
    client.delete_path(&role_path(role)).await.map_err(|why| plain(&call, &why, Effect::Write))?;
    print::line(&format!("Role {role} removed"))
}

async fn role_get(call: Call) -> Result<(), Failure> {
    let role = name(&call, "role name")?;
    let client = connect(&call).await?;
    let Role { role, permissions: Permissions { kv } } = read(&call, &client, &role_path(role)).await?;
    let lines = |paths: Option<Vec<String>>| paths.into_iter().flatten().map(|path| format!("\t{path}\n"));
    let text = [format!("Role: {role}\nKV Read:\n")]
        .into_iter()
        .chain(lines(kv.read))
        .chain(["KV Write:\n".to_owned()])
        .chain(lines(kv.write));
    print::out(text.collect::<String>().as_bytes())
}

async fn role_grant(call: Call) -> Result<(), Failure> {
    change_role(call, "grant", "already granted").await
}

async fn role_revoke(call: Call) -> Result<(), Failure> {
    change_role(call, "revoke", "already revoked").await
}

async fn change_role(call: Call, how: &str, unchanged: &str) -> Result<(), Failure> {
    let path = call.values.text("path");
    if path.is_empty() {
        return Err(fail(code::BAD_ARGS, "No path specified; please use `--path`"));
    }
    let canonical = canonical(&path);
    if canonical != path {
        return Err(fail(code::BAD_ARGS, &format!("Not canonical path; please use `--path={canonical}`")));
    }
    let [reads, writes, both] = ["read", "write", "readwrite"].map(|flag| call.values.switch(flag));
    if usize::from(reads) + usize::from(writes) + usize::from(both) != 1 {
        let text = "Please specify exactly one of --read, --write or --readwrite";
        return Err(fail(code::BAD_ARGS, text));
    }
    let role = name(&call, "role name")?;
    let client = connect(&call).await?;
    let path_of_role = role_path(role);
    let before: Role = read(&call, &client, &path_of_role).await?;
    let mut paths = json!({});
    if reads || both {
        paths["read"] = json!([path]);
    }
    if writes || both {
        paths["write"] = json!([path]);
    }
    let body = put(&call, &client, &path_of_role, &json!({ "role": role, how: { "kv": paths } })).await?;
    let after: Role = serde_json::from_slice(&body).map_err(|why| fail(code::BAD_ARGS, &why.to_string()))?;
    if before == after {
        print::out(format!("Role unchanged; {unchanged}").as_bytes())?;
    }
    print::line(&format!("Role {role} updated"))
}

/// The path without empty parts and dots; a slash at the end stays.
fn canonical(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

async fn auth_enable(call: Call) -> Result<(), Failure> {
    no_arguments(&call)?;
    let client = connect(&call).await?;
    client.put_json("/v2/auth/enable", String::new()).await.map_err(|why| plain(&call, &why, Effect::Write))?;
    print::line("Authentication Enabled")
}

async fn auth_disable(call: Call) -> Result<(), Failure> {
    no_arguments(&call)?;
    let client = connect(&call).await?;
    client.delete_path("/v2/auth/enable").await.map_err(|why| plain(&call, &why, Effect::Write))?;
    print::line("Authentication Disabled")
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn paths_are_canonical() {
        for (path, expected) in [("/x/*", "/x/*"), ("x", "/x"), ("/a//b/./c/../d/", "/a/b/d/"), ("/", "/")] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }
}
