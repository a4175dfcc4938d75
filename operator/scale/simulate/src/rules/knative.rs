//! The rules of Knative's pod autoscaler (Serving, August 2026): concurrency, a stable window of
//! 60 s, a panic window of 6 s, one decision each 2 s.

use std::collections::VecDeque;

use crate::trace::{PLACES, Trace};
use crate::view::{Rules, View};

const STABLE: usize = 60;
const PANIC: usize = 6;
/// The wanted part of a pod's concurrency.
const TARGET: f64 = 0.7;
/// Panic begins where the short window asks for this many times the ready pods.
const PANIC_AT: f64 = 2.0;
/// The last pod stays for this time after the autoscaler has decided on zero.
const GRACE: u64 = 30;

/// The autoscaler's state.
#[derive(Debug, Default)]
pub struct Knative {
    min: u32,
    wanted: u32,
    values: VecDeque<f64>,
    /// The last second at which the threshold of panic was exceeded, and the largest number of
    /// pods that was wanted since panic began.
    panic: Option<(u64, u32)>,
    idle_since: Option<u64>,
}

impl Rules for Knative {
    fn min_pods(&self, trace: &Trace) -> u32 {
        trace.min_pods
    }

    fn begin(&mut self, trace: &Trace, pods: u32) {
        (self.min, self.wanted) = (trace.min_pods, pods);
    }

    fn tick(&mut self, view: &View) -> u32 {
        // Queue proxies and activators report what is in flight and what waits.
        self.values
            .push_back(f64::from(view.in_flight) + f64::from(view.queued));
        if self.values.len() > STABLE {
            self.values.pop_front();
        }
        let is_poked = self.wanted == 0 && view.queued > 0;
        if view.second.is_multiple_of(2) || is_poked {
            self.wanted = self.decide(view);
        }
        self.wanted
    }
}

impl Knative {
    fn decide(&mut self, view: &View) -> u32 {
        let target = f64::from(PLACES) * TARGET;
        let ready = f64::from(view.ready().max(1));
        let clamp = |want: f64| want.clamp((ready / 2.0).floor(), (ready * 1000.0).ceil());
        let stable = clamp((self.mean(STABLE) / target).ceil());
        let short = (self.mean(PANIC) / target).ceil();
        let (is_over, short) = (short / ready >= PANIC_AT, clamp(short));
        if is_over {
            let most = self.panic.map_or(view.wanted, |(_, most)| most);
            self.panic = Some((view.second, most));
        } else if self
            .panic
            .is_some_and(|(last, _)| view.second >= last + STABLE as u64)
        {
            self.panic = None;
        }
        let mut want = stable as u32;
        if let Some((_, most)) = &mut self.panic {
            *most = (*most).max(stable as u32).max(short as u32);
            want = *most;
        }
        if want > 0 {
            self.idle_since = None;
        } else {
            let since = *self.idle_since.get_or_insert(view.second);
            if view.wanted > 0 && view.second < since + GRACE {
                want = 1;
            }
        }
        want.max(self.min)
    }

    fn mean(&self, window: usize) -> f64 {
        let recent = self.values.iter().rev().take(window);
        let (sum, count) = recent.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        if count == 0 {
            0.0
        } else {
            sum / f64::from(count)
        }
    }
}
