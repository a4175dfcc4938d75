//! Tests of whole ecosystem files.

use clap::Parser;
use serde_json::json;

use super::*;

fn args(words: &[&str]) -> ImportArgs {
    let words = ["scaledapp", "import"].iter().chain(words);
    match crate::cli::Cli::try_parse_from(words).unwrap().command {
        crate::cli::Command::Import(args) => args,
        other => panic!("{other:?}"),
    }
}

fn pm2(data: &Value, words: &[&str]) -> anyhow::Result<String> {
    let words = [&["f"], words].concat();
    ecosystem(data, &args(&words)).map(|imported| imported.text)
}

fn both(data: &Value, environment: Option<&str>) -> String {
    let environment = environment.map_or(Vec::new(), |name| vec!["--env", name]);
    let yaml = pm2(data, &environment).unwrap();
    for document in yaml.split("---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(object["kind"], "ScaledApp", "{document}");
    }
    let flags = pm2(data, &[&environment[..], &["-o", "flags"]].concat()).unwrap();
    format!("{yaml}\n=== flags\n{flags}")
}

#[test]
fn an_express_api_in_cluster_mode() {
    let data = json!({"apps": [{
        "name": "api", "script": "./dist/server.js", "instances": "max", "exec_mode": "cluster",
        "node_args": "--max-old-space-size=400", "max_memory_restart": "450M",
        "env": {"NODE_ENV": "development", "PORT": 3000},
        "env_production": {"NODE_ENV": "production", "PORT": 8080, "LOG_LEVEL": "warn"},
        "env_staging": {"NODE_ENV": "staging"},
        "merge_logs": true, "log_date_format": "YYYY-MM-DD HH:mm Z",
        "error_file": "/var/log/api/err.log", "out_file": "/var/log/api/out.log",
        "kill_timeout": 5000, "listen_timeout": 8000, "wait_ready": true,
        "autorestart": true, "watch": false, "max_restarts": 10, "min_uptime": "5s",
    }], "deploy": {"production": {"user": "node"}}});
    insta::assert_snapshot!(both(&data, Some("production")));
}

#[test]
fn a_next_app_started_by_npm() {
    let data = json!({"apps": [{
        "name": "My Website", "cwd": "/srv/web site", "script": "npm", "args": "run start -- -p 4000",
        "instances": 2, "env": {"PORT": "4000", "GREETING": "it's $(me) \"here\"\n", "DEBUG": true},
        "exp_backoff_restart_delay": 100, "cron_restart": "0 3 * * *", "listen_timeout": 90000,
    }]});
    insta::assert_snapshot!(both(&data, None));
}

#[test]
fn python_and_a_worker_beside_each_other() {
    let data = json!([
        {"name": "web", "script": "app.py", "interpreter": "/opt/venv/bin/python", "interpreter_args": "-u",
         "args": ["--host", "0.0.0.0", "--name", "a b"], "instances": -1, "instance_var": "INSTANCE_ID",
         "increment_var": "PORT", "env": {"PORT": 5000, "WEB_CONCURRENCY": 4}, "log_type": "json",
         "stop_exit_codes": [0], "uid": "www-data", "some_plugin": {"x": 1}},
        {"script": "worker.rb", "watch": ["lib"], "ignore_watch": ["tmp"], "autorestart": false},
    ]);
    insta::assert_snapshot!(both(&data, None));
}

#[test]
fn a_binary_from_yaml() {
    let text = "\
apps:
  - name: 1-gateway
    script: ./bin/gateway
    interpreter: none
    args: -config 'etc/gate way.toml'
    instances: 4
    exec_mode: fork
    max_memory_restart: 1073741824
    restart_delay: 4000
    shutdown_with_message: true
    kill_timeout: 20000
    env:
      PORT: 9000
      GOMAXPROCS: 1
      TOKEN: \"$(cat /etc/token)\"
";
    let data: Value = serde_saphyr::from_str(text).unwrap();
    insta::assert_snapshot!(both(&data, None));
}

#[test]
fn one_app_is_picked_by_name() {
    let data = json!({"apps": [{"name": "a", "script": "a.js"}, {"name": "b", "script": "b.js"}]});
    let text = pm2(&data, &["--app", "b", "-o", "flags"]).unwrap();
    assert!(
        text.contains("node b.js") && !text.contains("node a.js"),
        "{text}"
    );
    let error = pm2(&data, &["--app", "c"]).unwrap_err();
    assert!(error.to_string().contains("one of a, b"), "{error}");
}
