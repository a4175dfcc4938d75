//! Finds which file of a crate imports from which other file. The tokens of the sources are read,
//! so that paths in code and in macros count like `use`.
//!
//! An import leads to the file that defines the item, even through a re-export (`pub use`). Test
//! code (`#[cfg(test)]`) is ignored. Method calls on a value, and the expansion of macros, are not
//! detected. `imports` decides whether an import is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;

use crate::tokens::Found;

/// The files of one package and what they import from each other.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Paths below the package's `src`.
    pub(crate) files: Vec<String>,
    /// For each file, the files that it imports and the paths of the imports.
    imports: Vec<BTreeMap<usize, BTreeSet<String>>>,
    /// For each file, the file of the module that declares it.
    parents: Vec<Option<usize>>,
    modules: Vec<Module>,
    /// The name by which `main.rs` imports the library, and the module of `lib.rs`.
    library: Option<(String, usize)>,
}

/// One module: a whole file, or a block `mod name { … }` in a file.
#[derive(Debug)]
struct Module {
    file: usize,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// The items that the module defines itself.
    items: BTreeSet<String>,
    /// The names that the module imports by `use`, each with its path.
    names: BTreeMap<String, Vec<String>>,
    /// The paths that the module imports completely (`use path::*`).
    globs: Vec<Vec<String>>,
    /// Every path in the module's code.
    paths: BTreeSet<Vec<String>>,
}

impl Graph {
    /// Reads the package `name` in `directory`.
    pub(crate) fn read(directory: &Path, name: &str) -> Self {
        let mut graph = Self::default();
        let source = directory.join("src");
        for root in ["lib.rs", "main.rs"] {
            let path = source.join(root);
            if path.is_file() {
                let module = graph.module(None, &source, &path);
                if root == "lib.rs" {
                    graph.library = Some((name.replace('-', "_"), module));
                }
                graph.fill(module, &source, &source, &path);
            }
        }
        graph.link();
        graph
    }

    /// Groups of files in which each file imports every other file, directly or through others.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<&str>> {
        let reached: Vec<_> = (0..self.files.len()).map(|at| self.reached(at)).collect();
        let together = |at: usize| -> BTreeSet<&str> {
            let mutual = reached[at].iter().filter(|to| reached[**to].contains(&at));
            mutual.map(|to| self.files[*to].as_str()).collect()
        };
        let mut circles: Vec<_> = (0..self.files.len()).map(together).collect();
        circles.retain(|circle| circle.len() > 1);
        circles.sort();
        circles.dedup();
        circles
    }

    /// Imports from the file of a module above: the importing file, the imported file, and the
    /// paths.
    pub(crate) fn upward(&self) -> Vec<(&str, &str, String)> {
        let mut found = Vec::new();
        for (at, imports) in self.imports.iter().enumerate() {
            let above = std::iter::successors(self.parents[at], |at| self.parents[*at]);
            for parent in above {
                if imports.contains_key(&parent) {
                    found.push(self.arrow(at, parent));
                }
            }
        }
        found
    }

    /// The imports among `files`: importing file, imported file, and the paths.
    pub(crate) fn within(&self, files: &BTreeSet<&str>) -> Vec<(&str, &str, String)> {
        let is_in = |at: &usize| files.contains(self.files[*at].as_str());
        let from = (0..self.files.len()).filter(is_in);
        let arrows = from.flat_map(|from| {
            let to = self.imports[from].keys().filter(|to| is_in(to));
            to.map(move |to| self.arrow(from, *to))
        });
        arrows.collect()
    }

    fn arrow(&self, from: usize, to: usize) -> (&str, &str, String) {
        let paths: Vec<_> = self.imports[from][&to].iter().map(String::as_str).collect();
        (&self.files[from], &self.files[to], paths.join(", "))
    }

    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            open.extend(self.imports[at].keys().filter(|to| reached.insert(**to)));
        }
        reached
    }

    /// Adds a module that is a file.
    fn module(&mut self, parent: Option<usize>, source: &Path, path: &Path) -> usize {
        let name = path.strip_prefix(source).unwrap_or(path);
        self.files.push(name.display().to_string());
        self.imports.push(BTreeMap::new());
        self.parents.push(parent.map(|at| self.modules[at].file));
        self.block(parent, self.files.len() - 1)
    }

    /// Adds a module within `file`.
    fn block(&mut self, parent: Option<usize>, file: usize) -> usize {
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            names: BTreeMap::new(),
            globs: Vec::new(),
            paths: BTreeSet::new(),
        });
        self.modules.len() - 1
    }

    /// Reads the file at `path`, whose submodules are in `directory`.
    fn fill(&mut self, module: usize, source: &Path, directory: &Path, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let tokens: TokenStream = match text.parse() {
            Ok(tokens) => tokens,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let mut found = Found::default();
        found.walk(tokens, true);
        self.take(module, source, directory, found);
    }

    /// Stores what was found in a module, and reads its submodules.
    fn take(&mut self, module: usize, source: &Path, directory: &Path, found: Found) {
        let this = &mut self.modules[module];
        this.items = found.items;
        this.paths = found.paths;
        for (name, path) in found.uses {
            match name {
                Some(name) => _ = this.names.insert(name, path),
                None => this.globs.push(path),
            }
        }
        for (name, body) in found.modules {
            let below = directory.join(&name);
            let child = if let Some(body) = body {
                let child = self.block(Some(module), self.modules[module].file);
                let mut found = Found::default();
                found.walk(body, true);
                self.take(child, source, &below, found);
                child
            } else {
                let path: PathBuf = directory.join(format!("{name}.rs"));
                let child = self.module(Some(module), source, &path);
                self.fill(child, source, &below, &path);
                child
            };
            self.modules[module].children.insert(name, child);
        }
    }

    /// Turns each path into an import of the file that defines its item.
    fn link(&mut self) {
        for at in 0..self.modules.len() {
            let module = &self.modules[at];
            let one = module.paths.iter().chain(module.names.values());
            let one = one.map(|path| (path, self.resolve(at, path, 0)));
            let all = module.globs.iter();
            let all = all.map(|path| (path, self.everything(at, path)));
            let found: Vec<_> = one.chain(all).collect();
            let found = found
                .into_iter()
                .filter_map(|(path, to)| Some((path.join("::"), to?)));
            let (found, file): (Vec<_>, _) = (found.collect(), module.file);
            for (path, to) in found {
                if to != file {
                    self.imports[file].entry(to).or_default().insert(path);
                }
            }
        }
    }

    /// The file that defines the item to which `path` leads if it is written in the module `at`.
    /// `None` for a module, or for an item of another package.
    fn resolve(&self, at: usize, path: &[String], depth: usize) -> Option<usize> {
        // A name may refer to itself (`use clap;`).
        if depth > 16 {
            return None;
        }
        let (here, rest, is_ours) = self.descend(at, path)?;
        let module = &self.modules[here];
        let (first, after) = rest.split_first()?;
        if module.items.contains(first) {
            return Some(module.file);
        }
        if let Some(known) = module.names.get(first) {
            let path = [known.as_slice(), after].concat();
            return self.resolve(here, &path, depth + 1);
        }
        for glob in &module.globs {
            let (inner, left, _) = self.descend(here, glob)?;
            if left.is_empty() && self.modules[inner].knows(first) {
                return self.resolve(inner, rest, depth + 1);
            }
        }
        // If the path leads to a module of this package that does not define the name, a macro in
        // that module probably defines it.
        is_ours.then_some(module.file)
    }

    /// The file of the module or the enum that `path::*` imports.
    fn everything(&self, at: usize, path: &[String]) -> Option<usize> {
        let (module, rest, is_ours) = self.descend(at, path)?;
        if rest.is_empty() && is_ours {
            return Some(self.modules[module].file);
        }
        self.resolve(at, path, 0)
    }

    /// Follows `path` as far as it names modules. Returns the last module, the rest of the path,
    /// and whether the path named any module of this package.
    fn descend<'a>(&self, at: usize, path: &'a [String]) -> Option<(usize, &'a [String], bool)> {
        let (mut here, mut rest, mut is_ours) = (at, path, false);
        while let Some((first, after)) = rest.split_first() {
            let module = &self.modules[here];
            let library = self.library.as_ref().filter(|(name, _)| name == first);
            here = match (first.as_str(), module.children.get(first)) {
                ("crate", _) => self.root(here),
                ("super", _) => module.parent?,
                ("self", _) => here,
                // A function may have the same name as a module.
                (name, Some(child)) if !after.is_empty() || !module.knows(name) => *child,
                _ if !is_ours && let Some((_, module)) = library => *module,
                _ => break,
            };
            (rest, is_ours) = (after, true);
        }
        Some((here, rest, is_ours))
    }

    fn root(&self, at: usize) -> usize {
        let up = std::iter::successors(Some(at), |at| self.modules[*at].parent);
        up.last().unwrap_or(at)
    }
}

impl Module {
    fn knows(&self, name: &str) -> bool {
        self.items.contains(name) || self.names.contains_key(name)
    }
}
