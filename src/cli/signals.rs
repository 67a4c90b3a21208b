//! Ctrl-C and SIGTERM: the first asks for a graceful stop, the second ends at once. SIGHUP: the settings are read again, as
//! they are a few seconds after their file has changed.

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::service::{Service, SettingsWatch, Store};

/// Listens for all from the moment it is made: from then on none ends the process by itself.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals> {
        let of = |kind| signal(kind).context("signals cannot be received");
        Ok(Signals {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }

    /// Resolves with the next signal to stop.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a running service is told.
enum Told {
    Stop,
    ReadSettings,
}

/// Lets the service run until a signal to stop comes, then stops it and releases the store. Reads the settings again
/// whenever that is asked for, or their file has changed.
///
/// # Errors
/// When a role ended by itself, or not everything was handed over.
pub(super) async fn run_until_stopped(
    mut service: Service,
    store: Store,
    mut signals: Signals,
    config: &Config,
) -> Result<()> {
    let mut settings = SettingsWatch::new(config.file.clone());
    loop {
        let told = tokio::select! {
            _ = signals.interrupt.recv() => Told::Stop,
            _ = signals.terminate.recv() => Told::Stop,
            _ = signals.hang_up.recv() => Told::ReadSettings,
            () = settings.changed() => Told::ReadSettings,
            ended = service.failed() => {
                ended?;
                bail!("a role of this process ended although nobody asked it to");
            }
        };
        match told {
            Told::ReadSettings => service.offer.reload_and_tell(settings.file()),
            Told::Stop => {
                eprintln!("stopping: work under way is handed over (once more to stop at once)");
                return stop(service, store, signals).await;
            }
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
