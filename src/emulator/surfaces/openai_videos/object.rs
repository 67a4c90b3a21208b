//! The protocol's video object.

use serde_json::{Map, Value, json};

use super::super::super::book::JobState;
use super::super::super::jobs::Sight;

pub(super) fn video_object(job: &Sight) -> Value {
    let finished = matches!(job.state, JobState::Completed | JobState::Failed);
    let completed_at = finished.then_some(job.done_ms / 1000);
    let expires_at = (job.state == JobState::Completed).then_some(job.expires_ms / 1000);
    let error = (job.state == JobState::Failed).then(|| failure(job));
    let mut video = Map::new();
    video.insert("id".into(), json!(&*job.id));
    video.insert("object".into(), json!("video"));
    video.insert("model".into(), json!(&*job.order.model));
    video.insert("status".into(), json!(status_word(job)));
    video.insert("progress".into(), json!(job.progress));
    video.insert("created_at".into(), json!(job.created_ms / 1000));
    video.insert("completed_at".into(), json!(completed_at));
    video.insert("expires_at".into(), json!(expires_at));
    video.insert("prompt".into(), json!(&*job.order.prompt));
    video.insert("size".into(), json!(&*job.order.size));
    video.insert("seconds".into(), json!(job.order.seconds.to_string()));
    video.insert("remixed_from_video_id".into(), Value::Null);
    video.insert("error".into(), json!(error));
    if job.sparse {
        video.retain(|_, value| !value.is_null());
    }
    Value::Object(video)
}

fn status_word(job: &Sight) -> &'static str {
    match job.state {
        _ if job.odd_word => "post_processing",
        JobState::Completed => "completed",
        JobState::Failed => "failed",
        JobState::Queued => "queued",
        JobState::InProgress => "in_progress",
    }
}

fn failure(job: &Sight) -> Value {
    match job.moderated {
        true => json!({
            "code": "moderation_blocked",
            "message": "The request was blocked by the content policy.",
        }),
        false => json!({
            "code": "video_generation_failed",
            "message": "The video could not be generated because of an internal error.",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::jobs::Order;
    use super::*;

    fn sight(state: JobState) -> Sight {
        Sight {
            id: "video_1".into(),
            order: Order {
                model: "sora-2".into(),
                prompt: "a fox".into(),
                size: "1280x720".into(),
                seconds: 4,
                destination: None,
                image_sha256: None,
            },
            state,
            moderated: true,
            cancelled: false,
            odd_word: false,
            progress: 50,
            created_ms: 5_000_000,
            done_ms: 5_001_000,
            expires_ms: 5_061_000,
            sparse: false,
            hostile: None,
            callback: None,
            attack: None,
        }
    }

    #[test]
    fn a_finished_video_tells_when_it_was_made_and_when_it_goes() {
        let done = video_object(&sight(JobState::Completed));
        assert_eq!((&done["completed_at"], &done["expires_at"]), (&json!(5_001), &json!(5_061)));
        assert_eq!((&done["seconds"], &done["error"]), (&json!("4"), &Value::Null));
        let failed = video_object(&sight(JobState::Failed));
        assert_eq!((&failed["error"]["code"], &failed["expires_at"]), (&json!("moderation_blocked"), &Value::Null));
    }

    #[test]
    fn a_sparse_object_leaves_out_exactly_the_null_keys() {
        let full = video_object(&sight(JobState::Queued));
        let sparse = video_object(&Sight { sparse: true, ..sight(JobState::Queued) });
        assert_eq!((full.as_object().unwrap().len(), sparse.as_object().unwrap().len()), (13, 9));
        assert!(sparse.as_object().unwrap().iter().all(|(key, value)| &full[key] == value));
    }
}
