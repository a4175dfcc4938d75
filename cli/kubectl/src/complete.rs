//! Completion: the scripts for shells, and `__complete`, which they and kubectl call. Its output is
//! cobra's: one candidate a line, with a tab before its help, and `:4` as the last line, which
//! means that no files are candidates.

use std::time::Duration;

use clap::Command;

use crate::api::Api;
use crate::cli::{self, Connection, Shell, Which};
use crate::explain;
use crate::model::object::text;
use crate::outcome::{Ended, GOOD};
use crate::output;
use crate::read;

/// How long the cluster may take. A shell that waits for candidates is worse than none.
const PATIENCE: Duration = Duration::from_millis(300);

const KUBECTL: &str = "\
#!/bin/sh
# kubectl runs this file for completions after `kubectl scaledapp`, if it is on the PATH with this
# name: kubectl_complete-scaledapp
exec kubectl-scaledapp __complete \"$@\"
";

const BASH: &str = r#"# source <(kubectl-scaledapp completion bash)
_kubectl_scaledapp() {
  local IFS=$'\n'
  local lines=($(kubectl-scaledapp __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  COMPREPLY=()
  local line
  for line in "${lines[@]}"; do
    [[ $line == :* ]] && continue
    COMPREPLY+=("${line%%$'\t'*}")
  done
}
complete -F _kubectl_scaledapp kubectl-scaledapp
"#;

const ZSH: &str = r#"#compdef kubectl-scaledapp
# source <(kubectl-scaledapp completion zsh)
_kubectl_scaledapp() {
  local -a candidates
  local line
  for line in "${(@f)$(kubectl-scaledapp __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ $line == :* || -z $line ]] && continue
    candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  _describe 'kubectl-scaledapp' candidates
}
compdef _kubectl_scaledapp kubectl-scaledapp
"#;

const FISH: &str = r"# kubectl-scaledapp completion fish | source
function __kubectl_scaledapp
  set -l words (commandline -opc) (commandline -ct)
  kubectl-scaledapp __complete $words[2..-1] 2>/dev/null | string match -v ':*'
end
complete -c kubectl-scaledapp -f -a '(__kubectl_scaledapp)'
";

/// Prints a script.
pub(crate) fn script(shell: Shell) -> Ended {
    output::write(match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
        Shell::Kubectl => KUBECTL,
    })?;
    Ok(GOOD)
}

/// What completes the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// One of these, with their help.
    Words(Vec<(String, String)>),
    /// The name of an app.
    Apps,
    /// A namespace.
    Namespaces,
}

fn values(argument: &clap::Arg) -> Wanted {
    match argument.get_id().as_str() {
        "namespace" | "operator_namespace" => return Wanted::Namespaces,
        "name" => return Wanted::Apps,
        "word" => return Wanted::Words(explain::words()),
        _ => {}
    }
    let help = |it: &clap::builder::PossibleValue| {
        it.get_help().map(ToString::to_string).unwrap_or_default()
    };
    let values = argument.get_possible_values();
    Wanted::Words(
        values
            .iter()
            .map(|it| (it.get_name().to_owned(), help(it)))
            .collect(),
    )
}

/// Decides what completes the last of these words. Pure.
fn wanted(command: &Command, words: &[String]) -> Wanted {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut level = command;
    let mut open: Option<&clap::Arg> = None;
    let mut positionals = 0;
    for word in before {
        if open.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            let takes = flag(command, level, word).filter(|it| it.get_action().takes_values());
            open = takes.filter(|_| !word.contains('='));
        } else if let Some(below) = level.find_subcommand(word) {
            level = below;
        } else {
            positionals += 1;
        }
    }
    if let Some(argument) = open {
        return values(argument);
    }
    if let Some((name, _)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        return match flag(command, level, name).map(values) {
            Some(Wanted::Words(words)) => Wanted::Words(
                words
                    .into_iter()
                    .map(|(word, help)| (format!("{name}={word}"), help))
                    .collect(),
            ),
            _ => Wanted::Words(Vec::new()),
        };
    }
    if last.starts_with('-') {
        let all = level.get_arguments().chain(command.get_arguments());
        let mut flags: Vec<(String, String)> = all
            .filter(|it| !it.is_positional() && !it.is_hide_set())
            .filter_map(|it| {
                let help = it.get_help().map(ToString::to_string).unwrap_or_default();
                Some((format!("--{}", it.get_long()?), help))
            })
            .collect();
        flags.sort();
        flags.dedup();
        return Wanted::Words(flags);
    }
    if level.has_subcommands() {
        let verbs = level.get_subcommands().filter(|it| !it.is_hide_set());
        let about = |it: &Command| it.get_about().map(ToString::to_string).unwrap_or_default();
        return Wanted::Words(
            verbs
                .map(|it| (it.get_name().to_owned(), about(it)))
                .collect(),
        );
    }
    let mut arguments = level.get_positionals();
    arguments
        .nth(positionals)
        .map_or(Wanted::Words(Vec::new()), values)
}

/// The flag with this name, of the verb or of all verbs.
fn flag<'a>(command: &'a Command, level: &'a Command, word: &str) -> Option<&'a clap::Arg> {
    let word = word.split('=').next().unwrap_or_default();
    let all = level.get_arguments().chain(command.get_arguments());
    let mut flags = all.filter(|it| !it.is_positional());
    match word.strip_prefix("--") {
        Some(long) => flags.find(|it| it.get_long() == Some(long)),
        None => flags.find(|it| it.get_short() == word.chars().nth(1)),
    }
}

/// The value that an earlier word gives to a flag of the connection.
fn given(words: &[String], names: &[&str]) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if names.contains(&word.as_str()) {
            return words.next().cloned();
        }
        if let Some((name, value)) = word.split_once('=')
            && names.contains(&name)
        {
            return Some(value.to_owned());
        }
    }
    None
}

/// `__complete`.
pub(crate) async fn complete(words: &[String]) -> Ended {
    let command = cli::command("kubectl-scaledapp");
    let found = match wanted(&command, words) {
        Wanted::Words(words) => words,
        cluster => {
            let flags = Connection {
                namespace: given(words, &["-n", "--namespace"]),
                context: given(words, &["--context"]),
                kubeconfig: given(words, &["--kubeconfig"]).map(Into::into),
                as_user: given(words, &["--as"]),
                ..Connection::default()
            };
            let names =
                tokio::time::timeout(PATIENCE, names(&flags, cluster == Wanted::Namespaces));
            names.await.unwrap_or_default()
        }
    };
    let last = words.last().map(String::as_str).unwrap_or_default();
    output::write(&shown(&found, last))?;
    Ok(GOOD)
}

async fn names(flags: &Connection, namespaces: bool) -> Vec<(String, String)> {
    let Ok(api) = Api::connect(flags).await else {
        return Vec::new();
    };
    let found = if namespaces {
        api.list("/api/v1/namespaces").await.unwrap_or_default()
    } else {
        read::apps(&api, &Which::default())
            .await
            .unwrap_or_default()
    };
    let named = found
        .iter()
        .map(|it| (text(it, "/metadata/name"), text(it, "/status/pods")));
    named.collect()
}

fn shown(found: &[(String, String)], last: &str) -> String {
    let candidates = found.iter().filter(|(word, _)| word.starts_with(last));
    let lines = candidates.map(|(word, help)| match help.lines().next() {
        None | Some("") => format!("{word}\n"),
        Some(help) => format!("{word}\t{help}\n"),
    });
    let text: String = lines.collect();
    text + ":4\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Wanted {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        wanted(&cli::command("kubectl-scaledapp"), &words)
    }

    fn words(line: &str) -> Vec<String> {
        match of(line) {
            Wanted::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_flags_values_and_names_are_completed() {
        assert!(words("").contains(&"status".to_owned()));
        assert!(!words("").contains(&"__complete".to_owned()));
        assert!(words("status --").contains(&"--wait".to_owned()));
        assert!(words("status --").contains(&"--namespace".to_owned()));
        assert_eq!(words("status -o "), ["table", "json", "yaml", "name"]);
        assert_eq!(
            words("--color="),
            ["--color=auto", "--color=always", "--color=never"]
        );
        assert_eq!(of("status "), Wanted::Apps);
        assert_eq!(of("-n shop scale "), Wanted::Apps);
        assert_eq!(of("scale hello "), Wanted::Words(Vec::new()));
        assert_eq!(of("status -n "), Wanted::Namespaces);
        assert!(words("explain ").contains(&"FewerWorkersReady".to_owned()));
        assert!(words("completion ").contains(&"kubectl".to_owned()));
    }

    #[test]
    fn the_output_is_cobras() {
        let found = [
            ("status".to_owned(), "Show".to_owned()),
            ("scale".to_owned(), String::new()),
        ];
        assert_eq!(shown(&found, "s"), "status\tShow\nscale\n:4\n");
        assert_eq!(shown(&found, "x"), ":4\n");
        let words = ["-n".to_owned(), "a".to_owned(), "--context=c".to_owned()];
        assert_eq!(given(&words, &["-n"]).as_deref(), Some("a"));
        assert_eq!(given(&words, &["--context"]).as_deref(), Some("c"));
    }
}
