//! Decides which imports between the files of a package are allowed: no circles, and no import from
//! the file of a module above.
//!
//! The present exceptions are listed here, each with a reason or a cure. No exception may be added,
//! and an entry that no longer applies fails the test and must be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::graph::Graph;
use crate::packages;

/// Files that import each other, and the reason or the cure.
struct Circle {
    package: &'static str,
    files: &'static [&'static str],
    reason: &'static str,
}

/// Files that import an item from the file of a module above them, and the cure.
struct Upward {
    package: &'static str,
    /// The file of the module above, from which the files import.
    above: &'static str,
    files: &'static [&'static str],
    reason: &'static str,
}

const CIRCLES: [Circle; 4] = [
    Circle {
        package: "scaledapp-engine",
        files: &["ending.rs", "engine.rs", "replace.rs", "view.rs"],
        reason: "one type, `Engine`, whose methods are in four files; it stays",
    },
    Circle {
        package: "scaledapp-crds",
        files: &["lib.rs", "read.rs"],
        reason: "`API_VERSION` and `KIND` are in lib.rs; they belong in words.rs",
    },
    Circle {
        package: "scaledapp-watch",
        files: &["client.rs", "follow.rs"],
        reason: "`chain` is in client.rs; it belongs in a file of its own",
    },
    Circle {
        package: "xtask",
        files: &[
            "kind.rs",
            "kind/check.rs",
            "kind/cluster.rs",
            "kind/deploy.rs",
            "kind/network.rs",
            "kind/source.rs",
        ],
        reason: "`Cluster` is in kind.rs, and `engine` in cluster.rs; each belongs in a file of its own",
    },
];

const UPWARD: [Upward; 2] = [
    Upward {
        package: "scaledapp-crds",
        above: "lib.rs",
        files: &["read.rs"],
        reason: "as in the circle",
    },
    Upward {
        package: "xtask",
        above: "kind.rs",
        files: &[
            "kind/check.rs",
            "kind/cluster.rs",
            "kind/deploy.rs",
            "kind/network.rs",
        ],
        reason: "as in the circle",
    },
];

/// The packages of the workspace by name, with the imports of their files.
fn graphs() -> Vec<(String, Graph)> {
    let packages = packages::ours();
    let graphs = packages.into_iter().map(|package| {
        let graph = Graph::read(&package.directory, &package.name);
        (package.name, graph)
    });
    graphs.collect()
}

#[test]
fn there_are_no_circles_of_imports_except_the_listed_ones() {
    let mut wrong = String::new();
    let mut open: Vec<_> = CIRCLES.iter().collect();
    for (package, graph) in graphs() {
        for circle in graph.circles() {
            let is_it = |listed: &&Circle| {
                let files: BTreeSet<_> = listed.files.iter().copied().collect();
                listed.package == package && files == circle
            };
            if let Some(at) = open.iter().position(is_it) {
                open.swap_remove(at);
                continue;
            }
            writeln!(wrong, "{package}: a circle of files: {circle:?}").unwrap();
            for (from, to, paths) in graph.within(&circle) {
                writeln!(wrong, "    {from} imports {to} ({paths})").unwrap();
            }
        }
    }
    for circle in open {
        let Circle {
            package,
            files,
            reason,
        } = circle;
        writeln!(
            wrong,
            "{package}: there is no circle of exactly {} ({reason}): remove it from CIRCLES in tests/tests/layers/imports.rs, or remove only the files that no longer belong to it",
            files.join(", ")
        )
        .unwrap();
    }
    assert!(
        wrong.is_empty(),
        "Move what two files need of each other into a third that imports neither, or pass it as an argument. \
         (The listed circles are to be removed one by one; add none.)\n{wrong}"
    );
}

#[test]
fn no_file_imports_what_the_file_of_a_module_above_it_defines() {
    let mut wrong = String::new();
    let mut open: BTreeMap<_, _> = UPWARD.iter().flat_map(Upward::pairs).collect();
    let graphs = graphs();
    for (package, graph) in &graphs {
        for (file, above, paths) in graph.upward() {
            if open.remove(&(package.as_str(), file, above)).is_none() {
                writeln!(wrong, "{package}: {file} imports {above} ({paths})").unwrap();
            }
        }
    }
    for ((package, file, above), reason) in open {
        writeln!(
            wrong,
            "{package}: {file} no longer imports {above} ({reason}): remove it from UPWARD in tests/tests/layers/imports.rs"
        )
        .unwrap();
    }
    assert!(
        wrong.is_empty(),
        "A module's own file puts together what the files below it define, so none of these may need it: \
         move what both need into a file of its own below the module. (A re-export does not count: an import \
         counts for the file that defines the thing.)\n{wrong}"
    );
}

impl Upward {
    /// Each import with its reason.
    fn pairs(&self) -> impl Iterator<Item = ((&str, &str, &str), &str)> {
        let pair = |file: &&'static str| ((self.package, *file, self.above), self.reason);
        self.files.iter().map(pair)
    }
}

/// Reads a package that consists of `files`.
fn read(files: &[(&str, &str)]) -> Graph {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join("src").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Graph::read(directory.path(), "a-package")
}

/// Each import as "from → to".
fn arrows(graph: &Graph) -> Vec<String> {
    let all = graph.files.iter().map(String::as_str).collect();
    let arrows = graph.within(&all).into_iter();
    arrows
        .map(|(from, to, _)| format!("{from} → {to}"))
        .collect()
}

#[test]
fn an_import_leads_to_the_file_that_defines_the_item() {
    let graph = read(&[
        (
            "lib.rs",
            "mod a; mod b; mod c; pub use b::Thing; pub const N: u8 = 1;",
        ),
        (
            "a.rs",
            "use crate::Thing; fn f() { matches!(1, crate::c::deep::X); }",
        ),
        ("b.rs", "pub struct Thing;"),
        (
            "c.rs",
            "pub mod deep { pub const X: u8 = super::below::Y; } mod below;",
        ),
        (
            "c/below.rs",
            "use super::super::N; pub const Y: u8 = N; use other::Thing;",
        ),
        ("main.rs", "use a_package::{N, Thing as It};"),
    ]);
    let found = arrows(&graph);
    let expected = [
        "lib.rs → b.rs",
        "a.rs → b.rs",
        "a.rs → c.rs",
        "c.rs → c/below.rs",
        "c/below.rs → lib.rs",
        "main.rs → lib.rs",
        "main.rs → b.rs",
    ];
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (
        found.iter().map(String::as_str).collect(),
        expected.into_iter().collect(),
    );
    assert_eq!(found, expected);
    assert!(graph.circles().is_empty(), "{:?}", graph.circles());
    let upward: Vec<_> = graph.upward();
    assert_eq!(
        upward,
        [("c/below.rs", "lib.rs", "super::super::N".to_owned())]
    );
}

#[test]
fn a_circle_is_found_in_every_notation_and_test_code_is_ignored() {
    let text = "use super::b::B; pub struct A; #[cfg(test)] mod tests { use crate::c::C; }";
    let graph = read(&[
        ("main.rs", "mod a; mod b; mod c; mod d; fn main() { a::A; }"),
        ("a.rs", text),
        (
            "b.rs",
            "pub struct B; fn f() -> <u8 as crate::c::C>::X::Y { vec![crate::c::f::<u8>()] }",
        ),
        (
            "c.rs",
            "#[serde(with = \"crate::a::A\")] pub struct C; pub fn f() {} use crate::d;",
        ),
        ("d.rs", "#[cfg(test)] use crate::a::A; use std::c::C;"),
    ]);
    assert_eq!(graph.circles(), [BTreeSet::from(["a.rs", "b.rs", "c.rs"])]);
    assert!(!arrows(&graph).iter().any(|arrow| arrow.contains("d.rs")));
    assert!(graph.upward().is_empty());
}
