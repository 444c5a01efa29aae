//! The chart of the comparison, as shapes: one bar for each claimed ratio, with marks for floor and goal.
//!
//! Bars show how many times better our figure is (more of a rate, less of a time or size) on a logarithmic axis, so that
//! all of them grow to the right; the text beside gives the ratio as the table does. [`super::svg`] and [`super::png`]
//! turn the shapes into files; neither decides where anything stands.

use super::report::{Row, Verdict};
use crate::table::number;

/// Positions and sizes in pixels.
const ROW_HEIGHT: f64 = 22.0;
const BASELINE: f64 = 14.0;
const BAR_HEIGHT: f64 = 12.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 34.0;
const LABEL_WIDTH: f64 = 262.0;
const PLOT_WIDTH: f64 = 470.0;
const RATIO_WIDTH: f64 = 168.0;
/// The axis reaches from this to that many times better; what lies beyond is cut off.
const AXIS: (f64, f64) = (0.25, 32.0);

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Text,
    Dim,
    Back,
    Grid,
    Goal,
    Floor,
    Miss,
}

impl Ink {
    pub(super) const ALL: [Self; 7] =
        [Self::Text, Self::Dim, Self::Back, Self::Grid, Self::Goal, Self::Floor, Self::Miss];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Dim => "dim",
            Self::Back => "back",
            Self::Grid => "grid",
            Self::Goal => "goal",
            Self::Floor => "floor",
            Self::Miss => "miss",
        }
    }

    /// Red, green and blue on a light page.
    pub(super) fn light(self) -> [u8; 3] {
        match self {
            Self::Text => [0x1f, 0x23, 0x28],
            Self::Dim => [0x59, 0x63, 0x6e],
            Self::Back => [0xff, 0xff, 0xff],
            Self::Grid => [0xd1, 0xd9, 0xe0],
            Self::Goal => [0x1a, 0x7f, 0x37],
            Self::Floor => [0x3f, 0x83, 0xc8],
            Self::Miss => [0xcf, 0x22, 0x2e],
        }
    }

    /// The same on a dark page.
    pub(super) fn dark(self) -> [u8; 3] {
        match self {
            Self::Text => [0xe6, 0xed, 0xf3],
            Self::Dim => [0x91, 0x98, 0xa1],
            Self::Back => [0x0d, 0x11, 0x17],
            Self::Grid => [0x30, 0x36, 0x3d],
            Self::Goal => [0x3f, 0xb9, 0x50],
            Self::Floor => [0x58, 0xa6, 0xff],
            Self::Miss => [0xf8, 0x51, 0x49],
        }
    }
}

/// Which point of a text stands at its `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A filled rectangle with slightly rounded corners.
    Bar { ink: Ink, x: f64, y: f64, width: f64, height: f64 },
    /// A vertical line.
    Line { ink: Ink, width: f64, x: f64, top: f64, bottom: f64 },
    /// A circle with the background inside.
    Ring { x: f64, y: f64 },
    /// A line of text; `y` is its baseline.
    Text { ink: Ink, is_title: bool, anchor: Anchor, x: f64, y: f64, text: String },
}

/// Radius of a [`Shape::Ring`] and the width of its line.
pub(super) const RING: (f64, f64) = (4.0, 1.5);
/// Radius of the corners of a [`Shape::Bar`].
pub(super) const CORNER: f64 = 2.0;
/// Size of a [`Shape::Text`] and of a title.
pub(super) const TEXT_SIZE: (f64, f64) = (12.0, 16.0);

/// The whole chart, on a page of [`Ink::Back`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) shapes: Vec<Shape>,
}

impl Chart {
    /// Draws `rows`; those without a claim or a ratio are left out. `note` stands below the title.
    pub(super) fn new(rows: &[Row], note: &str) -> Self {
        let shown: Vec<_> =
            rows.iter().filter_map(|row| Some((row, row.ratio.filter(|ratio| *ratio > 0.0)?, row.bounds?))).collect();
        let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + RATIO_WIDTH, TOP + shown.len() as f64 * ROW_HEIGHT + BOTTOM);
        let mut chart = Self { width, height, shapes: Vec::new() };
        chart.head(note);
        chart.axis(height - BOTTOM + 4.0);
        let mut last = "";
        for (number, (row, ratio, bounds)) in shown.into_iter().enumerate() {
            let y = TOP + number as f64 * ROW_HEIGHT;
            if row.workload != last {
                chart.text(Ink::Text, Anchor::Start, 16.0, y + BASELINE, row.workload);
                last = row.workload;
            }
            chart.bar(y, row, ratio, bounds);
        }
        chart
    }

    fn text(&mut self, ink: Ink, anchor: Anchor, x: f64, y: f64, text: impl Into<String>) {
        self.shapes.push(Shape::Text { ink, is_title: false, anchor, x, y, text: text.into() });
    }

    /// The line that stands for a floor.
    fn mark(&mut self, x: f64, top: f64, bottom: f64) {
        self.shapes.push(Shape::Line { ink: Ink::Text, width: 2.0, x, top, bottom });
    }

    /// Title, note and legend.
    fn head(&mut self, note: &str) {
        let (text, anchor) = ("cleat compared with etcd: times better".to_owned(), Anchor::Start);
        self.shapes.push(Shape::Text { ink: Ink::Text, is_title: true, anchor, x: 16.0, y: 26.0, text });
        self.text(Ink::Dim, Anchor::Start, 16.0, 46.0, note);
        let legend = [(Ink::Goal, "goal reached"), (Ink::Floor, "floor reached"), (Ink::Miss, "floor missed")];
        for (position, (ink, text)) in legend.into_iter().enumerate() {
            let x = 16.0 + position as f64 * 116.0;
            self.shapes.push(Shape::Bar { ink, x, y: 56.0, width: 12.0, height: 12.0 });
            self.text(Ink::Dim, Anchor::Start, x + 18.0, 66.0, text);
        }
        self.mark(370.0, 55.0, 69.0);
        self.text(Ink::Dim, Anchor::Start, 378.0, 66.0, "floor");
        self.shapes.push(Shape::Ring { x: 426.0, y: 62.0 });
        self.text(Ink::Dim, Anchor::Start, 436.0, 66.0, "goal");
    }

    /// Vertical lines down to `bottom`, with their numbers.
    fn axis(&mut self, bottom: f64) {
        let mut tick = AXIS.0;
        while tick <= AXIS.1 {
            let x = position(tick);
            let ink = if (tick - 1.0).abs() < 1e-9 { Ink::Dim } else { Ink::Grid };
            self.shapes.push(Shape::Line { ink, width: 1.0, x, top: TOP - 4.0, bottom });
            self.text(Ink::Dim, Anchor::Middle, x, bottom + 16.0, format!("{tick}x"));
            tick *= 2.0;
        }
    }

    /// One row's figure, bar, marks, ratio and verdict.
    fn bar(&mut self, y: f64, row: &Row, ratio: f64, bounds: (f64, f64)) {
        let better = |ratio: f64| position(if row.metric.is_rate() { ratio } else { 1.0 / ratio });
        let (text_y, ratio_end) = (y + BASELINE, LABEL_WIDTH + PLOT_WIDTH + 62.0);
        self.text(Ink::Dim, Anchor::End, LABEL_WIDTH - 12.0, text_y, row.metric.label());
        let (one, end) = (position(1.0), better(ratio));
        let bar_y = y + (ROW_HEIGHT - BAR_HEIGHT) / 2.0 - 1.0;
        self.shapes.push(Shape::Bar {
            ink: ink(row.verdict),
            x: one.min(end),
            y: bar_y,
            width: (end - one).abs().max(1.0),
            height: BAR_HEIGHT,
        });
        self.mark(better(bounds.0), bar_y - 2.0, bar_y + BAR_HEIGHT + 2.0);
        self.shapes.push(Shape::Ring { x: better(bounds.1), y: bar_y + BAR_HEIGHT / 2.0 });
        self.text(Ink::Text, Anchor::End, ratio_end, text_y, format!("{}x", number(ratio)));
        self.text(Ink::Text, Anchor::Start, ratio_end + 14.0, text_y, row.verdict.label());
    }
}

/// Where `better` times better lies on the axis.
fn position(better: f64) -> f64 {
    let share = (better.clamp(AXIS.0, AXIS.1) / AXIS.0).log2() / (AXIS.1 / AXIS.0).log2();
    LABEL_WIDTH + share * PLOT_WIDTH
}

fn ink(verdict: Verdict) -> Ink {
    match verdict {
        Verdict::Goal => Ink::Goal,
        Verdict::Floor => Ink::Floor,
        Verdict::Miss | Verdict::NoData | Verdict::Note => Ink::Miss,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::plan::Metric;
    use super::*;

    fn row(metric: Metric, ratio: Option<f64>, bounds: Option<(f64, f64)>, verdict: Verdict) -> Row {
        Row { workload: "put-64", metric, cleat: None, etcd: None, ratio, bounds, verdict, errors: (0, 0) }
    }

    /// Two bars, a note and a row without data.
    pub(in super::super) fn example() -> Chart {
        let rows = [
            row(Metric::Throughput, Some(2.6), Some((1.7, 2.5)), Verdict::Goal),
            row(Metric::P99, Some(0.9), Some((0.7, 0.4)), Verdict::Miss),
            row(Metric::GeneratorCpu, Some(1.0), None, Verdict::Note),
            row(Metric::ServerCpu, None, Some((0.5, 0.35)), Verdict::NoData),
        ];
        Chart::new(&rows, "a <b> & c")
    }

    #[test]
    fn bars_grow_with_the_advantage() {
        assert!((position(AXIS.0) - LABEL_WIDTH).abs() < 1e-9);
        assert!((position(1e9) - LABEL_WIDTH - PLOT_WIDTH).abs() < 1e-9);
        assert!(position(1.0) < position(2.0));
    }

    #[test]
    fn claimed_ratios_are_drawn() {
        let chart = example();
        let rings = chart.shapes.iter().filter(|shape| matches!(shape, Shape::Ring { .. })).count();
        assert_eq!(rings, 3, "two bars and the legend");
        for expected in ["2.60x", "PASS goal", "MISS", "a <b> & c"] {
            let is_there = |shape: &Shape| matches!(shape, Shape::Text { text, .. } if text == expected);
            assert!(chart.shapes.iter().any(is_there), "{expected}");
        }
    }
}
