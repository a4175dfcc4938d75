//! Decides whether a worker hangs under Connection dispatch. This file decides from
//! observations and reads neither files nor a clock.
//!
//! A worker hangs if four things are true at every check for as long as `--hang-timeout`: none of
//! its threads waits where it would notice a connection (`waiting`); it has accepted and closed no
//! connection; it has read and sent no byte; and a client has sent bytes that are unread. An app
//! that applies back-pressure to an upload has unread bytes, but some checks find its event loop
//! waiting. An app with long computations has clients that wait, but other clients are answered.
//! One case is not detected: if a request makes the worker hang and no other client waits, no byte
//! is unread, because the worker has read that request.
//!
//! Time in which the machine did not let the worker run does not count.

use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time that counts between two checks. If a check comes later than this, the
/// supervisor was kept from the CPU, and the worker may have been as well.
const MAX_ELAPSED: Duration = Duration::from_secs(2);
/// How many times connections are listed within the hang timeout, at most. To list them, the kernel
/// walks through all connections of the machine.
const LOOKS_PER_TIMEOUT: u32 = 8;

/// A worker's connections at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Carried {
    /// By inode: bytes that the worker has read, and bytes of its answers that clients have
    /// acknowledged.
    pub(crate) moved: BTreeMap<u64, (u64, u64)>,
    /// Whether a client has sent bytes that are unread.
    pub(crate) somebody_waits: bool,
}

/// The history of one worker.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// When it was checked last, and for how long it had been kept from running by then.
    looked: Option<(Duration, Duration)>,
    /// For how long no thread has waited for connections since its connections were last
    /// listed.
    not_waiting: Duration,
    /// Its connections when they were last listed.
    before: Option<Carried>,
    /// For how long nothing has moved.
    silent: Duration,
}

impl Silence {
    /// Records that one of the worker's threads waits for connections, or that it is unknown
    /// whether one does.
    pub(crate) fn is_waiting(&mut self) {
        *self = Self::default();
    }

    /// Records that no thread waits for connections at the time `now`, which is measured from any
    /// fixed moment, and that the worker was kept from running for `kept` since its start. Returns
    /// whether the worker's connections have to be listed now. `most` is the silence after which a
    /// worker is hung.
    pub(crate) fn is_not_waiting(&mut self, now: Duration, kept: Duration, most: Duration) -> bool {
        if let Some((then, had)) = self.looked.replace((now, kept)) {
            let elapsed = now.saturating_sub(then).min(MAX_ELAPSED);
            self.not_waiting += elapsed.saturating_sub(kept.saturating_sub(had));
        }
        self.not_waiting >= most / LOOKS_PER_TIMEOUT
    }

    /// Records the worker's connections; returns for how long nothing has moved while a client
    /// waits.
    pub(crate) fn carries(&mut self, now: Carried) -> Duration {
        let not_waiting = std::mem::take(&mut self.not_waiting);
        if now.somebody_waits && self.before.as_ref() == Some(&now) {
            self.silent += not_waiting;
        } else {
            self.silent = Duration::ZERO;
        }
        self.before = Some(now);
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANG_TIMEOUT: Duration = Duration::from_mins(1);

    /// (inode, bytes read)
    fn carried(read: &[(u64, u64)], answered: u64) -> Carried {
        Carried {
            moved: read
                .iter()
                .map(|(inode, read)| (*inode, (*read, answered)))
                .collect(),
            somebody_waits: true,
        }
    }

    /// What a check finds in a given second: the worker's connections, if no thread waits for
    /// new ones.
    type Story = fn(u64) -> Option<Carried>;

    /// The longest silence within ten minutes with a check each second, and the second in which
    /// it reaches the limit. `kept` is the time per second in which the worker could not
    /// run.
    fn watch(story: Story, kept: Duration) -> (Duration, Option<u64>) {
        let mut silence = Silence::default();
        let (mut longest, mut hung) = (Duration::ZERO, None);
        for second in 0..600 {
            let Some(carried) = story(second) else {
                silence.is_waiting();
                continue;
            };
            if silence.is_not_waiting(
                Duration::from_secs(second),
                kept * second as u32,
                HANG_TIMEOUT,
            ) {
                longest = longest.max(silence.carries(carried));
                if longest >= HANG_TIMEOUT {
                    hung = hung.or(Some(second));
                }
            }
        }
        (longest, hung)
    }

    #[test]
    fn a_worker_that_moves_nothing_while_a_client_waits_hangs() {
        let stuck: Story = |_| Some(carried(&[(7, 90), (8, 0)], 1000));
        let (_, hung) = watch(stuck, Duration::ZERO);
        assert!(hung.is_some_and(|at| (60..=72).contains(&at)), "{hung:?}");
        // Other processes had the CPU half of the time.
        let (_, hung) = watch(stuck, Duration::from_millis(500));
        assert!(hung.is_some_and(|at| (120..=144).contains(&at)), "{hung:?}");
    }

    #[test]
    fn a_worker_with_any_sign_of_life_does_not_hang() {
        let stories: [(&str, Story); 7] = [
            ("waits for connections once in 50 s", |second| {
                (second % 50 > 0).then(|| carried(&[(7, 90)], 1000))
            }),
            ("a paused upload while the event loop runs", |_| None),
            ("accepts one a minute", |second| {
                Some(carried(&[(7, 90), (100 + second / 59, 5)], 1000))
            }),
            ("answers one a minute", |second| {
                Some(carried(&[(7, 90)], second / 59))
            }),
            ("reads slowly", |second| {
                Some(carried(&[(7, second / 59)], 1000))
            }),
            ("computes while no client waits", |_| {
                Some(Carried {
                    somebody_waits: false,
                    ..carried(&[(7, 90)], 1000)
                })
            }),
            ("has no connection", |_| Some(Carried::default())),
        ];
        for (name, story) in stories {
            let (longest, hung) = watch(story, Duration::ZERO);
            assert_eq!(hung, None, "{name}: {longest:?}");
        }
    }

    #[test]
    fn a_late_look_counts_for_two_seconds() {
        let mut silence = Silence::default();
        let stuck = || carried(&[(7, 90)], 0);
        for look in 0..8 {
            silence.is_not_waiting(
                Duration::from_mins(look),
                Duration::ZERO,
                Duration::from_secs(1),
            );
            let silent = silence.carries(stuck());
            assert_eq!(silent, MAX_ELAPSED * look as u32);
        }
    }
}
