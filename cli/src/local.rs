//! `scaledapp local`: everything of an app on this machine, from the first
//! process to the last.
//!
//! Order of life: pods and balancers, then DNS, then the state file. Order of
//! death: the name goes from DNS, balancers drain, then pods, then DNS itself.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal as Kill;
use scaledapp_admin::{Signals, table};
use scaledapp_plan::local::{Machine, Plan, demand, plan};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::addresses::{self, Taken};
use crate::ask;
use crate::binaries::Binaries;
use crate::cli::LocalArgs;
use crate::launch::{Files, Programs, programs};
use crate::members::{Event, Index, Members, code};
use crate::object::{self, Object};
use crate::rundir::{ENDPOINTS, RECORDS, RunDir, TOKEN};
use crate::state::{State, replace};

/// Between two looks at what starts or goes.
const LOOK: Duration = Duration::from_millis(20);
/// DNS sees a new records file within a tenth of this.
const WITHDRAWN: Duration = Duration::from_secs(1);
/// What a supervisor needs beyond the drain: stop grace, and a busy machine.
const MARGIN: Duration = Duration::from_secs(15);

/// How a run ended that had started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing in flight was cut off by us.
    Drained,
    /// Killed by a second signal, or too slow to stop.
    Killed,
}

/// Runs an app until a signal asks for its end.
///
/// # Errors
/// It could not start; nothing of it is left then.
pub(crate) fn run(args: &LocalArgs) -> anyhow::Result<Ended> {
    let object = object::load(&args.file)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = u32::try_from(cores)
        .ok()
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN);
    let machine = Machine {
        nodes: args.nodes,
        cores,
    };
    let demand = demand(&object.app, machine)?;
    let binaries = Binaries::find()?;
    for note in &object.notes {
        tracing::warn!("{note}");
    }
    let run = RunDir::take(
        &object.app.name,
        args.workdir.as_deref(),
        args.state_file.as_deref(),
    )?;
    let taken: Taken = addresses::take(demand)?;
    let plan = plan(&object.app, machine, demand, taken.addresses);
    let files = Files {
        endpoints: run.file(ENDPOINTS),
        records: run.file(RECORDS),
        token: run.file(TOKEN),
    };
    replace(&files.endpoints, &endpoints(&plan))?;
    replace(&files.records, &records(&plan))?;
    write_token(&files.token)?;
    let programs = programs(&object, &plan, &binaries, &files);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut all = Local {
            members: Members::new(),
            signals: Signals::new()?,
            plan: &plan,
            run: &run,
            stop_time: object.app.workers.drain_timeout + MARGIN,
            pods: Vec::new(),
            slots: Vec::new(),
        };
        let begun = Instant::now();
        match all.start(programs).await {
            Ok(Started::Ready) => {
                run.publish(&State::of(&plan))?;
                announce(&describe(&object, &plan, begun.elapsed()));
                all.keep().await;
                Ok(all.stop().await)
            }
            Ok(Started::Interrupted) => Ok(all.stop().await),
            Err(error) => {
                all.stop().await;
                Err(error)
            }
        }
    })
}

/// What became of the start.
enum Started {
    Ready,
    /// A signal asked for the end before all was ready.
    Interrupted,
}

struct Local<'a> {
    members: Members,
    signals: Signals,
    plan: &'a Plan,
    run: &'a RunDir,
    /// A supervisor that has not stopped by then never will.
    stop_time: Duration,
    pods: Vec<Index>,
    slots: Vec<Index>,
}

impl Local<'_> {
    async fn start(&mut self, programs: Programs) -> anyhow::Result<Started> {
        for program in programs.pods {
            self.pods.push(self.members.add(program)?);
        }
        for program in programs.slots {
            self.slots.push(self.members.add(program)?);
        }
        let plan = self.plan;
        if let Started::Interrupted = self.wait(serving(plan)).await? {
            return Ok(Started::Interrupted);
        }
        // Not before: its first look at the balancers is then the right one.
        self.members.add(programs.dns)?;
        self.wait(named(plan)).await
    }

    /// Waits until all that was started is ready. A process that ends before
    /// is no accident but a mistake of the app or of ours.
    async fn wait(&mut self, ready: impl Future<Output = ()>) -> anyhow::Result<Started> {
        tokio::select! {
            () = ready => Ok(Started::Ready),
            event = self.members.next() => match event {
                Event::Ended(index, status) => {
                    let (name, code) = (self.members.name(index), code(status));
                    bail!("{name} could not start ({}); its own words are above", meaning(code))
                }
                Event::StartAgain(_) => bail!("a process starts again before all was ready"),
            },
            _ = self.signals.next() => Ok(Started::Interrupted),
        }
    }

    /// Starts again what ends, until a signal comes.
    async fn keep(&mut self) {
        loop {
            tokio::select! {
                event = self.members.next() => match event {
                    Event::Ended(index, status) => self.members.restart(index, status),
                    Event::StartAgain(index) => self.members.start_again(index),
                },
                _ = self.signals.next() => return,
            }
        }
    }

    /// Stops everything in order; nothing runs any more when it returns.
    async fn stop(&mut self) -> Ended {
        tracing::info!("stopping: balancers drain first, then pods; a second Ctrl-C kills");
        let all = self.members.all();
        let (pods, slots) = (self.pods.clone(), self.slots.clone());
        let in_order = [&slots, &pods, &all];
        self.withdraw().await;
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

    /// Takes the name from DNS, and waits until DNS knows.
    async fn withdraw(&self) {
        if let Err(error) = replace(&self.run.file(RECORDS), &json!({})) {
            tracing::warn!("the name stays in DNS: {error:#}");
            return;
        }
        let record = &self.plan.dns;
        let withdrawn = async {
            // No answer is as good: it never started.
            while ask::addresses(record.listen, record.hostname.as_str())
                .await
                .is_ok_and(|left| !left.is_empty())
            {
                sleep(LOOK).await;
            }
        };
        if timeout(WITHDRAWN, withdrawn).await.is_err() {
            tracing::warn!("DNS still names the app after {WITHDRAWN:?}");
        }
    }

    /// Waits for the end of these.
    async fn gone(&mut self, these: &[Index]) -> Ended {
        let deadline = Instant::now() + self.stop_time;
        while self.members.any_runs(these) {
            tokio::select! {
                // What waits for its next start does not get it any more.
                _ = self.members.next() => {}
                _ = self.signals.next() => return Ended::Killed,
                () = sleep_until(deadline) => {
                    tracing::error!("not stopped after {:?}: killing", self.stop_time);
                    return Ended::Killed;
                }
            }
        }
        Ended::Drained
    }
}

/// Resolves when every worker and every balancer is ready.
async fn serving(plan: &Plan) {
    for pod in &plan.pods {
        let complete = |status: serde_json::Value| {
            status["ready"]
                .as_u64()
                .is_some_and(|ready| ready >= u64::from(plan.workers))
        };
        while !ask::status(pod.admin).await.is_ok_and(complete) {
            sleep(LOOK).await;
        }
    }
    for slot in &plan.slots {
        while ask::ready(slot.admin).await.is_err() {
            sleep(LOOK).await;
        }
    }
}

/// Resolves when DNS names all that it should.
async fn named(plan: &Plan) {
    // As many as fit into one answer.
    let expected = plan.dns.addresses.len().min(8);
    let complete = |named: Vec<std::net::IpAddr>| named.len() == expected;
    while !ask::addresses(plan.dns.listen, plan.dns.hostname.as_str())
        .await
        .is_ok_and(complete)
    {
        sleep(LOOK).await;
    }
}

/// A new one for each run, that only we can read.
fn write_token(path: &Path) -> anyhow::Result<()> {
    // What a run left that could not clean up.
    drop(fs::remove_file(path));
    let write = || -> io::Result<()> {
        let token = scaledapp_admin::secret()?;
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        writeln!(file, "{token}")
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn endpoints(plan: &Plan) -> serde_json::Value {
    let pods = plan.pods.iter();
    pods.map(|pod| json!({"name": pod.name, "address": pod.address, "admin": pod.admin}))
        .collect()
}

fn records(plan: &Plan) -> serde_json::Value {
    let record = &plan.dns;
    json!({format!("{}.", record.hostname): {
        "ttl": record.ttl.as_secs(),
        "addresses": record.addresses,
        "probe": format!("tcp:{}", record.probe),
    }})
}

/// What a supervisor's exit code says.
fn meaning(code: i32) -> String {
    match code {
        0 => "it ended with 0 without ever serving".to_owned(),
        2 => "its supervisor ended with 2".to_owned(),
        126 => "126: the command cannot be executed".to_owned(),
        127 => "127: the command was not found".to_owned(),
        code if code > 128 => format!("{code}: signal {}", code - 128),
        code => format!("it ended with {code}"),
    }
}

/// Where everything is, for people.
fn describe(object: &Object, plan: &Plan, took: Duration) -> String {
    let name = &object.app.name;
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.extend(plan.slots.iter().map(|slot| {
        [
            slot.name.clone(),
            slot.address.to_string(),
            slot.admin.to_string(),
        ]
    }));
    rows.extend(plan.pods.iter().map(|pod| {
        [
            pod.name.clone(),
            pod.address.to_string(),
            pod.admin.to_string(),
        ]
    }));
    let mut text = format!(
        "{name} is ready after {:.1} s: {}, {}\n\n{}\n",
        took.as_secs_f64(),
        counted(
            plan.pods.len(),
            &format!("pod of {}", counted(plan.workers as usize, "worker"))
        ),
        counted(plan.slots.len(), "balancer"),
        table(["NAME", "ADDRESS", "ADMIN"], rows)
    );
    let record = &plan.dns;
    let first = plan
        .slots
        .first()
        .map_or(plan.pods.first().map(|pod| pod.address), |slot| {
            Some(slot.address)
        });
    let mut line = |text_of: String| {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "  {text_of}");
    };
    if let (Some(first), false) = (first, plan.slots.is_empty()) {
        line(format!("curl http://{first}/"));
    }
    let (ip, port) = (record.listen.ip(), record.listen.port());
    line(format!("dig @{ip} -p {port} {} +short", record.hostname));
    line(format!(
        "scaledapp status | scale {name} N | reload {name} | logs {name}"
    ));
    line("Ctrl-C drains and ends it".to_owned());
    text
}

/// `1 pod`, `2 pods`; the plural goes after the first word.
fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        return format!("1 {what}");
    }
    match what.split_once(' ') {
        Some((first, rest)) => format!("{count} {first}s {rest}"),
        None => format!("{count} {what}s"),
    }
}

fn announce(text: &str) {
    // With stdout closed the state file still says it.
    let mut out = io::stdout();
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
