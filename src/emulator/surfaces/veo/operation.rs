//! An operation as a poll shows it.

use serde_json::{Value, json};

use super::super::super::book::JobState;
use super::super::super::jobs::Sight;
use super::super::super::office::Office;
use super::super::google::{inline_film, object_uri};

/// `google.rpc.Code` INTERNAL.
const INTERNAL: u32 = 13;

pub(super) fn of_gemini(name: &str, id: &str, job: &Sight, office: &Office) -> Value {
    let response = |result: Value| {
        let kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse";
        json!({"name": name, "done": true, "response": {"@type": kind, "generateVideoResponse": result}})
    };
    match job.state {
        JobState::Queued | JobState::InProgress => json!({ "name": name }),
        JobState::Failed if job.moderated => response(filtered()),
        JobState::Failed => failed(name),
        JobState::Completed => {
            let uri = format!("{}/veo/v1beta/files/{id}:download?alt=media", office.home);
            response(json!({"generatedSamples": [{"video": {"uri": uri}}]}))
        }
    }
}

pub(super) async fn of_vertex(name: &str, job: &Sight, office: &Office) -> poem::Result<Value> {
    let response = |mut result: Value| {
        result["@type"] = json!("type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse");
        json!({"name": name, "done": true, "response": result})
    };
    Ok(match job.state {
        JobState::Queued | JobState::InProgress => json!({ "name": name }),
        JobState::Failed if job.moderated => response(filtered()),
        JobState::Failed => failed(name),
        JobState::Completed => {
            let mut video = json!({"mimeType": "video/mp4"});
            match object_uri(job) {
                Some(uri) => video["gcsUri"] = json!(uri),
                None => video["bytesBase64Encoded"] = json!(inline_film(job, office).await?),
            }
            response(json!({"raiMediaFilteredCount": 0, "videos": [video]}))
        }
    })
}

fn filtered() -> Value {
    json!({"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [
        "We filtered 1 of the generated videos because of our usage guidelines. You were not charged for it."]})
}

fn failed(name: &str) -> Value {
    let error = json!({"code": INTERNAL, "message": "Video generation failed due to an internal server issue."});
    json!({"name": name, "done": true, "error": error})
}
