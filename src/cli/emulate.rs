//! `freezeframe emulate`: the pretended provider as a process of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::output;
use super::signals::Signals;
use crate::emulator::{Emulator, EmulatorSettings, Profile};

/// Run a video provider that only pretends, with faults on request.
#[derive(Args)]
pub(super) struct EmulateArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The same seed meets the same faults again
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How it behaves
    #[arg(long, value_enum, default_value = "calm")]
    profile: Character,
    /// The key that it asks for
    #[arg(long, value_name = "KEY", default_value = "emulator-key")]
    api_key: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Character {
    /// Fast and without faults
    Calm,
    /// Takes seconds; some words in prompts cause faults
    Demo,
    /// Every kind of fault, by chance
    #[value(alias = "faulty")]
    Rough,
}

pub(super) async fn run(args: EmulateArgs) -> Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let profile = match args.profile {
        Character::Calm => Profile::calm(),
        Character::Demo => Profile::demo(),
        Character::Rough => Profile::rough(),
    };
    let settings = EmulatorSettings { listen: args.listen, seed: args.seed, api_key: args.api_key, profile };
    let emulator = Emulator::start(settings).await?;
    output::line(&format!("base_url  {}", emulator.base_url()))?;
    output::line(&format!("control   {}", emulator.control_url()))?;
    output::line(&format!("seed      {}", args.seed))?;
    signals.next().await;
    emulator.stop().await?;
    Ok(ExitCode::SUCCESS)
}
