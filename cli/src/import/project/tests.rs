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
        (&[("package.json", package)], &[], "npm run start", 3000),
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
            3000,
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
