//! Which files the app itself changes whenever it starts: each reload would cause the next one, for
//! ever.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// In how many reloads in a row a file must change. Somebody who saves a file during a reload does
/// not do so during each of five.
const IN_A_ROW: u32 = 5;

/// The files that changed during the last reloads, and during how many in a row.
#[derive(Debug, Default)]
pub(super) struct Loops {
    counts: BTreeMap<PathBuf, u32>,
}

impl Loops {
    /// Notes the files that changed during a reload. Returns those that the app itself changes.
    pub(super) fn reloaded(&mut self, changed: &[PathBuf]) -> Vec<PathBuf> {
        let before = std::mem::take(&mut self.counts);
        let count = |path: &PathBuf| before.get(path).copied().unwrap_or(0) + 1;
        let counted = changed.iter().map(|path| (path.clone(), count(path)));
        let (caused, others): (Vec<_>, Vec<_>) = counted.partition(|(_, count)| *count >= IN_A_ROW);
        self.counts = others.into_iter().collect();
        caused.into_iter().map(|(path, _)| path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_during_every_reload_is_named_once() {
        let (state, source) = (PathBuf::from("state.json"), PathBuf::from("a.js"));
        let mut loops = Loops::default();
        for _ in 0..4 {
            assert!(loops.reloaded(std::slice::from_ref(&state)).is_empty());
        }
        let caused = loops.reloaded(&[source, state.clone()]);
        assert_eq!(caused, std::slice::from_ref(&state));
        assert!(loops.reloaded(&[state]).is_empty());
    }

    #[test]
    fn reloads_without_a_change_begin_the_count_again() {
        let source = PathBuf::from("a.js");
        let mut loops = Loops::default();
        for _ in 0..20 {
            for _ in 0..4 {
                assert!(loops.reloaded(std::slice::from_ref(&source)).is_empty());
            }
            assert!(loops.reloaded(&[]).is_empty());
        }
    }
}
