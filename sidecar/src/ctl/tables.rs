//! What `ctl` prints for people, made from the supervisor's answers.
//!
//! Nothing is asked or decided here: a field that an older supervisor does not
//! send is shown as `-`.

use std::fmt::Write;
use std::time::Duration;

use scaledapp_runtime::table;
use serde_json::Value;

use crate::clock::span;

/// An earlier status and how long ago it was, from which the use of CPU follows.
pub(crate) type Before<'a> = Option<(&'a Value, Duration)>;

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn seconds(value: &Value) -> String {
    match value.as_f64().map(Duration::try_from_secs_f64) {
        Some(Ok(time)) => span(time),
        _ => "-".to_owned(),
    }
}

fn mebibytes(value: &Value) -> String {
    match value.as_u64() {
        Some(bytes) => format!("{:.1}Mi", bytes as f64 / (1024.0 * 1024.0)),
        None => "-".to_owned(),
    }
}

fn workers(status: &Value) -> impl Iterator<Item = &Value> {
    status["workers"].as_array().into_iter().flatten()
}

/// Share of one core in percent: since `before`, else over the worker's life.
fn cpu(worker: &Value, before: Before<'_>) -> String {
    let Some(used) = worker["cpuSeconds"].as_f64() else {
        return "-".to_owned();
    };
    let same = |other: &&Value| other["pid"] == worker["pid"];
    let earlier = before.and_then(|(status, ago)| {
        let then = workers(status).find(same)?["cpuSeconds"].as_f64()?;
        Some((used - then, ago.as_secs_f64()))
    });
    let lifetime = (used, worker["uptimeSeconds"].as_f64().unwrap_or(0.0));
    match earlier.unwrap_or(lifetime) {
        (used, over) if over > 0.0 => format!("{:.0}", (100.0 * used / over).max(0.0)),
        _ => "-".to_owned(),
    }
}

fn headline(status: &Value) -> String {
    let served = if status["dispatch"] == "none" {
        "no port".to_owned()
    } else {
        let (dispatch, mechanism) = (word(&status["dispatch"]), word(&status["mechanism"]));
        format!("{dispatch} dispatch by {mechanism}")
    };
    format!(
        "{} of {} workers ready, generation {}, {served}\n",
        word(&status["ready"]),
        word(&status["desired"]),
        word(&status["generation"]),
    )
}

/// `ctl status` and `ctl top`.
pub(crate) fn status(status: &Value, before: Before<'_>) -> String {
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
    let running = workers(status).map(|worker| {
        [
            word(&worker["slot"]),
            word(&worker["pid"]),
            word(&worker["state"]),
            word(&worker["generation"]),
            word(&worker["restarts"]),
            seconds(&worker["uptimeSeconds"]),
            cpu(worker, before),
            mebibytes(&worker["rssBytes"]),
            word(&worker["inFlight"]),
        ]
    });
    let waiting = status["waiting"].as_array().into_iter().flatten();
    let waiting = waiting.map(|slot| {
        let mut row = header.map(|_| "-".to_owned());
        row[0] = word(&slot["slot"]);
        row[2] = word(&slot["state"]);
        row[4] = word(&slot["restarts"]);
        row
    });
    let mut rows: Vec<_> = running.chain(waiting).collect();
    rows.sort_by_key(|row| row[0].parse::<u32>().unwrap_or(u32::MAX));
    let mut text = headline(status) + &table(header, rows);
    for worker in workers(status) {
        if let Some(port) = worker["listensElsewhere"].as_u64() {
            // Writing into a String cannot fail.
            let _infallible = writeln!(
                text,
                "The worker in slot {} listens on {port}, which is not --port.",
                worker["slot"]
            );
        }
    }
    for slot in status["waiting"].as_array().into_iter().flatten() {
        // Writing into a String cannot fail.
        let _infallible = writeln!(
            text,
            "Slot {} waits for its next start; its last worker: {}.",
            slot["slot"],
            exit(&slot["lastExit"])
        );
    }
    text
}

fn exit(last: &Value) -> String {
    if last.is_null() {
        return "none".to_owned();
    }
    format!(
        "{} ({}) at {}",
        word(&last["text"]),
        word(&last["reason"]),
        word(&last["time"])
    )
}

/// `ctl events`.
pub(crate) fn events(answer: &Value) -> String {
    let header = ["TIME", "SLOT", "TYPE", "REASON", "TEXT"];
    let keys = ["time", "slot", "type", "reason", "text"];
    let events = answer["events"].as_array().into_iter().flatten();
    let rows = events.map(|event| keys.map(|key| word(&event[key])));
    let mut text = table(header, rows.collect());
    if let Some(forgotten @ 1..) = answer["forgotten"].as_u64() {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "{forgotten} older ones are not kept.");
    }
    text
}

/// `ctl logs`.
pub(crate) fn tails(slots: &Value) -> String {
    let mut text = String::new();
    for (slot, lines) in slots.as_object().into_iter().flatten() {
        for line in lines.as_array().into_iter().flatten() {
            // Writing into a String cannot fail.
            let _infallible = writeln!(text, "{slot} | {}", line.as_str().unwrap_or(""));
        }
    }
    text
}

/// `ctl describe`.
pub(crate) fn describe(answer: &Value) -> String {
    let command: Vec<&str> = answer["command"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut text = headline(answer);
    field(&mut text, 0, "command", &command.join(" "));
    field(&mut text, 0, "port", &word(&answer["port"]));
    field(&mut text, 0, "up", &seconds(&answer["uptimeSeconds"]));
    for slot in answer["slots"].as_array().into_iter().flatten() {
        describe_slot(&mut text, slot);
    }
    text
}

fn field(text: &mut String, indent: usize, name: &str, value: &str) {
    // Writing into a String cannot fail.
    let _infallible = writeln!(text, "{:indent$}{name:<12} {value}", "");
}

fn describe_slot(text: &mut String, slot: &Value) {
    text.push('\n');
    field(text, 0, "slot", &word(&slot["slot"]));
    field(text, 2, "state", &word(&slot["state"]));
    if !slot["nextStartSeconds"].is_null() {
        field(
            text,
            2,
            "next start",
            &format!("in {}", seconds(&slot["nextStartSeconds"])),
        );
    }
    field(text, 2, "restarts", &word(&slot["restarts"]));
    let causes = slot["endsByCause"].as_object().into_iter().flatten();
    let causes: Vec<String> = causes.map(|(cause, n)| format!("{n} {cause}")).collect();
    if !causes.is_empty() {
        field(text, 2, "ends", &causes.join(", "));
    }
    field(text, 2, "last end", &exit(&slot["lastExit"]));
    for worker in workers(slot) {
        describe_worker(text, worker);
    }
    list(text, "events", &slot["events"], |event| {
        format!(
            "{} {} {}",
            word(&event["time"]),
            word(&event["reason"]),
            word(&event["text"])
        )
    });
    list(text, "stderr", &slot["stderr"], word);
}

fn describe_worker(text: &mut String, worker: &Value) {
    field(text, 2, "worker", &format!("pid {}", word(&worker["pid"])));
    let state = word(&worker["state"]);
    let since = seconds(&worker["stateSeconds"]);
    field(text, 4, "state", &format!("{state} since {since}"));
    field(text, 4, "generation", &word(&worker["generation"]));
    field(text, 4, "uptime", &seconds(&worker["uptimeSeconds"]));
    let used = worker["cpuSeconds"].as_f64();
    let used = used.map_or("-".to_owned(), |used| {
        let share = cpu(worker, None);
        format!("{used:.2}s, {share} % of a core over its life")
    });
    field(text, 4, "cpu", &used);
    field(text, 4, "rss", &mebibytes(&worker["rssBytes"]));
    field(text, 4, "in flight", &word(&worker["inFlight"]));
    field(text, 4, "listens at", &word(&worker["address"]));
    if let Some(port) = worker["listensElsewhere"].as_u64() {
        let other = format!("port {port}, which is not --port");
        field(text, 4, "and on", &other);
    }
}

fn list(text: &mut String, name: &str, values: &Value, show: impl Fn(&Value) -> String) {
    let values = values.as_array().map_or(&[][..], Vec::as_slice);
    if values.is_empty() {
        return;
    }
    field(text, 2, name, "");
    text.truncate(text.trim_end().len());
    text.push('\n');
    for value in values {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "    {}", show(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        assert_eq!(status(&example(), None), expected);
        let mut portless = example();
        portless["dispatch"] = "none".into();
        portless["mechanism"] = "none".into();
        let text = status(&portless, None);
        assert!(
            text.starts_with("1 of 3 workers ready, generation 2, no port\n"),
            "{text}"
        );
    }

    #[test]
    fn the_use_of_cpu_is_that_since_the_look_before() {
        let mut before = example();
        before["workers"][0]["cpuSeconds"] = json!(9.5);
        let text = status(&example(), Some((&before, Duration::from_secs(1))));
        assert!(text.contains("3m20s   50    "), "{text}");
    }

    #[test]
    fn events_are_a_table() {
        let answer = json!({"forgotten": 2, "events": [
            {"time": "T", "slot": null, "type": "Normal", "reason": "ReloadBegan", "text": "a b"}]});
        assert_eq!(
            events(&answer),
            "TIME  SLOT  TYPE    REASON       TEXT\n\
             T     -     Normal  ReloadBegan  a b\n\
             2 older ones are not kept.\n"
        );
    }

    #[test]
    fn a_description_names_all_that_is_known() {
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
        let text = describe(&answer);
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
