//! The command line, and what `-h` prints of it.

use super::names::{self, FLAGS, State};
use super::{Layer, SettingsError, parse_bool};
use terminal::flags;

/// What `-h` prints before the flags.
pub const USAGE: &str = "Usage: confd [flags]          keep files up to date\n       confd check [flags]    check the configuration\n       confd [flags] -- program [words]    and keep a program running that uses them\n       confd BACKEND [flags]  as abtreece's confd: -backend BACKEND -dialect abtreece, and etcd is the v3 API";

/// None if help is asked for.
pub(super) fn parse(arguments: &[String]) -> Result<Option<Layer>, SettingsError> {
    let known: Vec<_> = FLAGS.iter().map(|flag| (flag.name, flag.kind.of_flag())).collect();
    let given = match flags::parse(arguments, &known).map_err(SettingsError::Flag)? {
        flags::Parsed::Help => return Ok(None),
        flags::Parsed::Flags(given) => given,
    };
    let mut layer = given.values;
    // abtreece's, and that of the first releases.
    if let Some(nodes) = layer.remove("n") {
        layer.entry("node").or_default().extend(nodes);
    }
    let mut operands = given.operands.iter();
    if let Some(name) = operands.next() {
        name_backend(&mut layer, name).map_err(SettingsError::Flag)?;
    }
    if let Some(operand) = operands.next() {
        return Err(SettingsError::Flag(flags::unexpected(operand)));
    }
    if let Some(words) = given.program {
        if words.is_empty() {
            return Err(SettingsError::Flag("there is no program behind --".to_owned()));
        }
        layer.insert("exec", Vec::new());
        layer.insert(names::EXEC_WORDS, words);
    }
    // A truth that is off must win over another layer, but not count as asked for.
    if layer.get("version").is_some_and(|values| values.last().and_then(|value| parse_bool(value)) == Some(false)) {
        layer.remove("version");
    }
    Ok(Some(layer))
}

/// abtreece's confd has its backends as commands: `confd etcd --node URL --watch`. Its `etcd` is the v3 API.
fn name_backend(layer: &mut Layer, name: &str) -> Result<(), String> {
    if !names::is_backend(name) {
        return Err(flags::unexpected(name));
    }
    if layer.contains_key("backend") {
        return Err(format!("the backend is named twice: as {name:?} and with -backend"));
    }
    let backend = if name == "etcd" { "etcdv3" } else { name };
    layer.insert("backend", vec![backend.to_owned()]);
    layer.insert(names::BACKEND_COMMAND, Vec::new());
    Ok(())
}

/// All flags that there are, for `-h`.
pub fn help() -> String {
    let mut out = format!("{USAGE}\n\nFlags, over CONFD_<FLAG> in the environment, over confd.toml:\n");
    for flag in FLAGS {
        if let State::Present(help) = flag.state {
            let argument = if flag.kind == names::Kind::Bool { "" } else { " value" };
            out.extend(["  -", flag.name, argument, "\n    \t", help, "\n"]);
        }
    }
    out
}
