//! `alarm`, `compaction`, `defrag`, `downgrade` and `move-leader`.

use super::endpoint::{CLUSTER, endpoints};
use crate::cli::{Command, Flag, Group, Origin};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::print::{self, Format, Printer};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::downgrade_request::DowngradeAction;
use api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, DowngradeRequest, MoveLeaderRequest,
};
use go::strconv;

const PHYSICAL: Flag = Flag::switch("physical", "'true' to wait for compaction to physically remove all old revisions");
const DATA_DIR: Flag =
    Flag::string("data-dir", "", "Optional. If present, defragments a data directory not in use by etcd.");

pub(crate) const ALARM: Command = Command {
    name: "alarm",
    usage: "<subcommand>",
    short: "Alarm related commands",
    group: Group::Cluster,
    commands: &[&DISARM, &LIST],
    ..Command::NONE
};

const DISARM: Command = Command {
    name: "disarm",
    short: "Disarms all alarms",
    run: Some(|context| Box::pin(disarm(context))),
    ..Command::NONE
};

const LIST: Command = Command {
    name: "list",
    short: "Lists all alarms",
    run: Some(|context| Box::pin(list_alarms(context))),
    ..Command::NONE
};

pub(crate) const COMPACTION: Command = Command {
    name: "compaction",
    usage: "[options] <revision>",
    short: "Compacts the event history in etcd",
    flags: &[PHYSICAL],
    run: Some(|context| Box::pin(compaction(context))),
    ..Command::NONE
};

pub(crate) const DEFRAG: Command = Command {
    name: "defrag",
    short: "Defragments the storage of the etcd members with given endpoints",
    group: Group::Cluster,
    flags: &[DATA_DIR],
    persistent: &[CLUSTER],
    run: Some(|context| Box::pin(defrag(context))),
    ..Command::NONE
};

pub(crate) const MOVE_LEADER: Command = Command {
    name: "move-leader",
    usage: "<transferee-member-id>",
    short: "Transfers leadership to another etcd cluster member.",
    group: Group::Cluster,
    run: Some(|context| Box::pin(move_leader(context))),
    ..Command::NONE
};

pub(crate) const DOWNGRADE: Command = Command {
    name: "downgrade",
    usage: "<subcommand>",
    short: "Downgrade related commands",
    origin: Origin::Later,
    group: Group::Cluster,
    commands: &[&DOWNGRADE_CANCEL, &DOWNGRADE_ENABLE, &DOWNGRADE_VALIDATE],
    ..Command::NONE
};

const DOWNGRADE_CANCEL: Command = Command {
    name: "cancel",
    short: "Cancel the ongoing downgrade action to cluster",
    run: Some(|context| Box::pin(downgrade(context, DowngradeAction::Cancel))),
    ..Command::NONE
};

const DOWNGRADE_ENABLE: Command = Command {
    name: "enable",
    usage: "<TARGET_VERSION>",
    short: "Start a downgrade action to cluster",
    run: Some(|context| Box::pin(downgrade(context, DowngradeAction::Enable))),
    ..Command::NONE
};

const DOWNGRADE_VALIDATE: Command = Command {
    name: "validate",
    usage: "<TARGET_VERSION>",
    short: "Validate downgrade capability before starting downgrade",
    run: Some(|context| Box::pin(downgrade(context, DowngradeAction::Validate))),
    ..Command::NONE
};

fn no_arguments(context: &Context, command: &str) -> Result<(), Failure> {
    if context.args.is_empty() {
        return Ok(());
    }
    Err(Failure::bad_args(format!("{command} command accepts no arguments")))
}

async fn list_alarms(mut context: Context) -> Result<(), Failure> {
    no_arguments(&context, "alarm list")?;
    let (client, printer) = context.connect().await?;
    let request = AlarmRequest { action: AlarmAction::Get.into(), member_id: 0, alarm: AlarmType::None.into() };
    print_alarms(printer, &client.alarm(request).await?)
}

/// Ends every alarm that there is, one after another, and prints the last answers together.
async fn disarm(mut context: Context) -> Result<(), Failure> {
    no_arguments(&context, "alarm disarm")?;
    let (client, printer) = context.connect().await?;
    let request = |action: AlarmAction, alarm: AlarmMember| AlarmRequest {
        action: action.into(),
        member_id: alarm.member_id,
        alarm: alarm.alarm,
    };
    let there = client.raised_alarms().await?;
    let mut ended = AlarmResponse::default();
    for alarm in there.alarms {
        ended.alarms.extend(client.alarm(request(AlarmAction::Deactivate, alarm)).await?.alarms);
    }
    print_alarms(printer, &ended)
}

fn print_alarms(printer: Printer, answer: &AlarmResponse) -> Result<(), Failure> {
    let name =
        |alarm: i32| AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |t| t.as_str_name().to_owned());
    printer.answer(
        "/etcdserverpb.Maintenance/Alarm",
        answer,
        |out| {
            for alarm in &answer.alarms {
                // The text form of a message leaves out what is zero.
                let mut line = String::new();
                if alarm.member_id != 0 {
                    line += &format!("memberID:{} ", alarm.member_id);
                }
                if alarm.alarm != 0 {
                    line += &format!("alarm:{} ", name(alarm.alarm));
                }
                out.line(line);
            }
        },
        |out| {
            out.header(answer.header.as_ref());
            for alarm in &answer.alarms {
                out.plain("MemberID", alarm.member_id);
                out.plain("AlarmType", name(alarm.alarm));
                out.line("");
            }
        },
    )
}

async fn compaction(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("compaction command needs 1 argument"));
    }
    let revision = strconv::parse_int(context.text(0).as_bytes(), 10)
        .map_err(|why| Failure::new(code::ERROR, String::from(why)))?;
    let physical = context.switch(&PHYSICAL);
    let (client, _) = context.connect().await?;
    client.compact(CompactionRequest { revision, physical }).await?;
    print::line(&format!("compacted revision {revision}"))
}

async fn defrag(mut context: Context) -> Result<(), Failure> {
    if let Some(data_dir) = context.file(&DATA_DIR) {
        return crate::offline::defrag(&data_dir, context.is_etcdctl());
    }
    context.connect().await?;
    let mut failed = false;
    for endpoint in endpoints(&mut context).await? {
        let client = context.client_of(&endpoint).await?;
        match client.defragment().await {
            Ok(_) => print::line(&format!("Finished defragmenting etcd member[{endpoint}]"))?,
            Err(error) => {
                let why = context.why(&error);
                tell!("Failed to defragment etcd member[{endpoint}] ({why})");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::silent(code::ERROR)) } else { Ok(()) }
}

async fn move_leader(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("move-leader command needs 1 argument"));
    }
    let target_id = strconv::parse_uint(context.text(0).as_bytes(), 16).map_err(Failure::bad_args)?;
    let (_, printer) = context.connect().await?;
    let endpoints = context.endpoints();
    for endpoint in &endpoints {
        let client = context.client_of(endpoint).await?;
        let status = client.member_status().await?;
        if status.header.is_none_or(|header| header.member_id != status.leader) {
            continue;
        }
        let answer = client.move_leader(MoveLeaderRequest { target_id }).await?;
        if matches!(printer.format, Format::Fields) {
            return Err(printer.unsupported());
        }
        return printer.answer(
            "/etcdserverpb.Maintenance/MoveLeader",
            &answer,
            |out| out.line(format!("Leadership transferred from {:x} to {target_id:x}", status.leader)),
            |_| {},
        );
    }
    Err(Failure::bad_args(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
}

async fn downgrade(mut context: Context, action: DowngradeAction) -> Result<(), Failure> {
    let version = context.text(0);
    match action {
        DowngradeAction::Cancel if !context.args.is_empty() => {
            return Err(Failure::bad_args("downgrade cancel accepts no arguments"));
        }
        DowngradeAction::Enable | DowngradeAction::Validate if context.args.len() != 1 => {
            return Err(Failure::bad_args("TARGET_VERSION not provided"));
        }
        _ => {}
    }
    let (client, printer) = context.connect().await?;
    let answer = client.downgrade(DowngradeRequest { action: action.into(), version }).await?;
    let done = match action {
        DowngradeAction::Validate => "validate",
        DowngradeAction::Enable => "enable",
        DowngradeAction::Cancel => "cancel",
    };
    printer.answer(
        "/etcdserverpb.Maintenance/Downgrade",
        &answer,
        |out| out.line(format!("Downgrade {done} success, cluster version {}", answer.version)),
        |out| {
            out.header(answer.header.as_ref());
            out.quoted("ClusterVersion", &answer.version);
        },
    )
}
