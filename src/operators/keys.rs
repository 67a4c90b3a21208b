//! Operators and their keys: made, listed, revoked, recognised.

use serde_json::json;
use sqlx::PgConnection;

use super::{Act, Listed, Operator, OperatorKey, Role, note};
use crate::db::{ActError, Database};

/// Why an operator is not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error("there is an operator {0:?} already: revoke that key first, or choose another name")]
    Taken(String),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for AddError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            AddError::Database(error) => Some(error),
            AddError::Taken(_) => None,
        }
    }
}

/// Adds an operator, whose name was looked at; answers the key, which nobody can read again.
///
/// # Errors
/// [`AddError`]; nobody was added then.
pub async fn add(db: &Database, new: &Operator, by: &str) -> Result<OperatorKey, AddError> {
    let key = OperatorKey::generate();
    let (new, by, hash, hint) = (new.clone(), by.to_owned(), key.hash(), key.hint());
    db.act("add operator", move |tx| {
        let (new, by, hint) = (new.clone(), by.clone(), hint.clone());
        Box::pin(async move {
            let added = sqlx::query!(
                "insert into operators (key_hash, key_hint, name, role) values ($1, $2, $3, $4)
                 on conflict (name) where revoked_at is null do nothing",
                &hash[..],
                hint,
                new.name,
                new.role.name(),
            )
            .execute(&mut **tx)
            .await?;
            if added.rows_affected() == 0 {
                return Err(AddError::Taken(new.name));
            }
            let about = json!({ "operator": new.name, "role": new.role.name(), "key": hint });
            note(tx, &Act { name: "add_operator", by: &by, reason: None, about, batches: &[] }).await?;
            Ok(())
        })
    })
    .await?;
    Ok(key)
}

/// Revokes the key of an operator; `false` when no operator of that name has one in force.
///
/// # Errors
/// The database's; nothing was revoked then.
pub async fn revoke(db: &Database, name: &str, by: &str) -> Result<bool, sqlx::Error> {
    let (name, by) = (name.to_owned(), by.to_owned());
    db.act("revoke operator", move |tx| {
        let (name, by) = (name.clone(), by.clone());
        Box::pin(async move {
            let revoked = sqlx::query!(
                "update operators set revoked_at = now() where name = $1 and revoked_at is null returning role, key_hint",
                name,
            )
            .fetch_optional(&mut **tx)
            .await?;
            let Some(revoked) = revoked else { return Ok(false) };
            let about = json!({ "operator": name, "role": revoked.role, "key": revoked.key_hint });
            note(tx, &Act { name: "revoke_operator", by: &by, reason: None, about, batches: &[] }).await?;
            Ok(true)
        })
    })
    .await
}

/// Every operator there is and was, by name, the oldest first.
///
/// # Errors
/// The database's.
pub async fn list(db: &Database) -> Result<Vec<Listed>, sqlx::Error> {
    let rows = sqlx::query!(
        "select name, role, key_hint, created_at, revoked_at from operators order by name, created_at, key_hash",
    )
    .fetch_all(db.pool())
    .await?;
    let listed = rows.into_iter().map(|row| {
        let operator = Operator { role: stored_role(&row.role)?, name: row.name };
        Ok(Listed { operator, key_hint: row.key_hint, created_at: row.created_at, revoked_at: row.revoked_at })
    });
    listed.collect()
}

/// The operator of a key that is in force, by the key's hash.
///
/// # Errors
/// The database's.
pub async fn authenticate(conn: &mut PgConnection, key_hash: [u8; 32]) -> Result<Option<Operator>, sqlx::Error> {
    let row =
        sqlx::query!("select name, role from operators where key_hash = $1 and revoked_at is null", &key_hash[..],)
            .fetch_optional(conn)
            .await?;
    row.map(|row| Ok(Operator { role: stored_role(&row.role)?, name: row.name })).transpose()
}

fn stored_role(name: &str) -> Result<Role, sqlx::Error> {
    Role::from_name(name).ok_or_else(|| sqlx::Error::Decode(format!("an operator has the role {name:?}").into()))
}
