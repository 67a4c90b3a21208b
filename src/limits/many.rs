//! The same limit for many subjects at once: statements in bulk, each subject with its own row in the history.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::change::one_at_a_time;
use super::{Rule, Scope};

/// Sets one limit for every subject, until `expires_at` if that is given, as [`set`](super::set) does for one. No subject may
/// be named twice.
///
/// # Errors
/// The database's.
pub async fn set_many(
    conn: &mut PgConnection,
    (scope, rule, subjects): (Scope, Rule, &[String]),
    (value, expires_at): (u32, Option<DateTime<Utc>>),
    (actor, reason): (&str, &str),
) -> Result<(), sqlx::Error> {
    one_at_a_time(&mut *conn).await?;
    sqlx::query!(
        "with old as (
             select subject, to_jsonb(l) as state from limits l
             where scope = $1 and rule = $2 and temporary = ($5::timestamptz is not null) and subject = any($3)),
         new as (
             insert into limits as l (scope, subject, rule, value, temporary, expires_at, set_by, reason)
             select $1::text, subject, $2::text, $4::integer, $5::timestamptz is not null, $5, $6::text, $7::text
             from unnest($3::text[]) as i (subject)
             on conflict (scope, subject, rule, temporary) do update
             set value = excluded.value, expires_at = excluded.expires_at, set_by = excluded.set_by,
                 reason = excluded.reason, set_at = now()
             returning l.subject, to_jsonb(l) as state)
         insert into limit_changes (actor, act, reason, scope, subject, rule, state_before, state_after)
         select $6, 'set', $7, $1, new.subject, $2, old.state, new.state
         from new left join old on old.subject = new.subject",
        scope.name(),
        rule.name(),
        subjects,
        value.cast_signed(),
        expires_at,
        actor,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes one limit away from every subject, with an end and without.
///
/// # Errors
/// The database's.
pub async fn clear_many(
    conn: &mut PgConnection,
    (scope, rule, subjects): (Scope, Rule, &[String]),
    (actor, reason): (&str, &str),
) -> Result<(), sqlx::Error> {
    one_at_a_time(&mut *conn).await?;
    sqlx::query!(
        "with gone as (
             delete from limits l where scope = $1 and rule = $2 and subject = any($3)
             returning l.subject, to_jsonb(l) as state)
         insert into limit_changes (actor, act, reason, scope, subject, rule, state_before, state_after)
         select $4::text, 'clear', $5::text, $1, subject, $2, state, null from gone",
        scope.name(),
        rule.name(),
        subjects,
        actor,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}
