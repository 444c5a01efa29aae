//! Functions that templates call: what arguments Go would let them have, and what they do.

use super::Limits;
use super::value::{ANYS, MAP, TEXTS, Value};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The type of a parameter. It decides which constants and values fit, and the text of the error otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// `interface {}`
    Any,
    /// `reflect.Value`: anything, and nothing, too. Functions of Go's own.
    Reflect,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `float64`
    Float,
    /// `string`
    Text,
    /// A slice or map of this type.
    Named(&'static str),
}

impl Param {
    /// `[]string`
    pub const TEXTS: Self = Self::Named(TEXTS);
    /// `[]interface {}`
    pub const ANYS: Self = Self::Named(ANYS);
    /// `map[string]interface {}`
    pub const MAP: Self = Self::Named(MAP);

    /// Go's name of the type.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Any => "interface {}",
            Self::Reflect => "reflect.Value",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float64",
            Self::Text => "string",
            Self::Named(name) => name,
        }
    }

    pub(super) fn can_be_nil(self) -> bool {
        matches!(self, Self::Any | Self::Reflect | Self::Named(_))
    }

    /// What stands for nil where this type is expected.
    pub(super) fn nil(self) -> Value {
        match self {
            Self::Named(MAP) => Value::map(std::collections::BTreeMap::new()),
            Self::Named(name) => Value::list(name, Vec::new()),
            _ => Value::Nil,
        }
    }

    pub(super) fn takes(self, value: &Value) -> bool {
        let name = value.type_name();
        match self {
            Self::Any | Self::Reflect => true,
            Self::Named(own) => own == name || own.strip_prefix("[]").is_some_and(|element| is_list_of(name, element)),
            _ => !value.is_nil() && self.type_name() == name,
        }
    }
}

/// True for a type that has a name of its own and is a list of the element type: `memkv.KVPairs` is one of
/// `memkv.KVPair`. Go assigns it to the list without a name.
fn is_list_of(name: &str, element: &str) -> bool {
    name.strip_suffix('s') == Some(element)
}

type Body = Box<dyn Fn(&[Value]) -> Result<Value, String> + Send + Sync>;

/// A function or a bound method.
pub struct Function {
    name: &'static str,
    params: &'static [Param],
    variadic: Option<Param>,
    kind: Kind,
}

type RenderingBody = Box<dyn Fn(&[Value], &Limits) -> Result<Value, String> + Send + Sync>;

pub(super) enum Kind {
    Plain(Body),
    /// Renders something itself, with what is left of the caller's limits.
    Rendering(RenderingBody),
    /// Not every argument is evaluated: the evaluator does it.
    And,
    Or,
    /// Needs the text of its first argument for its errors.
    Call,
    /// Needs to know which of its arguments an `interface {}` holds.
    Slice,
}

impl Function {
    /// A function that takes exactly these parameters. An error's text follows `error calling NAME: `.
    pub fn new(
        name: &'static str,
        params: &'static [Param],
        body: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, params, variadic: None, kind: Kind::Plain(Box::new(body)) }
    }

    /// A function that takes any number of further arguments of one type behind its parameters.
    pub fn variadic(
        name: &'static str,
        params: &'static [Param],
        rest: Param,
        body: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, params, variadic: Some(rest), kind: Kind::Plain(Box::new(body)) }
    }

    /// [`Function::variadic`] for a function that renders another template. It gets what is left of the limits.
    pub fn rendering(
        name: &'static str,
        params: &'static [Param],
        rest: Param,
        body: impl Fn(&[Value], &Limits) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, params, variadic: Some(rest), kind: Kind::Rendering(Box::new(body)) }
    }

    pub(super) fn special(name: &'static str, kind: Kind) -> Self {
        Self { name, params: &[Param::Reflect], variadic: Some(Param::Reflect), kind }
    }

    /// The name, as templates call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The parameters that every call has.
    pub fn params(&self) -> &'static [Param] {
        self.params
    }

    /// The type of further arguments, if it takes them.
    pub fn rest(&self) -> Option<Param> {
        self.variadic
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The parameter that an argument is for.
    pub(super) fn param(&self, index: usize) -> Param {
        self.params.get(index).copied().or(self.variadic).unwrap_or(Param::Any)
    }

    /// Calls it with arguments that fit the parameters.
    pub fn call(&self, arguments: &[Value]) -> Result<Value, String> {
        match &self.kind {
            Kind::Plain(body) => body(arguments),
            Kind::Rendering(_) | Kind::And | Kind::Or | Kind::Call | Kind::Slice => {
                Err(format!("{} is not a value", self.name))
            }
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, params, variadic, kind: _ } = self;
        f.debug_struct("Function").field("name", name).field("params", params).field("variadic", variadic).finish()
    }
}

/// The functions of a template by name, besides those that Go always has. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    by_name: HashMap<&'static str, Arc<Function>>,
}

impl Functions {
    /// Adds a function, instead of one of the same name.
    pub fn add(&mut self, function: Function) {
        self.by_name.insert(function.name, Arc::new(function));
    }

    /// The function of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Function>> {
        self.by_name.get(name)
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }
}
