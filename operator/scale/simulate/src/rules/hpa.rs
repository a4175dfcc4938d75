//! The rules of the `HorizontalPodAutoscaler` (autoscaling/v2 with its default behaviour) on CPU at
//! 70 %: one decision each 15 s, on metrics of metrics-server that are up to 40 s old.

use std::collections::VecDeque;

use crate::trace::{PLACES, Trace};
use crate::view::{Rules, State, View};

const PERIOD: u64 = 15;
const TARGET: f64 = 0.7;
const TOLERANCE: f64 = 0.1;
/// Pods are removed only down to the largest recommendation of this time.
const STABILIZATION: u64 = 300;
/// metrics-server computes the use of CPU once in this time, as the mean over this time.
const RESOLUTION: u64 = 30;
/// A kubelet's sample is this old.
const DELAY: usize = 10;

/// The autoscaler's state.
#[derive(Debug, Default)]
pub struct Hpa {
    wanted: u32,
    /// The used places in ready pods, and all places in them, for each of the last seconds. A
    /// worker uses the same part of its CPU as of its places, and never more than all of it.
    used: VecDeque<(f64, f64)>,
    published: Option<f64>,
    recommended: VecDeque<(u64, u32)>,
}

impl Rules for Hpa {
    fn min_pods(&self, trace: &Trace) -> u32 {
        // Without an external metric, HPA cannot scale up from zero.
        trace.min_pods.max(1)
    }

    fn begin(&mut self, _: &Trace, pods: u32) {
        self.wanted = pods;
    }

    fn tick(&mut self, view: &View) -> u32 {
        let ready = view.pods.iter().filter(|pod| pod.state == State::Ready);
        let used = ready.clone().map(|pod| pod.used).sum();
        let places = ready.count() as f64 * f64::from(PLACES);
        self.used.push_back((used, places));
        if self.used.len() > RESOLUTION as usize + DELAY {
            self.used.pop_front();
        }
        if view.second.is_multiple_of(RESOLUTION) {
            let seen = self.used.iter().take(RESOLUTION as usize);
            let (used, places) = seen.fold((0.0, 0.0), |(used, places), one| {
                (used + one.0, places + one.1)
            });
            self.published = (places > 0.0).then(|| used / places);
        }
        if view.second.is_multiple_of(PERIOD)
            && let Some(used) = self.published
        {
            self.wanted = self.decide(view, used);
        }
        self.wanted
    }
}

impl Hpa {
    fn decide(&mut self, view: &View, used: f64) -> u32 {
        let (current, ready) = (view.wanted, f64::from(view.ready()));
        let unready = view.pods.len() as f64 - ready;
        let mut ratio = used / TARGET;
        let mut desired = current;
        if (ratio - 1.0).abs() > TOLERANCE {
            let mut counted = ready;
            if ratio > 1.0 && unready > 0.0 {
                // Pods that are not ready count as idle when growing.
                counted += unready;
                ratio = used * ready / counted / TARGET;
            }
            if (ratio - 1.0).abs() > TOLERANCE && (ratio > 1.0) == (used > TARGET) {
                desired = (ratio * counted).ceil() as u32;
            }
        }
        self.recommended.push_back((view.second, desired));
        while self
            .recommended
            .front()
            .is_some_and(|(at, _)| at + STABILIZATION < view.second)
        {
            self.recommended.pop_front();
        }
        let most = self.recommended.iter().map(|(_, most)| *most).max();
        let stable = most.unwrap_or(desired);
        if desired >= current {
            desired.min((current * 2).max(current + 4))
        } else {
            // The stabilization may keep the present number, but never raises it.
            stable.min(current).max(1)
        }
    }
}
