//! The dispatcher's timeouts and its number of connections: flags and file become one
//! [`Times`].

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::bail;
use scaledapp_proxy::{Config, HeadLimits, Limits};
use scaledapp_units::duration;

use super::file::FileSettings;
use crate::cli::{DispatchArg, RunArgs, TimeArgs};

/// The part of the dispatcher's [`Limits`] that `run` can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    answer: Duration,
    stall: Duration,
    stream: Duration,
    upgrade: Duration,
    body: Duration,
    body_rate: u32,
    half_close: Duration,
    connections: Option<NonZeroU32>,
    request_head: HeadLimits,
    answer_head: HeadLimits,
    per_address: Option<NonZeroU32>,
}

/// Refuses settings of the dispatcher if there is no dispatcher, because a limit without
/// effect would be mistaken for an effective one.
///
/// # Errors
/// A setting of the dispatcher is given under Connection dispatch; the message names the flag.
pub(super) fn check_dispatch(
    args: &RunArgs,
    file: &FileSettings,
    dispatch: DispatchArg,
) -> anyhow::Result<()> {
    let times = &args.times;
    macro_rules! given {
        ($($flag:literal $args:ident $field:ident),* $(,)?) => {
            [$(($flag, $args.$field.is_some() || file.$field.is_some())),*]
        };
    }
    let flags = given![
        "--protocol" args protocol,
        "--sticky" args sticky,
        "--queue-length" args queue_length,
        "--queue-timeout" args queue_timeout,
        "--answer-timeout" times answer_timeout,
        "--stall-timeout" times stall_timeout,
        "--stream-timeout" times stream_timeout,
        "--upgrade-timeout" times upgrade_timeout,
        "--body-timeout" times body_timeout,
        "--body-rate" times body_rate,
        "--half-close-timeout" times half_close_timeout,
        "--head-bytes" times head_bytes,
        "--head-fields" times head_fields,
        "--connections" times connections,
        "--connections-per-address" times connections_per_address,
    ];
    let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
    match given.next() {
        Some((flag, _)) if dispatch == DispatchArg::Connection => bail!(
            "{flag} needs --dispatch request: with connection dispatch clients reach the workers \
             directly, without the dispatcher in between; leave the flag out, and let the app \
             itself do what the flag does"
        ),
        _ => Ok(()),
    }
}

impl Times {
    /// Merges the flags with the file.
    ///
    /// # Errors
    /// A duration in the file is invalid, a time other than `--half-close-timeout` is 0, or a limit
    /// of heads is invalid.
    pub(super) fn resolve(args: &TimeArgs, file: &FileSettings) -> anyhow::Result<Self> {
        let default = Config::dispatcher().limits;
        let head_bytes = args.head_bytes.or(file.head_bytes);
        let head_fields = args.head_fields.or(file.head_fields);
        let heads = default.with_heads(head_bytes, head_fields)?;
        let given = |flag: Option<Duration>, text: &Option<String>, default| match (flag, text) {
            (Some(flag), _) => anyhow::Ok(flag),
            (None, Some(text)) => Ok(duration::parse(text)?),
            (None, None) => Ok(default),
        };
        let time = |name: &str, flag, text, default| match given(flag, text, default)? {
            Duration::ZERO => bail!("--{name} 0s leaves no time for anything: give at least 1ms"),
            time => anyhow::Ok(time),
        };
        Ok(Self {
            answer: time(
                "answer-timeout",
                args.answer_timeout,
                &file.answer_timeout,
                default.answer_time,
            )?,
            stall: time(
                "stall-timeout",
                args.stall_timeout,
                &file.stall_timeout,
                default.stall_time,
            )?,
            stream: time(
                "stream-timeout",
                args.stream_timeout,
                &file.stream_timeout,
                default.stream_time,
            )?,
            upgrade: time(
                "upgrade-timeout",
                args.upgrade_timeout,
                &file.upgrade_timeout,
                default.upgrade_time,
            )?,
            body: time(
                "body-timeout",
                args.body_timeout,
                &file.body_timeout,
                default.body_time,
            )?,
            body_rate: args
                .body_rate
                .or(file.body_rate)
                .unwrap_or(default.body_rate),
            half_close: given(
                args.half_close_timeout,
                &file.half_close_timeout,
                default.half_close_time,
            )?,
            connections: args.connections.or(file.connections),
            request_head: heads.request_head,
            answer_head: heads.answer_head,
            per_address: args
                .connections_per_address
                .or(file.connections_per_address),
        })
    }

    /// Whether the number of connections was left to the supervisor.
    pub(crate) fn fits_connections(self) -> bool {
        self.connections.is_none()
    }

    /// Copies the settings into a dispatcher's limits.
    pub(crate) fn of(self, limits: Limits) -> Limits {
        Limits {
            answer_time: self.answer,
            stall_time: self.stall,
            stream_time: self.stream,
            upgrade_time: self.upgrade,
            body_time: self.body,
            body_rate: self.body_rate,
            half_close_time: self.half_close,
            connections: self.connections.map_or(limits.connections, NonZeroU32::get),
            request_head: self.request_head,
            answer_head: self.answer_head,
            connections_per_address: self.per_address,
            ..limits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_defaults_are_those_of_the_dispatcher() {
        let times = Times::resolve(&TimeArgs::default(), &FileSettings::default()).unwrap();
        let limits = Config::dispatcher().limits;
        assert_eq!(times.of(limits), limits);
        // The numbers that the help states.
        let Limits {
            answer_time,
            stall_time,
            stream_time,
            upgrade_time,
            body_time,
            ..
        } = limits;
        let times = [
            answer_time,
            stall_time,
            stream_time,
            upgrade_time,
            body_time,
        ];
        let minutes = times.map(|time| time.as_secs() / 60);
        assert_eq!(minutes, [60, 5, 60, 60, 360]);
        assert_eq!(limits.body_rate, 500);
        assert_eq!(limits.half_close_time, Duration::from_millis(500));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let args = TimeArgs {
            answer_timeout: Some(SECOND),
            half_close_timeout: Some(Duration::ZERO),
            connections_per_address: NonZeroU32::new(9),
            head_bytes: Some(5000),
            ..TimeArgs::default()
        };
        let file = FileSettings {
            head_bytes: Some(6000),
            answer_timeout: Some("2s".to_owned()),
            stall_timeout: Some("3s".to_owned()),
            body_rate: Some(7),
            head_fields: Some(70),
            connections: NonZeroU32::new(8),
            connections_per_address: NonZeroU32::new(10),
            ..FileSettings::default()
        };
        let limits = Times::resolve(&args, &file).unwrap().of(Limits::default());
        let times = [
            limits.answer_time,
            limits.stall_time,
            limits.half_close_time,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [1, 3, 0]);
        assert_eq!((limits.body_rate, limits.connections), (7, 8));
        let head = limits.answer_head;
        assert_eq!((head.head_bytes, head.fields), (5000, 70));
        assert_eq!(limits.request_head, head);
        assert_eq!(limits.connections_per_address, NonZeroU32::new(9));
    }

    #[test]
    fn a_time_of_zero_and_a_head_limit_that_is_too_small_are_refused() {
        let args = TimeArgs {
            stall_timeout: Some(Duration::ZERO),
            ..TimeArgs::default()
        };
        let error = Times::resolve(&args, &FileSettings::default()).unwrap_err();
        assert!(error.to_string().contains("--stall-timeout 0s"), "{error}");
        let args = TimeArgs {
            head_bytes: Some(10),
            ..TimeArgs::default()
        };
        let error = Times::resolve(&args, &FileSettings::default()).unwrap_err();
        assert!(error.to_string().contains("--head-bytes 10 "), "{error}");
    }
}
