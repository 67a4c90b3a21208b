//! What operators do to many batches at once, across tenants: cancel, pause, resume, by a filter.
//!
//! Always holds: an empty filter changes nothing; an action first tells what it would change, and is done only to as many
//! batches as its operator expects; it is one transaction with its row in the history, in bulk. Only batches that have not
//! ended are chosen, and of those only the ones that the action changes: what is cancelled is not cancelled again.
//! Refuses: to move money, to touch videos, to know whether a tenant or a model exists.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::cancel::cancel_open;
use crate::db::{ActError, Database};
use crate::domain::{BatchId, BatchStatus, TenantId};
use crate::limits::{self, Rule, Scope};
use crate::operators::{self, Act, Said};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As the customer would.
    Cancel,
    /// Until then, or until somebody resumes.
    Pause(Option<DateTime<Utc>>),
    /// Takes an operator's pauses of the batches themselves away; those of their tenant or model stay.
    Resume,
}

impl Action {
    /// Every action by its name; a pause without an end.
    pub const ALL: [Action; 3] = [Action::Cancel, Action::Pause(None), Action::Resume];

    pub const fn name(self) -> &'static str {
        match self {
            Action::Cancel => "cancel",
            Action::Pause(_) => "pause",
            Action::Resume => "resume",
        }
    }

    fn until(self) -> Option<DateTime<Utc>> {
        match self {
            Action::Pause(until) => until,
            Action::Cancel | Action::Resume => None,
        }
    }
}

/// Which batches: those that everything given fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub tenant: Option<TenantId>,
    /// With videos of it, and perhaps of others.
    pub model: Option<String>,
    pub status: Option<BatchStatus>,
    /// Ordered before.
    pub created_before: Option<DateTime<Utc>>,
    /// Ordered then or later.
    pub created_after: Option<DateTime<Utc>>,
    pub ids: Option<Vec<BatchId>>,
}

impl Filter {
    /// Whether it names nothing, and would choose every batch.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// What was asked for, for the history.
    fn told(&self, action: Action) -> Value {
        let fields = [
            ("tenant", self.tenant.map(|id| json!(id))),
            ("model", self.model.as_ref().map(|model| json!(model))),
            ("status", self.status.map(|status| json!(status.word()))),
            ("created_before", self.created_before.map(|at| json!(at))),
            ("created_after", self.created_after.map(|at| json!(at))),
            ("ids", self.ids.as_ref().map(|ids| json!(ids))),
            ("until", action.until().map(|at| json!(at))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }
}

/// Batches that an action changes, or has changed, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    pub ids: Vec<BatchId>,
    /// Videos of theirs that wait.
    pub waiting: u64,
}

impl Affected {
    pub fn batches(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error("the filter is empty: it would choose every batch of every tenant; name at least one thing")]
    EmptyFilter,
    #[error("{expected} batches were expected, and it would be {present} now")]
    Differs { expected: u32, present: u32 },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for BulkError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            BulkError::Database(error) => Some(error),
            BulkError::EmptyFilter | BulkError::Differs { .. } => None,
        }
    }
}

/// What the action would change now.
///
/// # Errors
/// [`BulkError`].
pub async fn preview(db: &Database, action: Action, filter: &Filter) -> Result<Affected, BulkError> {
    if filter.is_empty() {
        return Err(BulkError::EmptyFilter);
    }
    Ok(chosen(&mut *db.pool().acquire().await?, action, filter).await?)
}

/// Does it, if it changes exactly as many batches as are expected; answers them.
///
/// # Errors
/// [`BulkError`]; nothing was changed then.
pub async fn apply(
    db: &Database,
    action: Action,
    (filter, expected): (&Filter, u32),
    said: &Said,
) -> Result<Affected, BulkError> {
    if filter.is_empty() {
        return Err(BulkError::EmptyFilter);
    }
    let (filter, said) = (filter.clone(), said.clone());
    db.act("change batches in bulk", move |tx| {
        let (filter, said) = (filter.clone(), said.clone());
        Box::pin(async move {
            // who pauses or resumes chooses by the pauses that there are, so nobody else changes them meanwhile
            if !matches!(action, Action::Cancel) {
                limits::one_at_a_time(tx).await?;
            }
            let affected = chosen(tx, action, &filter).await?;
            as_expected(expected, affected.batches())?;
            // what changes nothing is nothing to tell
            if affected.ids.is_empty() {
                return Ok(affected);
            }
            change(tx, action, (&affected.ids, expected), &said).await?;
            let (about, batches) = (filter.told(action), affected.ids.as_slice());
            let Said { by, reason } = &said;
            operators::note(tx, &Act { name: action.name(), by, reason: Some(reason), about, batches }).await?;
            Ok(affected)
        })
    })
    .await
}

fn as_expected(expected: u32, present: u32) -> Result<(), BulkError> {
    if expected == present { Ok(()) } else { Err(BulkError::Differs { expected, present }) }
}

async fn change(
    conn: &mut PgConnection,
    action: Action,
    (ids, expected): (&[BatchId], u32),
    said: &Said,
) -> Result<(), BulkError> {
    let subjects: Vec<String> = ids.iter().map(|id| id.bare()).collect();
    let pauses = (Scope::Batch, Rule::Paused, subjects.as_slice());
    match action {
        Action::Cancel => {
            // one of them may have ended since they were chosen
            let cancelled = cancel_open(conn, ids).await?;
            as_expected(expected, u32::try_from(cancelled.len()).unwrap_or(u32::MAX))
        }
        Action::Pause(until) => Ok(limits::set_many(conn, pauses, (1, until), said.parts()).await?),
        Action::Resume => Ok(limits::clear_many(conn, pauses, said.parts()).await?),
    }
}

/// Those of these ids that are no batch's.
///
/// # Errors
/// The database's.
pub async fn unknown(conn: &mut PgConnection, ids: &[BatchId]) -> Result<Vec<BatchId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select id as "id!: BatchId" from unnest($1::text[]) as i (id)
           where not exists (select from batches b where b.id = i.id)"#,
        &ids.iter().map(|id| id.bare()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await
}

/// Whether a batch that has not ended has videos of that model, whatever the settings say of it today.
///
/// # Errors
/// The database's.
pub async fn has_model(conn: &mut PgConnection, model: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select exists (select from batch_lanes where model = $1 and not closed) as "has!""#, model,)
        .fetch_one(conn)
        .await
}

struct Chosen {
    id: BatchId,
    waiting: i64,
}

async fn chosen(conn: &mut PgConnection, action: Action, filter: &Filter) -> Result<Affected, sqlx::Error> {
    let ids: Option<Vec<String>> = filter.ids.as_ref().map(|ids| ids.iter().map(|id| id.bare()).collect());
    let rows = sqlx::query_file_as!(
        Chosen,
        "src/batches/bulk.sql",
        filter.tenant as Option<TenantId>,
        filter.model.as_deref(),
        filter.status as Option<BatchStatus>,
        filter.created_before,
        filter.created_after,
        ids.as_deref(),
        action.name(),
        action.until(),
        Scope::Batch.name(),
        Rule::Paused.name(),
    )
    .fetch_all(conn)
    .await?;
    Ok(Affected {
        waiting: rows.iter().map(|row| row.waiting.unsigned_abs()).sum(),
        ids: rows.into_iter().map(|row| row.id).collect(),
    })
}
