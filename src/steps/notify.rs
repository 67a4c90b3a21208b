//! Notify: one delivery of an event to its address; retried over days, every attempt logged.

use std::sync::Arc;

use freezeframe_workflows::webhook::{self, DeliveryNext};
use rand::RngExt;

use super::Studio;
use crate::domain::DeliveryId;
use crate::engine::queue::{self, Job, RunAt};
use crate::metrics;
use crate::webhooks;

/// Delivers what the job names. The attempt and what follows from it are recorded together; a crash in between sends the
/// event again, which the receiver recognises by its id.
pub async fn notify(studio: Arc<Studio>, job: Job) {
    let Ok(delivery) = DeliveryId::from_bare(&job.id().to_string()) else { return };
    if let Err(error) = deliver(&studio, delivery, job).await {
        tracing::warn!(%delivery, %error, "a webhook delivery was not recorded; its job goes back to the queue");
    }
}

async fn deliver(studio: &Studio, delivery: DeliveryId, job: Job) -> Result<(), sqlx::Error> {
    let due = webhooks::due(&mut *studio.db.pool().acquire().await?, delivery).await?;
    let (ticket, worker) = (job.ticket(), job.worker().to_owned());
    let Some(due) = due else {
        queue::ack(&mut *studio.db.pool().acquire().await?, &worker, &[ticket]).await?;
        job.settled();
        return Ok(());
    };
    let attempt = Arc::new(studio.courier.deliver(&due).await);
    let jitter = rand::rng().random_range(0..=1000);
    let next = webhook::next(attempt.end, due.deliveries_made + 1, jitter, attempt.retry_after_secs);
    studio
        .db
        .act("record webhook attempt", move |tx| {
            let (attempt, worker) = (attempt.clone(), worker.clone());
            Box::pin(async move {
                let again_in_secs = webhooks::record_attempt(tx, &attempt, next).await?;
                queue::ack(tx, &worker, &[ticket]).await?;
                if let Some(secs) = again_in_secs {
                    queue::push(tx, queue::names::NOTIFY, &[delivery.ulid()], RunAt::InSecs(secs)).await?;
                }
                Ok::<_, sqlx::Error>(())
            })
        })
        .await?;
    job.settled();
    metrics::webhook_attempt(match next {
        DeliveryNext::Delivered => "delivered",
        DeliveryNext::BackOff { .. } => "retry",
        DeliveryNext::GiveUp | DeliveryNext::Disable => "given_up",
    });
    Ok(())
}
