//! When a worker counts as ready: what it must show, what it has shown, and in
//! words what is missing. How the signs are seen is in `workers` and `channel`;
//! by when they must be there is the engine's matter.

pub(crate) mod channel;
pub(crate) mod probe;

use std::collections::BTreeSet;
use std::time::Duration;

/// Something that a worker has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sign {
    /// It listens on the app's port.
    Listens,
    /// It answers at the readiness path.
    Answers,
    /// It has lived for as long as it must.
    Lives,
    /// It has sent the message `ready`.
    Says,
}

/// What every worker must show; all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// To listen there.
    pub(crate) port: Option<u16>,
    /// To answer there, once it listens.
    pub(crate) path: Option<String>,
    /// To live for so long.
    pub(crate) life: Option<Duration>,
    /// To send `ready`.
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

/// What one worker has shown so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(BTreeSet<Sign>);

impl Shown {
    /// Remembers a sign; whether all that is wanted is shown.
    pub(crate) fn add(&mut self, sign: Sign, wanted: &Wanted) -> bool {
        self.0.insert(sign);
        wanted.signs().all(|sign| self.0.contains(&sign))
    }

    /// Whether it listens on its port.
    pub(crate) fn listens(&self) -> bool {
        self.0.contains(&Sign::Listens)
    }

    /// What is wanted and not shown, with the cure where there is one; `None`:
    /// nothing. `elsewhere` is another port that it listens on.
    pub(crate) fn missing(&self, wanted: &Wanted, elsewhere: Option<u16>) -> Option<String> {
        let all = [
            wanted.port.map(|port| {
                let words = match elsewhere {
                    Some(other) => format!("it listens on {other}, --port is {port}"),
                    None => format!("it does not listen on port {port}"),
                };
                (Sign::Listens, words)
            }),
            // Who does not listen cannot answer: said already.
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
                let words = format!("it has not lived for {life:?} (--ready-after)");
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
    fn ready_is_who_has_shown_all_that_is_wanted_in_any_order() {
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
    fn what_is_missing_is_named() {
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
