//! One leader in the cluster, by a lease row. Its epoch grows with every change of holder and fences what a leader writes.

use std::time::Duration;

use sqlx::PgConnection;
use ulid::Ulid;

use crate::db::Database;

/// This process' claim to lead.
pub(super) struct Leadership {
    name: &'static str,
    holder: String,
    ttl: Duration,
    epoch: Option<i64>,
}

impl Leadership {
    pub(super) fn new(name: &'static str, ttl: Duration) -> Leadership {
        Leadership { name, holder: format!("{}-{}", std::process::id(), Ulid::generate()), ttl, epoch: None }
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// `Some` while this process leads, as far as it knows.
    pub(super) fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    /// Renews the lease, or takes it when its holder has let it run out.
    pub(super) async fn renew(&mut self, db: &Database) -> Result<bool, sqlx::Error> {
        self.epoch = sqlx::query_scalar!(
            "insert into leader_leases as l (name, holder, expires_at) values ($1, $2, now() + $3 * interval '1 ms')
             on conflict (name) do update set holder = excluded.holder, expires_at = excluded.expires_at,
                 epoch = l.epoch + (l.holder <> excluded.holder)::integer
             where l.holder = excluded.holder or l.expires_at < now()
             returning epoch",
            self.name,
            self.holder,
            self.ttl.as_millis() as f64,
        )
        .fetch_optional(db.pool())
        .await?;
        Ok(self.epoch.is_some())
    }

    /// Lets the lease go, so that the next leader need not wait for it to run out.
    pub(super) async fn resign(&mut self, db: &Database) {
        let resigned = sqlx::query!(
            "update leader_leases set expires_at = now() where name = $1 and holder = $2",
            self.name,
            self.holder
        )
        .execute(db.pool())
        .await;
        if let Err(error) = resigned {
            tracing::warn!(%error, "the leader's lease was not given back; it runs out by itself");
        }
        self.epoch = None;
    }
}

/// Whether the holder still leads under this epoch; locks the lease until the transaction ends, so that no other leader
/// can begin meanwhile.
pub(super) async fn still_leads(conn: &mut PgConnection, holder: &str, epoch: i64) -> Result<bool, sqlx::Error> {
    let row = sqlx::query!(
        "select epoch from leader_leases where holder = $1 and epoch = $2 and expires_at > now() for share",
        holder,
        epoch
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}
