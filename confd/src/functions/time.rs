//! Go's `time.Time`, as far as templates use it: `datetime.Format` and the parts of a date.

use crate::template::{Function, Functions, Object, Param, Value};
use chrono::{DateTime, Datelike as _, FixedOffset, Local, Offset as _, Timelike as _, Utc};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment in a time zone.
#[derive(Clone, Copy)]
struct Time {
    moment: DateTime<FixedOffset>,
    /// Seconds since the process began, which Go shows, too.
    monotonic: f64,
}

/// A number with a name, like a month.
struct Named {
    type_name: &'static str,
    number: u32,
    name: &'static str,
}

impl Object for Named {
    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn method(&self, name: &str) -> Option<Arc<Function>> {
        let text = self.name;
        (name == "String").then(|| Arc::new(Function::new("String", &[], move |_| Ok(text.into()))))
    }

    fn string(&self) -> Option<String> {
        Some(self.name.to_owned())
    }

    fn integer(&self) -> Option<i64> {
        Some(i64::from(self.number))
    }
}

impl Object for Time {
    fn type_name(&self) -> &'static str {
        "time.Time"
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        vec![("unix", self.moment.timestamp().into()), ("nanoseconds", i64::from(self.moment.nanosecond()).into())]
    }

    fn field(&self, _name: &str) -> Option<Value> {
        // Go's are not exported.
        None
    }

    fn string(&self) -> Option<String> {
        Some(format!("{} m=+{:.9}", self.format("2006-01-02 15:04:05.999999999 -0700 MST"), self.monotonic))
    }

    fn method(&self, name: &str) -> Option<Arc<Function>> {
        let time = *self;
        let number = |name: &'static str, number: i64| Function::new(name, &[], move |_| Ok(number.into()));
        let moment = self.moment;
        let function = match name {
            "Format" => {
                Function::new("Format", &[Param::Text], move |args| Ok(time.format(&super::string(&args[0])).into()))
            }
            "UTC" => Function::new("UTC", &[], move |_| Ok(time.in_zone(Utc.fix()))),
            "Local" => {
                Function::new("Local", &[], move |_| Ok(time.in_zone(*time.moment.with_timezone(&Local).offset())))
            }
            "Unix" => number("Unix", moment.timestamp()),
            "UnixMilli" => number("UnixMilli", moment.timestamp_millis()),
            "UnixMicro" => number("UnixMicro", moment.timestamp_micros()),
            "UnixNano" => number("UnixNano", moment.timestamp_nanos_opt().unwrap_or_default()),
            "Year" => number("Year", i64::from(moment.year())),
            "Day" => number("Day", i64::from(moment.day())),
            "Hour" => number("Hour", i64::from(moment.hour())),
            "Minute" => number("Minute", i64::from(moment.minute())),
            "Second" => number("Second", i64::from(moment.second())),
            "Nanosecond" => number("Nanosecond", i64::from(moment.nanosecond())),
            "YearDay" => number("YearDay", i64::from(moment.ordinal())),
            "Month" => Function::new("Month", &[], move |_| Ok(named("time.Month", moment.month(), &MONTHS, 1))),
            "Weekday" => Function::new("Weekday", &[], move |_| {
                Ok(named("time.Weekday", moment.weekday().num_days_from_sunday(), &DAYS, 0))
            }),
            "IsZero" => Function::new("IsZero", &[], |_| Ok(false.into())),
            "String" => Function::new("String", &[], move |_| Ok(time.string().unwrap_or_default().into())),
            _ => return None,
        };
        Some(Arc::new(function))
    }
}

fn named(type_name: &'static str, number: u32, names: &[&'static str], first: u32) -> Value {
    let name = names.get((number - first) as usize).copied().unwrap_or_default();
    Value::Object(Rc::new(Named { type_name, number, name }))
}

/// The pieces of Go's layouts, longer ones before those that they begin with.
const LAYOUT: [&str; 33] = [
    "January",
    "Jan",
    "Monday",
    "Mon",
    "MST",
    "2006",
    "002",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "15",
    "PM",
    "pm",
    "-07:00:00",
    "-070000",
    "-07:00",
    "-0700",
    "-07",
    "Z07:00:00",
    "Z070000",
    "Z07:00",
    "Z0700",
    "Z07",
    "__2",
    "_2",
    "1",
    "2",
    "3",
    "4",
    "5",
];

impl Time {
    fn in_zone(self, zone: FixedOffset) -> Value {
        Value::Object(Rc::new(Self { moment: self.moment.with_timezone(&zone), ..self }))
    }

    fn format(&self, layout: &str) -> String {
        let mut out = String::new();
        let mut rest = layout;
        while let Some(c) = rest.chars().next() {
            if let Some(width) = fraction(rest) {
                self.write_fraction(&mut out, &rest[..width]);
                rest = &rest[width..];
                continue;
            }
            let piece = LAYOUT.iter().find(|piece| rest.starts_with(**piece) && is_whole(piece, rest));
            if let Some(piece) = piece {
                out.push_str(&self.piece(piece));
                rest = &rest[piece.len()..];
            } else {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        out
    }

    fn piece(&self, piece: &str) -> String {
        let moment = &self.moment;
        let month = MONTHS[(moment.month() - 1) as usize];
        let day = DAYS[moment.weekday().num_days_from_sunday() as usize];
        let hour = match moment.hour() % 12 {
            0 => 12,
            hour => hour,
        };
        match piece {
            "January" => month.to_owned(),
            "Jan" => month[..3].to_owned(),
            "Monday" => day.to_owned(),
            "Mon" => day[..3].to_owned(),
            "MST" => self.zone(),
            "2006" => format!("{:04}", moment.year()),
            "06" => format!("{:02}", moment.year().rem_euclid(100)),
            "002" => format!("{:03}", moment.ordinal()),
            "__2" => format!("{:3}", moment.ordinal()),
            "01" => format!("{:02}", moment.month()),
            "1" => moment.month().to_string(),
            "02" => format!("{:02}", moment.day()),
            "_2" => format!("{:2}", moment.day()),
            "2" => moment.day().to_string(),
            "15" => format!("{:02}", moment.hour()),
            "03" => format!("{hour:02}"),
            "3" => hour.to_string(),
            "04" => format!("{:02}", moment.minute()),
            "4" => moment.minute().to_string(),
            "05" => format!("{:02}", moment.second()),
            "5" => moment.second().to_string(),
            "PM" => if moment.hour() >= 12 { "PM" } else { "AM" }.to_owned(),
            "pm" => if moment.hour() >= 12 { "pm" } else { "am" }.to_owned(),
            zone => self.offset(zone),
        }
    }

    /// An offset in one of the forms that begin with `-` or `Z`.
    fn offset(&self, form: &str) -> String {
        let seconds = self.moment.offset().local_minus_utc();
        if form.starts_with('Z') && seconds == 0 {
            return "Z".to_owned();
        }
        let sign = if seconds < 0 { '-' } else { '+' };
        let (hours, minutes, rest) = (seconds.abs() / 3600, seconds.abs() / 60 % 60, seconds.abs() % 60);
        let colon = if form.contains(':') { ":" } else { "" };
        let mut out = format!("{sign}{hours:02}");
        if form.len() > 3 {
            out = format!("{out}{colon}{minutes:02}");
        }
        if form.len() > 6 {
            out = format!("{out}{colon}{rest:02}");
        }
        out
    }

    /// The zone's name. Without a table of names it is the offset, as Go shows a zone that has none.
    fn zone(&self) -> String {
        let offset = self.moment.offset().local_minus_utc();
        match offset {
            0 => "UTC".to_owned(),
            _ if offset % 3600 == 0 => self.offset("-07"),
            _ => self.offset("-0700"),
        }
    }

    fn write_fraction(&self, out: &mut String, form: &str) {
        let digits = form.len() - 1;
        let nanoseconds = format!("{:09}", self.moment.nanosecond() % 1_000_000_000);
        let mut shown = nanoseconds.chars().take(digits).collect::<String>();
        if form.contains('9') {
            shown.truncate(shown.trim_end_matches('0').len());
            if shown.is_empty() {
                return;
            }
        }
        out.push_str(&form[..1]);
        out.push_str(&shown);
    }
}

/// Length of `.000` or `,999` at the beginning: a fraction of seconds, if no digit follows.
fn fraction(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if !matches!(bytes.first(), Some(b'.' | b',')) || !matches!(bytes.get(1), Some(b'0' | b'9')) {
        return None;
    }
    let width = 1 + bytes[1..].iter().take_while(|&&byte| byte == bytes[1]).count();
    let ends = !bytes.get(width).is_some_and(u8::is_ascii_digit);
    (ends && width <= 10).then_some(width)
}

/// Names are names only if no small letter follows, as in `Janet`.
fn is_whole(piece: &str, text: &str) -> bool {
    match piece {
        "Jan" | "Mon" => !text[3..].starts_with(|c: char| c.is_ascii_lowercase()),
        "_2" => !text.starts_with("_2006"),
        _ => true,
    }
}

fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

/// A time as JSON shows it; None for another type.
pub(super) fn rfc3339(object: &dyn Object) -> Option<String> {
    if object.type_name() != "time.Time" {
        return None;
    }
    let method = object.method("Format")?;
    match method.call(&["2006-01-02T15:04:05.999999999Z07:00".into()]) {
        Ok(Value::Text(text)) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    }
}

/// A time as seconds since 1970; None for another type.
pub(super) fn unix_seconds(object: &dyn Object) -> Option<i64> {
    match object.method("Unix")?.call(&[]) {
        Ok(Value::Int(seconds)) => Some(seconds),
        _ => None,
    }
}

pub(super) fn add(functions: &mut Functions) {
    let _begins_now = began();
    functions.add(Function::new("datetime", &[], |_| {
        let moment = Local::now().fixed_offset();
        Ok(Value::Object(Rc::new(Time { moment, monotonic: began().elapsed().as_secs_f64() })))
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_go() {
        let moment = DateTime::parse_from_rfc3339("2009-02-04T21:00:57.012345600-08:00").unwrap();
        let time = Time { moment, monotonic: 0.0 };
        for (layout, expected) in [
            ("Mon Jan _2 15:04:05 2006", "Wed Feb  4 21:00:57 2009"),
            ("Mon, 02 Jan 2006 15:04:05 -0700", "Wed, 04 Feb 2009 21:00:57 -0800"),
            ("2006-01-02T15:04:05Z07:00", "2009-02-04T21:00:57-08:00"),
            ("2006-01-02T15:04:05.999999999Z07:00", "2009-02-04T21:00:57.0123456-08:00"),
            ("3:04PM", "9:00PM"),
            ("03:4:5 pm", "09:0:57 pm"),
            ("Jan _2 15:04:05.000", "Feb  4 21:00:57.012"),
            ("06/1/2 Monday January 002 __2", "09/2/4 Wednesday February 035  35"),
            ("MST -07 Z0700", "-08 -08 -0800"),
            ("Janet Month _2006", "Janet Month _2009"),
            ("15h04m05,999", "21h00m57,012"),
        ] {
            assert_eq!(time.format(layout), expected, "{layout}");
        }
    }
}
