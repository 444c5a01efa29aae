//! Command lines as Go's package `flag` reads them: one dash or two, `-x v` or `-x=v`, and truths without a value.

use crate::suggest::nearest;
use std::collections::BTreeMap;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A truth, true without a value.
    Bool,
    /// A text; the last one counts.
    Text,
    /// May be given several times.
    List,
}

/// Values by the flag's name.
pub type Values = BTreeMap<&'static str, Vec<String>>;

/// What a command line says.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// To show the flags.
    Help,
    /// What else is there.
    Flags(Given),
}

/// A command line that does not ask for help.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The flags.
    pub values: Values,
    /// Words that are no flags and no values of them.
    pub operands: Vec<String>,
    /// The words behind `--`, if it is there.
    pub program: Option<Vec<String>>,
}

/// What is said of an operand that nobody wants: a forgotten dash.
pub fn unexpected(operand: &str) -> String {
    format!("unexpected argument {operand:?}: flags begin with a dash")
}

/// Reads a command line without the program's name.
///
/// # Errors
/// Go's text, and for an unknown flag the nearest one. Unlike in Go, flags may stand behind operands.
pub fn parse(arguments: &[String], flags: &[(&'static str, Kind)]) -> Result<Parsed, String> {
    let mut given = Given::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            given.program = Some(rest.cloned().collect());
            break;
        }
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            given.operands.push(argument.clone());
            continue;
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if matches!(name, "h" | "help") {
            return Ok(Parsed::Help);
        }
        let Some(&(name, kind)) = flags.iter().find(|(known, _)| *known == name) else {
            // One letter is near to any other.
            let hint = nearest(name, flags.iter().map(|(known, _)| *known).filter(|known| known.len() > 1));
            let hint = hint.map_or_else(String::new, |hint| format!("; did you mean -{hint}?"));
            return Err(format!("flag provided but not defined: -{name}{hint}"));
        };
        let value = match (kind, value) {
            (Kind::Bool, value) => {
                let value = value.unwrap_or_else(|| "true".to_owned());
                if parse_bool(&value).is_none() {
                    return Err(format!("invalid boolean value {value:?} for -{name}: parse error"));
                }
                value
            }
            (_, Some(value)) => value,
            (_, None) => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        let values = given.values.entry(name).or_default();
        if kind != Kind::List {
            values.clear();
        }
        values.push(value);
    }
    Ok(Parsed::Flags(given))
}

/// Go's truths.
pub fn parse_bool(text: &str) -> Option<bool> {
    go::strconv::parse_bool(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::{Given, Kind, Parsed, Values, parse};

    const FLAGS: [(&str, Kind); 3] = [("watch", Kind::Bool), ("interval", Kind::Text), ("node", Kind::List)];

    fn parsed(line: &str) -> Result<Parsed, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments, &FLAGS)
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let values = |given: &[(&'static str, &[&str])]| -> Values {
            given.iter().map(|(name, words)| (*name, list(words))).collect()
        };
        let all = "-watch --interval=5 -node a --interval 7 -node=b";
        let expected = values(&[("watch", &["true"]), ("interval", &["7"]), ("node", &["a", "b"])]);
        let given = |values, operands: &[&str]| Given { values, operands: list(operands), program: None };
        assert_eq!(parsed(all), Ok(Parsed::Flags(given(expected, &[]))));
        let program = Some(list(&["nginx", "-g", "x"]));
        let expected = Given { program, ..given(values(&[("watch", &["false"])]), &[]) };
        assert_eq!(parsed("-watch=false -- nginx -g x"), Ok(Parsed::Flags(expected)));
        let expected = given(values(&[("watch", &["true"]), ("node", &["a"])]), &["etcd", "yes"]);
        assert_eq!(parsed("etcd -node a -watch yes"), Ok(Parsed::Flags(expected)));
        assert_eq!(parsed("-watch -help"), Ok(Parsed::Help));
        for (line, error) in [
            ("-watch=yes", "invalid boolean value \"yes\" for -watch: parse error"),
            ("-intervall 5", "flag provided but not defined: -intervall; did you mean -interval?"),
            ("-zzzzzzz", "flag provided but not defined: -zzzzzzz"),
            ("-node", "flag needs an argument: -node"),
        ] {
            assert_eq!(parsed(line), Err(error.to_owned()), "{line}");
        }
    }
}
