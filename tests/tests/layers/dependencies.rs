//! Checks the linked crates against `deny.toml`: licences, one version of each crate, which package
//! may depend on which crate, and the origin of crates.
//!
//! `cargo deny check` checks the same and more, but this test needs neither cargo-deny nor a
//! network.

use std::collections::{BTreeMap, BTreeSet};

use scaledapp_tests::binaries;

use crate::packages::{self, Linked};

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Default)]
struct Rules {
    licences: BTreeSet<String>,
    registries: BTreeSet<String>,
    /// Versions of crates, as `name@version`, that may be linked beside another version of the
    /// crate.
    skipped: BTreeSet<String>,
    /// Crates with the packages that may depend on them.
    wrappers: BTreeMap<String, BTreeSet<String>>,
}

impl Rules {
    fn read() -> Self {
        let text = std::fs::read_to_string(binaries::workspace().join("deny.toml")).unwrap();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut rules = Self::default();
        let mut list = String::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, "[")) = line.split_once(" = ") {
                key.clone_into(&mut list);
                continue;
            }
            let mut words = line.split('"').skip(1).step_by(2).map(str::to_owned);
            let Some(first) = words.next().filter(|_| line.starts_with(' ')) else {
                continue;
            };
            match list.as_str() {
                "allow" => _ = rules.licences.insert(first),
                "allow-registry" => _ = rules.registries.insert(first),
                "skip" => _ = rules.skipped.insert(first),
                "deny" => {
                    let inner = line.split_once("wrappers = [");
                    let inner = inner.and_then(|(_, rest)| rest.split_once(']'));
                    let names = inner.map_or("", |(names, _)| names);
                    let names = names.split('"').skip(1).step_by(2).map(str::to_owned);
                    rules.wrappers.insert(first, names.collect());
                }
                _ => {}
            }
        }
        rules
    }

    /// Whether the allowed licences satisfy an SPDX expression. Old manifests write `/` for `OR`.
    fn allow(&self, expression: &str) -> bool {
        let expression = expression.replace('/', " OR ");
        let expression = expression.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<_> = expression.split_whitespace().collect();
        let mut at = 0;
        let met = self.either(&words, &mut at);
        met && at == words.len()
    }

    fn either(&self, words: &[&str], at: &mut usize) -> bool {
        let mut met = self.both(words, at);
        while words.get(*at) == Some(&"OR") {
            *at += 1;
            met |= self.both(words, at);
        }
        met
    }

    fn both(&self, words: &[&str], at: &mut usize) -> bool {
        let mut met = self.one(words, at);
        while words.get(*at) == Some(&"AND") {
            *at += 1;
            met &= self.one(words, at);
        }
        met
    }

    fn one(&self, words: &[&str], at: &mut usize) -> bool {
        let first = words.get(*at).copied().unwrap_or_default();
        *at += 1;
        if first == "(" {
            let met = self.either(words, at);
            *at += 1;
            return met;
        }
        let mut name = first.to_owned();
        if words.get(*at) == Some(&"WITH") {
            name = words[*at - 1..(*at + 2).min(words.len())].join(" ");
            *at += 2;
        }
        self.licences.contains(&name)
    }
}

/// All violations, each with its cure.
fn wrong(rules: &Rules, linked: &[Linked]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in linked {
        let Linked { name, version, .. } = package;
        versions.entry(name).or_default().insert(version);
        if !rules.allow(&package.license) {
            wrong.push(format!(
                "{name} {version} has the licence {:?}: do without it, or allow the licence in deny.toml",
                package.license
            ));
        }
        // A package without a source belongs to this workspace.
        let registry = package.source.as_deref();
        let registry = registry.map(|source| source.trim_start_matches("registry+"));
        if registry.is_some_and(|registry| !rules.registries.contains(registry)) {
            wrong.push(format!(
                "{name} comes from {registry:?}: take a release from crates.io"
            ));
        }
        for on in &package.on {
            if rules
                .wrappers
                .get(on)
                .is_some_and(|who| !who.contains(name))
            {
                wrong.push(format!(
                    "{name} depends on {on}, which is not allowed: use a package that may depend on it, or name {name} in the entry of {on} in deny.toml and give the reason in the commit"
                ));
            }
        }
    }
    let mut skipped = rules.skipped.clone();
    for (name, versions) in versions {
        let allowed = |version: &&&str| !skipped.contains(&format!("{name}@{version}"));
        let left: Vec<_> = versions.iter().filter(allowed).collect();
        if versions.len() > 1 && left.len() > 1 {
            wrong.push(format!(
                "{name} is linked as {versions:?}: use one version everywhere (cargo tree -i {name}), or name the older one in `skip` of deny.toml with the crate that needs it"
            ));
        }
        if versions.len() > 1 {
            skipped.retain(|skip| {
                let version = skip
                    .strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix('@'));
                !version.is_some_and(|version| versions.contains(version))
            });
        }
    }
    for skip in skipped {
        wrong.push(format!(
            "{skip} no longer has another version beside it: remove it from `skip` of deny.toml"
        ));
    }
    wrong
}

#[test]
fn linked_crates_satisfy_deny_toml() {
    let (rules, linked) = (Rules::read(), packages::linked());
    assert!(linked.len() > 150, "{}", linked.len());
    assert!(
        rules.licences.len() > 4 && rules.wrappers.len() > 15,
        "{rules:?}"
    );
    let wrong = wrong(&rules, &linked);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_package_that_deny_toml_names_as_a_wrapper_depends_on_the_crate() {
    let linked = packages::linked();
    let mut idle = Vec::new();
    for (on, who) in Rules::read().wrappers {
        for name in who {
            let is_it = |package: &&Linked| package.name == name && package.on.contains(&on);
            if !linked.iter().any(|package| is_it(&package)) {
                idle.push(format!("{name} for {on}"));
            }
        }
    }
    assert!(
        idle.is_empty(),
        "remove these wrappers from deny.toml, because they no longer depend on the crate: {}",
        idle.join(", ")
    );
}

#[test]
fn each_rule_finds_its_violation() {
    let rules = Rules::parse(
        "# allow = [\nallow = [\n    \"MIT\",\n    \"A WITH b\",\n]\nallow-registry = [\n    \"https://here\",\n]\n\
         skip = [\n    { crate = \"old@1.0.0\", reason = \"x\" },\n    { crate = \"gone@1.0.0\" },\n]\n\
         deny = [\n    { crate = \"tls\", wrappers = [\"one\", \"two\"], reason = \"y\" },\n    { crate = \"never\", reason = \"z\" },\n]\n",
    );
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR (MIT AND MIT)", true),
        ("(MIT OR GPL-3.0) AND GPL-3.0", false),
        ("A WITH b", true),
        ("A", false),
        ("", false),
    ] {
        assert_eq!(rules.allow(expression), expected, "{expression}");
    }
    let package = |name: &str, version: &str, on: &[&str]| Linked {
        name: name.to_owned(),
        version: version.to_owned(),
        license: "MIT".to_owned(),
        source: Some("registry+https://here".to_owned()),
        on: on.iter().map(|&on| on.to_owned()).collect(),
    };
    let good = [
        package("one", "1.0.0", &["tls", "old"]),
        package("old", "1.0.0", &[]),
        package("old", "2.0.0", &[]),
        package("gone", "1.0.0", &[]),
        package("gone", "2.0.0", &[]),
    ];
    assert!(
        wrong(&rules, &good).is_empty(),
        "{:?}",
        wrong(&rules, &good)
    );
    let bad = [
        package("three", "1.0.0", &["tls", "never"]),
        package("three", "2.0.0", &[]),
        package("old", "1.0.0", &[]),
        Linked {
            license: "GPL-3.0".to_owned(),
            source: Some("git+https://there".to_owned()),
            ..package("far", "1.0.0", &[])
        },
    ];
    let wrong = wrong(&rules, &bad);
    for words in [
        "three depends on tls",
        "three depends on never",
        "three is linked as",
        "old@1.0.0 no longer",
        "gone@1.0.0 no longer",
        "far 1.0.0 has the licence",
        "far comes from",
    ] {
        let count = wrong.iter().filter(|line| line.starts_with(words)).count();
        assert_eq!(count, 1, "{words}: {wrong:?}");
    }
    assert_eq!(wrong.len(), 7, "{wrong:?}");
}
