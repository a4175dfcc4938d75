//! The state file, which contains the addresses of a run. Other programs may rely on its keys.
//!
//! The file is written once everything is ready, so that a reader can use the addresses
//! immediately. `rundir` decides where the file is, and `runs` decides whether its run is still
//! live.

use std::net::SocketAddr;

use scaledapp_plan::ValidatedApp;
use scaledapp_plan::local::{Plan, Pod};
use serde::{Deserialize, Serialize};

/// One app of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The DNS server.
    pub(crate) dns: SocketAddr,
    /// The app's host name in DNS.
    pub(crate) hostname: String,
    /// The balancers.
    pub(crate) balancers: Vec<SocketAddr>,
    /// The pods that run.
    pub(crate) pods: Vec<PodState>,
    /// The name of the app, if its pods may all be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    /// What its autoscaler has decided last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) autoscaling: Option<Decided>,
}

/// The decision of an autoscaler, with the keys of `status.autoscaling` in a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decided {
    /// How many requests one worker serves well at once, rounded to a tenth.
    pub(crate) concurrency: f64,
    /// Pods that there should be.
    pub(crate) pods: u32,
    /// Why, in one sentence.
    pub(crate) reason: String,
    /// Since when the numbers are these (RFC 3339).
    pub(crate) since: String,
    /// Workers that each pod should need.
    pub(crate) workers: u32,
}

impl Decided {
    /// Whether `other` says the same but for the concurrency, which is learnt all the time.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let Self { concurrency, .. } = *other;
        Self {
            concurrency,
            ..self.clone()
        } == *other
    }
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodState {
    /// `APP-INDEX`.
    pub(crate) name: String,
    /// The address at which it serves the app.
    pub(crate) address: SocketAddr,
    /// The address of its supervisor's admin port.
    pub(crate) admin: SocketAddr,
}

impl State {
    /// The state of an app that is ready.
    pub(crate) fn of(app: &ValidatedApp, plan: &Plan) -> Self {
        let running = plan.pods.iter().take(plan.running);
        Self {
            dns: plan.dns.listen,
            hostname: plan.dns.hostname.to_string(),
            balancers: plan.slots.iter().map(|slot| slot.address).collect(),
            pods: running.map(PodState::of).collect(),
            app: app.autoscaling.as_ref().map(|_| app.name.clone()),
            autoscaling: None,
        }
    }

    /// The name of the app: the name of its pods without their number, if the file has no other.
    pub(crate) fn app(&self) -> &str {
        if let Some(app) = &self.app {
            return app;
        }
        let first = self.pods.first().map_or("", |pod| pod.name.as_str());
        first.rsplit_once('-').map_or(first, |(app, _)| app)
    }
}

impl PodState {
    /// The state of a pod of the plan.
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            name: pod.name.clone(),
            address: pod.address,
            admin: pod.admin,
        }
    }
}

/// The content of a file: the first app, and if the run has several, all of them under `apps`. A
/// reader that expects one app finds one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateFile {
    #[serde(flatten)]
    first: State,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    apps: Vec<Named>,
}

/// One of several apps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Named {
    /// The name that commands use. Files of older versions do not have it.
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    state: State,
}

impl Named {
    fn of(state: &State) -> Self {
        Self {
            name: state.app().to_owned(),
            state: state.clone(),
        }
    }
}

impl StateFile {
    /// The content of the file of a run.
    ///
    /// # Panics
    /// If `apps` is empty.
    pub(crate) fn of(apps: &[State]) -> Self {
        let first = apps.first().cloned();
        Self {
            first: first.expect("invariant: a run has an app"),
            apps: if apps.len() > 1 {
                apps.iter().map(Named::of).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The text is not that of a state file.
    pub(crate) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// All apps of the run.
    pub(crate) fn runs(self) -> Vec<State> {
        if self.apps.is_empty() {
            vec![self.first]
        } else {
            self.apps.into_iter().map(|app| app.state).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"dns":"127.0.0.1:5353","hostname":"hello.apps.local","balancers":["127.0.77.1:8080"],"pods":[{"name":"my-app-0","address":"127.0.78.1:3000","admin":"127.0.78.1:9377"}]}"#;

    #[test]
    fn the_keys_of_one_app_follow_the_contract() {
        let apps = StateFile::parse(ONE).unwrap().runs();
        assert_eq!(apps[0].app(), "my-app");
        assert_eq!(serde_json::to_string(&StateFile::of(&apps)).unwrap(), ONE);
    }

    #[test]
    fn the_first_of_several_apps_has_the_keys_of_a_single_one() {
        let first = StateFile::parse(ONE).unwrap().runs().remove(0);
        let mut second = first.clone();
        second.hostname = "chat.apps.local".to_owned();
        second.pods[0].name = "chat-0".to_owned();
        let apps = [first.clone(), second];
        let text = serde_json::to_string(&StateFile::of(&apps)).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), first);
        assert_eq!(StateFile::parse(&text).unwrap().runs(), apps);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["apps"][1]["name"], "chat");
        let older = text.replace(r#""name":"chat","#, "");
        assert_ne!(older, text);
        assert_eq!(StateFile::parse(&older).unwrap().runs(), apps);
    }
}
