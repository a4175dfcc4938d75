//! `support-bundle`: one archive with what is needed to report a problem. Whatever cannot be read
//! is named in the manifest; nothing that may be a secret is in it.

pub(crate) mod archive;
pub(crate) mod redact;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{ENDPOINTS_MANAGER, MANAGER, label};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{Api, Trouble};
use crate::check;
use crate::cli::{BundleArgs, CheckArgs, Document, Which};
use crate::model::object::{key, text};
use crate::outcome::{Ended, Failure, GOOD};
use crate::output;
use crate::read::{self, Depth, encoded, kind_path};

/// How many lines of each pod are taken.
const LINES: usize = 1_000;

/// The kinds of an app's objects: group path, plural, and whether it is a slot's slice.
const KINDS: [(&str, &str); 6] = [
    ("/apis/apps/v1", "deployments"),
    ("/apis/apps/v1", "replicasets"),
    ("/api/v1", "services"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "pods"),
    ("/apis/policy/v1", "poddisruptionbudgets"),
];

/// What an archive holds.
#[derive(Serialize)]
struct Manifest<'a> {
    version: u32,
    plugin: &'a str,
    time: String,
    namespace: &'a str,
    files: Vec<&'a str>,
    /// What could not be read, and why.
    missing: &'a [String],
    left_out: [&'a str; 5],
}

struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
}

impl Bundle {
    fn json(&mut self, name: String, value: &Value) {
        let text = serde_json::to_vec_pretty(value).unwrap_or_default();
        self.files.push((name, text));
    }

    /// Adds objects, redacted, one file each.
    fn objects(&mut self, kind: &str, found: Result<Vec<Value>, Trouble>) -> Vec<Value> {
        match found {
            Ok(objects) => {
                for object in &objects {
                    let mut shown = object.clone();
                    // Items of a list do not say what they are.
                    if kind == "configmaps"
                        && let Value::Object(map) = &mut shown
                    {
                        map.insert("kind".to_owned(), "ConfigMap".into());
                    }
                    redact::object(&mut shown);
                    let (namespace, name) = key(object);
                    self.json(format!("{kind}/{namespace}/{name}.json"), &shown);
                }
                objects
            }
            Err(trouble) => {
                self.missing.push(format!("{kind}: {trouble}"));
                Vec::new()
            }
        }
    }
}

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &BundleArgs) -> Ended {
    let now = Timestamp::now();
    let path = match &args.output_file {
        Some(path) => path.clone(),
        None => PathBuf::from(format!(
            "scaledapp-bundle-{}.tar.gz",
            now.strftime("%Y%m%d-%H%M%S")
        )),
    };
    let bundle = collect(api, args).await?;
    let files: Vec<&str> = bundle.files.iter().map(|(name, _)| name.as_str()).collect();
    let manifest = Manifest {
        version: 1,
        plugin: env!("CARGO_PKG_VERSION"),
        time: now.to_string(),
        namespace: &api.namespace,
        files: files.clone(),
        missing: &bundle.missing,
        left_out: [
            "data of Secrets and ConfigMaps",
            "values of environment variables",
            "last-applied-configuration and managed fields",
            "users and passwords in URLs",
            "values of fields, flags and headers whose names sound like secrets",
        ],
    };
    let mut all = vec![(
        "manifest.json".to_owned(),
        output::json(&manifest)?.into_bytes(),
    )];
    let count = files.len();
    all.extend(bundle.files);
    for (name, _) in &mut all {
        *name = format!("scaledapp-bundle/{name}");
    }
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let packed = archive::pack(&all, seconds)
        .map_err(|error| Failure::fails(format!("cannot pack the archive: {error}")))?;
    // A file that exists is never overwritten.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path);
    let written = file.and_then(|mut file| file.write_all(&packed));
    written.map_err(|error| Failure::fails(format!("cannot write {}: {error}", path.display())))?;
    for missing in &bundle.missing {
        scaledapp_runtime::say(&format!("not in it: {}", crate::text::clean(missing)));
    }
    let logs = if args.logs {
        ""
    } else {
        "; lines of pods are not in it (--logs)"
    };
    scaledapp_runtime::say(&format!(
        "{count} files, {} KiB{logs}. Look through it before you send it.",
        packed.len() / 1_024
    ));
    output::write(&format!("{}\n", path.display()))?;
    Ok(GOOD)
}

async fn collect(api: &Api, args: &BundleArgs) -> Result<Bundle, Failure> {
    let which = Which {
        name: args.name.clone(),
        ..Which::default()
    };
    let seen = read::all(api, &which, Depth::Status, Instant::now()).await?;
    let mut bundle = Bundle {
        files: Vec::new(),
        missing: Vec::new(),
    };
    bundle.objects("scaledapps", Ok(seen.apps.clone()));
    for ((namespace, pod), answered) in &seen.answers {
        match &answered.status {
            Ok(status) => {
                let mut value: Value = serde_json::from_str(status).unwrap_or_default();
                redact::object(&mut value);
                bundle.json(format!("reports/{namespace}/{pod}.json"), &value);
            }
            Err(why) => bundle.missing.push(format!("report of {pod}: {why}")),
        }
    }
    let of_app = match &args.name {
        Some(name) => format!(",{}={name}", label::INSTANCE),
        None => String::new(),
    };
    let ours = format!(
        "?labelSelector={}",
        encoded(&format!("{}={MANAGER}{of_app}", label::MANAGED_BY))
    );
    let mut pods = Vec::new();
    for (group, kind) in KINDS {
        let path = kind_path(group, Some(&api.namespace), kind) + &ours;
        let found = bundle.objects(kind, api.list(&path).await);
        if kind == "pods" {
            pods = found;
        }
    }
    let slices = format!(
        "{}={ENDPOINTS_MANAGER}{of_app}",
        label::ENDPOINTS_MANAGED_BY
    );
    let path = kind_path(
        "/apis/discovery.k8s.io/v1",
        Some(&api.namespace),
        "endpointslices",
    );
    let path = format!("{path}?labelSelector={}", encoded(&slices));
    bundle.objects("endpointslices", api.list(&path).await);
    let path = kind_path("/apis/events.k8s.io/v1", Some(&api.namespace), "events");
    match api.list::<Value>(&path).await {
        Ok(events) => {
            let mut events = json!(events);
            redact::object(&mut events);
            bundle.json("events.json".to_owned(), &events);
        }
        Err(trouble) => bundle.missing.push(format!("events: {trouble}")),
    }
    let (_, operators) = check::operator_pods(api, args.operator_namespace.as_deref()).await;
    let operators = bundle.objects("operator", operators);
    let checked = CheckArgs {
        all_namespaces: false,
        output: Document::Json,
        strict: false,
        operator_namespace: args.operator_namespace.clone(),
    };
    let report = serde_json::to_value(check::report(api, &checked).await).unwrap_or_default();
    bundle.json("check.json".to_owned(), &report);
    if args.logs {
        logs(api, &mut bundle, pods.iter().chain(&operators)).await;
    }
    Ok(bundle)
}

async fn logs(api: &Api, bundle: &mut Bundle, pods: impl Iterator<Item = &Value>) {
    for pod in pods {
        let (namespace, name) = key(pod);
        let container = text(pod, "/spec/containers/0/name");
        for (suffix, more) in [("log", ""), ("previous.log", "&previous=true")] {
            let path = format!(
                "/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}&tailLines={LINES}{more}"
            );
            match api.dated(&path).await {
                Ok(answer) => {
                    let lines: Vec<String> = answer.text.lines().map(redact::line).collect();
                    bundle.files.push((
                        format!("logs/{namespace}/{name}.{suffix}"),
                        (lines.join("\n") + "\n").into_bytes(),
                    ));
                }
                // Most containers have not been restarted.
                Err(_) if !more.is_empty() => {}
                Err(trouble) => bundle.missing.push(format!("lines of {name}: {trouble}")),
            }
        }
    }
}
