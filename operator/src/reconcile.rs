//! One pass over one app: observe, validate, plan, apply, and always the status.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::Violation;
use scaledapp_plan::cluster::{self, App, EventType, Failed, Observed, Outcome, Plan};
use tokio::time::Instant;

use crate::apply::{self, NotApplied};
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

async fn pass(context: &Context, object: &ScaledApp) -> Result<Action, Error> {
    let mut observed = observe::observe(context, object);
    let app = match cluster::validate(object) {
        Ok(app) => app,
        Err(violations) => return invalid(context, object, observed, &violations).await,
    };
    let Context {
        caller, settings, ..
    } = context;
    rooms::look(&context.rooms, caller, settings, &app, &mut observed).await;
    let waits = waits::look(&context.waits, caller, &app.namespace, &mut observed).await;
    let mut plan = cluster::plan(&app, &observed, &context.settings);
    let of = Of::object(object);
    match observe::foreign(context, of, &observed.live, &plan.apply).await {
        Ok(foreign) if foreign.is_empty() => {}
        Ok(foreign) => {
            observed.foreign = foreign;
            plan = cluster::plan(&app, &observed, &context.settings);
        }
        Err(error) => {
            // Where addresses lead must not wait for an answer about other names.
            if error.is_about_this_object() {
                let slots = keep_serving(object, &mut observed);
                let kept = apply::apply(context, of, &observed, &slots).await;
                if let Err(NotApplied { error, .. }) = kept {
                    tracing::debug!(%error, "the slots could not be kept up");
                }
            }
            let nothing = Plan::default();
            return failed(context, object, &observed, (&app, &nothing), error).await;
        }
    }
    if let Err(failure) = apply::apply(context, of, &observed, &plan).await {
        let causes = failure.error.causes();
        if let Some(stalled) = cluster::refused(&app, &plan, &failure.name, &causes) {
            plan.stalled = Some(stalled);
            return refused(context, object, &observed, (&app, &plan)).await;
        }
        return failed(context, object, &observed, (&app, &plan), failure.error).await;
    }
    let outcome = Outcome::Applied(&app, &plan);
    tell(context, object, &observed, outcome, &plan).await?;
    let wakes = [plan.wake, waits, Some(RESYNC)];
    let wake = wakes.into_iter().flatten().min().unwrap_or(RESYNC);
    Ok(Action::requeue(match plan.stalled {
        Some(_) => wake.min(STALLED),
        None => wake,
    }))
}

/// Where slots lead, of slots whose `EndpointSlice` is known to be the app's own.
fn keep_serving(object: &ScaledApp, observed: &mut Observed) -> Plan {
    let slots = cluster::keep_serving(object, observed);
    observed.foreign = observe::unknown(Of::object(object), &observed.live, &slots.apply);
    cluster::keep_serving(object, observed)
}

/// What was made of an earlier, better spec keeps serving.
async fn invalid(
    context: &Context,
    object: &ScaledApp,
    mut observed: Observed,
    violations: &[Violation],
) -> Result<Action, Error> {
    let of = Of::object(object);
    let mut plan = cluster::keep_serving(object, &observed);
    let foreign = observe::foreign(context, of, &observed.live, &plan.apply).await;
    let mut applied = Ok(());
    match foreign {
        Ok(foreign) => {
            observed.foreign = foreign;
            plan = cluster::keep_serving(object, &observed);
        }
        Err(error) => {
            plan = keep_serving(object, &mut observed);
            applied = Err(NotApplied::from(error));
        }
    }
    applied = applied.and(apply::apply(context, of, &observed, &plan).await.map(drop));
    let outcome = Outcome::Invalid(violations);
    let told = tell(context, object, &observed, outcome, &plan).await;
    applied.map_err(|failure| failure.error)?;
    told?;
    // Slots follow their balancers, of which word comes by itself.
    Ok(match plan.wake {
        Some(wake) => Action::requeue(wake),
        None => Action::await_change(),
    })
}

/// The API server does not want what the object says: to ask it again helps nobody,
/// and another object asks by itself.
async fn refused(
    context: &Context,
    object: &ScaledApp,
    observed: &Observed,
    (app, plan): (&App, &Plan),
) -> Result<Action, Error> {
    let stalled = plan.stalled.as_ref();
    let failed = Failed {
        why: stalled.map_or("", |stalled| &stalled.message),
        refused: false,
    };
    let outcome = Outcome::Failed(app, plan, failed);
    tell(context, object, observed, outcome, &Plan::default()).await?;
    let wake = plan.wake.unwrap_or(RESYNC).min(RESYNC);
    Ok(Action::requeue(wake))
}

async fn failed(
    context: &Context,
    object: &ScaledApp,
    observed: &Observed,
    (app, plan): (&App, &Plan),
    error: CallError,
) -> Result<Action, Error> {
    let sentence = error.to_string();
    let failed = Failed {
        why: &sentence,
        // Somebody else wrote in between: the next try may succeed.
        refused: error.is_about_this_object() && error.code() != Some(409),
    };
    let outcome = Outcome::Failed(app, plan, failed);
    // Of what was planned, events tell once it is done.
    let told = tell(context, object, observed, outcome, &Plan::default()).await;
    if let Err(Error::Status(error)) = told {
        tracing::debug!(%error, "the status is not written either");
    }
    Err(error.into())
}

/// Status and events; those of the plan only after what they speak of.
async fn tell(
    context: &Context,
    object: &ScaledApp,
    observed: &Observed,
    outcome: Outcome<'_>,
    plan: &Plan,
) -> Result<(), Error> {
    let after = cluster::status(object, observed, outcome);
    let changed = status::write(&context.caller, object, &after)
        .await
        .map_err(Error::Status)?;
    let send = async |events: &[cluster::Event]| {
        let now = (context.now)();
        events::send(&context.sent, &context.caller, object, events, now).await;
    };
    send(&plan.events).await;
    // Whoever wrote the status before us may have ended before it told of it.
    if let Some(before) = &object.status
        && context.sent.is_first_look(object)
    {
        let mut standing = cluster::events(None, before);
        standing.retain(|event| event.kind == EventType::Warning);
        send(&standing).await;
    }
    if changed {
        let flipped = cluster::events(object.status.as_ref(), &after);
        send(&flipped).await;
    }
    Ok(())
}
