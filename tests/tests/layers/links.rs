//! Checks the links between the Markdown pages of this repository: the file and the heading must
//! exist. Links to other sites are not followed.

use std::fs;
use std::path::Path;

use scaledapp_tests::binaries;

use crate::files;

#[test]
fn links_between_pages_lead_to_files_and_headings() {
    let root = binaries::workspace();
    let mut pages = Vec::new();
    files(root, "md", &mut pages);
    assert!(pages.len() > 10, "{pages:?}");
    let mut wrong = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text) {
            if let Err(why) = follow(page, link) {
                wrong.push(format!("{}: ({link}): {why}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pages_of_the_book_do_not_lead_out_of_it() {
    let docs = binaries::workspace().join("docs");
    let mut pages = Vec::new();
    files(&docs, "md", &mut pages);
    let mut wrong = Vec::new();
    for page in &pages {
        let directory = page.strip_prefix(&docs).unwrap().parent().unwrap();
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text)
            .into_iter()
            .filter(|link| !link.contains("://"))
        {
            let up = link.split('/').take_while(|part| *part == "..").count();
            if up > directory.components().count() {
                wrong.push(format!("{}: ({link})", page.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the book has only the pages of docs/: name these files in words\n{}",
        wrong.join("\n")
    );
}

/// The targets of `[text](target)` outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = if in_code { "" } else { line };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else {
                break;
            };
            found.push(target);
            rest = after;
        }
    }
    found
}

fn follow(page: &Path, link: &str) -> Result<(), String> {
    if link.contains("://") {
        return Ok(());
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().unwrap_or(page).join(file),
    };
    if !target.exists() {
        return Err(format!("{} does not exist", target.display()));
    }
    if heading.is_empty() {
        return Ok(());
    }
    let text = fs::read_to_string(&target).map_err(|error| error.to_string())?;
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    if headings.any(|line| anchor(line) == heading) {
        Ok(())
    } else {
        Err(format!("{} has no such heading", target.display()))
    }
}

/// The anchor that GitHub makes from a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn anchors_are_made_like_githubs() {
    assert_eq!(
        anchor("## A path that ends workers"),
        "a-path-that-ends-workers"
    );
    assert_eq!(anchor("### `TLS`, and more"), "tls-and-more");
    assert_eq!(
        links("a [b](c.md#d), [e](f)\n```\n[g](h)\n```"),
        ["c.md#d", "f"]
    );
}
