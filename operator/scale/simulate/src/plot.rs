//! Drawings of runs, as SVG.

use std::fmt::Write as _;

use crate::rules::Kind;
use crate::trace::Trace;
use crate::world::{Outcome, Second};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 50.0;
const GAP: f64 = 34.0;

/// One panel for each run, all to the same scale: demand and capacity as lines, the queue as an area,
/// late requests as bars.
pub fn svg(trace: &Trace, runs: &[(Kind, Outcome)]) -> String {
    let height = (PANEL + GAP) * runs.len() as f64 + 40.0;
    let most = |part: fn(&Second) -> f64| {
        let all = runs.iter().flat_map(|(_, run)| run.seconds.iter());
        all.map(part).fold(1.0, f64::max)
    };
    // A queue or a capacity far beyond the demand is cut, so that the demand stays visible.
    let top =
        (most(|second| second.demand) * 4.0).min(most(|second| second.capacity).max(1.0) * 1.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + LEFT + 20.0
    );
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"16\"><tspan font-weight=\"bold\">{}</tspan>: {} Demand black, capacity blue, queue grey, late requests red.</text>",
        trace.name, trace.what
    );
    for (at, (kind, run)) in runs.iter().enumerate() {
        let y = 40.0 + at as f64 * (PANEL + GAP);
        panel(&mut svg, y, top, *kind, run);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, y: f64, top: f64, kind: Kind, run: &Outcome) {
    let count = run.seconds.len().max(1) as f64;
    let point = |at: usize, value: f64| {
        let x = LEFT + at as f64 / count * WIDTH;
        let height = (value / top).clamp(0.0, 1.0) * PANEL;
        format!("{x:.1},{:.1}", y + PANEL - height)
    };
    let line = |part: fn(&Second) -> f64| {
        let points = run.seconds.iter().enumerate();
        let points: Vec<_> = points.map(|(at, second)| point(at, part(second))).collect();
        points.join(" ")
    };
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.0}\">{}: {} late of {}, {:.0} pod-seconds, {} changes</text>",
        y - 4.0,
        kind.name(),
        run.late,
        run.requests,
        run.pod_seconds,
        run.changes
    );
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{WIDTH}\" height=\"{PANEL}\" fill=\"none\" stroke=\"#ccc\"/>\n<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{top:.0}</text>",
        LEFT - 6.0,
        y + 10.0
    );
    let _ = writeln!(
        svg,
        "<polygon points=\"{} {} {}\" fill=\"#bbb\" fill-opacity=\"0.6\"/>",
        point(0, 0.0),
        line(|second| second.queue),
        point(run.seconds.len(), 0.0)
    );
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#d33\" stroke-opacity=\"0.7\"/>",
        line(|second| second.late)
    );
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#16c\" stroke-width=\"1.5\"/>",
        line(|second| second.capacity)
    );
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"black\"/>",
        line(|second| second.demand)
    );
}
