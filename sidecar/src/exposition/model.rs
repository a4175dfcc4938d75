//! What a page of metrics consists of: families of samples with labels.
//!
//! How a page is read and written is decided in `exposition`, how several become one
//! in `merge`.

use std::collections::HashMap;

/// What a family's samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows.
    Counter,
    /// Any value.
    Gauge,
    /// `_bucket`, `_sum`, `_count`.
    Histogram,
    /// Quantiles, `_sum`, `_count`.
    Summary,
    /// Not said.
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

    /// Read from the words of both formats. A type that only `OpenMetrics` has becomes
    /// the one whose samples look the same.
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

/// Labels of a sample in their order.
pub(crate) type Labels = Vec<(String, String)>;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// With its suffix.
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// Samples that belong together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// A page of metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exposition {
    /// In the order in which they came first.
    pub(crate) families: Vec<(String, Family)>,
    pub(super) index: HashMap<String, usize>,
    /// Lines that are neither a comment nor a sample.
    pub(crate) skipped: u64,
    /// Families whose type differs from the one that was read first.
    pub(crate) conflicts: u64,
}

impl Exposition {
    pub(super) fn family(&mut self, name: &str) -> Option<&mut Family> {
        let at = *self.index.get(name)?;
        self.families.get_mut(at).map(|(_, family)| family)
    }

    /// The family of a name, made if it is not there.
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

/// Where each family is, by name.
pub(super) fn index_of(families: &[(String, Family)]) -> HashMap<String, usize> {
    let names = families.iter().enumerate();
    names.map(|(at, (name, _))| (name.clone(), at)).collect()
}
