//! Values of a template: what Go's reflection would see, as far as templates can tell the difference.
//!
//! A string is bytes, as in Go: a value from a store need not be UTF-8. Lists are shared and may be changed in place,
//! because some functions of confd do that and templates see it.

use super::function::Function;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// A Go string. Clones share the bytes.
pub type Text = Arc<[u8]>;

/// What an action, an argument or a variable holds.
#[derive(Clone)]
pub enum Value {
    /// Nothing at all, like the entry of a map for a key that it lacks. Prints `<no value>`.
    Absent,
    /// The nil that an `interface {}` holds, like JSON's null inside a list.
    Nil,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `int64`, which Go does not take for an `int`.
    Int64(i64),
    /// `uint8`: one byte of a string.
    Byte(u8),
    /// `float64`
    Float(f64),
    /// `complex128`: real and imaginary part.
    Complex(f64, f64),
    /// `string`
    Text(Text),
    /// A slice.
    List(Rc<List>),
    /// A map with strings as keys.
    Map(Rc<Map>),
    /// A struct or another type with fields or methods.
    Object(Rc<dyn Object>),
    /// A function as a value, for `call`.
    Function(Arc<Function>),
}

/// A Go slice: its type as Go writes it, like `[]string`, and its elements.
pub struct List {
    /// Go's name of the type.
    pub type_name: &'static str,
    items: RefCell<Vec<Value>>,
    depth: usize,
}

/// A Go map with string keys, in the order in which templates see it.
pub struct Map {
    /// Go's name of the type.
    pub type_name: &'static str,
    /// In ascending order of bytes.
    pub entries: BTreeMap<Text, Value>,
    depth: usize,
}

/// Go's name of a list of strings.
pub const TEXTS: &str = "[]string";
/// Go's name of a list of anything.
pub const ANYS: &str = "[]interface {}";
/// Go's name of a map of anything.
pub const MAP: &str = "map[string]interface {}";

/// A value with fields and methods, like a struct of Go.
pub trait Object {
    /// Go's name of the type.
    fn type_name(&self) -> &'static str;

    /// The exported fields in the order of their declaration; they decide how the value prints.
    fn fields(&self) -> Vec<(&'static str, Value)>;

    /// A field by its name.
    fn field(&self, name: &str) -> Option<Value> {
        self.fields().into_iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// A method, bound to this value.
    fn method(&self, _name: &str) -> Option<Arc<Function>> {
        None
    }

    /// The text of a type that has a method `String`; it is printed instead of the fields.
    fn string(&self) -> Option<String> {
        None
    }

    /// The number that the type is made of, like that of a month.
    fn integer(&self) -> Option<i64> {
        None
    }

    /// True for a type that is a pointer to a struct.
    fn is_pointer(&self) -> bool {
        false
    }
}

impl List {
    /// A list of a type.
    pub fn new(type_name: &'static str, items: Vec<Value>) -> Self {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or_default();
        Self { type_name, items: RefCell::new(items), depth }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element, as it is now.
    pub fn get(&self, index: usize) -> Option<Value> {
        self.items.borrow().get(index).cloned()
    }

    /// All elements as they are now.
    pub fn to_vec(&self) -> Vec<Value> {
        self.items.borrow().clone()
    }

    /// Changes the order of the elements for everyone who has this list.
    pub fn reorder(&self, change: impl FnOnce(&mut [Value])) {
        change(&mut self.items.borrow_mut());
    }
}

impl Map {
    /// A map of a type.
    pub fn new(type_name: &'static str, entries: BTreeMap<Text, Value>) -> Self {
        let depth = 1 + entries.values().map(Value::depth).max().unwrap_or_default();
        Self { type_name, entries, depth }
    }
}

impl Value {
    /// A string.
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Text(Arc::from(text.as_ref()))
    }

    /// A list of a type.
    pub fn list(type_name: &'static str, items: Vec<Self>) -> Self {
        Self::List(Rc::new(List::new(type_name, items)))
    }

    /// `[]string`
    pub fn texts<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::list(TEXTS, items.into_iter().map(Self::text).collect())
    }

    /// `map[string]interface {}`
    pub fn map(entries: BTreeMap<Text, Self>) -> Self {
        Self::Map(Rc::new(Map::new(MAP, entries)))
    }

    /// Go's name of the dynamic type, as in its error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Absent => "<nil>",
            Self::Nil => "interface {}",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Int64(_) => "int64",
            Self::Byte(_) => "uint8",
            Self::Float(_) => "float64",
            Self::Complex(..) => "complex128",
            Self::Text(_) => "string",
            Self::List(list) => list.type_name,
            Self::Map(map) => map.type_name,
            Self::Object(object) => object.type_name(),
            // Go writes the whole signature.
            Self::Function(_) => "func",
        }
    }

    /// Lists and maps within each other.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::List(list) => list.depth,
            Self::Map(map) => map.depth,
            _ => 0,
        }
    }

    /// The truth of `if`: false for zero, the empty and nothing.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Absent | Self::Nil => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) | Self::Int64(number) => *number != 0,
            Self::Byte(byte) => *byte != 0,
            Self::Float(number) => *number != 0.0,
            Self::Complex(real, imaginary) => *real != 0.0 || *imaginary != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.entries.is_empty(),
            Self::Object(object) => object.integer().is_none_or(|number| number != 0),
            Self::Function(_) => true,
        }
    }

    /// True for nothing, of either kind.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Absent | Self::Nil)
    }

    /// True of a list or map whose type says nothing of what is in it: an `interface {}` holds each value there.
    pub(super) fn holds_anything(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_)) && [ANYS, MAP].contains(&self.type_name())
    }

    /// Takes the value out of the `interface {}` that a list or map holds it in: a nil there is nothing.
    pub(super) fn unwrapped(self) -> Self {
        if matches!(self, Self::Nil) { Self::Absent } else { self }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Arc::from(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Value {
    fn from(text: Vec<u8>) -> Self {
        Self::Text(Arc::from(text))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}
