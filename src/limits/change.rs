//! Changing limits: each change is one act with its row in the history.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::LimitKey;
use crate::db::Database;

/// A limit before and after an act, as rows of the table; `None` where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// Sets several limits at once, all until `expires_at` if that is given; what is set without an end stays behind it.
///
/// # Errors
/// The database's; nothing was set then.
pub async fn set(
    db: &Database,
    values: &[(LimitKey, u32)],
    expires_at: Option<DateTime<Utc>>,
    (actor, reason): (&str, &str),
) -> Result<Vec<Changed>, sqlx::Error> {
    let (values, actor, reason) = (values.to_vec(), actor.to_owned(), reason.to_owned());
    db.act("set limits", move |tx| {
        let (values, actor, reason) = (values.clone(), actor.clone(), reason.clone());
        Box::pin(async move {
            one_at_a_time(tx).await?;
            let mut changed = Vec::with_capacity(values.len());
            for (key, value) in &values {
                let before = row_of(tx, key, expires_at.is_some()).await?;
                sqlx::query!(
                    "insert into limits (scope, subject, rule, value, temporary, expires_at, set_by, reason)
                     values ($1, $2, $3, $4, $5, $6, $7, $8)
                     on conflict (scope, subject, rule, temporary) do update
                     set value = excluded.value, expires_at = excluded.expires_at, set_by = excluded.set_by,
                         reason = excluded.reason, set_at = now()",
                    key.scope.name(),
                    key.subject,
                    key.rule.name(),
                    value.cast_signed(),
                    expires_at.is_some(),
                    expires_at,
                    actor,
                    reason,
                )
                .execute(&mut **tx)
                .await?;
                let after = row_of(tx, key, expires_at.is_some()).await?;
                changed.push(Changed { before, after });
            }
            noted(tx, "set", values.iter().map(|(key, _)| key), &changed, (&actor, &reason)).await?;
            Ok(changed)
        })
    })
    .await
}

/// Takes limits away, those with an end and, unless `only_temporary`, those without: what stands behind them holds again.
/// Answers those that there were.
///
/// # Errors
/// The database's; nothing was taken away then.
pub async fn clear(
    db: &Database,
    keys: &[LimitKey],
    only_temporary: bool,
    (actor, reason): (&str, &str),
) -> Result<Vec<(LimitKey, Changed)>, sqlx::Error> {
    let (keys, actor, reason) = (keys.to_vec(), actor.to_owned(), reason.to_owned());
    db.act("clear limits", move |tx| {
        let (keys, actor, reason) = (keys.clone(), actor.clone(), reason.clone());
        Box::pin(async move {
            one_at_a_time(tx).await?;
            let mut cleared = Vec::new();
            let kinds = if only_temporary { vec![true] } else { vec![true, false] };
            let each: Vec<(bool, &LimitKey)> =
                kinds.iter().flat_map(|kind| keys.iter().map(|key| (*kind, key))).collect();
            for (temporary, key) in each {
                let Some(before) = row_of(tx, key, temporary).await? else { continue };
                sqlx::query!(
                    "delete from limits where scope = $1 and subject = $2 and rule = $3 and temporary = $4",
                    key.scope.name(),
                    key.subject,
                    key.rule.name(),
                    temporary,
                )
                .execute(&mut **tx)
                .await?;
                cleared.push((key.clone(), Changed { before: Some(before), after: None }));
            }
            let changed: Vec<Changed> = cleared.iter().map(|(_, changed)| changed.clone()).collect();
            noted(tx, "clear", cleared.iter().map(|(key, _)| key), &changed, (&actor, &reason)).await?;
            Ok(cleared)
        })
    })
    .await
}

/// Keeps other changes out until the transaction ends. Changes are committed in the order of their ids, or a reader that knows
/// the highest would miss one; and who chooses by what is set has to choose after this.
///
/// # Errors
/// The database's.
pub async fn one_at_a_time(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("lock table limits in share row exclusive mode").execute(conn).await?;
    Ok(())
}

async fn row_of(conn: &mut PgConnection, key: &LimitKey, temporary: bool) -> Result<Option<Value>, sqlx::Error> {
    let row = sqlx::query_scalar!(
        r#"select to_jsonb(l) as "row!" from limits l
           where scope = $1 and subject = $2 and rule = $3 and temporary = $4"#,
        key.scope.name(),
        key.subject,
        key.rule.name(),
        temporary,
    );
    row.fetch_optional(conn).await
}

async fn noted(
    conn: &mut PgConnection,
    act: &str,
    keys: impl Iterator<Item = &LimitKey> + Clone,
    changed: &[Changed],
    (actor, reason): (&str, &str),
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into limit_changes (actor, act, reason, scope, subject, rule, state_before, state_after)
         select $1, $2, $3, i.* from unnest($4::text[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[]) as i",
        actor,
        act,
        reason,
        &keys.clone().map(|key| key.scope.name().to_owned()).collect::<Vec<_>>(),
        &keys.clone().map(|key| key.subject.clone()).collect::<Vec<_>>(),
        &keys.map(|key| key.rule.name().to_owned()).collect::<Vec<_>>(),
        &changed.iter().map(|one| one.before.clone()).collect::<Vec<_>>() as &[Option<Value>],
        &changed.iter().map(|one| one.after.clone()).collect::<Vec<_>>() as &[Option<Value>],
    )
    .execute(conn)
    .await?;
    Ok(())
}
