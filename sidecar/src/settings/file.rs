//! The file of `--config`: the settings that it may contain.
//!
//! `settings`, `portless`, `times` and `trust` decide what the settings mean and which of
//! them cannot be combined.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::cli::{
    DispatchArg, LogsArg, LogsFullArg, MechanismArg, MetricsMergeArg, PortArg, ProtocolArg,
    TrustArg,
};
use crate::range::WorkerRange;

/// The file of `--config`; unknown names are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct FileSettings {
    pub(super) host: Option<IpAddr>,
    pub(super) port: Option<PortArg>,
    pub(super) share: Option<Vec<u16>>,
    pub(super) workers: Option<WorkerRange>,
    pub(super) utilization: Option<u32>,
    pub(super) scale_down_after: Option<String>,
    pub(super) dispatch: Option<DispatchArg>,
    pub(super) protocol: Option<ProtocolArg>,
    pub(super) sticky: Option<String>,
    pub(super) admin: Option<String>,
    pub(super) mechanism: Option<MechanismArg>,
    pub(super) readiness_path: Option<String>,
    pub(super) boot_timeout: Option<String>,
    pub(super) drain_timeout: Option<String>,
    pub(super) drain_quiet: Option<String>,
    pub(super) stop_grace: Option<String>,
    pub(super) stop_signal: Option<String>,
    pub(super) instance_env: Option<String>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) desired_file: Option<PathBuf>,
    pub(super) dispatch_threads: Option<u16>,
    pub(super) max_in_flight: Option<NonZeroU32>,
    pub(super) queue_length: Option<u32>,
    pub(super) queue_timeout: Option<String>,
    pub(super) max_memory: Option<String>,
    pub(super) max_requests: Option<u64>,
    pub(super) max_age: Option<String>,
    pub(super) recycle_jitter: Option<u32>,
    pub(super) hang_timeout: Option<String>,
    pub(super) logs: Option<LogsArg>,
    pub(super) logs_full: Option<LogsFullArg>,
    pub(super) metrics_from: Option<String>,
    pub(super) metrics_merge: Option<MetricsMergeArg>,
    pub(super) ready_after: Option<String>,
    pub(super) wait_ready: Option<bool>,
    pub(super) shutdown_message: Option<bool>,
    pub(super) increment_env: Option<String>,
    pub(super) answer_timeout: Option<String>,
    pub(super) stall_timeout: Option<String>,
    pub(super) stream_timeout: Option<String>,
    pub(super) upgrade_timeout: Option<String>,
    pub(super) body_timeout: Option<String>,
    pub(super) body_rate: Option<u32>,
    pub(super) half_close_timeout: Option<String>,
    pub(super) head_bytes: Option<u32>,
    pub(super) head_fields: Option<u32>,
    pub(super) connections: Option<NonZeroU32>,
    pub(super) connections_per_address: Option<NonZeroU32>,
    pub(super) trust: Option<TrustArg>,
    pub(super) trust_token_file: Option<PathBuf>,
    pub(super) forwarded_from: Option<Vec<String>>,
}

/// Reads the file.
///
/// # Errors
/// There is no such file, or its content is invalid.
pub(super) fn read(path: &Path) -> anyhow::Result<FileSettings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the --config file {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("the --config file {} cannot be used", path.display()))
}
