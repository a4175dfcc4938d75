//! The flags of `run` for apps that never listen, that send a message when they are ready, or that
//! wait for a message before they end. `settings` decides what the flags mean.

use std::time::Duration;

use clap::Args;
use scaledapp_units::duration;
use serde::{Deserialize, Deserializer};

/// `--port`: a port, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortArg {
    /// The app never listens.
    Nothing,
    /// The app listens on this port, which is not 0.
    At(u16),
}

impl std::str::FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Nothing);
        }
        let port = text.parse().ok().filter(|port| *port > 0);
        port.map(Self::At).ok_or_else(|| {
            format!(
                "{text:?} is not a port: give the one that the app listens on, 1 to 65535, or \
                 \"none\" for an app that never listens"
            )
        })
    }
}

impl<'de> Deserialize<'de> for PortArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "port must be a number or \"none\"")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Flags of `run`: how a worker reports that it is ready, and how it is asked to end and
/// told its number.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Messages, and apps without a port")]
pub struct ReadyArgs {
    /// With --port none: a worker is ready when it has run for this long [default: 1s; 0s with --wait-ready]
    #[arg(long, env = "SCALEDAPP_READY_AFTER", value_parser = duration::parse, value_name = "TIME")]
    pub ready_after: Option<Duration>,
    /// A worker is ready only after it has also called process.send('ready') (Node's IPC channel)
    #[arg(long, env = "SCALEDAPP_WAIT_READY")]
    pub wait_ready: bool,
    /// Ask a worker to end with the message "shutdown" on Node's IPC channel; a worker that has closed the channel gets the stop signal
    #[arg(long, env = "SCALEDAPP_SHUTDOWN_MESSAGE")]
    pub shutdown_message: bool,
    /// Variable that differs by worker: its value in the supervisor's environment (0 if unset) plus the worker's slot number
    #[arg(long, env = "SCALEDAPP_INCREMENT_ENV", value_name = "NAME")]
    pub increment_env: Option<String>,
}
