//! What is known of one pod: its workers, their rates, and what changed since the last look.

use std::collections::BTreeMap;

use scaledapp_wire::{LastExit, SlotState, Snapshot, Status, Worker, WorkerState};

use crate::events::{Kind, milliseconds};
use crate::flow::Flow;
use crate::observation::{Counters, Pod};

/// Something that happened in a pod: when, how much it matters, and a sentence.
pub(crate) type Happened = (u64, Kind, String);

/// CPU time of a worker at the last two looks.
#[derive(Debug, Clone, Copy, Default)]
struct Cpu {
    at: u64,
    seconds: f64,
    percent: Option<f64>,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodState {
    pub(crate) shape: Pod,
    pub(crate) status: Option<Status>,
    /// The last line of `/watch`, and when it came.
    watched: Option<(u64, Snapshot)>,
    pub(crate) flow: Flow,
    /// When the pod last answered.
    pub(crate) seen: Option<u64>,
    /// When `status` was read.
    looked: u64,
    /// Why the pod does not answer.
    pub(crate) problem: Option<String>,
    cpu: BTreeMap<u32, Cpu>,
    started: BTreeMap<u32, u64>,
    /// How many workers have ended since the first look.
    pub(crate) ended: u64,
}

/// The most workers of one pod that are shown.
pub(crate) const MAX_WORKERS: usize = scaledapp_wire::MAX_WORKERS as usize;

impl PodState {
    /// A pod of which nothing is known but its place.
    pub(crate) fn new(shape: Pod) -> Self {
        Self {
            shape,
            ..Self::default()
        }
    }

    /// Adds a line of `/watch`; returns whether the pod's state has changed, and what happened.
    pub(crate) fn watched(&mut self, now: u64, snapshot: Snapshot) -> (bool, Option<Happened>) {
        let before = self.watched.map(|(_, snapshot)| snapshot);
        let is_news = before.is_none_or(|before| {
            (before.ready, before.draining, before.workers)
                != (snapshot.ready, snapshot.draining, snapshot.workers)
        });
        self.watched = Some((now, snapshot));
        (is_news, self.answered(now))
    }

    fn answered(&mut self, now: u64) -> Option<Happened> {
        self.seen = Some(now);
        self.problem.take()?;
        let text = format!("{} answers again", self.shape.name);
        Some((now, Kind::Normal, text))
    }

    /// Records that the pod does not answer. `None` if that is known already.
    pub(crate) fn lost(&mut self, now: u64, reason: String) -> Option<Happened> {
        let is_news = self.problem.is_none();
        let text = format!("{} does not answer: {reason}", self.shape.name);
        self.problem = Some(reason);
        self.watched = None;
        is_news.then_some((now, Kind::Warning, text))
    }

    /// Adds an answer of `/status`; returns whether the pod's state has changed, and what happened
    /// since the last one.
    pub(crate) fn looked(
        &mut self,
        now: u64,
        status: Status,
        counters: Option<Counters>,
    ) -> (bool, Vec<Happened>) {
        let mut happened: Vec<_> = self.answered(now).into_iter().collect();
        if let Some(counters) = counters {
            self.flow.read(now, counters);
        }
        self.measure(now, &status.workers);
        let name = &self.shape.name;
        let mut is_news = self.status.is_none();
        if let Some(before) = &self.status {
            for (slot, (restarts, exit)) in slots(&status) {
                let old = slots(before)
                    .get(&slot)
                    .map_or(0, |(restarts, _)| *restarts);
                if restarts > old {
                    self.ended += u64::from(restarts - old);
                    happened.push(ending(now, name, slot, exit.as_ref()));
                }
            }
            happened.extend(changes(now, name, before, &status));
            is_news = !happened.is_empty()
                || before.ready != status.ready
                || before.draining != status.draining
                || states(before) != states(&status);
        } else {
            // What failed before the dashboard was opened is worth a line each.
            for (slot, (_, exit)) in slots(&status) {
                if let Some(exit) = exit.filter(is_unexpected) {
                    happened.push(ending(now, name, slot, Some(&exit)));
                }
            }
        }
        self.looked = now;
        self.status = Some(status);
        (is_news, happened)
    }

    fn measure(&mut self, now: u64, workers: &[Worker]) {
        let is_there = |pid: &u32| workers.iter().any(|worker| worker.pid == *pid);
        self.cpu.retain(|pid, _| is_there(pid));
        self.started.retain(|pid, _| is_there(pid));
        for worker in workers.iter().take(MAX_WORKERS) {
            if let Some(uptime) = worker.uptime_seconds {
                let start = (now / 1_000).saturating_sub(uptime as u64);
                self.started.entry(worker.pid).or_insert(start);
            }
            let Some(seconds) = worker.cpu_seconds else {
                continue;
            };
            let known = self.cpu.get(&worker.pid).copied();
            let percent = known.and_then(|known| {
                let passed = now.checked_sub(known.at).filter(|passed| *passed >= 200);
                let used = (seconds - known.seconds).max(0.0);
                passed.map_or(known.percent, |passed| Some(used * 1e5 / passed as f64))
            });
            if known.is_none_or(|known| now >= known.at + 200) {
                let at = now;
                self.cpu.insert(
                    worker.pid,
                    Cpu {
                        at,
                        seconds,
                        percent,
                    },
                );
            }
        }
    }

    /// The share of a core that a worker uses, in percent.
    pub(crate) fn cpu(&self, pid: u32) -> Option<f64> {
        self.cpu.get(&pid)?.percent
    }

    /// When a worker was started, in seconds since 1970.
    pub(crate) fn started(&self, pid: u32) -> Option<u64> {
        self.started.get(&pid).copied()
    }

    /// The line of `/watch`, if it is newer than the status.
    fn newer(&self) -> Option<&Snapshot> {
        let (at, snapshot) = self.watched.as_ref()?;
        (*at >= self.looked).then_some(snapshot)
    }

    /// The number of ready workers.
    pub(crate) fn ready(&self) -> u32 {
        if self.problem.is_some() {
            return 0;
        }
        let status = self.status.as_ref().map_or(0, |status| status.ready);
        self.newer().map_or(status, |snapshot| snapshot.workers)
    }

    /// The number of workers that there should be.
    pub(crate) fn desired(&self) -> u32 {
        self.status.as_ref().map_or(0, |status| status.desired)
    }

    /// Requests in flight and requests that wait; `None` if nobody has said.
    pub(crate) fn load(&self) -> Option<(u32, u32)> {
        let (_, snapshot) = self.watched.as_ref()?;
        Some((snapshot.in_flight, snapshot.queued))
    }

    /// Whether the pod is about to end.
    pub(crate) fn draining(&self) -> bool {
        let status = self.status.as_ref().is_some_and(|status| status.draining);
        self.newer().map_or(status, |snapshot| snapshot.draining)
    }

    /// One word for the pod's state.
    pub(crate) fn state(&self) -> &'static str {
        if self.problem.is_some() {
            return "lost";
        }
        if self.status.is_none() && self.watched.is_none() {
            return "unknown";
        }
        if self.draining() {
            return "draining";
        }
        match (self.ready(), self.desired()) {
            (0, 0) => "idle",
            (0, _) => "down",
            (ready, desired) if ready < desired => "degraded",
            _ => "ok",
        }
    }

    /// How often workers have ended, over the life of the present slots.
    pub(crate) fn restarts(&self) -> u64 {
        let slots = self.status.as_ref().map(slots).unwrap_or_default();
        slots
            .values()
            .map(|(restarts, _)| u64::from(*restarts))
            .sum()
    }

    /// One letter for each slot: `o` ready, `s` starting, `d` draining or stopping, `x` waiting after
    /// a crash, `?` unknown.
    pub(crate) fn strip(&self) -> String {
        let Some(status) = &self.status else {
            return "?".repeat(self.ready().max(1) as usize);
        };
        let mut letters = states(status);
        for slot in 0..status.desired.min(scaledapp_wire::MAX_WORKERS) {
            letters.entry(slot).or_insert('s');
        }
        if self.problem.is_some() {
            return "?".repeat(letters.len());
        }
        letters.into_values().take(MAX_WORKERS).collect()
    }
}

/// A letter for the state of each slot. If a worker replaces another one, the better state counts.
fn states(status: &Status) -> BTreeMap<u32, char> {
    const BETTER: &str = "?xdso";
    let mut letters = BTreeMap::new();
    let workers = status
        .workers
        .iter()
        .map(|worker| (worker.slot, letter(worker.state)));
    let waiting = status.waiting.iter().map(|slot| {
        let is_over = slot.state == SlotState::Stopping;
        (slot.slot, if is_over { 'd' } else { 'x' })
    });
    for (slot, letter) in workers.chain(waiting) {
        let known = letters.entry(slot).or_insert(letter);
        if BETTER.find(letter) > BETTER.find(*known) {
            *known = letter;
        }
    }
    letters
}

fn letter(state: WorkerState) -> char {
    match state {
        WorkerState::Ready => 'o',
        WorkerState::Starting => 's',
        WorkerState::Draining | WorkerState::Stopping => 'd',
        WorkerState::Unknown => '?',
    }
}

/// The restarts of each slot, and how its last worker ended.
fn slots(status: &Status) -> BTreeMap<u32, (u32, Option<LastExit>)> {
    let workers = status.workers.iter();
    let workers = workers.map(|worker| (worker.slot, worker.restarts, &worker.last_exit));
    let waiting = status.waiting.iter();
    let waiting = waiting.map(|slot| (slot.slot, slot.restarts, &slot.last_exit));
    let mut slots = BTreeMap::new();
    for (slot, restarts, exit) in workers.chain(waiting) {
        let known = slots.entry(slot).or_insert((0, None));
        if known.1.is_none() || restarts > known.0 {
            *known = (restarts.max(known.0), exit.clone());
        }
    }
    slots
}

/// Whether a worker ended otherwise than by the supervisor's wish: a reload, or a smaller number of
/// workers.
fn is_unexpected(exit: &LastExit) -> bool {
    !matches!(exit.reason.as_str(), "Ended" | "EndedDraining")
}

fn ending(now: u64, pod: &str, slot: u32, exit: Option<&LastExit>) -> Happened {
    let at = exit
        .and_then(|exit| milliseconds(&exit.time))
        .unwrap_or(now);
    let text = match exit {
        // The text is `exit code 3`, or `ended by SIGKILL`.
        Some(exit) if exit.text.starts_with("ended") => {
            format!("worker {slot} of {pod} {}", exit.text)
        }
        Some(exit) => format!("worker {slot} of {pod} ended: {}", exit.text),
        None => format!("worker {slot} of {pod} ended"),
    };
    (at, Kind::Warning, text)
}

fn changes(now: u64, pod: &str, before: &Status, after: &Status) -> Vec<Happened> {
    let mut happened = Vec::new();
    let (old, new) = (before.generation, after.generation);
    if new > old {
        let text = format!("{pod} is reloaded: generation {new} starts");
        happened.push((now, Kind::Normal, text));
    }
    if after.desired != before.desired {
        let why = after
            .scaling
            .as_ref()
            .and_then(|scaling| scaling.last.as_ref());
        let why = why.filter(|change| change.to == after.desired);
        let why = why.map_or(String::new(), |change| format!(": {}", change.text));
        let (from, to) = (before.desired, after.desired);
        let text = format!("{pod} is scaled from {from} to {to} workers{why}");
        happened.push((now, Kind::Normal, text));
    }
    if after.reload_failed.is_some() && after.reload_failed != before.reload_failed {
        let text = format!("the reload of {pod} failed, and the old workers stay");
        happened.push((now, Kind::Warning, text));
    }
    if after.draining && !before.draining {
        happened.push((now, Kind::Normal, format!("{pod} drains")));
    }
    happened
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slot: u32, pid: u32, state: WorkerState, restarts: u32) -> Worker {
        Worker {
            slot,
            pid,
            state,
            restarts,
            cpu_seconds: Some(f64::from(pid)),
            last_exit: (restarts > 0).then(|| LastExit {
                text: "ended by SIGKILL".to_owned(),
                time: "1970-01-01T00:00:01Z".to_owned(),
                ..LastExit::default()
            }),
            ..Worker::default()
        }
    }

    fn status(workers: Vec<Worker>, ready: u32) -> Status {
        Status {
            desired: 2,
            ready,
            workers,
            ..Status::default()
        }
    }

    fn pod() -> PodState {
        PodState::new(Pod {
            name: "shop-0".to_owned(),
            ..Pod::default()
        })
    }

    #[test]
    fn a_worker_that_was_killed_is_an_event_and_its_slot_starts() {
        use WorkerState::{Ready, Starting};
        let mut pod = pod();
        assert_eq!(pod.state(), "unknown");
        let first = status(vec![worker(0, 10, Ready, 0), worker(1, 11, Ready, 0)], 2);
        assert_eq!(pod.looked(1_000, first, None), (true, Vec::new()));
        assert_eq!((pod.state(), pod.strip().as_str()), ("ok", "oo"));
        let then = status(vec![worker(0, 10, Ready, 0), worker(1, 12, Starting, 1)], 1);
        let (is_news, happened) = pod.looked(2_000, then, None);
        assert!(is_news);
        let expected = "worker 1 of shop-0 ended by SIGKILL";
        assert_eq!(happened, [(1_000, Kind::Warning, expected.to_owned())]);
        assert_eq!((pod.state(), pod.strip().as_str()), ("degraded", "os"));
        assert_eq!((pod.ended, pod.restarts()), (1, 1));
        assert_eq!(pod.cpu(10), Some(0.0));
        assert_eq!(pod.cpu(11), None, "it is gone");
    }

    #[test]
    fn only_failures_from_before_the_first_look_are_events() {
        let mut workers = [1, 2].map(|slot| worker(slot, slot, WorkerState::Ready, 1));
        for (worker, reason) in workers.iter_mut().zip(["Ended", "Exited"]) {
            worker.last_exit.as_mut().unwrap().reason = reason.to_owned();
        }
        let (_, happened) = pod().looked(1_000, status(workers.to_vec(), 2), None);
        let texts: Vec<_> = happened.into_iter().map(|(_, _, text)| text).collect();
        assert_eq!(texts, ["worker 2 of shop-0 ended by SIGKILL"]);
    }

    #[test]
    fn a_line_of_watch_that_is_newer_than_the_status_counts() {
        let mut pod = pod();
        let first = status(vec![worker(0, 1, WorkerState::Ready, 0)], 1);
        pod.looked(1_000, first, None);
        let line = |workers| Snapshot {
            capacity: 2,
            dispatch: None,
            draining: false,
            in_flight: 3,
            queued: 1,
            ready: workers > 0,
            scaling: None,
            workers,
        };
        assert_eq!(pod.watched(1_100, line(2)), (true, None));
        assert_eq!((pod.ready(), pod.load()), (2, Some((3, 1))));
        assert_eq!(pod.watched(1_200, line(2)), (false, None));
        assert_eq!(pod.watched(1_300, line(0)), (true, None));
        assert_eq!(pod.state(), "down");
    }

    #[test]
    fn a_lost_pod_is_told_once_and_so_is_its_return() {
        let mut pod = pod();
        pod.looked(
            1_000,
            status(vec![worker(0, 1, WorkerState::Ready, 0)], 2),
            None,
        );
        let (_, kind, text) = pod.lost(2_000, "no connection".to_owned()).unwrap();
        assert_eq!(text, "shop-0 does not answer: no connection");
        assert_eq!(kind, Kind::Warning);
        assert_eq!(pod.lost(3_000, "no connection".to_owned()), None);
        assert_eq!((pod.state(), pod.ready()), ("lost", 0));
        assert_eq!(pod.strip(), "??");
        let again = status(vec![worker(0, 1, WorkerState::Ready, 0)], 2);
        let (_, happened) = pod.looked(4_000, again, None);
        assert_eq!(happened[0].2, "shop-0 answers again");
    }

    #[test]
    fn reloads_and_scaling_are_events() {
        let mut pod = pod();
        pod.looked(1_000, status(Vec::new(), 0), None);
        let after = Status {
            generation: 1,
            desired: 4,
            draining: true,
            reload_failed: Some("x".to_owned()),
            ..Status::default()
        };
        let (_, happened) = pod.looked(2_000, after, None);
        let texts: Vec<_> = happened.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "shop-0 is reloaded: generation 1 starts",
                "shop-0 is scaled from 2 to 4 workers",
                "the reload of shop-0 failed, and the old workers stay",
                "shop-0 drains",
            ]
        );
    }
}
