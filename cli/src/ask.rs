//! Asks the admin ports of a run's processes for readiness and status, and the run's DNS servers
//! for addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_runtime::{AdminAnswer, ask_admin, ask_dns};
use serde::de::DeserializeOwned;

/// Timeout of one request. All servers are on this machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer that is accepted. The status of a thousand workers takes about 150 KiB.
const MAX_ANSWER_BYTES: usize = 4 << 20;

async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<AdminAnswer> {
    let answer = ask_admin(admin, path, REQUEST_TIMEOUT, MAX_ANSWER_BYTES).await;
    answer.with_context(|| format!("{admin} does not answer"))
}

/// Returns `/status`, read as `T`.
///
/// # Errors
/// There is no answer in time, its status is not 200, or its body is not a `T`.
pub(crate) async fn status<T: DeserializeOwned>(admin: SocketAddr) -> anyhow::Result<T> {
    let AdminAnswer { status, body } = get(admin, "/status").await?;
    ensure!(status == 200, "{admin}/status answers {status}");
    serde_json::from_slice(&body).with_context(|| format!("{admin}/status is not a status"))
}

/// Checks that `/readyz` answers 200. The error says why it does not.
pub(crate) async fn ready(admin: SocketAddr) -> Result<(), String> {
    match get(admin, "/readyz").await {
        Ok(AdminAnswer { status: 200, .. }) => Ok(()),
        Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Asks a DNS server for the IPv4 addresses of a name.
///
/// # Errors
/// There is no answer in time, or it is malformed.
pub(crate) async fn addresses(server: SocketAddr, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    Ok(ask_dns(server, name, REQUEST_TIMEOUT).await?)
}
