//! A [`Chart`] as SVG. It brings its own background and follows the reader's light or dark setting.

use std::fmt::Write as _;

use super::chart::{Anchor, CORNER, Chart, Ink, RING, Shape, TEXT_SIZE};

/// Writes the chart as a document.
pub(super) fn render(chart: &Chart) -> String {
    let Chart { width, height, shapes } = chart;
    let mut page = Page(String::new());
    page.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Ratios of cleat to etcd\"><style>{}</style>",
        style()
    ));
    page.add(format_args!("<rect class=\"back\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"));
    for shape in shapes {
        page.shape(shape);
    }
    page.add(format_args!("</svg>"));
    page.0
}

/// The style sheet: every ink as a fill and as a line (`on-...`), light and dark.
fn style() -> String {
    let mut sheet = Page(String::new());
    let (text, title) = TEXT_SIZE;
    sheet.add(format_args!(
        "\ntext {{ font: {text}px system-ui, sans-serif }}\n.title {{ font-size: {title}px; font-weight: 600 }}\n\
         .end {{ text-anchor: end }}\n.middle {{ text-anchor: middle }}"
    ));
    sheet.inks(Ink::light);
    sheet.add(format_args!("@media (prefers-color-scheme: dark) {{"));
    sheet.inks(Ink::dark);
    sheet.add(format_args!("}}"));
    sheet.0
}

/// The lines written so far.
struct Page(String);

impl Page {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("invariant: writing to a string succeeds");
    }

    fn inks(&mut self, colour: impl Fn(Ink) -> [u8; 3]) {
        for ink in Ink::ALL {
            let (name, [red, green, blue]) = (ink.name(), colour(ink));
            self.add(format_args!(
                ".{name} {{ fill: #{red:02x}{green:02x}{blue:02x} }} .on-{name} {{ stroke: #{red:02x}{green:02x}{blue:02x} }}"
            ));
        }
    }

    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Bar { ink, x, y, width, height } => self.add(format_args!(
                "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" rx=\"{CORNER}\"/>",
                ink.name()
            )),
            Shape::Line { ink, width, x, top, bottom } => self.add(format_args!(
                "<line class=\"on-{}\" stroke-width=\"{width}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>",
                ink.name()
            )),
            Shape::Ring { x, y } => self.add(format_args!(
                "<circle class=\"back on-text\" stroke-width=\"{}\" cx=\"{x:.1}\" cy=\"{y}\" r=\"{}\"/>",
                RING.1, RING.0
            )),
            Shape::Text { ink, is_title, anchor, x, y, text } => {
                let title = if *is_title { " title" } else { "" };
                let anchor = match anchor {
                    Anchor::Start => "",
                    Anchor::Middle => " middle",
                    Anchor::End => " end",
                };
                self.add(format_args!(
                    "<text class=\"{}{title}{anchor}\" x=\"{x:.1}\" y=\"{y}\">{}</text>",
                    ink.name(),
                    escape(text)
                ));
            }
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::example;
    use super::*;

    #[test]
    fn every_shape_is_written() {
        let svg = render(&example());
        assert_eq!(svg.matches("<circle class=\"back on-text\"").count(), 3, "two bars and the legend");
        assert!(svg.contains(">2.60x<") && svg.contains(">PASS goal<") && svg.contains(">MISS<"), "{svg}");
        assert!(svg.contains("a &lt;b&gt; &amp; c"));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }
}
