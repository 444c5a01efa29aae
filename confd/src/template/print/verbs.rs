//! `printf`: formats and their arguments.

use super::{Flags, MAX_BYTES, Printer};
use crate::template::value::Value;
use go::unicode;

/// Widths and precisions above this are a mistake, as in Go.
const MAX_WIDTH: i64 = 1_000_000;

/// Prints by a format. A mistake in it does not fail; it is marked in the text.
pub fn sprintf(format: &[u8], arguments: &[Value]) -> Vec<u8> {
    let mut formatter = Formatter {
        format,
        at: 0,
        arguments,
        argument: 0,
        good_index: true,
        after_index: false,
        reordered: false,
        printer: Printer::default(),
    };
    while formatter.at < format.len() && formatter.printer.out.len() <= MAX_BYTES {
        let text = &format[formatter.at..];
        let length = text.iter().position(|&byte| byte == b'%').unwrap_or(text.len());
        formatter.printer.out.extend_from_slice(&text[..length]);
        formatter.at += length;
        if formatter.at < format.len() {
            formatter.at += 1;
            formatter.directive();
        }
    }
    formatter.extra();
    formatter.printer.out
}

struct Formatter<'a> {
    format: &'a [u8],
    at: usize,
    arguments: &'a [Value],
    /// The next argument.
    argument: usize,
    /// False after an index that is none, until the verb.
    good_index: bool,
    /// An index was just read.
    after_index: bool,
    /// An index was used anywhere, so arguments may be left.
    reordered: bool,
    printer: Printer,
}

impl Formatter<'_> {
    fn peek(&self) -> Option<u8> {
        self.format.get(self.at).copied()
    }

    fn write(&mut self, text: &str) {
        self.printer.out.extend_from_slice(text.as_bytes());
    }

    /// What follows a `%`.
    fn directive(&mut self) {
        self.printer.flags = self.flags();
        self.good_index = true;
        self.after_index = false;
        self.index();
        self.width();
        self.precision();
        if !self.after_index {
            self.index();
        }
        let Some((verb, width)) = unicode::decode(&self.format[self.at..]) else {
            self.write("%!(NOVERB)");
            return;
        };
        self.at += width;
        if verb == '%' {
            self.write("%");
        } else if !self.good_index {
            self.write(&format!("%!{verb}(BADINDEX)"));
        } else if let Some(argument) = self.arguments.get(self.argument) {
            self.argument += 1;
            if verb == 'v' {
                let flags = &mut self.printer.flags;
                flags.sharp_v = std::mem::take(&mut flags.sharp);
                flags.plus_v = std::mem::take(&mut flags.plus);
            }
            self.printer.value(argument, verb);
        } else {
            self.write(&format!("%!{verb}(MISSING)"));
        }
    }

    fn flags(&mut self) -> Flags {
        let mut flags = Flags::default();
        loop {
            match self.peek() {
                Some(b'#') => flags.sharp = true,
                Some(b'0') => flags.zero = true,
                Some(b'+') => flags.plus = true,
                Some(b'-') => flags.minus = true,
                Some(b' ') => flags.space = true,
                _ => return flags,
            }
            self.at += 1;
        }
    }

    fn width(&mut self) {
        if self.peek() == Some(b'*') {
            self.at += 1;
            match self.integer_argument() {
                Some(width) if width < 0 => {
                    self.printer.flags.minus = true;
                    self.printer.flags.zero = false;
                    self.printer.flags.width = Some(width.unsigned_abs() as usize);
                }
                Some(width) => self.printer.flags.width = Some(width as usize),
                None => self.write("%!(BADWIDTH)"),
            }
            self.after_index = false;
            return;
        }
        self.printer.flags.width = self.number();
        if self.after_index && self.printer.flags.width.is_some() {
            // An index stands right before what it is for.
            self.good_index = false;
        }
    }

    fn precision(&mut self) {
        // A point at the end is a verb.
        if self.peek() != Some(b'.') || self.at + 1 == self.format.len() {
            return;
        }
        self.at += 1;
        if self.after_index {
            self.good_index = false;
        }
        self.index();
        if self.peek() == Some(b'*') {
            self.at += 1;
            match self.integer_argument() {
                Some(precision) if precision >= 0 => self.printer.flags.precision = Some(precision as usize),
                _ => self.write("%!(BADPREC)"),
            }
            self.after_index = false;
            return;
        }
        self.printer.flags.precision = Some(self.number().unwrap_or(0));
    }

    /// Digits; none if there are none or too many.
    fn number(&mut self) -> Option<usize> {
        let begin = self.at;
        let mut number = 0_i64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if number > MAX_WIDTH {
                // Go gives up on the whole format here.
                self.at = self.format.len();
                return None;
            }
            number = number * 10 + i64::from(digit - b'0');
            self.at += 1;
        }
        (self.at > begin && number <= MAX_WIDTH).then_some(number as usize)
    }

    fn integer_argument(&mut self) -> Option<i64> {
        let argument = self.arguments.get(self.argument)?;
        self.argument += 1;
        let number = match argument {
            Value::Int(number) | Value::Int64(number) => *number,
            Value::Byte(byte) => i64::from(*byte),
            _ => return None,
        };
        (-MAX_WIDTH..=MAX_WIDTH).contains(&number).then_some(number)
    }

    /// `[n]`: which argument is the next.
    fn index(&mut self) {
        if self.peek() != Some(b'[') {
            self.after_index = false;
            return;
        }
        self.reordered = true;
        let rest = &self.format[self.at..];
        let Some(close) = rest.iter().position(|&byte| byte == b']') else {
            self.good_index = false;
            self.at += 1;
            self.after_index = false;
            return;
        };
        let number = std::str::from_utf8(&rest[1..close]).ok().and_then(|text| text.parse::<usize>().ok());
        self.at += close + 1;
        match number {
            Some(number) if (1..=self.arguments.len()).contains(&number) => {
                self.argument = number - 1;
                self.after_index = true;
            }
            _ => {
                self.good_index = false;
                // With a number that is too large, Go takes the index for read.
                self.after_index = number.is_some();
            }
        }
    }

    /// Arguments that nothing asked for.
    fn extra(&mut self) {
        if self.reordered || self.argument >= self.arguments.len() {
            return;
        }
        self.printer.flags = Flags::default();
        self.write("%!(EXTRA ");
        for (number, argument) in self.arguments.iter().skip(self.argument).enumerate() {
            if number > 0 {
                self.write(", ");
            }
            if argument.is_nil() {
                self.write("<nil>");
            } else {
                self.write(argument.type_name());
                self.write("=");
                self.printer.value(argument, 'v');
            }
        }
        self.write(")");
    }
}
