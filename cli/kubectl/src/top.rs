//! `top`: how busy the workers are, from two readings.

use std::time::Instant;

use serde::Serialize;

use crate::api::Api;
use crate::cli::{Color, Document, Sort, TopArgs};
use crate::model;
use crate::model::tree::{App, Health, Pod, Report, Worker};
use crate::outcome::{Ended, Failure, GOOD};
use crate::output;
use crate::read::{self, Depth};
use crate::screen::{Next, Screen};
use crate::text::{Line, Style, Surroundings, age, bytes, number, page};
use crate::view::style;

/// One row: a worker of a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    app: String,
    pod: String,
    worker: u32,
    state: String,
    cores: Option<f64>,
    rss_bytes: u64,
    in_flight: u32,
    restarts: u32,
    up_seconds: Option<f64>,
    #[serde(skip)]
    health: Health,
}

#[derive(Serialize)]
struct Top<'a> {
    version: u32,
    workers: &'a [Row],
    /// What could not be read, and why.
    unknown: &'a [String],
}

fn row(app: &App, pod: &Pod, worker: &Worker) -> Row {
    Row {
        namespace: app.namespace.clone(),
        app: app.name.clone(),
        pod: pod.name.clone(),
        worker: worker.slot,
        state: worker.state.clone(),
        cores: worker.cores,
        rss_bytes: worker.rss_bytes,
        in_flight: worker.in_flight,
        restarts: worker.restarts,
        up_seconds: worker.up_seconds,
        health: worker.health,
    }
}

/// The rows in order, and what is missing.
fn rows(report: &Report, sort: Sort) -> (Vec<Row>, Vec<String>) {
    let mut rows = Vec::new();
    let mut unknown = Vec::new();
    for app in &report.apps {
        unknown.extend(app.unknown.iter().map(|why| format!("{}: {why}", app.name)));
        for pod in &app.pods {
            rows.extend(pod.workers.iter().map(|worker| row(app, pod, worker)));
            unknown.extend(pod.unknown.iter().map(|why| format!("{}: {why}", pod.name)));
        }
    }
    let key = |row: &Row| match sort {
        Sort::Cpu => row.cores.unwrap_or(-1.0),
        Sort::Memory => row.rss_bytes as f64,
        Sort::Restarts => f64::from(row.restarts),
        Sort::InFlight => f64::from(row.in_flight),
    };
    rows.sort_by(|a, b| {
        let order = key(b).total_cmp(&key(a));
        order.then_with(|| (&a.namespace, &a.pod, a.worker).cmp(&(&b.namespace, &b.pod, b.worker)))
    });
    (rows, unknown)
}

fn lines(rows: &[Row], unknown: &[String], namespaces: bool) -> Vec<Line> {
    let name = |row: &Row| {
        let worker = format!("{}/{}", row.pod, row.worker);
        if namespaces {
            format!("{}/{worker}", row.namespace)
        } else {
            worker
        }
    };
    let width = rows
        .iter()
        .map(|row| name(row).len())
        .max()
        .unwrap_or(0)
        .max("POD/WORKER".len());
    let head = format!(
        "{:<width$}  {:<9}  {:>6}  {:>7}  {:>5}  {:>3}  UP",
        "POD/WORKER", "STATE", "CPU%", "RSS", "IN-FL", "RST"
    );
    let mut lines = vec![Line::default().styled(Style::Dim, head)];
    for row in rows {
        let cores = row
            .cores
            .map_or("-".to_owned(), |cores| number(cores * 100.0));
        let up = row.up_seconds.map_or("-".to_owned(), age);
        let rss = if row.rss_bytes == 0 {
            "-".to_owned()
        } else {
            bytes(row.rss_bytes)
        };
        let state = if row.health == Health::Good {
            Style::Plain
        } else {
            style(row.health)
        };
        lines.push(
            Line::default()
                .plain(format!("{:<width$}", name(row)))
                .cell(state, format!("{:<9}", row.state))
                .cell(
                    Style::Plain,
                    format!(
                        "{cores:>6}  {rss:>7}  {:>5}  {:>3}  {up}",
                        row.in_flight, row.restarts
                    ),
                ),
        );
    }
    lines.extend(
        unknown
            .iter()
            .map(|why| Line::default().styled(Style::Warning, format!("? {why}"))),
    );
    lines
}

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &TopArgs, color: Color) -> Ended {
    let clock = Instant::now();
    let surroundings = Surroundings::of_stdout();
    let mut earlier = read::all(api, &args.which, Depth::Status, clock).await?;
    if !args.watch {
        tokio::time::sleep(args.interval).await;
        let seen = read::all(api, &args.which, Depth::Status, clock).await?;
        let (rows, unknown) = rows(&model::report(&seen, Some(&earlier)), args.sort);
        let top = Top {
            version: 1,
            workers: &rows,
            unknown: &unknown,
        };
        let text = match args.output {
            Document::Json => output::json(&top)?,
            Document::Yaml => output::yaml(&top)?,
            Document::Table => page(
                &lines(&rows, &unknown, args.which.all_namespaces),
                surroundings.colours(color),
            ),
        };
        output::write(&text)?;
        return Ok(GOOD);
    }
    if args.output != Document::Table {
        return Err(Failure::usage("-w prints a table: leave -o or -w out"));
    }
    let mut screen = Screen::open(surroundings.is_terminal, surroundings.colours(color));
    loop {
        if screen.pause(args.interval).await == Next::Quit {
            return Ok(GOOD);
        }
        match read::all(api, &args.which, Depth::Status, clock).await {
            Ok(seen) => {
                let (rows, unknown) = rows(&model::report(&seen, Some(&earlier)), args.sort);
                screen.show(lines(&rows, &unknown, args.which.all_namespaces));
                earlier = seen;
            }
            Err(failure) => screen.trouble(&failure.text),
        }
    }
}
