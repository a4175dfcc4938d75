//! A call to the API server: its name, how long it may take, and how it can fail.
//! [`crate::api`] makes calls.

use std::time::Duration;

use kube::core::Status;
use scaledapp_plan::cluster::{Cause, ObjectKey};

/// How long a call may take; after that, it counts as failed. Together with
/// [`crate::lease::GRACE`] this is less than [`crate::lease::DURATION`], so that a hung write
/// ends before another replica writes.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The name of a call, for errors and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// `get`, `apply`, `delete`, …
    pub verb: &'static str,
    /// The kind of object.
    pub kind: &'static str,
}

impl Call {
    /// A call.
    pub const fn new(verb: &'static str, kind: &'static str) -> Self {
        Self { verb, kind }
    }
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server refused the call.
    #[error("cannot {} a {}: {message}", .call.verb, .call.kind)]
    Refused {
        /// What was called.
        call: Call,
        /// HTTP code.
        code: u16,
        /// The API server's message.
        message: String,
        /// The fields that the API server names, and what is wrong with them.
        causes: Vec<Cause>,
    },
    /// The API server could not be reached, or its answer could not be read.
    #[error("cannot {} a {}: the API server cannot be reached", .call.verb, .call.kind)]
    Unreachable {
        /// What was called.
        call: Call,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// There was no answer in time.
    #[error("cannot {} a {}: the API server did not answer within {CALL_TIMEOUT:?}", .call.verb, .call.kind)]
    Timeout {
        /// What was called.
        call: Call,
    },
    /// An object of an earlier app of the same name is still being removed.
    #[error("a {:?} named {} belongs to an earlier ScaledApp of this name and is being removed: wait a moment", .0.kind, .0.name)]
    Leaving(ObjectKey),
    /// This replica is not the leader.
    #[error("another replica has become the leader")]
    NotLeading,
}

/// The causes of a refusal. They are in its details if the object is invalid, and in its
/// message if the object does not fit the schema.
fn causes(status: &Status) -> Vec<Cause> {
    if status.code != 422 {
        return Cause::of_apply(&status.message);
    }
    let details = status.details.iter();
    let causes = details.flat_map(|details| &details.causes);
    let causes = causes.map(|cause| Cause {
        field: cause.field.clone(),
        message: cause.message.clone(),
    });
    causes.collect()
}

impl CallError {
    /// Classifies an error of the client.
    pub fn new(call: Call, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                call,
                code: status.code,
                message: status.message.clone(),
                causes: causes(&status),
            },
            source => Self::Unreachable {
                call,
                source: Box::new(source),
            },
        }
    }

    /// A copy of a refusal, for an object that is not written again for a while; `None` if
    /// another attempt may succeed.
    pub fn repeated(&self) -> Option<Self> {
        match self {
            Self::Refused {
                call,
                code,
                message,
                causes,
            } if matches!(code, 400 | 403 | 422) || !causes.is_empty() => Some(Self::Refused {
                call: *call,
                code: *code,
                message: message.clone(),
                causes: causes.clone(),
            }),
            _ => None,
        }
    }

    /// The HTTP status of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the API server answered and refused this object only, so that other calls
    /// may succeed.
    pub fn is_about_this_object(&self) -> bool {
        matches!(self.code(), Some(400..=428 | 430..=499)) || !self.causes().is_empty()
    }

    /// What is wrong with the object, and where.
    pub fn causes(&self) -> Vec<Cause> {
        match self {
            Self::Refused { causes, .. } => causes.clone(),
            _ => Vec::new(),
        }
    }

    /// The value of the label `result`, from a fixed set.
    pub fn result(&self) -> &'static str {
        match self {
            Self::Refused { code: 409, .. } => "conflict",
            Self::Refused { code: 403, .. } => "forbidden",
            Self::Refused { code: 404, .. } => "not_found",
            Self::Refused {
                code: 400..=499, ..
            } => "refused",
            Self::Refused { .. } => "server_error",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Leaving(_) => "leaving",
            Self::NotLeading => "not_leading",
        }
    }
}
