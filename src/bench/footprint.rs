//! What a run cost: row writes, transactions, WAL and CPU, as deltas of the database's and the kernel's own counters.

use anyhow::Result;

use crate::db::Database;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footprint {
    pub(super) row_writes: i64,
    pub(super) transactions: i64,
    pub(super) wal_bytes: i64,
    /// User and system time of the server's processes for this database, where they run on this machine.
    pub(super) postgres_cpu_ms: i64,
    pub(super) own_cpu_ms: i64,
}

impl Footprint {
    /// # Errors
    /// The database's.
    pub(super) async fn take(db: &Database) -> Result<Footprint> {
        // a backend reports its counters when it has been idle for a second
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        let (row_writes, transactions, wal_bytes): (i64, i64, i64) = sqlx::query_as(
            "select (select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables),
                 (select xact_commit from pg_stat_database where datname = current_database()),
                 pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint",
        )
        .fetch_one(db.pool())
        .await?;
        let backends: Vec<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where datname = current_database() or datname is null",
        )
        .fetch_all(db.pool())
        .await?;
        let postgres_cpu_ms = backends.into_iter().map(|pid| cpu_ms(&pid.to_string())).sum();
        Ok(Footprint { row_writes, transactions, wal_bytes, postgres_cpu_ms, own_cpu_ms: cpu_ms("self") })
    }

    pub(super) fn since(self, earlier: Footprint) -> Footprint {
        Footprint {
            row_writes: self.row_writes - earlier.row_writes,
            transactions: self.transactions - earlier.transactions,
            wal_bytes: self.wal_bytes - earlier.wal_bytes,
            postgres_cpu_ms: self.postgres_cpu_ms - earlier.postgres_cpu_ms,
            own_cpu_ms: self.own_cpu_ms - earlier.own_cpu_ms,
        }
    }
}

/// CPU time of a process so far; 0 where it cannot be read. Fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms.
fn cpu_ms(pid: &str) -> i64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0 };
    // the command's name may hold anything, but ends with the last bracket
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<i64>().ok()).sum::<i64>() * 10
}
