//! The parts of a page of metrics: families of samples with labels.
//!
//! `exposition` decides how a page is read and written, `merge` how several become one.

use std::collections::HashMap;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    /// It may have any value.
    Gauge,
    /// It consists of `_bucket`, `_sum` and `_count`.
    Histogram,
    /// It consists of quantiles, `_sum` and `_count`.
    Summary,
    /// The page does not declare a type.
    Untyped,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// Parses the type names of both formats. A type that only `OpenMetrics` has becomes
    /// the Prometheus type whose samples have the same form.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" | "info" | "stateset" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" | "unknown" | "gaugehistogram" => Self::Untyped,
            _ => return None,
        })
    }
}

/// The labels of a sample, in order.
pub(crate) type Labels = Vec<(String, String)>;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// The name, including its suffix.
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// The samples of one metric.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// A page of metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exposition {
    /// Families in order of first appearance.
    pub(crate) families: Vec<(String, Family)>,
    pub(super) index: HashMap<String, usize>,
    /// Malformed lines: lines that are neither a comment nor a sample, and declarations of unknown
    /// types.
    pub(crate) skipped: u64,
    /// Families whose type differs from the one that was read first.
    pub(crate) conflicts: u64,
}

impl Exposition {
    pub(super) fn family(&mut self, name: &str) -> Option<&mut Family> {
        let at = *self.index.get(name)?;
        self.families.get_mut(at).map(|(_, family)| family)
    }

    /// The family with this name, which is created if necessary.
    pub(super) fn family_or(&mut self, name: &str, kind: Kind) -> &mut Family {
        let families = &mut self.families;
        let at = *self.index.entry(name.to_owned()).or_insert_with(|| {
            let family = Family {
                kind,
                help: None,
                samples: Vec::new(),
            };
            families.push((name.to_owned(), family));
            families.len() - 1
        });
        &mut families[at].1
    }
}

/// The index of each family by name.
pub(super) fn index_of(families: &[(String, Family)]) -> HashMap<String, usize> {
    let names = families.iter().enumerate();
    names.map(|(at, (name, _))| (name.clone(), at)).collect()
}
