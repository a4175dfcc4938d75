//! One pass over one app: observe, validate, plan, apply, and in any case write the status.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{self, EventType, Observed, Plan};
use tokio::time::Instant;

use crate::apply::{self, Applied, End, Spec, Unplanned};
use crate::backoff;
use crate::call::CallError;
use crate::context::Context;
use crate::observe::{self, Of};
use crate::stores::Guarded;
use crate::{certificates, events, node_usage, pod_events, status};

/// How often each app gets a pass even if nothing changed, in case a watch missed something. A
/// pass over an unchanged app normally makes no request.
const RESYNC: Duration = Duration::from_mins(5);
/// How often a stalled app gets a pass. The cause may be something that is not watched, such as an
/// object of another owner.
const STALLED: Duration = Duration::from_secs(15);

/// A pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read or written; the status reports it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Only the status could not be written.
    #[error("the status could not be written: {0}")]
    Status(#[source] CallError),
}

impl Error {
    fn call(&self) -> &CallError {
        match self {
            Self::Call(error) | Self::Status(error) => error,
        }
    }
}

/// One pass.
///
/// # Errors
/// [`Error`]; [`error_policy`] decides what follows from it.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    if !context.caller.leadership.leads() {
        // A new leader makes a pass over every app.
        return Ok(Action::await_change());
    }
    let object = match &guarded.0 {
        Ok(object) => object,
        Err(error) => {
            tracing::warn!(
                namespace = error.metadata.namespace,
                name = error.metadata.name,
                %error,
                "a ScaledApp cannot be read; if the definition is newer than this operator, upgrade the operator"
            );
            context.caller.metrics.passed("unreadable", Duration::ZERO);
            return Ok(Action::await_change());
        }
    };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    if !context.health.knows(namespace) {
        // The missing list triggers a pass over all apps when it arrives.
        tracing::debug!(namespace, "some lists of this namespace are still missing");
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    // Boxed, because its state is large and lives as long as the slowest call.
    let result = Box::pin(pass(&context, object)).await;
    let word = match &result {
        Ok(_) => "ok",
        Err(error) => error.call().result(),
    };
    context.caller.metrics.passed(word, begun.elapsed());
    if result.is_ok() {
        context.backoff.reset(&ObjectRef::from_obj(&*guarded));
    }
    result
}

/// What to do after a failed pass.
pub fn error_policy(object: &Guarded, error: &Error, context: &Context) -> Action {
    let namespace = object.namespace();
    let name = object.name_any();
    let pause = match error.call() {
        CallError::NotLeading => return Action::await_change(),
        CallError::Refused { code: 409, .. } => backoff::after_conflict(),
        CallError::Refused { .. }
        | CallError::Unreachable { .. }
        | CallError::Timeout { .. }
        | CallError::Leaving(_) => context.backoff.after_failure(ObjectRef::from_obj(object)),
    };
    tracing::warn!(
        namespace,
        name,
        error = error as &dyn std::error::Error,
        ?pause,
        "a pass failed and is repeated later"
    );
    Action::requeue(pause)
}

/// Observe, validate, plan, apply, and report the outcome. A failure in any step becomes
/// part of the plan's outcome, so that the status reports it, and is returned at the end.
async fn pass(context: &Context, object: &ScaledApp) -> Result<Action, Error> {
    let mut observed = observe::observe(context, object);
    let spec = cluster::validate(object);
    let (plan, next_events) = plan(context, object, &spec, &mut observed).await;
    let applied = apply::apply(context, object, &observed, &spec, plan).await;
    // The status also depends on how admission changed the objects of this pass.
    observed.admitted = context.admissions.of(Of::object(object).uid);
    let published = publish(context, object, &observed, &spec, &applied).await;
    next(&spec, applied, published, next_events)
}

/// The plan, or why there is no full one, and when the kubelets' events are read again.
async fn plan(
    context: &Context,
    object: &ScaledApp,
    spec: &Spec,
    observed: &mut Observed,
) -> (Result<Plan, Unplanned>, Option<Duration>) {
    let mut next_events = None;
    if let Ok(app) = spec {
        let Context {
            caller, settings, ..
        } = context;
        observed.certificate = certificates::look(&context.certificates, caller, app).await;
        node_usage::look(&context.node_usage, caller, settings, app, observed).await;
        next_events = pod_events::look(&context.pod_events, caller, &app.namespace, observed).await;
    }
    let draw = |observed: &Observed| match spec {
        Ok(app) => cluster::plan(app, observed, &context.settings),
        // The objects of the last valid spec keep serving.
        Err(_) => cluster::keep_serving(object, observed),
    };
    let plan = draw(observed);
    let of = Of::object(object);
    let plan = match observe::foreign(context, of, &observed.live, &plan.apply).await {
        Ok(foreign) if foreign.is_empty() => Ok(plan),
        Ok(foreign) => {
            observed.foreign = foreign;
            Ok(draw(observed))
        }
        // The slots must not wait for an answer about other names.
        Err(error) => Err(Unplanned {
            slots: keep_serving(object, observed),
            error,
        }),
    };
    (plan, next_events)
}

/// The plan for the slots whose `EndpointSlice` is known to belong to the app.
fn keep_serving(object: &ScaledApp, observed: &mut Observed) -> Plan {
    let slots = cluster::keep_serving(object, observed);
    observed.foreign = observe::unknown(Of::object(object), &observed.live, &slots.apply);
    cluster::keep_serving(object, observed)
}

/// When the next pass is due.
fn next(
    spec: &Spec,
    applied: Applied,
    published: Result<(), Error>,
    next_events: Option<Duration>,
) -> Result<Action, Error> {
    let (plan, end) = match applied.into_end() {
        Ok(ended) => ended,
        Err(error) => {
            if let Err(Error::Status(error)) = published {
                tracing::debug!(%error, "the status could not be written either");
            }
            return Err(error.into());
        }
    };
    published?;
    if spec.is_err() {
        // A change of a balancer triggers a pass by itself.
        let wake = plan.wake;
        return Ok(wake.map_or_else(Action::await_change, Action::requeue));
    }
    // Writing a refused object again would not help, and a changed object triggers a pass
    // by itself.
    let is_done = end == End::Done;
    let most = match plan.stalled {
        Some(_) if is_done => STALLED,
        _ => RESYNC,
    };
    let wakes = [plan.wake, next_events.filter(|_| is_done)];
    let wake = wakes.into_iter().flatten().min();
    Ok(Action::requeue(wake.map_or(most, |wake| wake.min(most))))
}

/// Writes the status and sends events. The plan's events are sent only if the whole plan was
/// carried out.
async fn publish(
    context: &Context,
    object: &ScaledApp,
    observed: &Observed,
    spec: &Spec,
    applied: &Applied,
) -> Result<(), Error> {
    let (after, changed) = status::write(&context.caller, object, observed, spec, applied)
        .await
        .map_err(Error::Status)?;
    if applied.is_done() {
        send(context, object, &applied.plan().events).await;
    }
    // The writer of the previous status may have ended before it sent the event.
    if let Some(before) = &object.status
        && context.sent.is_first_look(object)
    {
        let mut standing = cluster::events(None, before);
        standing.retain(|event| event.kind == EventType::Warning);
        send(context, object, &standing).await;
    }
    if changed {
        let flipped = cluster::events(object.status.as_ref(), &after);
        send(context, object, &flipped).await;
    }
    Ok(())
}

async fn send(context: &Context, object: &ScaledApp, events: &[cluster::Event]) {
    let now = (context.now)();
    events::send(&context.sent, &context.caller, object, events, now).await;
}
