//! `auth`.

use crate::cli::{Command, Group, Origin};
use crate::context::Context;
use crate::failure::Failure;
use crate::print;
use api::error::Error as ApiError;
use api::etcdserverpb::{AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthUserGrantRoleRequest};

/// The user and the role that there must be.
const ROOT: &str = "root";

pub(crate) const COMMAND: Command = Command {
    name: "auth",
    usage: "<enable or disable>",
    short: "Enable or disable authentication",
    group: Group::Users,
    commands: &[&DISABLE, &ENABLE, &STATUS],
    ..Command::NONE
};

const DISABLE: Command = Command {
    name: "disable",
    short: "Disables authentication",
    run: Some(|context| Box::pin(disable(context))),
    ..Command::NONE
};

const ENABLE: Command = Command {
    name: "enable",
    short: "Enables authentication",
    run: Some(|context| Box::pin(enable(context))),
    ..Command::NONE
};

const STATUS: Command = Command {
    name: "status",
    short: "Returns authentication status",
    origin: Origin::Later,
    run: Some(|context| Box::pin(status(context))),
    ..Command::NONE
};

fn no_arguments(context: &Context, command: &str) -> Result<(), Failure> {
    if context.args.is_empty() {
        return Ok(());
    }
    Err(Failure::bad_args(format!("auth {command} command does not accept any arguments")))
}

/// Enables authentication. The role of the user `root` is made if it is missing.
async fn enable(mut context: Context) -> Result<(), Failure> {
    no_arguments(&context, "enable")?;
    let (client, _) = context.connect().await?;
    let enabled = client.auth_enable(AuthEnableRequest {}).await;
    match enabled {
        Err(error) if error.is(ApiError::RootRoleNotGranted) => {
            client.role_add(AuthRoleAddRequest { name: ROOT.to_owned() }).await?;
            let grant = AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
            client.user_grant_role(grant).await?;
            client.auth_enable(AuthEnableRequest {}).await?;
        }
        enabled => drop(enabled?),
    }
    print::line("Authentication Enabled")
}

async fn disable(mut context: Context) -> Result<(), Failure> {
    no_arguments(&context, "disable")?;
    let (client, _) = context.connect().await?;
    client.auth_disable(AuthDisableRequest {}).await?;
    print::line("Authentication Disabled")
}

async fn status(mut context: Context) -> Result<(), Failure> {
    no_arguments(&context, "status")?;
    let (client, printer) = context.connect().await?;
    let answer = client.auth_status().await?;
    printer.answer(
        "/etcdserverpb.Auth/AuthStatus",
        &answer,
        |out| {
            out.line(format!("Authentication Status: {}", answer.enabled));
            out.line(format!("AuthRevision: {}", answer.auth_revision));
        },
        |out| {
            out.header(answer.header.as_ref());
            out.plain("Enabled", answer.enabled);
            out.plain("AuthRevision", answer.auth_revision);
        },
    )
}
