//! How a project with `package.json`, or with JavaScript alone, is started.

use serde_json::Value;

use super::super::text::{needs_shell, split};
use super::files::{Guess, Project, words};

/// Programs that run JavaScript themselves.
const RUNTIMES: [&str; 3] = ["node", "bun", "deno"];
/// Programs that start the app again after a change, as `scaledapp local --watch` does.
const WATCHERS: [&str; 2] = ["nodemon", "node-dev"];

pub(super) fn package(project: &Project) -> Option<Value> {
    serde_json::from_str(project.text("package.json")?).ok()
}

/// The script that starts the app, the one for production first. A script that starts PM2 does not
/// count: the supervisor takes its place, and `import` reads its file.
pub(super) fn script(project: &Project) -> Option<(&'static str, String)> {
    let package = package(project)?;
    ["start:prod", "start"].into_iter().find_map(|name| {
        let script = package["scripts"][name].as_str()?.trim();
        let counts = !script.is_empty() && !script.starts_with("pm2");
        counts.then(|| (name, script.to_owned()))
    })
}

pub(super) fn command(project: &Project) -> Option<Guess<Vec<String>>> {
    if let Some((name, script)) = script(project) {
        return Some(of_script(project, name, &script));
    }
    let package = package(project);
    let main = package
        .as_ref()
        .and_then(|package| package["main"].as_str());
    if let Some(main) = main {
        return Some(Guess::new(
            words(&["node", main]),
            "package.json names it as main",
        ));
    }
    let files = [
        "server.js",
        "server.mjs",
        "index.js",
        "app.js",
        "src/server.js",
        "src/index.js",
    ];
    let found = files.iter().find(|file| project.text(file).is_some())?;
    Some(Guess::new(
        words(&["node", found]),
        format!("there is {found}"),
    ))
}

/// The command of a script. A supervised program must be the app itself: npm passes no signals on.
fn of_script(project: &Project, name: &str, script: &str) -> Guess<Vec<String>> {
    let mut why = format!("package.json says `{name}: {script}`");
    let mut parts = split(script);
    let is_cross_env = parts.first().is_some_and(|first| first == "cross-env");
    if is_cross_env {
        parts.remove(0);
    }
    let is_assignment = |word: &&String| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    let assignments = parts.iter().take_while(is_assignment).count();
    let program = parts.split_off(assignments);
    let npm = words(&["npm", "run", name]);
    let through_npm = |why: String| {
        Guess::new(
            npm,
            format!("{why}; the command itself would be better, because npm passes no signals on"),
        )
    };
    // What is left after assignments needs no shell if its words are the whole rest.
    let Some(first) = program.first().filter(|_| !needs_shell(&program.join(" "))) else {
        return through_npm(why);
    };
    let mut command = program.clone();
    let local = format!("node_modules/.bin/{first}");
    if WATCHERS.contains(&first.as_str()) {
        why = format!("{why}, and `scaledapp local --watch` does what {first} does");
        "node".clone_into(&mut command[0]);
    } else if project.programs.contains(&local) {
        why = format!("{why}, and npm itself would pass no signals on");
        command[0] = local;
    } else if !RUNTIMES.contains(&first.as_str()) {
        if !is_dependency(project, first) {
            return through_npm(why);
        }
        why =
            format!("{why} (`npm install` makes {local}), and npm itself would pass no signals on");
        command[0] = local;
    }
    if name == "start:prod" {
        why.push_str("; build the app first (`npm run build`)");
    }
    if !parts.is_empty() {
        parts.insert(0, "env".to_owned());
    }
    parts.extend(command);
    Guess::new(parts, why)
}

fn is_dependency(project: &Project, name: &str) -> bool {
    let lists = ["dependencies", "devDependencies"];
    package(project)
        .is_some_and(|package| lists.iter().any(|list| package[list].get(name).is_some()))
}
