//! What the files of a language say about a project: its name, and how it is started.

use serde_json::Value;

use super::super::text::{needs_shell, split};
use super::files::{Guess, Project};

/// The project's own name.
pub(super) fn name(project: &Project) -> Option<Guess<String>> {
    let of_package = || {
        let name = package(project)?["name"].as_str()?.to_owned();
        // A scope, as in `@acme/web`, is no part of the app's name.
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        Some(Guess::new(name, "package.json has this name"))
    };
    let of_toml = |file: &str, section: &str| {
        let name = toml(project.text(file)?, section, "name")?;
        Some(Guess::new(name, format!("{file} has this name")))
    };
    let of_module = || {
        let name = module(project)?;
        Some(Guess::new(name, "go.mod has this name"))
    };
    of_package()
        .or_else(|| of_toml("pyproject.toml", "project"))
        .or_else(|| of_toml("Cargo.toml", "package"))
        .or_else(of_module)
        .filter(|name| !name.value.is_empty())
}

/// How the project is started.
pub(super) fn command(project: &Project) -> Option<Guess<Vec<String>>> {
    node(project)
        .or_else(|| python(project))
        .or_else(|| go(project))
        .or_else(|| rust(project))
        .or_else(|| ruby(project))
}

fn package(project: &Project) -> Option<Value> {
    serde_json::from_str(project.text("package.json")?).ok()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A supervised program must be the app itself: npm passes no signals on.
fn node(project: &Project) -> Option<Guess<Vec<String>>> {
    let package = package(project);
    let start = package
        .as_ref()
        .and_then(|package| package["scripts"]["start"].as_str());
    if let Some(start) = start {
        let mut parts = split(start);
        let first = parts.first().cloned().unwrap_or_default();
        let local = format!("node_modules/.bin/{first}");
        let why = format!("package.json says `start: {start}`");
        if !needs_shell(start) && first == "node" {
            return Some(Guess::new(parts, why));
        }
        if !needs_shell(start) && project.programs.contains(&local) {
            parts[0] = local;
            return Some(Guess::new(
                parts,
                format!("{why}, and npm itself would pass no signals on"),
            ));
        }
        return Some(Guess::new(
            words(&["npm", "run", "start"]),
            format!("{why}; the command itself would be better, because npm passes no signals on"),
        ));
    }
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

fn python(project: &Project) -> Option<Guess<Vec<String>>> {
    let lists = ["requirements.txt", "pyproject.toml"];
    let needs = |name: &str| {
        let mut texts = lists.iter().filter_map(|list| project.text(list));
        texts.any(|text| text.to_ascii_lowercase().contains(name))
    };
    let files = [
        "main.py",
        "app.py",
        "server.py",
        "app/main.py",
        "src/main.py",
        "asgi.py",
        "wsgi.py",
    ];
    // The module and the variable of an application, such as `main` and `app`.
    let application = |class: &str| {
        files.iter().find_map(|file| {
            let text = project.text(file)?;
            let line = text
                .lines()
                .find(|line| line.contains(&format!("{class}(")) && line.contains('='))?;
            let variable = line.split('=').next()?.split(':').next()?.trim();
            let module = file.trim_end_matches(".py").replace('/', ".");
            (!variable.contains(' ')).then(|| (format!("{module}:{variable}"), *file))
        })
    };
    if let Some((target, file)) = application("FastAPI").or_else(|| application("Starlette")) {
        let command = words(&["uvicorn", &target, "--host", "0.0.0.0", "--port", "8000"]);
        return Some(Guess::new(
            command,
            format!("{file} makes an ASGI application"),
        ));
    }
    if let Some((target, file)) = application("Flask") {
        let why = format!("{file} makes a Flask application");
        if needs("gunicorn") {
            let command = words(&[
                "gunicorn",
                &target,
                "--bind",
                "0.0.0.0:8000",
                "--threads",
                "4",
            ]);
            return Some(Guess::new(
                command,
                format!("{why}, and gunicorn is a dependency"),
            ));
        }
        let module = target.split(':').next().unwrap_or_default().to_owned();
        let command = words(&[
            "flask", "--app", &module, "run", "--host", "0.0.0.0", "--port", "8000",
        ]);
        return Some(Guess::new(command, why));
    }
    if let Some(found) = django(project, needs("gunicorn")) {
        return Some(found);
    }
    let found = ["server.py", "main.py", "app.py"];
    let found = found.iter().find(|file| project.text(file).is_some())?;
    Some(Guess::new(
        words(&["python3", found]),
        format!("there is {found}"),
    ))
}

fn django(project: &Project, has_gunicorn: bool) -> Option<Guess<Vec<String>>> {
    let manage = project.text("manage.py")?;
    let settings = manage.split("DJANGO_SETTINGS_MODULE").nth(1)?;
    let settings = settings.split(['"', '\'']).nth(2)?;
    let package = settings.split('.').next()?;
    if has_gunicorn {
        let target = format!("{package}.wsgi:application");
        let command = words(&[
            "gunicorn",
            &target,
            "--bind",
            "0.0.0.0:8000",
            "--threads",
            "4",
        ]);
        return Some(Guess::new(
            command,
            "manage.py is Django's, and gunicorn is a dependency",
        ));
    }
    let command = words(&[
        "python3",
        "manage.py",
        "runserver",
        "--noreload",
        "0.0.0.0:8000",
    ]);
    Some(Guess::new(
        command,
        "manage.py is Django's; gunicorn would be better than its development server",
    ))
}

fn module(project: &Project) -> Option<String> {
    let mut lines = project.text("go.mod")?.lines();
    let module = lines.find_map(|line| line.strip_prefix("module "))?.trim();
    let mut parts = module.rsplit('/');
    let last = parts.next()?;
    let is_version = last
        .strip_prefix('v')
        .is_some_and(|rest| rest.parse::<u32>().is_ok());
    let name = if is_version { parts.next()? } else { last };
    Some(name.to_owned())
}

fn go(project: &Project) -> Option<Guess<Vec<String>>> {
    let name = module(project)?;
    let program = format!("./{name}");
    let why = if project.programs.contains(&name) {
        format!("`go build` has made {name}")
    } else {
        format!("`go build -o {name} .` makes it (do that first)")
    };
    Some(Guess::new(vec![program], why))
}

fn rust(project: &Project) -> Option<Guess<Vec<String>>> {
    let manifest = project.text("Cargo.toml")?;
    let name = toml(manifest, "[bin]", "name").or_else(|| toml(manifest, "package", "name"))?;
    for profile in ["release", "debug"] {
        let program = format!("target/{profile}/{name}");
        if project.programs.contains(&program) {
            let why = format!("cargo has built {program}");
            return Some(Guess::new(vec![format!("./{program}")], why));
        }
    }
    let why = "Cargo.toml has this name; `cargo build --release` makes it, and its directory must be on the PATH";
    Some(Guess::new(vec![name], why))
}

fn ruby(project: &Project) -> Option<Guess<Vec<String>>> {
    let gems = project.text("Gemfile")?;
    if gems.contains("puma") {
        let command = words(&["bundle", "exec", "puma", "--port", "3000"]);
        return Some(Guess::new(command, "the Gemfile names puma"));
    }
    project.text("config.ru")?;
    let command = words(&[
        "bundle", "exec", "rackup", "--host", "0.0.0.0", "--port", "3000",
    ]);
    Some(Guess::new(command, "there is config.ru"))
}

/// The text of a key in a section of a TOML file, as `name = "value"` in a line of its own. The
/// section of a list has brackets: `[bin]`.
fn toml(text: &str, section: &str, key: &str) -> Option<String> {
    let head = format!("[{section}]");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| *line == head)?;
    for line in lines.take_while(|line| !line.starts_with('[')) {
        if let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.split(['"', '\'']).nth(1)?.to_owned());
        }
    }
    None
}
