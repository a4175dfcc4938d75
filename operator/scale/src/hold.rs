//! How long a larger number is kept after it was needed: the scale-down window, and its growth when
//! scaling down has turned out to be wrong.
//!
//! The largest need within the window counts, so a smaller number is taken only after it has been
//! enough for the whole window. If the larger number is needed again soon after it was given up,
//! the load comes and goes with a period longer than the window. The window is then doubled, up to
//! [`MAX_STRETCH`] times, so that a periodic load soon stops moving pods. "Soon" means within the
//! longest window: pods follow a load with a longer period. A reduction that proves right halves
//! the window again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::need::Need;

/// The largest factor by which the window grows.
const MAX_STRETCH: u32 = 8;
/// In how many parts a window is remembered. With more parts, a peak would be forgotten more
/// exactly at the end of the window.
const PARTS: u32 = 60;

/// The needs of the last window.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    window: Duration,
    stretch: u32,
    /// The largest need of each part of the window, with the time at which the part ends.
    parts: VecDeque<(Duration, Need)>,
    /// The last reduction.
    reduced: Option<Duration>,
}

impl Hold {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            stretch: 1,
            parts: VecDeque::new(),
            reduced: None,
        }
    }

    /// The present length of the window.
    pub(crate) fn length(&self) -> Duration {
        self.window * self.stretch
    }

    /// Sets another length, because the user has changed it.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Notes what is needed at `now`.
    pub(crate) fn push(&mut self, now: Duration, need: Need) {
        let part = self.window / PARTS;
        match self.parts.back_mut() {
            Some((end, most)) if now < *end => *most = most.max(need),
            _ => self.parts.push_back((now + part, need)),
        }
        // The whole of the longest window is kept, so that a stretched window finds its past.
        let longest = self.window * MAX_STRETCH;
        while self
            .parts
            .front()
            .is_some_and(|(end, _)| *end + longest < now)
        {
            self.parts.pop_front();
        }
    }

    /// The largest need within the window.
    pub(crate) fn most(&self, now: Duration) -> Need {
        let from = now.saturating_sub(self.length());
        let recent = self.parts.iter().rev().take_while(|(end, _)| *end > from);
        recent.fold(Need::default(), |most, (_, need)| most.max(*need))
    }

    /// Notes that the number of pods changes from `before` to `after`.
    pub(crate) fn changed(&mut self, now: Duration, before: u32, after: u32) {
        if after < before {
            self.reduced = Some(now);
        } else if let Some(when) = self.reduced.take()
            && now < when + self.window * MAX_STRETCH
        {
            self.stretch = (self.stretch * 2).min(MAX_STRETCH);
        }
    }

    /// Forgets a reduction that has lasted, and halves the window.
    pub(crate) fn settle(&mut self, now: Duration) {
        let enough = self.window * MAX_STRETCH * 2;
        if self.reduced.is_some_and(|when| when + enough < now) {
            self.reduced = None;
            self.stretch = (self.stretch / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(workers: f64) -> Need {
        Need {
            workers,
            cores: 0.0,
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn the_largest_need_of_the_window_counts() {
        let mut hold = Hold::new(at(120));
        for second in 0..400 {
            hold.push(at(second), workers(if second == 10 { 9.0 } else { 2.0 }));
            let most = hold.most(at(second)).workers;
            if (10..=130).contains(&second) {
                assert!(most > 8.0, "{second}");
            } else if !(10..135).contains(&second) {
                assert!(most < 3.0, "{second}");
            }
        }
    }

    #[test]
    fn a_wrong_reduction_stretches_the_window_up_to_a_limit() {
        let mut hold = Hold::new(at(60));
        let mut now = 0;
        for expected in [120, 240, 480, 480] {
            hold.changed(at(now), 5, 3);
            hold.changed(at(now + 20), 3, 5);
            assert_eq!(hold.length(), at(expected));
            now += 1000;
        }
        for expected in [240, 120, 60, 60] {
            hold.changed(at(now), 5, 3);
            now += 2000;
            hold.settle(at(now));
            assert_eq!(hold.length(), at(expected));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut hold = Hold::new(at(1));
        for millisecond in 0..1_000_000 {
            hold.push(Duration::from_millis(millisecond), workers(1.0));
        }
        assert!(hold.parts.len() < 600, "{}", hold.parts.len());
    }
}
