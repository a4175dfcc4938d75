//! The smallest number of pods that schedules ask for, from shortly before they begin until one
//! scale-down window after they end.

use std::time::Duration;

use crate::sample::Moment;
use crate::schedule::Calendar;
use crate::settings::Settings;

/// What is remembered of the schedules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Floor {
    now: Calendar,
    soon: Calendar,
    /// The number in force, and when a schedule asked for it last.
    kept: Option<(u32, Duration)>,
}

impl Floor {
    /// The number at `now`. A schedule begins early by `boot`, so that its pods are ready in
    /// time.
    pub(crate) fn observe(
        &mut self,
        moment: Moment,
        now: Duration,
        settings: &Settings,
        boot: Duration,
    ) -> u32 {
        let boot = jiff::SignedDuration::try_from(boot).unwrap_or_default();
        let soon = moment.wall.saturating_add(boot).unwrap_or(moment.wall);
        let at_once = self.now.floor(&settings.schedules, moment.wall);
        let ahead = self.soon.floor(&settings.schedules, soon);
        let asked = at_once.max(ahead).unwrap_or(0);
        match self.kept {
            Some((kept, last)) if kept > asked && now < last + settings.down_window => kept,
            _ => {
                self.kept = Some((asked, now));
                asked
            }
        }
    }
}
