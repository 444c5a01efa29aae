//! Tokens to the tree, with Go's errors.

use super::ast::{Action, Block, Branch, Call, Command, Delims, Expr, ExprKind, Node, Number, Pipe, Pos};
use super::builtins;
use super::function::{Function, Functions};
use super::lex::{Keyword, Kind, Lexer, Token};
use super::number;
use super::value::Text;
use go::{strconv, unicode};
use std::collections::HashMap;
use std::sync::Arc;

/// Blocks within blocks (an `else if` is one within the last), and parentheses within parentheses. The parser and the
/// evaluator use the stack for both.
const MAX_NESTING: usize = 1000;

/// The trees of one source by name.
pub(super) type Definitions = HashMap<Text, Arc<Block>>;

/// Parses a whole source. The error is Go's text.
pub(super) fn parse(name: &str, source: &[u8], delims: &Delims, functions: &Functions) -> Result<Definitions, String> {
    let (left, right) = &*delims.0;
    let mut parser = Parser {
        file: name,
        lexer: Lexer::new(source, left.as_bytes(), right.as_bytes()),
        delims: delims.clone(),
        functions,
        definitions: Definitions::new(),
        tree: Tree::new(name.as_bytes()),
        nesting: 0,
    };
    parser.source()?;
    Ok(parser.definitions)
}

struct Parser<'s> {
    file: &'s str,
    lexer: Lexer<'s>,
    delims: Delims,
    functions: &'s Functions,
    definitions: Definitions,
    tree: Tree<'s>,
    nesting: usize,
}

/// What belongs to one definition while it is parsed.
struct Tree<'s> {
    name: Text,
    /// Tokens that were read ahead; the next one is the last.
    ahead: Vec<Token<'s>>,
    /// Line of the newest token, where errors are reported.
    line: usize,
    /// Line of the action that is being parsed, or 0.
    action_line: usize,
    range_depth: usize,
    /// Variables that are visible.
    variables: Vec<Arc<str>>,
}

impl Tree<'_> {
    fn new(name: &[u8]) -> Self {
        let variables = vec![Arc::from("$")];
        Self { name: Arc::from(name), ahead: Vec::new(), line: 0, action_line: 0, range_depth: 0, variables }
    }
}

/// What ends a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    End,
    Else,
}

enum Item {
    Node(Node),
    Stop(Stop),
}

fn pos(token: &Token<'_>) -> Pos {
    // Sources are limited to less.
    Pos::try_from(token.pos).unwrap_or(Pos::MAX)
}

fn name_of(token: &Token<'_>) -> Arc<str> {
    Arc::from(String::from_utf8_lossy(token.text))
}

/// Appends `.A` tokens without their dots.
fn field_name(token: &Token<'_>) -> Arc<str> {
    Arc::from(String::from_utf8_lossy(&token.text[1..]))
}

impl<'s> Parser<'s> {
    fn next(&mut self) -> Token<'s> {
        self.tree.ahead.pop().unwrap_or_else(|| {
            let token = self.lexer.next();
            self.tree.line = token.line;
            token
        })
    }

    fn back(&mut self, token: Token<'s>) {
        self.tree.ahead.push(token);
    }

    fn peek(&mut self) -> Token<'s> {
        let token = self.next();
        self.back(token);
        token
    }

    fn next_non_space(&mut self) -> Token<'s> {
        loop {
            let token = self.next();
            if token.kind != Kind::Space {
                return token;
            }
        }
    }

    /// Skips white space.
    fn peek_non_space(&mut self) -> Token<'s> {
        let token = self.next_non_space();
        self.back(token);
        token
    }

    fn error<T>(&self, message: impl AsRef<str>) -> Result<T, String> {
        Err(format!("template: {}:{}: {}", self.file, self.tree.line, message.as_ref()))
    }

    fn unexpected<T>(&self, token: &Token<'_>, context: &str) -> Result<T, String> {
        if token.kind != Kind::Error {
            return self.error(format!("unexpected {} in {context}", describe(token)));
        }
        let message = self.lexer.error();
        let begin = self.tree.action_line;
        if begin == 0 || begin == token.line {
            return self.error(message);
        }
        let action = if message.ends_with(" action") { "" } else { " in action" };
        self.error(format!("{message}{action} started at {}:{begin}", self.file))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token<'s>, String> {
        let token = self.next_non_space();
        if token.kind == kind { Ok(token) } else { self.unexpected(&token, context) }
    }

    /// Runs with one more level of nesting.
    fn nested<T>(&mut self, message: &str, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.nesting >= MAX_NESTING {
            return self.error(message);
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn source(&mut self) -> Result<(), String> {
        let mut nodes = Vec::new();
        loop {
            let token = self.peek();
            if token.kind == Kind::End {
                break;
            }
            if token.kind == Kind::LeftDelim {
                let delim = self.next();
                let first = self.next_non_space();
                if first.kind == Kind::Keyword(Keyword::Define) {
                    self.definition()?;
                    continue;
                }
                self.back(first);
                self.back(delim);
            }
            match self.text_or_action()? {
                Item::Node(node) => nodes.push(node),
                Item::Stop(stop) => return self.error(format!("unexpected {}", self.show(stop))),
            }
        }
        self.add(Block { nodes })
    }

    fn show(&self, stop: Stop) -> String {
        let (left, right) = &*self.delims.0;
        let word = match stop {
            Stop::End => "end",
            Stop::Else => "else",
        };
        format!("{left}{word}{right}")
    }

    /// Behind `define`.
    fn definition(&mut self) -> Result<(), String> {
        let context = "define clause";
        let outer = std::mem::replace(&mut self.tree, Tree::new(b""));
        let token = self.next_non_space();
        if !matches!(token.kind, Kind::String | Kind::RawString) {
            return self.unexpected(&token, context);
        }
        self.tree.name = self.unquote(&token)?;
        self.expect(Kind::RightDelim, context)?;
        let (block, stop) = self.block()?;
        if stop != Stop::End {
            return self.error(format!("unexpected {} in {context}", self.show(stop)));
        }
        self.add(block)?;
        self.tree = outer;
        Ok(())
    }

    /// Adds the tree, unless it is blank and there is one already.
    fn add(&mut self, block: Block) -> Result<(), String> {
        let name = self.tree.name.clone();
        match self.definitions.get(&name) {
            Some(old) if !old.is_blank() => {
                if !block.is_blank() {
                    let name = strconv::quote(&name);
                    return self.error(format!("template: multiple definition of template {name}"));
                }
            }
            _ => {
                self.definitions.insert(name, Arc::new(block));
            }
        }
        Ok(())
    }

    fn unquote(&self, token: &Token<'_>) -> Result<Text, String> {
        match strconv::unquote(token.text) {
            Some(text) => Ok(Arc::from(text)),
            None => self.error("invalid syntax"),
        }
    }

    /// Everything up to `{{end}}` or `{{else}}`.
    fn block(&mut self) -> Result<(Block, Stop), String> {
        let mut nodes = Vec::new();
        while self.peek_non_space().kind != Kind::End {
            match self.text_or_action()? {
                Item::Node(node) => nodes.push(node),
                Item::Stop(stop) => return Ok((Block { nodes }, stop)),
            }
        }
        self.error("unexpected EOF")
    }

    fn text_or_action(&mut self) -> Result<Item, String> {
        let token = self.next_non_space();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(Arc::from(token.text)))),
            Kind::LeftDelim => {
                self.tree.action_line = token.line;
                let item = self.action()?;
                self.tree.action_line = 0;
                Ok(item)
            }
            _ => self.unexpected(&token, "input"),
        }
    }

    /// Behind the left delimiter.
    fn action(&mut self) -> Result<Item, String> {
        let token = self.next_non_space();
        let node = match token.kind {
            Kind::Keyword(Keyword::Block) => self.block_action()?,
            Kind::Keyword(Keyword::Break) => self.leave_range("break", Node::Break)?,
            Kind::Keyword(Keyword::Continue) => self.leave_range("continue", Node::Continue)?,
            Kind::Keyword(Keyword::Else) => {
                let next = self.peek_non_space();
                if !matches!(next.kind, Kind::Keyword(Keyword::If | Keyword::With)) {
                    self.expect(Kind::RightDelim, "else")?;
                }
                return Ok(Item::Stop(Stop::Else));
            }
            Kind::Keyword(Keyword::End) => {
                self.expect(Kind::RightDelim, "end")?;
                return Ok(Item::Stop(Stop::End));
            }
            Kind::Keyword(Keyword::If) => Node::If(self.branch("if")?),
            Kind::Keyword(Keyword::With) => Node::With(self.branch("with")?),
            Kind::Keyword(Keyword::Range) => Node::Range(self.branch("range")?),
            Kind::Keyword(Keyword::Template) => self.template_action()?,
            _ => {
                self.back(token);
                let pipe = self.pipeline("command", Kind::RightDelim)?;
                Node::Action(Action { pos: pos(&token), pipe, delims: self.delims.clone() })
            }
        };
        Ok(Item::Node(node))
    }

    fn leave_range(&mut self, word: &str, node: Node) -> Result<Node, String> {
        let (left, right) = &*self.delims.0.clone();
        self.expect(Kind::RightDelim, &format!("{{{{{word}}}}}"))?;
        if self.tree.range_depth == 0 {
            return self.error(format!("{left}{word}{right} outside {left}range{right}"));
        }
        Ok(node)
    }

    /// `if`, `with` and `range`, whose keyword is past.
    fn branch(&mut self, context: &str) -> Result<Branch, String> {
        self.nested("blocks are nested too deeply", |parser| {
            let variables = parser.tree.variables.len();
            let branch = parser.branch_inside(context);
            parser.tree.variables.truncate(variables);
            branch
        })
    }

    fn branch_inside(&mut self, context: &str) -> Result<Branch, String> {
        let is_range = usize::from(context == "range");
        let pipe = self.pipeline(context, Kind::RightDelim)?;
        self.tree.range_depth += is_range;
        let (then, stop) = self.block()?;
        self.tree.range_depth -= is_range;
        if stop == Stop::End {
            return Ok(Branch { pipe, then, otherwise: None });
        }
        let next = self.peek();
        let chained =
            matches!((context, next.kind), ("if", Kind::Keyword(Keyword::If)) | ("with", Kind::Keyword(Keyword::With)));
        if chained {
            self.next();
            let branch = self.branch(context)?;
            let node = if context == "if" { Node::If(branch) } else { Node::With(branch) };
            return Ok(Branch { pipe, then, otherwise: Some(Block { nodes: vec![node] }) });
        }
        let (otherwise, stop) = self.block()?;
        if stop != Stop::End {
            return self.error(format!("expected end; found {}", self.show(stop)));
        }
        Ok(Branch { pipe, then, otherwise: Some(otherwise) })
    }

    /// Defines a template and calls it.
    fn block_action(&mut self) -> Result<Node, String> {
        let context = "block clause";
        let token = self.next_non_space();
        let name = self.template_name(&token, context)?;
        let pipe = self.pipeline(context, Kind::RightDelim)?;
        let outer = std::mem::replace(&mut self.tree, Tree::new(&name));
        let (block, stop) = self.nested("blocks are nested too deeply", Self::block)?;
        if stop != Stop::End {
            self.tree = outer;
            return self.error(format!("unexpected {} in {context}", self.show(stop)));
        }
        self.add(block)?;
        self.tree = outer;
        Ok(Node::Template(Call { pos: pos(&token), name, pipe: Some(pipe), delims: self.delims.clone() }))
    }

    fn template_action(&mut self) -> Result<Node, String> {
        let context = "template clause";
        let token = self.next_non_space();
        let name = self.template_name(&token, context)?;
        let next = self.next_non_space();
        let pipe = if next.kind == Kind::RightDelim {
            None
        } else {
            self.back(next);
            Some(self.pipeline(context, Kind::RightDelim)?)
        };
        Ok(Node::Template(Call { pos: pos(&token), name, pipe, delims: self.delims.clone() }))
    }

    fn template_name(&mut self, token: &Token<'s>, context: &str) -> Result<Text, String> {
        match token.kind {
            Kind::String | Kind::RawString => self.unquote(token),
            _ => self.unexpected(token, context),
        }
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, String> {
        let first = self.peek_non_space();
        let mut pipe = Pipe { pos: pos(&first), assigns: false, variables: Vec::new(), commands: Vec::new() };
        while self.declaration(&mut pipe, context)? {}
        loop {
            let token = self.next_non_space();
            if token.kind == end {
                self.check(&pipe, context)?;
                return Ok(pipe);
            }
            match token.kind {
                Kind::Bool
                | Kind::CharConstant
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => {
                    self.back(token);
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(&token, context),
            }
        }
    }

    /// `$x :=`, `$x =` or, in `range`, `$i, ` at the beginning of a pipeline. True if another variable follows.
    fn declaration(&mut self, pipe: &mut Pipe, context: &str) -> Result<bool, String> {
        let variable = self.peek_non_space();
        if variable.kind != Kind::Variable {
            return Ok(false);
        }
        self.next();
        // A space after the variable has to come back: it separates arguments.
        let after = self.peek();
        let next = self.peek_non_space();
        let is_comma = next.kind == Kind::Char && next.text == b",";
        if !is_comma && !matches!(next.kind, Kind::Assign | Kind::Declare) {
            if after.kind == Kind::Space {
                self.back(after);
            }
            self.back(variable);
            return Ok(false);
        }
        self.next_non_space();
        let name = name_of(&variable);
        pipe.variables.push(name.clone());
        self.tree.variables.push(name);
        if !is_comma {
            pipe.assigns = next.kind == Kind::Assign;
            return Ok(false);
        }
        if context != "range" || pipe.variables.len() >= 2 {
            return self.error(format!("too many declarations in {context}"));
        }
        match self.peek_non_space().kind {
            Kind::Variable | Kind::RightDelim | Kind::RightParen => Ok(true),
            _ => self.error("range can only initialize variables"),
        }
    }

    fn check(&self, pipe: &Pipe, context: &str) -> Result<(), String> {
        if pipe.commands.is_empty() {
            return self.error(format!("missing value for {context}"));
        }
        let is_value = |command: &Command| {
            let kind = &command.args[0].kind;
            matches!(kind, ExprKind::Bool(_) | ExprKind::Dot | ExprKind::Nil | ExprKind::Number(_) | ExprKind::Text(..))
        };
        match pipe.commands.iter().skip(1).position(is_value) {
            Some(number) => self.error(format!("non executable command in pipeline stage {}", number + 2)),
            None => Ok(()),
        }
    }

    fn command(&mut self) -> Result<Command, String> {
        let mut command = Command { pos: pos(&self.peek_non_space()), args: Vec::new() };
        loop {
            self.peek_non_space();
            if let Some(operand) = self.operand()? {
                command.args.push(operand);
            }
            let token = self.next();
            match token.kind {
                Kind::Space => {}
                Kind::RightDelim | Kind::RightParen => {
                    self.back(token);
                    break;
                }
                Kind::Pipe => break,
                _ => return self.unexpected(&token, "operand"),
            }
        }
        if command.args.is_empty() {
            return self.error("empty command");
        }
        Ok(command)
    }

    /// A term and the fields behind it.
    fn operand(&mut self) -> Result<Option<Expr>, String> {
        let Some(term) = self.term()? else { return Ok(None) };
        let first = self.peek();
        if first.kind != Kind::Field {
            return Ok(Some(term));
        }
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            let token = self.next();
            fields.push(field_name(&token));
        }
        let kind = match term.kind {
            ExprKind::Field(mut own) => {
                own.append(&mut fields);
                ExprKind::Field(own)
            }
            ExprKind::Variable(name, mut own) => {
                own.append(&mut fields);
                ExprKind::Variable(name, own)
            }
            ExprKind::Function(_) | ExprKind::Pipe(_) | ExprKind::Chain(..) => ExprKind::Chain(Box::new(term), fields),
            _ => {
                let shown = strconv::quote(term.to_string().as_bytes());
                return self.error(format!("unexpected . after term {shown}"));
            }
        };
        Ok(Some(Expr { pos: pos(&first), kind }))
    }

    fn term(&mut self) -> Result<Option<Expr>, String> {
        let token = self.next_non_space();
        let kind = match token.kind {
            Kind::Identifier => ExprKind::Function(self.function(&token)?),
            Kind::Dot => ExprKind::Dot,
            Kind::Nil => ExprKind::Nil,
            Kind::Variable => {
                let name = name_of(&token);
                if !self.tree.variables.contains(&name) {
                    return self.error(format!("undefined variable {}", strconv::quote(name.as_bytes())));
                }
                ExprKind::Variable(name, Vec::new())
            }
            Kind::Field => ExprKind::Field(vec![field_name(&token)]),
            Kind::Bool => ExprKind::Bool(token.text == b"true"),
            Kind::CharConstant => self.number(number::character(token.text))?,
            Kind::Complex => self.number(number::complex(token.text))?,
            Kind::Number => self.number(number::number(token.text))?,
            Kind::LeftParen => {
                let inside = |parser: &mut Self| parser.pipeline("parenthesized pipeline", Kind::RightParen);
                let pipe = self.nested("max expression depth exceeded", inside)?;
                return Ok(Some(Expr { pos: pipe.pos, kind: ExprKind::Pipe(Box::new(pipe)) }));
            }
            Kind::String | Kind::RawString => ExprKind::Text(self.unquote(&token)?, Arc::from(token.text)),
            _ => {
                self.back(token);
                return Ok(None);
            }
        };
        Ok(Some(Expr { pos: pos(&token), kind }))
    }

    fn number(&self, number: Result<Number, String>) -> Result<ExprKind, String> {
        number.map(ExprKind::Number).or_else(|message| self.error(message))
    }

    fn function(&self, token: &Token<'_>) -> Result<Arc<Function>, String> {
        let name = name_of(token);
        if let Some(function) = self.functions.get(&name).or_else(|| builtins::all().get(&name)) {
            return Ok(function.clone());
        }
        self.error(format!("function {} not defined", strconv::quote(name.as_bytes())))
    }
}

/// A token as errors show it.
fn describe(token: &Token<'_>) -> String {
    match token.kind {
        Kind::End => "EOF".to_owned(),
        Kind::Keyword(_) | Kind::Dot | Kind::Nil => format!("<{}>", String::from_utf8_lossy(token.text)),
        _ if token.text.len() > 10 => {
            let width: usize = unicode::chars(token.text).take(10).map(|(_, width)| width).sum();
            format!("{}...", strconv::quote(&token.text[..width]))
        }
        _ => strconv::quote(token.text),
    }
}
