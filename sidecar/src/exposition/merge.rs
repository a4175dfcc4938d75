//! Merges pages of several workers into one: each sample is either labelled with its
//! worker's slot or summed over the workers.

use std::collections::{BTreeMap, HashMap};

use super::model::{Exposition, Family, Kind, Labels, Sample, index_of};

/// Joins pages; each sample gets the label `worker`.
pub(crate) fn label(pages: &[(u32, Exposition)]) -> Exposition {
    let mut merged = Exposition::default();
    for (slot, page) in pages {
        merged.skipped += page.skipped;
        merged.conflicts += page.conflicts;
        for (name, family) in &page.families {
            let Some(into) = same_kind(&mut merged, name, family) else {
                continue;
            };
            for sample in &family.samples {
                let mut sample = sample.clone();
                for (name, _) in &mut sample.labels {
                    // Prometheus treats an app's own label of this name in the same way.
                    if name == "worker" {
                        "exported_worker".clone_into(name);
                    }
                }
                sample
                    .labels
                    .insert(0, ("worker".to_owned(), slot.to_string()));
                into.samples.push(sample);
            }
        }
    }
    merged
}

/// The family to merge into. If that family has another type, the conflict is counted and the
/// result is `None`.
fn same_kind<'a>(merged: &'a mut Exposition, name: &str, like: &Family) -> Option<&'a mut Family> {
    if merged
        .family(name)
        .is_some_and(|known| known.kind != like.kind)
    {
        merged.conflicts += 1;
        return None;
    }
    let known = merged.family_or(name, like.kind);
    if known.help.is_none() {
        known.help.clone_from(&like.help);
    }
    Some(known)
}

/// Name and sorted labels. Two workers' samples are the same series if these are equal.
type Key = (String, Labels);

fn key(sample: &Sample) -> Key {
    let mut labels = sample.labels.clone();
    labels.sort();
    (sample.name.clone(), labels)
}

/// Whether a sample of a family can only grow.
fn accumulates(kind: Kind, sample: &Sample) -> bool {
    match kind {
        Kind::Counter | Kind::Histogram => true,
        // A summary's other samples are quantiles.
        Kind::Summary => sample.name.ends_with("_sum") || sample.name.ends_with("_count"),
        Kind::Gauge | Kind::Untyped => false,
    }
}

/// Whether samples can be summed at all. Quantiles cannot, and the sum of creation times is
/// not a time.
fn adds_up(kind: Kind, sample: &Sample) -> bool {
    accumulates(kind, sample)
        || (matches!(kind, Kind::Gauge | Kind::Untyped) && !sample.name.ends_with("_created"))
}

/// Sums over workers, including the workers that were replaced.
///
/// The sums do not decrease, because the last known value of a process is kept after its end. What
/// it counts between its last scrape and its end is lost.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Values of processes that have ended.
    kept: BTreeMap<Key, f64>,
    /// Values of running processes, as last seen.
    last: HashMap<u32, BTreeMap<Key, f64>>,
    /// Type and help of each remembered family, by name. They are used if no page of a scrape
    /// contains the family.
    known: BTreeMap<String, (Kind, Option<String>)>,
    /// The name of the family of each remembered sample.
    families: BTreeMap<Key, String>,
    /// The approximate memory of the maps above, in bytes.
    pub(super) bytes: usize,
}

/// The maximum size of all remembered names and labels, of running and ended processes, in bytes.
/// Labels without bound are a fault of the app and must not use up the supervisor's memory.
pub(super) const KEPT_BYTES: usize = 32 << 20;
/// The approximate memory of a series besides its texts, in bytes.
const SERIES_BYTES: usize = 128;

/// The memory that remembering a series takes, in bytes.
fn cost(key: &Key) -> usize {
    let (name, labels) = key;
    let labels = labels.iter();
    let labels: usize = labels
        .map(|(name, value)| name.len() + value.len() + 48)
        .sum();
    // The key is stored in two maps.
    2 * (name.len() + labels) + SERIES_BYTES
}

/// Adds two values. Sums saturate, because a sum that has become infinite or NaN would
/// never become finite again.
fn add(one: f64, other: f64) -> f64 {
    let sum = one + other;
    if one.is_finite() && other.is_finite() {
        sum.clamp(f64::MIN, f64::MAX)
    } else {
        sum
    }
}

impl Sums {
    /// Sums pages, each of which is given with the pid of its worker. `alive` lists all workers,
    /// including those that did not answer: their last known values count.
    pub(crate) fn sum(&mut self, alive: &[u32], pages: &[(u32, Exposition)]) -> Exposition {
        self.bury_all_but(alive);
        let mut total = Total::default();
        for (pid, page) in pages {
            total.page.skipped += page.skipped;
            total.page.conflicts += page.conflicts;
            for (name, family) in &page.families {
                let Some(at) = total.family(name, family) else {
                    continue;
                };
                for sample in family.samples.iter().filter(|s| adds_up(family.kind, s)) {
                    // Remembered values are added below, to the same sample, together with
                    // those of the other processes and of ended ones.
                    let remembered =
                        accumulates(family.kind, sample) && self.saw(*pid, name, family, sample);
                    let now = if remembered { 0.0 } else { sample.value };
                    total.add(at, sample, now);
                }
            }
        }
        self.add_remembered(&mut total);
        let mut page = total.page;
        page.families
            .retain(|(_, family)| !family.samples.is_empty());
        page.index = index_of(&page.families);
        page
    }

    /// Keeps the values of processes that have ended.
    fn bury_all_but(&mut self, alive: &[u32]) {
        let gone = self.last.extract_if(|pid, _| !alive.contains(pid));
        let counted: Vec<(Key, f64)> = gone.flat_map(|(_, counted)| counted).collect();
        for (key, value) in counted {
            if self.kept.contains_key(&key) {
                self.bytes = self.bytes.saturating_sub(cost(&key));
            }
            self.keep(key, value);
        }
    }

    fn add_remembered(&self, total: &mut Total) {
        let living = self.last.values().flatten();
        for (key, value) in self.kept.iter().chain(living) {
            let Some(name) = self.families.get(key) else {
                continue;
            };
            let Some((kind, help)) = self.known.get(name) else {
                continue;
            };
            let like = Family {
                kind: *kind,
                help: help.clone(),
                samples: Vec::new(),
            };
            if let Some(at) = total.family(name, &like) {
                let (name, labels) = key.clone();
                let sample = Sample {
                    name,
                    labels,
                    value: 0.0,
                };
                total.add(at, &sample, *value);
            }
        }
    }

    /// Records a value of a running process. If the counter has restarted from zero, the previous
    /// value is kept. Returns `false`, and records nothing, if the value is not finite or there is
    /// not enough memory.
    fn saw(&mut self, pid: u32, name: &str, family: &Family, sample: &Sample) -> bool {
        // A value that is not finite cannot be kept: every later sum would not be finite
        // either.
        if !sample.value.is_finite() {
            return false;
        }
        let key = key(sample);
        let last = self.last.entry(pid).or_default();
        if !last.contains_key(&key) {
            let help = family.help.as_ref().map_or(0, String::len);
            let is_known = self.known.contains_key(name);
            let family_cost = if is_known {
                0
            } else {
                2 * name.len() + help + 128
            };
            let bytes = self.bytes + cost(&key) + family_cost;
            if bytes > KEPT_BYTES {
                return false;
            }
            self.bytes = bytes;
        }
        if !self.families.contains_key(&key) {
            self.families.insert(key.clone(), name.to_owned());
            let said = || (family.kind, family.help.clone());
            self.known.entry(name.to_owned()).or_insert_with(said);
        }
        let before = last.insert(key.clone(), sample.value);
        if let Some(before) = before.filter(|before| *before > sample.value) {
            if !self.kept.contains_key(&key) {
                self.bytes += cost(&key);
            }
            self.keep(key, before);
        }
        true
    }

    fn keep(&mut self, key: Key, value: f64) {
        let kept = self.kept.entry(key).or_insert(0.0);
        *kept = add(*kept, value);
    }
}

/// A page under construction, in which samples with the same name and labels become one.
#[derive(Debug, Default)]
struct Total {
    page: Exposition,
    /// The index of each sample's family, and the sample's index in that family.
    places: HashMap<Key, (usize, usize)>,
}

impl Total {
    /// The index of a family in the page. If the family has another type there, the conflict
    /// is counted and the result is `None`.
    fn family(&mut self, name: &str, like: &Family) -> Option<usize> {
        same_kind(&mut self.page, name, like)?;
        self.page.index.get(name).copied()
    }

    fn add(&mut self, family: usize, sample: &Sample, value: f64) {
        let families = &mut self.page.families;
        let (family, at) = *self.places.entry(key(sample)).or_insert_with(|| {
            let samples = &mut families[family].1.samples;
            samples.push(Sample {
                value: 0.0,
                ..sample.clone()
            });
            (family, samples.len() - 1)
        });
        let total = &mut families[family].1.samples[at].value;
        *total = add(*total, value);
    }
}
