//! `logs`: the lines of all pods of an app, each after the name of its pod.
//!
//! With -f, a stream that ends while its pod lives goes on where it ended, and new pods are
//! followed as well. What is not followed is said.

pub(crate) mod line;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use futures_util::AsyncBufReadExt;
use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use scaledapp_crds::words::{MANAGER, component, label};
use tokio::sync::mpsc;

use crate::api::{Api, Why};
use crate::cli::{Color, LogsArgs, Which};
use crate::outcome::{Ended, Failure, GOOD, UNKNOWN};
use crate::read::{self, encoded, kind_path};
use crate::text::{Line, Style, Surroundings};

use line::{Position, Stamped};

/// How often new pods are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long to wait before a stream that ended is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// A stream to follow.
#[derive(Debug, Clone)]
struct Source {
    pod: String,
    number: usize,
    /// Whether only lines from now on are wanted, because the pod is older than the command.
    is_new: bool,
}

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &LogsArgs, color: Color) -> Ended {
    let which = Which {
        name: Some(args.name.clone()),
        ..Which::default()
    };
    read::apps(api, &which).await?;
    let surroundings = Surroundings::of_stdout();
    let printer = Printer {
        colours: surroundings.colours(color),
        is_terminal: surroundings.is_terminal,
        worker: args.worker,
        timestamps: args.timestamps,
    };
    let first = pods(api, args).await?;
    if first.is_empty() && !args.follow {
        return Err(Failure::fails(format!("{} has no pods", args.name)));
    }
    let most = usize::from(args.max_pods);
    if first.len() > most {
        scaledapp_runtime::say(&format!(
            "{} of {} pods are followed (--max-pods); not: {}",
            most,
            first.len(),
            first[most..].join(", ")
        ));
    }
    if args.follow {
        return follow(api, args, first, &printer).await;
    }
    let sources = first.into_iter().take(most).enumerate();
    let sources = sources.map(|(number, pod)| Source {
        pod,
        number,
        is_new: false,
    });
    // Pods one after the other, so that the lines of each stay together and in order.
    let mut failed = None;
    for source in sources {
        let mut position = Position::default();
        if let Err(why) = stream_of(api, args, &source, &mut position, &printer, false).await {
            scaledapp_runtime::say(&format!("{}: {why}", source.pod));
            failed = Some(why);
        }
    }
    Ok(if failed.is_some() { UNKNOWN } else { GOOD })
}

/// The names of the pods, sorted.
async fn pods(api: &Api, args: &LogsArgs) -> Result<Vec<String>, Failure> {
    let component = if args.balancers {
        component::BALANCER
    } else {
        component::APP
    };
    let selector = format!(
        "{}={},{}={component},{}={MANAGER}",
        label::INSTANCE,
        args.name,
        label::COMPONENT,
        label::MANAGED_BY
    );
    let path = kind_path("/api/v1", Some(&api.namespace), "pods");
    let path = format!("{path}?labelSelector={}", encoded(&selector));
    let pods: Vec<Pod> = api
        .list(&path)
        .await
        .map_err(|trouble| trouble.fatal("list pods"))?;
    let mut names: Vec<String> = pods
        .into_iter()
        .filter_map(|pod| pod.metadata.name)
        .collect();
    names.sort();
    Ok(names)
}

async fn follow(api: &Api, args: &LogsArgs, first: Vec<String>, printer: &Printer) -> Ended {
    let (send, mut added) = mpsc::unbounded_channel();
    let most = usize::from(args.max_pods);
    let look = async {
        let mut known = BTreeSet::new();
        let mut number = 0;
        let mut found = first;
        let mut is_new = false;
        loop {
            for pod in found {
                if !known.insert(pod.clone()) {
                    continue;
                }
                if is_new {
                    scaledapp_runtime::say(&format!("also following {pod}"));
                }
                let source = Source {
                    pod,
                    number,
                    is_new,
                };
                number += 1;
                if send.send(source).is_err() {
                    return;
                }
            }
            is_new = true;
            tokio::time::sleep(LOOK_INTERVAL).await;
            found = pods(api, args).await.unwrap_or_default();
        }
    };
    let streams = stream::poll_fn(|context| added.poll_recv(context));
    let streams = streams.for_each_concurrent(most, |source| whole(api, args, source, printer));
    tokio::join!(look, streams);
    Ok(GOOD)
}

/// Follows a pod until it has gone.
async fn whole(api: &Api, args: &LogsArgs, source: Source, printer: &Printer) {
    let mut position = Position::default();
    let mut told = String::new();
    loop {
        match stream_of(api, args, &source, &mut position, printer, true).await {
            Ok(()) => {}
            Err(why) if why == GONE => {
                scaledapp_runtime::say(&format!("{} has gone", source.pod));
                return;
            }
            Err(why) => {
                if why != told {
                    scaledapp_runtime::say(&format!(
                        "{} is not followed: {why}; trying again",
                        source.pod
                    ));
                    told = why;
                }
            }
        }
        position.resume();
        tokio::time::sleep(AGAIN).await;
    }
}

/// The reason that a pod does not exist any more.
const GONE: &str = "not found";

/// Prints one stream to its end.
async fn stream_of(
    api: &Api,
    args: &LogsArgs,
    source: &Source,
    position: &mut Position,
    printer: &Printer,
    follow: bool,
) -> Result<(), String> {
    let path = path(api, args, source, position, follow);
    let stream = api
        .stream(&path)
        .await
        .map_err(|trouble| match trouble.why {
            Why::Missing => GONE.to_owned(),
            Why::Forbidden => trouble.short("get", "pods/log"),
            _ => trouble.message,
        })?;
    let mut lines = std::pin::pin!(stream);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match lines.read_until(b'\n', &mut bytes).await {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let line = String::from_utf8_lossy(&bytes);
                let stamped = Stamped::read(line.trim_end_matches(['\n', '\r']));
                if position.is_new(stamped.time) {
                    printer.print(source, stamped);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn path(api: &Api, args: &LogsArgs, source: &Source, position: &Position, follow: bool) -> String {
    let container = if args.balancers { "balancer" } else { "app" };
    let mut path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?container={container}&timestamps=true",
        api.namespace, source.pod
    );
    if follow {
        path += "&follow=true";
    }
    if args.previous {
        path += "&previous=true";
    }
    match (position.since(), source.is_new) {
        (Some(since), _) => path = format!("{path}&sinceTime={}", encoded(since)),
        // A pod that came later is shown from its first line on.
        (None, true) => {}
        (None, false) => {
            if let Some(tail) = args.tail {
                path = format!("{path}&tailLines={tail}");
            }
            if let Some(since) = args.since {
                path = format!("{path}&sinceSeconds={}", since.as_secs().max(1));
            }
        }
    }
    path
}

struct Printer {
    colours: bool,
    is_terminal: bool,
    worker: Option<u32>,
    timestamps: bool,
}

impl Printer {
    fn print(&self, source: &Source, line: Stamped<'_>) {
        let Some(text) = self.shown(source, line) else {
            return;
        };
        let mut stdout = std::io::stdout().lock();
        // If the reader has gone, the rest of the lines cannot be printed either.
        drop(stdout.write_all(text.as_bytes()));
    }

    /// The line as it is printed; `None` if it is of another worker.
    fn shown(&self, source: &Source, line: Stamped<'_>) -> Option<String> {
        let (slot, text) = line.worker();
        if self.worker.is_some() && slot != self.worker {
            return None;
        }
        let slot = slot.map_or(String::new(), |slot| format!("/{slot}"));
        let style = Style::Source(source.number);
        let prefix = Line::default().styled(style, format!("{}{slot}", source.pod));
        let time = if self.timestamps {
            format!("{} ", line.time)
        } else {
            String::new()
        };
        // Colours of the app itself are kept; a terminal gets no other control characters.
        let text = if self.is_terminal {
            text.chars()
                .filter(|it| !it.is_control() || matches!(it, '\t' | '\x1b'))
                .collect()
        } else {
            text.to_owned()
        };
        Some(format!("{time}{} | {text}\n", prefix.show(self.colours)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_after_its_pod_and_worker() {
        let printer = |worker| Printer {
            colours: false,
            is_terminal: false,
            worker,
            timestamps: false,
        };
        let source = Source {
            pod: "shop-1".to_owned(),
            number: 0,
            is_new: false,
        };
        let line = Stamped {
            time: "2026-11-30T10:00:00Z",
            text: "[3] hello",
        };
        assert_eq!(
            printer(None).shown(&source, line).unwrap(),
            "shop-1/3 | hello\n"
        );
        assert_eq!(
            printer(Some(3)).shown(&source, line).unwrap(),
            "shop-1/3 | hello\n"
        );
        assert_eq!(printer(Some(2)).shown(&source, line), None);
        let plain = Stamped { text: "x", ..line };
        assert_eq!(printer(None).shown(&source, plain).unwrap(), "shop-1 | x\n");
        let timed = Printer {
            timestamps: true,
            ..printer(None)
        };
        assert_eq!(
            timed.shown(&source, plain).unwrap(),
            "2026-11-30T10:00:00Z shop-1 | x\n"
        );
    }
}
