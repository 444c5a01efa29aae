//! From resources to files: what is written, what runs, what is told.

use crate::site::{Running, Site, read, text, until};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn a_resource_becomes_a_file_once() -> Result<()> {
    let site = Site::new()?;
    let marker = site.out("reloads");
    let more = format!(
        "keys = ['/app']\nmode = '0600'\ncheck_cmd = 'grep -q edge {{{{.src}}}}'\nreload_cmd = 'echo x >> {}'",
        marker.display()
    );
    site.resource("a", "name={{getv \"/app/name\"}}\n{{range ls \"/app\"}}{{.}};{{end}}", &more)?;
    let environment = [("APP_NAME", "edge"), ("APP_PORT", "80")];
    let once = ["-backend", "env", "-onetime"];
    let output = site.run(&once, &environment)?;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(read(&site.out("a")), "name=edge\nname;port;");
    assert_eq!(fs::metadata(site.out("a"))?.permissions().mode() & 0o7777, 0o600);
    let inode = fs::metadata(site.out("a"))?.ino();
    // A second run finds nothing to do; neither command runs.
    assert!(site.run(&once, &environment)?.status.success());
    assert_eq!((fs::metadata(site.out("a"))?.ino(), read(&marker).lines().count()), (inode, 1));
    // A wrong mode is repaired.
    fs::set_permissions(site.out("a"), fs::Permissions::from_mode(0o644))?;
    let output = site.run(&once, &environment)?;
    assert!(text(&output).contains("has mode 0644 should be 0600"), "{}", text(&output));
    assert_eq!(read(&marker).lines().count(), 2);
    assert_eq!(site.leftovers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn what_fails_leaves_the_file_and_the_others_alone() -> Result<()> {
    let site = Site::new()?;
    site.resource("bad", "{{getv \"/nope\"}}", "keys = ['/app']")?;
    site.resource("checked", "new", "keys = ['/app']\ncheck_cmd = 'echo secret; exit 3'")?;
    site.resource("good", "{{getv \"/app/name\"}}", "keys = ['/app']")?;
    fs::write(site.path("conf.d/broken.toml"), "[template]\nsrc = 'x\n")?;
    fs::write(site.out("bad"), "old")?;
    fs::write(site.out("checked"), "old")?;
    let output = site.run(&["-backend", "env", "-onetime"], &[("APP_NAME", "edge")])?;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((read(&site.out("bad")), read(&site.out("checked"))), ("old".to_owned(), "old".to_owned()));
    assert_eq!(read(&site.out("good")), "edge");
    let log = text(&output);
    let getv = "template: bad.tmpl:1:2: executing \"bad.tmpl\" at <getv \"/nope\">: error calling getv: key does not exist: /nope";
    for expected in [getv, "Config check failed: exit status 3", "broken.toml:2:"] {
        assert!(log.contains(expected), "{expected} is not in\n{log}");
    }
    assert_eq!(site.leftovers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn noop_shows_and_does_nothing() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "{{getv \"/app/name\"}}\n", "keys = ['/app']\nreload_cmd = 'touch reloaded'")?;
    fs::write(site.out("a"), "old\n")?;
    let environment = [("APP_NAME", "new")];
    let output = site.run(&["-backend", "env", "-onetime", "-noop", "-diff"], &environment)?;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let name = site.out("a").display().to_string();
    let diff = format!("--- {name}\n+++ {name}\n@@ -1 +1 @@\n-old\n+new\n");
    assert_eq!((String::from_utf8(output.stdout)?, read(&site.out("a"))), (diff, "old\n".to_owned()));
    assert_eq!(site.run(&["-backend", "env", "-onetime", "-noop"], &environment)?.status.code(), Some(0));
    fs::write(site.out("a"), "new\n")?;
    assert_eq!(site.run(&["-backend", "env", "-onetime", "-noop", "-diff"], &environment)?.status.code(), Some(0));
    Ok(())
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "{{getv \"/name\"}}", "keys = ['/name']\nprefix = '/resource'")?;
    let file = site.path("confd.toml");
    fs::write(&file, "backend = 'env'\nprefix = '/file'\nlog-level = 'error'\n")?;
    let values = [("RESOURCE_NAME", "resource"), ("FILE_NAME", "file"), ("ENV_NAME", "env"), ("FLAG_NAME", "flag")];
    let config = file.display().to_string();
    let run = |arguments: &[&str], more: &[(&str, &str)]| -> Result<String> {
        let arguments = [&["-onetime", "-config-file", &config], arguments].concat();
        let output = site.run(&arguments, &[&values[..], more].concat())?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(read(&site.out("a")))
    };
    assert_eq!(run(&[], &[])?, "file");
    assert_eq!(run(&[], &[("CONFD_PREFIX", "/env")])?, "env");
    assert_eq!(run(&["--prefix=/flag"], &[("CONFD_PREFIX", "/env")])?, "flag");
    fs::write(&file, "backend = 'env'\n")?;
    assert_eq!(run(&[], &[])?, "resource");
    Ok(())
}

#[test]
fn bad_flags_and_what_is_not_there_are_told() -> Result<()> {
    let site = Site::new()?;
    for (arguments, code, expected) in [
        (&["-prefx", "/a"][..], 2, "flag provided but not defined: -prefx; did you mean -prefix?"),
        (&["-watch=maybe"], 2, "invalid boolean value \"maybe\" for -watch: parse error"),
        (&["-node"], 2, "flag needs an argument: -node"),
        (
            &["-backend", "consul"],
            1,
            "the backend \"consul\" is not here; there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file",
        ),
        (
            &["-backend", "envv"],
            1,
            "Invalid backend \"envv\": there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file; did you mean \"env\"?",
        ),
        (
            &["-table", "x"],
            1,
            "-table: it belongs to a backend that is not here; there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file",
        ),
        (&["-interval", "0"], 1, "-interval is \"0\": it is a number of seconds, at least 1"),
        (&["-diff"], 1, "-diff goes with -noop"),
        (&["-scheme", "https", "-srv-domain", "x"], 1, "-srv-domain: endpoints are not found by DNS yet"),
        (&["-client-cert", "x"], 1, "-client-cert and -client-key go together"),
        (&["-basic-auth"], 1, "-basic-auth needs -username, and the password as -password or in the environment"),
        (&["-backend", "metad"], 1, "the backend metad needs -node"),
        (&["-log-level", "zz"], 1, "not a valid level: \"zz\""),
        (&["-version"], 0, ""),
        (&["-h"], 0, ""),
    ] {
        let output = site.run(arguments, &[])?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(expected), "{arguments:?}: {}", text(&output));
    }
    Ok(())
}

/// The file that confd's own documentation shows.
#[test]
fn a_scheme_without_dns_is_taken_and_told() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "x", "keys = ['/a']")?;
    let file = site.path("confd.toml");
    let documented = "backend = 'env'\nclient_cert = ''\nclient_key = ''\nconfdir = '/etc/confd'\nlog-level = 'info'\n\
                      interval = 600\nnodes = ['http://127.0.0.1:2379']\nnoop = false\nprefix = ''\nscheme = 'https'\n\
                      srv_domain = ''\n";
    fs::write(&file, documented)?;
    let path = file.display().to_string();
    let output = site.run(&["-config-file", &path, "-onetime"], &[])?;
    assert_eq!((output.status.code(), read(&site.out("a")).as_str()), (Some(0), "x"), "{}", text(&output));
    assert!(text(&output).contains("-scheme: it has no effect"), "{}", text(&output));
    fs::write(&file, documented.replace("srv_domain = ''", "srv_domain = 'etcd.example.com'"))?;
    let output = site.run(&["-config-file", &path, "-onetime"], &[])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("-srv-domain: endpoints are not found by DNS yet"), "{}", text(&output));
    Ok(())
}

#[test]
fn check_names_file_line_and_remedy() -> Result<()> {
    let site = Site::new()?;
    site.resource("good", "{{getv \"/a\"}}", "keys = ['/a']")?;
    let output = site.run(&["check", "-backend", "env"], &[])?;
    assert_eq!(String::from_utf8(output.stdout.clone())?, "1 template resources are right\n", "{}", text(&output));
    site.resource("typo", "x", "kyes = ['/a']")?;
    site.resource("syntax", "a\n{{if}}", "keys = ['/a']")?;
    site.resource("command", "a", "keys = ['/a']\ncheck_cmd = 'x {{'")?;
    site.resource("mode", "a", "keys = ['/a']\nmode = 'rw'")?;
    site.resource("a b", "a", "keys = ['/a']\nreload_cmd = 'cat {{.dest}}'")?;
    fs::write(site.path("conf.d/nodest.toml"), "[template]\nsrc = 'x'\n")?;
    let output = site.run(&["check", "-backend", "env"], &[])?;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output);
    for expected in [
        "typo.toml:4: \"kyes\" is no key of [template]; did you mean \"keys\"?",
        "syntax.tmpl, template: syntax.tmpl:2: missing value for if",
        "check_cmd: template: checkcmd:1: unclosed action",
        "a b.toml: reload_cmd: the path ",
        "mode.toml:5: mode: strconv.ParseUint: parsing \"rw\": invalid syntax",
        "nodest.toml:1: there is no dest",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    Ok(())
}

#[test]
fn messages_name_the_resource_and_the_remedy() -> Result<()> {
    let site = Site::new()?;
    let keys = "keys = ['/a']";
    site.resource("template", "{{getv \"/nope\"}}", keys)?;
    site.resource("check", "a", &format!("{keys}\ncheck_cmd = 'exit 3'"))?;
    site.resource("reload", "a", &format!("{keys}\nreload_cmd = 'exit 4'"))?;
    site.resource("function", "{{getvv \"/a\"}}", keys)?;
    site.resource("yunify", "{{filter \"a\" (getvs \"/*\")}}", keys)?;
    site.resource("zero", "a", &format!("{keys}\nmode = 0600"))?;
    site.resource("owner", "a", &format!("{keys}\nuid = -1"))?;
    site.resource("keys", "a", "keys = ['/a', 1]")?;
    let nowhere = format!("[template]\nsrc = 'check.tmpl'\ndest = '{}/no/a'\n{keys}\n", site.out("x").display());
    fs::write(site.path("conf.d/nowhere.toml"), nowhere)?;
    let output = site.run(&["-backend", "env", "-onetime"], &[("A", "a")])?;
    let (told, out) = (text(&output), site.path("out").display().to_string());
    assert_eq!(output.status.code(), Some(1), "{told}");
    for expected in [
        "template.toml: template: template.tmpl:1:2: executing",
        "check.toml: Config check failed: exit status 3",
        &format!("{out}/reload: reload command failed, it will run again: exit status 4"),
        "function \"getvv\" not defined; did you mean \"getv\"?",
        "function \"filter\" not defined; dialect = \"yunify\" has it",
        "zero.toml:5: unexpected leading zero, expected nothing; a mode is a text, as \"0644\"",
        "owner.toml:5: uid must be a whole number that is not negative, not the integer -1",
        "keys.toml:4: keys must be a list of strings, and has the integer 1",
        &format!("nowhere.toml: the directory {out}/x/no does not exist; make it, or set make_dirs = true"),
        "5 of 6 template resources failed",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    assert!(!told.contains("ERROR \"\""), "{told}");
    Ok(())
}

#[test]
fn of_resources_with_one_destination_the_last_counts() -> Result<()> {
    let site = Site::new()?;
    site.resource("a", "first", "keys = ['/a']")?;
    let toml = fs::read_to_string(site.path("conf.d/a.toml"))?;
    fs::write(site.path("conf.d/b.toml"), toml.replace("a.tmpl", "b.tmpl"))?;
    fs::write(site.path("templates/b.tmpl"), "last")?;
    let output = site.run(&["-backend", "env", "-onetime"], &[])?;
    let told = text(&output);
    ensure!(output.status.success() && read(&site.out("a")) == "last", "{told}");
    ensure!(
        told.contains("conf.d/a.toml: it is left out: ") && told.matches("has been updated").count() == 1,
        "{told}"
    );
    // That is told before it happens, too.
    let output = site.run(&["check", "-backend", "env"], &[])?;
    ensure!(output.status.code() == Some(1) && text(&output).contains("a.toml: it is left out"), "{}", text(&output));
    Ok(())
}

#[test]
fn a_config_map_is_read_once_where_it_is_mounted() -> Result<()> {
    let site = Site::new()?;
    // As the kubelet does it: the files in one directory, a link to it, and links through that.
    let mounted = |directory: &str, name: &str, content: &str| -> Result<()> {
        let directory = site.path(directory);
        fs::create_dir_all(directory.join("..2026_01_02"))?;
        fs::write(directory.join("..2026_01_02").join(name), content)?;
        std::os::unix::fs::symlink("..2026_01_02", directory.join("..data"))?;
        Ok(std::os::unix::fs::symlink(Path::new("..data").join(name), directory.join(name))?)
    };
    let toml = format!("[template]\nsrc = 'a.tmpl'\ndest = '{}'\nkeys = ['/']\n", site.out("a").display());
    mounted("conf.d", "a.toml", &toml)?;
    mounted("templates", "a.tmpl", "{{range gets \"/*\"}}{{.Key}}={{.Value}};{{end}}")?;
    mounted("data", "a.yaml", "a: one\n")?;
    // What the mount held before, as long as the kubelet has not removed it.
    fs::create_dir(site.path("data/..2026_01_01"))?;
    fs::write(site.path("data/..2026_01_01/a.yaml"), "a: old\ngone: old\n")?;
    let data = site.path("data").display().to_string();
    let output = site.run(&["-backend", "file", "-file", &data, "-onetime"], &[])?;
    ensure!(output.status.success() && !text(&output).contains("WARNING"), "{}", text(&output));
    ensure!(read(&site.out("a")) == "/a=one;", "{}", read(&site.out("a")));
    Ok(())
}

#[test]
fn command_lines_of_abtreeces_confd_mean_what_they_mean_there() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    fs::write(&data, "prod: {shop: {name: one}}\n")?;
    // Prefixes are joined, and its functions are there with its results.
    let template = "{{getv \"/name\"}} {{range seq 2 1}}{{.}}{{end}}\n";
    site.resource("a", template, "prefix = '/shop'\nkeys = ['/name']\noutput_format = 'yaml'\ndebounce = '1s'")?;
    site.resource("b", "{\"a\": {{getv \"/name\"}}}", "prefix = '/shop'\nkeys = ['/name']\noutput_format = 'json'")?;
    let flags = ["file", "--file", &data, "--prefix", "/prod", "--failure-mode=best-effort", "--read-timeout=5s"];
    let output = site.run(&[&flags[..], &["--onetime"]].concat(), &[])?;
    let told = text(&output);
    ensure!(output.status.code() == Some(1) && read(&site.out("a")) == "one 21\n", "{told}");
    ensure!(told.contains("b.toml: output format validation failed (json): ") && !site.out("b").exists(), "{told}");
    ensure!(told.contains("-read-timeout: it has no effect"), "{told}");
    fs::write(site.path("templates/b.tmpl"), "{\"a\": \"{{getv \"/name\"}}\"}\n{\n")?;
    let output =
        site.run(&[&flags[..], &["--onetime", "--noop", "--diff", "--color", "--diff-context=0"]].concat(), &[])?;
    ensure!(
        output.status.code() == Some(1) && text(&output).contains("trailing characters at line 2"),
        "{}",
        text(&output)
    );
    fs::write(site.path("templates/b.tmpl"), "{\"a\": \"{{getv \"/name\"}}\"}\n")?;
    fs::write(site.out("a"), "one 21\nx\n")?;
    let output =
        site.run(&[&flags[..], &["--onetime", "--noop", "--diff", "--color", "--diff-context=0"]].concat(), &[])?;
    ensure!(output.status.code() == Some(2), "{}", text(&output));
    let diff = String::from_utf8(output.stdout)?;
    ensure!(diff.contains("\u{1b}[31m-x\u{1b}[0m\n") && !diff.contains(" one 21"), "{diff}");
    for (arguments, code, expected) in [
        (&["consul", "--onetime"][..], 1, "the backend \"consul\" is not here"),
        (&["etdc", "--onetime"], 2, "unexpected argument \"etdc\": flags begin with a dash"),
        (&["env", "-backend", "env"], 2, "the backend is named twice"),
        (&["env", "--failure-mode", "fail-fast"], 1, "a resource that fails never stops the others"),
        (&["env", "--check-config"], 1, "use confd check"),
    ] {
        let output = site.run(arguments, &[])?;
        ensure!(output.status.code() == Some(code) && text(&output).contains(expected), "{}", text(&output));
    }
    // The v3 API, not the v2 API of `-backend etcd`.
    let output = site.run(&["etcd", "-n", "http://127.0.0.1:1", "--onetime"], &[])?;
    ensure!(output.status.code() == Some(1) && !text(&output).contains("/v2/"), "{}", text(&output));
    Ok(())
}

#[test]
fn a_reload_command_does_not_run_again_too_soon() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml").display().to_string();
    let log = |name: &str| site.path(&format!("log-{name}"));
    fs::write(&data, "a: 1\n")?;
    // In this order the commands of a round run.
    for (name, interval) in [("a", "1h"), ("b", "0s"), ("c", "1s")] {
        let reload = format!("cat {{{{.dest}}}} >> {}", log(name).display());
        let more = format!("keys = ['/a']\nmin_reload_interval = '{interval}'\nreload_cmd = '{reload}'");
        site.resource(name, "{{getv \"/a\"}}\n", &more)?;
    }
    let mut running = Running::start(&mut site.command(&["file", "--file", &data, "--watch"]))?;
    until("the first reloads", || read(&log("c")) == "1\n")?;
    fs::write(&data, "a: 2\n")?;
    until("the reload that need not wait", || read(&log("b")) == "1\n2\n")?;
    until("the reload that waits", || read(&log("c")) == "1\n2\n")?;
    ensure!(read(&log("a")) == "1\n" && read(&site.out("a")) == "2\n", "{}", running.log());
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    // It is owed still, also to the next confd.
    ensure!(site.leftovers()? == [".a.reload"]);
    Ok(())
}

#[test]
fn keys_in_letters_of_any_case_and_relative_destinations_are_taken_as_confd_takes_them() -> Result<()> {
    let site = Site::new()?;
    fs::write(site.path("templates/a.tmpl"), "{{getv \"/a\"}}")?;
    let toml = "[Template]\nSrc = 'a.tmpl'\nDEST = 'out/a'\nKeys = ['/a']\nMode = '0600'\n";
    fs::write(site.path("conf.d/a.toml"), toml)?;
    fs::write(site.path("confd.toml"), "Backend = 'env'\nLog-Level = 'info'\n")?;
    let mut command = site.command(&["-onetime", "-config-file", "confd.toml"]);
    let output = command.current_dir(site.directory()).env("A", "one").output()?;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(read(&site.out("a")), "one");
    assert_eq!(fs::metadata(site.out("a"))?.permissions().mode() & 0o7777, 0o600);
    assert!(text(&output).contains("a.toml:3: dest \"out/a\" is relative to the directory"), "{}", text(&output));
    Ok(())
}

#[test]
fn destinations_that_are_no_files_are_left_alone() -> Result<()> {
    let site = Site::new()?;
    site.resource("directory", "x", "keys = ['/a']")?;
    fs::create_dir(site.out("directory"))?;
    site.resource("pipe", "x", "keys = ['/a']")?;
    ensure!(Command::new("mkfifo").arg(site.out("fifo")).status()?.success(), "mkfifo");
    std::os::unix::fs::symlink(site.out("fifo"), site.out("pipe"))?;
    site.resource("link", "new", "keys = ['/a']")?;
    fs::write(site.out("target"), "old")?;
    std::os::unix::fs::symlink(site.out("target"), site.out("link"))?;
    let output = site.run(&["-backend", "env", "-onetime"], &[])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("is a directory"), "{}", text(&output));
    assert!(text(&output).contains("pipe is no regular file"), "{}", text(&output));
    // A link is replaced, as confd does, and what it led to stays.
    assert!(fs::symlink_metadata(site.out("link"))?.is_file());
    assert_eq!((read(&site.out("link")), read(&site.out("target"))), ("new".to_owned(), "old".to_owned()));
    assert_eq!(site.leftovers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn equal_reloads_run_once_and_failed_ones_again() -> Result<()> {
    let site = Site::new()?;
    let (marker, gate) = (site.out("reloads"), site.out("gate"));
    let reload = format!("keys = ['/']\nreload_cmd = 'echo x >> {}; test -e {}'", marker.display(), gate.display());
    site.resource("a", "1", &reload)?;
    site.resource("b", "2", &reload)?;
    assert_eq!(site.run(&["-backend", "env", "-onetime"], &[])?.status.code(), Some(1));
    assert_eq!(read(&marker).lines().count(), 1);
    fs::write(site.path("templates/a.tmpl"), "3")?;
    fs::write(site.path("templates/b.tmpl"), "4")?;
    let mut confd = site.command(&["-backend", "env", "-interval", "1000"]);
    let mut running = Running::start(&mut confd)?;
    until("the first reload", || read(&marker).lines().count() >= 2)?;
    // It failed, and runs again although nothing changes.
    until("the second reload", || read(&marker).lines().count() >= 3)?;
    assert_eq!(site.leftovers()?.len(), 2);
    fs::write(&gate, "")?;
    // Once it has succeeded nothing is owed to either file, and it does not run again.
    until("the markers' end", || site.leftovers().is_ok_and(|names| names.is_empty()))?;
    let runs = read(&marker);
    running.signal("HUP")?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(read(&marker), runs);
    running.signal("TERM")?;
    assert!(running.wait()?.success());
    Ok(())
}

#[test]
fn a_signal_ends_one_round_at_once_with_its_commands() -> Result<()> {
    let site = Site::new()?;
    let started = site.out("started");
    let more = format!("keys = ['/']\nreload_cmd = 'echo $$ >> {}; sleep 1000; true'", started.display());
    for signal in ["TERM", "INT", "HUP"] {
        fs::write(&started, "")?;
        site.resource("a", signal, &more)?;
        let mut running = Running::start(&mut site.command(&["-backend", "env", "-onetime"]))?;
        until("the reload", || read(&started).ends_with('\n'))?;
        running.signal(signal)?;
        assert_eq!(running.wait()?.code(), Some(1), "{signal}");
        let shell = Path::new("/proc").join(read(&started).trim()).join("cmdline");
        until("the end of the command", || read(&shell).is_empty())?;
        // The next one makes up for it.
        assert_eq!((read(&site.out("a")).as_str(), site.leftovers()?), (signal, vec![".a.reload".to_owned()]));
    }
    Ok(())
}

#[test]
fn a_reload_that_did_not_run_is_made_up_for() -> Result<()> {
    let site = Site::new()?;
    let (marker, gate) = (site.out("reloads"), site.out("gate"));
    let more = format!("keys = ['/']\nreload_cmd = 'test -e {} && echo x >> {}'", gate.display(), marker.display());
    site.resource("a", "1", &more)?;
    site.resource("b", "2", &more)?;
    let once = ["-backend", "env", "-onetime"];
    assert_eq!(site.run(&once, &[])?.status.code(), Some(1));
    assert_eq!((read(&site.out("a")).as_str(), read(&site.out("b")).as_str()), ("1", "2"));
    let mut leftovers = site.leftovers()?;
    leftovers.sort();
    assert_eq!(leftovers, [".a.reload", ".b.reload"]);
    fs::write(&gate, "")?;
    // The file is as it should be, but whoever reads it was not told.
    assert!(site.run(&once, &[])?.status.success());
    assert!(site.run(&once, &[])?.status.success());
    assert_eq!((read(&marker).lines().count(), site.leftovers()?), (1, Vec::new()));
    Ok(())
}

#[test]
fn a_reload_that_fails_can_put_the_old_file_back() -> Result<()> {
    let site = Site::new()?;
    let dest = site.out("a");
    let more = format!("keys = ['/']\nrollback = true\nbackup = true\nreload_cmd = 'grep -q old {}'", dest.display());
    site.resource("a", "new", &more)?;
    fs::write(&dest, "old")?;
    let output = site.run(&["-backend", "env", "-onetime"], &[])?;
    assert_eq!((read(&dest), read(&site.out("a.bak"))), ("old".to_owned(), "old".to_owned()), "{}", text(&output));
    // It is not as it should be.
    assert_eq!((output.status.code(), site.leftovers()?), (Some(1), Vec::new()), "{}", text(&output));
    Ok(())
}

#[test]
fn a_file_that_could_not_be_replaced_is_owed_no_reload() -> Result<()> {
    let site = Site::new()?;
    let reloads = site.path("reloads");
    site.resource("a", "{{getv \"/a\"}}", &format!("keys = ['/a']\nreload_cmd = 'echo x >> {}'", reloads.display()))?;
    fs::write(site.out("a"), "old")?;
    // The new file cannot get its place, and the old one is wanted again.
    let confd = "$CONFD -confdir $B -config-file /nonexistent -backend env -onetime";
    let script = format!(
        "cp $B/out/a $B/target && mount --bind $B/target $B/out/a && mount -o remount,bind,ro $B/out/a
        A=new {confd} && exit 9
        ls -A $B/out
        A=old {confd}"
    );
    let output = site.with_mounts(&script)?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), found.as_str()), (Some(0), "a\n"), "{}", text(&output));
    assert!(text(&output).contains("Read-only file system") && !reloads.exists(), "{}", text(&output));
    Ok(())
}

#[test]
fn a_file_that_is_put_back_is_as_it_was() -> Result<()> {
    let site = Site::new()?;
    let dest = site.out("a");
    let more = format!("keys = ['/']\nrollback = true\nmode = '0644'\nreload_cmd = 'grep -q old {}'", dest.display());
    site.resource("a", "new", &more)?;
    fs::write(&dest, "old")?;
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o600))?;
    let owner = |path: &Path| fs::metadata(path).map(|metadata| (metadata.mode() & 0o7777, metadata.gid()));
    // Only root may give a file to a group that it is not in.
    let is_root = fs::metadata(&dest)?.uid() == 0;
    if is_root {
        std::os::unix::fs::chown(&dest, None, Some(4242))?;
    }
    let before = owner(&dest)?;
    let output = site.run(&["-backend", "env", "-onetime"], &[])?;
    assert_eq!((read(&dest).as_str(), owner(&dest)?), ("old", before), "{}", text(&output));
    Ok(())
}

#[test]
fn a_reload_that_fails_with_the_old_file_too_is_owed_to_the_others() -> Result<()> {
    let site = Site::new()?;
    let (log, gate) = (site.out("reloads"), site.out("gate"));
    let reload = format!("keys = ['/']\nreload_cmd = 'echo x >> {}; test -e {}'", log.display(), gate.display());
    site.resource("a", "new", &format!("{reload}\nrollback = true"))?;
    site.resource("b", "new", &reload)?;
    fs::write(site.out("a"), "old")?;
    let mut running = Running::start(&mut site.command(&["-backend", "env", "-interval", "1000"]))?;
    // With the new files, with a's old one, and again although nothing changes.
    until("the third run", || read(&log).lines().count() >= 3)?;
    // Each try of a's new file ends with the old one.
    until("both files", || (read(&site.out("a")).as_str(), read(&site.out("b")).as_str()) == ("old", "new"))?;
    fs::write(&gate, "")?;
    until("the new file", || read(&site.out("a")) == "new")?;
    until("the markers' end", || site.leftovers().is_ok_and(|names| names.is_empty()))?;
    running.signal("TERM")?;
    assert!(running.wait()?.success());
    Ok(())
}

#[test]
fn a_reload_command_that_was_corrected_does_not_run_again() -> Result<()> {
    let site = Site::new()?;
    let (log, right) = (site.out("reloads"), site.out("right"));
    let reload = |command: &str| site.resource("a", "1", &format!("keys = ['/']\nreload_cmd = '{command}'"));
    reload(&format!("echo x >> {}; false", log.display()))?;
    let mut running = Running::start(&mut site.command(&["-backend", "env", "-interval", "1000"]))?;
    until("the wrong command", || !read(&log).is_empty())?;
    reload(&format!("echo y >> {}", right.display()))?;
    running.signal("HUP")?;
    // The file did not change, but it is owed a reload.
    until("the right command", || read(&right) == "y\n")?;
    until("the marker's end", || site.leftovers().is_ok_and(|names| names.is_empty()))?;
    let runs = read(&log);
    // It would have run again after two seconds, or four if this is the second time.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((read(&log), read(&right)), (runs, "y\n".to_owned()));
    running.signal("TERM")?;
    assert!(running.wait()?.success());
    Ok(())
}

#[test]
fn files_are_followed_and_hangup_reads_resources_again() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml");
    fs::write(&data, "app: {name: one, list: [1, 2.5, true, null]}\n")?;
    site.resource(
        "a",
        "{{getv \"/app/name\"}} {{range gets \"/app/list/*\"}}{{.Key}}={{.Value}};{{end}}",
        "keys = ['/app']",
    )?;
    let data_path = data.display().to_string();
    let mut confd = site.command(&["-backend", "file", "-file", &data_path, "-watch"]);
    let mut running = Running::start(&mut confd)?;
    until("the first file", || read(&site.out("a")) == "one /app/list/0=1;/app/list/1=2.5;/app/list/2=true;")?;
    fs::write(&data, "{\"app\": {\"name\": \"two\"}}")?;
    until("the change", || read(&site.out("a")) == "two ")?;
    site.resource("b", "b", "keys = ['/app']")?;
    running.signal("HUP")?;
    until("the new resource", || read(&site.out("b")) == "b")?;
    running.signal("INT")?;
    assert!(running.wait()?.success());
    Ok(())
}

#[test]
fn a_data_file_that_is_away_for_a_moment_is_waited_for() -> Result<()> {
    let site = Site::new()?;
    let data = site.path("data.yaml");
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    let data_path = data.display().to_string();
    let mut running = Running::start(&mut site.command(&["-backend", "file", "-file", &data_path, "-watch"]))?;
    // Long enough for a program that ends by itself.
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.child.try_wait()?.is_none());
    fs::write(&data, "a: one\n")?;
    until("the file", || read(&site.out("a")) == "one")?;
    fs::remove_file(&data)?;
    running.signal("HUP")?;
    std::thread::sleep(Duration::from_millis(500));
    fs::write(&data, "a: two\n")?;
    until("the change", || read(&site.out("a")) == "two")?;
    running.signal("INT")?;
    assert!(running.wait()?.success());
    Ok(())
}

#[test]
fn names_and_values_never_reach_a_shell() -> Result<()> {
    let site = Site::new()?;
    let odd = site.path("out").join("$(touch pwned)");
    fs::create_dir(&odd)?;
    let dest = odd.join("a;touch pwned");
    let text_of = |check: &str| {
        let toml = format!("[template]\nsrc = 'a.tmpl'\ndest = '{}'\nkeys = ['/a']\n{check}\n", dest.display());
        fs::write(site.path("conf.d/a.toml"), toml)
    };
    fs::write(site.path("templates/a.tmpl"), "{{getv \"/a\"}}")?;
    let environment = [("A", "$(touch pwned)`touch pwned`")];
    text_of("check_cmd = \"cat '{{.src}}'\"")?;
    let output = site.run(&["-backend", "env", "-onetime"], &environment)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("give the command as a list of words"), "{}", text(&output));
    text_of("check_cmd = ['cat', '{{.src}}']\nreload_cmd = ['test', '-e', '{{.dest}}']")?;
    let output = site.run(&["-backend", "env", "-onetime", "-log-level", "info"], &environment)?;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(read(&dest), "$(touch pwned)`touch pwned`");
    assert!(!text(&output).contains("`touch pwned`"), "a value is in the log: {}", text(&output));
    for place in [site.path("pwned"), PathBuf::from("pwned")] {
        assert!(!place.exists());
    }
    Ok(())
}

#[test]
fn a_confd_that_is_killed_leaves_whole_files_and_no_reload_undone() -> Result<()> {
    let site = Site::new()?;
    let (dest, marker) = (site.out("a"), site.out("reloads"));
    let more = format!(
        "keys = ['/n']\nmode = '0640'\nreload_cmd = 'cat {} | head -c 4 >> {}'",
        dest.display(),
        marker.display()
    );
    site.resource("a", "{{$n := getv \"/n\"}}{{range 20000}}{{$n}};{{end}}", &more)?;
    let whole = |number: u32| format!("{number:03};").repeat(20_000);
    let mut last = None;
    for number in 0..25 {
        let value = format!("{number:03}");
        let mut confd = site.command(&["-backend", "env", "-interval", "1000"]);
        let running = Running::start(confd.env("N", &value))?;
        // Sooner or later in its work, and sometimes after it.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 4));
        drop(running);
        let found = read(&dest);
        let is_old = last.map_or(found.is_empty(), |last| found == whole(last));
        ensure!(is_old || found == whole(number), "after {number}: {} bytes, {:?}", found.len(), found.get(..20));
        if !is_old {
            last = Some(number);
        }
        if let Ok(metadata) = fs::metadata(&dest) {
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        }
    }
    let output = site.run(&["-backend", "env", "-onetime"], &[("N", "999")])?;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(read(&dest), whole(999));
    // The reload of the last change has run, however often the others did.
    assert!(read(&marker).ends_with("999;"), "{}", read(&marker));
    Ok(())
}

#[test]
fn a_full_or_read_only_disk_and_a_mounted_file_are_taken_as_they_are() -> Result<()> {
    let site = Site::new()?;
    site.resource("hosts", "rendered", "keys = ['/a']")?;
    for (name, template) in [("full", "{{range 40000}}0123456789{{end}}"), ("locked", "new")] {
        let dest = site.path(name).join("file");
        fs::create_dir(site.path(name))?;
        let toml = format!("[template]\nsrc = '{name}.tmpl'\ndest = '{}'\nkeys = ['/a']\n", dest.display());
        fs::write(site.path("conf.d").join(format!("{name}.toml")), toml)?;
        fs::write(site.path("templates").join(format!("{name}.tmpl")), template)?;
    }
    let script = "
        mount -t tmpfs -o size=128k tmpfs $B/full && echo old > $B/full/file
        mount -t tmpfs tmpfs $B/locked && echo old > $B/locked/file && mount -o remount,ro $B/locked
        echo old > $B/out/hosts && echo old > $B/target && mount --bind $B/target $B/out/hosts
        $CONFD -confdir $B -config-file /nonexistent -backend env -onetime && exit 9
        cat $B/full/file $B/locked/file && ls -A $B/full $B/out";
    let output = site.with_mounts(script)?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let place = |name: &str| site.path(name).display().to_string();
    let listing = format!("old\nold\n{}:\nfile\n\n{}:\nhosts\n", place("full"), place("out"));
    assert_eq!((output.status.code(), found), (Some(0), listing), "{}", text(&output));
    // Written in place: the file below the mount has it.
    assert_eq!(read(&site.path("target")), "rendered");
    let log = text(&output);
    assert!(log.contains("No space left on device") && log.contains("Read-only file system"), "{log}");
    Ok(())
}

#[test]
fn files_include_others_of_their_directory() -> Result<()> {
    let site = Site::new()?;
    fs::write(site.path("templates/part"), "<{{.}} {{getv \"/a\"}}>")?;
    fs::write(site.path("templates/round"), "{{include \"round\"}}")?;
    let include = |name: &str| site.resource("a", &format!("{{{{include \"{name}\" \"x\"}}}}"), "keys = ['/a']");
    let run = || site.run(&["-backend", "env", "-onetime"], &[("A", "1")]);
    include("part")?;
    let output = run()?;
    assert_eq!(read(&site.out("a")), "<x 1>", "{}", text(&output));
    for (name, expected) in [
        ("round", "include cycle detected: "),
        ("../conf.d/a.toml", "include path \"../conf.d/a.toml\" is outside template directory"),
        ("/etc/passwd", "include path \"/etc/passwd\" is outside template directory"),
        ("none", "failed to read include \"none\": No such file or directory"),
    ] {
        include(name)?;
        let output = run()?;
        assert!(text(&output).contains(expected), "{name}: {}", text(&output));
        assert_eq!(read(&site.out("a")), "<x 1>");
    }
    // Each is deep, and together they are too deep.
    let deep = |end: &str| {
        let again = "{{template \"r\" (print . \"x\")}}";
        format!(
            "{{{{define \"r\"}}}}{{{{if lt (len .) 1500}}}}{again}{{{{else}}}}{end}{{{{end}}}}{{{{end}}}}{{{{template \"r\" \"\"}}}}"
        )
    };
    site.resource("a", &deep("end"), "keys = ['/a']")?;
    let output = run()?;
    assert_eq!(read(&site.out("a")), "end", "{}", text(&output));
    fs::write(site.path("templates/part"), deep("end"))?;
    site.resource("a", &deep("{{include \"part\"}}"), "keys = ['/a']")?;
    let output = run()?;
    assert!(text(&output).contains("exceeded maximum template depth"), "{}", text(&output));
    Ok(())
}
