//! The sections of the settings that hold numbers, flags and paths: their types, defaults and bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Reader, Section};

/// The highest limit of requests: as good as none.
pub const MAX_REQUESTS_PER_MINUTE: u32 = 1_000_000;

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A `tracing` filter, such as `info,freezeframe=debug`.
    pub filter: String,
    /// One JSON object a line instead of text for people.
    pub json: bool,
}

/// One worker process.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Videos that one worker process carries at a time.
    pub slots: usize,
    pub heartbeat: Duration,
    /// A worker whose heartbeat is older than this has its jobs taken over.
    pub dead_after: Duration,
    /// How often a worker with free slots looks for jobs.
    pub poll: Duration,
    /// How often lost wake-ups are looked for.
    pub sweep: Duration,
    /// Jobs fetched in one statement, at most.
    pub max_fetch: usize,
    /// Webhook deliveries under way at a time.
    pub webhook_slots: usize,
    /// Batches being finalized at a time.
    pub finalize_slots: usize,
}

/// The one leader that releases videos.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// How long leadership lasts without renewal.
    pub lease_ttl: Duration,
    pub tick: Duration,
    /// Videos released in one transaction, at most.
    pub wave: usize,
    /// How long an account rests that asked us to slow down and did not say for how long, and the longest rest of all.
    pub cool_down: Duration,
    pub max_cool_down: Duration,
    /// How often one video may find out whether an account without credit or access takes videos again.
    pub probe: Duration,
    /// How many orders have to fail in a row by an account's fault to open its circuit; 0: it never opens.
    pub circuit_faults: u32,
    /// How long an account rests whose circuit has opened, and the longest that this grows to while probes fail.
    pub circuit: Duration,
    pub max_circuit: Duration,
}

/// What a request and a new tenant may do.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    pub default_videos_per_minute: u32,
    pub default_max_in_flight: u32,
    /// Requests of a tenant that one API process answers in a minute, and the part of them that one key may use.
    pub default_requests_per_minute: u32,
    pub default_requests_per_minute_per_key: u32,
    /// Requests of one address with keys that are nobody's, which one API process looks at in a minute.
    pub failed_keys_per_minute: u32,
    /// Items of one batch, at most.
    pub max_items: usize,
    pub max_body_bytes: usize,
}

impl LimitsConfig {
    /// For an installation with one customer, who may ask as often as it likes.
    pub fn answer_every_request(&mut self) {
        self.default_requests_per_minute = MAX_REQUESTS_PER_MINUTE;
        self.default_requests_per_minute_per_key = MAX_REQUESTS_PER_MINUTE;
    }
}

/// Deliveries to customers' endpoints.
#[derive(Clone, Debug)]
pub struct WebhooksConfig {
    /// Whether an endpoint may have a loopback or private address: for development.
    pub allow_private_targets: bool,
    pub timeout: Duration,
    /// How much of an answer is read.
    pub max_response_bytes: usize,
}

/// One attempt at a provider.
#[derive(Clone, Debug)]
pub struct AttemptsConfig {
    /// How long a submission with a lost answer is looked up before it counts as not bought.
    pub lookup_settle: Duration,
    /// The pause between two look-ups.
    pub lookup_pause: Duration,
    pub submit_timeout: Duration,
    pub download_timeout: Duration,
}

pub(super) fn read_log(reader: &mut Reader) -> LogConfig {
    let mut section = reader.section("log");
    let log = LogConfig {
        filter: section.text("filter").unwrap_or_else(|| "info".to_owned()),
        json: section.flag("json", false),
    };
    section.finish();
    log
}

pub(super) fn read_engine(reader: &mut Reader) -> EngineConfig {
    let mut section = reader.section("engine");
    let engine = EngineConfig {
        slots: count(&mut section, "slots", 2000, 1..=100_000),
        heartbeat: section.millis("heartbeat_ms", 1000, 100..=60_000),
        dead_after: section.millis("dead_after_ms", 5000, 500..=600_000),
        poll: section.millis("poll_ms", 200, 5..=60_000),
        sweep: section.secs("sweep_secs", 15, 1..=3600),
        max_fetch: count(&mut section, "max_fetch", 512, 1..=10_000),
        webhook_slots: count(&mut section, "webhook_slots", 64, 1..=10_000),
        finalize_slots: count(&mut section, "finalize_slots", 16, 1..=1000),
    };
    if engine.dead_after < engine.heartbeat * 3 {
        section.problem("dead_after_ms", "must be at least three times heartbeat_ms, or live workers are robbed");
    }
    section.finish();
    engine
}

pub(super) fn read_scheduler(reader: &mut Reader) -> SchedulerConfig {
    let mut section = reader.section("scheduler");
    let scheduler = SchedulerConfig {
        lease_ttl: section.millis("lease_ttl_ms", 3000, 500..=600_000),
        tick: section.millis("tick_ms", 50, 5..=60_000),
        wave: count(&mut section, "wave", 2000, 1..=50_000),
        cool_down: section.secs("cool_down_secs", 10, 1..=3600),
        max_cool_down: section.secs("max_cool_down_secs", 900, 1..=86_400),
        probe: section.secs("probe_secs", 300, 1..=86_400),
        circuit_faults: rate(section.number("circuit_faults", 5, 0..=1000)),
        circuit: section.secs("circuit_secs", 10, 1..=3600),
        max_circuit: section.secs("max_circuit_secs", 600, 1..=86_400),
    };
    if scheduler.circuit > scheduler.max_circuit {
        section.problem("circuit_secs", "must be at most max_circuit_secs");
    }
    if scheduler.cool_down > scheduler.max_cool_down {
        section.problem("cool_down_secs", "must be at most max_cool_down_secs");
    }
    if scheduler.lease_ttl < scheduler.tick * 3 {
        section.problem("lease_ttl_ms", "must be at least three times tick_ms, or the leader loses its lease");
    }
    section.finish();
    scheduler
}

pub(super) fn read_limits(reader: &mut Reader) -> LimitsConfig {
    let mut section = reader.section("limits");
    let possible = 1..=u64::from(MAX_REQUESTS_PER_MINUTE);
    let requests = section.number("default_requests_per_minute", 1200, possible.clone());
    let per_key = section.number("default_requests_per_minute_per_key", requests.div_ceil(2), possible.clone());
    if per_key > requests {
        section.problem("default_requests_per_minute_per_key", "must be at most default_requests_per_minute");
    }
    let limits = LimitsConfig {
        default_requests_per_minute: rate(requests),
        default_requests_per_minute_per_key: rate(per_key),
        failed_keys_per_minute: rate(section.number("failed_keys_per_minute", 120, possible)),
        default_videos_per_minute: rate(section.number("default_videos_per_minute", 600, 1..=1_000_000)),
        default_max_in_flight: rate(section.number("default_max_in_flight", 1000, 1..=1_000_000)),
        max_items: count(&mut section, "max_items", 10_000, 1..=100_000),
        max_body_bytes: count(&mut section, "max_body_bytes", 64 << 20, 1_024..=1 << 30),
    };
    section.finish();
    limits
}

pub(super) fn read_webhooks(reader: &mut Reader) -> WebhooksConfig {
    let mut section = reader.section("webhooks");
    let webhooks = WebhooksConfig {
        allow_private_targets: section.flag("allow_private_targets", false),
        timeout: section.secs("timeout_secs", 15, 1..=120),
        max_response_bytes: count(&mut section, "max_response_bytes", 65_536, 0..=1 << 24),
    };
    section.finish();
    webhooks
}

pub(super) fn read_attempts(reader: &mut Reader) -> AttemptsConfig {
    let mut section = reader.section("attempts");
    let attempts = AttemptsConfig {
        lookup_settle: section.secs("lookup_settle_secs", 30, 1..=3600),
        lookup_pause: section.millis("lookup_pause_ms", 2000, 50..=600_000),
        submit_timeout: section.secs("submit_timeout_secs", 60, 1..=600),
        download_timeout: section.secs("download_timeout_secs", 300, 1..=86_400),
    };
    section.finish();
    attempts
}

pub(super) fn count(section: &mut Section<'_>, key: &'static str, default: u64, range: RangeInclusive<u64>) -> usize {
    usize::try_from(section.number(key, default, range)).unwrap_or(usize::MAX)
}

/// A number that a bound keeps far below the limit.
pub(super) fn rate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
