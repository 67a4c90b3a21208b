//! Provider accounts over HTTP: list, stop, start.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::{OperatorState, Topic, change, json_of, look, valid};
use crate::accounts::{Account, Changed, Shut};
use crate::api::error::ApiError;
use crate::api::limits::JsonBody;
use crate::control::{AccountState, ask};

pub struct AccountsApi;

#[OpenApi(tag = "Topic::Accounts")]
impl AccountsApi {
    /// List the provider accounts
    ///
    /// Whether each takes videos, and if not, why and until when.
    #[oai(path = "/accounts", method = "get", operation_id = "listAccounts")]
    async fn list(&self, _caller: Caller, Data(state): Data<&OperatorState>) -> Result<Json<AccountList>, ApiError> {
        let all = look(state.controls.accounts()).await?;
        Ok(Json(AccountList { data: all.into_iter().map(AccountShown::from).collect() }))
    }

    /// Stop an account
    ///
    /// Nothing new goes there until it is started; what is under way there goes on. Stopping it again renews the reason.
    #[oai(path = "/accounts/:name/stop", method = "post", operation_id = "stopAccount")]
    async fn stop(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        /// The account, as in the settings.
        name: Path<String>,
        body: JsonBody<Reason>,
    ) -> Result<Json<AccountChanged>, ApiError> {
        let changer = caller.may_change()?;
        let said = changer.says(valid(ask::reason(&json_of(body).await?))?);
        Ok(Json(change(state.controls.stop_account(&name.0, &said)).await?.into()))
    }

    /// Start an account
    ///
    /// It gets videos again, whatever stood against it. What is still true is soon learned again.
    #[oai(path = "/accounts/:name/start", method = "post", operation_id = "startAccount")]
    async fn start(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        /// The account, as in the settings.
        name: Path<String>,
        body: JsonBody<Reason>,
    ) -> Result<Json<AccountChanged>, ApiError> {
        let changer = caller.may_change()?;
        let said = changer.says(valid(ask::reason(&json_of(body).await?))?);
        let started = state.controls.start_account(&name.0, (&said.by, Some(&said.reason)));
        Ok(Json(change(started).await?.into()))
    }
}

/// Why something is changed. Unknown fields are refused.
#[derive(Object)]
pub struct Reason {
    /// For those who find it: 1 to 1,000 characters.
    #[oai(validator(min_length = 1, max_length = 1_000))]
    reason: String,
}

/// Every account of the settings or of the database, by name.
#[derive(Object)]
struct AccountList {
    data: Vec<AccountShown>,
}

/// A provider account.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct AccountShown {
    #[oai(flatten)]
    stands: AccountStands,
    /// Videos released or running there.
    in_flight: i64,
    /// Whether these settings name it.
    configured: bool,
    /// As the settings say; a limit that somebody set stands before it.
    max_in_flight: Option<u32>,
    /// As the settings say; a limit that somebody set stands before it.
    requests_per_minute: Option<u32>,
    /// What the videos may cost us that begin there in any `spend_window_secs` seconds, as the settings say; a limit that
    /// somebody set stands before it. Absent while the settings limit nothing.
    spend_credits: Option<u32>,
    spend_window_secs: Option<u64>,
}

/// What stands against an account.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct AccountStands {
    name: String,
    /// `open`, `stopped`, `refused`, `out_of_quota`, `circuit_open` or `cooling`: the heaviest of them.
    state: String,
    stopped_at: Option<DateTime<Utc>>,
    stopped_by: Option<String>,
    stop_reason: Option<String>,
    /// Until when it rests because its provider asked for a pause.
    cooled_until: Option<DateTime<Utc>>,
    cool_cause: Option<String>,
    quota_exhausted_at: Option<DateTime<Utc>>,
    refused_at: Option<DateTime<Utc>>,
    /// Since when its circuit is open, because orders failed there one after the other.
    circuit_opened_at: Option<DateTime<Utc>>,
    /// Orders that failed in a row lately, while the circuit is closed.
    circuit_faults: u32,
    /// From when on one video may try whether it is back.
    probe_at: Option<DateTime<Utc>>,
}

/// An account before and after a change.
#[derive(Object)]
struct AccountChanged {
    before: AccountStands,
    after: AccountStands,
}

impl From<Account> for AccountStands {
    fn from(account: Account) -> AccountStands {
        AccountStands {
            state: account.shut().map_or("open", Shut::name).to_owned(),
            name: account.name,
            stopped_at: account.stopped_at,
            stopped_by: account.stopped_by,
            stop_reason: account.stop_reason,
            cooled_until: account.cooled_until,
            cool_cause: account.cool_cause,
            quota_exhausted_at: account.quota_exhausted_at,
            refused_at: account.refused_at,
            circuit_opened_at: account.circuit_opened_at,
            circuit_faults: account.circuit_faults.unsigned_abs(),
            probe_at: account.probe_at,
        }
    }
}

impl From<AccountState> for AccountShown {
    fn from(state: AccountState) -> AccountShown {
        AccountShown {
            stands: state.account.into(),
            in_flight: state.in_flight,
            configured: state.limits.is_some(),
            max_in_flight: state.limits.map(|limits| limits.max_in_flight),
            requests_per_minute: state.limits.map(|limits| limits.requests_per_minute),
            spend_credits: state.limits.and_then(|limits| limits.spend).map(|spend| spend.credits),
            spend_window_secs: state.limits.and_then(|limits| limits.spend).map(|spend| spend.window.as_secs()),
        }
    }
}

impl From<Changed> for AccountChanged {
    fn from(changed: Changed) -> AccountChanged {
        AccountChanged { before: changed.before.into(), after: changed.after.into() }
    }
}
