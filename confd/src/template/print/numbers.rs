//! Numbers in all the forms that `printf` knows.

use super::Printer;
use go::{strconv, unicode};

impl Printer {
    /// False if the verb is not one for integers.
    pub(super) fn integer(&mut self, number: i64, unsigned: bool, verb: char) -> bool {
        match verb {
            'v' if self.flags.sharp_v && unsigned => {
                let sharp = std::mem::replace(&mut self.flags.sharp, true);
                self.digits(number, 16, 'v');
                self.flags.sharp = sharp;
            }
            'v' | 'd' => self.digits(number, 10, verb),
            'b' => self.digits(number, 2, verb),
            'o' | 'O' => self.digits(number, 8, verb),
            'x' | 'X' => self.digits(number, 16, verb),
            'c' => {
                let c = character(number);
                self.pad(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            'q' => {
                let quoted = strconv::quote_char(character(number), self.flags.plus);
                self.pad(quoted.as_bytes());
            }
            'U' => self.code_point(number),
            _ => return false,
        }
        true
    }

    fn digits(&mut self, number: i64, base: u32, verb: char) {
        let magnitude = number.unsigned_abs();
        let shows_sign = number < 0 || self.flags.plus || self.flags.space;
        let mut least = 0;
        if let Some(precision) = self.flags.precision {
            least = precision;
            if precision == 0 && number == 0 {
                let zero = std::mem::take(&mut self.flags.zero);
                self.pad(b"");
                self.flags.zero = zero;
                return;
            }
        } else if self.flags.zero && !self.flags.minus {
            least = self.flags.width.map_or(0, |width| width.saturating_sub(usize::from(shows_sign)));
        }
        let digits = match base {
            2 => format!("{magnitude:b}"),
            8 => format!("{magnitude:o}"),
            16 if verb == 'X' => format!("{magnitude:X}"),
            16 => format!("{magnitude:x}"),
            _ => magnitude.to_string(),
        };
        let mut digits = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
        if self.flags.sharp {
            match base {
                2 => digits.insert_str(0, "0b"),
                8 if !digits.starts_with('0') => digits.insert(0, '0'),
                16 => digits.insert_str(0, if verb == 'X' { "0X" } else { "0x" }),
                _ => {}
            }
        }
        if verb == 'O' {
            digits.insert_str(0, "0o");
        }
        if number < 0 {
            digits.insert(0, '-');
        } else if self.flags.plus {
            digits.insert(0, '+');
        } else if self.flags.space {
            digits.insert(0, ' ');
        }
        // The zeros are there already.
        let zero = std::mem::take(&mut self.flags.zero);
        self.pad(digits.as_bytes());
        self.flags.zero = zero;
    }

    /// `U+0041`, or with the sharp flag `U+0041 'A'`.
    fn code_point(&mut self, number: i64) {
        let least = self.flags.precision.unwrap_or(4).max(4);
        let digits = format!("{number:X}");
        let mut text = format!("U+{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
        if self.flags.sharp
            && let Some(c) = u32::try_from(number).ok().and_then(char::from_u32).filter(|&c| unicode::is_print(c))
        {
            text.extend([" '", c.encode_utf8(&mut [0; 4]), "'"]);
        }
        let zero = std::mem::take(&mut self.flags.zero);
        self.pad(text.as_bytes());
        self.flags.zero = zero;
    }

    /// False if the verb is not one for floats.
    pub(super) fn float(&mut self, number: f64, verb: char) -> bool {
        let (format, default_precision) = match verb {
            'v' => ('g', None),
            'b' | 'g' | 'G' | 'x' | 'X' => (verb, None),
            'f' | 'F' => ('f', Some(6)),
            'e' | 'E' => (verb, Some(6)),
            _ => return false,
        };
        let precision = self.flags.precision.or(default_precision);
        let mut text = match format {
            'b' => binary(number),
            'x' | 'X' => hexadecimal(number, precision, format == 'X'),
            _ => strconv::format_float(number, format, precision),
        };
        let sign = if text.starts_with('-') || text.starts_with('+') { text.remove(0) } else { '+' };
        let is_finite = number.is_finite();
        if self.flags.sharp && format != 'b' && is_finite {
            text = with_point(&text, format, self.flags.precision);
        }
        let sign = match sign {
            '+' if number.is_nan() && !self.flags.space && !self.flags.plus => "",
            '+' if self.flags.plus => "+",
            '+' if self.flags.space => " ",
            // Go shows the sign of an infinity always.
            '+' if number.is_infinite() => "+",
            '+' => "",
            _ => "-",
        };
        let zero = self.flags.zero;
        if !is_finite {
            self.flags.zero = false;
        } else if zero && !self.flags.minus && !sign.is_empty() {
            // The sign stands before the zeros.
            let missing = self.flags.width.map_or(0, |width| width.saturating_sub(sign.len() + text.len()));
            text = format!("{sign}{}{text}", "0".repeat(missing));
            self.out.extend_from_slice(text.as_bytes());
            return true;
        }
        self.pad(format!("{sign}{text}").as_bytes());
        self.flags.zero = zero;
        true
    }

    /// False if the verb is not one for complex numbers.
    pub(super) fn complex(&mut self, real: f64, imaginary: f64, verb: char) -> bool {
        if !matches!(verb, 'v' | 'b' | 'g' | 'G' | 'x' | 'X' | 'f' | 'F' | 'e' | 'E') {
            return false;
        }
        let plus = self.flags.plus;
        self.out.push(b'(');
        self.float(real, verb);
        self.flags.plus = true;
        self.float(imaginary, verb);
        self.out.extend_from_slice(b"i)");
        self.flags.plus = plus;
        true
    }
}

fn character(number: i64) -> char {
    u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The sharp flag: a point always, and with `%g` and `%x` the zeros at the end. As in Go the `x` behind the first zero
/// of a hexadecimal number counts as a digit.
fn with_point(text: &str, format: char, precision: Option<usize>) -> String {
    let mut wanted = if matches!(format, 'g' | 'G' | 'x') { precision.unwrap_or(6) } else { 0 };
    let at = match format {
        'x' | 'X' => text.find(['p', 'P']),
        _ => text.find(['e', 'E']),
    };
    let (mantissa, exponent) = text.split_at(at.unwrap_or(text.len()));
    // Zeros in front of the first other digit do not count, but a zero by itself does.
    let counted = mantissa.trim_start_matches(['0', '.']).chars().filter(|&digit| digit != '.').count();
    wanted = wanted.saturating_sub(if mantissa == "0" { 1 } else { counted });
    let point = if mantissa.contains('.') { "" } else { "." };
    format!("{mantissa}{point}{}{exponent}", "0".repeat(wanted))
}

/// Mantissa and exponent of two, of a finite number.
fn parts(number: f64) -> (u64, i32) {
    let bits = number.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    match ((bits >> 52) & 0x7ff) as i32 {
        0 => (fraction, -1074),
        exponent => (fraction | (1 << 52), exponent - 1075),
    }
}

fn not_finite(number: f64) -> Option<String> {
    (!number.is_finite()).then(|| strconv::format_float(number, 'g', None))
}

/// `%b`: `4503599627370496p-52`
fn binary(number: f64) -> String {
    if let Some(text) = not_finite(number) {
        return text;
    }
    let (mantissa, exponent) = parts(number);
    format!("{}{mantissa}p{exponent:+}", if number.is_sign_negative() { "-" } else { "" })
}

/// `%x`: `0x1.8p+01`
fn hexadecimal(number: f64, precision: Option<usize>, upper: bool) -> String {
    if let Some(text) = not_finite(number) {
        return text;
    }
    let (mut mantissa, mut exponent) = parts(number);
    if mantissa == 0 {
        exponent = 0;
    } else {
        let shift = mantissa.leading_zeros().saturating_sub(11);
        mantissa <<= shift;
        exponent += 52 - i32::try_from(shift).unwrap_or_default();
    }
    if let Some(digits) = precision.filter(|&digits| digits < 13) {
        let dropped = 52 - 4 * digits;
        let half = 1_u64 << (dropped - 1);
        let rest = mantissa & ((1 << dropped) - 1);
        mantissa >>= dropped;
        if rest > half || (rest == half && mantissa & 1 == 1) {
            mantissa += 1;
        }
        mantissa <<= dropped;
        if mantissa >= 1 << 53 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    let fraction = format!("{:013x}", mantissa & ((1 << 52) - 1));
    let fraction = match precision {
        None => fraction.trim_end_matches('0').to_owned(),
        Some(digits) => fraction.chars().chain(std::iter::repeat('0')).take(digits).collect(),
    };
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let (exponent_sign, exponent) = (if exponent < 0 { '-' } else { '+' }, exponent.abs());
    let text = format!("{sign}0x{}{point}{fraction}p{exponent_sign}{exponent:02}", mantissa >> 52);
    if upper { text.to_uppercase() } else { text }
}
