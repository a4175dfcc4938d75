//! The rights that the verbs of this program need, and what is said if one is missing. The page
//! docs/kubectl.md has the same table; a test compares them.

use super::finding::Finding;

/// A right, and what needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    /// With its subresource after a slash.
    pub(crate) resource: &'static str,
    /// The verbs of this program that need it.
    pub(crate) needs: &'static str,
    /// Whether nothing at all is shown without it.
    pub(crate) essential: bool,
}

const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    needs: &'static str,
) -> Right {
    Right {
        verb,
        group,
        resource,
        needs,
        essential: false,
    }
}

/// All rights, in the order in which they are shown.
pub(crate) const RIGHTS: [Right; 10] = [
    Right {
        essential: true,
        ..right("list", "scaledapp.io", "scaledapps", "every verb")
    },
    Right {
        essential: true,
        ..right(
            "get",
            "scaledapp.io",
            "scaledapps",
            "every verb with the name of an app",
        )
    },
    right(
        "list",
        "",
        "pods",
        "status, top, check, logs, reload, restart, open",
    ),
    right(
        "get",
        "",
        "pods/proxy",
        "workers and rates in status, top, check",
    ),
    right(
        "list",
        "discovery.k8s.io",
        "endpointslices",
        "who answers at a slot in status",
    ),
    right("get", "", "pods/log", "logs, support-bundle --logs"),
    right("list", "events.k8s.io", "events", "events"),
    right(
        "patch",
        "scaledapp.io",
        "scaledapps",
        "reload, restart, scale --workers, pause, resume",
    ),
    right("patch", "scaledapp.io", "scaledapps/scale", "scale"),
    right("create", "", "pods/portforward", "open"),
];

/// What follows from the answers of the API server to "may I?".
pub(crate) fn judge(answers: &[(Right, Result<bool, String>)], namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allowed = answers
        .iter()
        .filter(|(_, answer)| *answer == Ok(true))
        .count();
    for (right, answer) in answers {
        let what = format!("{} {}", right.verb, right.resource);
        match answer {
            Ok(true) => {}
            Ok(false) => {
                let text = format!(
                    "may not {what} in {namespace:?}; needed for: {}",
                    right.needs
                );
                let finding = if right.essential {
                    Finding::failure("rights", text)
                } else {
                    Finding::warning("rights", text)
                };
                findings.push(finding.cure(cure(right, namespace)));
            }
            Err(why) => findings.push(Finding::unchecked("rights", format!("{what}: {why}"))),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "rights",
            format!("all {allowed} that this program uses, in {namespace:?}"),
        ));
    }
    findings
}

/// The commands by which somebody who may grant the right does so.
fn cure(right: &Right, namespace: &str) -> String {
    let resource = match (right.group, right.resource.split_once('/')) {
        ("", _) => right.resource.to_owned(),
        (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
        (group, None) => format!("{}.{group}", right.resource),
    };
    let name = format!(
        "scaledapp-{}-{}",
        right.verb,
        right.resource.replace('/', "-")
    );
    format!(
        "cure: kubectl -n {namespace} create role {name} --verb={} --resource={resource}\n      kubectl -n {namespace} create rolebinding {name} --role={name} --user=YOU",
        right.verb
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Outcome;

    #[test]
    fn a_missing_right_is_named_with_what_needs_it_and_the_commands_that_grant_it() {
        let answers: Vec<_> = RIGHTS
            .into_iter()
            .map(|right| (right, Ok(right.resource != "scaledapps/scale")))
            .collect();
        let findings = judge(&answers, "shop");
        let [one] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(one.outcome, Outcome::Warning);
        assert_eq!(
            one.text,
            "may not patch scaledapps/scale in \"shop\"; needed for: scale"
        );
        assert!(
            one.cure
                .as_ref()
                .unwrap()
                .contains("--verb=patch --resource=scaledapps.scaledapp.io/scale")
        );
        let none: Vec<_> = RIGHTS.into_iter().map(|right| (right, Ok(false))).collect();
        let failures = judge(&none, "shop");
        let failures = failures.iter().filter(|it| it.outcome == Outcome::Failure);
        assert_eq!(failures.count(), 2);
        let all: Vec<_> = RIGHTS.into_iter().map(|right| (right, Ok(true))).collect();
        assert_eq!(judge(&all, "shop")[0].outcome, Outcome::Ok);
    }

    #[test]
    fn the_page_has_every_right() {
        let page = include_str!("../../../../docs/kubectl.md");
        for right in RIGHTS {
            let row = format!("| `{}` | `{}` |", right.verb, right.resource);
            assert!(page.contains(&row), "{row} is not in docs/kubectl.md");
        }
    }
}
