//! Why a tenant's videos of a model start when they do: every rule that they pass, where it comes from, how much of it is
//! used, and when there is room again. Read from the database alone, so any process can say it.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::lane::OpenLane;
use super::release;
use super::routes::OpenRoutes;
use super::rules::Rules;
use super::spend;
use super::subject::Subject;
use super::turns;
use super::window::Window;
use super::{AccountLimits, RoutePlan};
use crate::accounts;
use crate::db::Database;
use crate::domain::{BatchId, TenantId};
use crate::limits::{self, Limits, Rule, Scope};

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// The settings file of the process that explains.
    Settings,
    /// What the tenant was made with.
    Tenant,
    /// Somebody set it.
    Set { by: String, reason: String, at: DateTime<Utc>, expires_at: Option<DateTime<Utc>> },
}

/// A rule, and what is used of it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleState {
    pub scope: Scope,
    pub subject: String,
    pub rule: Rule,
    /// 0 for a pause.
    pub limit: u32,
    pub source: Source,
    pub used: u32,
    /// When there is room again, if nothing else starts meanwhile; of a spend: for the model's dearest video. `None` while
    /// there is room, and for what is in flight: then whenever a video ends. Of a pause: when it ends by itself.
    pub free_at: Option<DateTime<Utc>>,
}

impl RuleState {
    pub fn is_full(&self) -> bool {
        self.used >= self.limit || self.free_at.is_some()
    }
}

/// A route of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteState {
    pub account: String,
    pub open: bool,
    /// Everything that stands against its account; `None` while nothing does.
    pub shut: Option<accounts::Shut>,
    pub rules: Vec<RuleState>,
}

/// Everything that decides when a tenant's next video of a model starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub rules: Vec<RuleState>,
    /// In the order in which they are tried.
    pub routes: Vec<RouteState>,
    /// Videos of the tenant and model that wait.
    pub waiting: i64,
    /// Of those: videos of batches that are paused, by their customer or an operator.
    pub waiting_paused: i64,
    /// Slots of living workers that are free.
    pub free_slots: i64,
    /// The next moment at which no rate is in the way; `None`: no route is open, or something is full that ends nobody knows
    /// when.
    pub next_free: Option<DateTime<Utc>>,
}

/// A question.
pub struct Asked<'a> {
    pub tenant: TenantId,
    pub model: &'a str,
    pub plan: &'a RoutePlan,
    /// A worker without heartbeat for this long offers no slots.
    pub worker_dead_after: std::time::Duration,
}

/// Explains; `None` when there is no such tenant.
///
/// # Errors
/// The database's.
pub async fn explain(db: &Database, asked: &Asked<'_>) -> Result<Option<Explanation>, sqlx::Error> {
    let mut conn = db.pool().acquire().await?;
    let conn = &mut *conn;
    let Some(seeds) = tenant_seeds(conn, asked.tenant).await? else { return Ok(None) };
    let limits = limits::in_force(conn).await?;
    let lanes = release::open_lanes(conn).await?;
    let under_way = release::under_way(conn).await?;
    let accounts = accounts::all(conn).await?;
    let rules = Rules { plan: asked.plan, limits: &limits };
    let open = OpenRoutes::new(&rules, &accounts, under_way.today);
    let windows = turns::windows(conn, under_way.now).await?;
    let busy = |is_it: &dyn Fn(&OpenLane) -> bool| -> i64 {
        lanes.iter().filter(|lane| is_it(lane)).map(|lane| i64::from(lane.in_flight)).sum()
    };
    let view = View { limits: &limits, windows: &windows };
    let id = asked.tenant.bare();
    let tenant_busy = busy(&|lane| lane.tenant == asked.tenant);
    let pauses = [(Scope::Tenant, &*id), (Scope::Model, asked.model)];
    let mut shown: Vec<RuleState> = pauses.iter().filter_map(|(scope, subject)| view.pause(*scope, subject)).collect();
    shown.extend([
        view.rate(Scope::Tenant, &id, Rule::VideosPerMinute, (seeds.0, Source::Tenant)),
        view.in_flight(Scope::Tenant, &id, (seeds.1, Source::Tenant), tenant_busy),
    ]);
    let (per_minute, at_once) = rules.model(asked.model);
    // only where somebody limited it, so what would hold otherwise is never shown
    shown.extend(
        per_minute.map(|rate| view.rate(Scope::Model, asked.model, Rule::VideosPerMinute, (rate, Source::Settings))),
    );
    let model_busy = busy(&|lane| lane.model == asked.model);
    shown.extend(at_once.map(|room| view.in_flight(Scope::Model, asked.model, (room, Source::Settings), model_busy)));
    let mut routes = routes(asked, &rules, (&open, &accounts), &view, &under_way.at_accounts);
    for route in &mut routes {
        let dearest = asked.plan.models.get(asked.model).map_or(1, |model| model.dearest_at(&route.account));
        route.rules.extend(spend_of(conn, &rules, &view, (&route.account, dearest)).await?);
    }
    let waiting = || lanes.iter().filter(|lane| lane.tenant == asked.tenant && lane.model == asked.model);
    let paused = |lane: &&OpenLane| lane.paused || limits.paused(Scope::Batch, &lane.batch.bare());
    let waiting_paused = waiting().filter(paused).map(|lane| i64::from(lane.waiting)).sum();
    let waiting = waiting().map(|lane| i64::from(lane.waiting)).sum();
    let dead_after_ms = i64::try_from(asked.worker_dead_after.as_millis()).unwrap_or(i64::MAX);
    let slots = crate::engine::queue::living_slots(conn, crate::engine::queue::names::GENERATE, dead_after_ms).await?;
    let in_flight = busy(&|_| true);
    let next_free = next_free(&shown, &routes, DateTime::from_timestamp_micros(under_way.now).unwrap_or_default());
    let free_slots = (slots - in_flight).max(0);
    Ok(Some(Explanation { rules: shown, routes, waiting, waiting_paused, free_slots, next_free }))
}

fn routes(
    asked: &Asked<'_>,
    rules: &Rules<'_>,
    (open, accounts): (&OpenRoutes<'_>, &[accounts::Account]),
    view: &View<'_>,
    at_accounts: &HashMap<String, i64>,
) -> Vec<RouteState> {
    let open: Vec<&str> =
        open.of(asked.model).unwrap_or_default().iter().map(|open| open.route.provider.as_str()).collect();
    let routes = asked.plan.models.get(asked.model).map(|model| model.routes.as_slice()).unwrap_or_default();
    let mut shown: Vec<RouteState> = Vec::new();
    for route in routes {
        let name = route.provider.as_str();
        if shown.iter().any(|known| known.account == name) {
            continue;
        }
        let Some(seeds) = rules.plan.accounts.get(name) else { continue };
        let AccountLimits { requests_per_minute, max_in_flight, .. } = *seeds;
        let busy = at_accounts.get(name).copied().unwrap_or(0);
        shown.push(RouteState {
            account: name.to_owned(),
            open: open.contains(&name),
            shut: accounts.iter().find(|account| account.name == name).and_then(accounts::Account::shut),
            rules: vec![
                view.rate(Scope::Account, name, Rule::RequestsPerMinute, (requests_per_minute, Source::Settings)),
                view.in_flight(Scope::Account, name, (max_in_flight, Source::Settings), busy),
            ],
        });
    }
    shown
}

/// The limit of an account's spend, if there is one; its window stands behind it.
async fn spend_of(
    conn: &mut PgConnection,
    rules: &Rules<'_>,
    view: &View<'_>,
    (account, dearest): (&str, i64),
) -> Result<Vec<RuleState>, sqlx::Error> {
    let Some(limit) = rules.account(account).and_then(|limits| limits.spend) else { return Ok(vec![]) };
    let (spent, free_at) = spend::state(conn, account, (limit, dearest)).await?;
    let used = u32::try_from(spent.max(0)).unwrap_or(u32::MAX);
    let secs = u32::try_from(limit.window.as_secs()).unwrap_or(u32::MAX);
    let state = |rule, seed, used, free_at| {
        let (limit, source) = view.limit(Scope::Account, account, rule, (seed, Source::Settings));
        RuleState { scope: Scope::Account, subject: account.to_owned(), rule, limit, source, used, free_at }
    };
    Ok(vec![state(Rule::SpendCredits, limit.credits, used, free_at), state(Rule::SpendWindowSecs, secs, 0, None)])
}

/// What limits and uses are looked up in.
struct View<'a> {
    limits: &'a Limits,
    windows: &'a BTreeMap<Subject, Window>,
}

impl View<'_> {
    fn limit(&self, scope: Scope, subject: &str, rule: Rule, (seed, source): (u32, Source)) -> (u32, Source) {
        self.limits.get(scope, subject, rule).map_or((seed, source), |limit| {
            let source = Source::Set {
                by: limit.set_by.clone(),
                reason: limit.reason.clone(),
                at: limit.set_at,
                expires_at: limit.expires_at,
            };
            (limit.value, source)
        })
    }

    /// The pause of a subject, if somebody paused it: a rule that leaves room for nothing.
    fn pause(&self, scope: Scope, subject: &str) -> Option<RuleState> {
        let free_at = self.limits.get(scope, subject, Rule::Paused)?.expires_at;
        let (_, source) = self.limit(scope, subject, Rule::Paused, (0, Source::Settings));
        Some(RuleState { scope, subject: subject.to_owned(), rule: Rule::Paused, limit: 0, source, used: 0, free_at })
    }

    fn rate(&self, scope: Scope, subject: &str, rule: Rule, seed: (u32, Source)) -> RuleState {
        let (limit, source) = self.limit(scope, subject, rule, seed);
        let whose = match scope {
            Scope::Tenant => TenantId::from_bare(subject).ok().map(Subject::Tenant),
            Scope::Account => Some(Subject::Account(subject.to_owned())),
            Scope::Model => Some(Subject::Model(subject.to_owned())),
            Scope::Batch => BatchId::from_bare(subject).ok().map(Subject::Batch),
        };
        let window = whose.and_then(|whose| self.windows.get(&whose));
        let used = window.map_or(0, Window::used);
        let free_at = window.and_then(|window| window.next_free(limit)).and_then(DateTime::from_timestamp_micros);
        RuleState { scope, subject: subject.to_owned(), rule, limit, source, used, free_at }
    }

    fn in_flight(&self, scope: Scope, subject: &str, seed: (u32, Source), used: i64) -> RuleState {
        let (limit, source) = self.limit(scope, subject, Rule::MaxInFlight, seed);
        let used = u32::try_from(used.max(0)).unwrap_or(u32::MAX);
        RuleState { scope, subject: subject.to_owned(), rule: Rule::MaxInFlight, limit, source, used, free_at: None }
    }
}

/// The earliest moment at which every rule of the tenant and model and of some open route has room.
fn next_free(rules: &[RuleState], routes: &[RouteState], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let of = |rules: &[RuleState]| {
        rules.iter().try_fold(now, |latest, rule| match rule.is_full() {
            true => rule.free_at.map(|free| free.max(latest)),
            false => Some(latest),
        })
    };
    let common = of(rules)?;
    routes.iter().filter(|route| route.open).filter_map(|route| of(&route.rules)).min().map(|route| route.max(common))
}

/// What a tenant was made with.
async fn tenant_seeds(conn: &mut PgConnection, tenant: TenantId) -> Result<Option<(u32, u32)>, sqlx::Error> {
    let row = sqlx::query!("select videos_per_minute, max_in_flight from tenants where id = $1", tenant as TenantId)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| (row.videos_per_minute.unsigned_abs(), row.max_in_flight.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(secs, 0).unwrap()
    }

    fn rule(used: u32, free_at: Option<i64>) -> RuleState {
        RuleState {
            scope: Scope::Tenant,
            subject: "x".to_owned(),
            rule: Rule::VideosPerMinute,
            limit: 10,
            source: Source::Settings,
            used,
            free_at: free_at.map(at),
        }
    }

    fn route(open: bool, rules: Vec<RuleState>) -> RouteState {
        RouteState { account: "lab".to_owned(), open, shut: None, rules }
    }

    #[test]
    fn the_next_free_moment_is_the_latest_of_what_must_pass_and_the_earliest_of_what_may() {
        let free = |rules: &[RuleState], routes: &[RouteState]| next_free(rules, routes, at(0));
        let room = || rule(3, None);
        assert_eq!(free(&[room()], &[route(true, vec![room()])]), Some(at(0)));
        assert_eq!(free(&[rule(10, Some(7)), room()], &[route(true, vec![room()])]), Some(at(7)));
        let two = [route(true, vec![rule(10, Some(9))]), route(true, vec![rule(10, Some(3)), room()])];
        assert_eq!(free(&[room()], &two), Some(at(3)));
        assert_eq!(free(&[rule(12, Some(5))], &two), Some(at(5)));
        assert_eq!(free(&[room()], &[route(false, vec![room()])]), None);
        assert_eq!(free(&[rule(10, None)], &[route(true, vec![room()])]), None, "full until something ends");
    }
}
