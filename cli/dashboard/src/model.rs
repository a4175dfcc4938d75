//! All apps: what a source observed becomes the value that a page shows, the difference between two
//! such values, and the points of the last 15 minutes.
//!
//! Time is an argument everywhere, in milliseconds since 1970.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::app::AppState;
use crate::events::{Events, Kind};
use crate::observation::Observation;
use crate::patch::patch;
use crate::ring::{MAX_POINTS, Point, short};
use crate::view;

/// The version of the JSON. It changes when a page of an older version could not read it.
const VERSION: u32 = 1;
/// How many seconds of each app's rate the list of apps shows.
const SPARK: usize = 60;

/// The state of all apps.
#[derive(Debug, Clone, Default)]
pub struct Model {
    title: String,
    apps: BTreeMap<String, AppState>,
    events: Events,
    /// Why the list of apps cannot be read.
    problem: Option<String>,
    /// When the list of apps was last read.
    listed: Option<u64>,
}

/// What a page has already been sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    view: Value,
    /// The app that the page shows in full.
    app: String,
    /// The second of the last point that was sent.
    point: u64,
}

impl Model {
    /// A model without apps. The title says where the figures come from.
    pub fn new(title: String) -> Self {
        Self {
            title,
            ..Self::default()
        }
    }

    /// Adds an observation; returns whether a page should be told at once.
    pub fn observe(&mut self, now: u64, observation: Observation) -> bool {
        match observation {
            Observation::Apps(apps) => self.list(now, apps),
            Observation::NoApps(reason) => self.problem.replace(reason).is_none(),
            Observation::Of { app, fact } => {
                let Some(state) = self.apps.get_mut(&app) else {
                    return false;
                };
                let (is_news, happened) = state.learn(now, fact);
                for (at, kind, text) in happened {
                    self.events.add(at, kind, &app, &text);
                }
                is_news
            }
        }
    }

    fn list(&mut self, now: u64, apps: Vec<crate::observation::App>) -> bool {
        let is_first = self.listed.is_none();
        let mut is_news = self.problem.take().is_some() || is_first;
        self.listed = Some(now);
        let gone: Vec<_> = self.apps.keys().cloned().collect();
        for name in gone {
            if !apps.iter().any(|app| app.name == name) {
                self.apps.remove(&name);
                self.events
                    .add(now, Kind::Normal, &name, "the app has ended");
                is_news = true;
            }
        }
        for app in apps {
            let name = app.name.clone();
            if !self.apps.contains_key(&name) {
                is_news = true;
                if !is_first {
                    self.events
                        .add(now, Kind::Normal, &name, "the app has started");
                }
            }
            self.apps.entry(name).or_default().reshape(app);
        }
        is_news
    }

    /// Adds the points of this second.
    pub fn tick(&mut self, now: u64) {
        for app in self.apps.values_mut() {
            app.tick(now);
        }
    }

    /// The app that is shown in full if a page asks for this one: the first app if there is no such
    /// app.
    pub fn shown<'a>(&'a self, wanted: &'a str) -> Option<&'a str> {
        if self.apps.contains_key(wanted) {
            return Some(wanted);
        }
        self.apps.keys().next().map(String::as_str)
    }

    /// What a page shows that asks for this app.
    pub fn view(&self, now: u64, wanted: &str) -> Value {
        let apps = self
            .apps
            .iter()
            .map(|(name, app)| (name.clone(), view::row(app, now)));
        let open = self.shown(wanted).and_then(|name| self.apps.get(name));
        json!({
            "version": VERSION,
            "title": self.title,
            "now": now,
            "listed": self.listed.is_some(),
            "problem": self.problem.as_deref().unwrap_or(""),
            "apps": apps.collect::<Map<_, _>>(),
            "open": open.map_or_else(|| json!({}), |app| view::full(app, now)),
            "events": self.events.view(),
        })
    }

    /// The first frame for a page: all of what it shows, the points of its app, and the last rates of
    /// all apps.
    pub fn first(&self, now: u64, wanted: &str) -> (Value, Sent) {
        let view = self.view(now, wanted);
        let app = self.shown(wanted).unwrap_or_default().to_owned();
        let points: Vec<_> = self.points(&app, 0).collect();
        let sparks = self.apps.iter().map(|(name, app)| {
            let rates = app.ring.last(SPARK).map(|point| {
                point
                    .rate
                    .map_or(Value::Null, |rate| short(f64::from(rate)))
            });
            (name.clone(), rates.collect())
        });
        let sent = Sent {
            view: view.clone(),
            point: points.last().map_or(0, |point| point.at),
            app,
        };
        let frame = json!({
            "snapshot": view,
            "points": points.into_iter().map(Point::row).collect::<Vec<_>>(),
            "sparks": sparks.collect::<Map<String, Value>>(),
            "most": MAX_POINTS,
        });
        (frame, sent)
    }

    /// The next frame for a page: a merge patch (RFC 7396) from what it has to what it should show,
    /// and new points of its app. If another app is shown now because that one has ended, it is a
    /// first frame.
    pub fn next(&self, now: u64, sent: &mut Sent) -> Value {
        let app = self.shown(&sent.app).unwrap_or_default();
        if app != sent.app {
            let (frame, begun) = self.first(now, app);
            *sent = begun;
            return frame;
        }
        let view = self.view(now, app);
        let points: Vec<_> = self.points(app, sent.point).collect();
        sent.point = points.last().map_or(sent.point, |point| point.at);
        let frame = json!({
            "patch": patch(&sent.view, &view).unwrap_or_else(|| json!({})),
            "points": points.into_iter().map(Point::row).collect::<Vec<_>>(),
        });
        sent.view = view;
        frame
    }

    fn points(&self, app: &str, after: u64) -> impl Iterator<Item = &Point> {
        let ring = self.apps.get(app).map(|app| &app.ring);
        ring.into_iter().flat_map(move |ring| ring.after(after))
    }
}
