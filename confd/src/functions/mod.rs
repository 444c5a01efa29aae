//! The functions that confd gives to templates, besides those of Go.
//!
//! Three programs called confd have different sets, and a few functions with one name and different results. Which set a
//! template gets is its [`Dialect`]; `registry` is the only place that knows what belongs to which.

mod convert;
mod host;
mod include;
mod json;
mod pattern;
mod registry;
mod store;
mod text;
mod time;
mod yaml;
mod yunify;

pub(crate) use pattern::clean as clean_path;
pub use registry::functions;

use crate::keys::Keys;
use crate::template::{Text, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Whose functions a template is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// kelseyhightower's confd, and the functions of abtreece's fork that confd lacks.
    #[default]
    Confd,
    /// yunify's fork: fewer functions, and arithmetic and comparisons that take numbers in strings.
    Yunify,
    /// abtreece's fork: as [`Dialect::Confd`], where both have a function with the fork's results.
    Abtreece,
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "confd" => Ok(Self::Confd),
            "yunify" => Ok(Self::Yunify),
            "abtreece" => Ok(Self::Abtreece),
            _ => Err(format!("unknown dialect {name:?}: it is one of confd, yunify, abtreece")),
        }
    }
}

/// What functions have to do with: the keys of the resource, which change from run to run, and this process. The Debug
/// output has no values of either.
#[derive(Clone)]
pub struct Context {
    keys: Arc<Mutex<Arc<Keys>>>,
    /// For `getenv`.
    pub environment: Arc<BTreeMap<String, String>>,
    /// For `include`; None refuses it.
    pub template_dir: Option<PathBuf>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { keys: _, environment, template_dir } = self;
        f.debug_struct("Context")
            .field("keys", &self.keys())
            .field("environment", &environment.len())
            .field("template_dir", template_dir)
            .finish()
    }
}

impl Context {
    /// A context without keys.
    pub fn new(environment: Arc<BTreeMap<String, String>>, template_dir: Option<PathBuf>) -> Self {
        Self { keys: Arc::default(), environment, template_dir }
    }

    /// Gives the functions other keys.
    pub fn set_keys(&self, keys: Arc<Keys>) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys that functions see now.
    pub fn keys(&self) -> Arc<Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// A parameter's type is checked before a function is called, so these find what they look for.

fn bytes(value: &Value) -> &[u8] {
    match value {
        Value::Text(text) => text,
        _ => b"",
    }
}

fn string(value: &Value) -> String {
    String::from_utf8_lossy(bytes(value)).into_owned()
}

fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) | Value::Int64(number) => *number,
        _ => 0,
    }
}

fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::List(list) => list.to_vec(),
        _ => Vec::new(),
    }
}

/// Longest string that a function makes of shorter ones.
const MAX_TEXT_BYTES: u128 = 256 << 20;

/// Refuses to make a string of so many bytes.
fn fits(bytes: u128) -> Result<(), String> {
    if bytes <= MAX_TEXT_BYTES { Ok(()) } else { Err(format!("the result is larger than {MAX_TEXT_BYTES} bytes")) }
}

/// A product, for [`fits`].
fn product(left: usize, right: usize) -> u128 {
    left as u128 * right as u128
}

fn text_value(text: &Text) -> Value {
    Value::Text(text.clone())
}

#[cfg(test)]
mod tests;
