//! Suspect requests, which may be the cause when workers end. They are kept apart from each
//! other, and a path that keeps ending workers does not get the last worker.
//!
//! All requests that a worker was executing fail when it ends, and one of them may be the
//! cause. Each is repeated once. If they were repeated at the same time, the cause would
//! fail the others a second time, so they are repeated one after the other. [`Paths`] makes
//! the decisions; time is an argument. `recent` remembers which paths have been answered
//! recently, and `fatal` counts the workers that the named paths have ended.

mod fatal;
mod recent;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use self::fatal::Fatal;
use self::recent::{Recent, WINDOW, words};

/// The most paths that are remembered, and the most ends of each.
const MAX_PATHS: usize = 64;
/// A path that has certainly ended this many workers is suspect.
const MIN_PROVEN: usize = 2;
/// A path that may have ended this many workers, without an answer in between, is suspect
/// as well.
const MIN_POSSIBLE: usize = 5;
/// A path is named in the log once it may have ended this many workers.
const MIN_NAMED: usize = 3;
/// The pause between the last end and the next request of a suspect path; it doubles with
/// each further end, at most twice. A worker that was ready for a second is replaced
/// immediately (the engine's backoff), and other requests have been served in the meantime.
const PAUSE: Duration = Duration::from_secs(1);
/// The name of a path contains at most this many bytes of it.
const MAX_NAME_BYTES: usize = 96;

/// How long a suspect request runs alone. A request that ends its worker does so soon, so
/// after this time the next suspect request is sent.
const ALONE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a suspect request waits for those before it.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// The most suspect requests that wait for their turn. If there are more, a whole machine
/// has probably failed rather than one worker, and the others do not wait.
const MAX_WAITING: usize = 32;

/// Called with a sentence about a path that ends workers.
pub(crate) type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The suspect requests of all threads of a proxy.
pub(crate) struct Suspects {
    turn: Semaphore,
    waiting: AtomicUsize,
    /// The number of remembered paths. While it is 0, no thread takes the lock.
    known: AtomicUsize,
    paths: Mutex<Paths>,
    recent: Recent,
    fatal: Fatal,
    tell: OnceLock<Tell>,
}

impl std::fmt::Debug for Suspects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suspects").finish_non_exhaustive()
    }
}

impl Suspects {
    /// `fatal` counts the workers that the named paths have ended.
    pub(crate) fn new(fatal: Fatal) -> Self {
        Self {
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
            paths: Mutex::default(),
            recent: Recent::default(),
            fatal,
            tell: OnceLock::new(),
        }
    }

    /// Sets the function that is called about paths that end workers; only the first call
    /// counts.
    pub(crate) fn tell(&self, tell: Tell) {
        drop(self.tell.set(tell));
    }

    /// Whether any path is remembered.
    pub(crate) fn are_known(&self) -> bool {
        self.known.load(Ordering::Relaxed) > 0
    }

    /// Resolves when it is a suspect request's turn. `None` if the turn did not come in
    /// time, or if too many requests wait already.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let waiting = Waiting(&self.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return None;
        }
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.turn.acquire()).await;
        turn.ok()?.ok()
    }

    /// Runs the attempt of a suspect request, whose turn ends after a while.
    pub(crate) async fn alone<T>(
        turn: &mut Option<SemaphorePermit<'_>>,
        attempt: impl Future<Output = T>,
    ) -> T {
        if turn.is_none() {
            return attempt.await;
        }
        let mut attempt = std::pin::pin!(attempt);
        if let Ok(end) = tokio::time::timeout(ALONE_TIMEOUT, &mut attempt).await {
            return end;
        }
        turn.take();
        attempt.await
    }

    /// A worker has ended while it executed a request for this path, and the request may be the
    /// cause.
    pub(crate) fn ended(&self, now: Duration, path: &Name, worker: u64, sign: Sign) {
        let is_proven = match sign {
            Sign::Beside => false,
            // If other requests for its path were answered recently, this one may be
            // innocent.
            Sign::Alone => !self.recent.has(now, path.key),
            Sign::Twice => true,
        };
        let end = End { worker, is_proven };
        let (news, surely) = self.change(|paths| paths.ended(now, &path.text, end));
        self.fatal.add(&path.text, surely);
        if let Some(news) = news {
            tracing::warn!("{news}");
            if let Some(tell) = self.tell.get() {
                tell(&news);
            }
        }
    }

    /// A request was answered; `head` is the head of the request.
    pub(crate) fn note(&self, now: Duration, head: &[u8]) {
        self.recent.note(now, self.recent.key(head));
    }

    /// The name of a request.
    pub(crate) fn name(&self, head: &[u8]) -> Name {
        Name {
            text: name(head),
            key: self.recent.key(head),
        }
    }

    /// A request was answered. `acquitted` is the first worker that ended while it executed
    /// the request, if one did.
    pub(crate) fn answered(&self, now: Duration, path: &Name, acquitted: Option<u64>) {
        self.change(|paths| paths.answered(now, &path.text, acquitted));
    }

    /// Whether a request may proceed if `ready` workers are ready.
    pub(crate) fn admit(&self, now: Duration, path: &Name, ready: usize) -> Admission {
        self.change(|paths| paths.admit(now, &path.text, ready))
    }

    /// A request that was admitted alone is over.
    pub(crate) fn left(&self, path: &Name) {
        self.change(|paths| paths.left(&path.text));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Paths) -> T) -> T {
        let mut paths: MutexGuard<'_, Paths> =
            self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut paths);
        self.known.store(paths.0.len(), Ordering::Relaxed);
        changed
    }
}

/// Counts a waiting suspect request until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Method and path of a request.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    text: String,
    /// Its key in [`Recent`].
    key: u64,
}

/// How likely a request was the cause of its worker's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The worker was executing other requests as well.
    Beside,
    /// The worker was executing no other request.
    Alone,
    /// A second worker has ended while it executed this request.
    Twice,
}

/// The end of a worker while it executed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// The worker; it may have executed several requests when it ended.
    worker: u64,
    is_proven: bool,
}

/// Whether a request may proceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may proceed like any other request.
    Free,
    /// It may proceed as the only request of its path, and without another attempt.
    Alone,
    /// It may not proceed now.
    Refused,
}

/// Paths whose requests were at workers that ended recently.
#[derive(Debug, Default)]
struct Paths(Vec<Path>);

#[derive(Debug)]
struct Path {
    /// Method and path.
    name: String,
    ends: Vec<(Duration, End)>,
    /// When a request for it was last answered.
    answered: Option<Duration>,
    /// Whether a request for it has been admitted alone.
    is_tried: bool,
    /// The number of ends for which it was last named, and when.
    named: Option<(usize, Duration)>,
    /// Workers that it has certainly ended and that have not been counted yet.
    untold: u64,
}

impl Path {
    /// The ends that count against it now: the number of proven ones, and of all.
    fn count(&self) -> (usize, usize) {
        let since = self.answered;
        let later = self.ends.iter().filter(|(at, _)| Some(*at) > since);
        let proven = later.clone().filter(|(_, end)| end.is_proven).count();
        (proven, later.count())
    }

    fn is_suspect(&self) -> bool {
        let (proven, all) = self.count();
        proven >= MIN_PROVEN || all >= MIN_POSSIBLE
    }

    /// When the next request for it may be admitted.
    fn again(&self) -> Duration {
        let last = self.ends.iter().map(|(at, _)| *at).max();
        let doublings = self.count().1.saturating_sub(MIN_PROVEN).min(2) as u32;
        last.unwrap_or_default() + PAUSE * (1 << doublings)
    }

    /// The sentence for the log, if there is news.
    fn news(&mut self, now: Duration) -> Option<String> {
        let since = self.answered;
        let counts = |(at, end): &&(Duration, End)| end.is_proven || Some(*at) > since;
        let ends: Vec<Duration> = self.ends.iter().filter(counts).map(|(at, _)| *at).collect();
        let proven = self.ends.iter().filter(|(_, end)| end.is_proven).count();
        let count = ends.len();
        if proven < MIN_PROVEN && count < MIN_NAMED {
            return None;
        }
        let is_news = self.named.is_none_or(|(before, at)| {
            count == MIN_NAMED && before < MIN_NAMED || count >= before * 2 || now >= at + WINDOW
        });
        if !is_news {
            return None;
        }
        self.named = Some((count, now));
        let first = ends.iter().min().copied().unwrap_or(now);
        let span = now.saturating_sub(first).as_millis().div_ceil(1000).max(1);
        let name = &self.name;
        let told = format!("{name} ended {count} workers in {span} s");
        if !self.is_suspect() {
            return Some(told);
        }
        let wait = self.again().saturating_sub(now).as_secs_f32().ceil();
        Some(format!(
            "{told}; it is answered 503 for {wait} s, then tried alone while another worker is ready: mend its handler (ctl logs)"
        ))
    }
}

impl Paths {
    fn forget(&mut self, now: Duration) {
        self.0.retain_mut(|path| {
            path.ends.retain(|(at, _)| now < *at + WINDOW);
            !path.ends.is_empty() || path.is_tried
        });
    }

    fn find(&mut self, name: &str) -> Option<&mut Path> {
        self.0.iter_mut().find(|path| path.name == name)
    }

    /// Records an end. Returns the sentence for the log, if any, and the number of workers
    /// that the path has certainly ended and that have not been counted yet.
    fn ended(&mut self, now: Duration, name: &str, end: End) -> (Option<String>, u64) {
        self.forget(now);
        if self.find(name).is_none() {
            if self.0.len() == MAX_PATHS {
                let last = |path: &Path| path.ends.last().map(|(at, _)| *at);
                let oldest = self.0.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, path)| (path.is_tried, last(path)));
                if let Some(at) = oldest.map(|(at, _)| at) {
                    self.0.swap_remove(at);
                }
            }
            self.0.push(Path {
                name: name.to_owned(),
                ends: Vec::new(),
                answered: None,
                is_tried: false,
                named: None,
                untold: 0,
            });
        }
        let Some(path) = self.find(name) else {
            return (None, 0);
        };
        let mut known = path.ends.iter_mut();
        if let Some((_, known)) = known.find(|(_, known)| known.worker == end.worker) {
            path.untold += u64::from(end.is_proven && !known.is_proven);
            known.is_proven |= end.is_proven;
        } else {
            path.untold += u64::from(end.is_proven);
            if path.ends.len() == MAX_PATHS {
                path.ends.remove(0);
            }
            path.ends.push((now, end));
        }
        let news = path.news(now);
        let surely = match path.named {
            Some(_) => std::mem::take(&mut path.untold),
            None => 0,
        };
        (news, surely)
    }

    fn answered(&mut self, now: Duration, name: &str, acquitted: Option<u64>) {
        if let Some(path) = self.find(name) {
            path.answered = Some(now);
            // A request that another worker has answered did not end the first worker. Ends
            // that the path has not certainly caused are now unlikely to be its fault.
            path.ends
                .retain(|(_, end)| end.is_proven && Some(end.worker) != acquitted);
        }
        self.forget(now);
    }

    fn admit(&mut self, now: Duration, name: &str, ready: usize) -> Admission {
        self.forget(now);
        match self.find(name) {
            Some(path) if path.is_suspect() => {
                if ready <= 1 || path.is_tried || now < path.again() {
                    return Admission::Refused;
                }
                path.is_tried = true;
                Admission::Alone
            }
            _ => Admission::Free,
        }
    }

    fn left(&mut self, name: &str) {
        if let Some(path) = self.find(name) {
            path.is_tried = false;
        }
    }
}

/// Method and path of a request head as text, bounded and safe to print.
fn name(head: &[u8]) -> String {
    let (method, path) = words(head);
    let cut = &path[..path.len().min(MAX_NAME_BYTES)];
    let mut name = String::new();
    // Writing into memory cannot fail.
    let _ = write!(name, "{} {}", method.escape_ascii(), cut.escape_ascii());
    if cut.len() < path.len() {
        name.push('…');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn proven(worker: u64) -> End {
        End {
            worker,
            is_proven: true,
        }
    }

    fn possible(worker: u64) -> End {
        End {
            worker,
            is_proven: false,
        }
    }

    const BAD: &str = "GET /throw";

    #[test]
    fn a_path_is_named_without_its_query_and_bounded() {
        for (head, expected) in [
            ("GET /throw?token=secret HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
            ("POST / HTTP/1.1\r\n\r\n", "POST /"),
            ("GET /a\u{1b}\"b HTTP/1.1\r\n", r#"GET /a\x1b\"b"#),
            ("", " "),
        ] {
            assert_eq!(name(head.as_bytes()), expected);
        }
        let long = name(format!("GET /{} HTTP/1.1", "x".repeat(5000)).as_bytes());
        assert!(long.ends_with('…') && long.len() < 120, "{long}");
    }

    #[test]
    fn a_path_that_ends_workers_is_named_from_time_to_time() {
        let mut paths = Paths::default();
        let mut news = Vec::new();
        for worker in 0..9 {
            let now = ms(worker * 500);
            news.extend(paths.ended(now, BAD, proven(worker)).0);
            // Another request that was at the same worker.
            assert_eq!(paths.ended(now, BAD, proven(worker)), (None, 0));
        }
        let times = [(2, 1, 1), (3, 1, 2), (6, 3, 4)];
        let expected = times.map(|(count, span, wait)| {
            format!("{BAD} ended {count} workers in {span} s; it is answered 503 for {wait} s, ")
        });
        assert_eq!(news.len(), expected.len(), "{news:?}");
        for (news, expected) in news.iter().zip(expected) {
            assert!(news.starts_with(&expected), "{news}");
        }
    }

    #[test]
    fn a_path_that_was_only_present_is_not_named_while_it_is_answered() {
        let mut paths = Paths::default();
        for worker in 0..20 {
            let now = ms(worker * 100);
            assert_eq!(paths.ended(now, "GET /", possible(worker)), (None, 0));
            if worker % 2 == 1 {
                paths.answered(now, "GET /", None);
            }
            assert_eq!(paths.admit(now, "GET /", 1), Admission::Free);
        }
        // A request that was alone at its worker, and was answered by the next one.
        for worker in 20..30 {
            let now = ms(worker * 100);
            assert_eq!(paths.ended(now, "GET /", proven(worker)), (None, 0));
            paths.answered(now, "GET /", Some(worker));
        }
        assert!(paths.0.is_empty());
    }

    #[test]
    fn a_suspect_path_never_gets_the_last_worker_and_is_tried_less_and_less_often() {
        let mut paths = Paths::default();
        assert_eq!(paths.admit(ms(0), BAD, 1), Admission::Free);
        paths.ended(ms(0), BAD, proven(1));
        assert_eq!(paths.admit(ms(0), BAD, 1), Admission::Free);
        paths.ended(ms(0), BAD, proven(2));
        assert_eq!(paths.admit(ms(999), BAD, 2), Admission::Refused);
        for ready in [0, 1] {
            assert_eq!(paths.admit(ms(1000), BAD, ready), Admission::Refused);
        }
        assert_eq!(paths.admit(ms(1000), "GET /", 1), Admission::Free);
        assert_eq!(paths.admit(ms(1000), BAD, 2), Admission::Alone);
        assert_eq!(paths.admit(ms(1000), BAD, 9), Admission::Refused, "one");
        paths.ended(ms(1100), BAD, proven(3));
        paths.left(BAD);
        assert_eq!(paths.admit(ms(3099), BAD, 9), Admission::Refused);
        assert_eq!(paths.admit(ms(3100), BAD, 9), Admission::Alone);
        // The handler is mended.
        paths.answered(ms(3200), BAD, None);
        paths.left(BAD);
        assert_eq!(paths.admit(ms(3200), BAD, 1), Admission::Free);
    }

    #[test]
    fn a_path_that_is_only_possibly_the_cause_needs_more_ends() {
        let mut paths = Paths::default();
        for worker in 0..5 {
            assert_eq!(paths.admit(ms(worker), BAD, 1), Admission::Free);
            let (news, _) = paths.ended(ms(worker), BAD, possible(worker));
            assert_eq!(news.is_some(), worker == 2);
        }
        assert_eq!(paths.admit(ms(9), BAD, 1), Admission::Refused);
        assert_eq!(paths.admit(ms(9) + WINDOW, BAD, 1), Admission::Free);
    }

    /// Checks, for any order of events, that memory is bounded, that no suspicion outlives
    /// its window, and that one request of a path is tried at a time, never with the last
    /// worker.
    #[test]
    fn the_limits_hold_in_any_order_of_events() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut paths = Paths::default();
            let mut tried: Vec<String> = Vec::new();
            let mut now = Duration::ZERO;
            for _ in 0..3000 {
                now += ms(random.u64(0..300));
                let name = format!("GET /{}", random.u32(0..100));
                let worker = random.u64(0..1000);
                match random.u32(0..5) {
                    0 | 1 => {
                        let is_proven = random.bool();
                        paths.ended(now, &name, End { worker, is_proven });
                    }
                    2 => paths.answered(now, &name, random.bool().then_some(worker)),
                    3 => {
                        let ready = random.usize(0..4);
                        let was_tried = tried.contains(&name);
                        match paths.admit(now, &name, ready) {
                            Admission::Alone => {
                                assert!(ready > 1 && !was_tried, "{name}");
                                tried.push(name);
                            }
                            Admission::Free | Admission::Refused => {}
                        }
                    }
                    _ => {
                        if let Some(name) = tried.pop() {
                            paths.left(&name);
                        }
                    }
                }
                assert!(paths.0.len() <= MAX_PATHS);
                assert!(paths.0.iter().all(|path| path.ends.len() <= MAX_PATHS));
            }
            for name in tried.drain(..) {
                paths.left(&name);
            }
            now += WINDOW;
            for path in 0..100 {
                let name = format!("GET /{path}");
                assert_eq!(paths.admit(now, &name, 0), Admission::Free);
            }
            assert!(paths.0.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn suspect_requests_run_one_after_the_other_and_slow_ones_delay_others_only_briefly() {
        let suspects = Suspects::new(Fatal::default());
        let start = tokio::time::Instant::now();
        let run = async |time: Duration| {
            let mut turn = suspects.turn().await;
            Suspects::alone(&mut turn, tokio::time::sleep(time)).await;
            start.elapsed()
        };
        let ended = tokio::join!(run(ms(100)), run(ms(60_000)), run(ms(100)));
        assert_eq!(ended, (ms(100), ms(60_100), ms(450)));
    }
}
