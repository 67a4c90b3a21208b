//! What Google's APIs have in common, whichever model is behind them: the words of their errors, and who calls.
//!
//! The words follow `google.rpc` (`status`, `ErrorInfo.reason`); the phrases of the content policy are those that
//! adapters of other people have met, since Google publishes none.

mod callback;
mod service_account;
mod tokens;

pub(super) use callback::{GoogleCallbacks, hook};
pub(super) use tokens::GoogleTokens;

use super::adapter::Vocabulary;

/// What a token may do; the only scope that Vertex AI and Cloud Storage share.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

pub(super) const VOCABULARY: Vocabulary = Vocabulary {
    moderation_phrases: &[
        "safety",
        "prohibited content",
        "prohibited use",
        "responsible ai",
        "usage guidelines",
        "content policy",
        "support codes",
    ],
    // a project without billing is refused so, at Gemini and at Vertex
    no_credit: &["FAILED_PRECONDITION", "BILLING_DISABLED"],
    wrong_key: &["API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"],
    ..Vocabulary::EMPTY
};
