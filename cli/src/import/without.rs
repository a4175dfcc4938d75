//! The fields of a PM2 app that have no counterpart here, and why.

use serde_json::Value;

use super::report::Fate;

/// Fields that have no counterpart, grouped by the reason.
pub(super) const WITHOUT: &[(&[&str], Fate, &str)] = &[
    (
        &["watch", "ignore_watch", "watch_delay", "watch_options"],
        Fate::NoCounterpart,
        "files are not watched in production: run `ctl reload` after a change; while you develop, `scaledapp local --watch` reloads by itself",
    ),
    (
        &["cron_restart", "cron"],
        Fate::NoCounterpart,
        "there are no scheduled restarts: let cron or a CronJob run `ctl reload`, or limit a worker's age with maxAge",
    ),
    (
        &["autorestart"],
        Fate::NoCounterpart,
        "a worker that ends is always replaced; run a task that should end as a Job",
    ),
    (
        &["max_restarts", "min_uptime"],
        Fate::Changed,
        "workers are restarted without limit: after failures in a row the delay grows to 10 s, and /readyz says what is missing",
    ),
    (
        &["restart_delay", "exp_backoff_restart_delay"],
        Fate::Changed,
        "the first restart is immediate, then after 100 ms, doubling to 10 s; a worker that was ready for 30 s starts again without a delay",
    ),
    (
        &["stop_exit_codes"],
        Fate::NoCounterpart,
        "a worker that ends is replaced whatever its exit code; run a task that should end as a Job",
    ),
    (
        &[
            "out_file",
            "output",
            "out",
            "error_file",
            "error",
            "err_file",
            "err",
            "log_file",
            "log",
            "log_date_format",
        ],
        Fate::NoCounterpart,
        "there are no log files: everything goes to stdout and stderr (--logs json adds the time)",
    ),
    (
        &["merge_logs", "combine_logs"],
        Fate::Changed,
        "all workers write to one stream anyway; --logs prefix says which line is whose",
    ),
    (
        &["disable_logs"],
        Fate::NoCounterpart,
        "send the supervisor's output to /dev/null instead",
    ),
    (
        &["pid_file", "pid"],
        Fate::NoCounterpart,
        "`ctl status -o json` names the pids",
    ),
    (
        &["treekill"],
        Fate::NoCounterpart,
        "the stop signal and SIGKILL always go to the worker's whole process group",
    ),
    (
        &["kill_retry_time"],
        Fate::Changed,
        "the kernel reports the end of a process, so nothing is polled",
    ),
    (
        &["user", "uid", "gid"],
        Fate::NoCounterpart,
        "start the supervisor as that user (in a cluster: podTemplate.spec.securityContext)",
    ),
    (
        &["env_file"],
        Fate::NoCounterpart,
        "is not read: add node_args --env-file=FILE (Node 20.6 or newer), or set the variables where you start the supervisor",
    ),
    (
        &["filter_env"],
        Fate::NoCounterpart,
        "workers get the supervisor's environment: start it with `env -i` or `env -u`",
    ),
    (
        &[
            "post_update",
            "vizion",
            "deploy",
            "autostart",
            "force",
            "namespace",
            "append_env_to_name",
        ],
        Fate::NoCounterpart,
        "concerns only how PM2 installs and names apps",
    ),
    (
        &["source_map_support", "disable_source_map_support"],
        Fate::NoCounterpart,
        "add node_args --enable-source-maps instead",
    ),
    (
        &[
            "trace",
            "pmx",
            "automation",
            "instrument",
            "deep_monitoring",
            "windowsHide",
            "time",
            "wait_ip",
            "execute_command",
            "vars",
            "version",
        ],
        Fate::NoCounterpart,
        "concerns only PM2's monitoring or daemon",
    ),
];

/// Whether a field without a counterpart asks for something that the supervisor does anyway.
pub(super) fn asks_for_our_behaviour(name: &str, value: &Value) -> bool {
    match name {
        "autorestart" | "treekill" | "autostart" | "vizion" => value == true,
        "max_restarts" | "min_uptime" | "stop_exit_codes" => value.is_null(),
        _ => value.is_null() || value == false,
    }
}
