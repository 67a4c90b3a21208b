//! The kinds of provider accounts, each with the settings that only its protocol has.
//!
//! Refuses: to read them from the file (`accounts`).

use std::path::PathBuf;

use url::Url;

use super::fal::FalConfig;

/// Which protocol an account speaks, with the settings that only this protocol has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// The `/v1/videos` shape.
    OpenaiVideos,
    /// Veo on the Gemini API.
    VeoGemini(VeoConfig),
    /// Veo on Vertex AI.
    VeoVertex(VeoConfig, VertexConfig),
    /// Gemini Omni on the Interactions API.
    GeminiOmni,
    /// The queue of fal.
    Fal(FalConfig),
}

impl ProviderKind {
    /// Every kind, as the settings name it.
    pub const NAMES: [&str; 5] = ["openai_videos", "veo_gemini", "veo_vertex", "gemini_omni", "fal"];

    /// Whether the account has a key of its own.
    pub(super) fn has_key(&self) -> bool {
        match self {
            ProviderKind::OpenaiVideos
            | ProviderKind::VeoGemini(_)
            | ProviderKind::GeminiOmni
            | ProviderKind::Fal(_) => true,
            ProviderKind::VeoVertex(_, vertex) => vertex.identity == GoogleIdentity::Key,
        }
    }
}

/// What both flavours of Veo may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VeoConfig {
    /// `personGeneration`; what is allowed depends on the place and the account, so that without it nothing is sent.
    pub person_generation: Option<String>,
    /// The same for orders with a reference image, for which other words are allowed.
    pub person_generation_with_image: Option<String>,
}

/// Where Veo runs in Google's cloud, and as whom it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexConfig {
    pub project: String,
    /// Such as `us-central1`.
    pub location: String,
    pub identity: GoogleIdentity,
    /// `gs://bucket/prefix` for the finished files, without a slash at the end. Without it they come inside of the
    /// answers, and a submission whose answer was lost cannot be found.
    pub storage_uri: Option<String>,
    /// Where the bucket is read: `https://storage.googleapis.com`.
    pub storage_base_url: Url,
    pub generate_audio: bool,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoogleIdentity {
    /// A service account: the account's key is the JSON text of its key file.
    Key,
    /// A service account: the JSON file of its key.
    KeyFile(PathBuf),
    /// The machine's own account, asked for at the metadata server.
    Metadata,
}
