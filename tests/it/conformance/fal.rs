//! The queue of fal.

use anyhow::{Context, bail};
use freezeframe::config::{FalConfig, ProviderConfig, ProviderKind};
use freezeframe::domain::{Secret, Size};
use freezeframe::emulator::{Emulator, SeenRequest};
use serde_json::Value;

use super::{Surface, conforms};

const INPUTS: &str = r#"
"fal-ai/veo3.1" = { duration = "{seconds}s", aspect_ratio = "{aspect_ratio}", resolution = "{resolution}", image_url = "{image}" }
"#;

struct FalSurface;

impl Surface for FalSurface {
    fn kind(&self) -> &'static str {
        "fal"
    }

    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig {
        let base = emulator.url("/fal").parse().unwrap();
        let kind = ProviderKind::Fal(FalConfig::from_inputs(&INPUTS.parse().unwrap()).unwrap());
        ProviderConfig { kind, ..ProviderConfig::embedded("account", base, key) }
    }

    fn model(&self) -> &'static str {
        "fal-ai/veo3.1/fast"
    }

    fn orders(&self) -> [(u32, Size); 2] {
        [(4, Size { width: 1920, height: 1080 }), (6, Size { width: 720, height: 1280 })]
    }

    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
        (request.method == "POST" && request.target.starts_with("/fal/")).then(|| read(&request.body))
    }
}

fn read(body: &str) -> anyhow::Result<(u32, Size)> {
    let body: Value = serde_json::from_str(body)?;
    let said = |key: &str| body[key].as_str().with_context(|| format!("no {key} in {body}"));
    let seconds = said("duration")?.strip_suffix('s').context("no unit")?.parse()?;
    let size = match (said("aspect_ratio")?, said("resolution")?) {
        ("9:16", "720p") => Size { width: 720, height: 1280 },
        ("16:9", "1080p") => Size { width: 1920, height: 1080 },
        other => bail!("{other:?} was not ordered"),
    };
    Ok((seconds, size))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fal_passes_every_scenario() {
    conforms(&FalSurface).await;
}
