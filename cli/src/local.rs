//! `scaledapp local`: starts the apps of a file on this machine, keeps them running, and stops
//! them.
//!
//! Start order: pods and balancers, then DNS, then the state files. Stop order: the names are
//! withdrawn from DNS, then the balancers drain, then the pods, and DNS stops last.

mod apps;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use rustix::process::Signal as Kill;
use scaledapp_plan::local::{Demand, Machine, Plan, demand};
use scaledapp_runtime::Signals;
use scaledapp_wire::Status;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ask;
use crate::autoscale::{self, Autoscalers, Change, Step};
use crate::binaries::Binaries;
use crate::browser;
use crate::cli::LocalArgs;
use crate::develop::{self, Watched, Watching};
use crate::failure::{self, Failed, Ran};
use crate::members::{Event, Index, Members, code};
use crate::object::{self, Objects};
use crate::output::Output;
use crate::podset::{PodId, PodSet};
use crate::rundir::RunDir;
use crate::state::{PodState, State};
use crate::summary;
use crate::waiting::{self, Waited, awaited};
use apps::{
    AllPrograms, App, ENDPOINTS, Zone, endpoints, file_of, planned, programs_of, records, zones,
};

/// After this long, the log says what the start waits for. Most apps listen sooner.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
/// How often processes that start or stop are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long DNS may take to withdraw all names. A DNS server looks for a changed records file ten
/// times in this period.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a stop says what it waits for.
const STOP_NOTICE: Duration = Duration::from_secs(2);
/// How long a pod may take to say how many requests it still has.
const ASK_TIMEOUT: Duration = Duration::from_millis(300);
/// Time that a supervisor on a busy machine may need beyond drain and stop grace.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// How a run ended after a signal had asked it to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All processes stopped in time after SIGTERM.
    Drained,
    /// The processes were killed, because a second signal arrived or they took too long to stop.
    Killed,
}

/// Runs the apps of a file until a signal stops them.
///
/// # Errors
/// The file or an object in it is invalid, or an app could not start. No process and no file of the
/// run remains.
pub(crate) fn run(args: &LocalArgs) -> anyhow::Result<Ended> {
    let objects = object::load(&args.file)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = u32::try_from(cores)
        .ok()
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN);
    let machine = Machine {
        nodes: args.nodes,
        cores,
    };
    let demands = objects
        .apps
        .iter()
        .map(|object| demand(&object.app, machine));
    let demands = demands.collect::<Result<Vec<Demand>, _>>()?;
    let binaries = Binaries::find()?;
    log_notes(&objects);
    let names: Vec<&str> = objects
        .apps
        .iter()
        .map(|object| object.app.name.as_str())
        .collect();
    let mut run = RunDir::take(&names, args.workdir.as_deref(), args.state_file.as_deref())?;
    let zones = zones(&objects)?;
    let apps = planned(&objects, demands, &zones, machine)?;
    let programs = programs_of(&apps, &zones, &run, &binaries)?;
    let states = apps.iter().map(|app| State::of(&app.object.app, &app.plan));
    let mut states: Vec<State> = states.collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let output = Output::start()?;
        let mut all = Local {
            members: Members::new(output.clone()),
            signals: Signals::new()?,
            apps: &apps,
            zones: &zones,
            stop_time: stop_time(&apps),
            pods: PodSet::default(),
            slots: Vec::new(),
        };
        let begun = Instant::now();
        let ended = match all.start(programs).await {
            Ok(Started::Ready) => match run.publish(&states) {
                Ok(()) => {
                    all.announce(begun.elapsed(), args.open).await;
                    let watching = args.watch.then(|| watch(&apps)).transpose();
                    match watching {
                        Ok(watching) => {
                            let _reloads =
                                all.follow(watching, &args.file, &binaries, output).await;
                            all.keep(&mut run, &mut states).await;
                            Ok(all.stop(&run).await)
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            },
            Ok(Started::Interrupted) => Ok(all.stop(&run).await),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            all.stop(&run).await;
        }
        all.members.flushed().await;
        ended
    })
}

/// How long a stop of all apps may take.
fn stop_time(apps: &[App<'_>]) -> Duration {
    let stops = apps.iter().map(|app| {
        let workers = &app.object.app.workers;
        workers.drain_timeout + workers.stop_grace()
    });
    stops.max().unwrap_or_default() + STOP_MARGIN
}

fn log_notes(objects: &Objects) {
    for note in &objects.notes {
        tracing::warn!("{note}");
    }
    for object in &objects.apps {
        for note in &object.notes {
            if objects.apps.len() == 1 {
                tracing::warn!("{note}");
            } else {
                tracing::warn!("{}: {note}", object.app.name);
            }
        }
    }
}

/// The result of the start.
enum Started {
    Ready,
    /// A signal arrived before everything was ready.
    Interrupted,
}

struct Local<'a> {
    members: Members,
    signals: Signals,
    apps: &'a [App<'a>],
    zones: &'a [Zone],
    /// How long the processes may take to stop. A supervisor that takes longer counts as hung.
    stop_time: Duration,
    pods: PodSet,
    slots: Vec<Index>,
}

impl Local<'_> {
    async fn start(&mut self, programs: AllPrograms) -> anyhow::Result<Started> {
        self.pods = PodSet::new(programs.pods);
        for (index, app) in self.apps.iter().enumerate() {
            for pod in 0..app.plan.running {
                self.pods
                    .start(&mut self.members, PodId { app: index, pod })?;
            }
        }
        for program in programs.slots {
            self.slots.push(self.members.add(program)?);
        }
        let apps = self.apps;
        let serving = async {
            for app in apps {
                let path = app.object.app.workers.readiness.path.as_deref();
                serving(&app.plan, path).await;
            }
        };
        if let Started::Interrupted = self.wait(serving).await? {
            return Ok(Started::Interrupted);
        }
        // DNS is started last, so that its first probes find the balancers ready.
        for program in programs.dns {
            self.members.add(program)?;
        }
        let named = async {
            for app in apps {
                named(&app.plan).await;
            }
        };
        self.wait(named).await
    }

    /// Waits until `ready` resolves. If a process ends before that, the start fails and the process
    /// is not restarted, because the cause is usually a mistake in the app or in the project's
    /// programs.
    async fn wait(&mut self, ready: impl Future<Output = ()>) -> anyhow::Result<Started> {
        let event = tokio::select! {
            () = ready => return Ok(Started::Ready),
            event = self.members.next() => event,
            _ = self.signals.next() => return Ok(Started::Interrupted),
        };
        let Event::Ended(index, status) = event else {
            bail!("a process was restarted before everything was ready");
        };
        let (program, said) = self.members.program(index);
        let said = said.last().await;
        let ran = program.workers.as_ref().map(|workers| Ran {
            command: &workers.command,
            directory: &program.directory,
            port: workers.port,
        });
        let failed = Failed {
            name: &program.name,
            code: code(status),
            app: ran,
            output: &said,
        };
        bail!("{}", failure::text(failed))
    }

    /// Prints the addresses of the apps, and opens the first one in a browser if that is wanted.
    async fn announce(&self, took: Duration, opens: bool) {
        for app in self.apps {
            let text = summary::describe(app.object, &app.plan, app.authority.as_ref(), took);
            self.members.announce(&text).await;
        }
        let ctrl_c = "  Ctrl-C drains and stops it\n";
        self.members.announce(ctrl_c).await;
        let mut urls = self.apps.iter();
        let url = urls.find_map(|app| summary::url(app.object, &app.plan));
        if let Some(problem) = url.filter(|_| opens).and_then(|url| browser::open(&url)) {
            self.members.announce(&problem).await;
        }
    }

    /// Reloads apps after changes of their files, as long as the returned task is kept.
    async fn follow(
        &self,
        watching: Option<Watching>,
        file: &Path,
        binaries: &Binaries,
        output: Output,
    ) -> JoinSet<()> {
        let mut reloads = JoinSet::new();
        if let Some(watching) = watching {
            self.members.announce(&watching.describe()).await;
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            reloads.spawn(watching.run(file, binaries.sidecar.clone(), output));
        }
        reloads
    }

    /// Restarts processes that end, and starts and stops pods as autoscalers decide, until a signal
    /// arrives.
    async fn keep(&mut self, run: &mut RunDir, states: &mut [State]) {
        let mut scalers = Autoscalers::new(self.autoscaled());
        loop {
            let steps = tokio::select! {
                event = self.members.next() => {
                    match event {
                        Event::Ended(index, status) => {
                            let pod = self.pods.find(index);
                            if !pod.is_some_and(|id| scalers.ended(id)) {
                                self.members.restart(index, status);
                            }
                        }
                        Event::StartAgain(index) => {
                            // A pod that is stopped during the pause before its restart stays off.
                            let pod = self.pods.find(index);
                            if !pod.is_some_and(|id| scalers.left(id)) {
                                self.members.start_again(index);
                            }
                        }
                    }
                    continue;
                }
                steps = scalers.next() => steps,
                _ = self.signals.next() => return,
            };
            for step in steps {
                if let Some(text) = &step.text {
                    tracing::info!("{}: {text}", self.apps[step.app].object.app.name);
                }
                if let Err(error) = self.carry_out(step, run, states) {
                    tracing::error!("{error:#}");
                }
            }
        }
    }

    /// The apps with an autoscaler.
    fn autoscaled(&self) -> Vec<autoscale::Started> {
        let apps = self.apps.iter().enumerate();
        apps.filter_map(|(index, app)| autoscale::Started::of(index, app.object, &app.plan))
            .collect()
    }

    /// Starts and stops pods. Balancers learn of the pods that remain before others are stopped.
    fn carry_out(
        &mut self,
        step: Step,
        run: &mut RunDir,
        states: &mut [State],
    ) -> anyhow::Result<()> {
        let app = &self.apps[step.app];
        let listed = step.listed.iter().copied();
        let file = file_of(self.apps, app, ENDPOINTS);
        run.write(&file, &endpoints(&app.plan, listed.clone()))?;
        for change in step.changes {
            let id = |pod| PodId { app: step.app, pod };
            match change {
                Change::Start(pod) => self.pods.start_again(&mut self.members, id(pod)),
                Change::Stop(pod) => {
                    let member = self.pods.member(id(pod));
                    self.members.signal(member.as_slice(), Kill::TERM);
                }
            }
        }
        if let Some(state) = states.get_mut(step.app) {
            let pods = listed.filter_map(|pod| app.plan.pods.get(pod));
            state.pods = pods.map(PodState::of).collect();
            state.autoscaling = Some(step.decided);
        }
        run.publish(states)
    }

    /// Stops everything in order. When this function returns, no process of the run is left.
    async fn stop(&mut self, run: &RunDir) -> Ended {
        tracing::info!("stopping: the balancers drain, then the pods; a second Ctrl-C kills");
        let all = self.members.all();
        let (pods, slots) = (self.pods.members(), self.slots.clone());
        let in_order = [&slots, &pods, &all];
        self.withdraw(run).await;
        for these in in_order {
            self.members.signal(these, Kill::TERM);
            if self.gone(these).await == Ended::Killed {
                self.members.signal(&all, Kill::KILL);
                while self.members.any_runs(&all) {
                    self.members.next().await;
                }
                return Ended::Killed;
            }
        }
        Ended::Drained
    }

    /// Removes the names from the records, and waits until DNS no longer answers with them, up to a
    /// time-out.
    async fn withdraw(&self, run: &RunDir) {
        for zone in self.zones {
            if let Err(error) = run.write(&zone.records, &records(std::iter::empty())) {
                tracing::warn!("the names of {} stay in DNS: {error:#}", zone.name);
                return;
            }
        }
        let withdrawn = async {
            for app in self.apps {
                let record = &app.plan.dns;
                // Without an answer, the DNS server is not running, for example because the start
                // failed before the server was started.
                while ask::addresses(record.listen, record.hostname.as_str())
                    .await
                    .is_ok_and(|left| !left.is_empty())
                {
                    sleep(POLL_INTERVAL).await;
                }
            }
        };
        if timeout(WITHDRAW_TIMEOUT, withdrawn).await.is_err() {
            tracing::warn!("DNS still names the app after {WITHDRAW_TIMEOUT:?}");
        }
    }

    /// Waits until `these` have ended. Returns [`Ended::Killed`] if a signal or the time-out comes
    /// first; the caller then kills all processes.
    async fn gone(&mut self, these: &[Index]) -> Ended {
        let deadline = Instant::now() + self.stop_time;
        let mut notice = Instant::now() + STOP_NOTICE;
        while self.members.any_runs(these) {
            tokio::select! {
                // Events are dropped, so a process that waits for a restart is not restarted.
                _ = self.members.next() => {}
                _ = self.signals.next() => return Ended::Killed,
                () = sleep_until(notice.min(deadline)), if notice < deadline => {
                    notice += STOP_NOTICE;
                    let left = deadline.saturating_duration_since(Instant::now());
                    let waited = self.waited(these).await;
                    tracing::info!("{}", waiting::waits_for(&waited, left));
                }
                () = sleep_until(deadline) => {
                    tracing::error!("not stopped after {:?}; killing what is left", self.stop_time);
                    return Ended::Killed;
                }
            }
        }
        Ended::Drained
    }

    /// Those of `these` that run, with the requests that pods still have.
    async fn waited(&self, these: &[Index]) -> Vec<Waited> {
        let mut all = Vec::new();
        for index in these
            .iter()
            .filter(|index| self.members.any_runs(&[**index]))
        {
            let name = self.members.program(*index).0.name.clone();
            let mut pods = self.apps.iter().flat_map(|app| &app.plan.pods);
            let admin = pods.find(|pod| pod.name == name).map(|pod| pod.admin);
            let status = match admin {
                Some(admin) => timeout(ASK_TIMEOUT, ask::status::<Status>(admin))
                    .await
                    .ok(),
                None => None,
            };
            let in_flight = status.and_then(Result::ok);
            all.push(Waited {
                name,
                in_flight: in_flight.map(|status| waiting::in_flight(&status)),
            });
        }
        all
    }
}

/// Begins to watch the files of the apps.
fn watch(apps: &[App<'_>]) -> anyhow::Result<Watching> {
    let watched = apps.iter().map(|app| Watched {
        name: app.object.app.name.clone(),
        directory: app.object.directory.clone(),
        pods: app
            .plan
            .pods
            .iter()
            .map(|pod| (pod.name.clone(), pod.admin))
            .collect(),
    });
    develop::watch(watched.collect())
}

/// Resolves when all workers and balancers of an app are ready. If the workers take long, logs what
/// is missing.
async fn serving(plan: &Plan, path: Option<&str>) {
    let begun = Instant::now();
    for pod in plan.pods.iter().take(plan.running) {
        let mut is_logged = false;
        loop {
            let status: Option<Status> = ask::status(pod.admin).await.ok();
            let ready = status.as_ref().map(|status| status.ready);
            if ready.is_some_and(|ready| ready >= plan.workers) {
                break;
            }
            if !is_logged && begun.elapsed() >= NOTICE_AFTER {
                is_logged = true;
                tracing::warn!(
                    "{}",
                    awaited(
                        &pod.name,
                        (pod.address.port(), path),
                        plan.workers,
                        status.as_ref()
                    )
                );
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    for slot in &plan.slots {
        while ask::ready(slot.admin).await.is_err() {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Resolves when DNS answers with all addresses of the app's name.
async fn named(plan: &Plan) {
    // One answer contains at most eight addresses.
    let expected = plan.dns.addresses.len().min(8);
    let complete = |named: Vec<IpAddr>| named.len() == expected;
    while !ask::addresses(plan.dns.listen, plan.dns.hostname.as_str())
        .await
        .is_ok_and(complete)
    {
        sleep(POLL_INTERVAL).await;
    }
}
