//! What is asked at a terminal, and what a program called `etcdctl` does not have.

use super::{DEADLINE, fails, outcome, same, says};
use anyhow::{Context as _, Result, ensure};
use harness::server::built_binary;
use harness::tool::run;
use harness::{Kind, Output, Server};
use tokio::process::Command;

/// Runs a command at a terminal of its own, whose person types the answer.
async fn at_a_terminal(server: &Server, program: &str, words: &str, answer: &str) -> Result<Output> {
    let mut command = Command::new("script");
    let line = format!("stty cols 80; {program} --endpoints {} {words}", server.endpoint());
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(server.scratch());
    command.env("TERM", "xterm").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
    run(command, answer.as_bytes(), DEADLINE).await
}

async fn filled(kind: Kind) -> Result<Server> {
    let server = Server::start(kind).await?;
    for key in ["a/1", "a/2", "b"] {
        says(&server, &["put", key, "red"]).await?;
    }
    Ok(server)
}

#[tokio::test]
async fn a_person_is_asked_before_many_keys_go() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        let refused = at_a_terminal(&server, &cleatctl, "del --prefix a/", "n\n").await?;
        ensure!(refused.code == Some(1), "{refused:?}");
        ensure!(refused.stdout.contains("Delete 2 keys that begin with a/? [y/N] "), "{refused:?}");
        ensure!(refused.stdout.contains("nothing was changed: the answer was not yes"), "{refused:?}");
        same(&says(&server, &["get", "--prefix", "a/", "--keys-only"]).await?, "a/1\n\na/2\n\n")?;
        let done = at_a_terminal(&server, &cleatctl, "del --prefix a/", "y\n").await?;
        ensure!(done.code == Some(0) && done.stdout.trim_end().ends_with('2'), "{done:?}");
        // One key, and who is sure, are not asked about.
        let one = at_a_terminal(&server, &cleatctl, "del b", "").await?;
        ensure!(one.code == Some(0) && !one.stdout.contains("[y/N]"), "{one:?}");
        says(&server, &["put", "a/1", "red"]).await?;
        let sure = at_a_terminal(&server, &cleatctl, "del --prefix a/ --yes", "").await?;
        ensure!(sure.code == Some(0) && !sure.stdout.contains("[y/N]"), "{sure:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_terminal_has_colours_unless_they_are_unwelcome() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    let server = filled(Kind::Cleat).await?;
    let coloured = at_a_terminal(&server, &cleatctl, "history b", "").await?;
    ensure!(coloured.stdout.contains("\x1b[32mcreate"), "{coloured:?}");
    let plain = at_a_terminal(&server, &format!("env NO_COLOR=1 {cleatctl}"), "history b", "").await?;
    ensure!(plain.stdout.contains("create") && !plain.stdout.contains('\x1b'), "{plain:?}");
    let revert = at_a_terminal(&server, &cleatctl, "revert b --rev 3", "\n").await?;
    ensure!(revert.stdout.contains("Take b back to revision 3? [y/N]") && revert.code == Some(1), "{revert:?}");
    same(&says(&server, &["get", "b", "--print-value-only"]).await?, "red\n")
}

/// How far it is, and how fast, at a terminal alone, where nothing of it is left.
#[tokio::test]
async fn a_terminal_sees_how_far_files_are() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = filled(kind).await?;
        for key in 0..8 {
            let value = "v".repeat(100_000);
            says(&server, &["put", &format!("large/{key}"), &value]).await?;
        }
        let saved = outcome(&server, &["snapshot", "save", "backup"], &[], "").await?;
        ensure!(saved.code == Some(0) && saved.stderr.lines().count() == 1, "{saved:?}");
        let migrate = if kind == Kind::Etcd { "migrate from-etcd" } else { "migrate to-etcd" };
        let target = if kind == Kind::Etcd { "--data-dir migrated" } else { "migrated" };
        let last = if kind == Kind::Etcd { "reading" } else { "writing" };
        for (words, steps) in [
            ("snapshot restore backup --data-dir restored".to_owned(), ["checking", "reading"]),
            (format!("{migrate} backup {target}"), ["reading", last]),
        ] {
            let seen = at_a_terminal(&server, &cleatctl, &words, "").await?;
            ensure!(seen.code == Some(0), "{words}: {seen:?}");
            for step in steps {
                let shown = seen.stdout.split(['\r', '\n']).filter(|line| line.contains(step));
                ensure!(shown.clone().any(|line| line.contains("iB") && line.contains("B/s")), "{words}: {seen:?}");
            }
            // Every line of it was taken away.
            let (_, rest) = seen.stdout.rsplit_once("B/s").context("no rate")?;
            ensure!(rest.contains("\x1b[2K"), "{words}: {seen:?}");
        }
        let piped = outcome(&server, &["snapshot", "restore", "backup", "--data-dir", "piped"], &[], "").await?;
        ensure!(piped.code == Some(0) && piped.stderr.lines().count() == 1, "{piped:?}");
        ensure!(piped.stderr.starts_with("backup is now member "), "{piped:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_program_called_etcdctl_has_nothing_of_it() -> Result<()> {
    let server = filled(Kind::Cleat).await?;
    let link = server.scratch().join("etcdctl");
    std::os::unix::fs::symlink(built_binary("cleatctl")?, &link)?;
    let link = link.display().to_string();
    // No question: whoever calls it that way is used to that.
    let deleted = at_a_terminal(&server, &link, "del --prefix a/", "").await?;
    same(deleted.stdout.trim_end(), "2")?;
    // No bars: whoever reads its words from a terminal finds nothing among them.
    let saved = at_a_terminal(&server, &link, "snapshot save backup", "").await?;
    same(saved.stdout.lines().last().unwrap_or_default(), "Snapshot saved at backup")?;
    let restored = at_a_terminal(&server, &link, "snapshot restore backup --data-dir restored", "").await?;
    let logged = restored.stdout.lines().map(|line| serde_json::from_str(line).context("a line of a log"));
    let logged = logged.collect::<Result<Vec<serde_json::Value>>>()?;
    let words: Vec<_> = logged.iter().filter_map(|line| line["msg"].as_str()).collect();
    ensure!(words == ["restoring snapshot", "added member", "restored snapshot"], "{restored:?}");
    for seen in [&saved, &restored] {
        ensure!(seen.code == Some(0) && !seen.stdout.contains(['\x1b', '%']), "{seen:?}");
    }
    for words in ["history b", "status", "del b --dry-run"] {
        let refused = at_a_terminal(&server, &link, words, "").await?;
        ensure!(refused.code == Some(1) && refused.stdout.contains("unknown "), "{words}: {refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_error_names_cause_place_and_remedy() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let future = fails(&server, &["get", "a", "--rev", "100"], 1).await?;
    let expected = format!(
        "Error: etcdserver: mvcc: required revision is a future revision\n  from: {}\n  do:   name a revision that exists, or none \
         for the present state\n",
        server.endpoint()
    );
    same(future.split("http://").collect::<String>().as_str(), &expected)?;
    server.terminate().await?;
    let gone = fails(&server, &["--command-timeout", "1s", "get", "a"], 1).await?;
    ensure!(gone.contains("Connection refused") && gone.contains(server.endpoint().as_str()), "{gone}");
    ensure!(gone.contains("do:   start a member there") && !gone.contains("deadline"), "{gone}");
    for (args, code) in [
        (&["endpoint", "health"][..], 1),
        (&["endpoint", "status"], 1),
        (&["endpoint", "hashkv"], 1),
        (&["snapshot", "save", "backup"], 5),
    ] {
        let gone = fails(&server, &[&["--command-timeout", "1s"], args].concat(), code).await?;
        ensure!(gone.contains("Connection refused") && !gone.contains("deadline"), "{args:?}: {gone}");
        ensure!(gone.contains("do:   ") == (args[0] == "snapshot" || args[1] == "hashkv"), "{args:?}: {gone}");
    }
    Ok(())
}

/// What `lock --fencing` prints, once it has the lock; it is ended then.
async fn fencing(server: &Server) -> Result<(String, i64)> {
    let mut command = crate::restore::command(&["lock", "door", "--fencing", "--endpoints", &server.endpoint()])?;
    command.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::null());
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    let mut next = async || tokio::time::timeout(DEADLINE, lines.next_line()).await??.context("a line");
    let (key, revision) = (next().await?, next().await?.parse()?);
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id().context("it runs")?)?).context("a process")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    tokio::time::timeout(DEADLINE, child.wait()).await??;
    Ok((key, revision))
}

#[tokio::test]
async fn a_lock_tells_a_revision_that_grows_from_holder_to_holder() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let (first, earlier) = fencing(&server).await?;
        let (second, later) = fencing(&server).await?;
        ensure!(first.starts_with("door/") && second.starts_with("door/") && first != second, "{first} {second}");
        ensure!(earlier > 0 && later > earlier, "{earlier} {later}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dry_run_of_member_remove_says_what_is_left() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let list = says(&server, &["member", "list"]).await?;
        let id = list.split(',').next().context("an id")?.to_owned();
        let expected = format!("default ({id}): 0 voters are left, 0 failures tolerated");
        let dry = says(&server, &["member", "remove", &id, "--dry-run"]).await?;
        same(&dry, &format!("would remove {expected}; nothing was removed (--dry-run)\n"))?;
        let refused = at_a_terminal(&server, &cleatctl, &format!("member remove {id}"), "n\n").await?;
        ensure!(
            refused.code == Some(1) && refused.stdout.contains(&format!("Remove {expected}? [y/N]")),
            "{refused:?}"
        );
        same(&says(&server, &["member", "list"]).await?, &list)?;
    }
    Ok(())
}

/// What is longer than the terminal is broken between words, whoever says it.
#[tokio::test]
async fn no_line_is_broken_within_a_word() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    let server = filled(Kind::Cleat).await?;
    let log = format!("wal inspect {}", server.data_dir().display());
    for (program, words, code) in [
        (format!("env ETCDCTL_ENDPOINTS=127.0.0.1:1 {cleatctl}"), "get b", 0),
        (cleatctl.clone(), &*log, 0),
        (cleatctl.clone(), "defrag --data-dir a-directory-in-which-no-member-has-ever-had-a-store", 1),
    ] {
        let seen = at_a_terminal(&server, &program, words, "").await?;
        ensure!(seen.code == Some(code), "{words}: {seen:?}");
        let lines: Vec<&str> = seen.stdout.lines().map(str::trim_end).collect();
        ensure!(lines.len() > 1 && lines.iter().all(|line| line.chars().count() <= 80), "{words}: {seen:?}");
    }
    Ok(())
}

/// When all is copied there is something to see of what goes on, for a person alone.
#[tokio::test]
async fn a_mirror_says_that_it_follows() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?.display().to_string();
    let server = filled(Kind::Cleat).await?;
    let words = format!("make-mirror {} --prefix a/ --dest-prefix m/", server.endpoint());
    let seen = at_a_terminal(&server, &format!("timeout --signal INT 3 {cleatctl}"), &words, "").await?;
    ensure!(seen.stdout.contains("2 copied, and following every change until Ctrl-C"), "{seen:?}");
    let mut piped = Command::new("timeout");
    piped.args(["--signal", "INT", "1", &cleatctl, "--endpoints", &server.endpoint()]).args(words.split(' '));
    let piped = run(piped, b"", DEADLINE).await?;
    ensure!(piped.stderr.is_empty() && piped.stdout.is_empty(), "{piped:?}");
    Ok(())
}
