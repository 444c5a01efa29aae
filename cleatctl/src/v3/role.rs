//! `role`.

use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::Failure;
use crate::print::{Printer, Simple};
use api::authpb::Permission;
use api::authpb::permission::Type;
use api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleListRequest, AuthRoleRevokePermissionRequest,
};
use client::message::prefix_range;
use go::strconv;

/// The first key that there can be, and as an end: no end.
const ZERO: &[u8] = b"\0";

const GRANT_FROM_KEY: Flag = Flag::switch(
    "from-key",
    "grant a permission of keys that are greater than or equal to the given key using byte compare",
);
const GRANT_PREFIX: Flag = Flag::switch("prefix", "grant a prefix permission");
const REVOKE_FROM_KEY: Flag = Flag::switch(
    "from-key",
    "revoke a permission of keys that are greater than or equal to the given key using byte compare",
);
const REVOKE_PREFIX: Flag = Flag::switch("prefix", "revoke a prefix permission");

pub(crate) const COMMAND: Command = Command {
    name: "role",
    usage: "<subcommand>",
    short: "Role related commands",
    group: Group::Users,
    commands: &[&ADD, &DELETE, &GET, &GRANT_PERMISSION, &LIST, &REVOKE_PERMISSION],
    ..Command::NONE
};

const ADD: Command = Command {
    name: "add",
    usage: "<role name>",
    short: "Adds a new role",
    run: Some(|context| Box::pin(add(context))),
    ..Command::NONE
};

const DELETE: Command = Command {
    name: "delete",
    usage: "<role name>",
    short: "Deletes a role",
    run: Some(|context| Box::pin(delete(context))),
    ..Command::NONE
};

const GET: Command = Command {
    name: "get",
    usage: "<role name>",
    short: "Gets detailed information of a role",
    run: Some(|context| Box::pin(get(context))),
    ..Command::NONE
};

const GRANT_PERMISSION: Command = Command {
    name: "grant-permission",
    usage: "[options] <role name> <permission type> <key> [endkey]",
    short: "Grants a key to a role",
    flags: &[GRANT_FROM_KEY, GRANT_PREFIX],
    run: Some(|context| Box::pin(grant_permission(context))),
    ..Command::NONE
};

const LIST: Command =
    Command { name: "list", short: "Lists all roles", run: Some(|context| Box::pin(list(context))), ..Command::NONE };

const REVOKE_PERMISSION: Command = Command {
    name: "revoke-permission",
    usage: "<role name> <key> [endkey]",
    short: "Revokes a key from a role",
    flags: &[REVOKE_FROM_KEY, REVOKE_PREFIX],
    run: Some(|context| Box::pin(revoke_permission(context))),
    ..Command::NONE
};

/// The role that the only argument names.
fn name(context: &Context, command: &str) -> Result<String, Failure> {
    if context.args.len() == 1 {
        return Ok(context.text(0));
    }
    Err(Failure::bad_args(format!("role {command} command requires role name as its argument")))
}

async fn add(mut context: Context) -> Result<(), Failure> {
    let name = name(&context, "add")?;
    let (client, printer) = context.connect().await?;
    let answer = client.role_add(AuthRoleAddRequest { name: name.clone() }).await?;
    printer.answer(
        "/etcdserverpb.Auth/RoleAdd",
        &answer,
        |out| out.line(format!("Role {name} created")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn delete(mut context: Context) -> Result<(), Failure> {
    let role = name(&context, "delete")?;
    let (client, printer) = context.connect().await?;
    let answer = client.role_delete(AuthRoleDeleteRequest { role: role.clone() }).await?;
    printer.answer(
        "/etcdserverpb.Auth/RoleDelete",
        &answer,
        |out| out.line(format!("Role {role} deleted")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn get(mut context: Context) -> Result<(), Failure> {
    let role = name(&context, "get")?;
    let (client, printer) = context.connect().await?;
    let answer = client.role_get(AuthRoleGetRequest { role: role.clone() }).await?;
    print_role(printer, &role, &answer)
}

/// What a role permits; of the user's roles, too.
pub(super) fn print_role(printer: Printer, role: &str, answer: &AuthRoleGetResponse) -> Result<(), Failure> {
    printer.answer(
        "/etcdserverpb.Auth/RoleGet",
        answer,
        |out| {
            out.line(format!("Role {role}"));
            out.line("KV Read:");
            answer.perm.iter().filter(|permission| permission.perm_type() != Type::Write).for_each(|p| range(out, p));
            out.line("KV Write:");
            answer.perm.iter().filter(|permission| permission.perm_type() != Type::Read).for_each(|p| range(out, p));
        },
        |out| {
            out.header(answer.header.as_ref());
            for permission in &answer.perm {
                // The two spaces are etcdctl's.
                out.line(&format!("\"PermType\" :  {}", permission.perm_type().as_str_name()));
                out.quoted("Key", &permission.key);
                out.quoted("RangeEnd", &permission.range_end);
            }
        },
    )
}

fn range(out: &mut Simple, permission: &Permission) {
    let (key, end) = (&*permission.key, &*permission.range_end);
    let mut line = b"\t".to_vec();
    if end.is_empty() {
        line.extend_from_slice(key);
    } else {
        line.push(b'[');
        line.extend_from_slice(key);
        if end == ZERO {
            line.extend_from_slice(b", <open ended>");
        } else {
            line.extend_from_slice(b", ");
            line.extend_from_slice(end);
            line.push(b')');
        }
        // etcdctl's end of the prefix that is empty is the open end as well.
        if *prefix_range(key.to_vec()).1 == *end {
            line.extend_from_slice(b" (prefix ");
            line.extend_from_slice(key);
            line.push(b')');
        }
    }
    out.line(line);
}

async fn list(mut context: Context) -> Result<(), Failure> {
    if !context.args.is_empty() {
        return Err(Failure::bad_args("role list command requires no arguments"));
    }
    let (client, printer) = context.connect().await?;
    let answer = client.role_list(AuthRoleListRequest {}).await?;
    printer.answer(
        "/etcdserverpb.Auth/RoleList",
        &answer,
        |out| answer.roles.iter().for_each(|role| out.line(role)),
        |out| {
            out.header(answer.header.as_ref());
            let roles: Vec<String> = answer.roles.iter().map(|role| strconv::quote(role.as_bytes())).collect();
            let space = if roles.is_empty() { "" } else { " " };
            out.line(&format!("\"Roles\" :{space}{}", roles.join(" ")));
        },
    )
}

async fn grant_permission(mut context: Context) -> Result<(), Failure> {
    if context.args.len() < 3 {
        return Err(Failure::bad_args(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        ));
    }
    let (role, kind) = (context.text(0), context.text(1));
    let perm_type = Type::from_str_name(&kind.to_uppercase())
        .ok_or_else(|| Failure::bad_args(format!("invalid permission type: {kind}")))?;
    let flags = (context.switch(&GRANT_PREFIX), context.switch(&GRANT_FROM_KEY));
    let (key, range_end) = interval(&context, 2, flags)?;
    let (client, printer) = context.connect().await?;
    let perm = Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() };
    let request = AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(perm) };
    let answer = client.role_grant_permission(request).await?;
    printer.answer(
        "/etcdserverpb.Auth/RoleGrantPermission",
        &answer,
        |out| out.line(format!("Role {role} updated")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn revoke_permission(mut context: Context) -> Result<(), Failure> {
    if context.args.len() < 2 {
        return Err(Failure::bad_args(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ));
    }
    let role = context.text(0);
    let shown = context.arg(1).unwrap_or_default().to_vec();
    let flags = (context.switch(&REVOKE_PREFIX), context.switch(&REVOKE_FROM_KEY));
    let (key, range_end) = interval(&context, 1, flags)?;
    let (client, printer) = context.connect().await?;
    let request =
        AuthRoleRevokePermissionRequest { role: role.clone(), key: key.into(), range_end: range_end.clone().into() };
    let answer = client.role_revoke_permission(request).await?;
    let of = match &*range_end {
        [] => [b"key ", &*shown].concat(),
        ZERO => [b"range [", &*shown, b", <open ended>"].concat(),
        end => [b"range [", &*shown, b", ", end, b")"].concat(),
    };
    printer.answer(
        "/etcdserverpb.Auth/RoleRevokePermission",
        &answer,
        |out| out.line([b"Permission of ", &*of, b" is revoked from role ", role.as_bytes()].concat()),
        |out| out.header(answer.header.as_ref()),
    )
}

/// Key and end that the arguments from an index on mean. An empty key with a flag means all keys.
fn interval(context: &Context, at: usize, (prefix, from_key): (bool, bool)) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let exclusive = || Failure::bad_args("--from-key and --prefix flags are mutually exclusive");
    let key = context.arg(at).unwrap_or_default();
    if key.is_empty() {
        return match (prefix, from_key) {
            (true, true) => Err(exclusive()),
            (false, false) => Ok((ZERO.to_vec(), Vec::new())),
            _ => Ok((ZERO.to_vec(), ZERO.to_vec())),
        };
    }
    let end = match (context.arg(at + 1), prefix, from_key) {
        (None, true, true) => return Err(exclusive()),
        (None, true, false) => prefix_range(key.to_vec()).1.to_vec(),
        (None, false, true) => ZERO.to_vec(),
        (None, false, false) => Vec::new(),
        (Some(_), true, _) => return Err(Failure::bad_args("unexpected endkey argument with --prefix flag")),
        (Some(_), _, true) => return Err(Failure::bad_args("unexpected endkey argument with --from-key flag")),
        (Some(end), ..) => end.to_vec(),
    };
    Ok((key.to_vec(), end))
}
