//! Calls: arguments get the types that parameters ask for, by the rules of Go's reflection.

use super::ast::{Expr, ExprKind};
use super::builtins::slice;
use super::eval::{At, Evaluator, Outcome};
use super::function::{Function, Kind, Param};
use super::value::Value;
use std::sync::Arc;

impl<'t> Evaluator<'t> {
    /// Calls a function. `node` is what an error of the function is reported at; `last` is the value that a pipeline
    /// hands on.
    pub(super) fn call(
        &mut self,
        dot: &Value,
        function: &Arc<Function>,
        node: At<'t>,
        name: &str,
        args: &'t [Expr],
        last: Option<Value>,
    ) -> Outcome<Value> {
        self.step()?;
        let given = args.len() + usize::from(last.is_some());
        let wanted = function.params().len();
        if function.rest().is_some() {
            if given < wanted {
                let got = args.len();
                return self.error(format!("wrong number of args for {name}: want at least {wanted} got {got}"));
            }
        } else if given != wanted {
            return self.error(format!("wrong number of args for {name}: want {wanted} got {given}"));
        }
        if let Kind::And | Kind::Or = function.kind() {
            return self.short_circuit(dot, matches!(function.kind(), Kind::Or), args, last);
        }
        let mut values = Vec::with_capacity(given);
        let mut first_boxed = None;
        for (index, arg) in args.iter().enumerate() {
            self.is_boxed = false;
            values.push(self.argument(dot, function.param(index), arg)?);
            if self.is_boxed && index > 0 {
                first_boxed = first_boxed.or(Some(index - 1));
            }
        }
        if let Some(last) = last {
            values.push(self.validated(last, function.param(given - 1))?);
        }
        let called = match function.kind() {
            Kind::Call => {
                let callee = args.first().map_or_else(|| "<func Value>".to_owned(), ToString::to_string);
                call_value(&callee, &values)
            }
            Kind::Slice => slice(&values[0], &values[1..], first_boxed),
            Kind::Rendering(body) => body(&values, &self.left()),
            _ => function.call(&values),
        };
        match called {
            Ok(value) => {
                // It may have waited for a resolver.
                self.look()?;
                self.bounded(value)
            }
            Err(message) => {
                self.at = node;
                self.error(format!("error calling {name}: {message}"))
            }
        }
    }

    /// `and` and `or`: the first argument that decides.
    fn short_circuit(&mut self, dot: &Value, is_or: bool, args: &'t [Expr], last: Option<Value>) -> Outcome<Value> {
        let mut value = Value::Absent;
        for arg in args {
            value = self.argument(dot, Param::Reflect, arg)?;
            if value.is_true() == is_or {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn argument(&mut self, dot: &Value, param: Param, expr: &'t Expr) -> Outcome<Value> {
        self.at = At::Expr(expr);
        let value = match &expr.kind {
            ExprKind::Dot => {
                self.is_boxed = self.is_dot_boxed;
                dot.clone()
            }
            ExprKind::Nil if param == Param::Reflect => return Ok(Value::Absent),
            ExprKind::Nil if param.can_be_nil() => return Ok(param.nil()),
            ExprKind::Nil => return self.error(format!("cannot assign nil to {}", param.type_name())),
            ExprKind::Field(fields) => {
                self.is_boxed = self.is_dot_boxed;
                self.fields(dot, dot.clone(), expr, fields, &[], None)?
            }
            ExprKind::Variable(name, fields) => self.variable(dot, expr, name, fields, &[], None)?,
            ExprKind::Pipe(pipe) => {
                let value = self.parenthesized(dot, pipe)?;
                self.is_boxed = false;
                value
            }
            ExprKind::Function(function) => {
                let value = self.call(dot, function, At::Expr(expr), function.name(), &[], None)?;
                self.is_boxed = false;
                value
            }
            ExprKind::Chain(base, fields) => self.chain(dot, expr, base, fields, &[], None)?,
            ExprKind::Bool(_) | ExprKind::Number(_) | ExprKind::Text(..) => return self.literal(param, expr),
        };
        self.validated(value, param)
    }

    /// A constant takes the type of the parameter if it can.
    fn literal(&self, param: Param, expr: &Expr) -> Outcome<Value> {
        match (param, &expr.kind) {
            (Param::Any | Param::Reflect | Param::Bool, ExprKind::Bool(truth)) => Ok(Value::Bool(*truth)),
            (Param::Any | Param::Reflect | Param::Text, ExprKind::Text(text, _)) => Ok(Value::Text(text.clone())),
            (Param::Any | Param::Reflect, ExprKind::Number(number)) => self.constant(number),
            (Param::Int, ExprKind::Number(number)) if number.int.is_some() => {
                Ok(Value::Int(number.int.unwrap_or_default()))
            }
            (Param::Float, ExprKind::Number(number)) if number.float.is_some() => {
                Ok(Value::Float(number.float.unwrap_or_default()))
            }
            (Param::Bool, _) => self.error(format!("expected bool; found {expr}")),
            (Param::Text, _) => self.error(format!("expected string; found {expr}")),
            (Param::Int, _) => self.error(format!("expected integer; found {expr}")),
            (Param::Float, _) => self.error(format!("expected float; found {expr}")),
            (param, _) => self.error(format!("can't handle {expr} for arg of type {}", param.type_name())),
        }
    }

    /// A value that is not a constant has to have the type already.
    fn validated(&self, value: Value, param: Param) -> Outcome<Value> {
        match value {
            Value::Absent if param == Param::Reflect => Ok(Value::Absent),
            Value::Absent if param.can_be_nil() => Ok(param.nil()),
            Value::Absent => self.error(format!("invalid value; expected {}", param.type_name())),
            value if param.takes(&value) => Ok(value),
            value => {
                let (wanted, got) = (param.type_name(), value.type_name());
                self.error(format!("wrong type for value; expected {wanted}; got {got}"))
            }
        }
    }
}

/// The function `call`: its first argument is the function.
fn call_value(callee: &str, values: &[Value]) -> Result<Value, String> {
    let (function, args) = match values.split_first() {
        Some((Value::Function(function), args)) => (function, args),
        Some((value, _)) if !value.is_nil() => {
            return Err(format!("non-function {callee} of type {}", value.type_name()));
        }
        _ => return Err("call of nil".to_owned()),
    };
    let wanted = function.params().len();
    let got = args.len();
    if function.rest().is_some() && got < wanted {
        return Err(format!("wrong number of args for {callee}: got {got} want at least {wanted}"));
    }
    if function.rest().is_none() && got != wanted {
        return Err(format!("wrong number of args for {callee}: got {got} want {wanted}"));
    }
    let mut prepared = Vec::with_capacity(got);
    for (index, arg) in args.iter().enumerate() {
        let value = prepare(arg, function.param(index)).map_err(|reason| format!("arg {index}: {reason}"))?;
        prepared.push(value);
    }
    function.call(&prepared)
}

/// A value for a parameter, where Go converts between kinds of integers.
pub(super) fn prepare(value: &Value, param: Param) -> Result<Value, String> {
    match value {
        Value::Absent | Value::Nil if param.can_be_nil() => Ok(param.nil()),
        Value::Absent | Value::Nil => Err(format!("value is nil; should be of type {}", param.type_name())),
        value if param.takes(value) => Ok(value.clone()),
        Value::Int64(number) if param == Param::Int => Ok(Value::Int(*number)),
        Value::Byte(byte) if param == Param::Int => Ok(Value::Int(i64::from(*byte))),
        value => Err(format!("value has type {}; should be {}", value.type_name(), param.type_name())),
    }
}
