//! Answers one query and counts it; shared by UDP and TCP.

use std::sync::Arc;

use scaledapp_answers::{Outcome, Transport, Zone, answer};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Answers from the newest zone. Each task has a responder of its own, because a responder contains
/// the buffer of the answer.
#[derive(Debug)]
pub(crate) struct Responder {
    zone: watch::Receiver<Arc<Zone>>,
    metrics: Arc<Metrics>,
    random: fastrand::Rng,
    out: Vec<u8>,
}

impl Responder {
    pub(crate) fn new(zone: watch::Receiver<Arc<Zone>>, metrics: Arc<Metrics>) -> Self {
        Self {
            zone,
            metrics,
            random: fastrand::Rng::new(),
            out: Vec::new(),
        }
    }

    /// The answer, or `None` if the query must not be answered.
    pub(crate) fn respond(&mut self, query: &[u8], transport: Transport) -> Option<&[u8]> {
        let Self {
            zone,
            metrics,
            random,
            out,
        } = self;
        let outcome = answer(
            query,
            &zone.borrow(),
            transport,
            &mut || random.u64(..),
            out,
        );
        match outcome {
            Outcome::Reply(reply) => {
                metrics.replied(reply, transport);
                Some(out)
            }
            Outcome::Drop(reason) => {
                metrics.dropped(reason.as_str());
                None
            }
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

impl Clone for Responder {
    /// The clone has a random generator and a buffer of its own.
    fn clone(&self) -> Self {
        Self::new(self.zone.clone(), Arc::clone(&self.metrics))
    }
}
