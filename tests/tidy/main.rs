//! Repository rules as tests. They read every tracked file; what they refuse, they name with file and line.

mod source;

use anyhow::{Context, Result, ensure};
use source::{Source, functions};
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 70;
/// The comment that excuses a longer function; it goes on with the reason.
const EXCUSE: &str = "Long because";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Paths of the tracked files.
fn tracked() -> Result<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().context("run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout)?;
    // A file may be deleted and not yet staged.
    Ok(paths.split('\0').filter(|path| !path.is_empty() && root().join(path).is_file()).map(str::to_owned).collect())
}

fn rust_sources() -> Result<Vec<Source>> {
    let rust = tracked()?.into_iter().filter(|path| Path::new(path).extension().is_some_and(|end| end == "rs"));
    let mut sources = Vec::new();
    for path in rust {
        sources.push(Source::new(std::fs::read_to_string(root().join(&path))?, path));
    }
    let for_tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let module = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        source.is_test |= for_tests.iter().any(|test| module == test || source.path.starts_with(&format!("{test}/")));
    }
    Ok(sources)
}

/// Fails with one line for each offence.
fn verdict(rule: &str, offences: &[String]) -> Result<()> {
    ensure!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
    Ok(())
}

#[test]
fn files_are_short() -> Result<()> {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > MAX_FILE_LINES).then(|| format!("{}: {lines} lines", source.path))
    };
    verdict("no file over 800 lines", &rust_sources()?.iter().filter_map(long).collect::<Vec<_>>())
}

#[test]
fn functions_are_short_or_say_why_not() -> Result<()> {
    let mut offences = Vec::new();
    for source in rust_sources()? {
        for function in functions(&source.code) {
            let lines = function.last - function.first + 1;
            if lines > MAX_FUNCTION_LINES && !source.comment_above(function.first).contains(EXCUSE) {
                offences.push(format!(
                    "{}:{}: fn {} has {lines} lines",
                    source.path,
                    function.first + 1,
                    function.name
                ));
            }
        }
    }
    verdict("no function over 70 lines, unless the comment above says `Long because ...`", &offences)
}

/// Lines of production code that contain one of the words.
fn lines_with(words: &[&str], among: impl Fn(&Source) -> bool) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for source in rust_sources()?.iter().filter(|source| among(source)) {
        for (number, line) in source.production_lines() {
            if let Some(word) = words.iter().find(|word| contains_word(line, word)) {
                offences.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    Ok(offences)
}

/// True when `word` stands in the line and is not part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part_of_name);
        let after = line[at + word.len()..].chars().next().is_some_and(part_of_name);
        let open_start = word.starts_with(|c| !part_of_name(c));
        let open_end = word.ends_with(|c| !part_of_name(c));
        (open_start || !before) && (open_end || !after)
    })
}

#[test]
fn production_code_neither_cheats_nor_panics_carelessly() -> Result<()> {
    let words = ["unsafe", ".unwrap()", "unbounded_channel", "todo!", "unimplemented!", "dbg!"];
    verdict("not in production code", &lines_with(&words, |_| true)?)
}

#[test]
fn nothing_is_left_for_later() -> Result<()> {
    let mut offences = Vec::new();
    for source in rust_sources()? {
        for (number, line) in source.text.lines().enumerate() {
            // The words are split so that this file does not offend.
            for word in [concat!("FIX", "ME"), concat!("XX", "X "), concat!("#[", "ignore")] {
                if line.contains(word) {
                    offences.push(format!("{}:{}: {word}", source.path, number + 1));
                }
            }
        }
    }
    verdict("finish it or leave it out", &offences)
}

#[test]
fn every_module_says_what_it_owns() -> Result<()> {
    let mut offences = Vec::new();
    for source in rust_sources()? {
        let documented = source.text.lines().find(|line| !line.trim().is_empty()).is_some_and(|l| l.starts_with("//!"));
        if !documented && !source.path.ends_with("build.rs") {
            offences.push(source.path);
        }
    }
    verdict("a module starts with `//!`", &offences)
}

#[test]
fn v3_statuses_are_built_in_one_place() -> Result<()> {
    let constructors = [
        "new",
        "ok",
        "cancelled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
        "with_details",
    ];
    let words: Vec<String> = constructors.iter().map(|name| format!("Status::{name}(")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The listener and the health service answer errors of gRPC itself, which etcd's table does not have.
    let of_grpc = ["server/src/v3/status.rs", "server/src/health.rs", "server/src/listen/"];
    let elsewhere = |source: &Source| {
        source.path.starts_with("server/src/") && !of_grpc.iter().any(|place| source.path.starts_with(place))
    };
    verdict("errors of the v3 API come from server/src/v3/status.rs", &lines_with(&words, elsewhere)?)
}

/// clippy reads one file for a crate, so that of a crate has to repeat the root's.
#[test]
fn a_crates_clippy_settings_include_the_roots() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned());
    let shared = read("clippy.toml")?;
    let mut offences = Vec::new();
    for path in tracked()?.into_iter().filter(|path| path.ends_with("/clippy.toml")) {
        let own = read(&path)?;
        let missing = shared.lines().filter(|line| !own.lines().any(|own| own == *line));
        offences.extend(missing.map(|line| format!("{path}: {line}")));
    }
    verdict("missing in the clippy settings of a crate", &offences)
}

/// Names of the crates that a package is built with, tests and build scripts aside.
fn dependencies_of(package: &str) -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package];
    let output = Command::new(cargo).args(args).current_dir(root()).output().context("run cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout)?;
    Ok(tree.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect())
}

#[test]
fn dependencies_point_down() -> Result<()> {
    let forbidden: [(&str, &[&str]); 8] = [
        ("cleat-store", &["tokio", "openraft", "tonic", "hyper", "rand", "cleat-server", "cleat-client"]),
        ("cleat-api", &["cleat-store", "cleat-server", "cleat-client", "redb", "openraft"]),
        ("cleat-bolt", &["cleat-store", "cleat-server", "cleat-client", "redb", "openraft", "tokio", "tonic"]),
        ("cleat-client", &["cleat-store", "cleat-server", "cleat-discovery", "redb", "openraft"]),
        ("cleat-discovery", &["cleat-store", "cleat-server", "redb", "openraft"]),
        ("cleat-confd", &["cleat-store", "cleat-server", "redb", "openraft"]),
        ("cleat-metad", &["cleat-store", "cleat-server", "redb", "openraft"]),
        (
            "cleat-go",
            &["cleat-api", "cleat-client", "cleat-store", "cleat-server", "cleat-confd", "cleat-metad", "tokio"],
        ),
    ];
    let mut offences = Vec::new();
    // What is for tests alone, and what only the programs that talk to Kubernetes may pay for.
    for package in ["cleat-server", "cleatctl", "cleat-discovery-service", "cleat-bench"] {
        let found = dependencies_of(package)?;
        let names = ["kube", "k8s-openapi", "cleat-kube-fake"];
        offences.extend(names.iter().filter(|n| found.iter().any(|f| f == **n)).map(|n| format!("{package}: {n}")));
    }
    for (package, names) in forbidden {
        let found = dependencies_of(package)?;
        offences
            .extend(names.iter().filter(|name| found.iter().any(|f| f == *name)).map(|n| format!("{package}: {n}")));
    }
    verdict("a crate must not see this dependency", &offences)
}

#[test]
fn no_file_names_a_machine() -> Result<()> {
    // Split for the same reason as above.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let registries = ["registry+https://github.com/rust-lang/crates.io-index", "https://registry.npmjs.org/"];
    let mut offences = Vec::new();
    for path in tracked()? {
        // A file that is not text has no lines to read.
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if paths.iter().any(|name| line.contains(name)) {
                offences.push(format!("{path}:{}: a path of one machine", number + 1));
            }
            let locked = path.ends_with("Cargo.lock") && line.starts_with("source = ")
                || path.ends_with("package-lock.json") && line.contains("\"resolved\": ");
            if locked && !registries.iter().any(|registry| line.contains(registry)) {
                offences.push(format!("{path}:{}: not the public registry", number + 1));
            }
        }
    }
    verdict("files are the same for everyone", &offences)
}
