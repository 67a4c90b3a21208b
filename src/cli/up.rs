//! `freezeframe up`: every role in one process.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::serve;
use crate::config::Config;
use crate::service::Roles;

/// Run everything in this one process until Ctrl-C.
#[derive(Args)]
pub(super) struct UpArgs {
    /// Address and port of the API [default: the setting `listen`, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

pub(super) async fn run(config: Config, args: UpArgs) -> Result<ExitCode> {
    serve::play(config, args.listen, Roles::ALL).await
}
