//! One pass over one app: observe, validate, plan, apply, and always the status.

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
use crate::{events, rooms, status, waits};

/// A look at everything though nothing changed, in case a watch missed it. Of
/// an app that is as it should be it costs no request.
const RESYNC: Duration = Duration::from_mins(5);
/// What stands in the way may be something that is not watched, such as an
/// object of somebody else.
const STALLED: Duration = Duration::from_secs(15);

/// A pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something was not read or written; the status says so.
    #[error(transparent)]
    Call(#[from] CallError),
    /// All was written but the status.
    #[error("the status is not written: {0}")]
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
/// [`Error`]; what follows from it is for [`error_policy`] to say.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    if !context.caller.leadership.leads() {
        // Whoever begins to lead looks at all of them.
        return Ok(Action::await_change());
    }
    let object = match &guarded.0 {
        Ok(object) => object,
        Err(error) => {
            tracing::warn!(
                namespace = error.metadata.namespace,
                name = error.metadata.name,
                %error,
                "a ScaledApp cannot be read: is the definition newer than this operator?"
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
        // The list that is missing asks for a pass over all apps.
        tracing::debug!(namespace, "not all is known of this namespace yet");
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    let result = pass(&context, object).await;
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
        "a pass failed; it is tried again"
    );
    Action::requeue(pause)
}

/// Observe, validate, plan, apply, and say how it went. A failure anywhere on the way is in
/// what has become of the plan, so that the status tells of it, and is returned at the end.
async fn pass(context: &Context, object: &ScaledApp) -> Result<Action, Error> {
    let mut observed = observe::observe(context, object);
    let spec = cluster::validate(object);
    let (plan, look_again) = plan(context, object, &spec, &mut observed).await;
    let applied = apply::apply(context, object, &observed, &spec, plan).await;
    let told = tell(context, object, &observed, &spec, &applied).await;
    next(&spec, applied, told, look_again)
}

/// The plan, or why there is none, and when kubelets are asked again.
async fn plan(
    context: &Context,
    object: &ScaledApp,
    spec: &Spec,
    observed: &mut Observed,
) -> (Result<Plan, Unplanned>, Option<Duration>) {
    let mut look_again = None;
    if let Ok(app) = spec {
        let Context {
            caller, settings, ..
        } = context;
        rooms::look(&context.rooms, caller, settings, app, observed).await;
        look_again = waits::look(&context.waits, caller, &app.namespace, observed).await;
    }
    let draw = |observed: &Observed| match spec {
        Ok(app) => cluster::plan(app, observed, &context.settings),
        // What was made of an earlier, better spec keeps serving.
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
        // Where addresses lead must not wait for an answer about other names.
        Err(error) => Err(Unplanned {
            slots: keep_serving(object, observed),
            error,
        }),
    };
    (plan, look_again)
}

/// Where slots lead, of slots whose `EndpointSlice` is known to be the app's own.
fn keep_serving(object: &ScaledApp, observed: &mut Observed) -> Plan {
    let slots = cluster::keep_serving(object, observed);
    observed.foreign = observe::unknown(Of::object(object), &observed.live, &slots.apply);
    cluster::keep_serving(object, observed)
}

/// When to look again.
fn next(
    spec: &Spec,
    applied: Applied,
    told: Result<(), Error>,
    look_again: Option<Duration>,
) -> Result<Action, Error> {
    let (plan, end) = match applied.into_end() {
        Ok(ended) => ended,
        Err(error) => {
            if let Err(Error::Status(error)) = told {
                tracing::debug!(%error, "the status is not written either");
            }
            return Err(error.into());
        }
    };
    told?;
    if spec.is_err() {
        // Slots follow their balancers, and a change of those comes by itself.
        let wake = plan.wake;
        return Ok(wake.map_or_else(Action::await_change, Action::requeue));
    }
    // To ask again about what is refused helps nobody, and another object asks by itself.
    let is_done = end == End::Done;
    let most = match plan.stalled {
        Some(_) if is_done => STALLED,
        _ => RESYNC,
    };
    let wakes = [plan.wake, look_again.filter(|_| is_done)];
    let wake = wakes.into_iter().flatten().min();
    Ok(Action::requeue(wake.map_or(most, |wake| wake.min(most))))
}

/// Status and events; those of the plan only after what they speak of.
async fn tell(
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
    // Whoever wrote the status before us may have ended before it told of it.
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
