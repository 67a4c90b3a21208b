//! Ctrl-C and SIGTERM: the first asks for a graceful stop, the second ends at once.

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::service::{Service, Store};

/// Listens for both from the moment it is made: from then on neither ends the process by itself.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals> {
        let of = |kind| signal(kind).context("signals cannot be received");
        Ok(Signals { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    /// Resolves with the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Lets the service run until a signal comes, then stops it and releases the store.
///
/// # Errors
/// When a role ended by itself, or not everything was handed over.
pub(super) async fn run_until_stopped(mut service: Service, store: Store, mut signals: Signals) -> Result<()> {
    tokio::select! {
        () = signals.next() => {
            eprintln!("stopping: work under way is handed over (once more to stop at once)");
            stop(service, store, signals).await
        }
        ended = service.failed() => {
            ended?;
            bail!("a role of this process ended although nobody asked it to");
        }
    }
}

/// Stops gracefully; a second signal ends the wait.
///
/// # Errors
/// When not everything was handed over.
pub(super) async fn stop(service: Service, store: Store, mut signals: Signals) -> Result<()> {
    let graceful = async {
        service.stop().await?;
        store.release().await
    };
    tokio::select! {
        stopped = graceful => stopped,
        () = signals.next() => bail!("stopped at once; whatever was under way is resumed by the next process"),
    }
}
