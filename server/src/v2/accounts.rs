//! `/v2/auth`: users, roles, and whether requests need a user.
//!
//! What is changed was read before, behind a read barrier; the change itself says whether the file may be there. As in
//! etcd, two who change the same user at the same moment may overwrite each other.

use super::auth::{GUEST, Permissions, ROOT, ReadWrite, Role, User, resource};
use super::error::KeyError;
use super::given::{self, Given};
use super::{V2, json, members, refused_method};
use crate::wall_clock;
use api::cleatpb::V2Request;
use api::cleatpb::v2_request::Method as Change;
use api::error::Error;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Serialize;
use store::v2::{AUTH, AUTH_ENABLED, Code};

/// The directories of users and roles.
const DIRS: [&str; 3] = [AUTH, "/2/users", "/2/roles"];

/// A refusal: status and message.
struct Refused(StatusCode, String);

fn refuse<T>(status: StatusCode, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, message.into()))
}

/// With the word that etcd puts before what its store of users says.
fn refuse_auth<T>(status: StatusCode, message: &str) -> Result<T, Refused> {
    refuse(status, format!("auth: {message}"))
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        tracing::warn!(%error, "v2: cannot read or change users and roles");
        Self(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error".to_owned())
    }
}

/// A user with its roles spelled out.
#[derive(Serialize)]
struct UserWithRoles {
    user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Role>,
}

#[derive(Serialize)]
struct Users {
    users: Option<Vec<UserWithRoles>>,
}

#[derive(Serialize)]
struct Roles {
    roles: Vec<Role>,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

/// Serves what is behind `/v2/auth/`.
pub(super) async fn serve(v2: &V2, request: Request, rest: &[u8]) -> Response {
    let rest = String::from_utf8_lossy(rest).into_owned();
    let clean = super::path::clean(rest.as_bytes());
    let clean = String::from_utf8_lossy(&clean).into_owned();
    let parts: Vec<&str> = clean.split('/').skip(1).collect();
    let (head, body) = request.into_parts();
    let what = match (&*rest, &*parts) {
        ("enable", _) => What::Enable,
        (_, ["users"]) => What::Users,
        (_, ["roles"]) => What::Roles,
        (_, ["users", name]) => What::User((*name).to_owned()),
        (_, ["roles", name]) => What::Role((*name).to_owned()),
        (_, ["users" | "roles", ..]) => {
            let refused = v2.message(StatusCode::BAD_REQUEST, "Invalid path");
            return super::without_cluster_id(refused);
        }
        _ => return crate::http::not_found().await,
    };
    let methods = if matches!(what, What::Users | What::Roles) { "GET" } else { "GET,PUT,DELETE" };
    if let Some(refused) = refused_method(&head.method, methods) {
        return refused;
    }
    let checked = match what {
        What::Enable => v2.auth.check_root_to_change(&head).await,
        _ => v2.auth.check_root(&head).await,
    };
    if let Err(why) = checked {
        return v2.unauthorized(why);
    }
    match v2.account(what, &head, body).await {
        Ok((status, body)) => v2.json(status, body),
        Err(Refused(status, message)) => v2.message(status, &message),
    }
}

enum What {
    Users,
    Roles,
    User(String),
    Role(String),
    Enable,
}

type Answer = Result<(StatusCode, Vec<u8>), Refused>;

fn ok(value: &impl Serialize) -> (StatusCode, Vec<u8>) {
    (StatusCode::OK, go_json(value, true))
}

/// As Go's encoder writes it.
fn go_json(value: &impl Serialize, ends_line: bool) -> Vec<u8> {
    let mut text = json::encode(value);
    if ends_line {
        text.push(b'\n');
    }
    text
}

async fn read<T: Given>(body: Body) -> Result<T, Refused> {
    let body = members::read_body(body).await.map_err(|message| Refused(StatusCode::BAD_REQUEST, message))?;
    given::read(&body)
        .map_err(|given::Malformed| Refused(StatusCode::BAD_REQUEST, "Invalid JSON in request body.".to_owned()))
}

impl V2 {
    async fn account(&self, what: What, head: &Parts, body: Body) -> Answer {
        match (what, &head.method) {
            (What::Users, _) => Ok(ok(&Users { users: self.users() })),
            (What::Roles, _) => {
                let mut names = self.auth.names("roles");
                names.push(ROOT.to_owned());
                names.sort_unstable();
                let roles: Vec<Role> =
                    names.iter().filter_map(|name| self.auth.role(name)).map(|r| (*r).clone()).collect();
                Ok(ok(&Roles { roles }))
            }
            (What::User(name), &Method::GET) => match self.auth.user(&name) {
                None => refuse_auth(StatusCode::NOT_FOUND, &format!("User {name} does not exist.")),
                Some(user) => {
                    let mut roles = Vec::new();
                    for role in user.roles() {
                        match self.auth.role(role) {
                            Some(role) => roles.push((*role).clone()),
                            None => return refuse_auth(StatusCode::NOT_FOUND, &format!("Role {role} does not exist.")),
                        }
                    }
                    Ok(ok(&UserWithRoles { user: user.name.clone(), roles }))
                }
            },
            (What::User(name), &Method::PUT) => self.put_user(&name, read(body).await?).await,
            (What::User(name), _) => self.delete_user(&name).await,
            (What::Role(name), &Method::GET) => match self.auth.role(&name) {
                None => refuse_auth(StatusCode::NOT_FOUND, &format!("Role {name} does not exist.")),
                Some(role) => Ok(ok(&*role)),
            },
            (What::Role(name), &Method::PUT) => self.put_role(&name, read(body).await?).await,
            (What::Role(name), _) => self.delete_role(&name).await,
            (What::Enable, &Method::GET) => Ok(ok(&Enabled { enabled: self.auth.is_enabled() })),
            (What::Enable, &Method::PUT) => self.enable().await,
            (What::Enable, _) => self.disable().await,
        }
    }

    /// All users with those of their roles that exist; null for none, as Go writes it.
    fn users(&self) -> Option<Vec<UserWithRoles>> {
        let with_roles = |name: &String| {
            let user = self.auth.user(name)?;
            let roles = user.roles().filter_map(|role| self.auth.role(role)).map(|role| (*role).clone()).collect();
            Some(UserWithRoles { user: user.name.clone(), roles })
        };
        let users: Vec<_> = self.auth.names("users").iter().filter_map(with_roles).collect();
        (!users.is_empty()).then_some(users)
    }

    async fn put_user(&self, name: &str, user: User) -> Answer {
        if user.name != name {
            return refuse(StatusCode::BAD_REQUEST, "User JSON name does not match the name in the URL");
        }
        let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let (user, created) = if has(&user.grant) || has(&user.revoke) {
            if has(&user.roles) {
                return refuse(StatusCode::BAD_REQUEST, "User JSON contains both roles and grant/revoke");
            }
            (self.update_user(user).await?, false)
        } else if has(&user.roles) {
            // As in etcd, where only this one says 200 of a user that it made.
            (self.create_user(user).await?, false)
        } else {
            self.node.read_barrier().await?;
            match self.auth.user(name) {
                Some(_) => (self.update_user(user).await?, false),
                None => (self.create_user(user).await?, true),
            }
        };
        let shown = User { password: String::new(), ..user };
        Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, go_json(&shown, true)))
    }

    async fn create_user(&self, user: User) -> Result<User, Refused> {
        let mut user = user.with_root_role();
        let name = user.name.clone();
        if user.password.is_empty() {
            let message = format!("Cannot create user {name} with an empty password");
            return refuse_auth(StatusCode::BAD_REQUEST, &message);
        }
        user.password = self.hash(&user.password).await?;
        self.write("users", &name, &user, false).await.map_err(|error| match error {
            Written::Exists => Refused(StatusCode::CONFLICT, format!("auth: User {name} already exists.")),
            error => error.into(),
        })?;
        tracing::info!(user = name, "v2: created a user");
        Ok(user)
    }

    async fn update_user(&self, user: User) -> Result<User, Refused> {
        let name = user.name.clone();
        self.node.read_barrier().await?;
        let Some(old) = self.auth.user(&name) else {
            return refuse_auth(StatusCode::NOT_FOUND, &format!("User {name} does not exist."));
        };
        let mut roles: Vec<String> = old.roles().cloned().collect();
        for role in user.grant.iter().flatten() {
            if roles.contains(role) {
                return refuse_auth(StatusCode::CONFLICT, &format!("Granting duplicate role {role} for user {name}"));
            }
            roles.push(role.clone());
        }
        for role in user.revoke.iter().flatten() {
            let Some(at) = roles.iter().position(|known| known == role) else {
                return refuse_auth(StatusCode::CONFLICT, &format!("Revoking ungranted role {role} for user {name}"));
            };
            roles.remove(at);
        }
        roles.sort_unstable();
        let password = if user.password.is_empty() { old.password.clone() } else { self.hash(&user.password).await? };
        let new = User { name: name.clone(), password, roles: Some(roles), ..User::default() };
        if new == *old {
            let message = "User not updated. Use grant/revoke/password to update the user.";
            return refuse_auth(StatusCode::BAD_REQUEST, message);
        }
        self.write("users", &name, &new, true).await?;
        tracing::info!(user = name, "v2: updated a user");
        Ok(new)
    }

    async fn delete_user(&self, name: &str) -> Answer {
        if name == ROOT && self.auth.is_enabled() {
            return refuse_auth(StatusCode::FORBIDDEN, "Cannot delete root user while auth is enabled.");
        }
        self.remove("users", name).await.map_err(|error| match error {
            Written::Missing => Refused(StatusCode::NOT_FOUND, format!("auth: User {name} does not exist")),
            error => error.into(),
        })?;
        tracing::info!(user = name, "v2: deleted a user");
        Ok((StatusCode::OK, Vec::new()))
    }

    async fn put_role(&self, name: &str, role: Role) -> Answer {
        if role.name != name {
            return refuse(StatusCode::BAD_REQUEST, "Role JSON name does not match the name in the URL");
        }
        let is_empty = |permissions: &Option<Permissions>| permissions.as_ref().is_none_or(Permissions::is_empty);
        if is_empty(&role.grant) && is_empty(&role.revoke) {
            self.create_role(&role).await?;
            return Ok((StatusCode::CREATED, go_json(&role, true)));
        }
        if !role.permissions.is_empty() {
            return refuse(StatusCode::BAD_REQUEST, "Role JSON contains both permissions and grant/revoke");
        }
        check_not_root(name)?;
        self.node.read_barrier().await?;
        let Some(old) = self.auth.role(name) else {
            return refuse_auth(StatusCode::NOT_FOUND, &format!("Role {name} does not exist."));
        };
        let kv = old.permissions.kv.granted(role.grant.as_ref())?.revoked(role.revoke.as_ref());
        let new = Role { name: name.to_owned(), permissions: Permissions { kv }, ..Role::default() };
        if new == *old {
            let message = "Role not updated. Use grant/revoke to update the role.";
            return refuse_auth(StatusCode::BAD_REQUEST, message);
        }
        self.write("roles", name, &new, true).await?;
        tracing::info!(role = name, "v2: updated a role");
        Ok(ok(&new))
    }

    async fn create_role(&self, role: &Role) -> Result<(), Refused> {
        let name = &role.name;
        check_not_root(name)?;
        self.write("roles", name, role, false).await.map_err(|error| match error {
            Written::Exists => Refused(StatusCode::CONFLICT, format!("auth: Role {name} already exists.")),
            error => error.into(),
        })?;
        tracing::info!(role = name, "v2: created a role");
        Ok(())
    }

    async fn delete_role(&self, name: &str) -> Answer {
        check_not_root(name)?;
        self.remove("roles", name).await.map_err(|error| match error {
            Written::Missing => Refused(StatusCode::NOT_FOUND, format!("auth: Role {name} doesn't exist.")),
            error => error.into(),
        })?;
        tracing::info!(role = name, "v2: deleted a role");
        Ok((StatusCode::OK, Vec::new()))
    }

    async fn enable(&self) -> Answer {
        if self.auth.is_enabled() {
            return refuse_auth(StatusCode::CONFLICT, "already enabled");
        }
        self.node.read_barrier().await?;
        if self.auth.user(ROOT).is_none() {
            return refuse_auth(StatusCode::CONFLICT, "No root user available, please create one");
        }
        if self.auth.role(GUEST).is_none() {
            self.create_role(&Role::everything(GUEST)).await?;
        }
        self.write("enabled", "", &true, true).await?;
        tracing::info!("v2: enabled authentication");
        Ok((StatusCode::OK, Vec::new()))
    }

    async fn disable(&self) -> Answer {
        if !self.auth.is_enabled() {
            return refuse_auth(StatusCode::CONFLICT, "already disabled");
        }
        self.write("enabled", "", &false, true).await?;
        tracing::info!("v2: disabled authentication");
        Ok((StatusCode::OK, Vec::new()))
    }

    async fn hash(&self, password: &str) -> Result<String, Refused> {
        let hash = match self.auth.passwords.hash(password).await {
            Err(error @ Error::PasswordTooLong) => return refuse(StatusCode::BAD_REQUEST, error.text()),
            hash => hash?,
        };
        // v3 has it in base64, v2 as it is.
        let hash = STANDARD.decode(hash).ok().and_then(|hash| String::from_utf8(hash).ok());
        hash.ok_or_else(|| Error::Stopped.into())
    }

    /// Writes the file of a user or role.
    async fn write(&self, kind: &str, name: &str, value: &impl Serialize, exists: bool) -> Result<(), Written> {
        self.make_dirs().await?;
        let method = if exists { Change::Update } else { Change::Create };
        let value = go_json(value, false).into();
        self.change_account(V2Request { value, ..request(method, resource(kind, name)) }).await
    }

    async fn remove(&self, kind: &str, name: &str) -> Result<(), Written> {
        self.make_dirs().await?;
        self.change_account(request(Change::Delete, resource(kind, name))).await
    }

    /// Makes what everything of users is in, unless it is there.
    async fn make_dirs(&self) -> Result<(), Written> {
        if self.node.reader().v2_exists(AUTH_ENABLED.as_bytes()) {
            return Ok(());
        }
        let dirs = DIRS.map(|dir| V2Request { dir: true, ..request(Change::Create, dir.into()) });
        let enabled = V2Request { value: "false".into(), ..request(Change::Create, AUTH_ENABLED.into()) };
        for create in dirs.into_iter().chain([enabled]) {
            match self.change_account(create).await {
                Ok(()) | Err(Written::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn change_account(&self, request: V2Request) -> Result<(), Written> {
        self.change(request).await.map(drop).map_err(|error| match error.code() {
            code if code == Code::KeyExists as u16 => Written::Exists,
            code if code == Code::KeyNotFound as u16 => Written::Missing,
            _ => Written::Failed(error),
        })
    }
}

/// Why a file was not written.
enum Written {
    Exists,
    Missing,
    Failed(KeyError),
}

impl From<Written> for Refused {
    fn from(error: Written) -> Self {
        let reason = match error {
            Written::Exists => "it is there".to_owned(),
            Written::Missing => "it is not there".to_owned(),
            Written::Failed(error) => error.to_string(),
        };
        tracing::warn!(reason, "v2: cannot write a user or role");
        Self(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error".to_owned())
    }
}

fn request(method: Change, path: Vec<u8>) -> V2Request {
    V2Request { method: method as i32, path: path.into(), now: wall_clock::unix_nanos(), ..V2Request::default() }
}

fn check_not_root(role: &str) -> Result<(), Refused> {
    if role == ROOT {
        return refuse_auth(StatusCode::FORBIDDEN, &format!("Cannot modify role {role}: is root role."));
    }
    Ok(())
}

impl Permissions {
    fn is_empty(&self) -> bool {
        let none = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        none(&self.kv.read) && none(&self.kv.write)
    }
}

impl ReadWrite {
    fn granted(&self, grant: Option<&Permissions>) -> Result<Self, Refused> {
        let Some(grant) = grant else { return Ok(self.clone()) };
        let read = joined(self.read.clone(), grant.kv.read.as_deref(), "read")?;
        let write = joined(self.write.clone(), grant.kv.write.as_deref(), "write")?;
        Ok(Self { read: Some(read), write: Some(write) })
    }

    fn revoked(self, revoke: Option<&Permissions>) -> Self {
        let Some(revoke) = revoke else { return self };
        let without = |list: Option<Vec<String>>, gone: &Option<Vec<String>>| {
            let gone: Vec<&String> = gone.iter().flatten().collect();
            let mut list: Vec<String> = list.into_iter().flatten().filter(|pattern| !gone.contains(&pattern)).collect();
            list.sort_unstable();
            Some(list)
        };
        Self { read: without(self.read, &revoke.kv.read), write: without(self.write, &revoke.kv.write) }
    }
}

type Patterns = Option<Vec<String>>;

fn joined(list: Patterns, more: Option<&[String]>, kind: &str) -> Result<Vec<String>, Refused> {
    let mut all = list.unwrap_or_default();
    for pattern in more.into_iter().flatten() {
        if all.contains(pattern) {
            return refuse_auth(StatusCode::CONFLICT, &format!("Granting duplicate {kind} permission {pattern}"));
        }
        all.push(pattern.clone());
    }
    all.sort_unstable();
    Ok(all)
}
