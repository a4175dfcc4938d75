//! Checks that the pages of `docs/` are complete: each is in the table of contents, each alert and
//! each reason of a condition is explained. Links are checked in `links.rs`.

use std::collections::BTreeSet;
use std::fs;

use scaledapp_tests::binaries;

use crate::files;

fn read(path: &str) -> String {
    fs::read_to_string(binaries::workspace().join(path)).unwrap()
}

/// The pages of `docs/`, relative to it, without the table of contents.
fn pages() -> BTreeSet<String> {
    let docs = binaries::workspace().join("docs");
    let mut found = Vec::new();
    files(&docs, "md", &mut found);
    let names = found.iter().map(|path| path.strip_prefix(&docs).unwrap());
    let names = names.map(|path| path.to_string_lossy().into_owned());
    names.filter(|name| name != "SUMMARY.md").collect()
}

/// The headings of this level.
fn headings(text: &str, level: &str) -> BTreeSet<String> {
    let mark = format!("{level} ");
    let found = text.lines().filter_map(|line| line.strip_prefix(&mark));
    found.map(str::to_owned).collect()
}

fn alerts() -> BTreeSet<String> {
    let text = read("charts/scaledapp/files/alerts.yaml");
    let names = text.lines().filter(|line| line.starts_with("ScaledApp"));
    let names = names.filter_map(|line| line.strip_suffix(':'));
    names.map(str::to_owned).collect()
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let summary = read("docs/SUMMARY.md");
    let mut listed = BTreeSet::new();
    for line in summary.lines() {
        let Some((_, target)) = line.split_once("](") else {
            continue;
        };
        let page = target.trim_end_matches(')').to_owned();
        assert!(listed.insert(page), "docs/SUMMARY.md has {line:?} twice");
    }
    let pages = pages();
    let missing: Vec<String> = pages
        .difference(&listed)
        .map(|page| {
            let text = read(&format!("docs/{page}"));
            let title = text.lines().next().unwrap_or("").trim_start_matches("# ");
            format!("- [{title}]({page})")
        })
        .collect();
    assert!(
        missing.is_empty(),
        "docs/SUMMARY.md lacks these pages. Add each line to the part where it belongs: Tutorial \
         (learning by doing), How-to (one task), Coming from, Reference (looking up), Explanation \
         (reasons):\n{}",
        missing.join("\n")
    );
    let gone: Vec<&String> = listed.difference(&pages).collect();
    assert!(
        gone.is_empty(),
        "docs/SUMMARY.md names {gone:?}, which do not exist"
    );
}

#[test]
fn every_page_begins_with_its_title() {
    for page in pages() {
        let text = read(&format!("docs/{page}"));
        assert!(
            text.starts_with("# "),
            "docs/{page} must begin with `# TITLE`"
        );
        let mut in_code = false;
        let titles = text.lines().filter(|line| {
            in_code ^= line.starts_with("```");
            !in_code && line.starts_with("# ")
        });
        assert_eq!(titles.count(), 1, "docs/{page} has several titles");
    }
}

#[test]
fn every_alert_has_a_page_with_all_parts_and_every_page_has_an_alert() {
    let alerts = alerts();
    assert_eq!(alerts.len(), 14, "{alerts:?}");
    let runbooks = pages().into_iter().filter_map(|page| {
        let name = page.strip_prefix("runbooks/")?.strip_suffix(".md")?;
        Some(name.to_owned())
    });
    assert_eq!(runbooks.collect::<BTreeSet<_>>(), alerts);
    let overview = read("docs/alerts.md");
    for alert in &alerts {
        let text = read(&format!("docs/runbooks/{alert}.md"));
        let parts = headings(&text, "##");
        for part in [
            "Meaning",
            "Impact",
            "First minute",
            "Diagnosis",
            "Mitigation",
            "Normal causes",
            "A fault that fires it",
            "Metrics",
        ] {
            assert!(
                parts.contains(part),
                "docs/runbooks/{alert}.md lacks ## {part}"
            );
        }
        assert!(text.starts_with(&format!("# {alert}\n")), "{alert}");
        let row = format!("| [{alert}](runbooks/{alert}.md) |");
        assert!(overview.contains(&row), "docs/alerts.md lacks {alert}");
    }
}

/// The words of the enumeration of reasons.
fn reasons() -> BTreeSet<String> {
    let words = read("crds/src/words.rs");
    let (_, list) = words.split_once("\nreasons! {\n").unwrap();
    let (list, _) = list.split_once("\n}\n").unwrap();
    let names = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','));
    let names = names.filter(|name| name.chars().all(char::is_alphanumeric));
    names.map(str::to_owned).collect()
}

#[test]
fn every_condition_and_every_reason_has_a_section() {
    let page = read("docs/conditions.md");
    let (conditions, sections) = page.split_once("\n## Reasons\n").unwrap();
    let reasons = reasons();
    assert!(reasons.len() > 40, "{reasons:?}");
    let sections_of = headings(sections, "###");
    let missing: Vec<_> = reasons.difference(&sections_of).collect();
    assert!(
        missing.is_empty(),
        "docs/conditions.md lacks `### REASON` for {missing:?}"
    );
    let unknown: Vec<_> = sections_of.difference(&reasons).collect();
    assert!(
        unknown.is_empty(),
        "docs/conditions.md explains {unknown:?}, which are no reasons"
    );
    for part in sections.split("\n### ").skip(1) {
        let name = part.lines().next().unwrap();
        assert!(
            part.contains("**What to do.**"),
            "{name} lacks **What to do.**"
        );
    }
    let conditions = headings(conditions, "###");
    for condition in [
        "Ready",
        "Updated",
        "Degraded",
        "Progressing",
        "Reconciling",
        "Stalled",
    ] {
        assert!(
            conditions.contains(condition),
            "docs/conditions.md lacks {condition}"
        );
    }
}
