//! When a worker counts as ready: the required checks, the passed checks, and a text about
//! what is missing. `workers` and `channel` observe the signs; the engine decides by when
//! they must be there.

pub(crate) mod channel;
pub(crate) mod probe;

use std::collections::BTreeSet;
use std::time::Duration;

/// A sign of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sign {
    /// The worker listens on the app's port.
    Listens,
    /// It answers at the readiness path.
    Answers,
    /// It has run for the required time.
    Lives,
    /// It has sent the message `ready`.
    Says,
}

/// The checks that every worker must pass before it counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// It must listen on this port.
    pub(crate) port: Option<u16>,
    /// It must answer at this path, once it listens.
    pub(crate) path: Option<String>,
    /// It must have run for this long.
    pub(crate) life: Option<Duration>,
    /// It must send `ready`.
    pub(crate) message: bool,
}

impl Wanted {
    fn signs(&self) -> impl Iterator<Item = Sign> {
        let all = [
            self.port.map(|_| Sign::Listens),
            self.path.as_ref().map(|_| Sign::Answers),
            self.life.map(|_| Sign::Lives),
            self.message.then_some(Sign::Says),
        ];
        all.into_iter().flatten()
    }
}

/// The checks that one worker has passed so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(BTreeSet<Sign>);

impl Shown {
    /// Adds a sign; returns whether the worker is ready now.
    pub(crate) fn add(&mut self, sign: Sign, wanted: &Wanted) -> bool {
        self.0.insert(sign);
        wanted.signs().all(|sign| self.0.contains(&sign))
    }

    /// Whether it listens on its port.
    pub(crate) fn listens(&self) -> bool {
        self.0.contains(&Sign::Listens)
    }

    /// The missing checks in words, with the cure if there is one; `None` if none is
    /// missing. `elsewhere` is another port that the worker listens on.
    pub(crate) fn missing(&self, wanted: &Wanted, elsewhere: Option<u16>) -> Option<String> {
        let all = [
            wanted.port.map(|port| {
                let words = match elsewhere {
                    Some(other) => format!("it listens on {other}, --port is {port}"),
                    None => format!("it does not listen on port {port}"),
                };
                (Sign::Listens, words)
            }),
            // A worker that does not listen cannot answer; that is already said.
            wanted
                .path
                .as_ref()
                .filter(|_| self.0.contains(&Sign::Listens))
                .map(|path| {
                    let words = format!(
                        "it does not answer GET {path} with 2xx or 3xx (--readiness-path)"
                    );
                    (Sign::Answers, words)
                }),
            wanted.life.map(|life| {
                let words = format!("it has not run for {life:?} (--ready-after)");
                (Sign::Lives, words)
            }),
            wanted.message.then(|| {
                let words = "it has not sent the message \"ready\" (--wait-ready: process.send('ready') in \
                     the process that is started, which npm does not pass on)";
                (Sign::Says, words.to_owned())
            }),
        ];
        let missing = all.into_iter().flatten();
        let missing = missing.filter(|(sign, _)| !self.0.contains(sign));
        let words: Vec<String> = missing.map(|(_, words)| words).collect();
        let told = !words.is_empty();
        let mut text = words.join(", and ");
        if told && self.0.contains(&Sign::Says) && wanted.message {
            text = format!("it has sent \"ready\", but {text}");
        }
        told.then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENS: Wanted = Wanted {
        port: Some(3000),
        path: None,
        life: None,
        message: false,
    };

    fn wanted(message: bool, path: Option<&str>) -> Wanted {
        Wanted {
            path: path.map(str::to_owned),
            message,
            ..LISTENS
        }
    }

    #[test]
    fn a_worker_is_ready_once_it_has_passed_every_check_in_any_order() {
        use Sign::{Answers, Listens, Lives, Says};
        let lives = Wanted {
            port: None,
            life: Some(Duration::from_secs(1)),
            ..LISTENS
        };
        let says = Wanted {
            port: None,
            message: true,
            ..LISTENS
        };
        for (wanted, signs, enough) in [
            (LISTENS, &[Listens][..], &[true][..]),
            (LISTENS, &[Says, Listens], &[false, true]),
            (wanted(true, None), &[Listens, Says], &[false, true]),
            (wanted(true, None), &[Says, Listens], &[false, true]),
            (
                wanted(true, Some("/h")),
                &[Listens, Says, Says, Answers, Answers],
                &[false, false, false, true, true],
            ),
            (
                wanted(false, Some("/h")),
                &[Listens, Listens, Answers],
                &[false, false, true],
            ),
            (lives, &[Says, Lives], &[false, true]),
            (says, &[Listens, Lives, Says], &[false, false, true]),
        ] {
            let mut shown = Shown::default();
            let seen: Vec<bool> = signs.iter().map(|sign| shown.add(*sign, &wanted)).collect();
            assert_eq!(seen, enough, "{wanted:?} {signs:?}");
            assert_eq!(shown.missing(&wanted, None), None);
        }
    }

    #[test]
    fn missing_checks_are_named() {
        use Sign::{Listens, Says};
        for (wanted, signs, elsewhere, said) in [
            (LISTENS, &[][..], None, "it does not listen on port 3000"),
            (
                LISTENS,
                &[],
                Some(4000),
                "it listens on 4000, --port is 3000",
            ),
            (
                wanted(true, None),
                &[Says],
                None,
                "it has sent \"ready\", but it does not listen on port 3000",
            ),
            (
                wanted(true, None),
                &[],
                None,
                "it does not listen on port 3000, and it has not sent the message \"ready\"",
            ),
            (
                wanted(true, Some("/h")),
                &[Listens, Says],
                None,
                "it has sent \"ready\", but it does not answer GET /h",
            ),
        ] {
            let mut shown = Shown::default();
            for sign in signs {
                assert!(!shown.add(*sign, &wanted));
            }
            let missing = shown.missing(&wanted, elsewhere).unwrap();
            assert!(missing.starts_with(said), "{missing}");
        }
    }
}
