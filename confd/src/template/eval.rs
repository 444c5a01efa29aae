//! Walks the tree and prints.
//!
//! Where an error happened is the node that was looked at last, as in Go, so every step notes its node in
//! [`Evaluator::at`] and none restores it.

use super::ast::{Action, Block, Branch, Call, Command, Expr, ExprKind, Node, Number, Pipe, Pos};
use super::value::Value;
use super::{Limits, RenderError, Template, lex, print};
use go::strconv;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

/// Lists and maps within each other.
const MAX_VALUE_DEPTH: usize = 1000;

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u32 = 256;

/// Why walking stops.
pub(super) enum Halt {
    Break,
    Continue,
    /// The whole text of the error.
    Error(Box<str>),
}

pub(super) type Outcome<T> = Result<T, Halt>;

/// The node that was looked at last.
#[derive(Clone, Copy)]
pub(super) enum At<'t> {
    Start,
    Action(&'t Action),
    Call(&'t Call),
    Pipe(&'t Pipe),
    Command(&'t Command),
    Expr(&'t Expr),
}

pub(super) struct Evaluator<'t> {
    template: &'t Template,
    limits: Limits,
    deadline: Instant,
    steps: u32,
    depth: usize,
    /// Name of the definition that is being walked.
    definition: &'t [u8],
    pub(super) at: At<'t>,
    variables: Vec<Variable>,
    /// Whether an `interface {}` holds the dot: that is the type that Go names then.
    pub(super) is_dot_boxed: bool,
    /// The same of the value that was looked at last.
    pub(super) is_boxed: bool,
    out: Vec<u8>,
}

struct Variable {
    name: Arc<str>,
    value: Value,
    /// As [`Evaluator::is_boxed`].
    is_boxed: bool,
}

impl Variable {
    /// What a pipeline gives is taken out of its `interface {}`.
    fn new(name: &Arc<str>, value: Value) -> Self {
        Self { name: name.clone(), value, is_boxed: false }
    }

    fn dollar(data: &Value) -> Vec<Self> {
        vec![Self::new(&Arc::from("$"), data.clone())]
    }
}

pub(super) fn render(template: &Template, data: &Value, limits: &Limits) -> Result<Vec<u8>, RenderError> {
    let mut evaluator = Evaluator {
        template,
        limits: *limits,
        deadline: Instant::now() + limits.time,
        steps: 0,
        depth: 0,
        definition: template.name.as_bytes(),
        at: At::Start,
        variables: Variable::dollar(data),
        is_dot_boxed: false,
        is_boxed: false,
        out: Vec::new(),
    };
    let walked = match template.definitions.get(template.name.as_bytes()) {
        Some(block) => evaluator.walk(data, block),
        None => Ok(()),
    };
    match walked {
        // The parser lets break and continue into ranges only.
        Ok(()) | Err(Halt::Break | Halt::Continue) => Ok(evaluator.out),
        Err(Halt::Error(text)) => Err(RenderError { text: text.into(), output: evaluator.out }),
    }
}

impl<'t> Evaluator<'t> {
    pub(super) fn error<T>(&self, message: impl Display) -> Outcome<T> {
        let (pos, node): (Pos, &dyn Display) = match self.at {
            At::Start => return Err(Halt::Error(format!("template: {}: {message}", self.template.name).into())),
            At::Action(action) => (action.pos, action),
            At::Call(call) => (call.pos, call),
            At::Pipe(pipe) => (pipe.pos, pipe),
            At::Command(command) => (command.pos, command),
            At::Expr(expr) => (expr.pos, expr),
        };
        let before = &self.template.source[..(pos as usize).min(self.template.source.len())];
        let line = 1 + lex::lines(before);
        let column = before.len() - before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let (file, name) = (&self.template.name, strconv::quote(self.definition));
        Err(Halt::Error(format!("template: {file}:{line}:{column}: executing {name} at <{node}>: {message}").into()))
    }

    /// Counts a step, and now and then looks at the clock.
    pub(super) fn step(&mut self) -> Outcome<()> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(STEPS_PER_LOOK) { self.look() } else { Ok(()) }
    }

    /// Looks at the clock.
    pub(super) fn look(&self) -> Outcome<()> {
        if Instant::now() > self.deadline {
            return self.error(format!("rendering takes longer than {:?}", self.limits.time));
        }
        Ok(())
    }

    /// What is left of the limits here.
    pub(super) fn left(&self) -> Limits {
        Limits {
            output_bytes: self.limits.output_bytes.saturating_sub(self.out.len()),
            depth: self.limits.depth.saturating_sub(self.depth),
            time: self.deadline.saturating_duration_since(Instant::now()),
        }
    }

    /// Goes one level deeper, within the limit.
    fn deeper<T>(&mut self, walk: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if self.depth >= self.limits.depth {
            return self.error(format!("exceeded maximum template depth ({})", self.limits.depth));
        }
        self.depth += 1;
        let walked = walk(self);
        self.depth -= 1;
        walked
    }

    /// Refuses strings that are larger than any output may be, and lists and maps that are so deep within each other that
    /// walking them would take the stack.
    pub(super) fn bounded(&self, value: Value) -> Outcome<Value> {
        match &value {
            value if value.depth() > MAX_VALUE_DEPTH => {
                self.error(format!("lists and maps are more than {MAX_VALUE_DEPTH} levels within each other"))
            }
            Value::Text(text) if text.len() > self.limits.output_bytes => self.too_large(),
            _ => Ok(value),
        }
    }

    fn too_large<T>(&self) -> Outcome<T> {
        self.error(format!("the output is larger than {} bytes", self.limits.output_bytes))
    }

    /// Walks with another dot.
    fn walk_with(&mut self, dot: &Value, is_boxed: bool, block: &'t Block) -> Outcome<()> {
        let outside = std::mem::replace(&mut self.is_dot_boxed, is_boxed);
        let walked = self.walk(dot, block);
        self.is_dot_boxed = outside;
        walked
    }

    fn walk(&mut self, dot: &Value, block: &'t Block) -> Outcome<()> {
        for node in &block.nodes {
            match node {
                Node::Text(text) => self.out.extend_from_slice(text),
                Node::Action(action) => {
                    self.at = At::Action(action);
                    let value = self.pipeline(dot, &action.pipe)?;
                    if action.pipe.variables.is_empty() {
                        self.print(action, &value)?;
                    }
                }
                Node::If(branch) => self.deeper(|evaluator| evaluator.branch(dot, branch, false))?,
                Node::With(branch) => self.deeper(|evaluator| evaluator.branch(dot, branch, true))?,
                Node::Range(branch) => self.deeper(|evaluator| evaluator.range(dot, branch))?,
                Node::Template(call) => self.template(dot, call)?,
                Node::Break => return Err(Halt::Break),
                Node::Continue => return Err(Halt::Continue),
            }
            if self.out.len() > self.limits.output_bytes {
                return self.too_large();
            }
        }
        Ok(())
    }

    fn print(&mut self, action: &'t Action, value: &Value) -> Outcome<()> {
        self.at = At::Action(action);
        match value {
            Value::Absent => self.out.extend_from_slice(b"<no value>"),
            Value::Function(_) => {
                return self.error(format!("can't print {action} of type {}", value.type_name()));
            }
            value => print::append(&mut self.out, value, self.limits.output_bytes),
        }
        Ok(())
    }

    fn branch(&mut self, dot: &Value, branch: &'t Branch, sets_dot: bool) -> Outcome<()> {
        let visible = self.variables.len();
        let value = self.pipeline(dot, &branch.pipe)?;
        let walked = if value.is_true() {
            if sets_dot { self.walk_with(&value, false, &branch.then) } else { self.walk(dot, &branch.then) }
        } else if let Some(otherwise) = &branch.otherwise {
            self.walk(dot, otherwise)
        } else {
            Ok(())
        };
        self.variables.truncate(visible);
        walked
    }

    fn range(&mut self, dot: &Value, branch: &'t Branch) -> Outcome<()> {
        let visible = self.variables.len();
        let walked = self.iterate(dot, branch);
        self.variables.truncate(visible);
        match walked {
            Err(Halt::Break) => Ok(()),
            walked => walked,
        }
    }

    fn iterate(&mut self, dot: &Value, branch: &'t Branch) -> Outcome<()> {
        let over = self.pipeline(dot, &branch.pipe)?;
        match &over {
            Value::Int(_) | Value::Int64(_) | Value::Byte(_) => {
                let end = match over {
                    Value::Int(end) | Value::Int64(end) => end,
                    _ => 0,
                };
                if branch.pipe.variables.len() > 1 {
                    return self.error(format!("can't use {end} to iterate over more than one variable"));
                }
                for number in 0..end {
                    let number = if let Value::Int64(_) = over { Value::Int64(number) } else { Value::Int(number) };
                    self.iteration(branch, || Value::Absent, &number, false)?;
                }
                if end > 0 {
                    return Ok(());
                }
            }
            Value::List(list) if !list.is_empty() => {
                // Elements may be changed in place meanwhile, never their number.
                let mut index = 0;
                let is_boxed = over.holds_anything();
                while let Some(item) = list.get(index) {
                    self.iteration(branch, || Value::Int(index as i64), &item, is_boxed)?;
                    index += 1;
                }
                return Ok(());
            }
            Value::Map(map) if !map.entries.is_empty() => {
                let is_boxed = over.holds_anything();
                for (key, value) in &map.entries {
                    self.iteration(branch, || Value::Text(key.clone()), value, is_boxed)?;
                }
                return Ok(());
            }
            Value::List(_) | Value::Map(_) | Value::Absent | Value::Nil => {}
            other => {
                let shown = print::sprint(std::slice::from_ref(other));
                return self.error(format!("range can't iterate over {}", String::from_utf8_lossy(&shown)));
            }
        }
        match &branch.otherwise {
            Some(otherwise) => self.walk(dot, otherwise),
            None => Ok(()),
        }
    }

    fn iteration(
        &mut self,
        branch: &'t Branch,
        index: impl FnOnce() -> Value,
        item: &Value,
        is_boxed: bool,
    ) -> Outcome<()> {
        self.step()?;
        let pipe = &branch.pipe;
        match pipe.variables.as_slice() {
            [] => {}
            [variable] if pipe.assigns => self.assign(variable, item.clone(), is_boxed)?,
            [first, second, ..] if pipe.assigns => {
                self.assign(first, index(), false)?;
                self.assign(second, item.clone(), is_boxed)?;
            }
            variables => {
                // The pipeline has declared them, the element's last.
                let top = self.variables.len();
                self.variables[top - 1].value = item.clone();
                self.variables[top - 1].is_boxed = is_boxed;
                if variables.len() > 1 {
                    self.variables[top - 2].value = index();
                }
            }
        }
        let visible = self.variables.len();
        let walked = self.walk_with(item, is_boxed, &branch.then);
        self.variables.truncate(visible);
        match walked {
            Err(Halt::Continue) => Ok(()),
            walked => walked,
        }
    }

    fn template(&mut self, dot: &Value, call: &'t Call) -> Outcome<()> {
        self.at = At::Call(call);
        self.step()?;
        let Some(block) = self.template.definitions.get(&call.name) else {
            return self.error(format!("template {} not defined", strconv::quote(&call.name)));
        };
        self.deeper(|evaluator| {
            let data = match &call.pipe {
                Some(pipe) => evaluator.pipeline(dot, pipe)?,
                None => Value::Absent,
            };
            // It sees no variables but the dollar.
            let outside = std::mem::replace(&mut evaluator.variables, Variable::dollar(&data));
            let caller = std::mem::replace(&mut evaluator.definition, &call.name);
            let walked = evaluator.walk_with(&data, false, block);
            evaluator.variables = outside;
            evaluator.definition = caller;
            walked
        })
    }

    /// The value of a pipeline, whose variables it declares or assigns.
    pub(super) fn pipeline(&mut self, dot: &Value, pipe: &'t Pipe) -> Outcome<Value> {
        self.at = At::Pipe(pipe);
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(dot, command, value)?.unwrapped());
        }
        let value = value.unwrap_or(Value::Absent);
        for variable in &pipe.variables {
            if pipe.assigns {
                self.assign(variable, value.clone(), false)?;
            } else {
                self.variables.push(Variable::new(variable, value.clone()));
            }
        }
        Ok(value)
    }

    /// The pipeline in parentheses.
    pub(super) fn parenthesized(&mut self, dot: &Value, pipe: &'t Pipe) -> Outcome<Value> {
        self.deeper(|evaluator| evaluator.pipeline(dot, pipe))
    }

    fn assign(&mut self, name: &Arc<str>, value: Value, is_boxed: bool) -> Outcome<()> {
        match self.variables.iter_mut().rev().find(|own| own.name == *name) {
            Some(own) => {
                own.value = value;
                own.is_boxed = is_boxed;
                Ok(())
            }
            None => self.error(format!("undefined variable: {name}")),
        }
    }

    fn command(&mut self, dot: &Value, command: &'t Command, last: Option<Value>) -> Outcome<Value> {
        let (first, args) = (&command.args[0], &command.args[1..]);
        match &first.kind {
            ExprKind::Field(fields) => {
                self.at = At::Expr(first);
                self.is_boxed = self.is_dot_boxed;
                return self.fields(dot, dot.clone(), first, fields, args, last);
            }
            ExprKind::Chain(base, fields) => return self.chain(dot, first, base, fields, args, last),
            ExprKind::Function(function) => {
                self.at = At::Expr(first);
                return self.call(dot, function, At::Command(command), function.name(), args, last);
            }
            ExprKind::Pipe(pipe) => {
                self.not_a_function(first, args, last.as_ref())?;
                return self.parenthesized(dot, pipe);
            }
            ExprKind::Variable(name, fields) => return self.variable(dot, first, name, fields, args, last),
            _ => {}
        }
        self.at = At::Expr(first);
        self.not_a_function(first, args, last.as_ref())?;
        match &first.kind {
            ExprKind::Bool(truth) => Ok(Value::Bool(*truth)),
            ExprKind::Dot => Ok(dot.clone()),
            ExprKind::Number(number) => self.constant(number),
            ExprKind::Text(text, _) => Ok(Value::Text(text.clone())),
            _ => self.error("nil is not a command"),
        }
    }

    fn not_a_function(&self, first: &Expr, args: &[Expr], last: Option<&Value>) -> Outcome<()> {
        if args.is_empty() && last.is_none() {
            return Ok(());
        }
        self.error(format!("can't give argument to non-function {first}"))
    }

    /// A number where nothing says what type it should have.
    pub(super) fn constant(&self, number: &Number) -> Outcome<Value> {
        if let Some((real, imaginary)) = number.complex {
            return Ok(Value::Complex(real, imaginary));
        }
        match (number.float, number.int) {
            (Some(float), _) if number.looks_like_float() => Ok(Value::Float(float)),
            (_, Some(int)) => Ok(Value::Int(int)),
            _ => self.error(format!("{} overflows int", number.text)),
        }
    }

    pub(super) fn variable(
        &mut self,
        dot: &Value,
        expr: &'t Expr,
        name: &Arc<str>,
        fields: &'t [Arc<str>],
        args: &'t [Expr],
        last: Option<Value>,
    ) -> Outcome<Value> {
        self.at = At::Expr(expr);
        let Some(own) = self.variables.iter().rev().find(|own| own.name == *name) else {
            return self.error(format!("undefined variable: {name}"));
        };
        let value = own.value.clone();
        self.is_boxed = own.is_boxed;
        if fields.is_empty() {
            self.not_a_function(expr, args, last.as_ref())?;
            return Ok(value);
        }
        self.fields(dot, value, expr, fields, args, last)
    }

    pub(super) fn chain(
        &mut self,
        dot: &Value,
        expr: &'t Expr,
        base: &'t Expr,
        fields: &'t [Arc<str>],
        args: &'t [Expr],
        last: Option<Value>,
    ) -> Outcome<Value> {
        self.at = At::Expr(expr);
        self.at = At::Expr(base);
        let value = match &base.kind {
            ExprKind::Pipe(pipe) => self.parenthesized(dot, pipe)?,
            ExprKind::Function(function) => self.call(dot, function, At::Expr(base), function.name(), &[], None)?,
            // The parser makes no other chains.
            _ => return self.error("can't evaluate field of a literal"),
        };
        self.is_boxed = false;
        self.fields(dot, value, expr, fields, args, last)
    }

    /// `.X.Y.Z` of a value, of which [`Self::is_boxed`] tells. The last one gets the arguments, if it is a method.
    pub(super) fn fields(
        &mut self,
        dot: &Value,
        mut receiver: Value,
        node: &'t Expr,
        fields: &'t [Arc<str>],
        args: &'t [Expr],
        mut last: Option<Value>,
    ) -> Outcome<Value> {
        let mut is_boxed = self.is_boxed;
        for (number, field) in fields.iter().enumerate() {
            let is_last = number + 1 == fields.len();
            let (args, last) = if is_last { (args, last.take()) } else { (&[][..], None) };
            let Some(value) = self.field(dot, &receiver, node, field, args, last)? else {
                let type_name = if is_boxed { Value::Nil.type_name() } else { receiver.type_name() };
                return self.error(format!("can't evaluate field {field} in type {type_name}"));
            };
            is_boxed = receiver.holds_anything() && !matches!(value, Value::Absent);
            receiver = value;
        }
        self.is_boxed = is_boxed;
        Ok(receiver)
    }

    /// None if there is no such field.
    fn field(
        &mut self,
        dot: &Value,
        receiver: &Value,
        node: &'t Expr,
        name: &Arc<str>,
        args: &'t [Expr],
        last: Option<Value>,
    ) -> Outcome<Option<Value>> {
        let has_args = !args.is_empty() || last.is_some();
        match receiver {
            Value::Absent => return Ok(Some(Value::Absent)),
            Value::Nil => return self.error(format!("nil pointer evaluating interface {{}}.{name}")),
            Value::Map(_) if has_args => return self.error(format!("{name} is not a method but has arguments")),
            Value::Map(map) => return Ok(Some(map.entries.get(name.as_bytes()).cloned().unwrap_or(Value::Absent))),
            Value::Object(object) => {
                if let Some(method) = object.method(name) {
                    let name = method.name();
                    return self.call(dot, &method, At::Expr(node), name, args, last).map(Some);
                }
                if let Some(value) = object.field(name) {
                    if has_args {
                        return self.error(format!("{name} has arguments but cannot be invoked as function"));
                    }
                    return Ok(Some(value));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}
