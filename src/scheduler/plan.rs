//! What the settings offer: the routes of each model, what their videos cost there, and what each account takes.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDate;

use super::spend::{SpendLimit, VideoCost};

/// A way to have a model's videos made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub provider: String,
    pub upstream_model: String,
    /// The last day (UTC) on which new videos go there.
    pub available_until: Option<NaiveDate>,
    /// What each video on offer may cost us there.
    pub costs: Arc<[VideoCost]>,
}

impl Route {
    pub(super) fn over(&self, today: NaiveDate) -> bool {
        self.available_until.is_some_and(|last_day| today > last_day)
    }

    /// What the cheapest video costs there, 1 credit at the least.
    pub(super) fn cheapest(&self) -> i64 {
        self.costs.iter().map(|cost| cost.credits).min().unwrap_or(1).max(1)
    }

    /// What the dearest video costs there, 1 credit at the least.
    pub(super) fn dearest(&self) -> i64 {
        self.costs.iter().map(|cost| cost.credits).max().unwrap_or(1).max(1)
    }

    /// What a video costs there on the average of those on offer, 1 credit at the least.
    pub(super) fn mean_cost(&self) -> f64 {
        let all: i64 = self.costs.iter().map(|cost| cost.credits).sum();
        (all as f64 / self.costs.len().max(1) as f64).max(1.0)
    }
}

/// Where a model's videos are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRoutes {
    /// The preferred one first.
    pub routes: Vec<Route>,
    /// Whether a video may take the next route while the account of an earlier one is full.
    pub overflow: bool,
}

/// What a provider account takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountLimits {
    pub requests_per_minute: u32,
    pub max_in_flight: u32,
    pub spend: Option<SpendLimit>,
}

/// The present routes of all models and the limits of the accounts they lead to.
#[derive(Clone, Debug, Default)]
pub struct RoutePlan {
    pub models: HashMap<String, ModelRoutes>,
    pub accounts: HashMap<String, AccountLimits>,
}

impl ModelRoutes {
    /// What its dearest video costs at an account, 1 credit at the least.
    pub(super) fn dearest_at(&self, account: &str) -> i64 {
        self.routes.iter().filter(|route| route.provider == account).map(Route::dearest).max().unwrap_or(1)
    }
}

impl RoutePlan {
    /// What the dearest video that can be ordered costs at an account, and its model.
    pub fn dearest_at(&self, account: &str) -> Option<(i64, &str)> {
        let led = |model: &ModelRoutes| model.routes.iter().any(|route| route.provider == account);
        let models = self.models.iter().filter(|(_, model)| led(model));
        models.map(|(name, model)| (model.dearest_at(account), name.as_str())).max()
    }
}
