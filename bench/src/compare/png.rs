//! A [`Chart`] as PNG, on a light page, for places that show no SVG.
//!
//! Drawn with a rasterizer and a typeface that are part of this binary, so that it looks the same on a machine without
//! any font.

use anyhow::Context as _;
use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform};
use ttf_parser::{Face, OutlineBuilder};

use super::chart::{Anchor, CORNER, Chart, Ink, RING, Shape, TEXT_SIZE};

/// Pixels for each unit of the chart: text stays sharp on a dense screen.
const SCALE: f64 = 2.0;
/// The typeface is wider than those that browsers choose, for which the chart is laid out.
const NARROWER: f64 = 0.9;

/// Draws the chart and encodes it.
///
/// # Errors
/// There is no memory for the picture.
pub(super) fn render(chart: &Chart) -> anyhow::Result<Vec<u8>> {
    let size = |units: f64| (units * SCALE).ceil() as u32;
    let mut pixels = Pixmap::new(size(chart.width), size(chart.height)).context("the chart is too large")?;
    let [red, green, blue] = Ink::Back.light();
    pixels.fill(Color::from_rgba8(red, green, blue, 255));
    let mut page = Page { pixels, regular: face(dejavu::sans::regular())?, bold: face(dejavu::sans::bold())? };
    for shape in &chart.shapes {
        page.shape(shape);
    }
    page.pixels.encode_png().context("cannot encode the chart")
}

fn face(bytes: &'static [u8]) -> anyhow::Result<Face<'static>> {
    Face::parse(bytes, 0).context("cannot read the typeface")
}

/// What is drawn so far, and what to write with.
struct Page {
    pixels: Pixmap,
    regular: Face<'static>,
    bold: Face<'static>,
}

impl Page {
    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Bar { ink, x, y, width, height } => self.fill(bar(*x, *y, *width, *height), *ink),
            Shape::Line { ink, width, x, top, bottom } => {
                self.fill(rectangle(x - width / 2.0, *top, *width, bottom - top), *ink);
            }
            Shape::Ring { x, y } => {
                let circle = PathBuilder::from_circle(*x as f32, *y as f32, RING.0 as f32);
                self.fill(circle.clone(), Ink::Back);
                if let Some(circle) = circle {
                    let stroke = Stroke { width: RING.1 as f32, ..Stroke::default() };
                    self.pixels.stroke_path(&circle, &paint(Ink::Text), &stroke, scale(), None);
                }
            }
            Shape::Text { ink, is_title, anchor, x, y, text } => {
                let face = if *is_title { &self.bold } else { &self.regular };
                let size = NARROWER * if *is_title { TEXT_SIZE.1 } else { TEXT_SIZE.0 };
                let path = line_of_text(face, size, *anchor, (*x, *y), text);
                self.fill(path, *ink);
            }
        }
    }

    /// Nothing is drawn for a shape without an area, such as a space.
    fn fill(&mut self, path: Option<Path>, ink: Ink) {
        if let Some(path) = path {
            self.pixels.fill_path(&path, &paint(ink), FillRule::Winding, scale(), None);
        }
    }
}

fn paint(ink: Ink) -> Paint<'static> {
    let [red, green, blue] = ink.light();
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, 255);
    paint
}

fn scale() -> Transform {
    Transform::from_scale(SCALE as f32, SCALE as f32)
}

fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Option<Path> {
    Rect::from_xywh(x as f32, y as f32, width as f32, height as f32).map(PathBuilder::from_rect)
}

/// A rectangle with rounded corners, if it is large enough for them.
fn bar(x: f64, y: f64, width: f64, height: f64) -> Option<Path> {
    if width < 2.0 * CORNER || height < 2.0 * CORNER {
        return rectangle(x, y, width, height);
    }
    let (left, top, right, bottom) = (x as f32, y as f32, (x + width) as f32, (y + height) as f32);
    let corner = CORNER as f32;
    let mut path = PathBuilder::new();
    path.move_to(left + corner, top);
    path.line_to(right - corner, top);
    path.quad_to(right, top, right, top + corner);
    path.line_to(right, bottom - corner);
    path.quad_to(right, bottom, right - corner, bottom);
    path.line_to(left + corner, bottom);
    path.quad_to(left, bottom, left, bottom - corner);
    path.line_to(left, top + corner);
    path.quad_to(left, top, left + corner, top);
    path.close();
    path.finish()
}

/// The outlines of a text, its anchor at `at`. Characters that the typeface lacks are left out.
fn line_of_text(face: &Face<'_>, size: f64, anchor: Anchor, at: (f64, f64), text: &str) -> Option<Path> {
    let unit = size / f64::from(face.units_per_em());
    let glyphs: Vec<_> = text.chars().filter_map(|c| face.glyph_index(c)).collect();
    let advance = |glyph| f64::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * unit;
    let width: f64 = glyphs.iter().map(|glyph| advance(*glyph)).sum();
    let start = match anchor {
        Anchor::Start => at.0,
        Anchor::Middle => at.0 - width / 2.0,
        Anchor::End => at.0 - width,
    };
    let mut pen = Pen { path: PathBuilder::new(), unit: unit as f32, x: start as f32, y: at.1 as f32 };
    let mut x = start;
    for glyph in glyphs {
        pen.x = x as f32;
        // Glyphs without an outline, such as a space, have no box.
        let _ = face.outline_glyph(glyph, &mut pen);
        x += advance(glyph);
    }
    pen.path.finish()
}

/// Turns glyph coordinates, which grow upwards, into those of the page.
struct Pen {
    path: PathBuilder,
    unit: f32,
    x: f32,
    y: f32,
}

impl Pen {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.unit, self.y - y * self.unit)
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::example;
    use super::*;

    /// How many pixels have exactly this colour.
    fn count(pixels: &Pixmap, ink: Ink) -> usize {
        let [red, green, blue] = ink.light();
        let same = |pixel: &&tiny_skia::PremultipliedColorU8| {
            (pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()) == (red, green, blue, 255)
        };
        pixels.pixels().iter().filter(same).count()
    }

    #[test]
    fn the_picture_has_bars_and_text_on_a_light_page() {
        let chart = example();
        let pixels = Pixmap::decode_png(&render(&chart).expect("a picture")).expect("a valid picture");
        assert_eq!(pixels.width(), (chart.width * SCALE) as u32);
        assert_eq!(pixels.height(), (chart.height * SCALE) as u32);
        let all = pixels.pixels().len();
        assert!(count(&pixels, Ink::Back) > all / 2, "a light page");
        for (ink, least) in [(Ink::Goal, 2000), (Ink::Miss, 400), (Ink::Text, 400), (Ink::Dim, 400)] {
            assert!(count(&pixels, ink) > least, "{ink:?}: {}", count(&pixels, ink));
        }
    }

    #[test]
    fn anchors_move_the_text() {
        let face = face(dejavu::sans::regular()).expect("a typeface");
        let bounds = |anchor| line_of_text(&face, 12.0, anchor, (100.0, 50.0), "floor").expect("text").bounds();
        assert!(bounds(Anchor::Start).left() >= 99.0 && bounds(Anchor::End).right() <= 101.0);
        let middle = bounds(Anchor::Middle);
        assert!((middle.left() + middle.right() - 200.0).abs() < 2.0, "{middle:?}");
        assert!(line_of_text(&face, 12.0, Anchor::Start, (0.0, 0.0), " ").is_none());
    }
}
