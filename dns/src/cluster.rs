//! The `ScaledApp`s of a cluster as a source of records. This module watches them, in all
//! namespaces or in some, and publishes what [`crate::apps`] reads from them.
//!
//! This module needs only `list` and `watch` of `scaledapps` in these namespaces. The last set of
//! records stays in force while the API server cannot be reached. A namespace that cannot be read
//! delays the others only for about half a second, if the API server answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::DeserializeGuard;
use kube::{Api, Client};
use scaledapp_watch::{News, Objects};
use tokio::sync::watch;

use crate::apps::{App, Apps, Naming};
use crate::metrics::Metrics;
use crate::origins::RecordSet;

/// After this many failures in a row (about half a second), a namespace that was never read is no
/// longer waited for: its names are denied, so that those of the other namespaces are served.
const MAX_FAILURES: u32 = 3;

/// What the watches have found so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last complete set.
    pub(crate) records: Option<RecordSet>,
    /// Why there is no newer set of some or of all namespaces.
    pub(crate) problem: Option<String>,
}

/// Starts tasks that never end and that watch the named namespaces, or all namespaces if none is
/// named.
///
/// # Errors
/// No API server is configured. An API server that does not answer is not an error.
pub(crate) async fn start(
    naming: Naming,
    namespaces: Vec<String>,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
) -> Result<(), scaledapp_watch::ClientError> {
    let client = scaledapp_watch::client().await?;
    let named = namespaces.into_iter().map(Some);
    let mut sources: Vec<Option<String>> = named.collect();
    if sources.is_empty() {
        sources.push(None);
    }
    let gathered = Arc::new(Mutex::new(Gathered {
        naming,
        sources: sources.iter().cloned().map(Source::of).collect(),
        logged: BTreeSet::new(),
        state,
        metrics,
    }));
    for (source, namespace) in sources.into_iter().enumerate() {
        tokio::spawn(run(
            client.clone(),
            source,
            namespace,
            Arc::clone(&gathered),
        ));
    }
    Ok(())
}

async fn run(
    client: Client,
    source: usize,
    namespace: Option<String>,
    gathered: Arc<Mutex<Gathered>>,
) {
    let api: Api<DeserializeGuard<App>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    scaledapp_watch::follow(api, "", |news| {
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            News::List(objects) => gathered.list(source, objects),
            News::Problem(problem) => gathered.problem(source, problem),
        }
    })
    .await;
}

/// What one watch has reported.
struct Source {
    namespace: Option<String>,
    apps: Apps,
    unreadable: BTreeSet<String>,
    version: u64,
    listed: bool,
    /// Why there is no newer list, and the number of failures in a row.
    problem: Option<(String, u32)>,
}

impl Source {
    fn of(namespace: Option<String>) -> Self {
        Self {
            namespace,
            apps: Apps::default(),
            unreadable: BTreeSet::new(),
            version: 0,
            listed: false,
            problem: None,
        }
    }

    /// Whether this source is no longer waited for.
    fn is_settled(&self) -> bool {
        let failures = self.problem.as_ref().map_or(0, |(_, times)| *times);
        self.listed || failures >= MAX_FAILURES
    }
}

/// What all watches have reported.
struct Gathered {
    naming: Naming,
    sources: Vec<Source>,
    /// The objects that are left out, with the reasons, as they were last logged.
    logged: BTreeSet<String>,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

impl Gathered {
    fn list(&mut self, source: usize, objects: &Objects<DeserializeGuard<App>>) {
        let source = &mut self.sources[source];
        source.unreadable = source.apps.take(objects);
        source.version = objects.version();
        source.listed = true;
        source.problem = None;
        self.metrics.listed("ok");
        self.publish();
    }

    fn problem(&mut self, source: usize, problem: String) {
        let source = &mut self.sources[source];
        let times = source.problem.take().map_or(0, |(_, times)| times);
        source.problem = Some((problem, times.saturating_add(1)));
        self.metrics.listed("error");
        self.publish();
    }

    fn publish(&mut self) {
        let records = self.records();
        let problem = self.problems();
        self.state.send_if_modified(|state| {
            let is_news = records.is_some() && state.records != records || state.problem != problem;
            if records.is_some() {
                state.records = records;
            }
            state.problem = problem;
            is_news
        });
    }

    /// The records of all sources; `None` while a source is waited for.
    fn records(&mut self) -> Option<RecordSet> {
        let sources = &self.sources;
        let is_any_listed = sources.iter().any(|source| source.listed);
        if !is_any_listed || !sources.iter().all(Source::is_settled) {
            return None;
        }
        let mut read = Apps::read(sources.iter().map(|source| &source.apps), &self.naming);
        let unreadable = sources.iter().flat_map(|source| source.unreadable.clone());
        read.ignored.extend(unreadable);
        for reason in read.ignored.difference(&self.logged) {
            tracing::warn!(reason, "left out of DNS");
        }
        self.logged = read.ignored;
        // Versions are cluster-wide, so servers that have seen the same changes have the same
        // newest version.
        let version = sources.iter().map(|source| source.version).max();
        Some(RecordSet {
            entries: read.entries,
            // RFC 1982 arithmetic allows the serial to wrap.
            serial: version.unwrap_or_default() as u32,
        })
    }

    /// The problems of all sources, in one line.
    fn problems(&self) -> Option<String> {
        let problems = self.sources.iter().filter_map(|source| {
            let (problem, _) = source.problem.as_ref()?;
            Some(match &source.namespace {
                Some(namespace) => format!("in namespace {namespace}: {problem}"),
                None => problem.clone(),
            })
        });
        let problems: Vec<String> = problems.collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}
