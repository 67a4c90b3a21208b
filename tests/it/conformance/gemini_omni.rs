//! Gemini Omni on the Interactions API.

use anyhow::{Context, ensure};
use freezeframe::config::{ProviderConfig, ProviderKind};
use freezeframe::domain::{Secret, Size};
use freezeframe::emulator::{Emulator, SeenRequest};
use serde_json::Value;

use super::{Surface, conforms};

struct GeminiOmniSurface {
    /// Films come inside of the answers, although a link is asked for.
    inline: bool,
}

impl GeminiOmniSurface {
    fn prefix(&self) -> &'static str {
        if self.inline { "/omni-inline/v1beta" } else { "/omni/v1beta" }
    }
}

impl Surface for GeminiOmniSurface {
    fn kind(&self) -> &'static str {
        if self.inline { "gemini_omni, inline" } else { "gemini_omni" }
    }

    fn has_links(&self) -> bool {
        !self.inline
    }

    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig {
        let base = emulator.url(self.prefix()).parse().unwrap();
        ProviderConfig { kind: ProviderKind::GeminiOmni, ..ProviderConfig::embedded("account", base, key) }
    }

    fn model(&self) -> &'static str {
        "gemini-omni-1.1-flash"
    }

    fn orders(&self) -> [(u32, Size); 2] {
        [(8, Size { width: 1920, height: 1080 }), (4, Size { width: 720, height: 1280 })]
    }

    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>> {
        let is_create = request.method == "POST" && request.target == format!("{}/interactions", self.prefix());
        is_create.then(|| read(&request.body))
    }

    /// A poll may have a film in it, so that more is taken of it than of a mere status.
    fn endless_poll_bytes(&self) -> u64 {
        128 << 20
    }
}

fn read(body: &str) -> anyhow::Result<(u32, Size)> {
    let body: Value = serde_json::from_str(body)?;
    ensure!(body["background"] == true && body["store"] == true, "it would block: {body}");
    let format = &body["response_format"];
    let said = |key: &str| format[key].as_str().with_context(|| format!("no {key} in {body}"));
    ensure!(said("delivery")? == "uri", "{body}");
    let seconds = said("duration")?.strip_suffix('s').context("no Duration")?.parse()?;
    let size = match (said("aspect_ratio")?, said("resolution")?) {
        ("9:16", "720p") => Size { width: 720, height: 1280 },
        ("16:9", "1080p") => Size { width: 1920, height: 1080 },
        other => anyhow::bail!("{other:?} was not ordered"),
    };
    Ok((seconds, size))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_omni_passes_every_scenario() {
    conforms(&GeminiOmniSurface { inline: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_omni_with_films_inside_of_its_answers_passes_every_scenario() {
    conforms(&GeminiOmniSurface { inline: true }).await;
}
