//! More than a member can do: what keeps a cluster sound goes on, the rest is refused in etcd's words, memory stays bounded.

mod limits;
mod mixed;
mod urgent;

use anyhow::{Context, Result};
use api::authpb::Permission;
use api::authpb::permission::Type;
use api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
};
use harness::Client;

/// The password of every user.
const PASSWORD: &str = "secret";

/// Makes users, each of which may read and write everything, and enables authentication.
async fn add_users(client: &Client, users: &[&str]) -> Result<()> {
    let mut auth = client.auth.clone();
    auth.role_add(AuthRoleAddRequest { name: "all".to_owned() }).await?;
    let all = Permission { perm_type: Type::Readwrite as i32, key: vec![0].into(), range_end: vec![0].into() };
    auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "all".to_owned(), perm: Some(all) }).await?;
    auth.role_add(AuthRoleAddRequest { name: "root".to_owned() }).await?;
    for user in ["root"].iter().chain(users) {
        let (name, password) = ((*user).to_owned(), PASSWORD.to_owned());
        auth.user_add(AuthUserAddRequest { name, password, ..Default::default() }).await?;
        let role = if *user == "root" { "root" } else { "all" };
        let (user, role) = ((*user).to_owned(), role.to_owned());
        auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
    }
    auth.auth_enable(AuthEnableRequest {}).await.context("enable")?;
    Ok(())
}
