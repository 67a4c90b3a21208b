//! Veo on the Gemini API, and on Vertex AI with a bucket and without one.

use anyhow::Context;
use freezeframe::config::{GoogleIdentity, ProviderConfig, ProviderKind, VeoConfig, VertexConfig};
use freezeframe::domain::{Secret, Size};
use freezeframe::emulator::{Emulator, SeenRequest};
use serde_json::{Value, json};

use super::{Surface, conforms};

/// A key of nothing.
const PEM: &str = include_str!("../../../src/providers/google/test_key.pem");
const MODEL: &str = "veo-3.1-generate-preview";

fn orders() -> [(u32, Size); 2] {
    [(6, Size { width: 720, height: 1280 }), (8, Size { width: 1080, height: 1920 })]
}

/// Every answer may carry a film, so that more of an endless one is looked at.
const ENDLESS: u64 = 900 << 20;

fn ordered(request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
    if !request.target.ends_with(":predictLongRunning") {
        return None;
    }
    let read = || {
        let body: Value = serde_json::from_str(&request.body)?;
        let parameters = &body["parameters"];
        let seconds = parameters["durationSeconds"].as_u64().context("no durationSeconds")?;
        let aspect = parameters["aspectRatio"].as_str().context("no aspectRatio")?;
        let resolution = parameters["resolution"].as_str().context("no resolution")?;
        anyhow::ensure!(parameters["sampleCount"] == 1, "no sampleCount");
        anyhow::ensure!(parameters.get("personGeneration").is_none(), "personGeneration without being asked");
        let size = match (aspect, resolution) {
            ("9:16", "720p") => Size { width: 720, height: 1280 },
            ("9:16", "1080p") => Size { width: 1080, height: 1920 },
            other => anyhow::bail!("{other:?}"),
        };
        Ok((u32::try_from(seconds)?, size))
    };
    Some(read())
}

struct VeoOnGemini;

impl Surface for VeoOnGemini {
    fn kind(&self) -> &'static str {
        "veo_gemini"
    }

    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig {
        let base = emulator.url("/veo/v1beta").parse().unwrap();
        let kind = ProviderKind::VeoGemini(VeoConfig::default());
        ProviderConfig { kind, ..ProviderConfig::embedded("account", base, key) }
    }

    fn model(&self) -> &'static str {
        MODEL
    }

    fn orders(&self) -> [(u32, Size); 2] {
        orders()
    }

    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
        ordered(request)
    }

    fn endless_poll_bytes(&self) -> u64 {
        ENDLESS
    }
}

struct VeoOnVertex {
    with_bucket: bool,
}

impl Surface for VeoOnVertex {
    fn kind(&self) -> &'static str {
        if self.with_bucket { "veo_vertex with a bucket" } else { "veo_vertex without a bucket" }
    }

    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig {
        let base = emulator.url("/vertex/v1").parse().unwrap();
        let vertex = VertexConfig {
            project: "a-project".to_owned(),
            location: "us-central1".to_owned(),
            identity: GoogleIdentity::Key,
            storage_uri: self.with_bucket.then(|| "gs://films/made/by-us".to_owned()),
            storage_base_url: emulator.url("/gcs").parse().unwrap(),
            generate_audio: true,
        };
        // the emulator's tokens are made of the key's id
        let service_account = json!({"client_email": "maker@a-project.example", "private_key": PEM,
            "private_key_id": key.expose(), "token_uri": emulator.url("/oauth/token")});
        let kind = ProviderKind::VeoVertex(VeoConfig::default(), vertex);
        let key = Secret::new(service_account.to_string());
        ProviderConfig { kind, ..ProviderConfig::embedded("account", base, key) }
    }

    fn model(&self) -> &'static str {
        MODEL
    }

    fn orders(&self) -> [(u32, Size); 2] {
        orders()
    }

    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
        ordered(request)
    }

    fn has_links(&self) -> bool {
        self.with_bucket
    }

    fn endless_poll_bytes(&self) -> u64 {
        ENDLESS
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn veo_on_gemini_passes_every_scenario() {
    conforms(&VeoOnGemini).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn veo_on_vertex_with_a_bucket_passes_every_scenario() {
    conforms(&VeoOnVertex { with_bucket: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn veo_on_vertex_without_a_bucket_passes_every_scenario() {
    conforms(&VeoOnVertex { with_bucket: false }).await;
}
