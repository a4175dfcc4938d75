//! `explain`: what a condition or a reason means, from the page docs/status.md, which is part of
//! this program. Needs no cluster.

use crate::outcome::{Ended, Failure, GOOD};
use crate::output;

const PAGE: &str = include_str!("../../../docs/status.md");

/// Reasons that only events have; the page describes them in its text.
const EVENTS: [(&str, &str); 5] = [
    (
        "SlotTakenOver",
        "an event: another balancer answers at a slot's address, because the slot's own does not serve",
    ),
    (
        "SlotReturned",
        "an event: a slot's own balancer answers there again",
    ),
    (
        "WorkersChanged",
        "an event: the number of workers in the pods changes",
    ),
    ("Reloading", "an event: a reload begins"),
    (
        "Removed",
        "an event: objects that are no longer needed are deleted",
    ),
];

/// A condition or a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    word: String,
    meaning: String,
    cure: String,
}

/// The rows of the page's tables. A row may be about several words.
fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let words = cells.next().unwrap_or_default();
        let meaning = plain(cells.next().unwrap_or_default());
        let cure = plain(cells.next().unwrap_or_default());
        for word in words.split('`').skip(1).step_by(2) {
            entries.push(Entry {
                word: word.to_owned(),
                meaning: meaning.clone(),
                cure: cure.clone(),
            });
        }
    }
    entries.extend(EVENTS.map(|(word, meaning)| Entry {
        word: word.to_owned(),
        meaning: meaning.to_owned(),
        cure: String::new(),
    }));
    entries
}

/// Text without the marks of markdown: a link becomes its words, and the page it leads to.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((words, after)) = link.split_once("](") else {
            break;
        };
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        shown += before;
        shown += words;
        let page = target.split('#').next().unwrap_or_default();
        if !page.is_empty() && !page.contains("://") {
            shown = format!("{shown} (docs/{page})");
        }
        rest = after;
    }
    shown += rest;
    shown.replace('`', "").trim_matches([' ', '|']).to_owned()
}

/// Runs the verb.
pub(crate) fn run(word: Option<&str>) -> Ended {
    output::write(&text(word)?)?;
    Ok(GOOD)
}

fn text(word: Option<&str>) -> Result<String, Failure> {
    let entries = entries();
    let Some(word) = word else {
        let width = entries
            .iter()
            .map(|entry| entry.word.len())
            .max()
            .unwrap_or(0);
        let line = |entry: &Entry| format!("{:<width$}  {}\n", entry.word, entry.meaning);
        return Ok(entries.iter().map(line).collect());
    };
    let mut known: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.word.eq_ignore_ascii_case(word))
        .collect();
    known.dedup();
    if known.is_empty() {
        return Err(match near(word, &entries) {
            Some(near) => Failure::usage(format!(
                "{word:?} is neither a condition nor a reason: did you mean {near}?"
            )),
            None => Failure::usage(format!(
                "{word:?} is neither a condition nor a reason: `kubectl scaledapp explain` lists all"
            )),
        });
    }
    let show = |entry: &&Entry| {
        let cure = match entry.cure.as_str() {
            "" => String::new(),
            cure => format!("What to do: {cure}\n"),
        };
        format!("{}: {}\n{cure}", entry.word, entry.meaning)
    };
    Ok(known.iter().map(show).collect::<Vec<_>>().join("\n"))
}

/// A word that contains the given one, otherwise one that begins like it.
fn near(word: &str, entries: &[Entry]) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let begin = &word[..word.floor_char_boundary(4)];
    let find = |is_it: &dyn Fn(&str) -> bool| {
        let mut words = entries.iter().map(|entry| &entry.word);
        words
            .find(|word| is_it(&word.to_ascii_lowercase()))
            .cloned()
    };
    find(&|known| known.contains(&word))
        .or_else(|| find(&|known| word.len() > 4 && known.starts_with(begin)))
}

/// All words, for completion.
pub(crate) fn words() -> Vec<(String, String)> {
    let mut words: Vec<_> = entries()
        .into_iter()
        .map(|entry| (entry.word, entry.meaning))
        .collect();
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use scaledapp_crds::words::Reason;

    use super::*;

    #[test]
    fn every_reason_that_a_condition_may_have_is_explained() {
        let explained: Vec<String> = entries().into_iter().map(|entry| entry.word).collect();
        for reason in Reason::ALL {
            let known = explained.iter().any(|word| word == reason.as_str());
            assert!(known, "{reason} is not in docs/status.md");
        }
        for condition in [
            "Ready",
            "Updated",
            "Degraded",
            "Progressing",
            "Reconciling",
            "Stalled",
        ] {
            assert!(
                explained.iter().any(|word| word == condition),
                "{condition}"
            );
        }
    }

    #[test]
    fn a_word_is_found_in_any_case_and_a_wrong_one_gets_a_hint() {
        let explain = |word| text(Some(word));
        let found = explain("fewerworkersready").unwrap();
        assert_eq!(
            found,
            "FewerWorkersReady: a pod serves with fewer workers than it should\nWhat to do: kubectl logs of the pods\n"
        );
        let linked = explain("NodesWithoutRoom").unwrap();
        assert!(
            linked.contains("pods and nodes (docs/placement.md)"),
            "{linked}"
        );
        assert!(
            explain("FewerWorkers")
                .unwrap_err()
                .text
                .contains("did you mean FewerWorkersReady?")
        );
        assert_eq!(explain("nonsense").unwrap_err().code, crate::outcome::USAGE);
        assert!(text(None).unwrap().lines().count() > 35);
    }
}
