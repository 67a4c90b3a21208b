//! Logging: one subscriber for the process. Field names carry their units; ids are fields, never parts of a sentence;
//! prompts and secrets are never logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging to standard error, so that a command's output stays its own. Calling it again does nothing.
///
/// # Errors
/// When `filter` is not a valid filter.
pub fn install(filter: &str, json: bool) -> Result<(), tracing_subscriber::filter::ParseError> {
    // the server's notices say what a migration skipped; a filter that names them has the last word
    let filter = EnvFilter::builder().parse(format!("sqlx::postgres::notice=warn,{filter}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    // a subscriber that stands already (of a test, say) is as good
    let _ = if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal());
        registry.with(layer.with_writer(std::io::stderr)).try_init()
    };
    Ok(())
}
