//! An API server for tests. It stores objects and serves lists, watches and single objects over
//! plain HTTP, with one thread per connection. A test can make it answer 403 or 410, or not answer
//! at all.

#![allow(
    clippy::unwrap_used,
    reason = "all of this module is test code, helpers included"
)]

pub mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

/// An API server on a loopback port.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    directory: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// All changes, each with its version.
    events: Vec<(u64, Value)>,
    /// Versions before this one have expired.
    oldest: u64,
    /// Connections of an earlier epoch are closed.
    epoch: u64,
    away: bool,
    /// Namespaces that may not be read.
    forbidden: BTreeSet<String>,
    requests: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl ApiServer {
    /// Starts a server without objects.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "test", "user": {}}],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&served);
                // An error only means that the peer closed the connection.
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        Self {
            address,
            shared,
            directory,
        }
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The path of a kubeconfig for the server.
    pub fn kubeconfig(&self) -> PathBuf {
        Path::join(self.directory.path(), "kubeconfig")
    }

    /// Adds the object. An object with the same namespace and name is replaced, even one of
    /// another kind.
    pub fn put(&self, mut object: Value) {
        self.shared.change(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let before = state.objects.insert(key(&object), object.clone());
            let kind = if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            state
                .events
                .push((state.version, json!({"type": kind, "object": object})));
        });
    }

    /// Removes the object with this namespace and name.
    pub fn delete(&self, namespace: &str, name: &str) {
        self.shared.change(|state| {
            state.version += 1;
            let mut object = state
                .objects
                .remove(&format!("{namespace}/{name}"))
                .unwrap();
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state
                .events
                .push((state.version, json!({"type": "DELETED", "object": object})));
        });
    }

    /// Removes the object without an event, so that only a new list shows that it is missing.
    pub fn delete_unseen(&self, namespace: &str, name: &str) {
        self.shared.change(|state| {
            state.version += 1;
            state
                .objects
                .remove(&format!("{namespace}/{name}"))
                .unwrap();
        });
    }

    /// Expires the history so far: watches end with 410.
    pub fn expire(&self) {
        self.shared.change(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.events.clear();
        });
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.change(|state| state.epoch += 1);
    }

    /// Sets whether requests for objects of a namespace get 403.
    pub fn set_forbidden(&self, namespace: &str, forbidden: bool) {
        self.shared.change(|state| {
            if forbidden {
                state.forbidden.insert(namespace.to_owned());
            } else {
                state.forbidden.remove(namespace);
            }
            state.epoch += 1;
        });
    }

    /// Stops answering requests, or answers them again.
    pub fn set_away(&self, away: bool) {
        self.shared.change(|state| {
            state.away = away;
            state.epoch += 1;
        });
    }

    /// The RBAC rights that the requests so far needed. All of them are reads.
    pub fn used(&self) -> BTreeSet<rights::Right> {
        let requests = self.requests();
        let needs = requests.iter().flat_map(|target| {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            rights::Asked::of(path).needs("GET", query, true)
        });
        needs.collect()
    }

    /// Path and query of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

fn key(object: &Value) -> String {
    let word = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", word("namespace"), word("name"))
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let epoch = shared.state().epoch;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        {
            let mut state = shared.state();
            if state.away || state.epoch != epoch {
                return Ok(());
            }
            state.requests.push(target.clone());
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let namespace = path.split_once("/namespaces/").map(|(_, rest)| rest);
        let namespace = namespace.and_then(|rest| rest.split('/').next());
        if let Some(namespace) = namespace.filter(|it| shared.state().forbidden.contains(*it)) {
            let message = format!("nothing in {namespace} may be read");
            let body = failure(403, "Forbidden", &message);
            respond(&mut writer, "403 Forbidden", &body)?;
            continue;
        }
        let asked = rights::Asked::of(path);
        let is_asked = |object: &Value| {
            let kind = object["kind"].as_str().unwrap_or_default();
            asked.is_of(kind)
                && namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
        };
        if let Some(name) = &asked.name {
            let key = format!("{}/{name}", namespace.unwrap_or_default());
            let found = shared.state().objects.get(&key).cloned();
            let missing = || failure(404, "NotFound", &format!("{name:?} not found"));
            let (status, body) = found
                .filter(&is_asked)
                .map_or_else(|| ("404 Not Found", missing()), |it| ("200 OK", it));
            respond(&mut writer, status, &body)?;
            continue;
        }
        let argument = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value))
        };
        if argument("watch") == Some("true") {
            let from = argument("resourceVersion").and_then(|text| text.parse().ok());
            return watch(shared, &mut writer, from.unwrap_or(0), epoch, &is_asked);
        }
        let body = {
            let state = shared.state();
            let items = state.objects.values().filter(|object| is_asked(object));
            let items: Vec<&Value> = items.collect();
            json!({
                "kind": "List",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": state.version.to_string()},
                "items": items,
            })
        };
        respond(&mut writer, "200 OK", &body)?;
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": message, "reason": reason, "code": code})
}

fn respond(writer: &mut TcpStream, status: &str, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    writer.write_all((head + &body).as_bytes())
}

fn watch(
    shared: &Shared,
    writer: &mut TcpStream,
    mut from: u64,
    epoch: u64,
    is_asked: &dyn Fn(&Value) -> bool,
) -> io::Result<()> {
    writer.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    loop {
        let (chunks, is_over) = {
            let mut state = shared.state();
            loop {
                if state.epoch != epoch {
                    return Ok(());
                }
                if from < state.oldest || state.events.iter().any(|(version, _)| *version > from) {
                    break;
                }
                state = shared.changed.wait(state).unwrap();
            }
            let mut chunks = String::new();
            let is_over = from < state.oldest;
            let gone = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            }});
            let news = state.events.iter().filter(|(version, _)| *version > from);
            let news = news.map(|(_, event)| event);
            let news = news.filter(|event| is_asked(&event["object"]));
            for event in news.chain(is_over.then_some(&gone)) {
                let line = format!("{event}\n");
                let _infallible = write!(chunks, "{:x}\r\n{line}\r\n", line.len());
            }
            from = state.version;
            (chunks, is_over)
        };
        writer.write_all(chunks.as_bytes())?;
        if is_over {
            return writer.write_all(b"0\r\n\r\n");
        }
    }
}
