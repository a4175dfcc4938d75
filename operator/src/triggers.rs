//! Asks for passes over apps. When they are made is the controller's business.

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
    /// The queue is emptied into a set at once: that it is unbounded costs nothing.
    pub fn new(apps: Store<Guarded>) -> (Self, mpsc::UnboundedReceiver<ObjectRef<Guarded>>) {
        let (queue, asked) = mpsc::unbounded();
        (Self { queue, apps }, asked)
    }

    /// Over this one.
    pub fn app(&self, namespace: &str, name: &str) {
        self.send(ObjectRef::new(name).within(namespace));
    }

    /// Over all.
    pub fn all(&self) {
        for app in self.apps.state() {
            self.send(ObjectRef::from_obj(&*app));
        }
    }

    /// Over the one that is named.
    pub(crate) fn send(&self, app: ObjectRef<Guarded>) {
        // Closed only when the program ends.
        let _closed = self.queue.unbounded_send(app);
    }
}
