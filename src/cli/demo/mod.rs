//! `freezeframe demo`: a customer orders twenty videos, some fail, and every credit is accounted for.
//!
//! Everything is real but the provider: the database, every role, HTTP, signatures, files. See [`stage`] for why
//! it cannot do harm. The exit code is 0 only if everything came out as promised.

mod display;
mod outcome;
mod play;
mod prompts;
mod receiver;
mod stage;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::output;
use super::signals::Signals;
use crate::config::{Config, LogConfig};
use display::Screen;
use outcome::Outcome;
use play::play;
use stage::Stage;

/// Play a batch of 20 videos against the emulator and show where every credit went.
#[derive(Args)]
pub(super) struct DemoArgs {
    /// End after the summary instead of leaving everything running until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// Print the summary as one JSON object, the last line of standard output; all else goes to standard error
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: DemoArgs) -> Result<ExitCode> {
    // the display tells what happens; a warning about a fault that was ordered would only break it
    let filter = if config.log.filter == "info" { "error".to_owned() } else { config.log.filter.clone() };
    super::start_logging(&LogConfig { filter, json: config.log.json })?;
    let mut signals = Signals::listen()?;
    let mut screen = Screen::new(args.json);
    screen.curtain()?;
    let mut stage = Stage::set(config).await?;
    let played = perform(&mut stage, &mut screen, &mut signals, &args).await;
    stage.clear(signals).await?;
    played
}

async fn perform(stage: &mut Stage, screen: &mut Screen, signals: &mut Signals, args: &DemoArgs) -> Result<ExitCode> {
    screen.scenery(stage)?;
    let outcome = tokio::select! {
        outcome = play(stage, screen) => outcome?,
        () = signals.next() => bail!("interrupted before the batch was settled"),
    };
    screen.outcome(&outcome)?;
    let code = verdict(&outcome);
    if !args.exit {
        screen.left_running(stage, &outcome)?;
    }
    if args.json {
        output::line(&serde_json::to_string(&outcome.summary())?)?;
    }
    if !args.exit {
        stage.wait(signals).await?;
        screen.curtain_call();
    }
    Ok(code)
}

fn verdict(outcome: &Outcome) -> ExitCode {
    let broken = outcome.broken_promises();
    for promise in &broken {
        eprintln!("not as promised: {promise}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
