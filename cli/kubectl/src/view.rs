//! The tree of apps as lines for people: problems first, what is well folded into one line.

use crate::model::counters::Rates;
use crate::model::tree::{App, Condition, Health, Pod, Report, Slot, Worker};
use crate::text::{Line, Style, count, number};

/// What is drawn, and with which characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Show also what is well.
    pub(crate) all: bool,
    /// Show namespaces.
    pub(crate) namespaces: bool,
    /// Branches may have characters outside of ASCII.
    pub(crate) unicode: bool,
    /// How the reader calls this program, for commands in the output.
    pub(crate) program: &'static str,
}

struct Branches {
    item: &'static str,
    last: &'static str,
    beside: &'static str,
    below: &'static str,
}

const UNICODE: Branches = Branches {
    item: "├─ ",
    last: "└─ ",
    beside: "│  ",
    below: "   ",
};
const ASCII: Branches = Branches {
    item: "|- ",
    last: "`- ",
    beside: "|  ",
    below: "   ",
};

/// The sign of a health, which stands beside its colour.
pub(crate) fn sign(health: Health) -> &'static str {
    match health {
        Health::Failing => "x",
        Health::Warning => "!",
        Health::Unknown => "?",
        Health::Good => "ok",
    }
}

/// The colour of a health.
pub(crate) fn style(health: Health) -> Style {
    match health {
        Health::Failing => Style::Bad,
        Health::Warning | Health::Unknown => Style::Warning,
        Health::Good => Style::Good,
    }
}

impl View {
    /// The lines of all apps.
    pub(crate) fn lines(self, report: &Report) -> Vec<Line> {
        let mut lines = Vec::new();
        let width = report
            .apps
            .iter()
            .map(|app| self.name(app).chars().count())
            .max();
        for (at, app) in report.apps.iter().enumerate() {
            if at > 0 {
                lines.push(Line::default());
            }
            self.app(app, width.unwrap_or(0), &mut lines);
        }
        lines
    }

    fn name(self, app: &App) -> String {
        if self.namespaces {
            format!("{}/{}", app.namespace, app.name)
        } else {
            app.name.clone()
        }
    }

    fn branches(self) -> &'static Branches {
        if self.unicode { &UNICODE } else { &ASCII }
    }

    fn app(self, app: &App, width: usize, lines: &mut Vec<Line>) {
        let mut head = Line::default()
            .plain(format!("{:<width$}", self.name(app)))
            .cell(style(app.health), &app.state)
            .cell(Style::Plain, &app.image_version)
            .cell(Style::Plain, summary(&app.pods_summary, "pods"))
            .cell(Style::Plain, summary(&app.workers_summary, "workers"));
        head = rates(head, app.rates.as_ref(), true);
        if app.paused {
            head = head.cell(Style::Warning, "paused");
        }
        if !app.up_to_date {
            head = head.cell(Style::Warning, "the operator has not seen the last change");
        }
        lines.push(head);
        let branches = self.branches();
        let host = app.hostname.as_deref().unwrap_or_default();
        let slots = Line::default()
            .styled(Style::Dim, branches.item)
            .plain("slots");
        lines.push(slots.cell(Style::Plain, host));
        self.slots(app, lines);
        lines.push(
            Line::default()
                .styled(Style::Dim, branches.last)
                .plain("pods"),
        );
        self.pods(app, lines);
        for condition in app.conditions.iter().filter(|it| it.is_problem) {
            self.condition(condition, lines);
        }
        for unknown in &app.unknown {
            lines.push(Line::default().styled(Style::Warning, format!("? {unknown}")));
        }
    }

    fn slots(self, app: &App, lines: &mut Vec<Line>) {
        let branches = self.branches();
        let width = app
            .slots
            .iter()
            .map(|slot| slot.address.len())
            .max()
            .unwrap_or(0);
        for (at, slot) in app.slots.iter().enumerate() {
            let branch = if at + 1 == app.slots.len() {
                branches.last
            } else {
                branches.item
            };
            let line = Line::default()
                .styled(Style::Dim, format!("{}{branch}", branches.beside))
                .plain(format!("{}  {:<width$}", slot.number, slot.address))
                .cell(style(slot.health), format!("{:<2}", sign(slot.health)));
            lines.push(whose(line, slot));
        }
    }

    fn pods(self, app: &App, lines: &mut Vec<Line>) {
        let branches = self.branches();
        let (shown, folded): (Vec<&Pod>, Vec<&Pod>) = app
            .pods
            .iter()
            .partition(|pod| self.all || pod.health != Health::Good);
        // A single pod takes no more room than the line that would fold it.
        let (shown, folded) = match folded.len() {
            1 => (app.pods.iter().collect(), Vec::new()),
            _ => (shown, folded),
        };
        let widths = (
            shown.iter().map(|pod| pod.name.len()).max().unwrap_or(0),
            shown.iter().map(|pod| pod.node.len()).max().unwrap_or(0),
        );
        for (at, pod) in shown.iter().enumerate() {
            let is_last = at + 1 == shown.len() && folded.is_empty();
            let branch = if is_last {
                branches.last
            } else {
                branches.item
            };
            let line = Line::default()
                .styled(Style::Dim, format!("{}{branch}", branches.below))
                .plain(format!("{:<1$}", pod.name, widths.0))
                .cell(Style::Plain, format!("{:<1$}", pod.node, widths.1))
                .cell(style(pod.health), sign(pod.health));
            lines.push(busy(line, pod));
            let beside = if is_last {
                branches.below
            } else {
                branches.beside
            };
            self.workers(pod, &format!("{}{beside}", branches.below), lines);
        }
        if !folded.is_empty() {
            let known = folded.iter().filter_map(|pod| pod.workers_ready);
            let workers = known.map(|ready| ready as usize).sum();
            let workers = match workers {
                0 => String::new(),
                some => format!(", {}", count(some, "worker")),
            };
            lines.push(
                Line::default()
                    .styled(Style::Dim, format!("{}{}", branches.below, branches.last))
                    .plain(format!("+ {}{workers} ", count(folded.len(), "pod")))
                    .styled(Style::Good, "ok"),
            );
        }
        if app.pods.is_empty() && app.unknown.is_empty() {
            let none = format!("{}{}none", branches.below, branches.last);
            lines.push(Line::default().styled(Style::Dim, none));
        }
    }

    fn workers(self, pod: &Pod, indent: &str, lines: &mut Vec<Line>) {
        let branches = self.branches();
        let shown = pod.workers.iter();
        let shown: Vec<&Worker> = shown
            .filter(|worker| self.all || worker.health != Health::Good)
            .collect();
        for (at, worker) in shown.iter().enumerate() {
            let branch = if at + 1 == shown.len() {
                branches.last
            } else {
                branches.item
            };
            let line = Line::default()
                .styled(Style::Dim, format!("{indent}{branch}"))
                .plain(format!("worker {}", worker.slot))
                .cell(style(worker.health), sign(worker.health))
                .cell(Style::Plain, &worker.state);
            lines.push(ends(line, worker));
        }
    }

    fn condition(self, condition: &Condition, lines: &mut Vec<Line>) {
        let style = match condition.kind.as_str() {
            "Degraded" => Style::Warning,
            _ => Style::Bad,
        };
        let kind = match condition.kind.as_str() {
            "Ready" => "Not Ready",
            kind => kind,
        };
        lines.push(
            Line::default()
                .styled(style, format!("{kind} {}", condition.reason))
                .plain(format!(": {}", condition.message)),
        );
        let explain = format!("  {} explain {}", self.program, condition.reason);
        let is_repeated = lines
            .iter()
            .any(|line| line.show(false) == explain.trim_end());
        if !is_repeated {
            lines.push(Line::default().styled(Style::Dim, explain));
        }
    }
}

fn summary(text: &str, what: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("{text} {what}"),
    }
}

fn rates(line: Line, rates: Option<&Rates>, whole: bool) -> Line {
    let Some(rates) = rates else {
        return line;
    };
    let line = line.cell(
        Style::Plain,
        format!("{} req/s", number(rates.requests_per_second)),
    );
    if !whole {
        return line;
    }
    let line = match rates.p99_milliseconds {
        Some(p99) => line.cell(Style::Plain, format!("p99 {} ms", number(p99))),
        None => line,
    };
    let share = rates.server_errors * 100.0;
    let style = if share >= 1.0 {
        Style::Bad
    } else {
        Style::Plain
    };
    if rates.requests_per_second > 0.0 {
        line.cell(style, format!("{share:.2} % 5xx"))
    } else {
        line
    }
}

/// Who answers at a slot.
fn whose(line: Line, slot: &Slot) -> Line {
    let by = match &slot.answered_by[..] {
        [] => String::new(),
        some => format!("by {}", some.join(", ")),
    };
    let line = line
        .cell(Style::Plain, by)
        .cell(style(slot.health), &slot.note);
    let line = rates(line, slot.rates.as_ref(), false);
    let line = match slot.in_flight {
        Some(some) => line.cell(Style::Plain, format!("{some} in flight")),
        None => line,
    };
    match slot.queued {
        Some(some) if some > 0 => line.cell(Style::Warning, format!("{some} waiting")),
        _ => line,
    }
}

fn busy(line: Line, pod: &Pod) -> Line {
    let mut line = match &pod.unknown {
        Some(why) => line.cell(Style::Warning, format!("? workers ({why})")),
        None => line,
    };
    if let (Some(ready), Some(desired)) = (pod.workers_ready, pod.workers_desired) {
        line = line.cell(Style::Plain, format!("{ready}/{desired} workers"));
    }
    if !pod.ready {
        line = line.cell(Style::Bad, &pod.state);
    }
    if let Some(generation) = pod.generation {
        line = line.cell(Style::Plain, format!("gen {generation}"));
    }
    line = rates(line, pod.rates.as_ref(), false);
    if let Some(in_flight) = pod.in_flight {
        line = line.cell(Style::Plain, format!("{in_flight} in flight"));
    }
    if pod.restarts > 0 {
        line = line.cell(Style::Warning, count(pod.restarts as usize, "restart"));
    }
    if !pod.supervisor.is_empty() {
        line = line.cell(Style::Dim, format!("supervisor {}", pod.supervisor));
    }
    if pod.reload_failed {
        line = line.cell(Style::Bad, "the last reload failed");
    }
    line
}

fn ends(line: Line, worker: &Worker) -> Line {
    let mut line = line;
    if let Some(port) = worker.listens_elsewhere {
        line = line.cell(
            Style::Bad,
            format!("listens on port {port}, which is not the app's"),
        );
    }
    if let Some(generation) = worker.generation {
        line = line.cell(Style::Plain, format!("gen {generation}"));
    }
    if worker.restarts > 0 {
        line = line.cell(Style::Warning, count(worker.restarts as usize, "restart"));
    }
    match &worker.last_end {
        Some(end) if worker.health != Health::Good => {
            line.cell(Style::Bad, format!("the last one ended: {end}"))
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests;
