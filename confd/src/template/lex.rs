//! Source text to tokens.
//!
//! Text outside of actions is one token, already without the white space that a trim marker takes away. Inside of
//! actions white space is a token, because it separates arguments.

use go::{strconv, unicode};

/// Kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Bool,
    /// Punctuation that is only good for errors, and the comma.
    Char,
    CharConstant,
    Complex,
    Assign,
    Declare,
    End,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    String,
    Text,
    Variable,
    Dot,
    Nil,
    Keyword(Keyword),
}

/// Words with a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
}

/// A piece of the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'s> {
    pub(super) kind: Kind,
    /// Offset in the source, in bytes.
    pub(super) pos: usize,
    /// From 1.
    pub(super) line: usize,
    pub(super) text: &'s [u8],
}

pub(super) struct Lexer<'s> {
    source: &'s [u8],
    left: &'s [u8],
    right: &'s [u8],
    /// Where the next token begins.
    start: usize,
    start_line: usize,
    /// How far the source is read.
    pos: usize,
    line: usize,
    in_action: bool,
    open_parens: usize,
    error: Option<String>,
}

const END: Option<char> = None;

pub(super) fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_space_char(c: Option<char>) -> bool {
    matches!(c, Some(' ' | '\t' | '\r' | '\n'))
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c == '_' || unicode::is_letter(c) || unicode::is_digit(c))
}

/// Number of new lines.
pub(super) fn lines(text: &[u8]) -> usize {
    text.split(|&byte| byte == b'\n').count() - 1
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s [u8], left: &'s [u8], right: &'s [u8]) -> Self {
        Self {
            source,
            left,
            right,
            start: 0,
            start_line: 1,
            pos: 0,
            line: 1,
            in_action: false,
            open_parens: 0,
            error: None,
        }
    }

    /// The next token; [`Kind::End`] again and again at the end, which is where an error leads.
    pub(super) fn next(&mut self) -> Token<'s> {
        if self.in_action { self.action() } else { self.text() }
    }

    /// What is wrong, after a token of the kind [`Kind::Error`].
    pub(super) fn error(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    fn rest(&self) -> &'s [u8] {
        &self.source[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        unicode::decode(self.rest()).map(|(c, _)| c)
    }

    fn advance(&mut self) -> Option<char> {
        let (c, width) = unicode::decode(self.rest())?;
        self.pos += width;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn accept(&mut self, among: &str) -> bool {
        let found = self.peek().is_some_and(|c| among.contains(c));
        if found {
            self.advance();
        }
        found
    }

    fn accept_all(&mut self, among: &str) {
        while self.accept(among) {}
    }

    /// Everything read since the last token.
    fn token(&mut self, kind: Kind) -> Token<'s> {
        let token = Token { kind, pos: self.start, line: self.start_line, text: &self.source[self.start..self.pos] };
        self.start = self.pos;
        self.start_line = self.line;
        token
    }

    /// Moves on without a token.
    fn skip(&mut self, bytes: usize) {
        self.line += lines(&self.source[self.pos..self.pos + bytes]);
        self.pos += bytes;
        self.start = self.pos;
        self.start_line = self.line;
    }

    fn fail(&mut self, message: impl Into<String>) -> Token<'s> {
        let token = Token { kind: Kind::Error, pos: self.start, line: self.start_line, text: b"" };
        self.error = Some(message.into());
        self.in_action = false;
        self.pos = self.source.len();
        self.start = self.pos;
        token
    }

    fn fail_at(&mut self, c: Option<char>, what: &str) -> Token<'s> {
        self.fail(format!("{what} {}", unicode::describe(c)))
    }

    /// Text up to the next action.
    fn text(&mut self) -> Token<'s> {
        loop {
            let Some(at) = find(self.rest(), self.left) else {
                let length = self.rest().len();
                if length == 0 {
                    return self.token(Kind::End);
                }
                self.line += lines(self.rest());
                self.pos += length;
                return self.token(Kind::Text);
            };
            if at > 0 {
                let text = &self.rest()[..at];
                let trims = has_left_marker(&self.rest()[at + self.left.len()..]);
                let kept = if trims { text.trim_ascii_end_go().len() } else { at };
                self.line += lines(&text[..kept]);
                self.pos += kept;
                let token = self.token(Kind::Text);
                self.skip(at - kept);
                if kept > 0 {
                    return token;
                }
            }
            if let Some(token) = self.left_delim() {
                return token;
            }
        }
    }

    /// The beginning of an action, or nothing: a comment.
    fn left_delim(&mut self) -> Option<Token<'s>> {
        self.pos += self.left.len();
        let marker = if has_left_marker(self.rest()) { 2 } else { 0 };
        if self.rest()[marker..].starts_with(b"/*") {
            self.skip(marker);
            return self.comment();
        }
        let token = self.token(Kind::LeftDelim);
        self.in_action = true;
        self.open_parens = 0;
        self.skip(marker);
        Some(token)
    }

    /// Skips a comment; a token is an error.
    fn comment(&mut self) -> Option<Token<'s>> {
        let Some(length) = find(&self.rest()[2..], b"*/") else {
            return Some(self.fail("unclosed comment"));
        };
        let after = self.pos + 2 + length + 2;
        let Some(trims) = self.right_delim_at(after) else {
            return Some(self.fail("comment ends before closing delimiter"));
        };
        let mut end = after + self.right.len() + if trims { 2 } else { 0 };
        if trims {
            end += self.source[end..].iter().take_while(|&&byte| is_space(byte)).count();
        }
        self.skip(end - self.pos);
        None
    }

    /// Whether an action ends here, and if so whether it takes the white space behind it away.
    fn right_delim_at(&self, pos: usize) -> Option<bool> {
        let rest = &self.source[pos..];
        if has_right_marker(rest) && rest[2..].starts_with(self.right) {
            return Some(true);
        }
        rest.starts_with(self.right).then_some(false)
    }

    fn right_delim(&mut self, trims: bool) -> Token<'s> {
        if trims {
            self.skip(2);
        }
        self.pos += self.right.len();
        let token = self.token(Kind::RightDelim);
        if trims {
            self.skip(self.rest().iter().take_while(|&&byte| is_space(byte)).count());
        }
        self.in_action = false;
        token
    }

    /// One token inside of an action.
    fn action(&mut self) -> Token<'s> {
        if let Some(trims) = self.right_delim_at(self.pos) {
            if self.open_parens == 0 {
                return self.right_delim(trims);
            }
            return self.fail("unclosed left paren");
        }
        let before = (self.pos, self.line);
        match self.advance() {
            END => self.fail("unclosed action"),
            c if is_space_char(c) => self.space(),
            Some('=') => self.token(Kind::Assign),
            Some(':') if self.accept("=") => self.token(Kind::Declare),
            Some(':') => self.fail("expected :="),
            Some('|') => self.token(Kind::Pipe),
            Some('"') => self.quoted(),
            Some('`') => self.raw(),
            Some('\'') => self.character(),
            Some('$') => self.field_or_variable(Kind::Variable),
            Some('.') if !self.rest().first().is_some_and(u8::is_ascii_digit) && !self.rest().is_empty() => {
                self.field_or_variable(Kind::Field)
            }
            Some('.' | '+' | '-' | '0'..='9') => {
                (self.pos, self.line) = before;
                self.number()
            }
            c if is_word(c) => self.identifier(),
            Some('(') => {
                self.open_parens += 1;
                self.token(Kind::LeftParen)
            }
            Some(')') if self.open_parens == 0 => self.fail("unexpected right paren"),
            Some(')') => {
                self.open_parens -= 1;
                self.token(Kind::RightParen)
            }
            Some(' '..='~') => self.token(Kind::Char),
            c => self.fail_at(c, "unrecognized character in action:"),
        }
    }

    /// White space. Its last one may belong to a trim marker.
    fn space(&mut self) -> Token<'s> {
        while is_space_char(self.peek()) {
            self.advance();
        }
        if self.right_delim_at(self.pos - 1) == Some(true) {
            if self.pos - self.start == 1 {
                self.pos -= 1;
                self.line -= usize::from(self.source[self.pos] == b'\n');
                return self.right_delim(true);
            }
            self.pos -= 1;
            self.line -= usize::from(self.source[self.pos] == b'\n');
        }
        self.token(Kind::Space)
    }

    fn identifier(&mut self) -> Token<'s> {
        while is_word(self.peek()) {
            self.advance();
        }
        if !self.at_terminator() {
            return self.fail_at(self.peek(), "bad character");
        }
        let kind = match &self.source[self.start..self.pos] {
            b"true" | b"false" => Kind::Bool,
            b"nil" => Kind::Nil,
            b"block" => Kind::Keyword(Keyword::Block),
            b"break" => Kind::Keyword(Keyword::Break),
            b"continue" => Kind::Keyword(Keyword::Continue),
            b"define" => Kind::Keyword(Keyword::Define),
            b"else" => Kind::Keyword(Keyword::Else),
            b"end" => Kind::Keyword(Keyword::End),
            b"if" => Kind::Keyword(Keyword::If),
            b"range" => Kind::Keyword(Keyword::Range),
            b"template" => Kind::Keyword(Keyword::Template),
            b"with" => Kind::Keyword(Keyword::With),
            _ => Kind::Identifier,
        };
        self.token(kind)
    }

    /// `.Name`, `$name`, or the dot or dollar alone.
    fn field_or_variable(&mut self, kind: Kind) -> Token<'s> {
        if self.at_terminator() {
            return self.token(if kind == Kind::Variable { Kind::Variable } else { Kind::Dot });
        }
        while is_word(self.peek()) {
            self.advance();
        }
        if !self.at_terminator() {
            return self.fail_at(self.peek(), "bad character");
        }
        self.token(kind)
    }

    /// True where a name may end.
    fn at_terminator(&self) -> bool {
        let c = self.peek();
        is_space_char(c)
            || matches!(c, END | Some('.' | ',' | '|' | ':' | ')' | '('))
            || self.rest().starts_with(self.right)
    }

    fn number(&mut self) -> Token<'s> {
        if !self.scan_number() {
            return self.bad_number();
        }
        if matches!(self.peek(), Some('+' | '-')) {
            if !self.scan_number() || self.source[self.pos - 1] != b'i' {
                return self.bad_number();
            }
            return self.token(Kind::Complex);
        }
        self.token(Kind::Number)
    }

    fn bad_number(&mut self) -> Token<'s> {
        let text = strconv::quote(&self.source[self.start..self.pos]);
        self.fail(format!("bad number syntax: {text}"))
    }

    /// Everything that could be a number; whether it is one, the parser finds out.
    fn scan_number(&mut self) -> bool {
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        self.accept_all(digits);
        if self.accept(".") {
            self.accept_all(digits);
        }
        let exponent = match digits.len() {
            11 => "eE",
            23 => "pP",
            _ => "",
        };
        if self.accept(exponent) {
            self.accept("+-");
            self.accept_all("0123456789_");
        }
        self.accept("i");
        let ends = !is_word(self.peek());
        if !ends {
            self.advance();
        }
        ends
    }

    fn quoted(&mut self) -> Token<'s> {
        if self.until('"') { self.token(Kind::String) } else { self.fail("unterminated quoted string") }
    }

    fn character(&mut self) -> Token<'s> {
        if self.until('\'') { self.token(Kind::CharConstant) } else { self.fail("unterminated character constant") }
    }

    /// Reads up to a quote that no backslash precedes; false if the line ends before.
    fn until(&mut self, quote: char) -> bool {
        loop {
            match self.advance() {
                Some('\\') => {
                    if matches!(self.advance(), END | Some('\n')) {
                        return false;
                    }
                }
                END | Some('\n') => return false,
                Some(c) if c == quote => return true,
                Some(_) => {}
            }
        }
    }

    fn raw(&mut self) -> Token<'s> {
        loop {
            match self.advance() {
                END => return self.fail("unterminated raw quoted string"),
                Some('`') => return self.token(Kind::RawString),
                Some(_) => {}
            }
        }
    }
}

fn has_left_marker(text: &[u8]) -> bool {
    matches!(text, [b'-', space, ..] if is_space(*space))
}

fn has_right_marker(text: &[u8]) -> bool {
    matches!(text, [space, b'-', ..] if is_space(*space))
}

trait TrimEnd {
    fn trim_ascii_end_go(&self) -> &Self;
}

impl TrimEnd for [u8] {
    /// Without the four kinds of white space that trim markers take away.
    fn trim_ascii_end_go(&self) -> &Self {
        let kept = self.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
        &self[..kept]
    }
}
