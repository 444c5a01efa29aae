//! `history`, `diff`, `revert`, `tree`, `edit` and `del --dry-run`.

use super::{DEADLINE, fails, outcome, same, says};
use crate::cutter::Holder;
use crate::restore::command;
use anyhow::{Context as _, Result, ensure};
use api::etcdserverpb::CompactionRequest;
use harness::server::built_binary;
use harness::tool::run;
use harness::{Kind, Server};
use std::os::unix::process::CommandExt as _;

/// Revisions 2 to 8.
const WRITES: [&[&str]; 7] = [
    &["put", "/app/color", "red"],
    &["put", "/app/color", "green"],
    &["put", "/app/db/host", "db1"],
    &["del", "/app/color"],
    &["put", "/app/color", "blue"],
    &["put", "/app/file", "a: 1\nb: 2\n"],
    &["put", "/app/gone", "x"],
];

async fn filled(kind: Kind) -> Result<Server> {
    let server = Server::start(kind).await?;
    for args in WRITES {
        says(&server, args).await?;
    }
    Ok(server)
}

#[tokio::test]
async fn history_has_every_change_that_is_left() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let all = "REVISION  CHANGE  VERSION  VALUE
       2  create        1  red
       3  put           2  green
       5  delete
       6  create        1  blue
";
        same(&says(&server, &["history", "/app/color"]).await?, all)?;
        same(
            &fails(&server, &["history", "/app/none"], 1).await?,
            "Error: /app/none does not exist, and no change of it was seen within 1s\n",
        )?;
        // One that does not exist any more has a history as well.
        says(&server, &["del", "/app/gone"]).await?;
        let gone = says(&server, &["history", "/app/gone"]).await?;
        same(&gone, "REVISION  CHANGE  VERSION  VALUE\n       8  create        1  x\n       9  delete\n")?;
        let newest = says(&server, &["history", "/app/color", "--limit", "1"]).await?;
        ensure!(newest.contains("3 changes before, see --limit") && newest.ends_with("blue\n"), "{newest}");
        let json = says(&server, &["history", "/app/color", "-w", "json"]).await?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        ensure!(json["changes"][1]["value"] == "Z3JlZW4=" && json["changes"][2]["change"] == "delete", "{json}");
        // What the compaction leaves: the value that counted then.
        let compaction = CompactionRequest { revision: 4, physical: true };
        server.client().await?.kv.compact(compaction).await?;
        let rest = "REVISION  CHANGE  VERSION  VALUE
          what was before revision 4 is compacted
       3  put           2  green
       5  delete
       6  create        1  blue
";
        same(&says(&server, &["history", "/app/color"]).await?, rest)?;
        let never = fails(&server, &["history", "/app/none"], 1).await?;
        ensure!(never.contains("has no history: what happened before revision 4 was compacted"), "{never}");
    }
    Ok(())
}

/// It does not exist when it is looked up, and does when its history is read.
#[tokio::test]
async fn history_ends_when_the_key_is_created_meanwhile() -> Result<()> {
    const KEY: &str = "/app/late";
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        says(&server, &["put", KEY, "red"]).await?;
        says(&server, &["del", KEY]).await?;
        let holder = Holder::before(&server, KEY).await?;
        let history = run(command(&["history", KEY, "--endpoints", &holder.endpoint])?.into(), b"", DEADLINE);
        let create = async {
            holder.holds(DEADLINE).await?;
            says(&server, &["put", KEY, "blue"]).await?;
            holder.release();
            Ok(())
        };
        let (output, ()) = tokio::try_join!(history, create)?;
        ensure!(output.code == Some(0), "{kind}: {output:?}");
        let all = "REVISION  CHANGE  VERSION  VALUE
       2  create        1  red
       3  delete
       4  create        1  blue
";
        same(&output.stdout, all)?;
    }
    Ok(())
}

#[tokio::test]
async fn diff_shows_what_changed_between_two_revisions() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let expected = "~ /app/color
  - red
  + blue
+ /app/db/host
  + db1
+ /app/file
  + a: 1
  + b: 2
2 added, 1 changed, 0 removed between the revisions 2 and 7
";
        same(&says(&server, &["diff", "--rev", "2..7", "/app/"]).await?, expected)?;
        let keys = says(&server, &["diff", "--rev", "7..", "--keys-only"]).await?;
        same(&keys, "+ /app/gone\n1 added, 0 changed, 0 removed between the revisions 7 and 8\n")?;
        same(&says(&server, &["diff", "--rev", "8..8"]).await?, "nothing differs between the revisions 8 and 8\n")?;
        let late = fails(&server, &["diff", "--rev", "9..12"], 1).await?;
        ensure!(late.contains("revision 12 does not exist yet"), "{late}");
        let order = fails(&server, &["diff", "--rev", "7..2"], 1).await?;
        ensure!(order.contains("write the earlier one first"), "{order}");
        server.client().await?.kv.compact(CompactionRequest { revision: 5, physical: true }).await?;
        let compacted = fails(&server, &["diff", "--rev", "2..7"], 1).await?;
        ensure!(
            compacted.contains("revision 2 has been compacted; the oldest that can still be read is 5"),
            "{compacted}"
        );
        let bad = fails(&server, &["diff", "--rev", "x"], 128).await?;
        ensure!(bad.contains("write two revisions as 10..25"), "{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn revert_gives_a_key_what_it_had() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let dry = says(&server, &["revert", "/app/color", "--rev", "3", "--dry-run"]).await?;
        same(&dry, "~ /app/color\n  - blue\n  + green\nnothing was written (--dry-run)\n")?;
        let done = says(&server, &["revert", "/app/color", "--rev", "3"]).await?;
        ensure!(done.ends_with("/app/color has the value of revision 3 again, at revision 9\n"), "{done}");
        same(&says(&server, &["get", "/app/color", "--print-value-only"]).await?, "green\n")?;
        let again = says(&server, &["revert", "/app/color", "--rev", "3"]).await?;
        same(&again, "/app/color has the value of revision 3 already\n")?;
        let deleted = says(&server, &["revert", "/app/color", "--rev", "5"]).await?;
        ensure!(deleted.contains("/app/color is deleted, as it was at revision 5, at revision 10"), "{deleted}");
        same(&says(&server, &["get", "/app/color"]).await?, "")?;
        let missing = fails(&server, &["revert", "/app/color"], 128).await?;
        ensure!(missing.contains("name a revision above 0 with --rev"), "{missing}");
        // A lease that the key has by now stays.
        let lease = says(&server, &["put", "/app/color", "leased", "--lease", &grant(&server).await?]).await;
        ensure!(lease.is_ok(), "{lease:?}");
        says(&server, &["revert", "/app/color", "--rev", "3"]).await?;
        let kv: serde_json::Value = serde_json::from_str(&says(&server, &["get", "/app/color", "-w", "json"]).await?)?;
        ensure!(kv["kvs"][0]["value"] == "Z3JlZW4=" && kv["kvs"][0]["lease"] != 0, "{kv}");
    }
    Ok(())
}

/// A lease, as its id in hexadecimal digits.
async fn grant(server: &Server) -> Result<String> {
    let grant = api::etcdserverpb::LeaseGrantRequest { ttl: 600, id: 0 };
    Ok(format!("{:x}", server.client().await?.lease.lease_grant(grant).await?.into_inner().id))
}

#[tokio::test]
async fn tree_has_the_directories_that_slashes_make() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let ascii = outcome(&server, &["tree", "/app/"], &[("LC_ALL", "C")], "").await?.stdout;
        same(&ascii, "/app/\n|-- color\n|-- db/\n|   `-- host\n|-- file\n`-- gone\n\n1 directory, 4 keys\n")?;
        let utf8 = [("LC_ALL", "C.UTF-8")];
        let before = outcome(&server, &["tree", "--rev", "4", "--values"], &utf8, "").await?.stdout;
        same(
            &before,
            ".\n└── /app/\n    ├── color = green\n    └── db/\n        └── host = db1\n\n3 directories, 2 keys\n",
        )?;
        let shallow = outcome(&server, &["tree", "/app/", "-L", "1"], &utf8, "").await?.stdout;
        ensure!(shallow.contains("├── db/  1 key\n"), "{shallow}");
    }
    Ok(())
}

#[tokio::test]
async fn edit_writes_what_the_editor_leaves_unless_somebody_was_faster() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let edit = async |key: &str, editor: &str| outcome(&server, &["edit", key], &[("VISUAL", editor)], "").await;
        let done = edit("/app/color", "sed -i s/blue/pink/").await?;
        same(&done.stdout, "/app/color is written, at revision 9\n")?;
        same(&edit("/app/color", "true").await?.stdout, "/app/color is left as it was\n")?;
        same(&edit("/app/new", "echo fresh >").await?.stdout, "/app/new is written, at revision 10\n")?;
        same(&says(&server, &["get", "/app/new"]).await?, "/app/new\nfresh\n")?;
        let failed = edit("/app/color", "false").await?;
        ensure!(failed.code == Some(1) && failed.stderr.contains("the editor \"false\" ended with"), "{failed:?}");
        // Somebody writes the key while the editor is open.
        let cleatctl = built_binary("cleatctl")?;
        let other = format!("{} --endpoints {} put /app/color other", cleatctl.display(), server.endpoint());
        let script = server.scratch().join("editor");
        std::fs::write(&script, format!("#!/bin/sh\necho mine > \"$1\"\n{other}\n"))?;
        let lost = edit("/app/color", &format!("sh {}", script.display())).await?;
        ensure!(lost.code == Some(1), "{lost:?}");
        let file = lost.stderr.trim_end().split("what you wrote is in ").nth(1).context(lost.stderr.clone())?;
        same(&std::fs::read_to_string(file)?, "mine\n")?;
        std::fs::remove_dir_all(std::path::Path::new(file).parent().context("a directory")?)?;
        same(&says(&server, &["get", "/app/color", "--print-value-only"]).await?, "other\n")?;
    }
    Ok(())
}

/// What the keyboard's Ctrl-C sends goes to everybody in front of it: the editor lives on, and so must who waits for it.
#[tokio::test]
async fn an_interrupt_in_the_editor_is_the_editors() -> Result<()> {
    let server = filled(Kind::Cleat).await?;
    let script = server.scratch().join("editor");
    std::fs::write(&script, "#!/bin/sh\ntrap '' INT QUIT\nkill -INT 0\nkill -QUIT 0\nsleep 1\necho typed > \"$1\"\n")?;
    let mut command = command(&["edit", "/app/color", "--endpoints", &server.endpoint()])?;
    // A process group of its own: nobody else is interrupted.
    command.env("VISUAL", format!("exec sh {}", script.display())).process_group(0).current_dir(server.scratch());
    let output = run(command.into(), b"", DEADLINE).await?;
    same(&output.stdout, "/app/color is written, at revision 9\n")?;
    same(&says(&server, &["get", "/app/color", "--print-value-only"]).await?, "typed\n")
}

#[tokio::test]
async fn the_environment_names_the_endpoints() -> Result<()> {
    let server = filled(Kind::Cleat).await?;
    for args in [&["history", "/app/color"][..], &["tree"], &["status"], &["export"], &["diff", "--rev", "2..3"]] {
        let mut command = command(args)?;
        command.env("ETCDCTL_ENDPOINTS", server.endpoint()).current_dir(server.scratch());
        let output = run(command.into(), b"", DEADLINE).await?;
        ensure!(output.code == Some(0), "{args:?}: {output:?}");
    }
    // A format that a command does not have ends it as the pages say.
    let refused = fails(&server, &["tree", "-w", "json"], 4).await?;
    same(&refused, "Error: tree prints simple only; leave --write-out out\n")
}

#[tokio::test]
async fn a_dry_run_of_del_names_the_keys_and_keeps_them() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let dry = says(&server, &["del", "--prefix", "/app/", "--dry-run"]).await?;
        let expected = "- /app/color\n- /app/db/host\n- /app/file\n- /app/gone\n4 keys to delete; nothing was deleted (--dry-run)\n";
        same(&dry, expected)?;
        let one = says(&server, &["del", "/app/color", "--dry-run"]).await?;
        same(&one, "- /app/color\n1 key to delete; nothing was deleted (--dry-run)\n")?;
        // Nobody is asked who is not there.
        same(&says(&server, &["del", "--prefix", "/app/"]).await?, "4\n")?;
    }
    Ok(())
}
