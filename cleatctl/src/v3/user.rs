//! `user`.

use super::role::print_role;
use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::Failure;
use crate::password;
use crate::print::{self, Format, Printer};
use api::authpb::UserAddOptions;
use api::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};
use std::io::BufRead as _;

const ADD_INTERACTIVE: Flag =
    Flag::switch("interactive", "Read password from stdin instead of interactive terminal").default("true");
const NEW_USER_PASSWORD: Flag = Flag::string("new-user-password", "", "Supply password from the command line flag");
const NO_PASSWORD: Flag = Flag::switch("no-password", "Create a user without password (CN based auth only)");
const DETAIL: Flag = Flag::switch("detail", "Show permissions of roles granted to the user");
const PASSWD_INTERACTIVE: Flag =
    Flag::switch("interactive", "If true, read password from stdin instead of interactive terminal").default("true");

/// Longest line that is read for a password.
const LINE_BYTES_MAX: u64 = 4096;

pub(crate) const COMMAND: Command = Command {
    name: "user",
    usage: "<subcommand>",
    short: "User related commands",
    group: Group::Users,
    commands: &[&ADD, &DELETE, &GET, &GRANT_ROLE, &LIST, &PASSWD, &REVOKE_ROLE],
    ..Command::NONE
};

const ADD: Command = Command {
    name: "add",
    usage: "<user name or user:password> [options]",
    short: "Adds a new user",
    flags: &[ADD_INTERACTIVE, NEW_USER_PASSWORD, NO_PASSWORD],
    run: Some(|context| Box::pin(add(context))),
    ..Command::NONE
};

const DELETE: Command = Command {
    name: "delete",
    usage: "<user name>",
    short: "Deletes a user",
    run: Some(|context| Box::pin(delete(context))),
    ..Command::NONE
};

const GET: Command = Command {
    name: "get",
    usage: "<user name> [options]",
    short: "Gets detailed information of a user",
    flags: &[DETAIL],
    run: Some(|context| Box::pin(get(context))),
    ..Command::NONE
};

const GRANT_ROLE: Command = Command {
    name: "grant-role",
    usage: "<user name> <role name>",
    short: "Grants a role to a user",
    run: Some(|context| Box::pin(grant_role(context))),
    ..Command::NONE
};

const LIST: Command =
    Command { name: "list", short: "Lists all users", run: Some(|context| Box::pin(list(context))), ..Command::NONE };

const PASSWD: Command = Command {
    name: "passwd",
    usage: "<user name> [options]",
    short: "Changes password of user",
    flags: &[PASSWD_INTERACTIVE],
    run: Some(|context| Box::pin(passwd(context))),
    ..Command::NONE
};

const REVOKE_ROLE: Command = Command {
    name: "revoke-role",
    usage: "<user name> <role name>",
    short: "Revokes a role from a user",
    run: Some(|context| Box::pin(revoke_role(context))),
    ..Command::NONE
};

/// The user that the only argument names.
fn name(context: &Context, command: &str) -> Result<String, Failure> {
    if context.args.len() == 1 {
        return Ok(context.text(0));
    }
    Err(Failure::bad_args(format!("user {command} command requires user name as its argument")))
}

async fn add(mut context: Context) -> Result<(), Failure> {
    let argument = name(&context, "add")?;
    let no_password = context.switch(&NO_PASSWORD);
    let (name, password) = if no_password {
        (argument, String::new())
    } else if let Some(password) = context.given(&NEW_USER_PASSWORD) {
        (argument, password)
    } else if let Some((name, password)) = argument.split_once(':') {
        if name.is_empty() {
            return Err(Failure::bad_args("empty user name is not allowed"));
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = read_password(&context, &argument, &ADD_INTERACTIVE).await?;
        (argument, password)
    };
    let (client, printer) = context.connect().await?;
    let options = Some(UserAddOptions { no_password });
    let request = AuthUserAddRequest { name: name.clone(), password, options, ..AuthUserAddRequest::default() };
    let answer = client.user_add(request).await?;
    printer.answer(
        "/etcdserverpb.Auth/UserAdd",
        &answer,
        |out| out.line(format!("User {name} created")),
        |out| out.header(answer.header.as_ref()),
    )
}

/// Asks twice, or takes the first word of standard input.
async fn read_password(context: &Context, user: &str, interactive: &Flag) -> Result<String, Failure> {
    if !context.switch(interactive) {
        let mut line = Vec::new();
        std::io::Read::take(std::io::stdin().lock(), LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        // The error of the conversion would show it.
        let Ok(line) = String::from_utf8(line) else { return Err(Failure::bad_args("the password is not UTF-8")) };
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let failed = |error: anyhow::Error| Failure::bad_args(format!("failed to ask password: {error:#}"));
    let first = password::ask_openly(&format!("Password of {user}: ")).await.map_err(failed)?;
    if first.is_empty() {
        return Err(Failure::bad_args("empty password"));
    }
    let prompt = format!("Type password of {user} again for confirmation: ");
    if password::ask_openly(&prompt).await.map_err(failed)? != first {
        return Err(Failure::bad_args("given passwords are different"));
    }
    Ok(first)
}

async fn passwd(mut context: Context) -> Result<(), Failure> {
    let name = name(&context, "passwd")?;
    let password = read_password(&context, &name, &PASSWD_INTERACTIVE).await?;
    let (client, printer) = context.connect().await?;
    let request = AuthUserChangePasswordRequest { name, password, ..AuthUserChangePasswordRequest::default() };
    let answer = client.user_change_password(request).await?;
    printer.answer(
        "/etcdserverpb.Auth/UserChangePassword",
        &answer,
        |out| out.line("Password updated"),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn delete(mut context: Context) -> Result<(), Failure> {
    let name = name(&context, "delete")?;
    let (client, printer) = context.connect().await?;
    let answer = client.user_delete(AuthUserDeleteRequest { name: name.clone() }).await?;
    printer.answer(
        "/etcdserverpb.Auth/UserDelete",
        &answer,
        |out| out.line(format!("User {name} deleted")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn get(mut context: Context) -> Result<(), Failure> {
    let name = name(&context, "get")?;
    let detail = context.switch(&DETAIL);
    let (client, printer) = context.connect().await?;
    let answer = client.user_get(AuthUserGetRequest { name: name.clone() }).await?;
    if detail {
        print::line(&format!("User: {name}"))?;
        for role in answer.roles {
            print::line("")?;
            let permits = client.role_get(AuthRoleGetRequest { role: role.clone() }).await?;
            print_role(printer, &role, &permits)?;
        }
        return Ok(());
    }
    no_fields(printer)?;
    printer.answer(
        "/etcdserverpb.Auth/UserGet",
        &answer,
        |out| {
            out.line(format!("User: {name}"));
            let roles: String = answer.roles.iter().flat_map(|role| [" ", role]).collect();
            out.line(format!("Roles:{roles}"));
        },
        |_| {},
    )
}

/// etcdctl has no fields for who there is.
fn no_fields(printer: Printer) -> Result<(), Failure> {
    if printer.format == Format::Fields { Err(printer.unsupported()) } else { Ok(()) }
}

async fn list(mut context: Context) -> Result<(), Failure> {
    if !context.args.is_empty() {
        return Err(Failure::bad_args("user list command requires no arguments"));
    }
    let (client, printer) = context.connect().await?;
    let answer = client.user_list(AuthUserListRequest {}).await?;
    no_fields(printer)?;
    printer.answer(
        "/etcdserverpb.Auth/UserList",
        &answer,
        |out| answer.users.iter().for_each(|user| out.line(user)),
        |_| {},
    )
}

async fn grant_role(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 2 {
        return Err(Failure::bad_args("user grant command requires user name and role name as its argument"));
    }
    let (user, role) = (context.text(0), context.text(1));
    let (client, printer) = context.connect().await?;
    let answer = client.user_grant_role(AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() }).await?;
    printer.answer(
        "/etcdserverpb.Auth/UserGrantRole",
        &answer,
        |out| out.line(format!("Role {role} is granted to user {user}")),
        |out| out.header(answer.header.as_ref()),
    )
}

async fn revoke_role(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 2 {
        return Err(Failure::bad_args("user revoke-role requires user name and role name as its argument"));
    }
    let (name, role) = (context.text(0), context.text(1));
    let (client, printer) = context.connect().await?;
    let request = AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
    let answer = client.user_revoke_role(request).await?;
    printer.answer(
        "/etcdserverpb.Auth/UserRevokeRole",
        &answer,
        |out| out.line(format!("Role {role} is revoked from user {name}")),
        |out| out.header(answer.header.as_ref()),
    )
}
