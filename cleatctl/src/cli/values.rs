//! The values of a command's flags, checked when they were read.

use super::{Flag, Kind};
use go::{csv, strconv, time};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// What the command line, and the environment behind it, say of each flag.
#[derive(Clone, Default)]
pub(crate) struct Values {
    set: BTreeMap<&'static str, Vec<OsString>>,
}

impl Values {
    /// Checks a value and keeps it.
    ///
    /// # Errors
    /// Go's text about a value that is none.
    pub(crate) fn set(&mut self, flag: &Flag, value: &OsStr) -> Result<(), String> {
        let text = value.to_string_lossy();
        let mut values = vec![value.to_owned()];
        match flag.kind {
            Kind::Bool => drop(strconv::parse_bool(text.as_bytes())?),
            Kind::Int => drop(strconv::parse_int(text.as_bytes(), 0)?),
            Kind::Uint => drop(strconv::parse_uint(text.as_bytes(), 0)?),
            Kind::Duration => drop(time::parse_duration(&text)?),
            Kind::String => {}
            Kind::List => values = csv::read_csv(&text)?.into_iter().map(OsString::from).collect(),
        }
        let kept = self.set.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            kept.clear();
        }
        kept.extend(values);
        Ok(())
    }

    /// True if a value was given.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.set.get(name)?.last().map(OsString::as_os_str)
    }

    fn given(&self, flag: &Flag) -> String {
        self.get(flag.name).map_or_else(|| flag.default.to_owned(), |value| value.to_string_lossy().into_owned())
    }

    pub(crate) fn switch(&self, flag: &Flag) -> bool {
        strconv::parse_bool(self.given(flag).as_bytes()).unwrap_or_default()
    }

    pub(crate) fn string(&self, flag: &Flag) -> String {
        self.given(flag)
    }

    /// The value as it was given, which may be no UTF-8.
    pub(crate) fn bytes(&self, flag: &Flag) -> Vec<u8> {
        self.get(flag.name).map_or_else(|| flag.default.as_bytes().to_vec(), |value| value.as_bytes().to_vec())
    }

    pub(crate) fn int(&self, flag: &Flag) -> i64 {
        strconv::parse_int(self.given(flag).as_bytes(), 0).unwrap_or_default()
    }

    pub(crate) fn uint(&self, flag: &Flag) -> u64 {
        strconv::parse_uint(self.given(flag).as_bytes(), 0).unwrap_or_default()
    }

    /// None for one below zero.
    pub(crate) fn duration(&self, flag: &Flag) -> Option<Duration> {
        let nanos = time::parse_duration(&self.given(flag)).unwrap_or_default();
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }

    pub(crate) fn list(&self, flag: &Flag) -> Vec<String> {
        match self.set.get(flag.name) {
            Some(values) => values.iter().map(|value| value.to_string_lossy().into_owned()).collect(),
            None if flag.default.is_empty() => Vec::new(),
            None => flag.default.split(',').map(str::to_owned).collect(),
        }
    }
}
