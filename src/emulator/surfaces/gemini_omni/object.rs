//! An interaction, as a poll shows it.

use chrono::DateTime;
use serde_json::{Value, json};

use super::super::super::book::JobState;
use super::super::super::jobs::Sight;

/// `film` is what a finished interaction shows of its output: a content part.
pub(super) fn interaction(job: &Sight, film: Option<Value>) -> Value {
    let prompt = json!({"type": "user_input", "content": [{"type": "text", "text": &*job.order.prompt}]});
    let mut steps = vec![prompt];
    if job.state == JobState::Completed {
        steps.extend(film.map(|film| json!({"type": "model_output", "content": [film]})));
    }
    if is_refused(job) {
        let words = json!({"type": "text", "text": "I cannot make this video. Please try another idea."});
        steps.push(json!({"type": "model_output", "content": [words]}));
    }
    let mut interaction = json!({
        "id": &*job.id,
        "object": "interaction",
        "model": &*job.order.model,
        "status": status_word(job),
        "created": moment(job.created_ms),
        "updated": moment(job.created_ms),
        "steps": steps,
    });
    if job.state == JobState::Failed && !job.moderated && !job.cancelled {
        interaction["errors"] = json!([{"code": "internal", "message": "The video could not be generated."}]);
    }
    interaction
}

/// A refusal of the policy does not fail: it completes, with words.
fn is_refused(job: &Sight) -> bool {
    job.state == JobState::Failed && job.moderated && !job.cancelled
}

fn status_word(job: &Sight) -> &'static str {
    match job.state {
        _ if job.odd_word => "post_processing",
        _ if job.cancelled => "cancelled",
        _ if is_refused(job) => "completed",
        JobState::Completed => "completed",
        JobState::Failed => "failed",
        JobState::Queued => "queued",
        JobState::InProgress => "in_progress",
    }
}

fn moment(ms: u64) -> Option<String> {
    let at = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis)?;
    Some(at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}
