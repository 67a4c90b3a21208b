//! Every metric, declared once: name, kind, help. Labels are words from closed lists, never ids, so that the number of
//! series stays bounded however many tenants there are.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A declared metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

macro_rules! metrics {
    ($($ident:ident = $name:literal $kind:ident $help:literal;)+) => {
        $(const $ident: &str = $name;)+
        /// Every metric of the service.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),+];
    };
}

metrics! {
    BATCHES_ADMITTED = "freezeframe_batches_admitted_total" Counter "Batches accepted and frozen.";
    BATCHES_REFUSED = "freezeframe_batches_refused_total" Counter "Batches refused, by reason: credits, invalid, key, conflict.";
    BATCHES_FINISHED = "freezeframe_batches_finished_total" Counter "Batches settled, by final status.";
    VIDEOS_ADMITTED = "freezeframe_videos_admitted_total" Counter "Videos of accepted batches.";
    VIDEOS_FINISHED = "freezeframe_videos_finished_total" Counter "Videos settled, by outcome and failure type.";
    VIDEOS_RELEASED = "freezeframe_videos_released_total" Counter "Videos handed to the workers by the scheduler.";
    VIDEOS_OPEN = "freezeframe_videos_open" Gauge "Videos of unfinished batches, by state: waiting, in_flight.";
    VIDEOS_WAITING = "freezeframe_videos_waiting" Gauge "Waiting videos, by what they wait for: queued, back_off, tenant_limit, model_limit, provider_limit, batch_pace, cooldown, out_of_quota, refused, paused, no_route, no_worker, circuit_open.";
    ATTEMPTS = "freezeframe_attempts_total" Counter "Attempts at providers, by provider account and end.";
    LEASES_LOST = "freezeframe_leases_lost_total" Counter "Transitions refused because another worker holds the video.";
    CREDITS_MOVED = "freezeframe_credits_moved_total" Counter "Credits moved, by act: freeze, charge, refund, loss.";
    REFUND_SECONDS = "freezeframe_refund_seconds" Histogram "From the moment a worker knows that a video failed to its committed refund.";
    BOOKS_SUM = "freezeframe_books_sum_credits" Gauge "Sum over all accounts; anything but zero is an alarm.";
    BOOKS_DIFFERENCES = "freezeframe_books_differences" Gauge "Differences that the last comparison of the books found, by kind.";
    BOOKS_COMPARED = "freezeframe_books_compared_timestamp_seconds" Gauge "When the last comparison of the books ended, in seconds since 1970; an alarm when it is long ago.";
    LEDGER_CHAINED = "freezeframe_ledger_chained_total" Counter "Ledger entries chained.";
    LEDGER_UNCHAINED = "freezeframe_ledger_unchained_entries" Gauge "Ledger entries that are not chained yet.";
    LEDGER_UNCHAINED_AGE = "freezeframe_ledger_unchained_age_seconds" Gauge "Age of the oldest ledger entry that is not chained yet; more than a minute is an alarm.";
    LEDGER_CHECKPOINTS = "freezeframe_ledger_checkpoints_total" Counter "Checkpoints of the ledger for the object store, by result: kept, failed.";
    QUEUE_JOBS = "freezeframe_queue_jobs" Gauge "Jobs in the queue, by queue and state: waiting, held.";
    RECORDER_FLUSH_SECONDS = "freezeframe_recorder_flush_seconds" Histogram "Duration of a group commit.";
    RECORDER_TRANSITIONS = "freezeframe_recorder_transitions_total" Counter "Transitions written by group commits.";
    HEARTBEAT_GAP_SECONDS = "freezeframe_heartbeat_gap_seconds" Histogram "Time between two heartbeats of a worker, by queue.";
    SCHEDULER_LEADER = "freezeframe_scheduler_leader" Gauge "1 while this process leads the scheduler.";
    SCHEDULER_ROUND_SECONDS = "freezeframe_scheduler_round_seconds" Histogram "Duration of a scheduling round.";
    WEBHOOK_ATTEMPTS = "freezeframe_webhook_attempts_total" Counter "Webhook deliveries tried, by result.";
    HTTP_REQUESTS = "freezeframe_http_requests_total" Counter "Requests answered, by method, route and status.";
    HTTP_SECONDS = "freezeframe_http_request_seconds" Histogram "Duration of requests, by method and route.";
    ACCOUNT_NEWS = "freezeframe_account_news_total" Counter "What providers told us of our accounts, by account and news: cool, out_of_quota, refused, answered_again, fault, took, probe_over, circuit_opened, circuit_closed.";
    PROVIDER_CALLBACKS = "freezeframe_provider_callbacks_total" Counter "Callbacks of providers, by account and outcome: noted, again, ignored, forged, mismatch, refused, busy, adopted.";
    LATE_LOOKS = "freezeframe_late_looks_total" Counter "Looks at jobs of attempts that had ended, by provider account and result: succeeded, failed, open.";
    VIDEOS_GIVEN_BACK = "freezeframe_videos_given_back_total" Counter "Released videos that went back to wait before they began, by reason: turn_over, not_to_begin (account shut, batch cancelled or overdue).";
    FILES_DELETED = "freezeframe_files_deleted_total" Counter "Files deleted from the object store, by reason: expired, leftover, image.";
    FILES_NOT_DELETED = "freezeframe_files_not_deleted_total" Counter "Deletions that the object store refused; they are tried again.";
    THUMBNAILS = "freezeframe_thumbnails_total" Counter "Pictures asked for after a video was stored, by result: kept, none, of_no_use, late, not_stored.";
    HTTP_CONNECTIONS = "freezeframe_http_connections" Gauge "Open connections, by port and state: busy (a request is under way), waiting.";
    HTTP_CONNECTIONS_REFUSED = "freezeframe_http_connections_refused_total" Counter "Connections sent away for want of a place, by reason: total, peer.";
    HTTP_CONNECTIONS_ENDED = "freezeframe_http_connections_ended_total" Counter "Connections that we ended, by reason: handshake, header, idle, response, evicted, stopped.";
    HTTP_REQUESTS_REFUSED = "freezeframe_http_requests_refused_total" Counter "Requests refused because too much is under way, by reason: requests, memory.";
    HTTP_REQUESTS_LIMITED = "freezeframe_http_requests_limited_total" Counter "Requests refused because too many came in a minute, by whose limit: key, tenant, address.";
    TLS_RENEWALS = "freezeframe_tls_renewals_total" Counter "Newer certificates found, by result: taken, failed.";
    SWEPT = "freezeframe_swept_total" Counter "Things that the sweep had to put right, by kind; more than zero after a crash only.";
}

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

fn handle() -> Option<&'static PrometheusHandle> {
    HANDLE
        .get_or_init(|| {
            let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &buckets)
                .and_then(PrometheusBuilder::install_recorder)
                .inspect_err(|error| tracing::error!(%error, "metrics are not recorded"))
                .ok()
        })
        .as_ref()
}

/// Starts recording; every metric is described, and shown from the start. Calling it again does nothing.
pub fn install() {
    if handle().is_none() {
        return;
    }
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, Unit::Count, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, Unit::Count, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help),
        }
    }
    start_at_zero();
}

/// A counter that appears only with its first event hides the event from `rate()`.
fn start_at_zero() {
    use crate::domain::{BatchStatus, FailureClass, WaitingReason};
    counter!(BATCHES_ADMITTED).absolute(0);
    counter!(VIDEOS_ADMITTED).absolute(0);
    counter!(VIDEOS_RELEASED).absolute(0);
    counter!(LEASES_LOST).absolute(0);
    counter!(VIDEOS_GIVEN_BACK).absolute(0);
    counter!(RECORDER_TRANSITIONS).absolute(0);
    counter!(FILES_NOT_DELETED).absolute(0);
    for reason in ["expired", "leftover"] {
        counter!(FILES_DELETED, "reason" => reason).absolute(0);
    }
    for result in ["kept", "none", "of_no_use", "late", "not_stored"] {
        counter!(THUMBNAILS, "result" => result).absolute(0);
    }
    gauge!(SCHEDULER_LEADER).set(0.0);
    counter!(LEDGER_CHAINED).absolute(0);
    for result in ["kept", "failed"] {
        counter!(LEDGER_CHECKPOINTS, "result" => result).absolute(0);
    }
    for status in BatchStatus::ALL.iter().filter(|status| status.is_final()) {
        counter!(BATCHES_FINISHED, "status" => status.word()).absolute(0);
    }
    for reason in ["credits", "invalid", "key", "conflict"] {
        counter!(BATCHES_REFUSED, "reason" => reason).absolute(0);
    }
    counter!(VIDEOS_FINISHED, "outcome" => "succeeded", "failure" => "none").absolute(0);
    for class in FailureClass::ALL {
        counter!(VIDEOS_FINISHED, "outcome" => "failed", "failure" => class.name()).absolute(0);
    }
    for act in ["freeze", "charge", "refund", "loss"] {
        counter!(CREDITS_MOVED, "act" => act).absolute(0);
    }
    for reason in WaitingReason::ALL {
        gauge!(VIDEOS_WAITING, "reason" => reason.word()).set(0.0);
    }
    for result in ["delivered", "retry", "given_up"] {
        counter!(WEBHOOK_ATTEMPTS, "result" => result).absolute(0);
    }
    for kind in ["video_without_job", "batch_not_finalized", "delivery_without_job"] {
        counter!(SWEPT, "kind" => kind).absolute(0);
    }
}

/// The Prometheus text of this process.
pub fn render() -> String {
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

pub fn batch_admitted(videos: u64, frozen_credits: i64) {
    counter!(BATCHES_ADMITTED).increment(1);
    counter!(VIDEOS_ADMITTED).increment(videos);
    credits_moved("freeze", frozen_credits);
}

/// `reason` is one of `credits`, `invalid`, `key`, `conflict`.
pub fn batch_refused(reason: &'static str) {
    counter!(BATCHES_REFUSED, "reason" => reason).increment(1);
}

pub fn batch_finished(status: crate::domain::BatchStatus, charged_credits: i64) {
    counter!(BATCHES_FINISHED, "status" => status.word()).increment(1);
    credits_moved("charge", charged_credits);
}

pub fn video_succeeded() {
    counter!(VIDEOS_FINISHED, "outcome" => "succeeded", "failure" => "none").increment(1);
}

/// A failed video is refunded in the same transaction.
pub fn video_failed(class: crate::domain::FailureClass, refunded_credits: i64) {
    credits_moved("refund", refunded_credits);
    counter!(VIDEOS_FINISHED, "outcome" => "failed", "failure" => class.name()).increment(1);
}

/// How long a failed video waited for its refund.
pub fn refunded(took: Duration) {
    histogram!(REFUND_SECONDS).record(took);
}

/// `act` is one of `freeze`, `charge`, `refund`, `loss`.
pub fn credits_moved(act: &'static str, credits: i64) {
    counter!(CREDITS_MOVED, "act" => act).increment(credits.unsigned_abs());
}

pub fn videos_released(count: u64) {
    counter!(VIDEOS_RELEASED).increment(count);
}

pub fn videos_open(waiting: i64, in_flight: i64) {
    gauge!(VIDEOS_OPEN, "state" => "waiting").set(waiting as f64);
    gauge!(VIDEOS_OPEN, "state" => "in_flight").set(in_flight as f64);
}

pub fn videos_waiting(reason: crate::domain::WaitingReason, videos: i64) {
    gauge!(VIDEOS_WAITING, "reason" => reason.word()).set(videos as f64);
}

/// `provider` is the name of a configured account.
pub fn attempt_ended(provider: &str, end: &'static str) {
    counter!(ATTEMPTS, "provider" => provider.to_owned(), "end" => end).increment(1);
}

/// `account` is the name of a configured account; `news` one of `cool`, `out_of_quota`, `refused`, `answered_again`,
/// `fault`, `took`, `probe_over`, `circuit_opened`, `circuit_closed`.
pub fn account_news(account: &str, news: &'static str) {
    counter!(ACCOUNT_NEWS, "account" => account.to_owned(), "news" => news).increment(1);
}

/// `account` is the name of a configured account; `outcome` one of `noted`, `again`, `ignored`, `forged`, `mismatch`,
/// `refused` (too large, or not at this address), `busy` (told to come again) and, beside `noted`, `adopted` (it named the
/// job of a submission whose answer was lost).
pub fn provider_callback(account: &str, outcome: &'static str) {
    counter!(PROVIDER_CALLBACKS, "account" => account.to_owned(), "outcome" => outcome).increment(1);
}

/// `provider` is the name of a configured account; `result` one of `succeeded`, `failed`, `open`.
pub fn late_look(provider: &str, result: &'static str) {
    counter!(LATE_LOOKS, "provider" => provider.to_owned(), "result" => result).increment(1);
}

/// `reason` is one of `turn_over`, `not_to_begin`.
pub fn videos_given_back(reason: &'static str, count: u64) {
    counter!(VIDEOS_GIVEN_BACK, "reason" => reason).increment(count);
}

pub fn lease_lost() {
    counter!(LEASES_LOST).increment(1);
}

/// The last comparison of the books, of which every process shows the same; `kind` is a stable name or `other`.
pub fn books(sum: i64, compared_at_secs: i64, differences: impl IntoIterator<Item = (&'static str, u64)>) {
    gauge!(BOOKS_SUM).set(sum as f64);
    gauge!(BOOKS_COMPARED).set(compared_at_secs as f64);
    for (kind, count) in differences {
        gauge!(BOOKS_DIFFERENCES, "kind" => kind).set(count as f64);
    }
}

pub fn ledger_chained(entries: u64) {
    counter!(LEDGER_CHAINED).increment(entries);
}

pub fn ledger_unchained(entries: i64, oldest_secs: f64) {
    gauge!(LEDGER_UNCHAINED).set(entries as f64);
    gauge!(LEDGER_UNCHAINED_AGE).set(oldest_secs);
}

/// `result` is `kept` or `failed`.
pub fn ledger_checkpoint(result: &'static str) {
    counter!(LEDGER_CHECKPOINTS, "result" => result).increment(1);
}

pub fn queue_jobs(queue: &'static str, waiting: i64, held: i64) {
    gauge!(QUEUE_JOBS, "queue" => queue, "state" => "waiting").set(waiting as f64);
    gauge!(QUEUE_JOBS, "queue" => queue, "state" => "held").set(held as f64);
}

pub fn recorder_flush(transitions: usize, took: Duration) {
    counter!(RECORDER_TRANSITIONS).increment(transitions as u64);
    histogram!(RECORDER_FLUSH_SECONDS).record(took);
}

/// `queue` is a queue's constant name.
pub fn heartbeat_gap(queue: &'static str, gap: Duration) {
    histogram!(HEARTBEAT_GAP_SECONDS, "queue" => queue).record(gap);
}

pub fn scheduler_leads(leads: bool) {
    gauge!(SCHEDULER_LEADER).set(if leads { 1.0 } else { 0.0 });
}

pub fn scheduler_round(took: Duration) {
    histogram!(SCHEDULER_ROUND_SECONDS).record(took);
}

/// `result` is one of `delivered`, `retry`, `given_up`.
pub fn webhook_attempt(result: &'static str) {
    counter!(WEBHOOK_ATTEMPTS, "result" => result).increment(1);
}

/// `route` is the pattern of the route, never the path that was asked for.
pub fn http_request(method: &str, route: &str, status: u16, took: Duration) {
    let (method, route) = (method.to_owned(), route.to_owned());
    counter!(HTTP_REQUESTS, "method" => method.clone(), "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    histogram!(HTTP_SECONDS, "method" => method, "route" => route).record(took);
}

/// `port` is `api` or `metrics`.
pub fn http_connections(port: &'static str, busy: usize, waiting: usize) {
    gauge!(HTTP_CONNECTIONS, "port" => port, "state" => "busy").set(busy as f64);
    gauge!(HTTP_CONNECTIONS, "port" => port, "state" => "waiting").set(waiting as f64);
}

/// Shows the counters of the HTTP server, whose words it knows itself.
pub fn http_starts(refused: impl IntoIterator<Item = &'static str>, ended: impl IntoIterator<Item = &'static str>) {
    for reason in refused {
        counter!(HTTP_CONNECTIONS_REFUSED, "reason" => reason).absolute(0);
    }
    for reason in ended {
        counter!(HTTP_CONNECTIONS_ENDED, "reason" => reason).absolute(0);
    }
    for reason in ["requests", "memory"] {
        counter!(HTTP_REQUESTS_REFUSED, "reason" => reason).absolute(0);
    }
    for result in ["taken", "failed"] {
        counter!(TLS_RENEWALS, "result" => result).absolute(0);
    }
}

/// `reason` is a word of the HTTP server's list.
pub fn http_connection_refused(reason: &'static str) {
    counter!(HTTP_CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

/// `reason` is a word of the HTTP server's list.
pub fn http_connection_ended(reason: &'static str) {
    counter!(HTTP_CONNECTIONS_ENDED, "reason" => reason).increment(1);
}

/// `reason` is `requests` or `memory`.
pub fn http_request_refused(reason: &'static str) {
    counter!(HTTP_REQUESTS_REFUSED, "reason" => reason).increment(1);
}

/// Shows the counters of the limits on requests.
pub fn http_limits_start() {
    for reason in ["key", "tenant", "address"] {
        counter!(HTTP_REQUESTS_LIMITED, "reason" => reason).absolute(0);
    }
}

/// `reason` is `key`, `tenant` or `address`.
pub fn http_request_limited(reason: &'static str) {
    counter!(HTTP_REQUESTS_LIMITED, "reason" => reason).increment(1);
}

/// `result` is `taken` or `failed`.
pub fn tls_renewed(result: &'static str) {
    counter!(TLS_RENEWALS, "result" => result).increment(1);
}

/// `kind` is one of `video_without_job`, `batch_not_finalized`, `delivery_without_job`.
pub fn swept(kind: &'static str, count: u64) {
    counter!(SWEPT, "kind" => kind).increment(count);
}

/// `reason` is one of `expired`, `leftover`.
pub fn files_deleted(reason: &'static str, count: u64) {
    counter!(FILES_DELETED, "reason" => reason).increment(count);
}

pub fn files_not_deleted(count: u64) {
    counter!(FILES_NOT_DELETED).increment(count);
}

/// `result` is one of `kept`, `none`, `of_no_use`, `late`, `not_stored`.
pub fn thumbnail(result: &'static str) {
    counter!(THUMBNAILS, "result" => result).increment(1);
}
