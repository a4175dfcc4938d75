//! What an app needs, as one value: workers and CPU cores.

/// Workers for the requests, and cores for the work that they make. Both may be fractions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Need {
    /// Workers.
    pub(crate) workers: f64,
    /// CPU cores.
    pub(crate) cores: f64,
}

impl Need {
    /// The larger of both, part by part.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            workers: self.workers.max(other.workers),
            cores: self.cores.max(other.cores),
        }
    }

    /// Both parts times `factor`.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self {
            workers: self.workers * factor,
            cores: self.cores * factor,
        }
    }
}
