//! Projects of several kinds.

use super::*;

fn made(files: &[(&str, &str)], programs: &[&str]) -> Result<(String, Vec<String>), String> {
    let project = Project {
        directory: "shop".to_owned(),
        files: files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        programs: programs.iter().map(|name| (*name).to_owned()).collect(),
    };
    guess(&project).map(|(document, assumed)| (document.text(), assumed))
}

/// Files, programs, the expected command, and the expected port.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str, i64);

fn check(cases: &[Case<'_>]) {
    for (files, programs, command, port) in cases {
        let (text, assumed) = made(files, programs).unwrap();
        let words: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("  - "))
            .map(|word| word.trim_matches('"').to_owned())
            .collect();
        assert_eq!(words.join(" "), *command, "{text}");
        assert!(text.contains(&format!("\n  port: {port}\n")), "{text}");
        assert!(
            assumed.iter().all(|one| one.contains(" because ")),
            "{assumed:?}"
        );
    }
}

#[test]
fn scripts_get_their_command_and_port() {
    let package = r#"{"name": "@acme/web", "scripts": {"start": "next start -p 4000"}}"#;
    let django = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n";
    check(&[
        (
            &[(
                "package.json",
                r#"{"scripts": {"start": "node server.js"}}"#,
            )][..],
            &[][..],
            "node server.js",
            3000,
        ),
        (
            &[("package.json", package)],
            &["node_modules/.bin/next"],
            "node_modules/.bin/next start -p 4000",
            4000,
        ),
        (&[("package.json", package)], &[], "npm run start", 4000),
        (
            &[("package.json", r#"{"main": "lib/a.js"}"#)],
            &[],
            "node lib/a.js",
            3000,
        ),
        (
            &[("server.js", "x.listen(8080)")],
            &[],
            "node server.js",
            8080,
        ),
        (
            &[("main.py", "from fastapi import FastAPI\napi = FastAPI()\n")],
            &[],
            "uvicorn main:api --host 0.0.0.0 --port 8000",
            8000,
        ),
        (
            &[
                ("app.py", "app: Flask = Flask(__name__)\n"),
                ("requirements.txt", "gunicorn==22\n"),
            ],
            &[],
            "gunicorn app:app --bind 0.0.0.0:8000 --threads 4",
            8000,
        ),
        (
            &[("manage.py", django)],
            &[],
            "python3 manage.py runserver --noreload 0.0.0.0:8000",
            8000,
        ),
        (
            &[("server.py", "os.environ.get(\"PORT\", \"5001\")")],
            &[],
            "python3 server.py",
            5001,
        ),
    ]);
}

#[test]
fn programs_and_images_get_their_command_and_port() {
    check(&[
        (
            &[
                ("go.mod", "module example.com/acme/api/v2\n"),
                ("main.go", "http.ListenAndServe(\":8080\", nil)"),
            ],
            &["api"],
            "./api",
            8080,
        ),
        (
            &[("Cargo.toml", "[package]\nname = \"svc\"\n")],
            &["target/release/svc"],
            "./target/release/svc",
            3000,
        ),
        (
            &[("Gemfile", "gem 'puma'\n")],
            &[],
            "bundle exec puma --port 3000",
            3000,
        ),
        (
            &[
                ("Procfile", "web: ./run -p 7000\n"),
                ("Gemfile", "gem 'puma'\n"),
            ],
            &[],
            "./run -p 7000",
            7000,
        ),
        (
            &[
                ("Dockerfile", "FROM x\nEXPOSE 9000\nCMD [\"/srv\"]\n"),
                ("Procfile", "web: no\n"),
            ],
            &[],
            "/srv",
            9000,
        ),
    ]);
}

#[test]
fn names_and_paths_are_those_of_the_project() {
    let (text, assumed) = made(
        &[
            ("package.json", r#"{"name": "@acme/web", "main": "s.js"}"#),
            ("server.js", "get('/healthz')"),
        ],
        &[],
    )
    .unwrap();
    assert!(
        text.contains("  name: web\n") && text.contains("path: /healthz"),
        "{text}"
    );
    assert!(assumed.contains(
        &"spec.workers.readiness.path /healthz because server.js mentions it".to_owned()
    ));
    let error = made(&[], &[]).unwrap_err();
    assert!(error.contains("scripts.start"), "{error}");
}

#[test]
fn scripts_run_without_npm_where_they_can() {
    let package = |start: &str| {
        let start = serde_json::Value::from(start);
        format!("{{\"scripts\": {{\"start\": {start}}}, \"dependencies\": {{\"next\": \"14\"}}}}")
    };
    for (start, command) in [
        ("next start -p 4000", "node_modules/.bin/next start -p 4000"),
        (
            "NODE_ENV=production node a.js",
            "env NODE_ENV=production node a.js",
        ),
        ("cross-env A=1 B=2 node a.js", "env A=1 B=2 node a.js"),
        ("nodemon a.js", "node a.js"),
        ("bun run index.ts", "bun run index.ts"),
        ("node a.js && echo", "npm run start"),
        ("A=$B node a.js", "env A=$B node a.js"),
        ("react-scripts start", "npm run start"),
    ] {
        let (text, assumed) = made(&[("package.json", &package(start))], &[]).unwrap();
        let words = text.lines().filter_map(|line| line.strip_prefix("  - "));
        let words: Vec<&str> = words.map(|word| word.trim_matches('"')).collect();
        assert_eq!(words.join(" "), command, "{start}: {assumed:?}");
    }
    let nest = r#"{"scripts": {"start": "nest start", "start:prod": "node dist/main"}}"#;
    let (text, assumed) = made(&[("package.json", nest)], &[]).unwrap();
    assert!(text.contains("- dist/main"), "{text}");
    assert!(
        assumed.iter().any(|one| one.contains("npm run build")),
        "{assumed:?}"
    );
    let pm2 = r#"{"scripts": {"start": "pm2-runtime start ecosystem.config.js"}}"#;
    let files = [("package.json", pm2), ("ecosystem.config.js", "")];
    let error = made(&files, &[]).unwrap_err();
    assert!(
        error.contains("scaledapp import ecosystem.config.js"),
        "{error}"
    );
    let error = made(&[("package.json", "{\"name\":")], &[]).unwrap_err();
    assert!(error.contains("not valid JSON"), "{error}");
}

#[test]
fn apps_that_start_processes_get_workers_that_fit() {
    let source = "if (cluster.isPrimary) cluster.fork();";
    let (text, assumed) = made(&[("server.js", source)], &[]).unwrap();
    assert!(
        text.contains("count: 1\n") && text.contains("dispatch: Connection"),
        "{text}"
    );
    assert!(
        assumed.iter().any(|one| one.contains("remove the fork")),
        "{assumed:?}"
    );
    let docker = "FROM x\nCMD [\"gunicorn\", \"-w\", \"4\", \"-b\", \":8000\", \"a:b\"]\n";
    let (text, assumed) = made(&[("Dockerfile", docker)], &[]).unwrap();
    assert!(
        !text.contains("-w") && text.contains("perCore: 1"),
        "{text}"
    );
    assert!(
        assumed.iter().any(|one| one.contains("`-w 4` is left out")),
        "{assumed:?}"
    );
    let flask = "app = Flask(__name__)\n";
    let (text, _) = made(
        &[
            ("app.py", flask),
            ("requirements.txt", "flask\ngunicorn\n"),
            (
                "gunicorn.conf.py",
                "workers = multiprocessing.cpu_count() * 2 + 1\n",
            ),
        ],
        &[],
    )
    .unwrap();
    assert!(text.contains("--workers"), "{text}");
}

#[test]
fn packages_and_archives_get_their_command_and_port() {
    let factory = "def create_app():\n    app = Flask(__name__)\n    return app\n";
    check(&[
        (
            &[("flaskr/__init__.py", factory)][..],
            &[][..],
            "flask --app flaskr run --host 0.0.0.0 --port 8000",
            8000,
        ),
        (
            &[
                ("go.mod", "module example.com/shop\n"),
                ("cmd/server/main.go", "http.ListenAndServe(\":8081\", nil)"),
            ],
            &[],
            "./server",
            8081,
        ),
        (
            &[(
                "pom.xml",
                "<artifactId>spring-boot-starter-parent</artifactId>",
            )],
            &["target/demo-0.0.1-SNAPSHOT.jar"],
            "java -jar target/demo-0.0.1-SNAPSHOT.jar",
            8080,
        ),
        (
            &[("build.gradle.kts", "id(\"org.springframework.boot\")")],
            &["build/libs/demo-plain.jar"],
            "java -jar build/libs/app.jar",
            8080,
        ),
        (
            &[(
                "deno.json",
                "{\"tasks\": {\"start\": \"deno run -A main.ts --port 8000\"}}",
            )],
            &[],
            "deno run -A main.ts --port 8000",
            8000,
        ),
    ]);
    let error = made(&[("compose.yaml", "services: {}")], &[]).unwrap_err();
    assert!(error.contains("scaledapp import compose.yaml"), "{error}");
}
