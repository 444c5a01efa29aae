//! The chart of the comparison: one bar for each claimed ratio, with marks for floor and goal.
//!
//! Bars show how many times better our figure is (more of a rate, less of a time or size) on a logarithmic axis, so that
//! all of them grow to the right; the text beside gives the ratio as the table does. The chart brings its own background
//! and follows the reader's light or dark setting.

use std::fmt::Write as _;

use super::report::{Row, Verdict};
use crate::table::number;

/// Positions and sizes in pixels.
const ROW_HEIGHT: f64 = 22.0;
const BAR_HEIGHT: f64 = 12.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 34.0;
const LABEL_WIDTH: f64 = 262.0;
const PLOT_WIDTH: f64 = 470.0;
const RATIO_WIDTH: f64 = 168.0;
/// The axis reaches from this to that many times better; what lies beyond is cut off.
const AXIS: (f64, f64) = (0.25, 32.0);

const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.dim { fill: #59636e }
.end { text-anchor: end }
.middle { text-anchor: middle }
.back { fill: #ffffff }
.grid { stroke: #d1d9e0 }
.one { stroke: #59636e }
.goal { fill: #1a7f37 }
.floor { fill: #3f83c8 }
.miss { fill: #cf222e }
.mark { stroke: #1f2328; stroke-width: 2 }
.ring { fill: #ffffff; stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.dim { fill: #9198a1 }
.back { fill: #0d1117 }
.grid { stroke: #30363d }
.one { stroke: #9198a1 }
.goal { fill: #3fb950 }
.floor { fill: #58a6ff }
.miss { fill: #f85149 }
.mark { stroke: #e6edf3 }
.ring { fill: #0d1117; stroke: #e6edf3 }
}
";

/// Draws `rows`; those without a claim or a ratio are left out. `note` stands below the title.
pub(crate) fn chart(rows: &[Row], note: &str) -> String {
    let shown: Vec<_> =
        rows.iter().filter_map(|row| Some((row, row.ratio.filter(|ratio| *ratio > 0.0)?, row.bounds?))).collect();
    let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + RATIO_WIDTH, TOP + shown.len() as f64 * ROW_HEIGHT + BOTTOM);
    let mut svg = String::new();
    let mut draw = |element: std::fmt::Arguments<'_>| writeln!(svg, "{element}").expect("writing to a string succeeds");
    draw(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Ratios of cleat to etcd\"><style>{STYLE}</style>"
    ));
    draw(format_args!("<rect class=\"back\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"));
    draw(format_args!("<text class=\"title\" x=\"16\" y=\"26\">cleat compared with etcd: times better</text>"));
    draw(format_args!("<text class=\"dim\" x=\"16\" y=\"46\">{}</text>", escape(note)));
    let legend = [("goal", "goal reached"), ("floor", "floor reached"), ("miss", "floor missed")];
    for (position, (class, text)) in legend.iter().enumerate() {
        let x = 16.0 + position as f64 * 116.0;
        draw(format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"56\" width=\"12\" height=\"12\" rx=\"2\"/>"));
        draw(format_args!("<text class=\"dim\" x=\"{}\" y=\"66\">{text}</text>", x + 18.0));
    }
    draw(format_args!("<line class=\"mark\" x1=\"370\" x2=\"370\" y1=\"55\" y2=\"69\"/>"));
    draw(format_args!("<text class=\"dim\" x=\"378\" y=\"66\">floor</text>"));
    draw(format_args!("<circle class=\"ring\" cx=\"426\" cy=\"62\" r=\"4\"/>"));
    draw(format_args!("<text class=\"dim\" x=\"436\" y=\"66\">goal</text>"));

    let bottom = height - BOTTOM + 4.0;
    let mut tick = AXIS.0;
    while tick <= AXIS.1 {
        let x = position(tick);
        let class = if (tick - 1.0).abs() < 1e-9 { "one" } else { "grid" };
        draw(format_args!(
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\"/>",
            TOP - 4.0
        ));
        draw(format_args!("<text class=\"dim middle\" x=\"{x:.1}\" y=\"{}\">{tick}x</text>", bottom + 16.0));
        tick *= 2.0;
    }
    let mut last = "";
    for (number_of_row, (row, ratio, bounds)) in shown.iter().enumerate() {
        let y = TOP + number_of_row as f64 * ROW_HEIGHT;
        let better = |ratio: f64| if row.metric.is_rate() { ratio } else { 1.0 / ratio };
        let text_y = y + 14.0;
        if row.workload != last {
            draw(format_args!("<text x=\"16\" y=\"{text_y}\">{}</text>", row.workload));
            last = row.workload;
        }
        draw(format_args!(
            "<text class=\"dim end\" x=\"{}\" y=\"{text_y}\">{}</text>",
            LABEL_WIDTH - 12.0,
            row.metric.label()
        ));
        let (one, end) = (position(1.0), position(better(*ratio)));
        let bar_y = y + (ROW_HEIGHT - BAR_HEIGHT) / 2.0 - 1.0;
        draw(format_args!(
            "<rect class=\"{}\" x=\"{:.1}\" y=\"{bar_y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>",
            class(row.verdict),
            one.min(end),
            (end - one).abs().max(1.0)
        ));
        let (floor, goal) = (position(better(bounds.0)), position(better(bounds.1)));
        let (mark_top, mark_bottom) = (bar_y - 2.0, bar_y + BAR_HEIGHT + 2.0);
        draw(format_args!(
            "<line class=\"mark\" x1=\"{floor:.1}\" x2=\"{floor:.1}\" y1=\"{mark_top}\" y2=\"{mark_bottom}\"/>"
        ));
        draw(format_args!("<circle class=\"ring\" cx=\"{goal:.1}\" cy=\"{}\" r=\"4\"/>", bar_y + BAR_HEIGHT / 2.0));
        let ratio_end = LABEL_WIDTH + PLOT_WIDTH + 62.0;
        draw(format_args!("<text class=\"end\" x=\"{ratio_end}\" y=\"{text_y}\">{}x</text>", number(*ratio)));
        draw(format_args!("<text x=\"{}\" y=\"{text_y}\">{}</text>", ratio_end + 14.0, row.verdict.label()));
    }
    draw(format_args!("</svg>"));
    svg
}

/// Where `better` times better lies on the axis.
fn position(better: f64) -> f64 {
    let share = (better.clamp(AXIS.0, AXIS.1) / AXIS.0).log2() / (AXIS.1 / AXIS.0).log2();
    LABEL_WIDTH + share * PLOT_WIDTH
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Goal => "goal",
        Verdict::Floor => "floor",
        Verdict::Miss | Verdict::NoData | Verdict::Note => "miss",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::plan::Metric;
    use super::*;

    fn row(metric: Metric, ratio: Option<f64>, bounds: Option<(f64, f64)>, verdict: Verdict) -> Row {
        Row { workload: "put-64", metric, cleat: None, etcd: None, ratio, bounds, verdict, errors: (0, 0) }
    }

    #[test]
    fn bars_grow_with_the_advantage() {
        assert!((position(AXIS.0) - LABEL_WIDTH).abs() < 1e-9);
        assert!((position(1e9) - LABEL_WIDTH - PLOT_WIDTH).abs() < 1e-9);
        assert!(position(1.0) < position(2.0));
    }

    #[test]
    fn claimed_ratios_are_drawn() {
        let rows = [
            row(Metric::Throughput, Some(2.6), Some((1.7, 2.5)), Verdict::Goal),
            row(Metric::P99, Some(0.9), Some((0.7, 0.4)), Verdict::Miss),
            row(Metric::GeneratorCpu, Some(1.0), None, Verdict::Note),
            row(Metric::ServerCpu, None, Some((0.5, 0.35)), Verdict::NoData),
        ];
        let svg = chart(&rows, "a <b> & c");
        assert_eq!(svg.matches("class=\"mark\"").count(), 3, "two bars and the legend");
        assert!(svg.contains(">2.60x<") && svg.contains(">PASS goal<") && svg.contains(">MISS<"), "{svg}");
        assert!(svg.contains("a &lt;b&gt; &amp; c"));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }
}
