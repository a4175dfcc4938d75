//! How a Python project is started: by the server that its framework needs.

use super::files::{Guess, Project, words};

const FILES: [&str; 7] = [
    "main.py",
    "app.py",
    "server.py",
    "app/main.py",
    "src/main.py",
    "asgi.py",
    "wsgi.py",
];

pub(super) fn command(project: &Project) -> Option<Guess<Vec<String>>> {
    if let Some((target, file)) =
        application(project, "FastAPI").or_else(|| application(project, "Starlette"))
    {
        let command = words(&["uvicorn", &target, "--host", "0.0.0.0", "--port", "8000"]);
        return Some(Guess::new(
            command,
            format!("{file} makes an ASGI application"),
        ));
    }
    if let Some(found) = flask(project).or_else(|| django(project)) {
        return Some(found);
    }
    let found = ["server.py", "main.py", "app.py"];
    let found = found.iter().find(|file| project.text(file).is_some())?;
    Some(Guess::new(
        words(&["python3", found]),
        format!("there is {found}"),
    ))
}

/// The module and the variable of an application, such as `main:app`, and the file that makes it.
fn application(project: &Project, class: &str) -> Option<(String, &'static str)> {
    FILES.iter().find_map(|file| {
        let text = project.text(file)?;
        let line = text
            .lines()
            .find(|line| line.contains(&format!("{class}(")) && line.contains('='))?;
        let variable = line.split('=').next()?.split(':').next()?.trim();
        let module = file.trim_end_matches(".py").replace('/', ".");
        // An indented variable is local to a function.
        (!variable.contains(' ') && !line.starts_with(' '))
            .then(|| (format!("{module}:{variable}"), *file))
    })
}

/// The package with a function that makes a Flask application: `create_app` is the name that Flask
/// itself looks for.
fn factory(project: &Project) -> Option<(String, String)> {
    project.files.iter().find_map(|(file, text)| {
        let module = file.strip_suffix("/__init__.py").or_else(|| {
            file.strip_suffix(".py")
                .filter(|name| FILES.contains(&format!("{name}.py").as_str()))
        })?;
        (text.contains("def create_app(") && text.contains("Flask("))
            .then(|| (module.replace('/', "."), file.clone()))
    })
}

fn flask(project: &Project) -> Option<Guess<Vec<String>>> {
    let (target, module, file) = if let Some((target, file)) = application(project, "Flask") {
        let module = target.split(':').next().unwrap_or_default().to_owned();
        (target, module, file.to_owned())
    } else {
        let (module, file) = factory(project)?;
        (format!("{module}:create_app()"), module, file)
    };
    let why = format!("{file} makes a Flask application");
    if needs(project, "gunicorn") {
        return Some(gunicorn(project, &target, &why));
    }
    let command = words(&[
        "flask", "--app", &module, "run", "--host", "0.0.0.0", "--port", "8000",
    ]);
    Some(Guess::new(
        command,
        format!("{why}; gunicorn would be better than its development server"),
    ))
}

fn django(project: &Project) -> Option<Guess<Vec<String>>> {
    let manage = project.text("manage.py")?;
    let settings = manage.split("DJANGO_SETTINGS_MODULE").nth(1)?;
    let settings = settings.split(['"', '\'']).nth(2)?;
    let package = settings.split('.').next()?;
    if needs(project, "gunicorn") {
        let target = format!("{package}.wsgi:application");
        return Some(gunicorn(project, &target, "manage.py is Django's"));
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

/// A list of dependencies names a package.
fn needs(project: &Project, name: &str) -> bool {
    let lists = ["requirements.txt", "pyproject.toml", "Pipfile"];
    let mut texts = lists.iter().filter_map(|list| project.text(list));
    texts.any(|text| text.to_ascii_lowercase().contains(name))
}

/// gunicorn with one process, because the supervisor starts the workers.
fn gunicorn(project: &Project, target: &str, why: &str) -> Guess<Vec<String>> {
    let mut command = words(&[
        "gunicorn",
        target,
        "--bind",
        "0.0.0.0:8000",
        "--threads",
        "4",
    ]);
    let mut why = format!("{why}, and gunicorn is a dependency");
    let sets_workers = |text: &str| {
        let mut lines = text.lines();
        lines.any(|line| {
            line.split('=')
                .next()
                .is_some_and(|name| name.trim() == "workers")
        })
    };
    if project.text("gunicorn.conf.py").is_some_and(sets_workers) {
        command.extend(words(&["--workers", "1"]));
        why.push_str("; the number of workers in gunicorn.conf.py is overruled, because the supervisor starts the workers");
    }
    Guess::new(command, why)
}
