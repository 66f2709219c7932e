//! Drawings as text: the few shapes that plots are made of, with colours for light and dark pages.
//!
//! Nothing is measured with a font, so a drawing is the same wherever it is made.

use std::fmt::Write;

use super::results::KINDS;

/// A drawing in the making.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// Where a text's `x` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Colours of subjects on a light and on a dark page: told apart also by who sees few colours.
const COLOURS: [[&str; 2]; KINDS] = [
    ["#0067b1", "#5cb8f5"],
    ["#c2500a", "#f0914d"],
    ["#008060", "#3fc9a0"],
    ["#a8407f", "#e08cc0"],
    ["#8a6d00", "#d9b93b"],
    ["#7a4a2b", "#c9956f"],
    ["#6a6f78", "#a4abb5"],
    ["#40454d", "#c8ccd2"],
];

/// Which of four shapes each has.
const SHAPES: [u8; KINDS] = [0, 1, 2, 3, 0, 2, 3, 1];

/// Page, text, what is said beside it, lines of the grid, what is wanted.
const INKS: [(&str, &str, [&str; 2]); 5] = [
    ("page", "fill", ["#fcfcfa", "#16191d"]),
    ("ink", "fill", ["#22262b", "#e4e6e9"]),
    ("soft", "fill", ["#5c636b", "#a2a9b1"]),
    ("grid", "stroke", ["#dcdfe2", "#343a41"]),
    ("want", "stroke", ["#c01530", "#ff7088"]),
];

/// About as wide as a letter is, in parts of its height: room is left by it, nothing else.
pub(crate) const LETTER: f64 = 0.56;
/// The size of most texts.
pub(crate) const TEXT: f64 = 13.0;

impl Svg {
    /// An empty one of this size in pixels.
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Svg {
        Svg { width, height, title: title.to_owned(), body: String::new() }
    }

    /// A line of a class.
    pub(crate) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A line through points, in a subject's colour; a peer's is dashed.
    pub(crate) fn path(&mut self, kind: usize, points: &[[f64; 2]]) {
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let class = if kind == 0 { "path ours" } else { "path" };
        let points = points.join(" ");
        let _ = writeln!(self.body, "<polyline class=\"{class} s{kind}\" points=\"{points}\"/>");
    }

    /// A point, whose shape goes with its subject's colour; `hollow` where it is doubtful.
    pub(crate) fn mark(&mut self, kind: usize, [x, y]: [f64; 2], hollow: bool) {
        let class = if hollow { format!("hollow s{kind}") } else { format!("full f{kind}") };
        let corners: &[[f64; 2]] = match SHAPES[kind % KINDS] {
            0 => {
                let _ = writeln!(
                    self.body,
                    "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"
                );
                return;
            }
            1 => &[[-4.0, -4.0], [4.0, -4.0], [4.0, 4.0], [-4.0, 4.0]],
            2 => &[[0.0, -5.2], [5.0, 4.0], [-5.0, 4.0]],
            _ => &[[0.0, -5.6], [5.6, 0.0], [0.0, 5.6], [-5.6, 0.0]],
        };
        let corners = corners.iter().map(|[dx, dy]| format!("{:.1},{:.1}", x + dx, y + dy));
        let corners = corners.collect::<Vec<_>>().join(" ");
        let _ = writeln!(self.body, "<polygon class=\"{class}\" points=\"{corners}\"/>");
    }

    /// A bar in a subject's colour; only its outline where it is doubtful.
    pub(crate) fn bar(&mut self, kind: usize, [x, y]: [f64; 2], size: [f64; 2], hollow: bool) {
        let class = if hollow { format!("hollow s{kind}") } else { format!("f{kind}") };
        let [width, height] = size;
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
    }

    /// A text of a class.
    pub(crate) fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// A text from below to above, its middle at this point.
    pub(crate) fn upright(&mut self, class: &str, [x, y]: [f64; 2], text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\" \
             text-anchor=\"middle\">{text}</text>"
        );
    }

    /// The file's text.
    pub(crate) fn finish(self) -> String {
        let Svg { width, height, title, body } = self;
        let title = escaped(&title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n\
             <title>{title}</title>\n<style>\n{}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n{body}</svg>\n",
            style()
        )
    }
}

fn style() -> String {
    let colours = |page: usize| {
        let mut rules = String::new();
        for (class, property, of) in INKS {
            let _ = write!(rules, ".{class}{{{property}:{}}}", of[page]);
        }
        // A text of what is wanted is filled with what its line is drawn with.
        let _ = write!(rules, "text.want{{stroke:none;fill:{}}}", INKS[4].2[page]);
        for (kind, of) in COLOURS.iter().enumerate() {
            let _ = write!(rules, ".s{kind}{{stroke:{0}}}.f{kind}{{fill:{0}}}", of[page]);
        }
        rules
    };
    format!(
        "text{{font:{TEXT}px system-ui,'Segoe UI','DejaVu Sans',sans-serif}}\
         .small{{font-size:11.5px}}.bold{{font-weight:600}}.head{{font-size:15px;font-weight:600}}\n\
         .grid{{stroke-width:1}}.want{{stroke-width:1.5;stroke-dasharray:6 3}}\n\
         .path{{fill:none;stroke-width:1.8;stroke-dasharray:5 3}}.ours{{stroke-width:2.6;stroke-dasharray:none}}\n\
         .hollow{{fill:none;stroke-width:1.6}}\n\
         {}\n@media (prefers-color-scheme:dark){{{}}}\n",
        colours(0),
        colours(1)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// From values to places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

/// Values further apart than this factor are drawn by their logarithm.
const WIDE: f64 = 30.0;

impl Scale {
    /// One that has room for these values, from place `from` to place `to`: from 0, or by their
    /// logarithm where they are far apart or it is asked for.
    pub(crate) fn of(values: &[f64], log: bool, from: f64, to: f64) -> Scale {
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let least = values.iter().copied().filter(|value| *value > 0.0).fold(most, f64::min);
        if log || most / least > WIDE {
            let [low, high] = [below(least), above(most)];
            return Scale {
                low,
                high: if high > low { high } else { low * 10.0 },
                log: true,
                from,
                to,
            };
        }
        Scale::from_zero(values, from, to)
    }

    /// One from 0 in any case.
    pub(crate) fn from_zero(values: &[f64], from: f64, to: f64) -> Scale {
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        Scale { low: 0.0, high: above(most), log: false, from, to }
    }

    /// Whether it is by the logarithm.
    pub(crate) fn is_log(&self) -> bool {
        self.log
    }

    /// Where a value is.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * part.min(1.0)
    }

    /// Where lines of the grid are: at round numbers.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        if !self.log {
            let step = above(self.high / 5.0);
            let count = (self.high / step + 1e-9) as usize;
            return (0..=count).map(|i| i as f64 * step).collect();
        }
        let wide = self.high / self.low > 1_500.0;
        let steps: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let all = (first..=last).flat_map(|power| {
            let unit = 10_f64.powi(power);
            steps.iter().map(move |step| step * unit)
        });
        let within = |tick: &f64| *tick >= self.low * 0.999 && *tick <= self.high * 1.001;
        all.filter(within).collect()
    }
}

/// The next of 1, 2, 5, 10, ... that is not below.
fn above(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * unit)
        .find(|step| *step >= value * 0.999_999)
        .unwrap_or(value)
}

/// The next of them that is not above.
fn below(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [10.0, 5.0, 2.0, 1.0];
    steps
        .into_iter()
        .map(|step| step * unit)
        .find(|step| *step <= value * 1.000_001)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_wide_enough() {
        let scale = Scale::of(&[3.0, 17.0], false, 0.0, 100.0);
        assert!(!scale.is_log());
        assert_eq!(scale.ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!((scale.place(0.0), scale.place(10.0), scale.place(20.0)), (0.0, 50.0, 100.0));
        let scale = Scale::of(&[376.1, 141_191.0], false, 300.0, 0.0);
        assert!(scale.is_log());
        assert_eq!(scale.ticks(), [200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5]);
        assert_eq!((scale.place(200.0), scale.place(2e5)), (300.0, 0.0));
        let scale = Scale::of(&[1.0, 1e6], true, 0.0, 6.0);
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
        assert!((scale.place(1e3) - 3.0).abs() < 1e-9);
        // One value, and none, have an axis, too.
        assert!(Scale::of(&[7.0], true, 0.0, 1.0).ticks().len() > 1);
        assert!(Scale::of(&[], false, 0.0, 1.0).place(0.0).is_finite());
    }

    #[test]
    fn a_drawing_is_closed_and_escaped() {
        let mut svg = Svg::new(100.0, 50.0, "a < b & \"c\"");
        for kind in 0..KINDS {
            svg.mark(kind, [10.0, 10.0], kind % 2 == 0);
        }
        svg.text("ink", [1.0, 2.0], Anchor::End, "x > y");
        let text = svg.finish();
        assert!(text.contains("<title>a &lt; b &amp; &quot;c&quot;</title>"));
        assert!(text.contains("text-anchor=\"end\">x &gt; y</text>") && text.ends_with("</svg>\n"));
        assert!(text.contains("prefers-color-scheme:dark"));
    }
}
