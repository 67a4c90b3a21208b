//! The provider accounts of the settings.
//!
//! Always holds: a key never stands in the file; the file names the environment variable that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::Value;
use url::Url;

use super::callbacks::{self, CallbackConfig};
use super::fal;
use super::kinds::{GoogleIdentity, ProviderKind, VeoConfig, VertexConfig};
use super::models::ModelConfig;
use super::reader::{Reader, Section};
use super::sections::rate;
use crate::domain::Secret;

/// One `[[provider]]`: an account at a video provider.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    pub name: String,
    pub kind: ProviderKind,
    /// Up to and including the version, such as `https://api.example.com/v1`.
    pub base_url: Url,
    /// The variable that holds the key; `None` when code gave the key.
    pub api_key_env: Option<String>,
    /// The key; `None` when its variable is not set here, which only a process that calls the provider minds.
    pub api_key: Option<Secret>,
    pub requests_per_minute: u32,
    pub max_in_flight: u32,
    /// What the videos may cost, in credits, that begin in any window of this length.
    pub spend: Option<(u32, Duration)>,
    /// The pause between two looks at one job.
    pub poll_interval: Duration,
    /// Whether the account can list its jobs: the only way to find a submission whose answer was lost.
    pub can_list: bool,
    /// Whether the same idempotency key is answered by the same job: a repeated order buys nothing then.
    pub idempotency_key: bool,
    pub callbacks: CallbackConfig,
}

impl ProviderConfig {
    /// Whether callbacks of this account are taken at an installation that the world reaches at `public_url`.
    pub fn takes_callbacks(&self, public_url: &Url) -> bool {
        self.callbacks.are_taken((&self.kind, &self.base_url), public_url)
    }

    /// Where the keys are that sign this account's per-request callbacks; `None` when it has none.
    pub fn callback_keys_url(&self) -> Option<Url> {
        self.callbacks.keys_of((&self.kind, &self.base_url))
    }

    /// An account whose key is given by code: a provider on loopback, for the demo, tests and benches.
    pub fn embedded(name: &str, base_url: Url, key: Secret) -> ProviderConfig {
        ProviderConfig {
            name: name.to_owned(),
            kind: ProviderKind::OpenaiVideos,
            base_url,
            api_key_env: None,
            api_key: Some(key),
            requests_per_minute: 60_000,
            max_in_flight: 10_000,
            spend: None,
            poll_interval: Duration::from_millis(250),
            can_list: true,
            idempotency_key: false,
            callbacks: CallbackConfig::default(),
        }
    }
}

pub(super) fn read(reader: &mut Reader, variables: &BTreeMap<String, String>) -> Vec<ProviderConfig> {
    let mut providers = Vec::new();
    let mut names = BTreeSet::new();
    for (position, table) in reader.entries("provider").into_iter().enumerate() {
        let name = table.get("name").and_then(Value::as_str).map(str::to_owned);
        let mut section = reader.entry("provider", position, table);
        if name.is_some_and(|name| !names.insert(name)) {
            section.problem("name", "is there twice");
        }
        let provider = read_provider(&mut section, variables);
        section.finish();
        if let Some(variable) = provider.as_ref().and_then(|provider| provider.api_key_env.as_deref()) {
            reader.forget(variable);
        }
        if let Some(variable) = provider.as_ref().and_then(|provider| provider.callbacks.secret_env.as_deref()) {
            reader.forget(variable);
        }
        providers.extend(provider);
    }
    providers
}

fn read_provider(section: &mut Section<'_>, variables: &BTreeMap<String, String>) -> Option<ProviderConfig> {
    let name = section.required_text("name");
    if name.as_deref().is_some_and(|name| !is_account_name(name)) {
        section.problem("name", "must have 1 to 32 lower-case letters, digits, `-` or `_`");
    }
    let kind = read_kind(section);
    section.require("base_url");
    let base_url = section.web_url("base_url");
    let needs_key = kind.as_ref().is_none_or(ProviderKind::has_key);
    let api_key_env = if needs_key { section.required_text("api_key_env") } else { None };
    let requests_per_minute = rate(section.required_number("requests_per_minute", 1..=1_000_000));
    let max_in_flight = rate(section.required_number("max_in_flight", 1..=1_000_000));
    let spend = read_spend(section);
    let poll_interval = section.millis("poll_interval_ms", 10_000, 5..=600_000);
    let can_list = section.flag("can_list", true);
    let idempotency_key = section.flag("idempotency_key", false);
    if idempotency_key && kind.as_ref().is_some_and(|kind| *kind != ProviderKind::OpenaiVideos) {
        section.problem("idempotency_key", "is for accounts of the kind openai_videos alone");
    }
    let callbacks = callbacks::read(section, kind.as_ref(), variables);
    Some(ProviderConfig {
        name: name?,
        kind: kind?,
        base_url: base_url?,
        api_key: api_key_env.as_ref().and_then(|variable| variables.get(variable)).map(|key| Secret::new(key.trim())),
        api_key_env,
        requests_per_minute,
        max_in_flight,
        spend,
        poll_interval,
        can_list,
        idempotency_key,
        callbacks,
    })
}

fn read_spend(section: &mut Section<'_>) -> Option<(u32, Duration)> {
    let credits = section.optional_number("spend_credits", 1..=i32::MAX.unsigned_abs().into());
    if credits.is_none() && section.has("spend_window_secs") {
        section.problem("spend_window_secs", "is there without spend_credits");
    }
    let secs = section.number("spend_window_secs", 600, 60..=86_400);
    Some((rate(credits?), Duration::from_secs(secs)))
}

fn read_kind(section: &mut Section<'_>) -> Option<ProviderKind> {
    let kind = section.required_text("kind")?;
    match kind.as_str() {
        "openai_videos" => Some(ProviderKind::OpenaiVideos),
        "veo_gemini" => Some(ProviderKind::VeoGemini(read_veo(section))),
        "veo_vertex" => {
            let veo = read_veo(section);
            Some(ProviderKind::VeoVertex(veo, read_vertex(section)?))
        }
        "gemini_omni" => Some(ProviderKind::GeminiOmni),
        "fal" => Some(ProviderKind::Fal(fal::read(section))),
        _ => {
            section.problem("kind", format_args!("must be one of {}", ProviderKind::NAMES.join(", ")));
            None
        }
    }
}

fn read_veo(section: &mut Section<'_>) -> VeoConfig {
    VeoConfig {
        person_generation: section.text("person_generation"),
        person_generation_with_image: section.text("person_generation_with_image"),
    }
}

fn read_vertex(section: &mut Section<'_>) -> Option<VertexConfig> {
    let name = |section: &mut Section<'_>, key| {
        let name = section.required_text(key);
        let plain =
            |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-:.".contains(&b));
        if name.as_deref().is_some_and(|name| !plain(name)) {
            section.problem(key, "must have lower-case letters, digits or - : . only");
        }
        name
    };
    let (project, location) = (name(section, "project"), name(section, "location"));
    let identity = match (section.text("key_file"), section.has("api_key_env")) {
        (Some(_), true) => {
            section.problem("key_file", "and api_key_env are both there; name one of them");
            GoogleIdentity::Key
        }
        (Some(path), false) => GoogleIdentity::KeyFile(path.into()),
        (None, true) => GoogleIdentity::Key,
        (None, false) => GoogleIdentity::Metadata,
    };
    let storage_uri = section.text("storage_uri").map(|uri| uri.trim_end_matches('/').to_owned());
    let is_bucket =
        |uri: &str| uri.strip_prefix("gs://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    if storage_uri.as_deref().is_some_and(|uri| !is_bucket(uri)) {
        section.problem("storage_uri", "must be gs://bucket or gs://bucket/prefix");
    }
    let storage_base_url = section.web_url("storage_base_url");
    let generate_audio = section.flag("generate_audio", true);
    Some(VertexConfig {
        project: project?,
        location: location?,
        identity,
        storage_uri,
        storage_base_url: storage_base_url.or_else(|| Url::parse("https://storage.googleapis.com").ok())?,
        generate_audio,
    })
}

/// Every model leads to an account, once there are accounts: the built-in models stand without any until then.
pub(super) fn check_models(problems: &mut Vec<String>, providers: &[ProviderConfig], models: &[ModelConfig]) {
    if providers.is_empty() {
        return;
    }
    let led = |provider: &str| providers.iter().any(|account| account.name == provider);
    for account in providers {
        let Some((credits, _)) = account.spend else { continue };
        let dearest = models.iter().filter_map(|model| Some((model.dearest_at(&account.name)?, &model.name))).max();
        if let Some((dearest, model)) = dearest.filter(|(dearest, _)| *dearest > i64::from(credits)) {
            problems.push(format!(
                "`provider {:?}.spend_credits` must be at least {dearest}, which is what the dearest video of {model:?} may cost there",
                account.name
            ));
        }
    }
    for model in models {
        let orphans: BTreeSet<&str> = model.accounts().filter(|provider| !led(provider)).collect();
        problems.extend(orphans.into_iter().map(|provider| {
            format!("model {:?} names the provider {provider:?}, which has no [[provider]] section", model.name)
        }));
        for route in &model.routes {
            let account = providers.iter().find(|account| account.name == route.provider);
            let Some(ProviderKind::Fal(fal)) = account.map(|account| &account.kind) else { continue };
            if model.reference_image && !fal.takes_image(&route.upstream) {
                problems.push(format!(
                    "model {:?} takes a reference image, and {:?} at the provider {:?} has no {{image}} in its `inputs`",
                    model.name, route.upstream, route.provider
                ));
            }
            if fal.input(&route.upstream).is_none() {
                problems.push(format!(
                    "model {:?} is {:?} at the provider {:?}, whose `inputs` have no pattern for it",
                    model.name, route.upstream, route.provider
                ));
            }
        }
    }
}

fn is_account_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

/// The account whose callbacks the file wants although nothing says where the world reaches this service.
pub(super) fn without_address<'a>(providers: &'a [ProviderConfig], public_url: Option<&Url>) -> Option<&'a str> {
    let wants = |account: &&ProviderConfig| account.callbacks.wanted == Some(true) && public_url.is_none();
    providers.iter().find(wants).map(|account| account.name.as_str())
}
