//! What rules see of a simulated app each second, and what they decide.

use std::time::Duration;

use crate::trace::Trace;

/// Rules that decide each second how many pods there shall be.
pub trait Rules {
    /// The smallest number of pods that these rules can have in a trace.
    fn min_pods(&self, trace: &Trace) -> u32;
    /// Begins a trace with this many pods.
    fn begin(&mut self, trace: &Trace, pods: u32);
    /// How many pods there shall be.
    fn tick(&mut self, view: &View) -> u32;
}

/// What rules may see each second.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The number of this second, counted from the start of the trace.
    pub second: u64,
    /// Requests in pods.
    pub in_flight: u32,
    /// Requests in the queue.
    pub queued: u32,
    /// Requests that have arrived since the last second.
    pub arrivals: u64,
    /// The pods.
    pub pods: Vec<PodView>,
    /// The number of pods that was asked for last.
    pub wanted: u32,
}

impl View {
    /// How many pods are ready.
    pub fn ready(&self) -> u32 {
        self.pods
            .iter()
            .filter(|pod| pod.state == State::Ready)
            .count() as u32
    }
}

/// The state of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does not serve yet.
    Starting,
    /// It serves.
    Ready,
    /// Its node is gone.
    Lost,
}

/// What rules may see of a pod.
#[derive(Debug, Clone, Copy)]
pub struct PodView {
    /// Its number, which no other pod ever has.
    pub number: u64,
    /// Its state.
    pub state: State,
    /// How long ago it was asked for.
    pub age: Duration,
    /// Requests in it.
    pub in_flight: u32,
    /// Requests in it on average since the last second; its use of CPU follows from this number.
    pub used: f64,
    /// Answers since the last second, and the time that they took.
    pub answers: u64,
    /// See `answers`.
    pub answer_time: Duration,
}
