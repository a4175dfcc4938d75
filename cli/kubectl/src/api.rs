//! Requests to the API server, with the rights of the user's kubeconfig.
//!
//! Requests name the paths of the API directly, so nothing is discovered first and the start costs
//! no round trip. Each answer is bounded in size and time. What an answer means is decided
//! elsewhere; here, a failure only gets one of the few [`Why`]s, so that a missing right can be
//! shown in place of the one value that needs it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use futures_util::AsyncBufRead;
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::Connection;
use crate::outcome::Failure;

/// The largest answer that is read, in bytes. A list of 10,000 pods has about 60 MB.
const MAX_ANSWER_BYTES: usize = 128 << 20;
/// The largest answer that is read of one pod, in bytes.
const MAX_POD_ANSWER_BYTES: usize = 8 << 20;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What kind of failure a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The user may not do this (403), or is not known (401).
    Forbidden,
    /// The object or the resource does not exist (404).
    Missing,
    /// The API server refuses the request with this status.
    Refused(u16),
    /// No whole answer came in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) why: Why,
    /// The API server's own words, or those of the operating system.
    pub(crate) message: String,
}

impl Trouble {
    /// A short reason for the place of a value that needs `verb` on `resource`, such as
    /// `may not get pods/proxy`.
    pub(crate) fn short(&self, verb: &str, resource: &str) -> String {
        match self.why {
            Why::Forbidden => format!("may not {verb} {resource}"),
            Why::Missing => "not found".to_owned(),
            Why::Timeout => "no answer in time".to_owned(),
            Why::Unreachable => "not reachable".to_owned(),
            Why::Refused(code) => format!("refused: {code}"),
        }
    }

    /// The failure of a command that cannot do without the answer.
    pub(crate) fn fatal(&self, doing: &str) -> Failure {
        Failure::unknown(format!("cannot {doing}: {}", self.message))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A connection to the API server.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    timeout: Duration,
    /// The namespace of the flags, otherwise of the context.
    pub(crate) namespace: String,
}

/// One answer: its time by the server's clock, and its text.
pub(crate) struct Answer {
    pub(crate) date: Option<String>,
    pub(crate) text: String,
}

impl Api {
    /// Reads the kubeconfig. Sends nothing yet.
    pub(crate) async fn connect(flags: &Connection) -> Result<Self, Failure> {
        let mut config = config(flags.kubeconfig.as_deref(), flags.context.clone()).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = None;
        // A pod that does not answer is a finding, not a reason to ask again.
        config.default_retry = false;
        // Several headers of one name are kept, as the API server expects it for groups.
        let headers = impersonation(&config, flags)?;
        config.headers.extend(headers);
        let namespace = match &flags.namespace {
            Some(namespace) => namespace.clone(),
            None => config.default_namespace.clone(),
        };
        let client = Client::try_from(config).map_err(|error| {
            Failure::unknown(format!("the kubeconfig's credentials: {}", chain(&error)))
        })?;
        Ok(Self {
            client,
            timeout: flags.request_timeout(),
            namespace,
        })
    }

    /// The client itself, for connections that are not one request and its answer.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    fn request(
        method: &str,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Request<Vec<u8>>, Trouble> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, content)
            .header(ACCEPT, "application/json, */*")
            .body(body)
            .map_err(|error| unreachable(error.to_string()))
    }

    async fn answer(&self, request: Request<Vec<u8>>, limit: usize) -> Result<Answer, Trouble> {
        let (parts, body) = request.into_parts();
        let sent = async {
            let response = self
                .client
                .send(Request::from_parts(parts, Body::from(body)))
                .await
                .map_err(|error| of_kube(&error))?;
            let (head, body) = response.into_parts();
            let whole = Limited::new(body, limit).collect().await;
            let bytes = whole
                .map_err(|error| unreachable(format!("the answer broke off: {error}")))?
                .to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if !head.status.is_success() {
                return Err(refused(head.status.as_u16(), &text));
            }
            let date = head.headers.get(http::header::DATE);
            Ok(Answer {
                date: date.and_then(|date| date.to_str().ok()).map(str::to_owned),
                text,
            })
        };
        match tokio::time::timeout(self.timeout, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(Trouble {
                why: Why::Timeout,
                message: format!(
                    "no answer within {} (--request-timeout)",
                    scaledapp_units::duration::format(self.timeout)
                ),
            }),
        }
    }

    /// The text of a GET, with the server's time.
    pub(crate) async fn dated(&self, path: &str) -> Result<Answer, Trouble> {
        let request = Self::request("GET", path, "application/json", Vec::new())?;
        self.answer(request, MAX_ANSWER_BYTES).await
    }

    /// The answer of a pod's port to a GET, through the API server.
    pub(crate) async fn of_pod(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        page: &str,
    ) -> Result<String, Trouble> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{page}");
        let request = Self::request("GET", &path, "application/json", Vec::new())?;
        let answer = self.answer(request, MAX_POD_ANSWER_BYTES).await?;
        Ok(answer.text)
    }

    /// The JSON of a GET.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let answer = self.dated(path).await?;
        parsed(&answer.text)
    }

    /// The items of a list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Trouble> {
        #[derive(serde::Deserialize)]
        struct List<T> {
            items: Vec<T>,
        }
        let list: List<T> = self.get(path).await?;
        Ok(list.items)
    }

    /// Sends an object; returns the API server's answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, Trouble> {
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Self::request(method, path, content, body.to_string().into_bytes())?;
        let answer = self.answer(request, MAX_ANSWER_BYTES).await?;
        parsed(&answer.text)
    }

    /// The bytes of a GET as they come. Only the time until the head comes is bounded.
    pub(crate) async fn stream(&self, path: &str) -> Result<impl AsyncBufRead + use<>, Trouble> {
        let request = Self::request("GET", path, "application/json", Vec::new())?;
        match tokio::time::timeout(self.timeout, self.client.request_stream(request)).await {
            Ok(stream) => stream.map_err(|error| of_kube(&error)),
            Err(_) => Err(Trouble {
                why: Why::Timeout,
                message: format!(
                    "no answer within {}",
                    scaledapp_units::duration::format(self.timeout)
                ),
            }),
        }
    }
}

async fn config(kubeconfig: Option<&Path>, context: Option<String>) -> Result<Config, Failure> {
    let is_chosen = kubeconfig.is_some() || context.is_some();
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let found = match kubeconfig {
        Some(path) => match Kubeconfig::read_from(path) {
            Ok(read) => Config::from_custom_kubeconfig(read, &options).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&options).await,
    };
    match found {
        Ok(config) => Ok(config),
        Err(error) if is_chosen => Err(Failure::unknown(format!(
            "the kubeconfig: {}",
            chain(&error)
        ))),
        Err(error) => Config::incluster().map_err(|_| {
            Failure::unknown(format!(
                "no cluster is configured ({}): set KUBECONFIG, or give --kubeconfig FILE",
                chain(&error)
            ))
        }),
    }
}

/// The headers by which the API server takes another user's rights (`--as`, `--as-group`), from
/// the flags, otherwise from the kubeconfig.
fn impersonation(
    config: &Config,
    flags: &Connection,
) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    let user = flags
        .as_user
        .as_ref()
        .or(config.auth_info.impersonate.as_ref());
    let of_config = config.auth_info.impersonate_groups.as_deref();
    let groups = match &flags.as_group[..] {
        [] => of_config.unwrap_or_default(),
        given => given,
    };
    if user.is_none() && !groups.is_empty() {
        return Err(Failure::usage("--as-group needs --as"));
    }
    let mut headers = Vec::new();
    let user = user.map(|user| ("impersonate-user", user));
    let groups = groups.iter().map(|group| ("impersonate-group", group));
    for (name, value) in user.into_iter().chain(groups) {
        let value = HeaderValue::from_str(value).map_err(|_| {
            Failure::usage(format!("{value:?} is not the name of a user or a group"))
        })?;
        headers.push((HeaderName::from_static(name), value));
    }
    Ok(headers)
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, Trouble> {
    serde_json::from_str(text).map_err(|error| {
        unreachable(format!(
            "the API server's answer is not understood: {error}"
        ))
    })
}

fn unreachable(message: String) -> Trouble {
    Trouble {
        why: Why::Unreachable,
        message,
    }
}

/// What an answer with an error status says.
fn refused(code: u16, text: &str) -> Trouble {
    let status: Value = serde_json::from_str(text).unwrap_or_default();
    let message = match status["message"].as_str() {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => {
            let line = text.lines().next().unwrap_or_default();
            let end = line.floor_char_boundary(200);
            format!("HTTP status {code} {}", &line[..end])
                .trim_end()
                .to_owned()
        }
    };
    let why = match code {
        401 | 403 => Why::Forbidden,
        404 => Why::Missing,
        code => Why::Refused(code),
    };
    Trouble { why, message }
}

fn of_kube(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => {
            let why = match status.code {
                401 | 403 => Why::Forbidden,
                404 => Why::Missing,
                code => Why::Refused(code),
            };
            Trouble {
                why,
                message: status.message.clone(),
            }
        }
        error => unreachable(chain(error)),
    }
}

/// An error with its causes, in one line. A cause that the text contains already is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_in_the_servers_words_and_shortened_for_a_cell() {
        let forbidden = r#"{"kind":"Status","message":"pods \"a\" is forbidden","code":403}"#;
        let trouble = refused(403, forbidden);
        assert_eq!(trouble.message, "pods \"a\" is forbidden");
        assert_eq!(trouble.short("get", "pods/proxy"), "may not get pods/proxy");
        let plain = refused(503, "no healthy upstream\nmore");
        assert_eq!(plain.message, "HTTP status 503 no healthy upstream");
        assert_eq!(plain.short("get", "pods/proxy"), "refused: 503");
        assert_eq!(refused(404, "").why, Why::Missing);
    }
}
