//! The rules that are compared: ours, Knative's and HPA's.

pub mod hpa;
pub mod knative;
pub mod ours;

use std::time::Duration;

use crate::view::Rules;

/// The rules that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ScaledApp` with its defaults.
    Ours,
    /// `ScaledApp` with `scaleDown.window: 30s`, which is the delay that Knative's mean over 60 s
    /// has on average.
    OursQuick,
    /// Knative's pod autoscaler.
    Knative,
    /// The `HorizontalPodAutoscaler` on CPU.
    Hpa,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Ours, Self::OursQuick, Self::Knative, Self::Hpa];

    /// The name in tables and drawings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ScaledApp",
            Self::OursQuick => "ScaledApp, window 30 s",
            Self::Knative => "Knative",
            Self::Hpa => "HPA",
        }
    }

    /// Fresh rules of this kind.
    pub fn rules(self) -> Box<dyn Rules> {
        match self {
            Self::Ours => Box::new(ours::Ours::new(Duration::from_mins(2))),
            Self::OursQuick => Box::new(ours::Ours::new(Duration::from_secs(30))),
            Self::Knative => Box::new(knative::Knative::default()),
            Self::Hpa => Box::new(hpa::Hpa::default()),
        }
    }
}
