//! Our own rules: the code that the operator runs, fed with what the simulation shows.

use std::time::Duration;

use jiff::Timestamp;
use scaledapp_scale::{
    Balancer, BalancerReport, Found, Moment, Observation, Pod, PodReport, PodState, Range, Resize,
    Scaler, Settings,
};

use crate::trace::{CONCURRENCY, MAX_PODS, Trace, WORKERS};
use crate::view::{PodView, Rules, State, View};

/// The autoscaler of `scaledapp-scale`.
#[derive(Debug)]
pub struct Ours {
    window: Duration,
    boot: Duration,
    scaler: Option<Scaler>,
}

impl Ours {
    /// With this scale-down window.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            boot: Duration::ZERO,
            scaler: None,
        }
    }

    fn pod(&self, pod: &PodView) -> Pod {
        let state = match pod.state {
            State::Starting => PodState::Starting,
            State::Ready => PodState::Ready,
            State::Lost => PodState::NotReady,
        };
        let report = PodReport {
            workers: WORKERS,
            busy: pod.in_flight.min(WORKERS),
            in_flight: pod.in_flight,
            queued: 0,
            cpu_used: pod.used / f64::from(CONCURRENCY),
            answers: pod.answers,
            answer_time: pod.answer_time,
            failures: 0,
            boot: Some(self.boot),
        };
        Pod {
            name: pod.number.to_string(),
            state,
            age: pod.age,
            resize: Resize::Settled,
            cpu_limit: Some(f64::from(WORKERS)),
            report: (pod.state == State::Ready).then_some(report),
        }
    }
}

fn moment(second: u64) -> Moment {
    let elapsed = Duration::from_secs(second);
    Moment {
        elapsed,
        wall: Timestamp::from_second(1_800_000_000 + second as i64).unwrap_or_default(),
    }
}

impl Rules for Ours {
    fn min_pods(&self, trace: &Trace) -> u32 {
        trace.min_pods
    }

    fn begin(&mut self, trace: &Trace, pods: u32) {
        self.boot = Duration::from_secs_f64(trace.boot);
        let settings = Settings {
            pods: Range::new(trace.min_pods, MAX_PODS),
            workers: Range::new(WORKERS, WORKERS),
            concurrency: Some(CONCURRENCY),
            down_window: self.window,
            zero_after: Duration::from_mins(1),
            ..Settings::default()
        };
        let found = Found {
            pods,
            workers: WORKERS,
            ..Found::default()
        };
        self.scaler = Some(Scaler::new(settings, found, moment(0)));
    }

    fn tick(&mut self, view: &View) -> u32 {
        let pods = view.pods.iter().map(|pod| self.pod(pod)).collect();
        let seen = Observation {
            balancers: vec![Balancer {
                name: "balancer-0".to_owned(),
                report: Some(BalancerReport {
                    in_flight: view.in_flight,
                    queued: view.queued,
                    connected: 0,
                    arrivals: view.arrivals,
                }),
            }],
            pods,
            refused_above: None,
        };
        let Some(scaler) = &mut self.scaler else {
            return view.wanted;
        };
        scaler.decide(moment(view.second), &seen).pods
    }
}
