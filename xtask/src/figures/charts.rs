//! Two kinds of plots: bars side by side, and lines through points.

use super::results::shown;
use super::svg::{Anchor, LETTER, Scale, Svg, TEXT};

/// Bars in groups, from left to right.
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What the axis is, with its unit.
    pub(crate) axis: String,
    pub(crate) groups: Vec<Group>,
    pub(crate) kind: Kind,
    /// What to read a value as.
    pub(crate) format: fn(f64) -> String,
}

/// How long a bar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From 0.
    Amounts,
    /// From 1, by the logarithm: a half is as long as a double.
    Ratios,
    /// By the logarithm there is no beginning: a point in place of a bar.
    Points,
}

/// Bars that belong together.
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) bars: Vec<Bar>,
    /// What is wanted of them, as a mark.
    pub(crate) wanted: Option<f64>,
}

/// One bar; without a value, nothing was measured.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) kind: usize,
    pub(crate) value: Option<f64>,
    pub(crate) noisy: bool,
}

/// Lines through points.
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// What is wanted, as a line across.
    pub(crate) wanted: Vec<(f64, String)>,
    /// What is not in it, in words.
    pub(crate) notes: Vec<String>,
}

/// What an axis says.
pub(crate) struct Axis {
    pub(crate) label: String,
    /// By the logarithm in any case.
    pub(crate) log: bool,
    pub(crate) format: fn(f64) -> String,
    /// These places in place of round numbers.
    pub(crate) ticks: Option<Vec<(f64, String)>>,
}

/// The points of one subject.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) kind: usize,
    /// Where each is, and whether the machine was too noisy to say.
    pub(crate) points: Vec<([f64; 2], bool)>,
}

const WIDTH: f64 = 860.0;
const NOT_MEASURED: &str = "not measured";
/// What the hollow shapes of all plots mean.
const HOLLOW: &str = "hollow: the machine was too noisy to say";

const BAR: f64 = 15.0;
const BETWEEN_BARS: f64 = 4.0;
const BETWEEN_GROUPS: f64 = 14.0;

impl Bars {
    /// The plot as SVG.
    pub(crate) fn draw(&self) -> String {
        let (left, right, top) = (210.0, 250.0, 72.0);
        let bars: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let inner = bars as f64 * (BAR + BETWEEN_BARS) + self.groups.len() as f64 * BETWEEN_GROUPS;
        let mut svg = Svg::new(WIDTH, top + inner + 62.0, &self.title);
        svg.text("ink head", [16.0, 26.0], Anchor::Start, &self.title);
        let scale = self.scale(left, WIDTH - right);
        for tick in scale.ticks() {
            let x = scale.place(tick);
            svg.line("grid", [x, top - 6.0], [x, top + inner]);
            svg.text("soft small", [x, top + inner + 16.0], Anchor::Middle, &(self.format)(tick));
        }
        let middle = (left + WIDTH - right) / 2.0;
        let axis = labelled(&self.axis, &scale);
        svg.text("soft", [middle, top + inner + 38.0], Anchor::Middle, &axis);
        let mut y = top;
        let mut noisy = false;
        for group in &self.groups {
            let begin = y;
            svg.text("ink", [left - 12.0, y + BAR - 3.0], Anchor::End, &group.label);
            for bar in &group.bars {
                self.bar(&mut svg, &scale, y, bar);
                noisy |= bar.noisy;
                y += BAR + BETWEEN_BARS;
            }
            let there = group.bars.iter().any(|bar| bar.value.is_some());
            if let Some(wanted) = group.wanted.filter(|_| there) {
                let x = scale.place(wanted);
                svg.line("want", [x, begin - 4.0], [x, y]);
            }
            y += BETWEEN_GROUPS;
        }
        let mut said = Vec::new();
        if self.groups.iter().any(|group| group.wanted.is_some()) {
            said.push("red, dashed: what is wanted");
        }
        said.extend(noisy.then_some(HOLLOW));
        svg.text("soft small", [16.0, 46.0], Anchor::Start, &said.join("; "));
        svg.finish()
    }

    fn scale(&self, from: f64, to: f64) -> Scale {
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let wanted = self.groups.iter().filter_map(|group| group.wanted);
        let mut values: Vec<f64> = bars.filter_map(|bar| bar.value).chain(wanted).collect();
        if self.kind == Kind::Ratios || values.is_empty() {
            values.push(1.0);
        }
        match self.kind {
            Kind::Amounts => Scale::from_zero(&values, from, to),
            Kind::Ratios | Kind::Points => Scale::of(&values, true, from, to),
        }
    }

    fn bar(&self, svg: &mut Svg, scale: &Scale, y: f64, bar: &Bar) {
        let zero = scale.place(0.0);
        let base = y + BAR - 3.0;
        let Some(value) = bar.value else {
            let text = format!("{}: {NOT_MEASURED}", bar.name);
            return svg.text("soft small", [zero + 6.0, base], Anchor::Start, &text);
        };
        let x = scale.place(value);
        let from = if self.kind == Kind::Ratios { scale.place(1.0) } else { zero };
        let (left, right) = (x.min(from), x.max(from));
        if self.kind == Kind::Points {
            svg.mark(bar.kind, [x, y + BAR / 2.0], bar.noisy);
        } else {
            svg.bar(bar.kind, [left, y], [(right - left).max(1.0), BAR], bar.noisy);
        }
        let text = format!("{}  {}", (self.format)(value), bar.name);
        svg.text("ink small", [right + 8.0, base], Anchor::Start, &text);
    }
}

impl Lines {
    /// The plot as SVG.
    pub(crate) fn draw(&self) -> String {
        let there: Vec<&Series> =
            self.series.iter().filter(|series| !series.points.is_empty()).collect();
        let mut notes = self.notes.clone();
        let missing = self.series.iter().filter(|series| series.points.is_empty());
        notes.extend(missing.map(|series| format!("{}: {NOT_MEASURED}", series.name)));
        if there.iter().any(|series| series.points.iter().any(|(_, noisy)| *noisy)) {
            notes.push(HOLLOW.to_owned());
        }
        let (left, right, top, inner) = (92.0, 30.0, 52.0, 300.0);
        let names: Vec<&str> = there.iter().map(|series| series.name.as_str()).collect();
        let rows = legend_rows(&names, WIDTH - left - right);
        let legend = rows.iter().map(|(_, row)| row + 1).max().unwrap_or(0) as f64 * 20.0;
        let top = top + legend;
        let height = top + inner + 62.0 + notes.len() as f64 * 17.0;
        let mut svg = Svg::new(WIDTH, height, &self.title);
        svg.text("ink head", [16.0, 26.0], Anchor::Start, &self.title);
        for (series, (x, row)) in there.iter().zip(&rows) {
            let (x, y) = (left + x, 50.0 + *row as f64 * 20.0);
            svg.path(series.kind, &[[x, y - 4.0], [x + 26.0, y - 4.0]]);
            svg.mark(series.kind, [x + 13.0, y - 4.0], false);
            svg.text("ink", [x + 32.0, y], Anchor::Start, &series.name);
        }
        let all = |i: usize| -> Vec<f64> {
            there.iter().flat_map(|series| series.points.iter().map(move |(at, _)| at[i])).collect()
        };
        let bottom = top + inner;
        let x = Scale::of(&all(0), self.x.log, left + 18.0, WIDTH - right - 18.0);
        let wanted = self.wanted.iter().map(|(value, _)| *value);
        let values: Vec<f64> = all(1).into_iter().chain(wanted).collect();
        let y = Scale::of(&values, self.y.log, bottom, top);
        if there.is_empty() {
            let middle = [WIDTH / 2.0, top + inner / 2.0];
            svg.text("soft head", middle, Anchor::Middle, NOT_MEASURED);
        } else {
            self.axes(&mut svg, &x, &y, [left, WIDTH - right], bottom);
        }
        for (value, text) in &self.wanted {
            let at = y.place(*value);
            svg.line("want", [left, at], [WIDTH - right, at]);
            svg.text("want small", [WIDTH - right - 4.0, at - 6.0], Anchor::End, text);
        }
        for series in there.iter().rev() {
            let place = |at: [f64; 2]| [x.place(at[0]), y.place(at[1])];
            let places: Vec<[f64; 2]> = series.points.iter().map(|(at, _)| place(*at)).collect();
            svg.path(series.kind, &places);
            for (at, noisy) in &series.points {
                svg.mark(series.kind, place(*at), *noisy);
            }
        }
        let middle = (left + WIDTH - right) / 2.0;
        let label = labelled(&self.x.label, &x);
        svg.text("soft", [middle, bottom + 42.0], Anchor::Middle, &label);
        svg.upright("soft", [24.0, top + inner / 2.0], &labelled(&self.y.label, &y));
        for (i, note) in notes.iter().enumerate() {
            let at = [left, bottom + 62.0 + i as f64 * 17.0];
            svg.text("soft small", at, Anchor::Start, note);
        }
        svg.finish()
    }

    fn axes(&self, svg: &mut Svg, x: &Scale, y: &Scale, [left, right]: [f64; 2], bottom: f64) {
        for tick in y.ticks() {
            let at = y.place(tick);
            svg.line("grid", [left, at], [right, at]);
            let text = (self.y.format)(tick);
            svg.text("soft small", [left - 8.0, at + 4.0], Anchor::End, &text);
        }
        let round = || x.ticks().into_iter().map(|tick| (tick, (self.x.format)(tick))).collect();
        for (tick, text) in self.x.ticks.clone().unwrap_or_else(round) {
            let at = x.place(tick);
            svg.line("grid", [at, bottom], [at, bottom + 5.0]);
            svg.text("soft small", [at, bottom + 20.0], Anchor::Middle, &text);
        }
    }
}

/// An axis' label, which says how it is drawn.
fn labelled(label: &str, scale: &Scale) -> String {
    if scale.is_log() { format!("{label} (logarithmic)") } else { label.to_owned() }
}

/// Where the legend's entries are: how far to the right, and in which row.
fn legend_rows(names: &[&str], width: f64) -> Vec<(f64, usize)> {
    let (mut x, mut row) = (0.0, 0);
    let mut places = Vec::new();
    for name in names {
        let wide = 60.0 + name.chars().count() as f64 * TEXT * LETTER;
        if x > 0.0 && x + wide > width {
            (x, row) = (0.0, row + 1);
        }
        places.push((x, row));
        x += wide;
    }
    places
}

/// A count in few letters: `1k`, `2.5M`.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Three digits, without zeroes at the end.
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A ratio.
pub(crate) fn times(value: f64) -> String {
    format!("{}x", short(value))
}

/// Microseconds as a time with a unit.
pub(crate) fn micros(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} s", short(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", short(value / 1e3)),
        value => format!("{} us", short(value)),
    }
}

impl Bar {
    /// A subject's.
    pub(crate) fn of(subject: &str, kind: usize, value: Option<f64>, noisy: bool) -> Bar {
        let value = value.filter(|value| value.is_finite() && *value > 0.0);
        Bar { name: shown(subject).to_owned(), kind, value, noisy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.25, 4.0, 12.34, 376.1, 1_000.0, 65_000.0, 1_276_846.0, 2.5e9];
        let texts = all.map(short);
        assert_eq!(texts, ["0.25", "4", "12.3", "376", "1k", "65k", "1.28M", "2.5G"]);
        assert_eq!([12.3, 5_000.0, 25e6].map(micros), ["12.3 us", "5 ms", "25 s"]);
        assert_eq!(times(6.9), "6.9x");
    }

    #[test]
    fn what_is_missing_or_noisy_is_said() {
        let bars = |value, noisy| Bars {
            title: "t".into(),
            axis: "a".into(),
            groups: vec![Group {
                label: "g".into(),
                bars: vec![Bar::of("tokio-echo", 1, value, noisy)],
                wanted: None,
            }],
            kind: Kind::Ratios,
            format: times,
        };
        assert!(bars(None, false).draw().contains("tokio: not measured"));
        assert!(bars(Some(f64::NAN), false).draw().contains("tokio: not measured"));
        let text = bars(Some(4.0), false).draw();
        assert!(text.contains("4x  tokio") && !text.contains(HOLLOW) && !text.contains("wanted"));
        assert!(bars(Some(4.0), true).draw().contains(HOLLOW));
        let lines = |points: &[([f64; 2], bool)]| Lines {
            title: "t".into(),
            x: Axis { label: "x".into(), log: true, format: short, ticks: None },
            y: Axis { label: "y".into(), log: false, format: short, ticks: None },
            series: vec![Series { name: "S".into(), kind: 0, points: points.to_vec() }],
            wanted: vec![(5.0, "wanted: 5".into())],
            notes: Vec::new(),
        };
        assert!(lines(&[]).draw().contains("S: not measured"));
        let text = lines(&[([1.0, 2.0], false), ([10.0, 9.0], true)]).draw();
        assert!(text.contains(HOLLOW) && text.contains("wanted: 5") && text.contains("hollow s0"));
        assert!(!text.contains("NaN") && !text.contains(NOT_MEASURED));
    }

    #[test]
    fn a_legend_has_room() {
        let name = "a name of thirty letters or so";
        let rows = legend_rows(&[name, name, name, name], 700.0);
        assert_eq!(rows.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert!(rows.iter().all(|(x, _)| *x < 400.0));
    }
}
