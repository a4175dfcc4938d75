//! The page with the table: all traces, the means of several seeds, and where a goal is missed.

use std::fmt::Write as _;

use crate::rules::Kind;
use crate::trace::{TRACES, Trace};
use crate::world::{Outcome, run};

/// Our goals beside HPA: at most this part of its late requests, and at most this many times its
/// pod-seconds.
const HPA_LATE: f64 = 0.1;
const HPA_COST: f64 = 1.1;

/// The means of several runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    /// Requests in all.
    pub requests: f64,
    /// Requests that waited for more than a second.
    pub late: f64,
    /// Seconds of pods.
    pub pod_seconds: f64,
    /// Changes of the number of pods.
    pub changes: f64,
    /// The longest queue of all runs.
    pub max_queue: usize,
}

impl Mean {
    /// The means of these runs.
    pub fn of(runs: &[Outcome]) -> Self {
        let mean = |part: fn(&Outcome) -> f64| {
            runs.iter().map(part).sum::<f64>() / runs.len().max(1) as f64
        };
        Self {
            requests: mean(|run| run.requests as f64),
            late: mean(|run| run.late as f64),
            pod_seconds: mean(|run| run.pod_seconds),
            changes: mean(|run| run.changes as f64),
            max_queue: runs.iter().map(|run| run.max_queue).max().unwrap_or(0),
        }
    }
}

/// One trace with all rules, in the order of [`Kind::ALL`].
#[derive(Debug, Clone)]
pub struct Row {
    /// The trace.
    pub trace: Trace,
    /// The runs of each rule, one for each seed.
    pub runs: Vec<(Kind, Vec<Outcome>)>,
}

impl Row {
    /// Runs a trace with all rules and seeds.
    pub fn of(trace: &Trace, seeds: &[u64]) -> Self {
        let runs = Kind::ALL.map(|kind| {
            let runs = seeds.iter();
            let runs = runs.map(|seed| run(trace, kind.rules().as_mut(), *seed));
            (kind, runs.collect())
        });
        Self {
            trace: *trace,
            runs: runs.to_vec(),
        }
    }

    /// The mean of a rule.
    pub fn mean(&self, kind: Kind) -> Mean {
        let runs = self.runs.iter().find(|(one, _)| *one == kind);
        runs.map(|(_, runs)| Mean::of(runs)).unwrap_or_default()
    }

    /// The goals that are missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let [ours, knative, hpa] =
            [Kind::Ours, Kind::Knative, Kind::Hpa].map(|kind| self.mean(kind));
        let mut missed = Vec::new();
        let mut miss = |is_missed: bool, text: String| {
            if is_missed {
                missed.push(text);
            }
        };
        miss(
            ours.late > knative.late,
            format!(
                "{:.0} late requests, Knative {:.0}",
                ours.late, knative.late
            ),
        );
        miss(
            ours.pod_seconds > knative.pod_seconds,
            format!(
                "{:.0} pod-seconds, Knative {:.0}",
                ours.pod_seconds, knative.pod_seconds
            ),
        );
        miss(
            ours.late > hpa.late * HPA_LATE,
            format!(
                "{:.0} late requests, a tenth of HPA's are {:.0}",
                ours.late,
                hpa.late * HPA_LATE
            ),
        );
        miss(
            ours.pod_seconds > hpa.pod_seconds * HPA_COST,
            format!(
                "{:.0} pod-seconds, HPA {:.0}",
                ours.pod_seconds, hpa.pod_seconds
            ),
        );
        missed
    }
}

/// All traces with these seeds.
pub fn rows(seeds: &[u64]) -> Vec<Row> {
    TRACES.iter().map(|trace| Row::of(trace, seeds)).collect()
}

/// The page in Markdown.
pub fn markdown(rows: &[Row], seeds: &[u64]) -> String {
    let seeds: Vec<_> = seeds.iter().map(u64::to_string).collect();
    let mut page = format!(
        "# The autoscaler, simulated\n\n\
         `cargo xtask simulate` writes this page, and a drawing of each trace into `target/simulate/`. The rules of\n\
         ScaledApp are the code that the operator runs (`operator/scale`); those of Knative and of the\n\
         HorizontalPodAutoscaler are written down in `operator/scale/simulate/src/rules/`. All get the same requests.\n\n\
         Each cell has *late requests / pod-seconds / changes / longest queue*. A request is late if it waits for a pod\n\
         for more than a second. The numbers are means over the seeds {}, the queue is the longest of all. A pod has\n\
         two workers with two places each; a request takes 0.2 s on average; a pod starts in 5 s unless the trace says\n\
         otherwise; all rules want 70 % of the places in use. HPA always keeps one pod.\n\n",
        seeds.join(", ")
    );
    let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let _ = writeln!(page, "| trace | requests | {} |", names.join(" | "));
    let _ = writeln!(page, "|---|---|{}", "---|".repeat(names.len()));
    for row in rows {
        let _ = write!(
            page,
            "| {} | {:.0} |",
            row.trace.name,
            row.mean(Kind::Ours).requests
        );
        for kind in Kind::ALL {
            let mean = row.mean(kind);
            let _ = write!(
                page,
                " {:.0} / {:.0} / {:.0} / {} |",
                mean.late, mean.pod_seconds, mean.changes, mean.max_queue
            );
        }
        page.push('\n');
    }
    page.push_str("\n## The traces\n\n");
    for row in rows {
        let _ = writeln!(page, "- **{}**: {}", row.trace.name, row.trace.what);
    }
    page.push_str(
        "\n## Where a goal is missed\n\n\
         The goals, for the column ScaledApp: no more late requests than Knative, at no more pod-seconds; and at most a\n\
         tenth of HPA's late requests, at no more than 1.1 times its pod-seconds. They hold for all traces but these:\n\n",
    );
    for row in rows {
        let missed = row.missed();
        if !missed.is_empty() {
            let _ = writeln!(
                page,
                "- **{}**: {}. {}",
                row.trace.name,
                missed.join("; "),
                row.trace.note
            );
        }
    }
    page
}
