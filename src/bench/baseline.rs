//! The plainest durable work of this Postgres at this moment: single-row updates, each its own commit, by 16 clients.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::Connection;
use tokio::task::JoinSet;

use crate::db::Database;

const CLIENTS: i32 = 16;

/// Commits per second over `time`.
///
/// # Errors
/// The database's.
pub(super) async fn commits_per_second(db: &Database, time: Duration) -> Result<f64> {
    let mut setup = db.engine_connection().await?;
    sqlx::query("create table if not exists bench_rows (id integer primary key, n bigint not null)")
        .execute(&mut setup)
        .await?;
    sqlx::query("insert into bench_rows select i, 0 from generate_series(1, $1) i on conflict do nothing")
        .bind(CLIENTS)
        .execute(&mut setup)
        .await?;
    let mut clients = JoinSet::new();
    let end = Instant::now() + time;
    for client in 1..=CLIENTS {
        let mut conn = db.engine_connection().await?;
        clients.spawn(async move {
            let mut commits = 0u64;
            while Instant::now() < end {
                sqlx::query("update bench_rows set n = n + 1 where id = $1").bind(client).execute(&mut conn).await?;
                commits += 1;
            }
            conn.close().await?;
            Ok::<_, sqlx::Error>(commits)
        });
    }
    let started = Instant::now();
    let mut commits = 0;
    while let Some(client) = clients.join_next().await {
        commits += client??;
    }
    Ok(commits as f64 / started.elapsed().as_secs_f64())
}
