//! Maps the fields of a PM2 app to those of a `ScaledApp`, and notes why a field is not carried
//! over. The fields without any counterpart are listed in `without`.
//!
//! The fields and defaults are those of PM2's documentation ("Ecosystem file").

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use scaledapp_units::duration;
use serde_json::{Map, Value};

use super::text::split;
use super::without::{WITHOUT, asks_for_our_behaviour};

/// A remark about a field. Usually it says why the field is not carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) field: String,
    pub(super) reason: String,
}

/// The number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workers {
    Count(u32),
    /// One per core.
    Cores,
    /// One per core, minus this many.
    CoresLess(u32),
}

/// One app, in the terms of a `ScaledApp`.
#[derive(Debug)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) port: Option<u16>,
    pub(super) workers: Workers,
    pub(super) max_memory: Option<String>,
    /// The time from the stop signal to SIGKILL.
    pub(super) stop_grace: Option<String>,
    /// Set only if it is longer than the supervisor's default.
    pub(super) boot_timeout: Option<String>,
    /// Whether `process.send('ready')` is awaited.
    pub(super) wait_ready: bool,
    /// Whether a message asks a worker to end.
    pub(super) shutdown_message: bool,
    pub(super) increment_env: Option<String>,
    pub(super) instance_env: Option<String>,
    pub(super) json_logs: bool,
    pub(super) notes: Vec<Note>,
}

/// The apps of a file: `{apps: [...]}`, a list, or one app.
///
/// # Errors
/// The file contains no apps.
pub(super) fn apps(data: &Value) -> anyhow::Result<Vec<&Map<String, Value>>> {
    let list = match data {
        Value::Object(file) if file.contains_key("apps") => &file["apps"],
        other => other,
    };
    let list: Vec<&Value> = match list {
        Value::Array(apps) => apps.iter().collect(),
        one => vec![one],
    };
    let apps: Option<Vec<_>> = list.into_iter().map(Value::as_object).collect();
    match apps {
        Some(apps) if !apps.is_empty() && apps.iter().all(|app| app.contains_key("script")) => {
            Ok(apps)
        }
        _ => bail!(
            "the file names no apps: it needs `apps: [{{ script: ... }}]` \
             (in JavaScript: `module.exports = {{ apps: [...] }}`)"
        ),
    }
}

/// Reads the fields of an app and keeps track of the fields that have not been read.
struct Fields<'a> {
    left: BTreeMap<&'a str, &'a Value>,
    notes: Vec<Note>,
}

impl<'a> Fields<'a> {
    /// Takes the fields with these names, and returns the first value that is not null.
    fn take(&mut self, names: &[&str]) -> Option<&'a Value> {
        let values: Vec<&Value> = names
            .iter()
            .filter_map(|name| self.left.remove(*name))
            .collect();
        values.into_iter().find(|value| !value.is_null())
    }

    fn text(&mut self, names: &[&str]) -> Option<String> {
        self.take(names).map(plain)
    }

    fn note(&mut self, field: &str, reason: impl Into<String>) {
        self.notes.push(Note {
            field: field.to_owned(),
            reason: reason.into(),
        });
    }
}

/// A scalar as PM2 puts it into an environment.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The words of a field: a string is split as a shell would split it, and a list is used unchanged.
fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list.iter().map(plain).collect(),
        Some(value) => split(&plain(value)),
        None => Vec::new(),
    }
}

/// Milliseconds, as a number or with a unit.
fn milliseconds(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text
            .parse()
            .ok()
            .or_else(|| Some(duration::parse(text).ok()?.as_millis() as u64)),
        other => other.as_u64(),
    }
}

fn time(milliseconds: u64) -> String {
    duration::format(std::time::Duration::from_millis(milliseconds))
}

impl App {
    /// Reads one app; `environment` is PM2's `--env`.
    ///
    /// # Errors
    /// The script is empty, a field has an unusable value, or the file has other environments but
    /// not this one.
    pub(super) fn read(
        app: &Map<String, Value>,
        environment: Option<&str>,
    ) -> anyhow::Result<Self> {
        let left = app.iter().map(|(name, value)| (name.as_str(), value));
        let mut fields = Fields {
            left: left.collect(),
            notes: Vec::new(),
        };
        let script = fields.text(&["script"]).filter(|script| !script.is_empty());
        let script = script.context("an app has an empty script: name the program that it runs")?;
        let name = fields.text(&["name"]).unwrap_or_else(|| stem(&script));
        let command = command(&mut fields, script);
        let args = words(fields.take(&["args"]));
        let mut env = environment_of(&mut fields, environment, &name)?;
        let port = port(&mut fields, &mut env, &args)?;
        let workers = workers(&mut fields)?;
        let max_memory = memory(&mut fields)?;
        let stop_grace = fields
            .take(&["kill_timeout"])
            .and_then(milliseconds)
            .map(time);
        let wait_ready = message(&mut fields, "wait_ready", &command);
        let shutdown_message = message(&mut fields, "shutdown_with_message", &command);
        let increment_env = increment_env(&mut fields);
        let boot_timeout = boot_timeout(&mut fields);
        let instance_env = fields
            .text(&["instance_var"])
            .filter(|name| name != "NODE_APP_INSTANCE");
        let json_logs = fields
            .text(&["log_type"])
            .is_some_and(|kind| kind == "json");
        let cwd = fields.text(&["cwd"]);
        for (names, reason) in WITHOUT {
            for name in *names {
                let value = fields.left.remove(*name);
                if value.is_some_and(|value| !asks_for_our_behaviour(name, value)) {
                    fields.note(name, *reason);
                }
            }
        }
        let unknown: Vec<&str> = fields.left.keys().copied().collect();
        for name in unknown {
            fields.note(name, "is not a known field");
        }
        Ok(Self {
            name,
            command,
            args,
            cwd,
            env,
            port,
            workers,
            max_memory,
            stop_grace,
            boot_timeout,
            wait_ready,
            shutdown_message,
            increment_env,
            instance_env,
            json_logs,
            notes: fields.notes,
        })
    }
}

fn stem(script: &str) -> String {
    let path = std::path::Path::new(script);
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.unwrap_or("app").to_owned()
}

/// The command of a worker. If the file names no interpreter, the extension of the script decides,
/// as with PM2. A script that has neither a known extension nor a slash is looked up on the PATH.
fn command(fields: &mut Fields<'_>, script: String) -> Vec<String> {
    let given = fields.text(&["interpreter", "exec_interpreter"]);
    let options = words(fields.take(&["node_args", "interpreter_args", "interpreterArgs"]));
    let extension = std::path::Path::new(&script).extension();
    let extension = extension.and_then(|extension| extension.to_str());
    let by_extension = match extension {
        Some("js" | "cjs" | "mjs") => Some("node"),
        Some("ts" | "tsx" | "mts" | "cts") => Some("bun"),
        Some("sh") => Some("bash"),
        Some("py") => Some("python3"),
        Some("rb") => Some("ruby"),
        Some("php") => Some("php"),
        Some("pl") => Some("perl"),
        _ => script.contains('/').then_some("node"),
    };
    // Both modes, cluster and fork, mean the same here: N workers behind one port.
    let mode = fields.text(&["exec_mode"]);
    if mode.is_some_and(|mode| !mode.starts_with("cluster") && !mode.starts_with("fork")) {
        fields.note(
            "exec_mode",
            "is neither cluster nor fork; every app runs as in cluster mode",
        );
    }
    let interpreter = match given.as_deref() {
        Some("none") => None,
        Some(given) => Some(given.to_owned()),
        None => by_extension.map(str::to_owned),
    };
    if let Some(interpreter) = interpreter {
        let mut command = vec![interpreter];
        command.extend(options);
        command.push(script);
        return command;
    }
    if !options.is_empty() {
        fields.note(
            "interpreter_args",
            "there is no interpreter that could use them",
        );
    }
    vec![script]
}

fn environment_of(
    fields: &mut Fields<'_>,
    wanted: Option<&str>,
    app: &str,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    let mut lay = |over: Option<&Value>| {
        for (name, value) in over.and_then(Value::as_object).into_iter().flatten() {
            env.insert(name.clone(), plain(value));
        }
    };
    lay(fields.take(&["env"]));
    let others: Vec<String> = fields
        .left
        .iter()
        // `env_file` is the name of a file.
        .filter_map(|(name, value)| name.strip_prefix("env_").filter(|_| value.is_object()))
        .map(str::to_owned)
        .collect();
    if let Some(wanted) = wanted {
        match fields.take(&[&format!("env_{wanted}")]) {
            Some(over) => lay(Some(over)),
            None if others.is_empty() => {}
            None => bail!(
                "app {app} has no env_{wanted}: give --env one of {}",
                others.join(", ")
            ),
        }
    }
    for other in others.iter().filter(|other| Some(other.as_str()) != wanted) {
        fields.left.remove(format!("env_{other}").as_str());
        fields.note(
            &format!("env_{other}"),
            format!("left out: import with --env {other} to use it"),
        );
    }
    let ours = |name: &String| name.starts_with("SCALEDAPP_") || name == "WEB_CONCURRENCY";
    let taken: Vec<String> = env.keys().filter(|name| ours(name)).cloned().collect();
    for name in taken {
        env.remove(&name);
        fields.note(&format!("env.{name}"), "is set by the supervisor");
    }
    Ok(env)
}

fn port(
    fields: &mut Fields<'_>,
    env: &mut BTreeMap<String, String>,
    args: &[String],
) -> anyhow::Result<Option<u16>> {
    let field = fields.text(&["port"]);
    let named = env.remove("PORT").or(field);
    let Some(port) = named.or_else(|| port_in(args).map(str::to_owned)) else {
        fields.note(
            "port",
            "the file names none (env.PORT), so 3000 is used: change it if the app listens on another port, and set --port none if it does not listen",
        );
        return Ok(None);
    };
    let parsed = port.parse().ok().filter(|port| *port > 0);
    let parsed = parsed.with_context(|| format!("PORT {port:?} is not a port: give 1 to 65535"))?;
    Ok(Some(parsed))
}

/// The port in arguments such as those of `next start -p 8080`.
fn port_in(args: &[String]) -> Option<&str> {
    let is_port = |text: &&str| text.parse::<u16>().is_ok_and(|port| port > 0);
    let after = args.windows(2).find_map(|pair| match pair {
        [flag, port] if flag == "-p" || flag == "--port" => Some(port.as_str()),
        _ => None,
    });
    let within = args.iter().find_map(|word| word.strip_prefix("--port="));
    after.or(within).filter(is_port)
}

fn workers(fields: &mut Fields<'_>) -> anyhow::Result<Workers> {
    let Some(given) = fields.text(&["instances"]) else {
        return Ok(Workers::Count(1));
    };
    if given == "max" || given == "0" {
        return Ok(Workers::Cores);
    }
    let number: i64 = given.parse().ok().with_context(|| {
        format!("instances {given:?} is not a number of instances: give N, 0, max or -K")
    })?;
    let bounded = u32::try_from(number.unsigned_abs())
        .ok()
        .filter(|n| *n <= scaledapp_wire::MAX_WORKERS);
    let bounded = bounded.with_context(|| {
        format!(
            "instances {given} is more than {}",
            scaledapp_wire::MAX_WORKERS
        )
    })?;
    Ok(if number < 0 {
        Workers::CoresLess(bounded)
    } else {
        Workers::Count(bounded)
    })
}

/// The memory limit of a worker. PM2 accepts bytes, or K, M and G as powers of 1024.
fn memory(fields: &mut Fields<'_>) -> anyhow::Result<Option<String>> {
    let Some(given) = fields.text(&["max_memory_restart"]) else {
        return Ok(None);
    };
    let upper = given.trim().to_ascii_uppercase();
    let (digits, unit) = upper.split_at(upper.bytes().take_while(u8::is_ascii_digit).count());
    let number: u64 = digits.parse().ok().with_context(|| {
        format!("max_memory_restart {given:?} is not a size: give a size such as 300M")
    })?;
    let text = match unit.trim_end_matches('B') {
        unit @ ("K" | "M" | "G") => format!("{number}{unit}"),
        "" => format!("{}M", number.div_ceil(1024 * 1024).max(1)),
        _ => bail!("max_memory_restart {given:?} is not a size: give a size such as 300M"),
    };
    Ok(Some(text))
}

/// Whether the app uses PM2's message channel for `field`. Both PM2 and the supervisor give the
/// channel only to the process that they start, and npm, for example, does not pass it on.
fn message(fields: &mut Fields<'_>, field: &str, command: &[String]) -> bool {
    if fields.take(&[field]).is_none_or(|asked| asked != true) {
        return false;
    }
    let program = std::path::Path::new(command.first().map_or("", String::as_str));
    let program = program.file_name().and_then(|name| name.to_str());
    let program = program.unwrap_or_default();
    let ends_here = ["npm", "npx", "pnpm", "yarn"].contains(&program);
    if ends_here {
        fields.note(
            field,
            format!(
                "{program} does not pass the message channel on to the app: start node itself to use it"
            ),
        );
    }
    !ends_here
}

fn increment_env(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.text(&["increment_var"])?;
    if name == "PORT" {
        fields.note(
            "increment_var",
            "PORT is not incremented: all workers share one port",
        );
        return None;
    }
    Some(name)
}

/// After `listen_timeout`, PM2 counts a worker as ready, but after `--boot-timeout` the
/// supervisor counts it as failed. So a short `listen_timeout` must not be used.
fn boot_timeout(fields: &mut Fields<'_>) -> Option<String> {
    const OURS: u64 = 60_000;
    let given = fields.take(&["listen_timeout"]).and_then(milliseconds)?;
    if given > OURS {
        return Some(time(given));
    }
    fields.note(
        "listen_timeout",
        format!(
            "{} is not used: after this time PM2 counts a worker as ready, but the supervisor counts it as failed; it has 60s",
            time(given)
        ),
    );
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn app(value: &Value) -> App {
        App::read(value.as_object().unwrap(), None).unwrap()
    }

    #[test]
    fn the_command_follows_interpreter_and_extension() {
        for (fields, expected) in [
            (json!({"script": "app.js"}), &["node", "app.js"][..]),
            (json!({"script": "./bin/www"}), &["node", "./bin/www"]),
            (json!({"script": "npm"}), &["npm"]),
            (
                json!({"script": "./server", "interpreter": "none"}),
                &["./server"],
            ),
            (json!({"script": "a.py"}), &["python3", "a.py"]),
            (
                json!({"script": "a.js", "node_args": "--max-old-space-size=300 -r './a b.js'"}),
                &["node", "--max-old-space-size=300", "-r", "./a b.js", "a.js"],
            ),
            (
                json!({"script": "a.ts", "interpreter": "node", "interpreter_args": ["--import", "tsx"]}),
                &["node", "--import", "tsx", "a.ts"],
            ),
        ] {
            assert_eq!(app(&fields).command, expected, "{fields}");
        }
    }

    #[test]
    fn instances_and_sizes_are_read_as_pm2_reads_them() {
        for (given, expected) in [
            (json!(4), Workers::Count(4)),
            (json!("2"), Workers::Count(2)),
            (json!(0), Workers::Cores),
            (json!("max"), Workers::Cores),
            (json!(-1), Workers::CoresLess(1)),
            (json!(null), Workers::Count(1)),
        ] {
            assert_eq!(
                app(&json!({"script": "a.js", "instances": given})).workers,
                expected
            );
        }
        for (given, expected) in [
            (json!("300M"), "300M"),
            (json!("1g"), "1G"),
            (json!("512MB"), "512M"),
            (json!(314_572_800), "300M"),
        ] {
            let app = app(&json!({"script": "a.js", "max_memory_restart": given}));
            assert_eq!(app.max_memory.as_deref(), Some(expected));
        }
    }

    #[test]
    fn the_port_is_that_of_the_environment_or_of_the_arguments() {
        for (fields, expected) in [
            (
                json!({"script": "next", "args": "start -p 8080"}),
                Some(8080),
            ),
            (json!({"script": "a", "args": ["--port=81"]}), Some(81)),
            (
                json!({"script": "a", "args": "--port 81", "env": {"PORT": 82}}),
                Some(82),
            ),
            (json!({"script": "a", "args": "-p src -p"}), None),
        ] {
            assert_eq!(app(&fields).port, expected, "{fields}");
        }
    }

    #[test]
    fn env_file_is_not_taken_for_an_environment() {
        let fields = json!({"script": "a", "env_file": ".env", "env_test": {}});
        let notes = app(&fields).notes;
        let note = |field: &str| notes.iter().find(|note| note.field == field).unwrap();
        assert!(note("env_file").reason.contains("--env-file"));
        assert!(note("env_test").reason.contains("--env test"));
    }

    #[test]
    fn unusable_values_are_refused_with_the_cure() {
        for (fields, cure) in [
            (json!({"script": ""}), "name the program"),
            (
                json!({"script": "a", "instances": "many"}),
                "give N, 0, max or -K",
            ),
            (json!({"script": "a", "instances": 5000}), "more than 1024"),
            (json!({"script": "a", "max_memory_restart": "lots"}), "300M"),
            (
                json!({"script": "a", "env": {"PORT": "/tmp/s"}}),
                "1 to 65535",
            ),
        ] {
            let error = App::read(fields.as_object().unwrap(), None).unwrap_err();
            assert!(error.to_string().contains(cure), "{fields}: {error}");
        }
        assert!(apps(&json!({"apps": []})).is_err());
        assert!(apps(&json!(null)).is_err());
    }

    #[test]
    fn messages_are_taken_over_where_the_channel_reaches_the_app() {
        for (script, reaches) in [("a.js", true), ("npm", false), ("/usr/bin/yarn", false)] {
            let fields = json!({"script": script, "interpreter": if reaches { "node" } else { "none" },
                "wait_ready": true, "shutdown_with_message": true});
            let app = app(&fields);
            assert_eq!(
                (app.wait_ready, app.shutdown_message),
                (reaches, reaches),
                "{script}"
            );
            let mut noted = app.notes.iter().map(|note| note.field.as_str());
            assert_eq!(noted.any(|field| field == "wait_ready"), !reaches);
        }
        let off = app(&json!({"script": "a.js", "wait_ready": false}));
        assert!(!off.wait_ready && !off.shutdown_message);
    }

    #[test]
    fn an_environment_that_is_not_there_is_refused() {
        let fields = json!({"script": "a", "env_production": {}, "env_staging": {}});
        let error = App::read(fields.as_object().unwrap(), Some("prod")).unwrap_err();
        assert!(error.to_string().contains("production, staging"), "{error}");
    }
}
