//! Callbacks of the `/v1/videos` shape: one address for a whole project, registered by hand, signed as Standard Webhooks.
//!
//! `video.completed` and `video.failed` name the job as `data.id`; events of other types are for somebody else who shares
//! the project. They say of a job that it ended, never of an attempt which job is its own: the list does that here.
//! Source: OpenAI's guide "Webhooks".

use async_trait::async_trait;
use serde_json::Value;

use super::super::callbacks::{CallbackNews, CallbackRefusal, Delivery, StandardWebhooks, Vendor, job_at};

pub(in crate::providers) struct OpenaiCallbacks(pub(in crate::providers) StandardWebhooks);

#[async_trait]
impl Vendor for OpenaiCallbacks {
    async fn verify(&self, call: &Delivery<'_>) -> Result<Option<CallbackNews>, CallbackRefusal> {
        if call.token.is_some() {
            return Err(CallbackRefusal::NotOffered);
        }
        self.0.verify(call)?;
        let body: Value = serde_json::from_slice(call.body).unwrap_or_default();
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        let job = job_at(&body, &["data", "id"]).filter(|_| kind.starts_with("video."));
        let ended = matches!(kind, "video.completed" | "video.failed");
        Ok(job.map(|job| CallbackNews { job: Some(job), ended }))
    }
}
