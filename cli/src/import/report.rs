//! The report of an import: what became of each field. It decides how the report looks, and
//! which fields nobody has named; the readers of each format decide what becomes of a field.

use std::fmt::Write as _;

use serde::Serialize;

use super::tree::Node;

/// What became of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fate {
    /// It means the same there.
    Kept,
    /// It means something else there, or is done by ScaledApp anyway.
    Changed,
    /// It has no counterpart.
    NoCounterpart,
    /// A person has to decide.
    NeedsYourDecision,
}

impl Fate {
    const ALL: [Self; 4] = [
        Self::NeedsYourDecision,
        Self::NoCounterpart,
        Self::Changed,
        Self::Kept,
    ];

    fn heading(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::NoCounterpart => "no counterpart",
            Self::NeedsYourDecision => "needs your decision",
        }
    }
}

/// What became of one field, and of everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    /// The object, such as `Deployment web` or `service web`.
    pub(super) source: String,
    /// The field, such as `spec.replicas`; empty for the whole object.
    pub(super) field: String,
    pub(super) fate: Fate,
    /// Where it went, such as `spec.replicas.total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    /// Why, or what to do; empty if it is kept as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
}

/// The report of an import.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) entries: Vec<Entry>,
    /// What to do next, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) steps: Vec<String>,
}

impl Report {
    /// The part of the report about one object.
    pub(super) fn of(&mut self, source: impl Into<String>) -> Scope<'_> {
        Scope {
            source: source.into(),
            report: self,
        }
    }

    /// Whether something has no counterpart, or needs a decision.
    pub(super) fn has_losses(&self) -> bool {
        let mut fates = self.entries.iter().map(|entry| entry.fate);
        fates.any(|fate| fate >= Fate::NoCounterpart)
    }

    /// The number of fields with this fate.
    pub(super) fn count(&self, fate: Fate) -> usize {
        let entries = self.entries.iter();
        entries.filter(|entry| entry.fate == fate).count()
    }

    /// The report for a person. What needs attention comes first.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            // Writing into a String cannot fail.
            let _infallible = writeln!(text, "{}", words.trim_end());
        };
        let mut sources: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !sources.contains(&entry.source.as_str()) {
                sources.push(&entry.source);
            }
        }
        for source in sources {
            line(source.to_owned());
            for fate in Fate::ALL {
                let entries = self.entries.iter();
                let these: Vec<&Entry> = entries
                    .filter(|entry| entry.source == source && entry.fate == fate)
                    .collect();
                if !these.is_empty() {
                    line(format!("  {}", fate.heading()));
                }
                for entry in these {
                    line(format!("    {}", sentence(entry)));
                }
            }
        }
        if !self.steps.is_empty() {
            line("next".to_owned());
            for (number, step) in self.steps.iter().enumerate() {
                line(format!("  {}. {step}", number + 1));
            }
        }
        let counts = Fate::ALL.iter().rev();
        let counts: Vec<String> = counts
            .map(|fate| format!("{} {}", self.count(*fate), fate.heading()))
            .collect();
        line(counts.join(", "));
        text
    }
}

fn sentence(entry: &Entry) -> String {
    let field = if entry.field.is_empty() {
        "all of it"
    } else {
        &entry.field
    };
    let to = entry.to.as_ref().map(|to| format!(" → {to}"));
    let note = (!entry.note.is_empty()).then(|| format!(": {}", entry.note));
    let parts = [Some(field.to_owned()), to, note];
    // A control character could change what the terminal shows.
    let text: String = parts.into_iter().flatten().collect();
    text.replace(char::is_control, " ")
}

/// The part of a report about one object.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    source: String,
    report: &'a mut Report,
}

impl Scope<'_> {
    fn add(&mut self, field: &str, fate: Fate, to: Option<&str>, note: impl Into<String>) {
        self.report.entries.push(Entry {
            source: self.source.clone(),
            field: field.to_owned(),
            fate,
            to: to.filter(|to| !to.is_empty()).map(str::to_owned),
            note: note.into(),
        });
    }

    /// The field means the same at `to`.
    pub(super) fn kept(&mut self, field: &str, to: &str) {
        self.add(field, Fate::Kept, Some(to), "");
    }

    /// The field stays, in a way that needs a sentence.
    pub(super) fn stays(&mut self, field: &str, note: impl Into<String>) {
        self.add(field, Fate::Kept, None, note);
    }

    /// The field means something else; `to` may be empty.
    pub(super) fn changed(&mut self, field: &str, to: &str, why: impl Into<String>) {
        self.add(field, Fate::Changed, Some(to), why);
    }

    /// The field has no counterpart.
    pub(super) fn lost(&mut self, field: &str, what_to_do: impl Into<String>) {
        self.add(field, Fate::NoCounterpart, None, what_to_do);
    }

    /// A person has to decide.
    pub(super) fn decide(&mut self, field: &str, what: impl Into<String>) {
        self.add(field, Fate::NeedsYourDecision, None, what);
    }

    /// Whether a field, or something above it, has been named.
    pub(super) fn is_named(&self, path: &str) -> bool {
        let entries = self.report.entries.iter();
        let mut own = entries.filter(|entry| entry.source == self.source);
        own.any(|entry| covers(&entry.field, path))
    }

    /// Names every field of `node` that has not been named, with this note.
    pub(super) fn rest(&mut self, node: &Node, note: &str) {
        for path in node.leaves("") {
            if !self.is_named(&path) {
                self.lost(&path, note);
            }
        }
    }
}

/// Whether `path` is `field` or below it.
pub(super) fn covers(field: &str, path: &str) -> bool {
    field.is_empty()
        || path
            .strip_prefix(field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_what_nobody_has_named() {
        let node: Node = serde_saphyr::from_str("a: {b: 1, c: [2, 3]}\nab: 4\nd: {}\n").unwrap();
        let mut report = Report::default();
        let mut scope = report.of("thing");
        scope.kept("a.c", "spec.c");
        scope.rest(&node, "is not known");
        assert!(report.has_losses());
        assert_eq!(
            report.text(),
            "thing\n  no counterpart\n    a.b: is not known\n    ab: is not known\n    d: is not known\n  \
             kept\n    a.c → spec.c\n1 kept, 0 changed, 3 no counterpart, 0 needs your decision\n"
        );
    }
}
