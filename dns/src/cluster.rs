//! The `ScaledApp`s of a cluster as a source of records: watches them, in all namespaces
//! or in some, and keeps what [`crate::apps`] reads from them.
//!
//! Needs `list` and `watch` of `scaledapps` there, nothing more. While the API server is
//! away the last set stays. A namespace that cannot be read keeps none of the others from
//! being answered for.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::DeserializeGuard;
use kube::{Api, Client};
use scaledapp_watch::{News, Objects};
use tokio::sync::watch;

use crate::apps::{App, Apps, Naming};
use crate::metrics::Metrics;
use crate::origins::Given;

/// So many failures in a row, some two seconds, and the names of a namespace that was
/// never read are denied rather than all names of all namespaces withheld.
const PATIENCE: u32 = 3;

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last good set.
    pub(crate) given: Option<Given>,
    /// Why there is no newer one, of some namespaces or of all.
    pub(crate) problem: Option<String>,
}

/// Watches on for ever in tasks of its own; all namespaces if none is named.
///
/// # Errors
/// There is no API server to ask. One that does not answer is no error.
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
        told: BTreeSet::new(),
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

/// What one watch has told.
struct Source {
    namespace: Option<String>,
    apps: Apps,
    unreadable: BTreeSet<String>,
    version: u64,
    listed: bool,
    /// Why there is nothing newer, and how often in a row.
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

    /// Whether nothing is to be waited for.
    fn is_settled(&self) -> bool {
        let failures = self.problem.as_ref().map_or(0, |(_, times)| *times);
        self.listed || failures >= PATIENCE
    }
}

/// What all watches have told.
struct Gathered {
    naming: Naming,
    sources: Vec<Source>,
    /// What was left out, so that each is told when it is new.
    told: BTreeSet<String>,
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
        let given = self.given();
        let problem = self.problems();
        self.state.send_if_modified(|state| {
            let is_news = given.is_some() && state.given != given || state.problem != problem;
            if given.is_some() {
                state.given = given;
            }
            state.problem = problem;
            is_news
        });
    }

    /// `None` as long as something is waited for.
    fn given(&mut self) -> Option<Given> {
        let sources = &self.sources;
        let is_any_listed = sources.iter().any(|source| source.listed);
        if !is_any_listed || !sources.iter().all(Source::is_settled) {
            return None;
        }
        let mut read = Apps::read(sources.iter().map(|source| &source.apps), &self.naming);
        let unreadable = sources.iter().flat_map(|source| source.unreadable.clone());
        read.ignored.extend(unreadable);
        for reason in read.ignored.difference(&self.told) {
            tracing::warn!(reason, "left out of DNS");
        }
        self.told = read.ignored;
        // Versions count for the whole cluster: who has seen the newest has seen all.
        let version = sources.iter().map(|source| source.version).max();
        Some(Given {
            entries: read.entries,
            // RFC 1982 copes with the wrap.
            serial: version.unwrap_or_default() as u32,
        })
    }

    /// In one line.
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
