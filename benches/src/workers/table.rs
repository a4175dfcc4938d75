//! The rows of the result: the supervisor's figure ("ours"), a peer's, their ratio, and
//! whether the row meets its target. The measuring code sets the targets.

use serde_json::{Value, json};

/// A target for a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Least value of our figure divided by the peer's.
    RatioAtLeast(f64),
    /// Greatest value of our figure divided by the peer's.
    RatioAtMost(f64),
    /// Greatest value of our figure alone.
    AtMost(f64),
}

/// One figure of ours, beside at most one peer's.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    ours: (String, f64),
    peer: Option<(String, f64)>,
    /// The ratio of paired rounds; without it, the quotient of both figures counts.
    paired: Option<f64>,
    target: Option<Target>,
    note: String,
}

impl Row {
    /// A row with our figure and the name of the measured server.
    pub(crate) fn new(what: &str, unit: &'static str, ours: &str, figure: f64) -> Self {
        Self {
            what: what.to_owned(),
            unit,
            ours: (ours.to_owned(), figure),
            peer: None,
            paired: None,
            target: None,
            note: String::new(),
        }
    }

    /// Adds a peer's figure.
    pub(crate) fn beside(mut self, peer: &str, figure: f64) -> Self {
        self.peer = Some((peer.to_owned(), figure));
        self
    }

    /// Sets the ratio of paired rounds, which replaces the quotient of medians.
    pub(crate) fn paired(mut self, ratio: f64) -> Self {
        self.paired = Some(ratio);
        self
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Sets the note: counts, and anything else that a reader must know.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The ratio of paired rounds if it is set, otherwise our figure divided by the peer's. `None`
    /// if there is neither a paired ratio nor a peer, or if the peer's figure is zero.
    fn ratio(&self) -> Option<f64> {
        let quotient = || {
            let (_, theirs) = self.peer.as_ref()?;
            (*theirs > 0.0).then(|| self.ours.1 / theirs)
        };
        self.paired
            .or_else(quotient)
            .filter(|ratio| ratio.is_finite())
    }

    /// Whether the target is met; `None` without a target, or if the target is for a ratio and the
    /// row has no ratio.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.target? {
            Target::RatioAtLeast(bound) => self.ratio().map(|ratio| ratio >= bound),
            Target::RatioAtMost(bound) => self.ratio().map(|ratio| ratio <= bound),
            Target::AtMost(bound) => Some(self.ours.1 <= bound),
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            None => "-".to_owned(),
            Some(Target::RatioAtLeast(bound)) => format!("≥ {bound} x"),
            Some(Target::RatioAtMost(bound)) => format!("≤ {bound} x"),
            Some(Target::AtMost(bound)) => format!("≤ {bound}"),
        }
    }

    fn met_text(&self) -> &'static str {
        match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "-",
        }
    }

    /// The line of the table.
    pub(crate) fn line(&self) -> String {
        let (peer, theirs) = self.peer.as_ref().map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |(name, figure)| (name.clone(), short(*figure)),
        );
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), short);
        let line = format!(
            "| {} | {} | {} {} | {peer} | {theirs} | {ratio} | {} | {} | {} |",
            self.what,
            self.ours.0,
            short(self.ours.1),
            self.unit,
            self.target_text(),
            self.met_text(),
            self.note
        );
        line
    }

    /// The row in `workers.json`.
    pub(crate) fn json(&self, section: &str) -> Value {
        json!({
            "section": section, "what": self.what, "unit": self.unit,
            "ours": { "who": self.ours.0, "figure": self.ours.1 },
            "peer": self.peer.as_ref().map(|(who, figure)| json!({ "who": who, "figure": figure })),
            "ratio": self.ratio(), "target": self.target_text(), "met": self.met(),
            "note": self.note,
        })
    }
}

/// The header of the table: the two lines above its rows.
pub(crate) const HEAD: &str = "| what | ours | | peer | | ratio | target | | requests and kinds |\n\
                               |---|---|---|---|---|---|---|---|---|";

/// Formats a figure with about three significant digits and no exponent.
fn short(figure: f64) -> String {
    let digits = match figure.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged_by_ratio_or_by_ours_alone() {
        let row = || Row::new("p99", "ms", "Request", 40.0).beside("PM2", 100.0);
        let cases = [
            (row().target(Target::RatioAtMost(0.5)), Some(true)),
            (row().target(Target::RatioAtMost(0.3)), Some(false)),
            (row().target(Target::RatioAtLeast(0.97)), Some(false)),
            (
                row().paired(0.98).target(Target::RatioAtLeast(0.97)),
                Some(true),
            ),
            (row().target(Target::AtMost(40.0)), Some(true)),
            (row().target(Target::AtMost(39.9)), Some(false)),
            (row(), None),
            (
                Row::new("p99", "ms", "Request", 1.0).target(Target::RatioAtMost(1.0)),
                None,
            ),
        ];
        for (row, met) in cases {
            assert_eq!(row.met(), met, "{row:?}");
        }
    }

    #[test]
    fn nothing_divided_by_nothing_is_no_ratio() {
        let row = Row::new("failed", "", "Request", 0.0).beside("PM2", 0.0);
        assert_eq!(row.json("reload")["ratio"], Value::Null);
        assert!(row.line().contains("| PM2 | 0 | - |"), "{}", row.line());
    }

    #[test]
    fn figures_have_about_three_significant_digits() {
        let shown: Vec<String> = [0.0, 0.0123, 1.234, 12.34, 1234.5].map(short).into();
        assert_eq!(shown, ["0", "0.012", "1.23", "12.3", "1234"]);
    }
}
