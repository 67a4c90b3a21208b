//! The door for providers' callbacks: no API key, the signature is the permission. Not part of the customers' document.
//!
//! Always holds: a token that is not ours is refused before the body is read; whoever is not the vendor gets the same 401
//! whatever is wrong; a genuine call is answered within seconds, taken or not, and so is a repeated or late one. At most
//! [`AT_A_TIME`] calls are worked on at a time, none of them holds a connection to the database (they share the mailbox'
//! one), and while the database is away each is told to come again.
//! Refuses: to write a token, a body or a signature into a log; to say which accounts there are beside those that are asked
//! for by name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use poem::http::Method;
use poem::web::{Data, Json};
use poem::{Body, Request, handler};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::ApiState;
use super::error::ApiError;
use super::limits::read_whole;
use crate::callbacks::{About, Hint, Mailbox, Noted};
use crate::config::Live;
use crate::domain::AttemptId;
use crate::metrics;
use crate::providers::callbacks::{CallbackAccount, CallbackDesk, CallbackNews, CallbackRefusal, Delivery};

/// What vendors send is far below: an id, a state, the address of a file.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Calls that are verified or written at a time.
const AT_A_TIME: usize = 64;
/// How long the database may take for one; vendors want their answer within some seconds.
const NOTED_WITHIN: Duration = Duration::from_secs(2);
/// Forged calls are counted each, and told in the log so often at most.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What the door works with.
#[derive(Clone)]
pub struct CallbackDoor {
    desk: Live<CallbackDesk>,
    mailbox: Mailbox,
    turns: Arc<Semaphore>,
    warned: Arc<Mutex<Option<Instant>>>,
}

impl CallbackDoor {
    pub fn new(desk: Live<CallbackDesk>, mailbox: Mailbox) -> CallbackDoor {
        CallbackDoor { desk, mailbox, turns: Arc::new(Semaphore::new(AT_A_TIME)), warned: Arc::default() }
    }

    fn forged(&self, account: &CallbackAccount, why: &'static str) -> ApiError {
        count(account, "forged");
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(account = %account.name(), why, "a callback that is not the provider's was refused");
        }
        ApiError::forged_callback()
    }
}

/// `/callbacks/{account}/{token}`: about the attempt that the token names.
#[handler]
pub async fn of_attempt(request: &Request, body: Body, Data(state): Data<&ApiState>) -> Result<Json<Value>, ApiError> {
    let (door, account) = account(request, state)?;
    let token = request.raw_path_param("token").unwrap_or_default();
    let Some(attempt) = account.attempt_of(token) else {
        return Err(door.forged(&account, "its address was never given out"));
    };
    take(request, body, door, (&account, Some((token, attempt)))).await
}

/// `/callbacks/{account}`: about the job that the body names.
#[handler]
pub async fn of_project(request: &Request, body: Body, Data(state): Data<&ApiState>) -> Result<Json<Value>, ApiError> {
    let (door, account) = account(request, state)?;
    take(request, body, door, (&account, None)).await
}

fn account<'s>(request: &Request, state: &'s ApiState) -> Result<(&'s CallbackDoor, Arc<CallbackAccount>), ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed(request.method(), "POST"));
    }
    let door = state.callbacks.as_ref().ok_or_else(ApiError::no_callbacks)?;
    let account = request.raw_path_param("account").and_then(|name| door.desk.get().account(name));
    Ok((door, account.ok_or_else(ApiError::no_callbacks)?))
}

async fn take(
    request: &Request,
    body: Body,
    door: &CallbackDoor,
    (account, token): (&CallbackAccount, Option<(&str, AttemptId)>),
) -> Result<Json<Value>, ApiError> {
    let body = read_whole(request, body, MAX_BODY_BYTES).await.inspect_err(|_| count(account, "refused"))?;
    // taken only now: a body that comes slowly takes nobody's turn
    let Ok(_turn) = door.turns.try_acquire() else {
        count(account, "busy");
        return Err(ApiError::too_busy());
    };
    let delivery = Delivery { token, headers: request.headers(), body: &body, now: Utc::now() };
    let news = match account.verify(&delivery).await {
        Ok(Some(news)) => news,
        Ok(None) => return Ok(answer(account, "ignored")),
        Err(CallbackRefusal::Forged(why)) => return Err(door.forged(account, why)),
        Err(CallbackRefusal::NotOffered) => {
            count(account, "refused");
            return Err(ApiError::no_callbacks());
        }
        Err(CallbackRefusal::NoKeys(why)) => {
            count(account, "busy");
            tracing::warn!(account = %account.name(), %why, "a callback cannot be verified: the provider is told to repeat it");
            return Err(ApiError::unavailable("the signature cannot be verified now: repeat the call"));
        }
    };
    let Some(hint) = hint_of(account, token, news) else { return Ok(answer(account, "ignored")) };
    note(door, account, hint).await
}

fn hint_of(account: &CallbackAccount, token: Option<(&str, AttemptId)>, news: CallbackNews) -> Option<Hint> {
    let about = match (token, &news.job) {
        (Some((_, attempt)), _) => About::Attempt(attempt),
        (None, Some(job)) => About::Job(job.clone()),
        (None, None) => return None,
    };
    Some(Hint { account: account.name().clone(), about, job: news.job, ended: news.ended })
}

async fn note(door: &CallbackDoor, account: &CallbackAccount, hint: Hint) -> Result<Json<Value>, ApiError> {
    let about = hint.about.clone();
    match door.mailbox.note(hint, NOTED_WITHIN).await {
        Ok(Noted::New) => Ok(answer(account, "noted")),
        Ok(Noted::Again) => Ok(answer(account, "again")),
        Ok(Noted::Contradiction) => {
            tracing::warn!(account = %account.name(), ?about, "a callback names another job than an earlier one did");
            Ok(answer(account, "mismatch"))
        }
        Err(why) => {
            count(account, "busy");
            tracing::warn!(account = %account.name(), %why, "the provider is told to repeat a callback");
            Err(ApiError::unavailable("the database is busy or restarting: repeat the call"))
        }
    }
}

fn answer(account: &CallbackAccount, outcome: &'static str) -> Json<Value> {
    count(account, outcome);
    // what came of it is nobody else's business
    Json(json!({ "status": "ok" }))
}

fn count(account: &CallbackAccount, outcome: &'static str) {
    metrics::provider_callback(account.name(), outcome);
}
