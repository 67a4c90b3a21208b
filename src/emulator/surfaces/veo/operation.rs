//! An operation as a poll shows it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::super::book::JobState;
use super::super::super::content;
use super::super::super::jobs::{Sight, Spoil};
use super::super::super::office::Office;
use super::super::google::object_uri;

/// `google.rpc.Code` INTERNAL.
const INTERNAL: u32 = 13;
const PAGE: &str = "<!doctype html><html><body>Please sign in.</body></html>";

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

/// The film as base64; what spoils a download spoils it too, as far as a text can be spoiled.
async fn inline_film(job: &Sight, office: &Office) -> poem::Result<String> {
    let Ok(download) = office.studio.download(&job.id, true) else { return Ok(String::new()) };
    Ok(match download.spoil {
        Spoil::Empty => String::new(),
        Spoil::Html => STANDARD.encode(PAGE),
        Spoil::Short => {
            let film = content::clip_of(&download, &office.clips).await?;
            STANDARD.encode(&film[..film.len() / 2])
        }
        _ => STANDARD.encode(content::clip_of(&download, &office.clips).await?),
    })
}
