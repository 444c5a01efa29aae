//! What operators see: health, metrics, systemd's messages, log lines, and rounds beside those for changes.

use crate::site::{Running, Site, read, text, until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lets confd choose where it tells how it goes.
const ANY: &str = "127.0.0.1:0";

/// Where a confd that was started with [`ANY`] tells how it goes.
fn address(running: &Running) -> Result<String> {
    let mut found = None;
    until("the address", || {
        let log = running.log();
        let line = log.lines().find_map(|line| line.split_once("health and metrics are at http://"));
        found = line.map(|(_, address)| address.to_owned());
        found.is_some()
    })?;
    found.context("no address")
}

/// Status and body.
fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer in HTTP")?;
    Ok((head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?, body.to_owned()))
}

#[test]
fn health_readiness_and_metrics_tell_how_it_goes() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    fs::write(&data, "a: hunter2\n")?;
    let gate = site.path("gate");
    let more = format!("keys = ['/a']\ncheck_cmd = 'true'\nreload_cmd = 'test -e {}'", gate.display());
    site.resource("a", "{{getv \"/a\"}}", &more)?;
    site.resource("b", "{{getv \"/b\"}}", "keys = ['/b']")?;
    let flags = |address| ["-backend", "file", "-file", &data, "-watch", "-metrics-addr", address];
    let mut running = Running::start(&mut site.command(&flags(ANY)))?;
    let address = address(&running)?;
    let ready = || get(&address, "/ready").unwrap_or_default();
    until("both failures", || {
        let (code, body) = ready();
        code == 503 && body.contains("out/b is not up to date") && body.contains("out/a failed")
    })?;
    ensure!(get(&address, "/health")? == (200, "ok\n".to_owned()));
    let (code, body) = get(&address, "/ready/detailed")?;
    let details: Value = serde_json::from_str(&body)?;
    ensure!(code == 503 && details["ready"] == false && details["backend_healthy"] == true, "{details}");
    ensure!(details["resources"].as_array().is_some_and(|resources| resources.len() == 2), "{details}");
    fs::write(&gate, "")?;
    fs::write(&data, "a: hunter2\nb: two\n")?;
    until("everything", || ready() == (200, "ok\n".to_owned()))?;
    let (_, metrics) = get(&address, "/metrics")?;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<i64>().ok()).unwrap_or(-1)
    };
    ensure!(value("confd_templates_loaded") == 2 && value("confd_watched_keys") == 2, "{metrics}");
    ensure!(value("confd_templates_failing") == 0 && value("confd_reloads_pending") == 0, "{metrics}");
    ensure!(value("confd_file_changed_total") == 2, "{metrics}");
    ensure!(value("confd_command_total{status=\"error\",type=\"reload\"}") >= 1, "{metrics}");
    ensure!(value("confd_command_total{status=\"success\",type=\"check\"}") == 1, "{metrics}");
    ensure!(value("confd_backend_healthy") == 1 && !metrics.contains("hunter2"), "{metrics}");
    ensure!(get(&address, "/nothing")?.0 == 404);
    // More connections than are served at once, which say nothing: who asks later waits, and is answered.
    let _quiet: Vec<TcpStream> = (0..40).map_while(|_| TcpStream::connect(&address).ok()).collect();
    ensure!(get(&address, "/health")?.0 == 200);
    // An address that is taken is told at once.
    let output = site.run(&flags(&address), &[])?;
    ensure!(output.status.code() == Some(1) && text(&output).contains("-metrics-addr "), "{}", text(&output));
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    Ok(())
}

#[test]
fn a_file_that_was_put_back_is_no_success_and_is_tried_again() -> Result<()> {
    let site = Site::new()?;
    let (data, gate, started) = (site.path("data.yaml"), site.path("gate"), site.path("started"));
    fs::write(&data, "a: new\n")?;
    fs::write(site.out("a"), "old")?;
    let dest = site.out("a").display().to_string();
    // It fails with the new file, and succeeds with the old one.
    let reload = format!("grep -q old {dest} || test -e {}", gate.display());
    site.resource("a", "{{getv \"/a\"}}", &format!("keys = ['/a']\nrollback = true\nreload_cmd = '{reload}'"))?;
    let (data, program) = (data.display().to_string(), format!("echo x > {}; exec sleep 1000", started.display()));
    let flags = ["-backend", "file", "-file", &data, "-watch", "-metrics-addr", ANY, "-exec", &program];
    let mut running = Running::start(site.command(&flags).stdout(Stdio::null()))?;
    let address = address(&running)?;
    // Nothing changes, and all the same it is tried again.
    until("the second try", || running.log().matches("is as it was before").count() >= 2)?;
    let (code, body) = get(&address, "/ready")?;
    ensure!(code == 503 && body.contains("out/a is not up to date"), "{code} {body}");
    let (_, metrics) = get(&address, "/metrics")?;
    ensure!(metrics.contains("confd_templates_failing 1\n"), "{metrics}");
    ensure!(!started.exists(), "the program was started without its file");
    fs::write(&gate, "")?;
    until("the program", || started.exists())?;
    ensure!(read(&site.out("a")) == "new");
    until("everything", || get(&address, "/ready").is_ok_and(|(code, _)| code == 200))?;
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    Ok(())
}

#[test]
fn files_are_looked_at_however_often_there_is_something_else_to_do() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    fs::write(&data, "a: one\n")?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    let socket = UnixDatagram::bind(site.path("notify"))?;
    let mut command = site.command(&["-backend", "file", "-file", &data, "-watch"]);
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "200000");
    let mut running = Running::start(&mut command)?;
    until("the file", || read(&site.out("a")) == "one")?;
    fs::write(&data, "a: two\n")?;
    // The socket holds few messages that nobody reads.
    socket.set_nonblocking(true)?;
    until("the change", || {
        while socket.recv(&mut [0; 64]).is_ok() {}
        read(&site.out("a")) == "two"
    })?;
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    Ok(())
}

#[test]
fn no_command_sees_the_stores_password() -> Result<()> {
    let site = Site::new()?;
    let seen = site.path("seen");
    let more = format!("keys = ['/a']\nreload_cmd = 'echo ${{CONFD_PASSWORD-none}} $A >> {}'", seen.display());
    site.resource("a", "x", &more)?;
    let program = format!("echo ${{CONFD_PASSWORD-none}} $A >> {}", seen.display());
    let mut command = site.command(&["-backend", "env", "-watch", "-exec", &program]);
    let mut running = Running::start(command.env("CONFD_PASSWORD", "hunter2").env("A", "1"))?;
    ensure!(running.wait()?.success(), "{}", running.log());
    ensure!(read(&seen) == "none 1\nnone 1\n", "{:?}", read(&seen));
    Ok(())
}

#[test]
fn systemd_is_told_of_each_state() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "x", "keys = ['/a']")?;
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_mins(1)))?;
    let mut command = site.command(&["-backend", "env", "-interval", "1000"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut running = Running::start(&mut command)?;
    let next = || -> Result<String> {
        let mut buffer = [0; 256];
        let count = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    };
    let until_state = |wanted: &str| -> Result<()> {
        let mut others = 0;
        while !next()?.starts_with(wanted) {
            others += 1;
            ensure!(others < 1000, "{wanted} did not come");
        }
        Ok(())
    };
    until_state("READY=1")?;
    ensure!(read(&site.out("a")) == "x", "the files come first");
    until_state("WATCHDOG=1")?;
    until_state("WATCHDOG=1")?;
    running.signal("HUP")?;
    until_state("RELOADING=1\nMONOTONIC_USEC=")?;
    until_state("READY=1")?;
    running.signal("TERM")?;
    until_state("STOPPING=1")?;
    ensure!(running.wait()?.success());
    Ok(())
}

#[test]
fn log_lines_are_json_if_asked_for_and_have_no_values() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']\ncheck_cmd = 'true'\nreload_cmd = 'true'")?;
    site.resource("b", "{{getv \"/b\"}}", "keys = ['/a', '/b']")?;
    let flags = ["-backend", "env", "-onetime", "-log-format", "json", "-log-level", "debug"];
    let output = site.run(&flags, &[("A", "hunter2")])?;
    ensure!(output.status.code() == Some(1));
    let mut messages = Vec::new();
    for line in text(&output).lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        messages.push(line["fields"]["message"].as_str().context("no message")?.to_owned());
    }
    let updated = format!("Target config {} has been updated", site.out("a").display());
    ensure!(messages.contains(&updated), "{messages:?}");
    ensure!(messages.iter().any(|message| message.contains("key does not exist: /b")), "{messages:?}");
    ensure!(!text(&output).contains("hunter2"), "a value is in the log: {}", text(&output));
    Ok(())
}

/// The name by which it was called, even if that is no text.
#[test]
fn log_lines_have_the_programs_name() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    for (name, shown) in [(b"other".as_slice(), " other["), (b"conf\xff", " conf\u{fffd}[")] {
        let output = site.command(&["-backend", "env", "-onetime"]).arg0(OsStr::from_bytes(name)).output()?;
        ensure!(text(&output).contains(shown), "{}", text(&output));
    }
    Ok(())
}

#[test]
fn a_watch_with_an_interval_repairs_files_too() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    fs::write(&data, "a: one\n")?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    let mut command = site.command(&["-backend", "file", "-file", &data, "-watch", "-interval", "1"]);
    let mut running = Running::start(command.stdout(Stdio::null()))?;
    until("the file", || read(&site.out("a")) == "one")?;
    fs::write(site.out("a"), "somebody's own")?;
    until("the repair", || read(&site.out("a")) == "one")?;
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    Ok(())
}

#[test]
fn who_reads_no_log_ends_nothing() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    fs::write(&data, "a: one\n")?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    // It logs something each time.
    site.resource("b", "{{getv \"/b\"}}", "keys = ['/b']")?;
    for redirection in ["", "2>&-"] {
        let command = site.command(&["-backend", "file", "-file", &data, "-watch", "-log-level", "debug"]);
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut through = Command::new("sh");
        through.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]);
        through.arg(command.get_program()).args(command.get_args());
        fs::write(&data, "a: one\n")?;
        let mut child = through.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
        let goes_on = (|| {
            until("the first file", || read(&site.out("a")) == "one")?;
            fs::write(&data, "a: two\n")?;
            until("the change", || read(&site.out("a")) == "two")?;
            ensure!(child.try_wait()?.is_none(), "confd has ended");
            Ok(())
        })();
        child.kill()?;
        child.wait()?;
        goes_on?;
    }
    // What is wrong with a command line is told by the exit code at least.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let status = site.command(&["-nonsense"]).stderr(writer).status()?;
    ensure!(status.code() == Some(2), "{status}");
    Ok(())
}
