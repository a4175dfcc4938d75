//! When a worker counts as ready: the required checks, the passed checks, and a text about
//! what is missing. `workers` and `channel` observe the checks; the engine decides by when
//! they must be passed.

pub(crate) mod channel;
pub(crate) mod probe;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::ProtocolArg;

/// A readiness check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
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
pub(crate) struct RequiredChecks {
    /// It must listen on this port.
    pub(crate) port: Option<u16>,
    /// It must answer at this path, once it listens.
    pub(crate) path: Option<String>,
    /// The protocol in which it must answer.
    pub(crate) protocol: ProtocolArg,
    /// It must have run for this long.
    pub(crate) life: Option<Duration>,
    /// It must send `ready`.
    pub(crate) message: bool,
}

impl RequiredChecks {
    fn checks(&self) -> impl Iterator<Item = Check> {
        let all = [
            self.port.map(|_| Check::Listens),
            self.path.as_ref().map(|_| Check::Answers),
            self.life.map(|_| Check::Lives),
            self.message.then_some(Check::Says),
        ];
        all.into_iter().flatten()
    }
}

/// The checks that one worker has passed so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct PassedChecks(BTreeSet<Check>);

impl PassedChecks {
    /// Records a passed check; returns whether the worker is ready now.
    pub(crate) fn add(&mut self, check: Check, wanted: &RequiredChecks) -> bool {
        self.0.insert(check);
        wanted.checks().all(|check| self.0.contains(&check))
    }

    /// Whether it listens on its port.
    pub(crate) fn listens(&self) -> bool {
        self.0.contains(&Check::Listens)
    }

    /// The missing checks in words, with the cure if there is one; `None` if none is
    /// missing. `elsewhere` is another port that the worker listens on.
    pub(crate) fn missing(
        &self,
        wanted: &RequiredChecks,
        elsewhere: Option<u16>,
    ) -> Option<String> {
        let all = [
            wanted.port.map(|port| {
                let words = match elsewhere {
                    Some(other) => format!("it listens on {other}, --port is {port}"),
                    None => format!("it does not listen on port {port}"),
                };
                (Check::Listens, words)
            }),
            // A worker that does not listen cannot answer; only the missing listener is named.
            wanted
                .path
                .as_ref()
                .filter(|_| self.0.contains(&Check::Listens))
                .map(|path| {
                    let words =
                        format!("it does not answer GET {path} with 2xx or 3xx (--readiness-path)");
                    (Check::Answers, words)
                }),
            wanted.life.map(|life| {
                let words = format!("it has not run for {life:?} (--ready-after)");
                (Check::Lives, words)
            }),
            wanted.message.then(|| {
                let words = "it has not sent the message \"ready\" (--wait-ready: call \
                     process.send('ready') in the process that the supervisor starts; npm does not \
                     pass it on)";
                (Check::Says, words.to_owned())
            }),
        ];
        let missing = all.into_iter().flatten();
        let missing = missing.filter(|(check, _)| !self.0.contains(check));
        let words: Vec<String> = missing.map(|(_, words)| words).collect();
        let told = !words.is_empty();
        let mut text = words.join(", and ");
        if told && self.0.contains(&Check::Says) && wanted.message {
            text = format!("it has sent \"ready\", but {text}");
        }
        told.then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENS: RequiredChecks = RequiredChecks {
        port: Some(3000),
        path: None,
        protocol: ProtocolArg::Http,
        life: None,
        message: false,
    };

    fn wanted(message: bool, path: Option<&str>) -> RequiredChecks {
        RequiredChecks {
            path: path.map(str::to_owned),
            message,
            ..LISTENS
        }
    }

    #[test]
    fn a_worker_is_ready_once_it_has_passed_every_check_in_any_order() {
        use Check::{Answers, Listens, Lives, Says};
        let lives = RequiredChecks {
            port: None,
            life: Some(Duration::from_secs(1)),
            ..LISTENS
        };
        let says = RequiredChecks {
            port: None,
            message: true,
            ..LISTENS
        };
        for (wanted, checks, enough) in [
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
            let mut shown = PassedChecks::default();
            let seen: Vec<bool> = checks
                .iter()
                .map(|check| shown.add(*check, &wanted))
                .collect();
            assert_eq!(seen, enough, "{wanted:?} {checks:?}");
            assert_eq!(shown.missing(&wanted, None), None);
        }
    }

    #[test]
    fn missing_checks_are_named() {
        use Check::{Listens, Says};
        for (wanted, checks, elsewhere, said) in [
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
            let mut shown = PassedChecks::default();
            for check in checks {
                assert!(!shown.add(*check, &wanted));
            }
            let missing = shown.missing(&wanted, elsewhere).unwrap();
            assert!(missing.starts_with(said), "{missing}");
        }
    }
}
