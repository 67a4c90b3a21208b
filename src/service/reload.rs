//! What a process offers and where it leads, from the settings; and reading them again while it runs.
//!
//! Models, routes, prices, accounts with their limits and keys take effect at once, for new orders and new releases, all of
//! them or none: settings with a problem change nothing. What is under way keeps what it has: an order its price, an attempt
//! its route and its account. An account that is gone from the settings is kept for its videos until this process ends.
//! Refuses: every other setting. Those need a restart, which is said when they differ.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::config::{Config, ConfigError, Live, RouteConfig};
use crate::domain::Size;
use crate::providers::callbacks::{CallbackBase, CallbackDesk};
use crate::providers::{Catalogue, Egress, Model, Registry};
use crate::scheduler::{AccountLimits, ModelRoutes, Route, RoutePlan, SpendLimit, VideoCost};

/// How often the settings file is looked at. A change is taken when two looks in a row saw the same file.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The parts of the settings that may be replaced. Clones share them.
#[derive(Clone)]
pub struct Offer {
    pub catalogue: Live<Catalogue>,
    pub plan: Live<RoutePlan>,
    /// Empty in a process that makes no videos.
    pub providers: Live<Registry>,
    /// Whose callbacks this process takes; empty in one without an API.
    pub desk: Live<CallbackDesk>,
    pub(super) egress: Egress,
    called_back: CalledBack,
    /// Whether the accounts are made from the settings.
    makes_accounts: bool,
    /// The settings that need a restart, as they were at the start.
    fixed: Vec<(&'static str, String)>,
}

/// Where providers call back, and whether this process takes their calls.
#[derive(Clone, Debug, Default)]
pub struct CalledBack {
    /// `None` where nothing says how the world reaches this installation: then nobody is asked to call.
    pub base: Option<CallbackBase>,
    pub takes: bool,
}

impl CalledBack {
    fn desk(&self, config: &Config, egress: &Egress) -> Result<CallbackDesk> {
        match &self.base {
            Some(base) if self.takes => {
                CallbackDesk::from_config(config, egress, base).context("the callbacks of provider accounts")
            }
            _ => Ok(CallbackDesk::default()),
        }
    }
}

/// Why settings were not taken over; everything is as before.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("the settings name no provider account any more")]
    NoAccounts,
    #[error("the settings cannot be used: {0:#}")]
    Unusable(anyhow::Error),
}

impl Offer {
    /// `accounts`: nothing in a process that makes no videos; otherwise ready-made ones, or those of the settings.
    ///
    /// # Errors
    /// Says what is wrong with the models or the accounts.
    pub(super) fn new(
        config: &Config,
        egress: Egress,
        accounts: Option<Option<Registry>>,
        called_back: CalledBack,
    ) -> Result<Offer> {
        let makes_accounts = matches!(accounts, Some(None));
        let catalogue = Catalogue::from_config(config).context("the model catalogue")?;
        let providers = match accounts {
            Some(Some(ready)) => ready,
            Some(None) => {
                Registry::called_back_at(config, &egress, called_back.base.as_ref()).context("the provider accounts")?
            }
            None => Registry::default(),
        };
        let desk = called_back.desk(config, &egress)?;
        if desk.names().next().is_some() {
            tracing::info!(accounts = ?desk, "callbacks of these provider accounts are taken");
        }
        if accounts_are_needed(makes_accounts, &providers) {
            providers.check(&catalogue).context("the model catalogue")?;
        }
        Ok(Offer {
            plan: Live::new(plan_of(config, &catalogue)),
            catalogue: Live::new(catalogue),
            providers: Live::new(providers),
            desk: Live::new(desk),
            egress,
            called_back,
            makes_accounts,
            fixed: fixed(config),
        })
    }

    /// Reads the settings file again and takes over what may be replaced.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing was changed then.
    pub fn reload_file(&self, file: Option<&Path>) -> Result<(), ReloadError> {
        self.take_over(&Config::load(file)?)
    }

    /// Reads the settings file again, and says in the log what came of it.
    pub fn reload_and_tell(&self, file: Option<&Path>) {
        match self.reload_file(file) {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the settings were not taken over; everything goes on as before"),
        }
    }

    /// Takes over what may be replaced.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing was changed then.
    pub fn take_over(&self, config: &Config) -> Result<(), ReloadError> {
        if config.providers.is_empty() {
            return Err(ReloadError::NoAccounts);
        }
        let unusable = |error: anyhow::Error| ReloadError::Unusable(error);
        let catalogue = Catalogue::from_config(config).context("the model catalogue").map_err(unusable)?;
        let desk = self.called_back.desk(config, &self.egress).map_err(unusable)?;
        let mut accounts = None;
        if self.makes_accounts {
            let made = Registry::called_back_at(config, &self.egress, self.called_back.base.as_ref()).context(
                "the provider accounts (a new variable for a key needs a restart: a process keeps the environment that it \
                 was started with)",
            );
            accounts = Some(self.with_those_gone(made.map_err(unusable)?));
        }
        let present = self.providers.get();
        let registry = accounts.as_ref().unwrap_or(&present);
        if accounts_are_needed(self.makes_accounts, registry) {
            registry.check(&catalogue).context("the model catalogue").map_err(unusable)?;
        }
        self.desk.set(desk);
        // accounts first: nothing is released to an account that the workers do not know
        if let Some(accounts) = accounts {
            self.providers.set(accounts);
        }
        let (models, routed) = (catalogue.models().count(), config.providers.len());
        self.plan.set(plan_of(config, &catalogue));
        self.catalogue.set(catalogue);
        let fixed = fixed(config);
        let restart: Vec<&str> =
            fixed.iter().zip(&self.fixed).filter(|(new, old)| new != old).map(|(new, _)| new.0).collect();
        tracing::info!(models, accounts = routed, "the settings were read again");
        if !restart.is_empty() {
            tracing::warn!(settings = restart.join(", "), "these settings have changed too and need a restart");
        }
        Ok(())
    }

    /// The new accounts, and those of the present ones that they leave out: their videos are asked about until the end.
    fn with_those_gone(&self, mut registry: Registry) -> Registry {
        let present = self.providers.get();
        let gone: Vec<&str> = present.names().filter(|name| registry.get(name).is_none()).collect();
        for name in gone {
            tracing::warn!(
                account = name,
                "an account is gone from the settings; nothing new goes there, and what is under way is asked about until this process ends"
            );
            if let Some(account) = present.get(name) {
                registry.insert(account.clone());
            }
        }
        registry
    }
}

/// A process that makes no videos has no accounts and needs none.
fn accounts_are_needed(makes_accounts: bool, registry: &Registry) -> bool {
    makes_accounts || registry.names().next().is_some()
}

/// The settings that are read at the start alone, section by section. Secrets show as such, so a change of one is not seen.
fn fixed(config: &Config) -> Vec<(&'static str, String)> {
    let own = format!(
        "{:?}",
        (&config.data_dir, config.listen, &config.public_url, &config.postgres_bin_dir, &config.postgres_run_as)
    );
    vec![
        ("data_dir, listen, public_url, postgres_*", own),
        ("[log]", format!("{:?}", config.log)),
        ("[engine]", format!("{:?}", config.engine)),
        ("[scheduler]", format!("{:?}", config.scheduler)),
        ("[limits]", format!("{:?}", config.limits)),
        ("[webhooks]", format!("{:?}", config.webhooks)),
        ("[storage]", format!("{:?}", config.storage)),
        ("[images]", format!("{:?}", config.images)),
        ("[attempts]", format!("{:?}", config.attempts)),
    ]
}

/// Which ways each model has, and what the accounts take.
///
/// # Errors
/// Says what is wrong with the models.
pub fn route_plan(config: &Config) -> Result<RoutePlan> {
    Ok(plan_of(config, &Catalogue::from_config(config).context("the model catalogue")?))
}

/// What each video of a model may cost us by a route: its price, where nobody said what it costs.
fn costs(model: &Model, route: &RouteConfig) -> Arc<[VideoCost]> {
    let at = (route.provider.as_str(), route.upstream.as_str());
    let cost = |seconds, size: Size| {
        let credits = model.cost(at, seconds, size).or(model.price(seconds, size))?.get();
        Some(VideoCost { seconds, size: size.to_string(), credits })
    };
    let all = model.seconds.iter().flat_map(|seconds| model.sizes.iter().map(move |size| (*seconds, *size)));
    all.filter_map(|(seconds, size)| cost(seconds, size)).collect()
}

fn plan_of(config: &Config, catalogue: &Catalogue) -> RoutePlan {
    let models = catalogue.models().map(|model| {
        let routes = model.routes.iter().map(|route| Route {
            provider: route.provider.clone(),
            upstream_model: route.upstream.clone(),
            available_until: route.available_until,
            costs: costs(model, route),
        });
        (model.name.clone(), ModelRoutes { routes: routes.collect(), overflow: model.overflow })
    });
    let accounts = config.providers.iter().map(|account| {
        let limits = AccountLimits {
            requests_per_minute: account.requests_per_minute,
            max_in_flight: account.max_in_flight,
            spend: account.spend.map(|(credits, window)| SpendLimit { credits, window }),
        };
        (account.name.clone(), limits)
    });
    RoutePlan { models: models.collect(), accounts: accounts.collect() }
}

/// What tells one version of a file from another.
type Stamp = Option<(SystemTime, u64)>;

/// Looks at the settings file now and then.
pub struct SettingsWatch {
    file: Option<PathBuf>,
    /// The version that was read last.
    read: Stamp,
    seen: Stamp,
}

impl SettingsWatch {
    pub fn new(file: Option<PathBuf>) -> SettingsWatch {
        let stamp = stamp(file.as_deref());
        SettingsWatch { file, read: stamp, seen: stamp }
    }

    /// The file, which is about to be read as it is now.
    pub fn reading(&mut self) -> Option<&Path> {
        self.read = stamp(self.file.as_deref());
        self.file.as_deref()
    }

    /// Resolves when the file has changed and then stayed as it is for one look: never while it is being written. A file
    /// that is away for a moment, as when an editor replaces it, has not changed.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.look(stamp(self.file.as_deref())) {
                return;
            }
        }
    }

    /// Whether the file, as it is now, is to be read.
    fn look(&mut self, now: Stamp) -> bool {
        let settled = now.is_some() && now == self.seen && now != self.read;
        self.seen = now;
        if settled {
            self.read = now;
        }
        settled
    }
}

fn stamp(file: Option<&Path>) -> Stamp {
    let about = std::fs::metadata(file?).ok()?;
    Some((about.modified().ok()?, about.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str = r#"
        [[provider]]
        name = "first"
        kind = "openai_videos"
        base_url = "http://127.0.0.1:9/v1"
        api_key_env = "KEY"
        requests_per_minute = 50
        max_in_flight = 20
    "#;
    const MODEL: &str = r#"
        [[model]]
        name = "clip"
        provider = "first"
        price_credits = 60
        standard_seconds = 4
        seconds = [4]
        sizes = ["1280x720"]
    "#;

    fn config(text: &str) -> Config {
        let variables =
            [("KEY".to_owned(), "secret".to_owned()), ("DATABASE_URL".to_owned(), "postgres://x/y".to_owned())];
        Config::from_sources(text, variables).unwrap()
    }

    fn offer(text: &str) -> Offer {
        Offer::new(&config(text), Egress::new(), Some(None), CalledBack::default()).unwrap()
    }

    #[test]
    fn new_models_prices_routes_and_accounts_take_effect_and_old_ones_stay_with_those_who_have_them() {
        let offer = offer(&format!("{ACCOUNTS}{MODEL}"));
        let old = offer.catalogue.get();
        let second = ACCOUNTS.replace("\"first\"", "\"second\"").replace("max_in_flight = 20", "max_in_flight = 7");
        let dearer = MODEL.replace("= 60", "= 80").replace("\"first\"", "\"second\"");
        offer.take_over(&config(&format!("{second}{dearer}"))).unwrap();
        let size = "1280x720".parse().unwrap();
        let price = |catalogue: &Catalogue| catalogue.model("clip").unwrap().price(4, size).unwrap().get();
        assert_eq!((price(&old), price(&offer.catalogue.get())), (60, 80));
        let plan = offer.plan.get();
        assert_eq!(plan.models["clip"].routes[0].provider, "second");
        assert_eq!((plan.accounts["second"].max_in_flight, plan.accounts.get("first")), (7, None));
        // the videos of the first account are still asked about
        assert_eq!(offer.providers.get().names().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn accounts_that_call_back_come_and_go_with_the_settings() {
        let master = crate::domain::MasterKey::from_hex(&"5f".repeat(32)).unwrap();
        let base = CallbackBase::new(&master, "https://v.example.com".parse().unwrap());
        let called_back = CalledBack { base: Some(base), takes: true };
        let text = format!("{ACCOUNTS}{MODEL}");
        let offer = Offer::new(&config(&text), Egress::new(), Some(None), called_back).unwrap();
        let calls = || offer.desk.get().names().map(str::to_owned).collect::<Vec<_>>();
        assert!(calls().is_empty(), "there is nothing to check a signature with");
        let signed = ACCOUNTS.replace("max_in_flight", "webhook_secret_env = \"KEY\"\nmax_in_flight");
        let error = offer.take_over(&config(&format!("{signed}{MODEL}"))).unwrap_err().to_string();
        assert!(error.contains("whsec_") && calls().is_empty(), "{error}");
        let omni = ACCOUNTS.replace("openai_videos", "gemini_omni");
        offer.take_over(&config(&format!("{omni}{MODEL}"))).unwrap();
        assert!(offer.providers.get().get("first").unwrap().has_callbacks());
        assert_eq!(calls(), ["first"]);
        offer.take_over(&config(&text)).unwrap();
        assert!(calls().is_empty() && !offer.providers.get().get("first").unwrap().has_callbacks());
    }

    #[test]
    fn a_change_of_what_images_may_take_is_told_as_one_that_needs_a_restart() {
        let changed = |text: &str| {
            let (before, after) = (fixed(&config("")), fixed(&config(text)));
            let changed = before.iter().zip(&after).filter(|(old, new)| old != new).map(|(old, _)| old.0);
            changed.collect::<Vec<_>>()
        };
        assert_eq!(changed("[images]\nmax_per_tenant = 7"), ["[images]"]);
        assert_eq!(changed("[storage]\nretention_days = 7"), ["[storage]"]);
        assert!(changed("").is_empty());
    }

    #[test]
    fn settings_that_cannot_be_used_change_nothing() {
        let offer = offer(&format!("{ACCOUNTS}{MODEL}"));
        let before = (offer.catalogue.get(), offer.plan.get(), offer.providers.get());
        assert!(matches!(offer.take_over(&config("")), Err(ReloadError::NoAccounts)));
        let without_key = ACCOUNTS.replace("\"KEY\"", "\"UNKNOWN\"");
        let error = offer.take_over(&config(&format!("{without_key}{MODEL}"))).unwrap_err().to_string();
        assert!(error.contains("needs a restart"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "colour = 1\nlisten = 2").unwrap();
        let error = offer.reload_file(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("`colour`") && error.contains("`listen`"), "{error}");
        let after = (offer.catalogue.get(), offer.plan.get(), offer.providers.get());
        assert!(std::sync::Arc::ptr_eq(&before.0, &after.0));
        assert!(std::sync::Arc::ptr_eq(&before.1, &after.1));
        assert!(std::sync::Arc::ptr_eq(&before.2, &after.2));
    }

    #[test]
    fn a_file_is_read_when_it_has_changed_and_settled() {
        let stamp = |n: u64| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(n), n));
        let mut watch = SettingsWatch { file: None, read: stamp(1), seen: stamp(1) };
        let looks =
            [stamp(1), stamp(2), stamp(3), stamp(3), stamp(3), None, stamp(3), stamp(4), None, stamp(4), stamp(4)];
        let read: Vec<bool> = looks.into_iter().map(|now| watch.look(now)).collect();
        let expected = [false, false, false, true, false, false, false, false, false, false, true];
        assert_eq!(read, expected);
    }
}
