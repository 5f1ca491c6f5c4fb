//! A figure: what was measured, its floor, its bar; and how figures are shown.

use serde_json::{Value, json};

/// What one measurement gave.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    floor: Option<Floor>,
    bar: Option<Bar>,
    compared: Option<&'static str>,
    others: Option<f64>,
}

/// The raw cost below which nothing can be, measured in the same run, in the figure's unit.
#[derive(Clone, Debug)]
struct Floor {
    what: &'static str,
    value: f64,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// Value / floor.
    RatioAtMost(f64),
    /// Value / floor.
    RatioAtLeast(f64),
    /// In the figure's unit.
    AtMost(f64),
    /// In the figure's unit.
    AtLeast(f64),
}

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const PLAIN: &str = "\u{1b}[0m";

const HEADINGS: [&str; 8] = [
    "figure",
    "value",
    "raw floor",
    "ratio",
    "bar",
    "holds",
    "others",
    "SPIRE 1.15.3",
];

impl Figure {
    /// A figure without floor and bar.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            floor: None,
            bar: None,
            compared: None,
            others: None,
        }
    }

    /// With the raw floor, in the figure's unit.
    pub(crate) fn floor(mut self, what: &'static str, value: f64) -> Self {
        self.floor = Some(Floor { what, value });
        self
    }

    /// With a bar.
    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    /// With what SPIRE 1.15.3 shows on the same kind of machine.
    pub(crate) fn spire(mut self, shows: &'static str) -> Self {
        self.compared = Some(shows);
        self
    }

    /// With the share of the cores that other processes had meanwhile: 0 on a quiet machine.
    pub(crate) fn others(mut self, share: f64) -> Self {
        self.others = Some(share);
        self
    }

    fn ratio(&self) -> Option<f64> {
        let floor = self.floor.as_ref()?;
        (floor.value > 0.0).then(|| self.value / floor.value)
    }

    /// Whether the bar is reached; a ratio that could not be measured does not reach it.
    fn holds(&self) -> Option<bool> {
        let ratio = self.ratio();
        Some(match self.bar? {
            Bar::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Bar::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Bar::AtMost(most) => self.value <= most,
            Bar::AtLeast(least) => self.value >= least,
        })
    }

    fn bar_text(&self) -> Option<String> {
        Some(match self.bar? {
            Bar::RatioAtMost(most) => format!("<= {}x", number(most)),
            Bar::RatioAtLeast(least) => format!(">= {} %", number(least * 100.0)),
            Bar::AtMost(most) => format!("<= {} {}", number(most), self.unit),
            Bar::AtLeast(least) => format!(">= {} {}", number(least), self.unit),
        })
    }

    fn ratio_text(&self) -> Option<String> {
        let ratio = self.ratio()?;
        Some(match self.bar {
            Some(Bar::RatioAtLeast(_)) => format!("{} %", number(ratio * 100.0)),
            _ => format!("{}x", number(ratio)),
        })
    }

    fn cells(&self) -> [String; 8] {
        let none = || "-".to_owned();
        let floor =
            |floor: &Floor| format!("{} {} ({})", number(floor.value), self.unit, floor.what);
        let holds = self.holds().map(|holds| if holds { "yes" } else { "NO" });
        [
            self.name.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.floor.as_ref().map_or_else(none, floor),
            self.ratio_text().unwrap_or_else(none),
            self.bar_text().unwrap_or_else(none),
            holds.map_or_else(none, str::to_owned),
            self.others
                .map_or_else(none, |share| format!("{:.0} %", share * 100.0)),
            self.compared.map_or_else(none, str::to_owned),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "floor": self.floor.as_ref().map(|floor| json!({ "what": floor.what, "value": floor.value })),
            "ratio": self.ratio(),
            "bar": self.bar_text(),
            "holds": self.holds(),
            "others": self.others,
            "spire": self.compared,
        })
    }
}

/// Figures for people: columns, and colour for who looks at a terminal.
pub(crate) fn table(figures: &[Figure], colour: bool) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(figures.iter().map(Figure::cells));
    let mut widths = [0; HEADINGS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let padded = format!("{cell:<width$}  ");
            line.push_str(&painted(padded, cell, colour));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn painted(padded: String, cell: &str, colour: bool) -> String {
    match cell {
        "yes" if colour => format!("{GREEN}{padded}{PLAIN}"),
        "NO" if colour => format!("{RED}{padded}{PLAIN}"),
        _ => padded,
    }
}

/// Figures for machines.
pub(crate) fn json(machine: &str, seconds: u64, figures: &[Figure]) -> Value {
    json!({
        "machine": machine,
        "seconds": seconds,
        "version": env!("CARGO_PKG_VERSION"),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    })
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    let places = match value.abs() {
        big if big >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left.is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() {
        return grouped;
    }
    format!("{grouped}.{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_what_counts() {
        let shown = [
            0.0,
            0.514,
            9.996,
            12.34,
            99.97,
            101.4,
            1060.0,
            1_234_567.8,
            -1234.0,
        ];
        let shown: Vec<String> = shown.into_iter().map(number).collect();
        assert_eq!(
            shown.join(" "),
            "0 0.51 10 12.3 100 101 1,060 1,234,568 -1,234"
        );
    }

    #[test]
    fn a_bar_holds_up_to_its_very_value() {
        let figure = |bar| {
            Figure::new("f", 20.0, "ms")
                .floor("sync", 10.0)
                .bar(bar)
                .holds()
        };
        assert_eq!(figure(Bar::RatioAtMost(2.0)), Some(true));
        assert_eq!(figure(Bar::RatioAtMost(1.99)), Some(false));
        assert_eq!(figure(Bar::RatioAtLeast(2.0)), Some(true));
        assert_eq!(figure(Bar::RatioAtLeast(2.01)), Some(false));
        assert_eq!(figure(Bar::AtMost(20.0)), Some(true));
        assert_eq!(figure(Bar::AtLeast(20.1)), Some(false));
        assert_eq!(Figure::new("f", 1.0, "ms").holds(), None);
    }

    #[test]
    fn a_ratio_without_a_floor_reaches_no_bar() {
        for bar in [Bar::RatioAtMost(2.0), Bar::RatioAtLeast(0.1)] {
            assert_eq!(Figure::new("f", 1.0, "ms").bar(bar).holds(), Some(false));
            let zero = Figure::new("f", 1.0, "ms").floor("sync", 0.0).bar(bar);
            assert_eq!(zero.holds(), Some(false));
        }
    }

    #[test]
    fn a_table_has_columns_and_colour_only_where_asked() {
        let figures = [
            Figure::new("begin p50", 3.0, "ms")
                .floor("fdatasync", 2.0)
                .bar(Bar::RatioAtMost(2.0))
                .others(0.304),
            Figure::new("end p50", 5.0, "ms")
                .bar(Bar::AtMost(4.0))
                .spire("4.9 s"),
        ];
        let plain = table(&figures, false);
        assert_eq!(
            plain,
            "figure     value  raw floor         ratio  bar      holds  others  SPIRE 1.15.3\n\
             begin p50  3 ms   2 ms (fdatasync)  1.5x   <= 2x    yes    30 %    -\n\
             end p50    5 ms   -                 -      <= 4 ms  NO     -       4.9 s\n"
        );
        let coloured = table(&figures, true);
        assert!(coloured.contains(GREEN) && coloured.contains(RED));
        let stripped = coloured
            .replace(GREEN, "")
            .replace(RED, "")
            .replace(PLAIN, "");
        assert_eq!(stripped, plain);
    }

    #[test]
    fn json_has_every_part() {
        let figure = Figure::new("mint-batch", 30.0, "/s")
            .floor("raw", 100.0)
            .bar(Bar::RatioAtLeast(0.25));
        let json = json("here", 5, &[figure]);
        let of = |key: &str| json.pointer(&format!("/figures/0/{key}")).cloned();
        assert_eq!(of("ratio"), Some(json!(0.3)));
        assert_eq!(of("holds"), Some(json!(true)));
        assert_eq!(of("bar"), Some(json!(">= 25 %")));
        assert_eq!(of("floor/value"), Some(json!(100.0)));
        assert_eq!(of("spire"), Some(Value::Null));
    }
}
