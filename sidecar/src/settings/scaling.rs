//! What the flags about a range of workers mean, and where a range cannot be used.

use std::time::Duration;

use anyhow::bail;
use scaledapp_units::duration;
use scaledapp_wire::Dispatch;

use super::file::FileSettings;
use crate::cli::ScalingArgs;
use crate::cores::WorkerSpec;
use crate::range::{Rules, WorkerRange, refusal};

/// The default of `--utilization`; the rest is room for requests that arrive unevenly.
const UTILIZATION: u32 = 70;
/// The default of `--scale-down-after`.
const SCALE_DOWN_AFTER: Duration = Duration::from_secs(30);

/// The number of workers; one per core if none is given.
pub(super) fn workers(given: Option<WorkerRange>) -> WorkerRange {
    given.unwrap_or(WorkerRange::one(WorkerSpec::Auto))
}

/// Merges the flags with the file.
///
/// # Errors
/// A value is not within its bounds.
pub(super) fn resolve(args: &ScalingArgs, file: &FileSettings) -> anyhow::Result<Rules> {
    let utilization = args.utilization.or(file.utilization).unwrap_or(UTILIZATION);
    if !(10..=100).contains(&utilization) {
        bail!("utilization {utilization} is not within 10..100: give a percentage such as 70");
    }
    let idle = match (args.scale_down_after, &file.scale_down_after) {
        (None, Some(text)) => Some(duration::parse(text)?),
        (flag, _) => flag,
    };
    let idle = idle.unwrap_or(SCALE_DOWN_AFTER);
    if !(Duration::from_secs(1)..=Duration::from_hours(24)).contains(&idle) {
        bail!(
            "--scale-down-after {}: give a time from 1s to 24h, or a fixed number of --workers to \
             keep them for ever",
            duration::format(idle)
        );
    }
    Ok(Rules { utilization, idle })
}

/// Refuses a range where the load of the workers is not known.
///
/// # Errors
/// `workers` is a range, and no dispatcher sends requests to the workers.
pub(super) fn check_range(workers: WorkerRange, dispatch: Dispatch) -> anyhow::Result<()> {
    match refusal(dispatch).filter(|_| workers.is_open()) {
        Some(cure) => bail!("--workers {workers}: {cure}"),
        None => Ok(()),
    }
}
