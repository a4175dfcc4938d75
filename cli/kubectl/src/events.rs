//! `events`: the events of apps and of their pods, the oldest first.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::api::Api;
use crate::cli::{Color, Document, EventsArgs, Which};
use crate::model::object::text;
use crate::outcome::{Ended, GOOD};
use crate::output;
use crate::read::{self, kind_path};
use crate::text::{Line, Style, Surroundings, age, page};

/// How often -w looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Event {
    /// RFC 3339; of the last one of a series.
    time: String,
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    /// `Kind/name`.
    about: String,
    count: u64,
    note: String,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    events: Vec<Event>,
}

/// Reads an event of events.k8s.io/v1, which also shows those that were written by the older API.
fn read(event: &Value) -> Event {
    let times = [
        "/series/lastObservedTime",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    let time = times
        .iter()
        .map(|at| text(event, at))
        .find(|time| !time.is_empty());
    let counts = ["/series/count", "/deprecatedCount"];
    let count = counts
        .iter()
        .find_map(|at| event.pointer(at).and_then(Value::as_u64));
    Event {
        time: time.unwrap_or_default(),
        kind: text(event, "/type"),
        reason: text(event, "/reason"),
        about: format!(
            "{}/{}",
            text(event, "/regarding/kind"),
            text(event, "/regarding/name")
        ),
        count: count.unwrap_or(1).max(1),
        note: text(event, "/note"),
    }
}

/// Whether an event is about an app, or about an object that belongs to it: those are named after
/// it. `others` are the names of other apps, one of which may begin with this one's.
fn is_of(event: &Event, app: &str, others: &[String]) -> bool {
    let Some((kind, name)) = event.about.split_once('/') else {
        return false;
    };
    let belongs = |app: &str| {
        name == app
            || name
                .strip_prefix(app)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    if kind == "ScaledApp" {
        return name == app;
    }
    let closer = others.iter().filter(|other| other.len() > app.len());
    belongs(app) && !closer.into_iter().any(|other| belongs(other))
}

fn line(event: &Event, now: Timestamp) -> Line {
    let style = if event.kind == "Warning" {
        Style::Warning
    } else {
        Style::Plain
    };
    let since = event.time.parse::<Timestamp>().ok();
    let since = since.and_then(|time| (now - time).total(k8s_openapi::jiff::Unit::Second).ok());
    let times = if event.count > 1 {
        format!(" (x{})", event.count)
    } else {
        String::new()
    };
    Line::default()
        .plain(format!("{:>5}", since.map_or_else(|| "?".to_owned(), age)))
        .cell(style, format!("{:<7}", event.kind))
        .cell(style, format!("{:<18}", event.reason))
        .cell(Style::Plain, &event.about)
        .cell(Style::Plain, format!("{}{times}", event.note))
}

async fn all(api: &Api, name: Option<&str>) -> Result<Vec<Event>, crate::outcome::Failure> {
    let path = kind_path("/apis/events.k8s.io/v1", Some(&api.namespace), "events");
    let events: Vec<Value> = api
        .list(&path)
        .await
        .map_err(|trouble| trouble.fatal("list events"))?;
    let apps = read::apps(api, &Which::default()).await?;
    let names: Vec<String> = apps.iter().map(|app| text(app, "/metadata/name")).collect();
    let mut events: Vec<Event> = events.iter().map(read).collect();
    events.retain(|event| match name {
        Some(name) => is_of(event, name, &names),
        None => names.iter().any(|name| is_of(event, name, &names)),
    });
    events.sort();
    Ok(events)
}

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &EventsArgs, color: Color) -> Ended {
    if let Some(name) = &args.name {
        let which = Which {
            name: Some(name.clone()),
            ..Which::default()
        };
        read::apps(api, &which).await?;
    }
    let colours = Surroundings::of_stdout().colours(color);
    let mut events = all(api, args.name.as_deref()).await?;
    let shown = |events: &[Event]| {
        let now = Timestamp::now();
        page(
            &events
                .iter()
                .map(|event| line(event, now))
                .collect::<Vec<_>>(),
            colours,
        )
    };
    match args.output {
        Document::Json | Document::Yaml => {
            let report = Report { version: 1, events };
            let is_json = args.output == Document::Json;
            output::write(&if is_json {
                output::json(&report)?
            } else {
                output::yaml(&report)?
            })?;
            return Ok(GOOD);
        }
        Document::Table if events.is_empty() && !args.watch => {
            scaledapp_runtime::say("no events; the API server keeps them for an hour");
        }
        Document::Table => output::write(&shown(&events))?,
    }
    if !args.watch {
        return Ok(GOOD);
    }
    let mut known: BTreeSet<Event> = BTreeSet::new();
    loop {
        known.extend(events);
        tokio::time::sleep(INTERVAL).await;
        events = all(api, args.name.as_deref()).await.unwrap_or_default();
        events.retain(|event| !known.contains(event));
        if !events.is_empty() && output::is_gone(&shown(&events)) {
            return Ok(GOOD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_of_either_api_is_read() {
        let new = json!({"type": "Warning", "reason": "AppCrashing", "note": "n",
            "regarding": {"kind": "ScaledApp", "name": "shop"}, "eventTime": "2026-11-30T10:00:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2026-11-30T10:05:00.000000Z"}});
        let event = read(&new);
        assert_eq!(
            (event.count, &*event.time),
            (3, "2026-11-30T10:05:00.000000Z")
        );
        let now = "2026-11-30T10:06:30Z".parse().unwrap();
        assert_eq!(
            line(&event, now).show(false),
            "  90s  Warning  AppCrashing         ScaledApp/shop  n (x3)"
        );
        let old = json!({"type": "Normal", "reason": "Pulled", "regarding": {"kind": "Pod", "name": "shop-1-a"},
            "deprecatedLastTimestamp": "2026-11-30T10:00:00Z", "deprecatedCount": 1});
        assert_eq!(read(&old).time, "2026-11-30T10:00:00Z");
    }

    #[test]
    fn an_object_belongs_to_the_app_whose_name_it_begins_with_most() {
        let about = |about: &str| Event {
            time: String::new(),
            kind: String::new(),
            reason: String::new(),
            about: about.to_owned(),
            count: 1,
            note: String::new(),
        };
        let names = ["shop".to_owned(), "shop-eu".to_owned()];
        for (event, app, expected) in [
            ("ScaledApp/shop", "shop", true),
            ("ScaledApp/shop-eu", "shop", false),
            ("Pod/shop-7c9-x", "shop", true),
            ("Pod/shop-eu-7c9-x", "shop", false),
            ("Pod/shop-eu-7c9-x", "shop-eu", true),
            ("Pod/shopping-1", "shop", false),
        ] {
            assert_eq!(
                is_of(&about(event), app, &names),
                expected,
                "{event} of {app}"
            );
        }
    }
}
