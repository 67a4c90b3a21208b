//! What every handler of the emulator needs, and the answer that most of them give.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::{Request, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::book::JobState;
use super::callbacks::Callbacks;
use super::content::Clips;
use super::door::Connections;
use super::hostile::{self, Scene};
use super::jobs::Sight;
use super::journal::Journal;
use super::script::Hostile;
use super::studio::Studio;

/// What every handler needs.
pub(super) struct Office {
    pub(super) studio: Arc<Studio>,
    pub(super) connections: Connections,
    pub(super) clips: Clips,
    pub(super) journal: Arc<Journal>,
    pub(super) callbacks: Arc<Callbacks>,
    /// `http://host:port`, no slash at the end: this provider.
    pub(super) home: String,
    /// The same of its other host, which has the files.
    pub(super) other_host: String,
    /// The emulator stops.
    pub(super) stop: CancellationToken,
}

impl Office {
    pub(super) fn json(&self, value: &Value, form: Option<Hostile>) -> Response {
        hostile::json_answer(value, form, &self.journal)
    }

    /// What a poll shows: `value`, which calls the job `id`, or what its fault makes of it.
    pub(super) fn shown(&self, (status, value): (u16, &Value), id: &str, job: &Sight, request: &Request) -> Response {
        let Some((attack, polls)) = job.attack else {
            let mut answer = self.json(value, job.hostile);
            answer.set_status(StatusCode::from_u16(status).unwrap_or_default());
            return answer;
        };
        let finished = matches!(job.state, JobState::Completed | JobState::Failed);
        let scene = Scene { status, answer: value, id, prompt: &job.order.prompt, polls, finished };
        self.attacked(attack, &scene, request)
    }

    /// Closes the connection; the answer returned here never leaves the process.
    pub(super) fn cut(&self, request: &Request) -> Response {
        if let Some(client) = request.remote_addr().as_socket_addr() {
            self.connections.cut(*client);
        }
        Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish()
    }
}

pub(super) fn json_response(text: String) -> Response {
    Response::builder().content_type("application/json").body(text)
}
