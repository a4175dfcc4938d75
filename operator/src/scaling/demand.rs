//! How a request that waits while its app has no pod reaches the loop without waiting for the
//! second to end.
//!
//! The loop marks apps without pods as asleep. A stream that reads of a waiting request wakes the
//! app once; then the app stays awake until the loop marks it again. So a balancer that sends many
//! lines causes one decision.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// An app, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AppName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Apps without pods, and those of them that are asked for.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    apps: Mutex<Apps>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Apps {
    asleep: BTreeSet<AppName>,
    woken: BTreeSet<AppName>,
}

impl Demand {
    fn apps(&self) -> MutexGuard<'_, Apps> {
        // Each change is one call: a panic leaves nothing half done.
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whether the app has no pods.
    pub(crate) fn set_asleep(&self, app: &AppName, asleep: bool) {
        let mut apps = self.apps();
        if !asleep {
            apps.asleep.remove(app);
        } else if !apps.asleep.contains(app) {
            apps.asleep.insert(app.clone());
        }
    }

    /// Wakes the app if it is asleep.
    pub(crate) fn wake(&self, app: &AppName) {
        let mut apps = self.apps();
        if apps.asleep.remove(app) {
            apps.woken.insert(app.clone());
            self.woken.notify_one();
        }
    }

    /// Waits for an app that was woken. Cancel safe.
    pub(crate) async fn next(&self) -> AppName {
        loop {
            if let Some(app) = self.apps().woken.pop_first() {
                return app;
            }
            self.woken.notified().await;
        }
    }

    /// Forgets all apps.
    pub(crate) fn clear(&self) {
        *self.apps() = Apps::default();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn an_app_is_woken_once_and_only_while_it_is_asleep() {
        let demand = Demand::default();
        let app = |name: &str| AppName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        demand.wake(&app("a"));
        assert_eq!(demand.next().now_or_never(), None);
        demand.set_asleep(&app("a"), true);
        demand.set_asleep(&app("b"), true);
        for name in ["a", "a", "b"] {
            demand.wake(&app(name));
        }
        assert_eq!(demand.next().now_or_never(), Some(app("a")));
        assert_eq!(demand.next().now_or_never(), Some(app("b")));
        assert_eq!(demand.next().now_or_never(), None);
        demand.set_asleep(&app("a"), true);
        demand.set_asleep(&app("a"), false);
        demand.wake(&app("a"));
        assert_eq!(demand.next().now_or_never(), None);
    }
}
