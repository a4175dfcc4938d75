//! Decides when each app gets a pass: when something that belongs to it changes, when this replica
//! becomes the leader, and when the previous pass scheduled another one. There is never more than
//! one pass per app at a time, and at most `concurrency` passes in all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use kube::runtime::controller::{self, Config, applier};
use kube::runtime::reflector::ObjectRef;

use crate::context::Context;
use crate::reconcile::{error_policy, reconcile};
use crate::stores::Guarded;

/// Changes within this time cause one pass, because one apply shows up in several watches.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Runs passes until all senders of the queue are dropped.
pub async fn run(
    context: Arc<Context>,
    queue: UnboundedReceiver<ObjectRef<Guarded>>,
    concurrency: u16,
) {
    let apps = context.stores.apps.clone();
    let config = Config::default()
        .debounce(DEBOUNCE)
        .concurrency(concurrency);
    applier(
        |object, context| Box::pin(reconcile(object, context)),
        |object, error, context| error_policy(&object, error, &context),
        context,
        apps,
        queue.map(Ok::<_, Infallible>),
        config,
    )
    .for_each(|passed| async {
        match passed {
            Ok((app, action)) => tracing::debug!(%app, ?action, "a pass is done"),
            // The error policy has logged the error, and a deleted app needs nothing.
            Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {
            }
            Err(error) => tracing::error!(%error, "a pass could not start"),
        }
    })
    .await;
}
