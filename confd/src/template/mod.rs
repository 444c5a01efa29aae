//! Go's text/template: existing templates render byte for byte, and fail with Go's words.
//!
//! This module knows nothing of confd. Its parts, in the order in which a template meets them:
//!
//! - `lex.rs` and `parse.rs` make a tree (`ast.rs`) of the source. Functions are looked up here, once.
//! - `eval.rs` walks the tree; `call.rs` evaluates arguments by the rules of Go's reflection.
//! - [`Value`] is what a template computes with. [`Function`] and [`Object`] are what others give it.
//! - `builtins.rs`, `compare.rs` and `escape.rs` are the functions that every template has; `print/` is Go's `fmt`.
//!   `go` has its `strconv`.
//!
//! The language is that of Go 1.27: `{{else with}}`, `{{range 3}}` and the newer error texts included.
//!
//! What is different on purpose: a run is bounded ([`Limits`]), and so is nesting, so that no template takes the stack or
//! the memory of the process. A list prints as Go prints it, but a pointer inside of one has no address to show.

mod ast;
mod builtins;
mod call;
mod compare;
mod escape;
mod eval;
mod function;
mod lex;
mod number;
mod parse;
mod print;
mod value;

use ast::Delims;
use parse::Definitions;
use std::sync::Arc;
use std::time::Duration;

pub use compare::same;
pub use function::{Function, Functions, Param};
pub use print::{sprint, sprintf};
pub use value::{ANYS, List, MAP, Map, Object, TEXTS, Text, Value};

/// Largest source. Positions in it are 32 bits.
const MAX_SOURCE_BYTES: usize = 64 << 20;

/// A parsed template and the templates that it defines. It can be rendered any number of times.
#[derive(Debug)]
pub struct Template {
    /// Shown in errors.
    name: String,
    source: Vec<u8>,
    definitions: Definitions,
}

/// Bounds of one rendering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest output, and largest string on the way to it.
    pub output_bytes: usize,
    /// Templates, blocks and parentheses within each other, by calls. The stack must be large enough: see
    /// [`Limits::STACK_BYTES`].
    pub depth: usize,
    /// Longest time.
    pub time: Duration,
}

impl Limits {
    /// Stack of a thread that parses and renders with the default limits.
    pub const STACK_BYTES: usize = 64 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { output_bytes: 256 << 20, depth: 5_000, time: Duration::from_secs(30) }
    }
}

/// A rendering that failed. The Debug output has nothing of the output.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RenderError {
    /// Go's text.
    pub text: String,
    /// What was printed before.
    pub output: Vec<u8>,
}

impl std::fmt::Debug for RenderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { text, output } = self;
        f.debug_struct("RenderError").field("text", text).field("output", &output.len()).finish()
    }
}

impl Template {
    /// Parses a source. `name` is what errors call it: confd gives the file's base name.
    ///
    /// # Errors
    /// Go's text, with the line.
    pub fn parse(name: &str, source: &[u8], functions: &Functions) -> Result<Self, String> {
        Self::parse_with(name, source, ("", ""), functions)
    }

    /// [`Template::parse`] with other delimiters than `{{` and `}}`. An empty one means the usual.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_with(
        name: &str,
        source: &[u8],
        (left, right): (&str, &str),
        functions: &Functions,
    ) -> Result<Self, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!("template: {name}: it is larger than {} MiB", MAX_SOURCE_BYTES >> 20));
        }
        let or = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
        let delims = Delims(Arc::new((or(left, "{{"), or(right, "}}"))));
        let definitions = parse::parse(name, source, &delims, functions)?;
        Ok(Self { name: name.to_owned(), source: source.to_vec(), definitions })
    }

    /// Renders with `data` as the dot.
    ///
    /// # Errors
    /// Go's text with line, column and the node, and what was printed until then.
    pub fn render(&self, data: &Value, limits: &Limits) -> Result<Vec<u8>, RenderError> {
        eval::render(self, data, limits)
    }
}

#[cfg(test)]
mod tests;
