//! Which statements about a client are believed: flags and file become one [`Believed`].

use std::path::PathBuf;

use anyhow::bail;
use scaledapp_proxy::{Callers, Network, Tokens, Trust};
use scaledapp_runtime::follow;

use super::file::FileSettings;
use crate::cli::{DispatchArg, TrustArg, TrustArgs};

/// The largest token file, in bytes: enough for as many tokens as are allowed, each of the largest
/// allowed length.
const TOKEN_FILE_BYTES: u64 = 8 << 10;

/// Which statements about a client are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Believed {
    /// Whether callers are clients or balancers.
    pub(crate) trust: Trust,
    /// The file with the tokens; a balancer must show one of them.
    token_file: Option<PathBuf>,
    /// Further networks whose proxies are believed.
    forwarded_from: Vec<Network>,
}

impl Believed {
    /// Merges the flags with the file.
    ///
    /// # Errors
    /// A network in the file is invalid, or a setting would have no effect.
    pub(super) fn resolve(
        args: &TrustArgs,
        file: &FileSettings,
        dispatch: DispatchArg,
    ) -> anyhow::Result<Self> {
        let trust = args.trust.or(file.trust);
        let token_file = args.trust_token_file.as_ref();
        let token_file = token_file.or(file.trust_token_file.as_ref()).cloned();
        let forwarded_from = match (&args.forwarded_from, &file.forwarded_from) {
            (Some(networks), _) => networks.clone(),
            (None, Some(texts)) => texts
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            (None, None) => Vec::new(),
        };
        if dispatch == DispatchArg::Connection
            && let Some(flag) = given(args, file)
        {
            bail!(
                "{flag} needs --dispatch request: with connection dispatch clients reach the \
                 workers directly, and no field is read or written in between; leave it out"
            );
        }
        let trust = match trust {
            None | Some(TrustArg::Edge) => Trust::Edge,
            Some(TrustArg::Behind) => Trust::Behind,
        };
        if token_file.is_some() && trust == Trust::Edge {
            bail!(
                "--trust-token-file needs --trust behind: at the edge no caller is asked for a \
                 token; give --trust behind, or leave the file out"
            );
        }
        if token_file.is_none() && trust == Trust::Behind && !forwarded_from.is_empty() {
            bail!(
                "--trust behind believes every caller, so --forwarded-from would restrict nothing: \
                 leave --trust behind out to believe only those networks, or give \
                 --trust-token-file to identify our own balancers"
            );
        }
        Ok(Self {
            trust,
            token_file,
            forwarded_from,
        })
    }

    /// The policy for the dispatchers. From this call on, the token file is watched for
    /// changes. This function must be called within a tokio runtime.
    pub(crate) fn callers(&self) -> Callers {
        if self.trust == Trust::Behind && self.token_file.is_none() {
            tracing::warn!(
                "--trust behind without --trust-token-file: every caller is believed about \
                 whom a request comes from; give the file, unless only our balancers reach \
                 this port"
            );
        }
        let tokens = self.token_file.clone().map(|path| {
            let without = "every caller is treated as an unknown client";
            let none = Tokens::default();
            follow(path, TOKEN_FILE_BYTES, none, without, Tokens::parse)
        });
        Callers {
            forwarded_from: self.forwarded_from.as_slice().into(),
            tokens,
            ..Callers::default()
        }
    }
}

/// The first of the trust settings that is given, as a flag or in the file.
pub(super) fn given(args: &TrustArgs, file: &FileSettings) -> Option<&'static str> {
    let flags = [
        ("--trust", args.trust.or(file.trust).is_some()),
        (
            "--trust-token-file",
            args.trust_token_file.is_some() || file.trust_token_file.is_some(),
        ),
        (
            "--forwarded-from",
            args.forwarded_from.is_some() || file.forwarded_from.is_some(),
        ),
    ];
    let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
    given.next().map(|(flag, _)| flag)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::settings::Settings;

    fn resolve(words: &[&str]) -> anyhow::Result<Believed> {
        let before = ["scaledapp-sidecar", "run"];
        let words = before.iter().chain(words).chain(&["--", "app"]);
        match Cli::try_parse_from(words)?.command {
            Command::Run(args) => Ok(Settings::resolve(*args)?.believed),
            other => bail!("parsed as {other:?}"),
        }
    }

    #[test]
    fn callers_are_unknown_clients_by_default() {
        let believed = resolve(&[]).unwrap();
        assert_eq!(believed.trust, Trust::Edge);
        assert!(believed.forwarded_from.is_empty() && believed.token_file.is_none());
        let words = ["--trust", "behind", "--trust-token-file", "/t"];
        let believed = resolve(&words).unwrap();
        assert_eq!(believed.trust, Trust::Behind);
        assert_eq!(believed.token_file, Some(PathBuf::from("/t")));
        let json = r#"{"trust": "edge", "forwardedFrom": ["10.0.0.0/8", "fd00::1"]}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, json).unwrap();
        let path = file.path().to_str().unwrap();
        let believed = resolve(&["--config", path]).unwrap();
        assert_eq!(believed.forwarded_from.len(), 2);
        let flag = ["--config", path, "--forwarded-from", "192.0.2.1"];
        let networks = resolve(&flag).unwrap().forwarded_from;
        assert_eq!(networks, ["192.0.2.1/32".parse().unwrap()]);
    }

    #[test]
    fn settings_without_effect_are_refused_with_the_cure() {
        let token = ["--trust-token-file", "/t"];
        let behind = ["--trust", "behind"];
        let from = ["--forwarded-from", "10.0.0.0/8"];
        for (words, cure) in [
            (token.to_vec(), "give --trust behind"),
            ([behind, from].concat(), "leave --trust behind out"),
            (
                [behind, ["--dispatch", "connection"]].concat(),
                "leave it out",
            ),
            (
                [from, ["--dispatch", "connection"]].concat(),
                "leave it out",
            ),
            ([from, ["--port", "none"]].concat(), "give --port a number"),
            (vec!["--trust", "nobody"], "edge, behind"),
            (
                vec!["--forwarded-from", "10.0.0.1/8"],
                "give 10.0.0.0/8 for the whole network",
            ),
            (vec!["--forwarded-from", ""], "such as 10.0.0.0/8"),
        ] {
            let message = format!("{:#}", resolve(&words).unwrap_err());
            assert!(message.contains(cure), "{words:?}: {message}");
        }
        assert!(resolve(&[&behind[..], &from, &token].concat()).is_ok());
    }
}
