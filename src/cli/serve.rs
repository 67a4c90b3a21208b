//! `freezeframe serve`: some of the roles, in as many processes on as many hosts as it takes.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};

use super::output;
use super::signals::{Ears, run_until_stopped};
use crate::config::Config;
use crate::service::{Parts, Roles, Service, Store};

/// Run some of the roles; any number of processes share the work.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// What this process does
    #[arg(long, value_enum, value_delimiter = ',', default_value = "api,worker,scheduler")]
    roles: Vec<Role>,
    /// Address and port of the API [default: the setting `listen`, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Answers requests
    Api,
    /// Makes videos, settles batches, delivers webhooks
    Worker,
    /// Decides which video may run; one of all processes leads, the others stand by
    Scheduler,
}

pub(super) async fn run(config: Config, args: ServeArgs) -> Result<ExitCode> {
    let has = |role| args.roles.contains(&role);
    let roles = Roles { api: has(Role::Api), worker: has(Role::Worker), scheduler: has(Role::Scheduler) };
    play(config, args.listen, roles).await
}

/// Plays the roles until a signal comes.
pub(super) async fn play(mut config: Config, listen: Option<SocketAddr>, roles: Roles) -> Result<ExitCode> {
    config.listen = listen.unwrap_or(config.listen);
    if config.providers.is_empty() {
        bail!(
            "no provider account is configured, so no video could be made: add [[provider]] sections to the settings \
             (freezeframe.example.toml shows how), or see it work with `freezeframe demo`"
        );
    }
    let scheme = config.http.scheme();
    let mut ears = Ears::open(&config)?;
    let store = Store::open(&config).await?;
    let started = tokio::select! {
        // a start may wait for a comparison of the books
        () = ears.told_to_stop() => Err(anyhow!("asked to stop before the start was over")),
        started = Service::start(&config, &store, roles, Parts::default()) => started,
    };
    let service = match started {
        Ok(service) => service,
        Err(error) => {
            store.release().await?;
            return Err(error);
        }
    };
    if let Some(address) = service.address {
        output::line(&format!("API      {scheme}://{address}/api/enterprise"))?;
        output::line(&format!("docs     {scheme}://{address}/docs"))?;
        match service.metrics_address {
            Some(own) => output::line(&format!("metrics  http://{own}/metrics"))?,
            None => output::line(&format!("metrics  {scheme}://{address}/metrics"))?,
        }
    }
    run_until_stopped(service, store, ears).await?;
    Ok(ExitCode::SUCCESS)
}
