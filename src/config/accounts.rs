//! The provider accounts of the settings.
//!
//! Always holds: a key never stands in the file; the file names the environment variable that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::Value;
use url::Url;

use super::models::ModelConfig;
use super::reader::{Reader, Section};
use super::sections::rate;
use crate::domain::Secret;

/// Which protocol an account speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// The `/v1/videos` shape.
    OpenaiVideos,
}

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
    /// The pause between two looks at one job.
    pub poll_interval: Duration,
    /// Whether the account can list its jobs: the only way to find a submission whose answer was lost.
    pub can_list: bool,
}

impl ProviderConfig {
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
            poll_interval: Duration::from_millis(250),
            can_list: true,
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
        providers.extend(provider);
    }
    providers
}

fn read_provider(section: &mut Section<'_>, variables: &BTreeMap<String, String>) -> Option<ProviderConfig> {
    let name = section.required_text("name");
    if name.as_deref().is_some_and(|name| !is_account_name(name)) {
        section.problem("name", "must have 1 to 32 lower-case letters, digits, `-` or `_`");
    }
    let kind = section.required_text("kind");
    if kind.as_deref().is_some_and(|kind| kind != "openai_videos") {
        section.problem("kind", "must be \"openai_videos\"");
    }
    section.require("base_url");
    let base_url = section.web_url("base_url");
    let api_key_env = section.required_text("api_key_env");
    let requests_per_minute = rate(section.required_number("requests_per_minute", 1..=1_000_000));
    let max_in_flight = rate(section.required_number("max_in_flight", 1..=1_000_000));
    let poll_interval = section.millis("poll_interval_ms", 10_000, 5..=600_000);
    let can_list = section.flag("can_list", true);
    Some(ProviderConfig {
        name: name?,
        kind: ProviderKind::OpenaiVideos,
        base_url: base_url?,
        api_key: variables.get(api_key_env.as_ref()?).map(|key| Secret::new(key.trim())),
        api_key_env,
        requests_per_minute,
        max_in_flight,
        poll_interval,
        can_list,
    })
}

/// Every model leads to an account, once there are accounts: the built-in models stand without any until then.
pub(super) fn check_models(problems: &mut Vec<String>, providers: &[ProviderConfig], models: &[ModelConfig]) {
    if providers.is_empty() {
        return;
    }
    let orphans = models.iter().filter(|model| providers.iter().all(|account| account.name != model.provider));
    problems.extend(orphans.map(|model| {
        format!("model {:?} names the provider {:?}, which has no [[provider]] section", model.name, model.provider)
    }));
}

fn is_account_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}
