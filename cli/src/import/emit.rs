//! Writes an imported app as text: as a `ScaledApp` in YAML, or as a command line for a shell.
//!
//! The YAML is simple: block mappings, block lists, and quotes around every text that could
//! be read as something else.

use std::fmt::Write;
use std::net::Ipv4Addr;

use scaledapp_wire::SupervisorArgs;

use super::pm2::{App, Workers};
use super::text::{literal, object_name, one_line, quoted, scalar, shell};

/// Appends a line to a `String`, which cannot fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => {
        { let _infallible = writeln!($text, $($arguments)*); }
    };
}

/// A `ScaledApp` object.
pub(super) fn scaledapp(app: &App) -> String {
    let mut text = String::new();
    let name = object_name(&app.name);
    line!(text, "apiVersion: scaledapp.io/v1alpha1");
    line!(text, "kind: ScaledApp");
    line!(text, "metadata:");
    if name != app.name {
        line!(
            text,
            "  # {} cannot be the name of an object.",
            one_line(&app.name)
        );
    }
    line!(text, "  name: {name}");
    line!(text, "spec:");
    line!(
        text,
        "  # PM2 has no images: name the image of the app. `scaledapp local` does not pull it."
    );
    line!(text, "  image: {name}:latest");
    list(&mut text, "command", &app.command);
    list(&mut text, "args", &app.args);
    if !app.env.is_empty() {
        line!(text, "  env:");
        for (name, value) in &app.env {
            line!(text, "  - name: {}", scalar(name));
            line!(text, "    value: {}", quoted(&literal(value)));
        }
    }
    if let Some(cwd) = &app.cwd {
        line!(text, "  workingDir: {}", scalar(cwd));
    }
    if let Some(port) = app.port {
        line!(text, "  port: {port}");
    }
    workers(&mut text, app);
    notes(&mut text, app, &more_notes(app));
    text
}

fn workers(text: &mut String, app: &App) {
    line!(text, "  workers:");
    match app.workers {
        Workers::Count(count) => line!(text, "    count: {count}"),
        Workers::Cores => line!(text, "    perCore: 1"),
        Workers::CoresLess(less) => {
            line!(
                text,
                "    # instances: -{less} has no counterpart in an object (the flag has one: --workers -{less})."
            );
            line!(text, "    perCore: 1");
        }
    }
    line!(
        text,
        "    # PM2 sends this signal; an app without a handler ends with either signal."
    );
    line!(text, "    stopSignal: SIGINT");
    if app.shutdown_message {
        line!(text, "    shutdownMessage: true");
    }
    if let Some(memory) = &app.max_memory {
        // PM2's units are powers of 1024.
        line!(text, "    maxMemory: {memory}i");
    }
    if let Some(name) = &app.instance_env {
        line!(text, "    instanceEnv: {}", scalar(name));
    }
    if let Some(name) = &app.increment_env {
        line!(text, "    incrementEnv: {}", scalar(name));
    }
    if let Some(grace) = &app.stop_grace {
        line!(text, "    stopGrace: {grace}");
    }
    if app.wait_ready || app.boot_timeout.is_some() {
        line!(text, "    readiness:");
    }
    if app.wait_ready {
        line!(
            text,
            "      # A worker that never calls process.send('ready') counts as failed; with PM2 it counts as ready."
        );
        line!(text, "      waitReady: true");
    }
    if let Some(timeout) = &app.boot_timeout {
        line!(text, "      timeout: {timeout}");
    }
}

/// Notes about what flags can express but an object cannot.
fn more_notes(app: &App) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    if app.json_logs {
        let reason = "set SCALEDAPP_LOGS=json in the pod's environment, in podTemplate";
        notes.push(("log_type".to_owned(), reason.to_owned()));
    }
    notes
}

fn notes(text: &mut String, app: &App, more: &[(String, String)]) {
    let own = app.notes.iter().map(|note| (&note.field, &note.reason));
    let more = more.iter().map(|(field, reason)| (field, reason));
    let notes: Vec<_> = own.chain(more).collect();
    if notes.is_empty() {
        return;
    }
    line!(text, "# Not carried over:");
    for (field, reason) in notes {
        line!(text, "#   {}: {}.", one_line(field), one_line(reason));
    }
}

/// A command line for a shell. `before` is the number of apps before this one in the file. It
/// selects the admin address, because each supervisor needs its own.
pub(super) fn flags(app: &App, before: u16) -> String {
    let mut text = String::new();
    line!(text, "# {}", one_line(&app.name));
    notes(&mut text, app, &[]);
    let mut words: Vec<String> = Vec::new();
    if !app.env.is_empty() {
        words.push("env".to_owned());
        let pairs = app.env.iter();
        words.extend(pairs.map(|(name, value)| shell(&format!("{name}={value}"))));
    }
    words.push("scaledapp-sidecar".to_owned());
    words.extend(
        arguments(app, before)
            .to_args()
            .iter()
            .map(|arg| shell(arg)),
    );
    words.extend(app.command.iter().chain(&app.args).map(|word| shell(word)));
    line!(text, "{}", words.join(" "));
    text
}

/// The arguments of an app's supervisor.
fn arguments(app: &App, before: u16) -> SupervisorArgs {
    let further = [
        ("--stop-grace", &app.stop_grace),
        ("--max-memory", &app.max_memory),
        ("--increment-env", &app.increment_env),
    ];
    let further = further.into_iter();
    let switches = [
        ("--wait-ready", app.wait_ready),
        ("--shutdown-message", app.shutdown_message),
    ];
    let switches = switches
        .into_iter()
        .filter(|(_, is_asked_for)| *is_asked_for);
    SupervisorArgs {
        cwd: app.cwd.clone(),
        port: app.port,
        admin: (before > 0).then(|| (Ipv4Addr::LOCALHOST, 9377 + before).into()),
        workers: Some(match app.workers {
            Workers::Count(count) => count.to_string(),
            Workers::Cores => "auto".to_owned(),
            Workers::CoresLess(less) => format!("-{less}"),
        }),
        boot_timeout: app.boot_timeout.clone(),
        further: further
            .filter_map(|(flag, value)| Some((flag, value.clone()?)))
            .collect(),
        stop_signal: Some("INT".to_owned()),
        instance_env: app.instance_env.clone(),
        switches: switches.map(|(flag, _)| flag).collect(),
        logs: app.json_logs.then_some("json"),
        ..SupervisorArgs::default()
    }
}

fn list(text: &mut String, name: &str, words: &[String]) {
    if words.is_empty() {
        return;
    }
    line!(text, "  {name}:");
    for word in words {
        line!(text, "  - {}", scalar(&literal(word)));
    }
}
