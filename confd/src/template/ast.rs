//! The tree of a template. Every node can write itself as source again, the way Go shows it in errors.

use super::function::Function;
use super::value::Text;
use go::strconv;
use std::fmt::{self, Display, Formatter, Write as _};
use std::sync::Arc;

/// Offset in the source, in bytes.
pub(super) type Pos = u32;

#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) nodes: Vec<Node>,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(Text),
    Action(Action),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template(Call),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct Action {
    pub(super) pos: Pos,
    pub(super) pipe: Pipe,
    pub(super) delims: Delims,
}

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Block,
    pub(super) otherwise: Option<Block>,
}

/// `{{template "name" pipeline}}`
#[derive(Debug)]
pub(super) struct Call {
    pub(super) pos: Pos,
    pub(super) name: Text,
    pub(super) pipe: Option<Pipe>,
    pub(super) delims: Delims,
}

/// The delimiters, which are part of what errors show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delims(pub(super) Arc<(String, String)>);

#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) pos: Pos,
    /// `=` and not `:=`.
    pub(super) assigns: bool,
    pub(super) variables: Vec<Arc<str>>,
    /// Never empty.
    pub(super) commands: Vec<Command>,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) pos: Pos,
    /// Never empty.
    pub(super) args: Vec<Expr>,
}

/// An operand with its place.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) pos: Pos,
    pub(super) kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    Bool(bool),
    Dot,
    Nil,
    Number(Number),
    /// The value and the literal.
    Text(Text, Text),
    /// `.A.B`, never empty.
    Field(Vec<Arc<str>>),
    /// `$x.A.B`: the name with its dollar, and fields.
    Variable(Arc<str>, Vec<Arc<str>>),
    /// `(pipeline).A.B` or `function.A.B`; never without fields.
    Chain(Box<Expr>, Vec<Arc<str>>),
    Function(Arc<Function>),
    Pipe(Box<Pipe>),
}

/// A literal number: what it can be taken for, as its text decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Number {
    pub(super) text: String,
    pub(super) int: Option<i64>,
    /// True for what only fits an unsigned integer.
    pub(super) is_uint: bool,
    pub(super) float: Option<f64>,
    pub(super) complex: Option<(f64, f64)>,
}

/// Bytes as a text; what is not UTF-8 is replaced.
struct Lossy<'a>(&'a [u8]);

impl Display for Lossy<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (left, right) = &*self.delims.0;
        write!(f, "{left}{}{right}", self.pipe)
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (left, right) = &*self.delims.0;
        write!(f, "{left}template {}", strconv::quote(&self.name))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str(right)
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, variable) in self.variables.iter().enumerate() {
            write!(f, "{}{variable}", if number > 0 { ", " } else { "" })?;
        }
        if !self.variables.is_empty() {
            f.write_str(if self.assigns { " = " } else { " := " })?;
        }
        for (number, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if number > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, arg) in self.args.iter().enumerate() {
            if number > 0 {
                f.write_char(' ')?;
            }
            match &arg.kind {
                ExprKind::Pipe(pipe) => write!(f, "({pipe})")?,
                _ => write!(f, "{arg}")?,
            }
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let fields = match &self.kind {
            ExprKind::Bool(truth) => return write!(f, "{truth}"),
            ExprKind::Dot => return f.write_char('.'),
            ExprKind::Nil => return f.write_str("nil"),
            ExprKind::Number(number) => return f.write_str(&number.text),
            ExprKind::Text(_, literal) => return write!(f, "{}", Lossy(literal)),
            ExprKind::Function(function) => return f.write_str(function.name()),
            ExprKind::Pipe(pipe) => return write!(f, "{pipe}"),
            ExprKind::Field(fields) => fields,
            ExprKind::Variable(name, fields) => {
                f.write_str(name)?;
                fields
            }
            ExprKind::Chain(base, fields) => {
                match &base.kind {
                    ExprKind::Pipe(pipe) => write!(f, "({pipe})")?,
                    _ => write!(f, "{base}")?,
                }
                fields
            }
        };
        fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

impl Block {
    /// True if nothing but white space and definitions is in it: Go lets such a definition be replaced.
    pub(super) fn is_blank(&self) -> bool {
        self.nodes.iter().all(|node| match node {
            Node::Text(text) => String::from_utf8_lossy(text).trim().is_empty(),
            _ => false,
        })
    }
}
