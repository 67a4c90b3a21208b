//! What every session has in common, and the question asked before a pooled one is lent.
//!
//! Settings travel in the startup packet, so no connection can exist without them and `reset all` brings them back. A proxy that pools
//! by transaction between us and the server would drop them and is not supported.

use std::str::FromStr;

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use super::DatabaseSettings;

/// Ends a session whose client began a transaction and then went silent, so that its locks do not stay. Nothing of ours
/// does anything else between two statements of a transaction, so these are seconds of silence that nobody needs.
const IDLE_IN_TRANSACTION: &str = "5s";
/// How often the server looks whether the client of a running statement is still there.
const CLIENT_LOOK: &str = "1s";
/// A temporary table never stands before one of ours.
const SEARCH_PATH: &str = "public,pg_temp";
/// When the server believes that a client across the network is gone: the first two ask after silence, the last one gives
/// up on an answer that is not taken. They mean nothing on a unix socket.
const TCP: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

pub(super) fn options(settings: &DatabaseSettings, engine_plans: bool) -> Result<PgConnectOptions> {
    let timeout = |limit: std::time::Duration| format!("{}ms", limit.as_millis());
    let mut options = PgConnectOptions::from_str(&settings.url)
        .with_context(|| format!("not a database address: {}", redact(&settings.url)))?
        .application_name(&settings.application_name)
        .options([
            ("timezone", "UTC"),
            ("search_path", SEARCH_PATH),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
            ("client_connection_check_interval", CLIENT_LOOK),
            ("statement_timeout", &timeout(settings.statement_timeout)),
            ("lock_timeout", &timeout(settings.lock_timeout)),
        ])
        .options(TCP);
    if engine_plans {
        options = options.options([("jit", "off"), ("enable_seqscan", "off"), ("enable_bitmapscan", "off")]);
    }
    if let Some(role) = &settings.role {
        options = options.options([("role", role)]);
    }
    Ok(options)
}

/// Whether a pooled connection may be lent: alive and outside any transaction.
///
/// The driver's own depth misses a `BEGIN` whose future was dropped, and it keeps the server's transaction status to
/// itself. `begin_with` shows it: it runs the statement and then answers `BeginFailed` exactly when the server is not in a
/// transaction. A failed transaction refuses the statement. One round trip, the same as a ping.
pub(super) async fn is_fit(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        tracing::warn!("a pooled connection came back inside a transaction; closing it");
        return Ok(false);
    }
    match connection.begin_with("select").await {
        Err(sqlx::Error::BeginFailed) => Ok(true),
        Ok(_) => {
            tracing::warn!("a cancelled caller left a transaction open on a pooled connection; closing it");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A database address without its password, for logs and errors.
pub fn redact(address: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(address) else {
        return "(not an address)".to_owned();
    };
    let host = parsed.query_pairs().find(|(key, _)| key == "host").map(|(_, value)| value.into_owned());
    // Other parameters may be secrets as well (`password`, `sslkey`).
    parsed.set_query(host.map(|host| format!("host={host}")).as_deref());
    parsed.set_fragment(None);
    if parsed.password().is_some() && parsed.set_password(Some("***")).is_err() {
        return "(not an address)".to_owned();
    }
    parsed.to_string()
}
