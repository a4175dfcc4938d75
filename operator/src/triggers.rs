//! Asks for passes over apps. The controller decides when they run.

use futures::channel::mpsc;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::stores::Guarded;

/// Asks for passes over apps.
#[derive(Debug, Clone)]
pub struct Triggers {
    queue: mpsc::UnboundedSender<ObjectRef<Guarded>>,
    apps: Store<Guarded>,
}

impl Triggers {
    /// Creates the queue of apps that need a pass. The queue may be unbounded, because the
    /// controller immediately moves its entries into a set.
    pub fn new(apps: Store<Guarded>) -> (Self, mpsc::UnboundedReceiver<ObjectRef<Guarded>>) {
        let (queue, asked) = mpsc::unbounded();
        (Self { queue, apps }, asked)
    }

    /// Asks for a pass over this app.
    pub fn app(&self, namespace: &str, name: &str) {
        self.send(ObjectRef::new(name).within(namespace));
    }

    /// Asks for a pass over every app.
    pub fn all(&self) {
        for app in self.apps.state() {
            self.send(ObjectRef::from_obj(&*app));
        }
    }

    /// Asks for a pass over the app of this reference.
    pub(crate) fn send(&self, app: ObjectRef<Guarded>) {
        // The queue is closed only when the program ends.
        let _closed = self.queue.unbounded_send(app);
    }
}
