//! Sending what buys, once.
//!
//! Always holds: every send of one run carries the same idempotency key, so that a lost answer is repeated and never bought
//! twice; the key is told before the first byte goes out, so that another run can go on with it.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;
use ulid::Ulid;

use crate::cli::client::{CallError, Submitted};
use crate::cli::output::{self, amount, count, plain};
use crate::cli::signals::Signals;

const MAX_KEY_CHARS: usize = 255;
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(super) struct SendArgs {
    /// Idempotency key: repeating the same batch with it buys nothing [default: a new one]
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    key: Option<String>,
    /// How long an unreachable or busy service is tried again
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_for: u64,
}

fn idempotency_key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("must have 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"));
    }
    Ok(text.to_owned())
}

impl SendArgs {
    /// The key that was given, or a new one.
    pub(super) fn key(&self) -> String {
        self.key.clone().unwrap_or_else(|| format!("cli-{}", Ulid::generate()))
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.retry_for)
    }

    /// Sends until an answer comes that a repetition would not change, or somebody stops it. `explain` puts a refusal into
    /// words of the command line.
    pub(super) async fn send(
        &self,
        call: impl AsyncFn() -> Result<Submitted, CallError>,
        (signals, key): (&mut Signals, &str),
        explain: impl FnOnce(CallError) -> anyhow::Error,
    ) -> Result<Submitted> {
        tokio::select! {
            sent = until_answered(call, self.patience()) => sent.map_err(|unsent| refused(unsent, key, explain)),
            () = signals.next() => {
                Err(anyhow!("stopped before an answer came; whether the batch was accepted is not known: {}", again(key)))
            }
        }
    }
}

/// Why the service did not take the batch, and whether it may have taken it all the same.
struct Unsent {
    error: CallError,
    may_have_arrived: bool,
}

async fn until_answered(
    call: impl AsyncFn() -> Result<Submitted, CallError>,
    patience: Duration,
) -> Result<Submitted, Unsent> {
    let began = Instant::now();
    let (mut may_have_arrived, mut attempt) = (false, 0);
    loop {
        let error = match call().await {
            Ok(submitted) => return Ok(submitted),
            Err(error) => error,
        };
        // refused requests leave nothing behind; only an answer that is missing leaves a doubt
        let unknown = error.may_have_arrived() && !matches!(&error, CallError::Refused(_))
            || matches!(error.kind(), "outcome-unknown" | "internal" | "key-in-flight");
        may_have_arrived |= unknown;
        let backoff = Duration::from_millis(500) * 2u32.pow(attempt.min(5));
        let pause = error.retry_after().unwrap_or(backoff.min(LONGEST_PAUSE));
        if !error.passes() || began.elapsed() + pause > patience {
            return Err(Unsent { error, may_have_arrived });
        }
        output::aside(&format!("{}; trying again in {:.1} s with the same key", error.brief(), pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

fn refused(unsent: Unsent, key: &str, explain: impl FnOnce(CallError) -> anyhow::Error) -> anyhow::Error {
    let Unsent { error, may_have_arrived } = unsent;
    match error {
        CallError::Refused(ref problem) if problem.names_places() => explain(error),
        error if may_have_arrived => {
            anyhow!("{error}; whether the batch was accepted is not known: {}", again(key))
        }
        error @ (CallError::Unreachable { .. } | CallError::Busy { .. }) => anyhow!("{error}; nothing was sent"),
        error => explain(error),
    }
}

fn again(key: &str) -> String {
    format!("run the same command again with --key {key}; the same batch with the same key is never bought twice")
}

/// Tells what was accepted; with `json` the watched batch is the document, when it is watched.
pub(super) fn announce(submitted: &Submitted, key: &str, (json, watch): (bool, bool)) -> Result<()> {
    let receipt = &submitted.receipt.value;
    let id = plain(&receipt.batch_id);
    if submitted.replayed {
        output::aside("this key was used for the same batch before: nothing was bought again");
    }
    if json {
        if !watch {
            let mut document = submitted.receipt.raw.clone();
            document["idempotency_key"] = json!(key);
            document["replayed"] = json!(submitted.replayed);
            output::json(&document)?;
        }
        return Ok(());
    }
    let frozen = amount(receipt.frozen_credits);
    output::line(&format!("{id} accepted: {}, {frozen} credits frozen", count(receipt.total, "video")))?;
    if !watch {
        output::aside(&format!("next: freezeframe batch watch {id}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::idempotency_key;

    #[test]
    fn a_key_that_the_service_would_refuse_is_refused_here() {
        assert!(idempotency_key("spring-1").is_ok() && idempotency_key(&"k".repeat(255)).is_ok());
        for wrong in ["", "two words", "é", &"k".repeat(256)] {
            assert!(idempotency_key(wrong).is_err(), "{wrong}");
        }
    }
}
