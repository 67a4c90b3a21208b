//! What every handler of the emulator needs, and the answer that most of them give.

use std::sync::Arc;

use poem::Response;

use super::content::Clips;
use super::door::Connections;
use super::studio::Studio;

/// What every handler needs.
pub(super) struct Office {
    pub(super) studio: Arc<Studio>,
    pub(super) connections: Connections,
    pub(super) clips: Clips,
}

impl Office {
    pub(super) fn new(studio: Arc<Studio>, connections: Connections) -> Arc<Self> {
        Arc::new(Office { studio, connections, clips: Clips::default() })
    }
}

pub(super) fn json_response(text: String) -> Response {
    Response::builder().content_type("application/json").body(text)
}
