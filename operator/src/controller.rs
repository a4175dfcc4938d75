//! Decides when which app is looked at: on a change of anything that belongs to
//! it, when this replica begins to lead, and when a pass asked for it. Never
//! twice at once for one app, and for so many apps at once.

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

/// Changes within this become one pass: an apply echoes in several watches.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Works until the queue's senders are gone.
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
            // Logged by the error policy; and what is gone needs nothing.
            Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {
            }
            Err(error) => tracing::error!(%error, "a pass could not be begun"),
        }
    })
    .await;
}
