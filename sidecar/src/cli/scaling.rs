//! The flags of `run` about a range of workers, and what `ctl scale` takes.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use scaledapp_units::duration;
use scaledapp_wire::WorkerCount;

use crate::range::WorkerRange;

/// Of `run`: when a worker starts or stops within a range of `--workers`.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Scaling (with a range of --workers)")]
pub struct ScalingArgs {
    /// How busy workers should be at most, in percent; if they are busier, another one starts [default: 70]
    #[arg(long, env = "SCALEDAPP_UTILIZATION", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(10..=100))]
    pub utilization: Option<u32>,
    /// A worker drains and stops when fewer workers have been enough for this long; at least 1s [default: 30s]
    #[arg(long, env = "SCALEDAPP_SCALE_DOWN_AFTER", value_parser = duration::parse, value_name = "TIME")]
    pub scale_down_after: Option<Duration>,
}

/// What `ctl scale` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleArg {
    /// A number, from now on.
    Number(WorkerCount),
    /// Any other value of `--workers`.
    Range(WorkerRange),
    /// The value of `--workers`, or that of the desired-state file.
    Reset,
}

impl FromStr for ScaleArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "reset" {
            return Ok(Self::Reset);
        }
        // `-1` means one fewer than now, not one fewer than `auto`.
        if !text.contains("..") && text.starts_with(['+', '-']) {
            return text.parse().map(Self::Number);
        }
        match (text.parse::<WorkerCount>(), text.parse::<WorkerRange>()) {
            (Ok(number), _) => Ok(Self::Number(number)),
            (_, Ok(range)) => Ok(Self::Range(range)),
            (_, Err(error)) if text.contains("..") => Err(error.to_string()),
            _ => Err(format!(
                "{text:?} is not a number of workers: give N, +K, -K, a range MIN..MAX, auto, max, \
                 Nx, or reset (what --workers or the desired-state file says)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_number_a_range_or_a_reset() {
        for (text, wanted) in [
            ("4", ScaleArg::Number(WorkerCount::To(4))),
            ("+1", ScaleArg::Number(WorkerCount::More(1))),
            ("-1", ScaleArg::Number(WorkerCount::Fewer(1))),
            ("1..4", ScaleArg::Range("1..4".parse().unwrap())),
            ("auto", ScaleArg::Range("auto".parse().unwrap())),
            ("2x", ScaleArg::Range("2x".parse().unwrap())),
            ("reset", ScaleArg::Reset),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for (text, cure) in [("many", "reset"), ("4..1", "1..4"), ("0..2", "1..2")] {
            let error = text.parse::<ScaleArg>().unwrap_err();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }
}
