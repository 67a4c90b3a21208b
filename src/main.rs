//! The program `freezeframe`. Everything it can do is a command in [`freezeframe::cli`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(freezeframe::cli::run()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", freezeframe::cli::explain(&error));
            ExitCode::FAILURE
        }
    }
}
