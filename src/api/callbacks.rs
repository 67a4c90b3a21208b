//! The door for providers' callbacks: no API key, the signature is the permission. Not part of the customers' document.
//!
//! Always holds: what can be refused without its body is refused before that is read: a token that is not ours, an address
//! that the account does not have, headers that no signature is in, a time that is not now. The body has [`BODY_WITHIN`] to
//! come and lies in the door's own memory, never in that of customers' orders; calls at an address that anybody knows never
//! take the memory of those whose token is ours. Whoever is not the vendor gets the same 401 whatever is wrong; a genuine
//! call is answered within seconds, taken or not, and so is a repeated or late one. At most [`AT_A_TIME`] calls are worked
//! on at a time, none of them holds a connection to the database (they share the mailbox' one), and while the database is
//! away each is told to come again.
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
use super::limits::{Bounds, read_within};
use super::server::BodyRoom;
use crate::callbacks::{About, Hint, Mailbox, Noted};
use crate::config::Live;
use crate::domain::AttemptId;
use crate::metrics;
use crate::providers::callbacks::{CallHead, CallbackAccount, CallbackDesk, CallbackNews, CallbackRefusal};

/// What vendors send is far below: an id, a state, the address of a file.
const MAX_BODY_BYTES: usize = 64 << 10;
/// How long a whole body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Memory for bodies of each of the two kinds of addresses: of [`AT_A_TIME`] of the longest, or of thousands as they are.
const ROOM_BYTES: usize = 4 << 20;
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
    /// For bodies at addresses with a token that we gave out, and at those that are known to anybody.
    rooms: (BodyRoom, BodyRoom),
    turns: Arc<Semaphore>,
    warned: Arc<Mutex<Option<Instant>>>,
}

impl CallbackDoor {
    pub fn new(desk: Live<CallbackDesk>, mailbox: Mailbox) -> CallbackDoor {
        let rooms = (BodyRoom::new(ROOM_BYTES), BodyRoom::new(ROOM_BYTES));
        CallbackDoor { desk, mailbox, rooms, turns: Arc::new(Semaphore::new(AT_A_TIME)), warned: Arc::default() }
    }

    fn bounds(&self, head: &CallHead<'_>) -> Bounds {
        let room = if head.token.is_some() { &self.rooms.0 } else { &self.rooms.1 };
        Bounds { room: room.clone(), max_bytes: MAX_BODY_BYTES, within: BODY_WITHIN }
    }

    fn refused(&self, account: &CallbackAccount, why: CallbackRefusal) -> ApiError {
        match why {
            CallbackRefusal::Forged(why) => self.forged(account, why),
            CallbackRefusal::NotOffered => {
                count(account, "refused");
                ApiError::no_callbacks()
            }
            CallbackRefusal::NoKeys(why) => {
                count(account, "busy");
                let account = account.name();
                tracing::warn!(%account, %why, "a callback cannot be verified: the provider is told to repeat it");
                ApiError::unavailable("the signature cannot be verified now: repeat the call")
            }
        }
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
    let head = CallHead { token, headers: request.headers(), now: Utc::now() };
    account.glance(&head).map_err(|why| door.refused(account, why))?;
    let unread = |error: &ApiError| count(account, if error.is_passing() { "busy" } else { "refused" });
    let body = read_within(door.bounds(&head), request, body).await.inspect_err(unread)?;
    // taken only now: a body that comes slowly takes nobody's turn
    let Ok(_turn) = door.turns.try_acquire() else {
        count(account, "busy");
        return Err(ApiError::too_busy());
    };
    let news = account.verify(&head, &body).await.map_err(|why| door.refused(account, why))?;
    match news.and_then(|news| hint_of(account, token, news)) {
        Some(hint) => note(door, account, hint).await,
        None => Ok(answer(account, "ignored")),
    }
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
