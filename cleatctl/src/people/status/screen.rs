//! One screen of text from facts: the cluster in a line, a row for each member, and what is to be done.

use super::facts::{Facts, Member, Seen};
use super::findings::{Finding, Level, expiry_level, lag_level, quota_level, sync_level};
use super::metrics::{LOG_SYNC, shown_seconds};
use crate::people::terminal::{Terminal, Tone};
use crate::people::text::{self, Align};
use chrono::{DateTime, Utc};

const SECONDS_OF_DAY: i64 = 86_400;

/// Columns from which the ids and endpoints of members have room, too.
const WIDE: usize = 140;

/// Days until then; below zero once it is over.
pub(crate) fn days_left(now: i64, ends: i64) -> i64 {
    (ends - now).div_euclid(SECONDS_OF_DAY)
}

pub(crate) fn shown_date(unix_seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(unix_seconds, 0)
        .map_or_else(|| "?".to_owned(), |at| at.format("%Y-%m-%d").to_string())
}

fn shown_time(unix_seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(unix_seconds, 0)
        .map_or_else(|| "?".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A size in powers of 1024, in as few characters as it takes.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// How something is, and with what tone it is shown.
struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None }
    }

    fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Some(tone) }
    }

    fn judged(level: Level, text: String) -> Self {
        let tone = match level {
            Level::Pass => None,
            Level::Warn => Some(Tone::Warning),
            Level::Fail => Some(Tone::Bad),
        };
        Self { text, tone }
    }

    /// What members say of themselves is not for the terminal to obey.
    fn escaped(self) -> Self {
        Self { text: text::escape(&self.text), ..self }
    }

    /// What is not known.
    fn unknown() -> Self {
        Self::toned(Tone::Quiet, "-")
    }
}

/// A column: its head, where its text stands, and whether only wide screens have it.
struct Column {
    head: &'static str,
    align: Align,
    is_extra: bool,
}

const fn column(head: &'static str, align: Align) -> Column {
    Column { head, align, is_extra: false }
}

const fn extra(head: &'static str, align: Align) -> Column {
    Column { head, align, is_extra: true }
}

const COLUMNS: [Column; 11] = [
    column("MEMBER", Align::Left),
    extra("ID", Align::Left),
    extra("ENDPOINT", Align::Left),
    column("ROLE", Align::Left),
    column("VERSION", Align::Left),
    column("DB", Align::Right),
    extra("IN USE", Align::Right),
    column("QUOTA", Align::Right),
    column("LAG", Align::Right),
    column("SYNC P99", Align::Right),
    column("CERT", Align::Right),
];

/// The whole screen.
pub(crate) fn render(facts: &Facts, findings: &[Finding], terminal: &Terminal) -> String {
    let mut screen = head(facts, terminal);
    screen.push('\n');
    // Who the members are nobody tells if no endpoint answers.
    if !facts.members.is_empty() {
        screen.push_str(&table(facts, terminal));
        screen.push('\n');
    }
    let mut problems: Vec<&Finding> = findings.iter().filter(|finding| finding.level != Level::Pass).collect();
    if problems.is_empty() {
        text::push(&mut screen, format_args!("{}\n", terminal.paint(Tone::Good, "Nothing to do.")));
        return screen;
    }
    // The worst first.
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let columns = problems.iter().map(|problem| problem.check.len()).max().unwrap_or(0);
    for problem in problems {
        screen.push_str(&finding(problem, columns, terminal));
    }
    screen
}

/// The cluster in two lines.
fn head(facts: &Facts, terminal: &Terminal) -> String {
    let cluster = facts.answers().filter_map(|seen| seen.status.header.as_ref()).map(|header| header.cluster_id).next();
    let cluster = cluster.map_or_else(|| "cluster ?".to_owned(), |id| format!("cluster {id:x}"));
    let time = shown_time(facts.now);
    let gap = terminal.width.map_or(2, |width| width.saturating_sub(text::width(&cluster) + time.len()).max(2));
    let mut lines = format!(
        "{}{}{}\n",
        terminal.paint(Tone::Strong, &cluster),
        " ".repeat(gap),
        terminal.paint(Tone::Quiet, &time)
    );
    let answering = facts.answers().count();
    let leader =
        facts.leader().map_or_else(|| "no leader".to_owned(), |member| format!("leader {}", member.shown_name()));
    let newest = |number: fn(&Seen) -> u64| facts.answers().map(number).max().unwrap_or(0);
    let term = newest(|seen| seen.status.raft_term);
    let revision = newest(|seen| seen.status.header.as_ref().map_or(0, |header| header.revision.max(0) as u64));
    let alarms: Vec<&str> = facts.alarms.iter().map(|(_, alarm)| alarm.as_str()).collect();
    let alarms = match (&facts.alarm_failure, alarms.is_empty()) {
        (Some(_), _) => "alarms unknown".to_owned(),
        (None, true) => "no alarms".to_owned(),
        (None, false) => format!("alarms {}", alarms.join(" ")),
    };
    let members = text::count(facts.members.len(), "member answers", "members answer");
    let line = match (answering, facts.members.len()) {
        (0, 0) => "no endpoint answers".to_owned(),
        (0, _) => format!("0 of {members}"),
        _ => format!("{answering} of {members}, {leader}, term {term}, revision {revision}, {alarms}"),
    };
    text::push(&mut lines, format_args!("{}\n", text::wrap(&text::escape(&line), terminal.width, 0)));
    lines
}

fn table(facts: &Facts, terminal: &Terminal) -> String {
    let is_wide = terminal.width.is_none_or(|width| width >= WIDE);
    let shown: Vec<usize> = (0..COLUMNS.len()).filter(|at| is_wide || !COLUMNS[*at].is_extra).collect();
    let rows: Vec<[Cell; COLUMNS.len()]> =
        facts.members.iter().map(|member| row(facts, member).map(Cell::escaped)).collect();
    let mut widths: Vec<usize> = shown
        .iter()
        .map(|at| rows.iter().map(|row| text::width(&row[*at].text)).max().unwrap_or(0).max(COLUMNS[*at].head.len()))
        .collect();
    // Names give way when the rest needs the room.
    let total: usize = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    if let Some(excess) = terminal.width.and_then(|width| total.checked_sub(width)) {
        widths[0] = widths[0].saturating_sub(excess).max(6);
    }
    let mut lines = String::new();
    let heads: Vec<String> =
        shown.iter().zip(&widths).map(|(at, width)| text::pad(COLUMNS[*at].head, *width, COLUMNS[*at].align)).collect();
    text::push(&mut lines, format_args!("{}\n", terminal.paint(Tone::Quiet, heads.join("  ").trim_end())));
    for row in &rows {
        let mut line = String::new();
        for (at, width) in shown.iter().zip(&widths) {
            let Cell { text, tone } = &row[*at];
            let text = text::pad(&text::cut(text, *width, terminal.has_unicode), *width, COLUMNS[*at].align);
            let painted = tone.map_or_else(|| text.as_str().into(), |tone| terminal.paint(tone, &text));
            text::push(&mut line, format_args!("{painted}  "));
        }
        text::push(&mut lines, format_args!("{}\n", line.trim_end()));
    }
    lines
}

/// The cells of a member, in the order of [`COLUMNS`].
fn row(facts: &Facts, member: &Member) -> [Cell; COLUMNS.len()] {
    let id = Cell::toned(Tone::Quiet, format!("{:x}", member.id));
    let Some(seen) = member.answer() else {
        let (tone, role) =
            if member.name.is_empty() { (Tone::Warning, "not started") } else { (Tone::Bad, "no answer") };
        let unknown = || Cell::unknown();
        let name = Cell::toned(tone, member.shown_name());
        let urls = Cell::toned(Tone::Quiet, member.client_urls.first().cloned().unwrap_or_else(|| "-".to_owned()));
        let certificate = certificate(facts, member);
        return [
            name,
            id,
            urls,
            Cell::toned(tone, role),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            certificate,
        ];
    };
    let is_leader = seen.status.leader == member.id && member.id != 0;
    let role = match (is_leader, seen.status.leader, seen.status.is_learner) {
        (true, ..) => Cell::toned(Tone::Good, "leader"),
        (false, 0, _) => Cell::toned(Tone::Bad, "no leader"),
        (false, _, true) => Cell::toned(Tone::Warning, "learner"),
        _ => Cell::plain("follower"),
    };
    let lag = facts.lag(seen).map_or_else(Cell::unknown, |lag| Cell::judged(lag_level(lag), lag.to_string()));
    let quota = seen.quota_used();
    let quota =
        quota.map_or_else(Cell::unknown, |used| Cell::judged(quota_level(used), format!("{:.0} %", used * 100.0)));
    let sync = seen.metrics.as_ref().ok().and_then(|metrics| metrics.p99(LOG_SYNC));
    let sync = sync.map_or_else(Cell::unknown, |seconds| Cell::judged(sync_level(seconds), shown_seconds(seconds)));
    let version = seen.program.clone().unwrap_or_else(|| seen.status.version.clone());
    [
        Cell::plain(member.shown_name()),
        id,
        Cell::toned(Tone::Quiet, seen.endpoint.clone()),
        role,
        Cell::plain(version),
        Cell::plain(shown_bytes(seen.status.db_size.max(0) as u64)),
        Cell::plain(shown_bytes(seen.status.db_size_in_use.max(0) as u64)),
        quota,
        lag,
        sync,
        certificate(facts, member),
    ]
}

fn certificate(facts: &Facts, member: &Member) -> Cell {
    member.first_expiry().map_or_else(Cell::unknown, |ends| {
        let days = days_left(facts.now, ends);
        Cell::judged(expiry_level(days), if days < 0 { "ended".to_owned() } else { format!("{days} d") })
    })
}

/// A finding, and below it what to do. The name of the check takes at least so many columns.
pub(crate) fn finding(finding: &Finding, check_columns: usize, terminal: &Terminal) -> String {
    let tone = match finding.level {
        Level::Pass => Tone::Good,
        Level::Warn => Tone::Warning,
        Level::Fail => Tone::Bad,
    };
    let check = text::pad(finding.check, check_columns, Align::Left);
    let indent = finding.level.name().len() + 2 + text::width(&check) + 2;
    let what = text::wrap(&text::escape(&finding.what), terminal.width, indent);
    let mut lines = format!("{}  {check}  {what}\n", terminal.paint(tone, finding.level.name()));
    if !finding.remedy.is_empty() {
        let remedy = text::wrap(&format!("do: {}", text::escape(&finding.remedy)), terminal.width, indent);
        text::push(&mut lines, format_args!("{}{remedy}\n", " ".repeat(indent)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{days_left, render, shown_bytes, shown_date};
    use crate::people::snapshots::{assert_recorded, outputs};
    use crate::people::status::findings::live;
    use crate::people::status::samples::{NOW, healthy, troubled};
    use crate::people::terminal::Terminal;
    use crate::people::terminal::tests::PIPED;
    use crate::people::text;

    #[test]
    fn every_screen_is_as_recorded() {
        for (name, terminal) in outputs() {
            for (kind, facts) in [("healthy", healthy()), ("troubled", troubled())] {
                assert_recorded(&format!("status-{kind}-{name}"), &render(&facts, &live(&facts), &terminal));
            }
        }
        let mut nobody = healthy();
        nobody.members.iter_mut().for_each(|member| member.seen = Err("connection refused".to_owned()));
        nobody.alarm_failure = Some("no endpoint answers".to_owned());
        assert_recorded("status-nobody", &render(&nobody, &live(&nobody), &outputs()[0].1));
        nobody.members.clear();
        assert_recorded("status-unknown", &render(&nobody, &live(&nobody), &outputs()[0].1));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for (_, terminal) in outputs() {
            let Some(width) = terminal.width else { continue };
            let plain = Terminal { has_colours: false, ..terminal };
            for facts in [healthy(), troubled()] {
                for line in render(&facts, &live(&facts), &plain).lines() {
                    assert!(text::width(line) <= width, "{} columns: {line}", text::width(line));
                }
            }
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_that_a_member_says() {
        let mut facts = troubled();
        let evil = "\x1b[2J\u{202e}".to_owned();
        facts.members[1].name.clone_from(&evil);
        facts.members[0].seen = Err(evil.clone());
        facts.members[0].client_urls = vec![evil.clone()];
        facts.alarm_failure = Some(evil.clone());
        let seen = facts.members[2].seen.as_mut().unwrap();
        (seen.program, seen.endpoint) = (None, evil.clone());
        seen.status.version.clone_from(&evil);
        let screen = render(&facts, &live(&facts), &PIPED);
        assert!(!screen.contains(['\x1b', '\u{202e}']) && screen.contains("\\x1b[2J\\u202e"), "{screen}");
    }

    #[test]
    fn sizes_and_days_are_short() {
        for (bytes, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (65 << 20, "65 MiB"), (2 << 30, "2.0 GiB")]
        {
            assert_eq!(shown_bytes(bytes), expected);
        }
        assert_eq!((days_left(NOW, NOW + 1), days_left(NOW, NOW - 1), shown_date(NOW).as_str()), (0, -1, "2026-11-28"));
    }
}
