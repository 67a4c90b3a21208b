//! What limits hold in a round: those that somebody set, else the settings', else what a tenant was made with.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lane::OpenLane;
use super::{AccountLimits, RoutePlan, SpendLimit};
use crate::domain::TenantId;
use crate::limits::{Limits, Rule, Scope};

/// The window of a limit of spend for which nobody set any: Google's.
const USUAL_SPEND_WINDOW: Duration = Duration::from_secs(600);
/// The weight of a tenant for whom nobody set any.
const USUAL_WEIGHT: u32 = 1;

pub(super) struct Rules<'a> {
    pub(super) plan: &'a RoutePlan,
    pub(super) limits: &'a Limits,
}

impl Rules<'_> {
    /// Videos per minute and at once.
    pub(super) fn tenant(&self, lane: &OpenLane) -> (u32, u32) {
        let seeds = (lane.videos_per_minute.unsigned_abs(), lane.max_in_flight.unsigned_abs());
        if self.limits.is_empty() {
            return seeds;
        }
        let id = lane.tenant.bare();
        let value = |rule, otherwise| self.limits.value_or(Scope::Tenant, &id, rule, otherwise);
        (value(Rule::VideosPerMinute, seeds.0), value(Rule::MaxInFlight, seeds.1))
    }

    /// Whether an operator paused the tenant, the model or the batch, or the customer the batch.
    pub(super) fn paused(&self, lane: &OpenLane) -> bool {
        let by_operator = || {
            self.limits.paused(Scope::Tenant, &lane.tenant.bare())
                || self.limits.paused(Scope::Model, &lane.model)
                || self.limits.paused(Scope::Batch, &lane.batch.bare())
        };
        lane.paused || (!self.limits.is_empty() && by_operator())
    }

    /// Whether an operator paused the model.
    pub(super) fn model_is_paused(&self, name: &str) -> bool {
        self.limits.paused(Scope::Model, name)
    }

    /// A tenant's weight beside others.
    pub(super) fn weight(&self, tenant: TenantId) -> u32 {
        if self.limits.is_empty() {
            return USUAL_WEIGHT;
        }
        self.limits.value_or(Scope::Tenant, &tenant.bare(), Rule::Weight, USUAL_WEIGHT)
    }

    /// What [`Rules::tenant`] says of a tenant, said of a model, where anybody limited it.
    pub(super) fn model(&self, name: &str) -> (Option<u32>, Option<u32>) {
        let value = |rule| self.limits.get(Scope::Model, name, rule).map(|limit| limit.value);
        (value(Rule::VideosPerMinute), value(Rule::MaxInFlight))
    }

    /// `None`: there is no such account.
    pub(super) fn account(&self, name: &str) -> Option<AccountLimits> {
        let seeds = self.plan.accounts.get(name)?;
        let value = |rule, otherwise| self.limits.value_or(Scope::Account, name, rule, otherwise);
        Some(AccountLimits {
            requests_per_minute: value(Rule::RequestsPerMinute, seeds.requests_per_minute),
            max_in_flight: value(Rule::MaxInFlight, seeds.max_in_flight),
            spend: self.spend(name, seeds.spend),
        })
    }

    fn spend(&self, account: &str, seed: Option<SpendLimit>) -> Option<SpendLimit> {
        let set = |rule| self.limits.get(Scope::Account, account, rule).map(|limit| limit.value);
        let credits = set(Rule::SpendCredits).or(seed.map(|seed| seed.credits))?;
        let secs = set(Rule::SpendWindowSecs).map(|secs| Duration::from_secs(secs.into()));
        Some(SpendLimit { credits, window: secs.or(seed.map(|seed| seed.window)).unwrap_or(USUAL_SPEND_WINDOW) })
    }

    /// The accounts whose spend is limited.
    pub(super) fn spend_limits(&self) -> BTreeMap<&str, SpendLimit> {
        let each = self.plan.accounts.iter();
        each.filter_map(|(name, seeds)| Some((name.as_str(), self.spend(name, seeds.spend)?))).collect()
    }
}
