//! Limits over HTTP: list, set, clear, explain.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::shown::{LimitChanges, LimitOrigin, LimitShown};
use super::{OperatorState, Topic, change, json_of, look, valid};
use crate::api::error::ApiError;
use crate::api::limits::JsonBody;
use crate::api::words::Word;
use crate::control::ask;
use crate::control::words::{self, Whose, shown_subject};
use crate::limits::{Rule, Scope};
use crate::operators;
use crate::scheduler::{Explanation, RouteState, RuleState, Source};

pub struct LimitsApi;

#[OpenApi(tag = "Topic::Limits")]
impl LimitsApi {
    /// List the limits that somebody set
    ///
    /// Pauses are among them. Where nobody set any, the settings hold, and what each tenant was made with.
    #[oai(path = "/limits", method = "get", operation_id = "listLimits")]
    async fn list(&self, _caller: Caller, Data(state): Data<&OperatorState>) -> Result<Json<LimitList>, ApiError> {
        let all = look(state.controls.limits()).await?;
        Ok(Json(LimitList { data: all.into_iter().map(|(limit, holds)| LimitShown::new(limit, holds)).collect() }))
    }

    /// Set limits of a tenant, an account or a model
    ///
    /// All of them or none. With `until` or `for` they have an end, and what was there before holds again then.
    #[oai(path = "/limits/:scope/:subject", method = "put", operation_id = "setLimits")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn set(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        /// `tenant`, `account` or `model`.
        scope: Path<String>,
        /// The id of a tenant, or the name of an account or a model.
        subject: Path<String>,
        body: JsonBody<SetLimits>,
    ) -> Result<Json<LimitChanges>, ApiError> {
        let changer = caller.may_change()?;
        let whose = whose(&scope.0, &subject.0)?;
        let wanted = valid(ask::limits(&json_of(body).await?, whose.scope))?;
        let said = changer.says(wanted.reason);
        let changed = change(state.controls.set_limits(&whose, &wanted.values, wanted.until, &said)).await?;
        Ok(Json(LimitChanges::new(changed)))
    }

    /// Take limits of a tenant, an account or a model away
    ///
    /// What stood behind them holds again. Pauses stay: see `/resume`. Answers the limits that there were.
    #[oai(path = "/limits/:scope/:subject", method = "delete", operation_id = "clearLimits")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn clear(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        /// `tenant`, `account` or `model`.
        scope: Path<String>,
        /// The id of a tenant, or the name of an account or a model.
        subject: Path<String>,
        /// Only this rule; may be given several times.
        rule: Query<Option<Vec<Word<Rule>>>>,
        /// Only limits with an end.
        temporary: Query<Option<bool>>,
        /// Why, for those who find it.
        reason: Query<String>,
    ) -> Result<Json<LimitChanges>, ApiError> {
        let changer = caller.may_change()?;
        let whose = whose(&scope.0, &subject.0)?;
        let rules = rule.0.unwrap_or_default().into_iter().map(|Word(rule)| words::rule_of(whose.scope, rule));
        let rules: Vec<Rule> =
            rules.collect::<Result<_, String>>().map_err(|why| ApiError::bad_parameter("rule", why))?;
        let reason = operators::reason(&reason.0).map_err(|why| ApiError::bad_parameter("reason", why))?;
        let (temporary, said) = (temporary.0.unwrap_or(false), changer.says(reason));
        let cleared = change(state.controls.clear_limits(&whose, &rules, temporary, &said)).await?;
        Ok(Json(LimitChanges::new(cleared)))
    }

    /// Explain when a tenant's next video of a model starts
    ///
    /// Every rule that it passes: where the limit comes from, how much of it is used, and when there is room again.
    #[oai(path = "/limits/explain", method = "get", operation_id = "explainLimits")]
    async fn explain(
        &self,
        _caller: Caller,
        Data(state): Data<&OperatorState>,
        /// The id of a tenant.
        tenant: Query<String>,
        /// The name of a model.
        model: Query<String>,
    ) -> Result<Json<LimitsExplained>, ApiError> {
        let tenant = tenant.0.parse();
        let tenant = tenant.map_err(|why| ApiError::bad_parameter("tenant", format!("is {why}")))?;
        let found = look(state.controls.explain(tenant, &model.0)).await?;
        Ok(Json(found.into()))
    }
}

/// Whose limits an address names.
fn whose(scope: &str, subject: &str) -> Result<Whose, ApiError> {
    let limited = || Scope::ALL.into_iter().filter(|scope| !scope.rules().is_empty());
    let scope = limited().find(|known| known.name() == scope).ok_or_else(|| {
        let names = limited().map(Scope::name).collect::<Vec<_>>().join(", ");
        ApiError::not_found(format!("limits are those of: {names}"))
    })?;
    Whose::new(scope, subject).map_err(|why| ApiError::not_found(format!("the {} in the address: {why}", scope.name())))
}

/// Limits to be set. Unknown fields are refused.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct SetLimits {
    /// Numbers by the name of their rule, such as `{"videos_per_minute": 600}`.
    values: BTreeMap<String, u32>,
    /// Until when.
    until: Option<DateTime<Utc>>,
    /// For how long, in place of `until`: a whole number of `m`, `h` or `d`, such as `90m`.
    #[oai(rename = "for")]
    span: Option<String>,
    /// Why, for those who find it: 1 to 1,000 characters.
    #[oai(validator(min_length = 1, max_length = 1_000))]
    reason: String,
}

/// Every limit that somebody set, by what it limits.
#[derive(Object)]
struct LimitList {
    data: Vec<LimitShown>,
}

/// Everything that decides when a tenant's next video of a model starts.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct LimitsExplained {
    rules: Vec<RuleExplained>,
    /// In the order in which they are tried.
    routes: Vec<RouteExplained>,
    /// Videos of the tenant and model that wait.
    waiting: i64,
    /// Of those: videos of batches that are paused, by their customer or an operator.
    waiting_paused: i64,
    /// Slots of living workers that are free.
    free_slots: i64,
    /// The next moment at which no rate is in the way; absent when nobody knows.
    next_free: Option<DateTime<Utc>>,
}

/// A rule, and what is used of it now.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct RuleExplained {
    scope: Word<Scope>,
    subject: String,
    rule: Word<Rule>,
    limit: u32,
    origin: LimitOrigin,
    /// Who set it, with `set`.
    set_by: Option<String>,
    reason: Option<String>,
    set_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    used: u32,
    /// When there is room again; absent while there is, and where that depends on the end of a video.
    free_at: Option<DateTime<Utc>>,
}

/// A route of the model.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct RouteExplained {
    account: String,
    open: bool,
    /// What stands against its account.
    shut: Option<String>,
    rules: Vec<RuleExplained>,
}

impl From<RuleState> for RuleExplained {
    fn from(state: RuleState) -> RuleExplained {
        let plain = RuleExplained {
            scope: Word(state.scope),
            subject: shown_subject(state.scope, &state.subject),
            rule: Word(state.rule),
            limit: state.limit,
            origin: LimitOrigin::Settings,
            set_by: None,
            reason: None,
            set_at: None,
            expires_at: None,
            used: state.used,
            free_at: state.free_at,
        };
        match state.source {
            Source::Settings => plain,
            Source::Tenant => RuleExplained { origin: LimitOrigin::Tenant, ..plain },
            Source::Set { by, reason, at, expires_at } => RuleExplained {
                origin: LimitOrigin::Set,
                set_by: Some(by),
                reason: Some(reason),
                set_at: Some(at),
                expires_at,
                ..plain
            },
        }
    }
}

impl From<RouteState> for RouteExplained {
    fn from(state: RouteState) -> RouteExplained {
        RouteExplained {
            account: state.account,
            open: state.open,
            shut: state.shut.map(|shut| shut.name().to_owned()),
            rules: state.rules.into_iter().map(RuleExplained::from).collect(),
        }
    }
}

impl From<Explanation> for LimitsExplained {
    fn from(found: Explanation) -> LimitsExplained {
        LimitsExplained {
            rules: found.rules.into_iter().map(RuleExplained::from).collect(),
            routes: found.routes.into_iter().map(RouteExplained::from).collect(),
            waiting: found.waiting,
            waiting_paused: found.waiting_paused,
            free_slots: found.free_slots,
            next_free: found.next_free,
        }
    }
}
