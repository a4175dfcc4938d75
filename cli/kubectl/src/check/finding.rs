//! A finding of `check`, and how all findings are shown and counted.

use serde::Serialize;

use crate::outcome::{FAILS, GOOD, UNKNOWN};
use crate::text::{Line, Style};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It is as it should be.
    Ok,
    /// It works, and something is not as it should be.
    Warning,
    /// Something does not work.
    Failure,
    /// It could not be found out.
    Unchecked,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was checked, such as `rights`; the same in every release.
    pub(crate) id: &'static str,
    pub(crate) outcome: Outcome,
    /// What was found, in one line.
    pub(crate) text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cure: Option<String>,
}

impl Finding {
    pub(crate) fn ok(id: &'static str, text: impl Into<String>) -> Self {
        Self::new(id, Outcome::Ok, text)
    }

    pub(crate) fn warning(id: &'static str, text: impl Into<String>) -> Self {
        Self::new(id, Outcome::Warning, text)
    }

    pub(crate) fn failure(id: &'static str, text: impl Into<String>) -> Self {
        Self::new(id, Outcome::Failure, text)
    }

    /// The reason why something could not be found out.
    pub(crate) fn unchecked(id: &'static str, why: impl AsRef<str>) -> Self {
        Self::new(
            id,
            Outcome::Unchecked,
            format!("not checked: {}", why.as_ref()),
        )
    }

    fn new(id: &'static str, outcome: Outcome, text: impl Into<String>) -> Self {
        Self {
            id,
            outcome,
            text: text.into(),
            cure: None,
        }
    }

    /// Adds what to do.
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// A group of findings about one subject, and how long finding out took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) milliseconds: u64,
    pub(crate) findings: Vec<Finding>,
}

/// `check` as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) version: u32,
    /// Whether nothing fails.
    pub(crate) success: bool,
    pub(crate) exit_code: u8,
    pub(crate) groups: Vec<Group>,
}

impl Report {
    /// Decides the exit code: a failure comes before what could not be found out.
    pub(crate) fn new(groups: Vec<Group>, strict: bool) -> Self {
        let has = |outcome| {
            let mut findings = groups.iter().flat_map(|group| &group.findings);
            findings.any(|finding| finding.outcome == outcome)
        };
        let fails = has(Outcome::Failure) || strict && has(Outcome::Warning);
        let exit_code = match (fails, has(Outcome::Unchecked)) {
            (true, _) => FAILS,
            (false, true) => UNKNOWN,
            (false, false) => GOOD,
        };
        Self {
            version: 1,
            success: !fails,
            exit_code,
            groups,
        }
    }

    /// The lines for people.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let names = self.groups.iter().map(|group| group.name.len());
        let width = names.max().unwrap_or(0);
        let mut lines = Vec::new();
        for group in &self.groups {
            for (at, finding) in group.findings.iter().enumerate() {
                let name = if at == 0 { group.name } else { "" };
                let (style, sign) = match finding.outcome {
                    Outcome::Ok => (Style::Good, "ok"),
                    Outcome::Warning => (Style::Warning, "! "),
                    Outcome::Failure => (Style::Bad, "x "),
                    Outcome::Unchecked => (Style::Warning, "? "),
                };
                lines.push(
                    Line::default()
                        .plain(format!("{name:<width$}  "))
                        .styled(style, sign)
                        .plain(format!("  {}", finding.text)),
                );
                for line in finding.cure.iter().flat_map(|cure| cure.lines()) {
                    let indent = format!("{:<width$}      ", "");
                    lines.push(Line::default().plain(indent).styled(Style::Dim, line));
                }
            }
        }
        lines.push(Line::default().plain(self.sum()));
        lines
    }

    fn sum(&self) -> String {
        let count = |outcome| {
            let findings = self.groups.iter().flat_map(|group| &group.findings);
            findings
                .filter(|finding| finding.outcome == outcome)
                .count()
        };
        let mut parts = vec![format!("{} ok", count(Outcome::Ok))];
        for (outcome, one) in [(Outcome::Warning, "warning"), (Outcome::Failure, "failure")] {
            if count(outcome) > 0 {
                parts.push(crate::text::count(count(outcome), one));
            }
        }
        if count(Outcome::Unchecked) > 0 {
            parts.push(format!("{} not checked", count(Outcome::Unchecked)));
        }
        format!("{}   exit {}", parts.join(", "), self.exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(findings: Vec<Finding>) -> Vec<Group> {
        vec![Group {
            name: "rights",
            milliseconds: 3,
            findings,
        }]
    }

    #[test]
    fn the_exit_code_says_the_worst() {
        let (ok, warning) = (Finding::ok("a", "x"), Finding::warning("a", "x"));
        let (failure, not) = (Finding::failure("a", "x"), Finding::unchecked("a", "x"));
        for (findings, strict, expected) in [
            (vec![ok.clone()], false, 0),
            (vec![ok.clone(), warning.clone()], false, 0),
            (vec![ok.clone(), warning], true, 1),
            (vec![ok.clone(), not.clone()], false, 2),
            (vec![ok, not, failure], false, 1),
        ] {
            let report = Report::new(group(findings), strict);
            assert_eq!(report.exit_code, expected, "{report:?}");
            assert_eq!(report.success, expected != 1);
        }
    }

    #[test]
    fn each_finding_is_a_line_with_its_cure_below() {
        let findings = vec![
            Finding::ok("a", "may read"),
            Finding::failure("b", "may not patch").cure("kubectl create …\nor ask"),
        ];
        let report = Report::new(group(findings), false);
        let shown = crate::text::page(&report.lines(), false);
        assert_eq!(
            shown,
            "rights  ok  may read\n        x   may not patch\n            kubectl create …\n            or ask\n1 ok, 1 failure   exit 1\n"
        );
    }
}
