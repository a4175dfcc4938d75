//! Makes calls to the API server. Each call has a timeout and is counted, and writes are made
//! only while this replica leads. [`crate::call`] defines a call and its errors.

use std::sync::Arc;

use kube::Client;

use crate::call::{CALL_TIMEOUT, Call, CallError};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// The field manager of the operator's writes, except those to events and to the Lease. It must
/// never change: the operator could no longer remove the fields that it set under the old name.
pub const FIELD_MANAGER: &str = scaledapp_crds::words::MANAGER;

/// Makes calls to the API server.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Caller {
    /// The API server.
    pub client: Client,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl Caller {
    /// Makes a call that reads.
    ///
    /// # Errors
    /// [`CallError`], never [`CallError::NotLeading`].
    pub async fn read<T>(
        &self,
        call: Call,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        let result = match tokio::time::timeout(CALL_TIMEOUT, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(CallError::new(call, error)),
            Err(_elapsed) => Err(CallError::Timeout { call }),
        };
        let word = result.as_ref().map_or_else(CallError::result, |_| "ok");
        self.metrics.called(call, word);
        result
    }

    /// Makes a call that writes, if this replica leads.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn write<T>(
        &self,
        call: Call,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        if !self.leadership.leads() {
            return Err(CallError::NotLeading);
        }
        self.read(call, request).await
    }
}
