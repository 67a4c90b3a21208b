//! `freezeframe bench`: how fast, beside what the same Postgres does at its plainest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use super::output::{self, Table};
use crate::bench::{self, EngineBench, EngineReport};
use crate::config::Config;

/// Measure speed on this machine; nothing of it touches the real database.
#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Batches over HTTP with a provider that answers at once: POST to settled and told
    Engine(EngineArgs),
}

#[derive(Args)]
struct EngineArgs {
    #[arg(long, default_value_t = 20)]
    batches: usize,
    #[arg(long, default_value_t = 500)]
    videos: usize,
    /// Batches posted at once
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Of 1,000 videos this many are refused and refunded
    #[arg(long, default_value_t = 50)]
    refused: usize,
    /// Seconds of each of the two baseline runs
    #[arg(long, default_value_t = 3)]
    baseline_secs: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: BenchArgs) -> Result<ExitCode> {
    let Bench::Engine(args) = args.bench;
    ensure!(args.batches > 0 && args.videos > 0 && args.clients > 0, "a bench needs batches, videos and clients");
    let bench = EngineBench {
        batches: args.batches,
        videos_per_batch: args.videos,
        clients: args.clients,
        refused_permille: args.refused.min(1000),
        baseline: Duration::from_secs(args.baseline_secs.max(1)),
    };
    let report = bench::run_engine(&config, bench).await?;
    output::line(&if args.json { serde_json::to_string(&report)? } else { table(&report) })?;
    Ok(ExitCode::SUCCESS)
}

fn table(report: &EngineReport) -> String {
    let mut table = Table::new(["figure", ">value", "what it is"]);
    let number = |value: f64, digits: usize| format!("{value:.digits$}");
    for (name, value, what) in [
        ("videos", report.videos.to_string(), "posted, made, settled, told"),
        ("videos/s", number(report.videos_per_second, 0), "first POST to last webhook"),
        ("ratio", number(report.ratio, 2), "to single-row-update commits/s of 16 clients"),
        ("baseline before", number(report.baseline_before, 0), "commits/s"),
        ("baseline after", number(report.baseline_after, 0), "commits/s"),
        ("admission p50", number(report.admission_p50_ms, 1), "ms a POST"),
        ("admission p99", number(report.admission_p99_ms, 1), "ms a POST"),
        ("row writes", number(report.row_writes_per_video, 1), "a video, POST to told"),
        ("transactions", number(report.transactions_per_video, 3), "a video"),
        ("WAL", number(report.wal_kilobytes_per_video, 1), "kB a video"),
        ("Postgres CPU", number(report.postgres_cpu_us_per_video, 0), "us a video"),
        ("own CPU", number(report.own_cpu_us_per_video, 0), "us a video, client and provider included"),
        ("ledger sum", report.ledger_sum.to_string(), "zero, or the run counts for nothing"),
    ] {
        table.row([name.to_owned(), value, what.to_owned()]);
    }
    table.render()
}
