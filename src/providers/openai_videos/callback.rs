//! Callbacks of the `/v1/videos` shape: one address for a whole project, registered by hand, signed as Standard Webhooks.
//!
//! `video.completed` and `video.failed` name the job as `data.id`; events of other types are for somebody else who shares
//! the project. They say of a job that it ended, never of an attempt which job is its own: the list does that here.
//! Source: OpenAI's guide "Webhooks".

use async_trait::async_trait;
use serde_json::Value;

use super::super::callbacks::{CallHead, CallbackNews, CallbackRefusal, StandardWebhooks, Vendor, job_at};

pub(in crate::providers) struct OpenaiCallbacks(pub(in crate::providers) StandardWebhooks);

#[async_trait]
impl Vendor for OpenaiCallbacks {
    fn glance(&self, head: &CallHead<'_>) -> Result<(), CallbackRefusal> {
        match head.token {
            Some(_) => Err(CallbackRefusal::NotOffered),
            None => StandardWebhooks::glance(head),
        }
    }

    async fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<Option<CallbackNews>, CallbackRefusal> {
        self.glance(head)?;
        self.0.verify(head, body)?;
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        let job = job_at(&body, &["data", "id"]).filter(|_| kind.starts_with("video."));
        let ended = matches!(kind, "video.completed" | "video.failed");
        Ok(job.map(|job| CallbackNews { job: Some(job), ended }))
    }
}
