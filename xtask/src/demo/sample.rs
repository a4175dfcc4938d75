//! The running sample: sends load to it, counts requests, and runs `scaledapp` commands for it.

use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::load::{Load, Method, Report, Running};
use scaledapp_tests::local::Local;
use scaledapp_tests::{proc, sidecar};

use crate::console::{milliseconds, note};

/// Time-out for an operation that takes a moment if the machine is not busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Clients of each of the two loads.
pub(crate) const CLIENTS: usize = 4;
/// Requests per second of each load. Two cores can do much more, so a gap in the answers is caused
/// by the fault, not by the load.
const RATE: u32 = 500;
/// Least number of requests of each load, which takes three seconds at [`RATE`].
const REQUESTS: u64 = 1500;
/// Answers to wait for before and after the action under load.
const AROUND: u64 = 200;

/// The running app.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) local: Local,
    /// The app's name.
    pub(crate) name: String,
    /// Workers of each pod at the start.
    pub(crate) workers: u64,
    /// Whether the app echoes a POST to `/`.
    pub(crate) posts: bool,
}

/// The counts of a step, and the promises that it broke.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) gap: Option<Duration>,
    pub(crate) broken: Vec<String>,
}

impl Counted {
    pub(crate) fn of(report: &Report) -> Self {
        Self {
            sent: report.sent,
            failed: report.failed(),
            gap: Some(report.longest_gap),
            broken: Vec::new(),
        }
    }

    /// Notes a broken promise unless `kept`.
    pub(crate) fn demand(&mut self, kept: bool, reason: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(reason());
        }
    }

    /// Checks the promise of most steps: no request failed.
    pub(crate) fn none_failed(mut self) -> Self {
        let failed = self.failed;
        self.demand(failed == 0, || format!("{failed} requests failed"));
        self
    }
}

impl Sample {
    /// Reads the app's properties from its pods and from its answers.
    ///
    /// # Errors
    /// The run has no pod or no balancer, or the app does not answer `GET /` with 200.
    pub(crate) fn of(local: Local) -> anyhow::Result<Self> {
        let pod = local.state.pods.first().context("the run has no pod")?;
        let name = match pod.name.rsplit_once('-') {
            Some((name, _)) => name.to_owned(),
            None => pod.name.clone(),
        };
        let workers = sidecar::status(pod.admin)?["desired"]
            .as_u64()
            .context("/status does not show the desired number of workers")?;
        let to = *local
            .state
            .balancers
            .first()
            .context("the app has no balancer: the demo needs spec.balancers.replicas of 2")?;
        let answer = http::get(to, "/")?;
        ensure!(
            answer.status == 200,
            "GET / got status {}: the demo needs an app that answers 200",
            answer.status
        );
        let posted = http::one_shot(to, SOON, &Request::post("/", b"an echo"));
        let posts =
            posted.is_ok_and(|answer| answer.status == 200 && answer.text().contains("an echo"));
        Ok(Self {
            local,
            name,
            workers,
            posts,
        })
    }

    /// Whether `scaledapp local` itself still runs.
    pub(crate) fn is_running(&self) -> bool {
        proc::is_running(self.local.process.pid())
    }

    /// Runs a `scaledapp` command and returns its output.
    ///
    /// # Errors
    /// The command exited with another code than 0.
    pub(crate) fn command(&self, words: &[&str]) -> anyhow::Result<String> {
        let ended = self.local.command(words)?;
        ensure!(
            ended.code == 0,
            "scaledapp {} exited with {}: {}",
            words.join(" "),
            ended.code,
            ended.stderr.trim()
        );
        Ok(ended.stdout)
    }

    /// Performs an action under load, and counts the requests. Half of the clients keep their
    /// connections, and the other half connect for each request. All of them find the balancers by
    /// DNS.
    ///
    /// # Errors
    /// The action failed, or the load got no answers.
    pub(crate) fn under_load<T>(
        &self,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Report)> {
        let targets = self.local.resolve()?;
        let load = |keep_alive| Load {
            clients: CLIENTS,
            keep_alive,
            rate: Some(RATE),
            post_every: if self.posts { 4 } else { 0 },
            tally: Some("pid"),
            ..Load::on(&targets)
        };
        let loads = [load(true).start()?, load(false).start()?];
        let more = |loads: &[Running]| -> anyhow::Result<()> {
            loads
                .iter()
                .try_for_each(|load| load.wait_more(AROUND, SOON))
        };
        let acted = more(&loads).and_then(|()| act());
        let after = more(&loads).and_then(|()| {
            loads
                .iter()
                .try_for_each(|load| load.wait_sent(REQUESTS, SOON))
        });
        let [kept, single] = loads.map(Running::stop);
        let both = kept.clone().and(&single);
        note(&format!(
            "{} requests sent ({} on kept connections, {} with a new connection each; {} POST), {} failed, longest gap {}.",
            both.sent,
            kept.sent,
            single.sent,
            both.posts,
            both.failed(),
            milliseconds(both.longest_gap)
        ));
        for ((method, failure), count) in &both.failures {
            let method = match method {
                Method::Get => "GET",
                Method::Post => "POST",
            };
            note(&format!("Failed: {count} {method}, {failure}."));
        }
        let acted = acted?;
        after?;
        Ok((acted, both))
    }
}
