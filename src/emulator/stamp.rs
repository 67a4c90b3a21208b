//! What a create leaves behind whatever becomes of it.

use std::sync::Arc;

use super::book::CreateStamp;

#[derive(Clone, Default)]
pub(super) struct Stamp {
    pub(super) at_ms: u64,
    pub(super) model: Option<Arc<str>>,
    pub(super) prompt: Option<Arc<str>>,
    pub(super) key: Option<Arc<str>>,
    pub(super) accepted: bool,
    pub(super) replayed: bool,
}

impl Stamp {
    pub(super) fn copied(&self) -> CreateStamp {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        CreateStamp {
            at_ms: self.at_ms,
            model: text(&self.model),
            prompt: text(&self.prompt),
            idempotency_key: text(&self.key),
            accepted: self.accepted,
            replayed: self.replayed,
        }
    }
}
