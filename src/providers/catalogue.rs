//! The models on offer: what a customer may order, at what price, and which account makes it.
//!
//! Always holds: every combination of length and size that a model offers has a price; looking one up cannot fail later.
//! Callers take an `Arc<Catalogue>` from a [`Live`](crate::config::Live) for as long as they need it, so that a new one can
//! take its place while orders priced by the old one go on.
//! Refuses: to guess. An unknown name gets a suggestion, never a substitute.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::NaiveDate;

use crate::config::{Config, ModelConfig, RouteConfig, model_problems};
use crate::domain::{Credits, Size};

/// Why a list of models is no catalogue; a loaded configuration cannot cause it.
#[derive(Debug, thiserror::Error)]
#[error("the models have {} problem(s): {}", .0.len(), .0.join("; "))]
pub struct CatalogueError(pub Vec<String>);

/// One model on offer.
#[derive(Clone, Debug)]
pub struct Model {
    /// The name that customers use.
    pub name: String,
    /// Where its videos are made, the preferred way first.
    pub routes: Vec<RouteConfig>,
    /// Whether a video may take the next route while the account of an earlier one is full.
    pub overflow: bool,
    /// The lengths offered, ascending.
    pub seconds: Vec<u32>,
    pub default_seconds: u32,
    /// The sizes offered, in the order of the settings.
    pub sizes: Vec<Size>,
    pub default_size: Size,
    pub max_prompt_chars: usize,
    /// Whether a video may start from a reference image.
    pub reference_image: bool,
    /// Whether that image must have the size of the video, pixel by pixel.
    pub reference_image_matches_size: bool,
    /// How long one attempt may take, from submission to the end of the job.
    pub deadline: Duration,
    /// The last day (UTC) on which it can be made: its own, or the last one of its routes.
    pub available_until: Option<NaiveDate>,
    /// The model to name to those who ask for this one after that day.
    pub replacement: Option<String>,
    prices: HashMap<(u32, Size), Credits>,
    /// As it was configured: what a route costs follows from it.
    config: ModelConfig,
}

impl Model {
    /// The price of one video; `None` when that length or size is not offered.
    pub fn price(&self, seconds: u32, size: Size) -> Option<Credits> {
        self.prices.get(&(seconds, size)).copied()
    }

    /// What one video may cost us at this account; `None` when nobody said, or when that is not offered any more.
    pub fn cost(&self, (account, upstream): (&str, &str), seconds: u32, size: Size) -> Option<Credits> {
        let is_it = |route: &&RouteConfig| (route.provider.as_str(), route.upstream.as_str()) == (account, upstream);
        self.config.cost(self.routes.iter().find(is_it)?, seconds, size)
    }

    /// Whether the last day on which it can be made has passed.
    pub fn retired(&self, today: NaiveDate) -> bool {
        self.available_until.is_some_and(|last_day| today > last_day)
    }

    /// Whether a video that this account will not take for reasons of its own has another account to go to.
    pub fn leads_elsewhere(&self, account: &str, today: NaiveDate) -> bool {
        self.routes.iter().any(|route| route.provider != account && !route.over(today))
    }

    /// Whether the model has this route still, and its last day has passed.
    pub fn route_over(&self, (account, upstream): (&str, &str), today: NaiveDate) -> bool {
        self.routes
            .iter()
            .any(|route| (route.provider.as_str(), route.upstream.as_str()) == (account, upstream) && route.over(today))
    }

    fn from_config(config: &ModelConfig) -> Model {
        let mut seconds = config.seconds.clone();
        seconds.sort_unstable();
        seconds.dedup();
        let combinations = seconds.iter().flat_map(|&seconds| config.sizes.iter().map(move |&size| (seconds, size)));
        let prices = combinations.filter_map(|of| Some((of, config.price(of.0, of.1)?))).collect();
        Model {
            name: config.name.clone(),
            routes: config.routes.clone(),
            overflow: config.overflow,
            seconds,
            default_seconds: config.default_seconds,
            sizes: config.sizes.clone(),
            default_size: config.default_size,
            max_prompt_chars: config.max_prompt_chars,
            reference_image: config.reference_image,
            reference_image_matches_size: config.reference_image_matches_size,
            deadline: config.deadline,
            available_until: last_day(config),
            replacement: config.replacement.clone(),
            prices,
            config: config.clone(),
        }
    }
}

/// The earlier of the model's own last day and of the day on which its last route ends.
fn last_day(config: &ModelConfig) -> Option<NaiveDate> {
    let ends: Option<Vec<NaiveDate>> = config.routes.iter().map(|route| route.available_until).collect();
    let of_routes = ends.and_then(|ends| ends.into_iter().max());
    [config.available_until, of_routes].into_iter().flatten().min()
}

/// Every model, by name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    models: BTreeMap<String, Model>,
}

impl Catalogue {
    /// # Errors
    /// [`CatalogueError`] when the configuration was changed by code into one that would not load.
    pub fn from_config(config: &Config) -> Result<Catalogue, CatalogueError> {
        let problems = model_problems(&config.models);
        if !problems.is_empty() {
            return Err(CatalogueError(problems));
        }
        let models = config.models.iter().map(|model| (model.name.clone(), Model::from_config(model))).collect();
        Ok(Catalogue { models })
    }

    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    /// What to offer to those who ask for a retired model: its replacement, or where that is retired too, its replacement's.
    pub fn replacement(&self, model: &Model, today: NaiveDate) -> Option<&Model> {
        let mut next = self.model(model.replacement.as_deref()?)?;
        // replacements may name each other in a circle
        for _ in 0..self.models.len() {
            if !next.retired(today) {
                return Some(next);
            }
            next = self.model(next.replacement.as_deref()?)?;
        }
        None
    }

    /// Every model, retired ones included, in the order of their names.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The name that was probably meant by one that is unknown: for "did you mean".
    pub fn closest(&self, unknown: &str) -> Option<&str> {
        // Far beyond every name there is: not worth the comparison, and the text is a stranger's.
        if unknown.len() > 128 {
            return None;
        }
        let wanted = unknown.trim().to_lowercase();
        let distances = self.models.keys().map(|name| (distance(&wanted, &name.to_lowercase()), name));
        let (edits, name) = distances.min_by_key(|(edits, _)| *edits)?;
        let extends = !wanted.is_empty() && name.to_lowercase().starts_with(&wanted) && wanted.len() >= 3;
        (edits <= 2.max(name.len() / 4) || extends).then_some(name.as_str())
    }
}

/// The number of characters to insert, delete or replace to get from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (position, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], position + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::from_sources("", []).unwrap()
    }

    fn price(catalogue: &Catalogue, model: &str, seconds: u32, size: &str) -> Option<i64> {
        catalogue.model(model).unwrap().price(seconds, size.parse().unwrap()).map(Credits::get)
    }

    #[test]
    fn every_offered_combination_has_its_price() {
        let catalogue = Catalogue::from_config(&config()).unwrap();
        assert_eq!(price(&catalogue, "sora-2", 4, "1280x720"), Some(61));
        assert_eq!(price(&catalogue, "sora-2", 12, "720x1280"), Some(183));
        assert_eq!(price(&catalogue, "sora-2-pro", 4, "1280x720"), Some(183));
        assert_eq!(price(&catalogue, "sora-2-pro", 8, "1792x1024"), Some(610));
        assert_eq!(price(&catalogue, "veo-3.1", 8, "1280x720"), Some(595));
        assert_eq!(price(&catalogue, "veo-3.1", 6, "720x1280"), Some(447));
        assert_eq!(price(&catalogue, "sora-2", 5, "1280x720"), None);
        assert_eq!(price(&catalogue, "sora-2", 4, "1792x1024"), None);
        for model in catalogue.models() {
            for (&seconds, &size) in model.seconds.iter().flat_map(|s| model.sizes.iter().map(move |size| (s, size))) {
                assert!(model.price(seconds, size).is_some(), "{} {seconds} {size}", model.name);
            }
            assert!(model.price(model.default_seconds, model.default_size).is_some());
        }
    }

    #[test]
    fn a_model_is_retired_on_the_day_after_its_last() {
        let mut config = config();
        config.models[0].available_until = NaiveDate::from_ymd_opt(2026, 9, 24);
        let catalogue = Catalogue::from_config(&config).unwrap();
        let model = catalogue.model("sora-2").unwrap();
        assert!(!model.retired(NaiveDate::from_ymd_opt(2026, 9, 24).unwrap()));
        assert!(model.retired(NaiveDate::from_ymd_opt(2026, 9, 25).unwrap()));
        assert!(!catalogue.model("veo-3.1").unwrap().retired(NaiveDate::MAX));
    }

    #[test]
    fn a_model_is_retired_when_its_last_route_has_ended() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 9, day);
        let mut config = config();
        let mut second = RouteConfig::new("veo", "sora-2-resold");
        config.models[0].routes[0].available_until = day(24);
        second.available_until = day(28);
        config.models[0].routes.push(second);
        let model = |config: &Config| Catalogue::from_config(config).unwrap().model("sora-2").unwrap().clone();
        let two = model(&config);
        assert_eq!(two.available_until, day(28));
        assert!(!two.retired(day(28).unwrap()) && two.retired(day(29).unwrap()));
        assert!(two.route_over(("sora", "sora-2"), day(25).unwrap()));
        assert!(!two.route_over(("veo", "sora-2-resold"), day(25).unwrap()));
        assert!(two.leads_elsewhere("sora", day(25).unwrap()) && !two.leads_elsewhere("veo", day(25).unwrap()));
        config.models[0].available_until = day(26);
        assert_eq!(model(&config).available_until, day(26));
        config.models[0].routes[1].available_until = None;
        config.models[0].available_until = None;
        assert_eq!(model(&config).available_until, None);
    }

    #[test]
    fn a_retired_replacement_is_not_offered_but_its_own_is() {
        let day = NaiveDate::from_ymd_opt(2026, 9, 24);
        let mut config = config();
        for (at, replacement) in [(0, "sora-2-pro"), (1, "veo-3.1")] {
            config.models[at].available_until = day;
            config.models[at].replacement = Some(replacement.to_owned());
        }
        let offered = |config: &Config, today: Option<NaiveDate>| {
            let catalogue = Catalogue::from_config(config).unwrap();
            let sora = catalogue.model("sora-2").unwrap();
            catalogue.replacement(sora, today.unwrap()).map(|model| model.name.clone())
        };
        assert_eq!(offered(&config, day).as_deref(), Some("sora-2-pro"));
        let later = NaiveDate::from_ymd_opt(2026, 9, 25);
        assert_eq!(offered(&config, later).as_deref(), Some("veo-3.1"));
        config.models[1].replacement = Some("sora-2".to_owned());
        assert_eq!(offered(&config, later), None, "a circle offers nothing");
    }

    #[test]
    fn a_model_that_cannot_be_priced_is_no_catalogue() {
        let mut config = config();
        config.models[2].length_prices.clear();
        let error = Catalogue::from_config(&config).unwrap_err().to_string();
        assert!(error.contains("\"veo-3.1\": 4 seconds at 1280x720"), "{error}");
    }

    #[test]
    fn a_slip_in_a_name_gets_a_suggestion() {
        let catalogue = Catalogue::from_config(&config()).unwrap();
        for (unknown, meant) in [
            ("sora2", Some("sora-2")),
            ("Sora-2", Some("sora-2")),
            ("sora-2-prp", Some("sora-2-pro")),
            ("veo", Some("veo-3.1")),
            ("veo-3", Some("veo-3.1")),
            ("stable-diffusion", None),
            ("", None),
        ] {
            assert_eq!(catalogue.closest(unknown), meant, "{unknown}");
        }
        assert_eq!(catalogue.closest(&"sora-2".repeat(1000)), None);
    }

    #[test]
    fn the_distance_counts_single_edits() {
        assert_eq!(distance("sora", "sora"), 0);
        assert_eq!(distance("", "veo"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
