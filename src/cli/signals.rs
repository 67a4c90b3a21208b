//! Ctrl-C and SIGTERM: the first asks for a graceful stop, the second ends at once. SIGHUP: a server reads its settings
//! again, as it does a few seconds after their file has changed; when it is its terminal that has gone, it stops.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::service::{Service, SettingsWatch, Store};

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

    /// Resolves with the next signal to stop.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Listens for SIGHUP from the moment it is made.
struct HangUps {
    signal: Signal,
    /// Whether the process was started from a terminal.
    attached: bool,
}

impl HangUps {
    fn listen() -> Result<HangUps> {
        let signal = signal(SignalKind::hangup()).context("signals cannot be received")?;
        Ok(HangUps { signal, attached: io::stdin().is_terminal() })
    }

    async fn next(&mut self) -> Told {
        self.signal.recv().await;
        if self.attached && !io::stdin().is_terminal() { Told::Stop } else { Told::ReadSettings }
    }
}

/// What a running service is told.
enum Told {
    Stop,
    ReadSettings,
}

/// What a server listens to.
pub(super) struct Ears {
    signals: Signals,
    hang_ups: HangUps,
    settings: SettingsWatch,
}

impl Ears {
    /// From now on no signal ends the process by itself, and no change of the settings file is missed.
    pub(super) fn open(config: &Config) -> Result<Ears> {
        let settings = SettingsWatch::new(config.file.clone());
        Ok(Ears { signals: Signals::listen()?, hang_ups: HangUps::listen()?, settings })
    }

    /// Resolves with the first signal to stop that comes while the service is not there yet.
    pub(super) async fn told_to_stop(&mut self) {
        self.signals.next().await;
    }
}

/// Lets the service run until a signal to stop comes, then stops it and releases the store. Reads the settings again
/// whenever that is asked for, or their file has changed.
///
/// # Errors
/// When a role ended by itself, or not everything was handed over.
pub(super) async fn run_until_stopped(mut service: Service, store: Store, ears: Ears) -> Result<()> {
    let Ears { mut signals, mut hang_ups, mut settings } = ears;
    loop {
        let told = tokio::select! {
            () = signals.next() => Told::Stop,
            told = hang_ups.next() => told,
            () = settings.changed() => Told::ReadSettings,
            ended = service.failed() => {
                ended?;
                bail!("a role of this process ended although nobody asked it to");
            }
        };
        match told {
            Told::ReadSettings => service.offer.reload_and_tell(settings.reading()),
            Told::Stop => {
                // the terminal may be gone: nobody reads, and that is no reason to panic
                let _ = writeln!(io::stderr(), "stopping: work under way is handed over (once more to stop at once)");
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
        let stopped = service.stop().await;
        // also when not everything was handed over
        let released = store.release().await;
        stopped.and(released)
    };
    tokio::select! {
        stopped = graceful => stopped,
        () = signals.next() => bail!("stopped at once; whatever was under way is resumed by the next process"),
    }
}
