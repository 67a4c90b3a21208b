//! `freezeframe bench`: how fast, beside what the same Postgres does at its plainest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use super::output::{self, Table, amount};
use crate::bench::hostile::{self, HostileBench, HostileReport, MAX_GROWTH_MEGABYTES, MAX_RATIO};
use crate::bench::{self, EngineBench, EngineReport, HttpBench, HttpReport, SchedulerBench, SchedulerReport};
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
    /// Honest clients of the API with and without slow and stuck ones beside them
    Http(HttpArgs),
    /// Rounds of the scheduler while very many videos of very many tenants wait
    Scheduler(SchedulerArgs),
    /// Honest batches with and without hostile providers' answers and files beside them
    Hostile(HostileArgs),
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

#[derive(Args)]
struct HttpArgs {
    /// Slow or stuck clients, of seven kinds
    #[arg(long, default_value_t = 2000)]
    stuck: usize,
    /// Requests of honest clients in each of eight rounds; every third is an order
    #[arg(long, default_value_t = 6000)]
    requests: usize,
    /// Honest clients at a time
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SchedulerArgs {
    /// How many videos wait, ascending
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "10000,100000,1000000")]
    waiting: Vec<usize>,
    #[arg(long, default_value_t = 1000)]
    tenants: usize,
    /// Rounds of each kind at each number
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct HostileArgs {
    /// Only kinds whose name has this in it, such as "fal" or "poll:"; with ! before it, all but these
    #[arg(long, default_value = "all")]
    kinds: String,
    /// Hostile videos; the kinds take turns [default: two of each kind]
    #[arg(long)]
    hostile: Option<usize>,
    /// Honest videos of one batch
    #[arg(long, default_value_t = 400)]
    honest: usize,
    /// Honest batches, one after the other, alone and again beside the hostile videos
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Fail too when speed or memory are out of their bounds
    #[arg(long)]
    assert: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: BenchArgs) -> Result<ExitCode> {
    match args.bench {
        Bench::Engine(args) => engine(config, args).await,
        Bench::Http(args) => http(config, args).await,
        Bench::Scheduler(args) => Box::pin(scheduler(config, args)).await,
        Bench::Hostile(args) => hostile(config, args).await,
    }
}

async fn http(config: Config, args: HttpArgs) -> Result<ExitCode> {
    ensure!(args.requests > 0 && args.clients > 0, "a bench needs requests and clients");
    let bench = HttpBench { stuck: args.stuck, requests: args.requests, clients: args.clients };
    let report = bench::run_http(&config, bench).await?;
    output::line(&if args.json { serde_json::to_string(&report)? } else { http_table(&report) })?;
    Ok(ExitCode::SUCCESS)
}

async fn hostile(config: Config, args: HostileArgs) -> Result<ExitCode> {
    let hostile = args.hostile.unwrap_or(2 * hostile::Kind::round(0).len());
    ensure!(hostile > 0 && args.honest > 0 && args.rounds > 0, "a bench needs hostile and honest videos and a round");
    let bench = HostileBench { kinds: args.kinds, hostile, honest: args.honest, rounds: args.rounds };
    let report = hostile::run_hostile(&config, bench).await?;
    output::line(&if args.json { serde_json::to_string(&report)? } else { hostile_tables(&report) })?;
    let good = report.is_sound() && (!args.assert || report.is_within_bounds());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn scheduler(config: Config, args: SchedulerArgs) -> Result<ExitCode> {
    ensure!(args.tenants > 0 && args.rounds > 0, "a bench needs tenants and rounds");
    let bench = SchedulerBench { waiting: args.waiting, tenants: args.tenants, rounds: args.rounds };
    let report = bench::run_scheduler(&config, &bench).await?;
    output::line(&if args.json { serde_json::to_string(&report)? } else { scheduler_table(&report) })?;
    Ok(ExitCode::SUCCESS)
}

fn scheduler_table(report: &SchedulerReport) -> String {
    let heads =
        [">waiting", ">lanes", ">full p50", ">most", ">wave p50", ">most", ">videos", ">insert", ">ratio", ">MB"];
    let mut table = Table::new(heads);
    for scale in &report.scales {
        let ms = |value: f64| format!("{value:.1}");
        table.row([
            amount(i64::try_from(scale.waiting).unwrap_or(i64::MAX)),
            scale.lanes.to_string(),
            ms(scale.full_p50_ms),
            ms(scale.full_most_ms),
            ms(scale.wave_p50_ms),
            ms(scale.wave_most_ms),
            scale.wave.to_string(),
            ms(scale.insert_p50_ms),
            ms(scale.ratio),
            format!("{:.1}", scale.leader_kilobytes as f64 / 1024.0),
        ]);
    }
    format!(
        "{}\n  {} tenants; a round in ms while every slot is full, and when it releases a wave of videos; ratio to an insert of\n  \
         as many rows; MB: the most memory of a process that does nothing but lead",
        table.render(),
        report.tenants
    )
}

fn hostile_tables(report: &HostileReport) -> String {
    let mut videos = Table::new(["kind", "end", "class", ">attempts", ">seconds", "refunded", "message"]);
    for video in &report.videos {
        let (end, refunded) = (&video.end, if video.end.refunded { "yes" } else { "no" });
        let message = output::fit(&output::plain(&end.message), 60);
        let (attempts, seconds) = (end.attempts.to_string(), format!("{:.0}", end.seconds));
        let cells = [&video.kind, &end.state, &end.class, &attempts, &seconds, refunded, &message];
        videos.row(cells.map(str::to_owned));
    }
    let mut figures = Table::new(["honest", ">alone", ">beside", ">ratio", ">bound"]);
    let [p50, p95, batch] = report.ratios();
    let (alone, beside) = (report.alone, report.beside);
    for (name, alone, beside, ratio) in [
        ("video p50, ms", alone.made_p50_ms, beside.made_p50_ms, p50),
        ("video p95, ms", alone.made_p95_ms, beside.made_p95_ms, p95),
        ("batch, ms", alone.batch_ms, beside.batch_ms, batch),
    ] {
        let bound = format!("{MAX_RATIO:.2}");
        figures.row([name.to_owned(), format!("{alone:.0}"), format!("{beside:.0}"), format!("{ratio:.2}"), bound]);
    }
    let memory = |kilobytes: u64| format!("{:.1}", kilobytes as f64 / 1024.0);
    let growth = format!("+{:.1}", report.growth_megabytes());
    let (steady, peak) = (memory(report.rss_alone_kilobytes), memory(report.rss_peak_kilobytes));
    figures.row(["worker memory, MB".to_owned(), steady, peak, growth, format!("+{MAX_GROWTH_MEGABYTES:.0}")]);
    let complaints: String = report.complaints.iter().map(|complaint| format!("\n- {complaint}")).collect();
    format!(
        "{}\n\n{}\n\n  {} hostile videos of {} kinds ended within {:.0} s; {}{complaints}",
        videos.render(),
        figures.render(),
        report.hostile,
        report.kinds,
        report.hostile_seconds,
        if report.is_sound() { "each alone, and the books are clean" } else { "not all is as it has to be:" },
    )
}

fn http_table(report: &HttpReport) -> String {
    let mut table = Table::new(["figure", ">without", ">with", ">after", ">2nd", ">3rd", ">ratio", "what it is"]);
    let [first, second, third] = report.after;
    let rounds = [report.without, report.with, first, second, third];
    let cells = |cell: &dyn Fn(&bench::Round) -> String| rounds.each_ref().map(cell);
    let ms = |value: f64| format!("{value:.1}");
    let mut row = |name: &str, [without, with, first, second, third]: [String; 5], ratio: Option<f64>, what: &str| {
        let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        table.row([name.to_owned(), without, with, first, second, third, ratio, what.to_owned()]);
    };
    row("GET p50", cells(&|round| ms(round.get_p50_ms)), None, "ms to read a batch");
    row("GET p99", cells(&|round| ms(round.get_p99_ms)), Some(report.get_p99_ratio), "ms to read a batch");
    row("POST p50", cells(&|round| ms(round.post_p50_ms)), None, "ms to order a batch");
    row("POST p99", cells(&|round| ms(round.post_p99_ms)), Some(report.post_p99_ratio), "ms to order a batch");
    row("connections", cells(&|round| format!("{:.0}", round.connections)), None, "open, as the server counts");
    row("files", cells(&|round| round.files.to_string()), None, "open in the server's process");
    row("memory", cells(&|round| (round.rss_kilobytes / 1024).to_string()), None, "MB of the server's process");
    let stuck = format!("{} slow or stuck clients had {} connections", report.stuck, report.stuck_connections);
    format!("{}\n  {stuck}", table.render())
}

async fn engine(config: Config, args: EngineArgs) -> Result<ExitCode> {
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
