//! The tables that `ctl` prints for people, made from the supervisor's answers.
//!
//! Nothing is requested or decided here. A field that an older supervisor does not send is
//! shown as `-`.

use std::fmt::{Display, Write};
use std::time::Duration;

use scaledapp_runtime::table;
use scaledapp_wire::{
    Description, Dispatch, Event, Events, LastExit, Mechanism, Scaling, ScalingChange,
    SlotDescription, Status, Tails, Worker,
};

use crate::clock::span;

/// An earlier status and its age, from which CPU use is calculated.
pub(crate) type Before<'a> = Option<(&'a Status, Duration)>;

fn word(text: &str) -> String {
    let known = Some(text).filter(|text| !text.is_empty());
    optional(known)
}

fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn seconds(seconds: Option<f64>) -> String {
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    optional(time.map(span))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}Mi", bytes as f64 / (1024.0 * 1024.0))
}

/// The share of one core in percent: since `before`, otherwise over the worker's life.
fn cpu(worker: &Worker, before: Before<'_>) -> String {
    let Some(used) = worker.cpu_seconds else {
        return "-".to_owned();
    };
    let earlier = before.and_then(|(status, ago)| {
        let mut others = status.workers.iter();
        let same = others.find(|other| other.pid == worker.pid)?;
        Some((used - same.cpu_seconds?, ago.as_secs_f64()))
    });
    let lifetime = (used, worker.uptime_seconds.unwrap_or(0.0));
    match earlier.unwrap_or(lifetime) {
        (used, over) if over > 0.0 => format!("{:.0}", (100.0 * used / over).max(0.0)),
        _ => "-".to_owned(),
    }
}

/// How many workers are ready, and how work reaches them.
struct Headline {
    ready: u32,
    desired: u32,
    generation: u32,
    dispatch: Dispatch,
    mechanism: Mechanism,
}

impl Display for Headline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            ready,
            desired,
            generation,
            dispatch,
            mechanism,
        } = self;
        write!(
            f,
            "{ready} of {desired} workers ready, generation {generation}, "
        )?;
        if *dispatch == Dispatch::None {
            return writeln!(f, "no port");
        }
        let (dispatch, mechanism) = (dispatch.as_str(), mechanism.as_str());
        writeln!(f, "{dispatch} dispatch by {mechanism}")
    }
}

/// The range of the number of workers, why it changed last, and what holds it back.
fn range(scaling: &Scaling) -> String {
    let Scaling { min, max, .. } = scaling;
    let mut text = format!("{min} to {max} workers, by load");
    // Writing into a String cannot fail.
    let _infallible = match &scaling.last {
        Some(change) => {
            let ScalingChange {
                from,
                to,
                time,
                text: why,
                ..
            } = change;
            writeln!(text, "; {time}: {from} → {to}, because {why}.")
        }
        None => writeln!(text, "; not changed yet."),
    };
    if let Some(held) = &scaling.held_text {
        let _infallible = writeln!(text, "One more is needed, but {held}.");
    }
    text
}

/// `ctl status` and `ctl top`.
pub(crate) fn status(status: &Status, before: Before<'_>) -> String {
    let header = [
        "SLOT",
        "PID",
        "STATE",
        "GEN",
        "RESTARTS",
        "UPTIME",
        "CPU%",
        "RSS",
        "IN-FLIGHT",
    ];
    let running = status.workers.iter().map(|worker| {
        let row = [
            worker.slot.to_string(),
            worker.pid.to_string(),
            worker.state.as_str().to_owned(),
            worker.generation.to_string(),
            worker.restarts.to_string(),
            seconds(worker.uptime_seconds),
            cpu(worker, before),
            mebibytes(worker.rss_bytes),
            worker.in_flight.to_string(),
        ];
        (worker.slot, row)
    });
    let waiting = status.waiting.iter().map(|waiting| {
        let row = header.map(|column| match column {
            "SLOT" => waiting.slot.to_string(),
            "STATE" => waiting.state.as_str().to_owned(),
            "RESTARTS" => waiting.restarts.to_string(),
            _ => "-".to_owned(),
        });
        (waiting.slot, row)
    });
    let mut rows: Vec<_> = running.chain(waiting).collect();
    rows.sort_by_key(|(slot, _)| *slot);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    let headline = Headline {
        ready: status.ready,
        desired: status.desired,
        generation: status.generation,
        dispatch: status.dispatch,
        mechanism: status.mechanism,
    };
    let mut text = headline.to_string() + &table(header, rows);
    if let Some(scaling) = &status.scaling {
        text.push_str(&range(scaling));
    }
    for worker in &status.workers {
        if let Some(port) = worker.listens_elsewhere {
            // Writing into a String cannot fail.
            let _infallible = writeln!(
                text,
                "The worker in slot {} listens on {port}, which is not --port.",
                worker.slot
            );
        }
    }
    for waiting in &status.waiting {
        // Writing into a String cannot fail.
        let _infallible = writeln!(
            text,
            "Slot {} waits for its next start; its last worker: {}.",
            waiting.slot,
            exit(waiting.last_exit.as_ref())
        );
    }
    text
}

fn exit(last: Option<&LastExit>) -> String {
    match last {
        None => "none".to_owned(),
        Some(LastExit {
            text, reason, time, ..
        }) => format!("{} ({}) at {}", word(text), word(reason), word(time)),
    }
}

/// `ctl events`.
pub(crate) fn events(answer: &Events) -> String {
    let header = ["TIME", "SLOT", "TYPE", "REASON", "TEXT"];
    let rows = answer.events.iter().map(|event| {
        [
            word(&event.time),
            optional(event.slot),
            event.kind.as_str().to_owned(),
            word(&event.reason),
            word(&event.text),
        ]
    });
    let mut text = table(header, rows.collect());
    if answer.forgotten > 0 {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "{} older events are not kept.", answer.forgotten);
    }
    text
}

/// `ctl logs`.
pub(crate) fn tails(slots: &Tails) -> String {
    let mut text = String::new();
    for (slot, lines) in slots {
        for line in lines {
            // Writing into a String cannot fail.
            let _infallible = writeln!(text, "{slot} | {line}");
        }
    }
    text
}

/// `ctl describe`.
pub(crate) fn describe(answer: &Description) -> String {
    let headline = Headline {
        ready: answer.ready,
        desired: answer.desired,
        generation: answer.generation,
        dispatch: answer.dispatch,
        mechanism: answer.mechanism,
    };
    let mut text = headline.to_string();
    field(&mut text, 0, "command", &answer.command.join(" "));
    field(&mut text, 0, "port", &optional(answer.port));
    field(&mut text, 0, "up", &seconds(Some(answer.uptime_seconds)));
    for slot in &answer.slots {
        describe_slot(&mut text, slot);
    }
    text
}

fn field(text: &mut String, indent: usize, name: &str, value: &str) {
    // Writing into a String cannot fail.
    let _infallible = writeln!(text, "{:indent$}{name:<12} {value}", "");
}

fn describe_slot(text: &mut String, slot: &SlotDescription) {
    text.push('\n');
    field(text, 0, "slot", &slot.slot.to_string());
    field(text, 2, "state", slot.state.as_str());
    if slot.next_start_seconds.is_some() {
        let left = seconds(slot.next_start_seconds);
        field(text, 2, "next start", &format!("in {left}"));
    }
    field(text, 2, "restarts", &slot.restarts.to_string());
    let causes = slot.ends_by_cause.iter();
    let causes: Vec<String> = causes.map(|(cause, n)| format!("{n} {cause}")).collect();
    if !causes.is_empty() {
        field(text, 2, "ends", &causes.join(", "));
    }
    field(text, 2, "last end", &exit(slot.last_exit.as_ref()));
    for worker in &slot.workers {
        describe_worker(text, worker);
    }
    let event = |event: &Event| {
        let (time, reason) = (word(&event.time), word(&event.reason));
        format!("{time} {reason} {}", word(&event.text))
    };
    list(text, "events", slot.events.iter().map(event));
    list(text, "stderr", slot.stderr.iter().flatten());
}

fn describe_worker(text: &mut String, worker: &Worker) {
    field(text, 2, "worker", &format!("pid {}", worker.pid));
    let state = worker.state.as_str();
    let since = seconds(worker.state_seconds);
    field(text, 4, "state", &format!("{state} since {since}"));
    field(text, 4, "generation", &worker.generation.to_string());
    field(text, 4, "uptime", &seconds(worker.uptime_seconds));
    let used = worker.cpu_seconds.map(|used| {
        let share = cpu(worker, None);
        format!("{used:.2}s, {share} % of a core over its life")
    });
    field(text, 4, "cpu", &optional(used));
    field(text, 4, "rss", &mebibytes(worker.rss_bytes));
    field(text, 4, "in flight", &worker.in_flight.to_string());
    field(text, 4, "listens at", &optional(worker.address.as_ref()));
    if let Some(port) = worker.listens_elsewhere {
        let other = format!("port {port}, which is not --port");
        field(text, 4, "and on", &other);
    }
}

fn list(text: &mut String, name: &str, values: impl Iterator<Item = impl Display>) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    // Not printed as a field, which would end in blanks.
    let _infallible = writeln!(text, "  {name}");
    for value in values {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "    {value}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn example() -> Value {
        json!({
            "mechanism": "notify", "dispatch": "request", "generation": 2, "desired": 3, "ready": 1,
            "workers": [
                {"slot": 0, "pid": 7, "state": "Ready", "generation": 2, "restarts": 0, "inFlight": 3,
                 "rssBytes": 1_048_576, "uptimeSeconds": 200.0, "cpuSeconds": 10.0},
                {"slot": 2, "pid": 12_345, "state": "Draining", "generation": 1, "restarts": 10,
                 "inFlight": 0, "rssBytes": 0, "listensElsewhere": 8080},
            ],
            "waiting": [{"slot": 1, "state": "CrashLoop", "restarts": 4, "lastExit":
                {"text": "exit code 1", "reason": "Exited", "time": "2026-11-25T00:00:00.000Z"}}],
        })
    }

    fn read<T: serde::de::DeserializeOwned>(answer: &Value) -> T {
        T::deserialize(answer).unwrap()
    }

    #[test]
    fn a_status_becomes_an_aligned_table() {
        let expected = "\
1 of 3 workers ready, generation 2, request dispatch by notify
SLOT  PID    STATE      GEN  RESTARTS  UPTIME  CPU%  RSS    IN-FLIGHT
0     7      Ready      2    0         3m20s   5     1.0Mi  3
1     -      CrashLoop  -    4         -       -     -      -
2     12345  Draining   1    10        -       -     0.0Mi  0
The worker in slot 2 listens on 8080, which is not --port.
Slot 1 waits for its next start; its last worker: exit code 1 (Exited) at 2026-11-25T00:00:00.000Z.
";
        assert_eq!(status(&read(&example()), None), expected);
        let mut portless = example();
        portless["dispatch"] = "none".into();
        portless["mechanism"] = "none".into();
        let text = status(&read(&portless), None);
        assert!(
            text.starts_with("1 of 3 workers ready, generation 2, no port\n"),
            "{text}"
        );
    }

    #[test]
    fn cpu_use_is_measured_since_the_last_look() {
        let mut before = example();
        before["workers"][0]["cpuSeconds"] = json!(9.5);
        let before = Some((&read(&before), Duration::from_secs(1)));
        let text = status(&read(&example()), before);
        assert!(text.contains("3m20s   50    "), "{text}");
    }

    #[test]
    fn events_are_a_table() {
        let answer = json!({"forgotten": 2, "events": [
            {"time": "T", "slot": null, "type": "Normal", "reason": "ReloadBegan", "text": "a b"}]});
        assert_eq!(
            events(&read(&answer)),
            "TIME  SLOT  TYPE    REASON       TEXT\n\
             T     -     Normal  ReloadBegan  a b\n\
             2 older events are not kept.\n"
        );
    }

    #[test]
    fn a_description_contains_everything_that_is_known() {
        let mut answer = example();
        answer["command"] = json!(["node", "app.js"]);
        answer["port"] = json!(3000);
        answer["slots"] = json!([{
            "slot": 0, "state": "Ready", "restarts": 1, "endsByCause": {"Signalled": 1},
            "lastExit": {"text": "ended by SIGKILL", "reason": "Signalled", "time": "T"},
            "workers": [{"pid": 7, "state": "Ready", "stateSeconds": 61.0, "uptimeSeconds": 62.0,
                "cpuSeconds": 0.62, "rssBytes": 1_048_576, "inFlight": 0, "generation": 1,
                "address": "127.0.0.1:41000"}],
            "events": [{"time": "T", "reason": "Ready", "text": "worker 0 ready"}],
            "stderr": ["last words"],
        }]);
        let text = describe(&read(&answer));
        for line in [
            "command      node app.js\n",
            "  ends         1 Signalled\n",
            "  last end     ended by SIGKILL (Signalled) at T\n",
            "    state        Ready since 1m1s\n",
            "    cpu          0.62s, 1 % of a core over its life\n",
            "    listens at   127.0.0.1:41000\n",
            "  events\n    T Ready worker 0 ready\n",
            "  stderr\n    last words\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
    }
}
