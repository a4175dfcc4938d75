//! Pages of several workers as one: each sample with its worker's slot, or added
//! up over the workers.

use std::collections::{BTreeMap, HashMap};

use super::model::{Exposition, Family, Kind, Labels, Sample, index_of};

/// Puts pages together, each sample with the label `worker`.
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
                    // As Prometheus does when an app's label is in the way.
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

/// The family to merge into; `None`, counted, if it is of another kind.
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

/// Name and sorted labels: what makes two workers' samples the same.
type Key = (String, Labels);

fn key(sample: &Sample) -> Key {
    let mut labels = sample.labels.clone();
    labels.sort();
    (sample.name.clone(), labels)
}

/// Whether a sample of a family only grows.
fn accumulates(kind: Kind, sample: &Sample) -> bool {
    match kind {
        Kind::Counter | Kind::Histogram => true,
        // The others of a summary are quantiles.
        Kind::Summary => sample.name.ends_with("_sum") || sample.name.ends_with("_count"),
        Kind::Gauge | Kind::Untyped => false,
    }
}

/// Whether a sample can be added up at all. A quantile cannot, and the sum of
/// times of creation is no time.
fn adds_up(kind: Kind, sample: &Sample) -> bool {
    accumulates(kind, sample)
        || (matches!(kind, Kind::Gauge | Kind::Untyped) && !sample.name.ends_with("_created"))
}

/// Sums over workers that do not go backwards when one is replaced.
///
/// What a process had counted when it was seen last is kept after its end. What
/// it counts between its last scrape and its end is lost.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Of processes that are gone.
    kept: BTreeMap<Key, f64>,
    /// Of processes that are there, as seen last.
    last: HashMap<u32, BTreeMap<Key, f64>>,
    /// Name, kind and help of what is kept, for when no living worker has it.
    known: BTreeMap<String, (Kind, Option<String>)>,
    /// To which family a kept sample belongs.
    families: BTreeMap<Key, String>,
    /// What all of this costs, about.
    pub(super) bytes: usize,
}

/// Bytes of all names and labels that are remembered, of the living and the dead:
/// labels without bound are the app's fault, and must not become our memory.
pub(super) const KEPT_BYTES: usize = 32 << 20;
/// What a series costs beside its texts, about.
const SERIES_BYTES: usize = 128;

/// What it costs to remember a series.
fn cost(key: &Key) -> usize {
    let (name, labels) = key;
    let labels = labels.iter();
    let labels: usize = labels
        .map(|(name, value)| name.len() + value.len() + 48)
        .sum();
    // The key stands in two maps.
    2 * (name.len() + labels) + SERIES_BYTES
}

/// Sums saturate: one that has become infinite or no number would stay so for ever.
fn add(one: f64, other: f64) -> f64 {
    let sum = one + other;
    if one.is_finite() && other.is_finite() {
        sum.clamp(f64::MIN, f64::MAX)
    } else {
        sum
    }
}

impl Sums {
    /// Adds up pages by pid. `alive` are all workers, also those that did not
    /// answer: their counters count as they were seen last.
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
                    // What is remembered is added below, in the same place, with
                    // that of the others and of the dead.
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

    /// Keeps what those had counted that are gone.
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

    /// Notes what a living process has counted. If it counts from the begin
    /// again, what it had is kept. Whether there was room.
    fn saw(&mut self, pid: u32, name: &str, family: &Family, sample: &Sample) -> bool {
        // What is no number cannot be kept: all that follows would be none.
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

/// A page to which samples are added: those of one name and the same labels are
/// one.
#[derive(Debug, Default)]
struct Total {
    page: Exposition,
    /// Which family of the page a sample is in, and where there.
    places: HashMap<Key, (usize, usize)>,
}

impl Total {
    /// Where a family is in the page; `None`, counted, if it is of another kind there.
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
