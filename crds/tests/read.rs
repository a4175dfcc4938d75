//! Tests of reading YAML: the object, and errors with place, field and cure.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use scaledapp_crds::v1alpha1::{Algorithm, AppProtocol, Dispatch};
use scaledapp_crds::{read, read_all};

const SHORTEST: &str = "
apiVersion: scaledapp.io/v1alpha1
kind: ScaledApp
metadata: {name: hello}
spec:
  image: example/hello:1.0
  command: [node, server.js]
";

/// The error in the shortest object if `line` is added to its spec, as line 8 of the text.
fn error(line: &str) -> String {
    read(&format!("{SHORTEST}  {line}\n"))
        .unwrap_err()
        .to_string()
}

#[test]
fn the_shortest_object_leaves_everything_else_absent() {
    let app = read(SHORTEST).unwrap();
    assert_eq!(app.metadata.name, "hello");
    assert_eq!(app.spec.command, ["node", "server.js"]);
    assert_eq!(app.spec.replicas, None);
    assert_eq!(app.spec.workers, None);
    assert_eq!(app.spec.port, None);
}

#[test]
fn every_field_is_read() {
    let app = read(
        r#"
apiVersion: scaledapp.io/v1alpha1
kind: ScaledApp
metadata: {name: hello, namespace: shop, labels: {team: a}, annotations: {note: "1"}}
spec:
  image: example/hello:1.0
  command: [node]
  args: [server.js, "8"]
  env: [{name: GREETING, value: hi}, {name: EMPTY}]
  workingDir: /app
  port: 8000
  appProtocol: tcp
  replicas: {total: 6}
  workers:
    count: 4
    dispatch: Connection
    readiness: {path: /healthz, timeout: 2m}
    drainTimeout: 500ms
    stopSignal: SIGINT
    instanceEnv: WORKER
  resources: {requests: {cpu: 2, memory: 512Mi}, limits: {cpu: "2.5"}}
  balancers: {replicas: 3, algorithm: Hash}
  dns: {hostname: hello.apps.example.com, ttl: 10s}
"#,
    )
    .unwrap();
    let workers = app.spec.workers.unwrap();
    assert_eq!(workers.dispatch, Some(Dispatch::Connection));
    assert_eq!(workers.drain_timeout.unwrap().to_string(), "500ms");
    assert_eq!(
        workers.readiness.unwrap().timeout.unwrap().to_string(),
        "2m"
    );
    assert_eq!(app.spec.app_protocol, Some(AppProtocol::Tcp));
    assert_eq!(app.spec.replicas.unwrap().total, Some(6));
    assert_eq!(app.spec.balancers.unwrap().algorithm, Some(Algorithm::Hash));
    assert_eq!(app.spec.resources.unwrap().requests["cpu"].to_string(), "2");
}

#[test]
fn a_pod_template_is_kept_as_it_is() {
    let text =
        "  podTemplate: {metadata: {labels: {a: '1'}}, spec: {hostUsers: false, n: [1, 2.5, x]}}";
    let app = read(&format!("{SHORTEST}{text}\n")).unwrap();
    assert_eq!(
        app.spec.pod_template.unwrap(),
        serde_json::json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {"hostUsers": false, "n": [1, 2.5, "x"]},
        })
    );
}

#[test]
fn json_is_read_too() {
    let json = r#"{"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp",
        "metadata": {"name": "hello"}, "spec": {"image": "i", "command": ["a"]}}"#;
    assert_eq!(read(json).unwrap().spec.image, "i");
}

#[test]
fn what_was_read_is_written_back_without_the_absent_fields() {
    let app = read(SHORTEST).unwrap();
    let written = serde_json::to_value(&app).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "metadata": {"name": "hello"},
        "spec": {"image": "example/hello:1.0", "command": ["node", "server.js"]},
    });
    assert_eq!(written, expected);
}

#[test]
fn an_error_names_line_column_field_and_cure() {
    for (line, expected) in [
        (
            "prot: 1",
            "8:3: spec.prot: there is no such field; known fields: image, command, args, env, envFrom, \
             workingDir, port, adminPort, appProtocol, replicas, autoscaling, workers, resources, balancers, dns, podTemplate, supervisor, paused",
        ),
        ("port: many", "8:9: spec.port: must be a whole number"),
        (
            "port: '3000'",
            "8:9: spec.port: must be a whole number: write it without quotes",
        ),
        (
            "paused: 'true'",
            "8:11: spec.paused: must be true or false: write it without quotes",
        ),
        (
            "port: 99999999999",
            "8:9: spec.port: must be a whole number",
        ),
        (
            "env: [{name: A, value: 1}]",
            "8:26: spec.env[0].value: must be text: write it in quotes, \"1\"",
        ),
        (
            "args: [a, true]",
            "8:13: spec.args[1]: must be text: write it in quotes, \"true\"",
        ),
        (
            "args: a b",
            "8:9: spec.args: must be a list, such as [a, b]",
        ),
        (
            "replicas: 3",
            "8:13: spec.replicas: must be a mapping, such as {name: value}",
        ),
        (
            "appProtocol: ftp",
            "8:16: spec.appProtocol: \"ftp\" is not one of http, h2c, tcp",
        ),
        (
            "workers: {drainTimeout: 30}",
            "8:27: spec.workers.drainTimeout: \"30\" is not a duration: write a whole number with its unit, \
             such as 500ms, 30s, 2m or 1h",
        ),
        (
            "resources: {limits: {memory: 5x}}",
            "8:32: spec.resources.limits.memory: \"5x\" is not an amount: write a number with an optional \
             suffix, such as 2, 500m or 512Mi",
        ),
        (
            "image: again",
            "8:3: spec: duplicate mapping key `image` is not allowed here",
        ),
        ("args: [a", "8:9: spec.args: unclosed bracket '['"),
    ] {
        assert_eq!(error(line), expected, "{line}");
    }
}

#[test]
fn a_planned_field_is_refused_with_what_to_do_now() {
    assert_eq!(
        error("processes: []"),
        "8:3: spec.processes: not supported yet: leave it out"
    );
}

#[test]
fn what_is_not_a_scaled_app_is_named() {
    let must = "it must begin with `apiVersion: scaledapp.io/v1alpha1` and `kind: ScaledApp`";
    for (text, expected) in [
        (
            "",
            format!("contains an object without apiVersion and kind, not a ScaledApp: {must}"),
        ),
        (
            "kind: Deployment\napiVersion: apps/v1",
            format!("contains a Deployment of apps/v1, not a ScaledApp: {must}"),
        ),
        (
            "kind: ScaledApp",
            format!("contains a ScaledApp without apiVersion, not a ScaledApp: {must}"),
        ),
        (
            "- a",
            "1:1: must be a mapping, such as {name: value}".to_owned(),
        ),
        (
            "a: [}",
            "1:4: a: mismatched bracket '[' closed by '}'".to_owned(),
        ),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), expected, "{text:?}");
    }
    let missing = SHORTEST.replace("  image: example/hello:1.0\n", "");
    assert_eq!(
        read(&missing).unwrap_err().to_string(),
        "6:3: spec: `image` is missing"
    );
    let two = format!("{SHORTEST}---\nkind: Service\n");
    let message = read(&two).unwrap_err().to_string();
    assert!(message.starts_with("9:1: one object per file"), "{message}");
}

fn named(name: &str) -> String {
    format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: {name}}}\nspec: {{image: i, command: [a]}}\n"
    )
}

fn names(text: &str) -> Vec<String> {
    let apps = read_all(text).unwrap().apps;
    apps.into_iter().map(|app| app.metadata.name).collect()
}

#[test]
fn every_document_and_every_item_of_a_list_is_read() {
    let (one, two) = (named("one"), named("two"));
    for text in [
        format!("{one}---\n{two}"),
        format!("# both\n---\n{one}--- # and\n{two}...\n---\n# nothing\n"),
        format!("---\r\n{one}---\r\n{two}"),
    ] {
        assert_eq!(names(&text), ["one", "two"], "{text}");
    }
    let item = |text: &str| format!("- {}\n", text.trim_end().replace('\n', "\n  "));
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}",
        item(&one),
        item(&two)
    );
    assert_eq!(names(&list), ["one", "two"]);
    assert_eq!(names(&one), ["one"]);
}

#[test]
fn errors_name_the_place_in_the_whole_text() {
    let text = format!(
        "{}---\n{}  replica: 3\n",
        named("one"),
        named("two").replace(
            "spec: {image: i, command: [a]}",
            "spec:\n  image: i\n  command: [a]"
        )
    );
    let error = read_all(&text).unwrap_err();
    assert_eq!(
        (error.at, error.path.as_str()),
        (Some((12, 3)), "spec.replica")
    );
}

#[test]
fn other_objects_are_named_and_do_not_count_as_apps() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let both = read_all(&format!("{service}---\n{}", named("one"))).unwrap();
    assert_eq!(
        (both.apps.len(), both.others),
        (1, vec!["a Service of v1".to_owned()])
    );
    let error = read_all(&format!("{service}---\n{service}"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("contains a Service of v1, not a ScaledApp"),
        "{error}"
    );
    let slip = named("two").replace("v1alpha1", "v1");
    let error = read_all(&format!("{}---\n{slip}", named("one")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("scaledapp.io/v1, not"), "{error}");
    let list = format!("kind: List\nitems:\n- {}", service.replace('\n', "\n  "));
    let error = read_all(&list).unwrap_err().to_string();
    assert!(error.contains("items[0]: contains a Service"), "{error}");
}

#[test]
fn three_dashes_in_a_text_do_not_start_a_document() {
    let text = named("one").replace("[a]", "['a --- b', '----']");
    assert_eq!(names(&format!("{text}# --- c\n")), ["one"]);
}
