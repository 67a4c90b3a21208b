//! The model entries of the settings: what is offered, at what price, and the catalogue that holds without a file.
//!
//! Always holds after a successful load: names are unique, defaults are among what is offered, and every combination of
//! length and size has a price in whole credits. A price that would need a fraction is refused, never rounded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::NaiveDate;
use toml::Value;

use super::reader::{Reader, Section};
use crate::domain::{Credits, Prompt, Size};

/// One way to have a model's videos made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// The provider account.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// The last day (UTC) on which new videos go there.
    pub available_until: Option<NaiveDate>,
    /// What the provider charges for a video of the model's `standard_seconds` at its `price_credits`.
    pub cost_credits: Option<Credits>,
}

impl RouteConfig {
    /// A route without an end.
    pub fn new(provider: &str, upstream: &str) -> RouteConfig {
        RouteConfig {
            provider: provider.to_owned(),
            upstream: upstream.to_owned(),
            available_until: None,
            cost_credits: None,
        }
    }

    /// Whether its last day has passed.
    pub fn over(&self, today: NaiveDate) -> bool {
        self.available_until.is_some_and(|last_day| today > last_day)
    }
}

/// One `[[model]]`: a customer-facing name and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The name that customers use.
    pub name: String,
    /// Where its videos are made, the preferred way first; at least one.
    pub routes: Vec<RouteConfig>,
    /// Whether a video may take the next route while the account of an earlier one is full. Otherwise it waits for it.
    pub overflow: bool,
    /// The list price of a video of `standard_seconds`.
    pub price_credits: Credits,
    pub standard_seconds: u32,
    /// The lengths offered.
    pub seconds: Vec<u32>,
    pub default_seconds: u32,
    /// The sizes offered.
    pub sizes: Vec<Size>,
    pub default_size: Size,
    /// Prices of a video of `standard_seconds` in a size that does not cost `price_credits`.
    pub size_prices: BTreeMap<Size, Credits>,
    /// Whole prices of single lengths, for lengths whose share of `price_credits` is no whole number. They hold for the
    /// sizes without a price of their own.
    pub length_prices: BTreeMap<u32, Credits>,
    /// What a provider charges where the route does not say: of a video of `standard_seconds` at `price_credits`. Books what
    /// may have been bought for nothing; without it the price stands in.
    pub cost_credits: Option<Credits>,
    pub max_prompt_chars: usize,
    /// Whether a video may start from a reference image.
    pub reference_image: bool,
    /// Whether that image must have the size of the video, pixel by pixel.
    pub reference_image_matches_size: bool,
    /// How long one attempt may take, from submission to the end of the job.
    pub deadline: Duration,
    /// The last day (UTC) on which it is offered, whatever its routes say.
    pub available_until: Option<NaiveDate>,
    /// The model to name to those who ask for this one after that day.
    pub replacement: Option<String>,
}

impl ModelConfig {
    /// The accounts that its routes lead to, in order; an account with several routes comes several times.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.provider.as_str())
    }

    /// The price of one video; `None` when the length or the size is not offered, or when it would need a fraction of a
    /// credit (a loaded configuration has no such model).
    pub fn price(&self, seconds: u32, size: Size) -> Option<Credits> {
        if !self.seconds.contains(&seconds) || !self.sizes.contains(&size) {
            return None;
        }
        let standard = match (self.size_prices.get(&size), self.length_prices.get(&seconds)) {
            (None, Some(whole)) => return Some(*whole),
            (Some(of_size), _) => *of_size,
            (None, None) => self.price_credits,
        };
        let product = standard.times(seconds)?.get();
        let divisor = i64::from(self.standard_seconds);
        if divisor == 0 || product % divisor != 0 { None } else { Credits::new(product / divisor).ok() }
    }

    /// What one video may cost us by this route, in proportion to its price and rounded up; `None` where nobody said.
    pub fn cost(&self, route: &RouteConfig, seconds: u32, size: Size) -> Option<Credits> {
        let standard = i128::from(route.cost_credits.or(self.cost_credits)?.get());
        let (price, of) = (i128::from(self.price(seconds, size)?.get()), i128::from(self.price_credits.get()));
        let cost = (standard * price + of - 1).checked_div(of)?;
        Credits::new(i64::try_from(cost).ok()?).ok()
    }

    /// What its dearest video may cost us at an account: its price, where nobody said. `None` when no route leads there.
    pub fn dearest_at(&self, account: &str) -> Option<i64> {
        let routes = self.routes.iter().filter(|route| route.provider == account);
        let each = |route: &RouteConfig| {
            let of = |seconds: u32, size: Size| self.cost(route, seconds, size).or_else(|| self.price(seconds, size));
            let all = self.seconds.iter().flat_map(|seconds| self.sizes.iter().map(move |size| (*seconds, *size)));
            all.filter_map(|(seconds, size)| of(seconds, size)).map(Credits::get).max()
        };
        routes.filter_map(each).max()
    }

    /// What is wrong with this model, each naming the combination that is at fault.
    pub fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let mut problems = Vec::new();
        if self.routes.is_empty() {
            problems.push(format!("model {name:?}: needs at least one route"));
        }
        let mut seen = BTreeSet::new();
        for route in self.routes.iter().filter(|route| !seen.insert((&route.provider, &route.upstream))) {
            problems.push(format!(
                "model {name:?}: the route to {:?} of {:?} is there twice",
                route.upstream, route.provider
            ));
        }
        if self.replacement.as_ref() == Some(name) {
            problems.push(format!("model {name:?}: is its own replacement"));
        }
        if self.reference_image_matches_size && !self.reference_image {
            problems.push(format!("model {name:?}: reference_image_matches_size is of no use without reference_image"));
        }
        if !self.seconds.contains(&self.default_seconds) {
            problems.push(format!("model {name:?}: default_seconds = {} is not among seconds", self.default_seconds));
        }
        if !self.sizes.contains(&self.default_size) {
            problems.push(format!("model {name:?}: default_size = {} is not among sizes", self.default_size));
        }
        for size in self.size_prices.keys().filter(|size| !self.sizes.contains(size)) {
            problems.push(format!("model {name:?}: size_prices names {size}, which is not among sizes"));
        }
        for seconds in self.length_prices.keys().filter(|seconds| !self.seconds.contains(seconds)) {
            problems.push(format!("model {name:?}: length_prices names {seconds}, which is not among seconds"));
        }
        for &size in &self.sizes {
            for &seconds in self.seconds.iter().filter(|seconds| self.price(**seconds, size).is_none()) {
                problems.push(format!(
                    "model {name:?}: {seconds} seconds at {size} does not cost a whole number of credits; change the price, \
                     or give that length its own in length_prices"
                ));
            }
        }
        problems
    }
}

/// Reads every `[[model]]`; the built-in ones when there is none.
pub(super) fn read(reader: &mut Reader) -> Vec<ModelConfig> {
    let entries = reader.entries("model");
    if entries.is_empty() {
        return built_in();
    }
    let before = reader.problems.len();
    let mut models = Vec::new();
    for (position, table) in entries.into_iter().enumerate() {
        let mut section = reader.entry("model", position, table);
        models.extend(read_model(&mut section));
        section.finish();
    }
    // A model that could not be read completely would be blamed a second time for the defaults that stand in.
    if reader.problems.len() == before {
        reader.problems.extend(problems_of_all(&models));
    }
    models
}

fn read_model(section: &mut Section<'_>) -> Option<ModelConfig> {
    let name = section.required_text("name");
    let routes = read_routes(section, name.as_deref());
    let overflow = section.flag("overflow", false);
    let price_credits = section.required_number("price_credits", 1..=1_000_000_000);
    let standard_seconds = length(section.required_number("standard_seconds", 1..=600));
    let seconds = section.list("seconds", "whole numbers from 1 to 600", |item| {
        item.as_integer().filter(|seconds| (1..=600).contains(seconds)).and_then(|seconds| u32::try_from(seconds).ok())
    });
    let default_seconds = section.optional_number("default_seconds", 1..=600).map_or(standard_seconds, length);
    let size = |item: &Value| item.as_str().and_then(|text| text.parse::<Size>().ok());
    let sizes = section.list("sizes", "sizes such as \"1280x720\"", size);
    let default_size = section.parsed("default_size", "a size such as 1280x720").or_else(|| sizes.first().copied());
    let size_prices = section.numbers_by("size_prices", "sizes and whole credits, such as { \"1792x1024\" = 305 }");
    let length_prices = section.numbers_by("length_prices", "seconds and whole credits, such as { \"6\" = 447 }");
    let longest_prompt = u64::try_from(Prompt::MAX_CHARS).unwrap_or(u64::MAX);
    let cost_credits = section.optional_number("cost_credits", 0..=1_000_000_000).and_then(whole);
    let max_prompt_chars = section.number("max_prompt_chars", longest_prompt, 1..=longest_prompt);
    let reference_image = section.flag("reference_image", false);
    let reference_image_matches_size = section.flag("reference_image_matches_size", false);
    let deadline = section.secs("deadline_secs", 1800, 10..=172_800);
    let available_until = section.day("available_until");
    let replacement = section.text("replacement");
    if seconds.is_empty() {
        section.problem("seconds", "must name at least one length");
    }
    if sizes.is_empty() {
        section.problem("sizes", "must name at least one size");
    }
    if name.as_deref().is_some_and(|name| !is_model_name(name)) {
        section.problem("name", "must have 1 to 64 letters, digits or . _ - : /");
    }
    Some(ModelConfig {
        name: name?,
        routes: routes?,
        overflow,
        price_credits: whole(price_credits)?,
        standard_seconds,
        seconds,
        default_seconds,
        sizes,
        default_size: default_size?,
        size_prices: credits_by(size_prices),
        length_prices: credits_by(length_prices),
        cost_credits,
        max_prompt_chars: usize::try_from(max_prompt_chars).unwrap_or(Prompt::MAX_CHARS),
        reference_image,
        reference_image_matches_size,
        deadline,
        available_until,
        replacement,
    })
}

/// `routes`, or `provider` and `upstream` for the only one. A route without `upstream` means the model's own name.
fn read_routes(section: &mut Section<'_>, model: Option<&str>) -> Option<Vec<RouteConfig>> {
    let Some(tables) = section.tables("routes") else {
        let provider = section.required_text("provider");
        let upstream = section.text("upstream").or_else(|| model.map(str::to_owned));
        return Some(vec![RouteConfig::new(&provider?, &upstream?)]);
    };
    for key in ["provider", "upstream"] {
        if section.text(key).is_some() {
            section.problem(key, "stands beside routes: say it in the routes");
        }
    }
    if tables.is_empty() {
        section.problem("routes", "must name at least one route");
    }
    let mut routes = Vec::new();
    let mut complete = !tables.is_empty();
    for (position, table) in tables.into_iter().enumerate() {
        let mut route = section.nested(&format!("routes number {}", position + 1), table);
        let provider = route.required_text("provider");
        let upstream = route.text("upstream").or_else(|| model.map(str::to_owned));
        let available_until = route.day("available_until");
        let cost_credits = route.optional_number("cost_credits", 0..=1_000_000_000).and_then(whole);
        route.finish();
        match (provider, upstream) {
            (Some(provider), Some(upstream)) => {
                routes.push(RouteConfig { provider, upstream, available_until, cost_credits });
            }
            _ => complete = false,
        }
    }
    complete.then_some(routes)
}

/// What is wrong with the models, each by itself and taken together.
pub fn problems_of_all(models: &[ModelConfig]) -> Vec<String> {
    let mut problems: Vec<String> = models.iter().flat_map(ModelConfig::problems).collect();
    let mut names = BTreeSet::new();
    for model in models.iter().filter(|model| !names.insert(model.name.as_str())) {
        problems.push(format!("model {:?} is there twice", model.name));
    }
    for model in models {
        if let Some(replacement) = model.replacement.as_deref().filter(|name| !names.contains(name)) {
            problems.push(format!("model {:?}: its replacement {replacement:?} is no model", model.name));
        }
    }
    problems
}

fn is_model_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b))
}

fn length(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn whole(number: u64) -> Option<Credits> {
    i64::try_from(number).ok().and_then(|number| Credits::new(number).ok())
}

fn credits_by<K: Ord>(numbers: BTreeMap<K, i64>) -> BTreeMap<K, Credits> {
    numbers.into_iter().filter_map(|(key, number)| Some((key, Credits::new(number).ok()?))).collect()
}

/// The models on offer without a file. Their accounts are called `sora` and `veo`.
///
/// 61, 183 and 595 credits are the list prices of a standard video. The larger sizes of `sora-2-pro` cost 5/3 of the
/// standard ones, as at the provider. A Veo second is no whole number of credits, so its shorter lengths have prices of
/// their own: their share of 595, rounded up.
pub fn built_in() -> Vec<ModelConfig> {
    const WIDE: Size = Size { width: 1280, height: 720 };
    const TALL: Size = Size { width: 720, height: 1280 };
    const LARGE_WIDE: Size = Size { width: 1792, height: 1024 };
    const LARGE_TALL: Size = Size { width: 1024, height: 1792 };
    let credits = |amount| Credits::new(amount).unwrap_or(Credits::ZERO);
    let sora = ModelConfig {
        name: "sora-2".to_owned(),
        routes: vec![RouteConfig::new("sora", "sora-2")],
        overflow: false,
        price_credits: credits(61),
        standard_seconds: 4,
        seconds: vec![4, 8, 12],
        default_seconds: 4,
        sizes: vec![WIDE, TALL],
        default_size: WIDE,
        size_prices: BTreeMap::new(),
        length_prices: BTreeMap::new(),
        cost_credits: None,
        max_prompt_chars: Prompt::MAX_CHARS,
        // it becomes the first frame
        reference_image: true,
        reference_image_matches_size: true,
        deadline: Duration::from_secs(1800),
        available_until: None,
        replacement: None,
    };
    let sora_pro = ModelConfig {
        name: "sora-2-pro".to_owned(),
        routes: vec![RouteConfig::new("sora", "sora-2-pro")],
        price_credits: credits(183),
        sizes: vec![WIDE, TALL, LARGE_WIDE, LARGE_TALL],
        size_prices: BTreeMap::from([(LARGE_WIDE, credits(305)), (LARGE_TALL, credits(305))]),
        ..sora.clone()
    };
    let veo = ModelConfig {
        name: "veo-3.1".to_owned(),
        routes: vec![RouteConfig::new("veo", "veo-3.1-generate-001")],
        price_credits: credits(595),
        standard_seconds: 8,
        seconds: vec![4, 6, 8],
        default_seconds: 8,
        length_prices: BTreeMap::from([(4, credits(298)), (6, credits(447))]),
        // The provider's bound is 1,024 tokens, at about four characters each.
        max_prompt_chars: 4_000,
        // fitted to the frame by the provider
        reference_image_matches_size: false,
        ..sora.clone()
    };
    vec![sora, sora_pro, veo]
}
