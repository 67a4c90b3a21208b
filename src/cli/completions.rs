//! `freezeframe completions`: what a shell needs to complete our commands.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::{Shell, generate};

use super::output;

const EXAMPLES: &str = "\
Examples:
  eval \"$(freezeframe completions bash)\"               # a line of ~/.bashrc
  freezeframe completions zsh > ~/.zfunc/_freezeframe
  freezeframe completions fish > ~/.config/fish/completions/freezeframe.fish";

/// Print what a shell needs to complete commands.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// Whose language it is
    #[arg(value_enum)]
    shell: Known,
}

#[derive(Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: CompletionsArgs, mut command: clap::Command) -> Result<ExitCode> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut command, "freezeframe", &mut script);
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
