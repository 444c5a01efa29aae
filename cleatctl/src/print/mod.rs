//! etcdctl's output formats.
//!
//! What most commands print comes from one answer of the server: [`Printer::answer`] writes it in the format that was
//! asked for. `simple` and `fields` are written by hand, as every answer has its own form; JSON and protobuf follow from
//! the message. What is written goes out in one piece.

mod fields;
mod json;
mod simple;
mod table;

pub(crate) use fields::Fields;
pub(crate) use json::{Json, message as json_message};
pub(crate) use simple::{Simple, bytes};
pub(crate) use table::table;

use crate::failure::{Failure, code};
use api::descriptor::{self, Message};
use api::etcdserverpb::ResponseHeader;
use std::fmt;
use std::io::{self, Write as _};

/// Writes a line to standard error. That nobody reads it is no failure: what is to be done is done, and the exit code tells.
pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    // In one piece, whatever else is written there.
    io::stderr().lock().write_all(format!("{text}\n").as_bytes()).ok();
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    /// All, in the order of their names.
    pub(crate) const ALL: [Self; 5] = [Self::Fields, Self::Json, Self::Protobuf, Self::Simple, Self::Table];

    /// The names of all.
    pub(crate) const NAMES: [&str; 5] = {
        let mut names = [""; 5];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].name();
            at += 1;
        }
        names
    };

    /// The format of this name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

/// Writes what commands say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    /// Bytes as hexadecimal digits, for `simple`.
    pub(crate) hex: bool,
    /// Only the values of keys, for `simple`.
    pub(crate) value_only: bool,
}

impl Printer {
    pub(crate) fn new(format: Format, hex: bool) -> Self {
        Self { format, hex, value_only: false }
    }

    /// Etcdctl's error for a format that a command does not have.
    pub(crate) fn unsupported(self) -> Failure {
        Failure::new(code::BAD_FEATURE, format!("{} not supported as output format", self.format.name()))
    }

    /// Prints an answer of the method of this path.
    ///
    /// # Errors
    /// The command does not have the format.
    pub(crate) fn answer<M: prost::Message>(
        self,
        method: &str,
        answer: &M,
        simple: impl FnOnce(&mut Simple),
        fields: impl FnOnce(&mut Fields),
    ) -> Result<(), Failure> {
        match self.format {
            Format::Simple => self.simple(simple),
            Format::Fields => Self::fields(fields),
            Format::Json => Self::json(|json| json.raw(&json_message(output(method), &answer.encode_to_vec()))),
            Format::Protobuf => out(&answer.encode_to_vec()),
            Format::Table => Err(self.unsupported()),
        }
    }

    /// # Errors
    /// As [`out`].
    pub(crate) fn simple(self, write: impl FnOnce(&mut Simple)) -> Result<(), Failure> {
        let mut simple = Simple::new(self);
        write(&mut simple);
        out(&simple.bytes)
    }

    /// # Errors
    /// As [`out`].
    pub(crate) fn fields(write: impl FnOnce(&mut Fields)) -> Result<(), Failure> {
        let mut fields = Fields::default();
        write(&mut fields);
        out(&fields.bytes)
    }

    /// # Errors
    /// As [`out`].
    pub(crate) fn json(write: impl FnOnce(&mut Json)) -> Result<(), Failure> {
        let mut json = Json::default();
        write(&mut json);
        json.text.push('\n');
        out(json.text.as_bytes())
    }
}

/// What the answer of a method looks like.
pub(crate) fn output(method: &str) -> &'static Message {
    static NOTHING: Message = Message { name: "", fields: &[] };
    descriptor::method(method).map_or(&NOTHING, |method| method.output)
}

/// A header as Go's library of protobuf writes it: what is zero is left out.
pub(crate) fn header_text(header: Option<&ResponseHeader>) -> String {
    let Some(ResponseHeader { cluster_id, member_id, revision, raft_term }) = header else { return "<nil>".to_owned() };
    let fields = [
        ("cluster_id", i128::from(*cluster_id)),
        ("member_id", i128::from(*member_id)),
        ("revision", i128::from(*revision)),
        ("raft_term", i128::from(*raft_term)),
    ];
    let known = fields.into_iter().filter(|(_, value)| *value != 0);
    known.fold(String::new(), |text, (name, value)| text + name + ":" + &value.to_string() + " ")
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written. If that is because nobody reads any more there is nobody to tell, but the command ends: one that
/// follows a key would go on for ever.
pub(crate) fn out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(code::BROKEN_PIPE)),
        Err(error) => Err(anyhow::Error::from(error).context("cannot write the output").into()),
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`out`].
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    out(format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_as_go_writes_it() {
        let header = ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 102, raft_term: 0 };
        assert_eq!(header_text(Some(&header)), "cluster_id:18446744073709551615 member_id:7 revision:102 ");
        assert_eq!(header_text(None), "<nil>");
    }
}
