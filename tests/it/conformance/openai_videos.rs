//! The `/v1/videos` shape.

use anyhow::Context;
use freezeframe::config::ProviderConfig;
use freezeframe::domain::{Secret, Size};
use freezeframe::emulator::{Emulator, SeenRequest};

use super::{Surface, conforms};

pub struct OpenaiVideosSurface;

impl Surface for OpenaiVideosSurface {
    fn kind(&self) -> &'static str {
        "openai_videos"
    }

    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig {
        ProviderConfig::embedded("account", emulator.base_url().parse().unwrap(), key)
    }

    fn account_with_keys(&self, emulator: &Emulator, key: Secret) -> Option<ProviderConfig> {
        Some(ProviderConfig { idempotency_key: true, ..self.account(emulator, key) })
    }

    fn model(&self) -> &'static str {
        "sora-2-pro"
    }

    fn orders(&self) -> [(u32, Size); 2] {
        [(8, Size { width: 1280, height: 720 }), (12, Size { width: 1792, height: 1024 })]
    }

    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
        if request.method != "POST" || request.target != "/v1/videos" {
            return None;
        }
        let field = |name: &str| {
            let (_, rest) = request.body.split_once(&format!("name=\"{name}\"\r\n\r\n"))?;
            Some(rest.split("\r\n").next()?.to_owned())
        };
        let read = || {
            let seconds = field("seconds").context("no seconds")?.parse()?;
            let size = field("size").context("no size")?.parse().ok().context("no size that can be read")?;
            Ok((seconds, size))
        };
        Some(read())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_videos_passes_every_scenario() {
    conforms(&OpenaiVideosSurface).await;
}
