//! `status`: reads, draws, waits. What is drawn is decided in `model` and `view`.

use std::time::{Duration, Instant};

use crate::api::Api;
use crate::cli::{Color, Output, StatusArgs};
use crate::model;
use crate::model::object;
use crate::model::seen::Seen;
use crate::model::tree::Report;
use crate::outcome::{Ended, FAILS, Failure, GOOD};
use crate::output;
use crate::read::{self, Depth};
use crate::screen::{self, Screen};
use crate::text::{Surroundings, page};
use crate::view::View;

/// How long rates are measured.
const MEASURED: Duration = Duration::from_secs(1);

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &StatusArgs, color: Color) -> Ended {
    let clock = Instant::now();
    if let Some(wanted) = &args.wait {
        return wait(api, args, wanted, color, clock).await;
    }
    if args.watch {
        return watch(api, args, color, clock).await;
    }
    let report = measured(api, args, clock).await?;
    print(&report, args, color)?;
    Ok(GOOD)
}

/// One reading, or two with a second between them for rates.
async fn measured(api: &Api, args: &StatusArgs, clock: Instant) -> Result<Report, Failure> {
    if args.output == Output::Name {
        let seen = Seen {
            apps: read::apps(api, &args.which).await?,
            pods: Ok(Vec::new()),
            slices: Ok(Vec::new()),
            answers: std::collections::BTreeMap::default(),
        };
        return Ok(model::report(&seen, None));
    }
    if args.quick {
        let seen = read::all(api, &args.which, Depth::Status, clock).await?;
        return Ok(model::report(&seen, None));
    }
    let first = read::all(api, &args.which, Depth::Counters, clock).await?;
    // Without a counter there is nothing to measure.
    if !first.answers.values().any(|it| it.counters.is_some()) {
        return Ok(model::report(&first, None));
    }
    tokio::time::sleep(MEASURED).await;
    let second = read::all(api, &args.which, Depth::Counters, clock).await?;
    Ok(model::report(&second, Some(&first)))
}

fn view(args: &StatusArgs, surroundings: &Surroundings) -> View {
    View {
        all: args.all,
        namespaces: args.which.all_namespaces,
        unicode: surroundings.is_unicode(),
        program: "kubectl scaledapp",
    }
}

fn print(report: &Report, args: &StatusArgs, color: Color) -> Result<(), Failure> {
    let surroundings = Surroundings::of_stdout();
    let text = match args.output {
        Output::Json => output::json(report)?,
        Output::Yaml => output::yaml(report)?,
        Output::Name => {
            let name = |app: &model::tree::App| format!("scaledapp.scaledapp.io/{}\n", app.name);
            report.apps.iter().map(name).collect()
        }
        Output::Table if report.apps.is_empty() => {
            scaledapp_runtime::say(
                "no ScaledApp is here: `kubectl scaledapp status -A` looks in all namespaces",
            );
            String::new()
        }
        Output::Table => {
            let lines = view(args, &surroundings).lines(report);
            page(&lines, surroundings.colours(color))
        }
    };
    output::write(&text)
}

async fn watch(api: &Api, args: &StatusArgs, color: Color, clock: Instant) -> Ended {
    let surroundings = Surroundings::of_stdout();
    let depth = if args.quick {
        Depth::Status
    } else {
        Depth::Counters
    };
    let mut screen = Screen::open(surroundings.is_terminal, surroundings.colours(color));
    let mut earlier: Option<Seen> = None;
    loop {
        match read::all(api, &args.which, depth, clock).await {
            Ok(seen) => {
                let report = model::report(&seen, earlier.as_ref());
                let lines = match args.output {
                    Output::Table => view(args, &surroundings).lines(&report),
                    Output::Json => vec![output::json_line(&report)?],
                    Output::Yaml | Output::Name => {
                        return Err(Failure::usage("-w prints a table or json: leave -o out"));
                    }
                };
                screen.show(lines);
                earlier = Some(seen);
            }
            // Something was shown already, so the cluster may come back.
            Err(failure) if earlier.is_some() => {
                screen.trouble(&failure.text);
            }
            Err(failure) => return Err(failure),
        }
        if screen.pause(args.interval).await == screen::Next::Quit {
            return Ok(GOOD);
        }
    }
}

/// A condition that is waited for: its type, and the status that it shall have.
fn wanted(text: &str) -> Result<(String, String), Failure> {
    let (kind, status) = text.split_once('=').unwrap_or((text, "True"));
    let known = [
        "Ready",
        "Updated",
        "Degraded",
        "Progressing",
        "Reconciling",
        "Stalled",
    ];
    let kind = known
        .iter()
        .find(|it| it.eq_ignore_ascii_case(kind))
        .ok_or_else(|| {
            Failure::usage(format!("--wait: {kind:?} is none of {}", known.join(", ")))
        })?;
    let known = ["True", "False", "Unknown"];
    let status = known
        .iter()
        .find(|it| it.eq_ignore_ascii_case(status))
        .ok_or_else(|| {
            Failure::usage(format!(
                "--wait: {status:?} is none of {}",
                known.join(", ")
            ))
        })?;
    Ok(((*kind).to_owned(), (*status).to_owned()))
}

/// The apps for which a condition does not hold yet, each with its present state; and whether one
/// of them is stalled, so that waiting is in vain.
fn missing(seen: &Seen, kind: &str, status: &str) -> (Vec<String>, bool) {
    let mut waits = Vec::new();
    let mut in_vain = false;
    for app in &seen.apps {
        let conditions = object::conditions(app);
        let find = |kind: &str| conditions.iter().find(|it| it.kind == kind);
        let is = find(kind).map_or("not set", |it| it.status.as_str());
        let observed = object::is_observed(app);
        if is == status && observed {
            continue;
        }
        let why = find(kind).map_or(String::new(), |it| {
            format!(" ({}: {})", it.reason, it.message)
        });
        waits.push(format!("{}: {kind} is {is}{why}", object::key(app).1));
        in_vain |= observed && find("Stalled").is_some_and(|it| it.status == "True");
    }
    (waits, in_vain)
}

async fn wait(api: &Api, args: &StatusArgs, text: &str, color: Color, clock: Instant) -> Ended {
    let (kind, status) = wanted(text)?;
    let deadline = clock + args.timeout;
    let mut told = Vec::new();
    let code = loop {
        let seen = read::all(api, &args.which, Depth::Objects, clock).await?;
        if seen.apps.is_empty() {
            return Err(Failure::fails("there is no ScaledApp to wait for"));
        }
        let (waits, in_vain) = missing(&seen, &kind, &status);
        if waits.is_empty() {
            break GOOD;
        }
        if waits != told {
            for line in &waits {
                scaledapp_runtime::say(&crate::text::clean(line));
            }
            told = waits;
        }
        if in_vain && kind != "Stalled" {
            scaledapp_runtime::say(
                "an app is stalled: it cannot make progress before somebody changes something",
            );
            break FAILS;
        }
        if Instant::now() >= deadline {
            scaledapp_runtime::say(&format!(
                "{kind} is not {status} within {} (--timeout)",
                scaledapp_units::duration::format(args.timeout)
            ));
            break FAILS;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(args.interval.min(left).max(Duration::from_millis(50))).await;
    };
    let report = measured(api, args, clock).await?;
    print(&report, args, color)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condition_is_waited_for_by_its_name_in_any_case() {
        assert_eq!(
            wanted("updated").unwrap(),
            ("Updated".to_owned(), "True".to_owned())
        );
        assert_eq!(
            wanted("Ready=false").unwrap(),
            ("Ready".to_owned(), "False".to_owned())
        );
        for text in ["Available", "Ready=yes", ""] {
            assert_eq!(
                wanted(text).unwrap_err().code,
                crate::outcome::USAGE,
                "{text}"
            );
        }
    }

    #[test]
    fn an_old_condition_of_a_changed_object_does_not_count() {
        let seen = |generation: i64, stalled: &str| Seen {
            apps: vec![json!({
                "metadata": {"name": "shop", "generation": generation},
                "status": {"observedGeneration": 2, "conditions": [
                    {"type": "Updated", "status": "True", "reason": "AsWanted"},
                    {"type": "Stalled", "status": stalled, "reason": "InvalidSpec"},
                ]},
            })],
            pods: Ok(Vec::new()),
            slices: Ok(Vec::new()),
            answers: std::collections::BTreeMap::default(),
        };
        assert_eq!(
            missing(&seen(2, "False"), "Updated", "True"),
            (Vec::new(), false)
        );
        let (waits, in_vain) = missing(&seen(3, "True"), "Updated", "True");
        assert_eq!(
            (waits.len(), in_vain),
            (1, false),
            "the old status says nothing of the new object"
        );
        let (waits, in_vain) = missing(&seen(2, "True"), "Ready", "True");
        assert_eq!(
            (waits, in_vain),
            (vec!["shop: Ready is not set".to_owned()], true)
        );
    }
}
