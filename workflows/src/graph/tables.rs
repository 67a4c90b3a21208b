//! The tables of `GRAPH.md`: retries by failure class, what the customer is told, the webhook schedule.

use std::fmt::Write as _;

use crate::FailureClass;
use crate::retry::{self, RetryPolicy};
use crate::video::{self, Spent, VideoEnd, VideoNext, VideoStep};
use crate::webhook::{JITTER_PERMILLE, RETRY_SCHEDULE_SECS};

pub(super) fn retries() -> String {
    let mut text = String::from(
        "## Retry by failure class\n\n\
         The first three columns say what a fresh video does when the step ends with this class. `retry` becomes `refund` once \
         the bound\nis reached. Attempts are counted over all classes together; a wait is counted until an attempt is spent. A \
         delay doubles up\nto its maximum and is drawn between its half and its whole.\n\n\
         | class | submit refused | job failed | copy failed | bound | delay | spends an attempt |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for class in FailureClass::ALL {
        let policy = retry::policy(class);
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            class.name(),
            answer(VideoStep::Submit, VideoEnd::Rejected(class), class),
            answer(VideoStep::Poll, VideoEnd::ProviderFailed(class), class),
            answer(VideoStep::Store, VideoEnd::StoreFailed(class), class),
            bound(policy),
            delay(policy),
            spends(policy),
        );
    }
    text
}

fn answer(step: VideoStep, end: VideoEnd, class: FailureClass) -> String {
    match video::next(step, end, Spent::default()) {
        Ok(VideoNext::RetryLater { class: told, .. }) if told == class => "retry".to_owned(),
        Ok(VideoNext::RetryLater { class: told, .. }) => format!("retry as `{}`", told.name()),
        Ok(VideoNext::Again(again) | VideoNext::Step(again)) => format!("{} again", again.name()),
        Ok(VideoNext::Fail(_)) => "refund".to_owned(),
        Ok(VideoNext::Succeed) => "charge".to_owned(),
        Err(_) => "impossible".to_owned(),
    }
}

fn bound(policy: RetryPolicy) -> String {
    match (policy.retry, policy.spends_attempt) {
        (false, _) => "-".to_owned(),
        (true, true) => format!("{} attempts", policy.max_attempts),
        (true, false) => format!("{} waits", policy.max_attempts),
    }
}

fn delay(policy: RetryPolicy) -> String {
    if !policy.retry {
        return "-".to_owned();
    }
    format!("{} to {}", duration(policy.first_delay_ms / 1000), duration(policy.max_delay_ms / 1000))
}

const fn spends(policy: RetryPolicy) -> &'static str {
    match (policy.retry, policy.spends_attempt) {
        (false, _) => "-",
        (true, true) => "yes",
        (true, false) => "no",
    }
}

pub(super) fn explanations() -> String {
    let mut text = String::from(
        "## What the customer is told\n\n\
         Every failure is refunded in full, whatever its class.\n\n\
         | class | same order may succeed | sentence |\n|---|---|---|\n",
    );
    for class in FailureClass::ALL {
        let may = if retry::retryable_by_customer(class) { "yes" } else { "no" };
        let _ = writeln!(text, "| `{}` | {may} | {} |", class.name(), retry::explain(class));
    }
    text
}

pub(super) fn webhook_schedule() -> String {
    let mut text = format!(
        "Each delay is lengthened by up to {} %; a `Retry-After` that comes with 429 or 503 lengthens it further, to at most \
         a day.\n\n| delivery | delay before it | time since the first |\n|---|---|---|\n| 1 | - | - |\n",
        JITTER_PERMILLE / 10
    );
    let mut since_first = 0;
    for (delivery, delay_secs) in (2..).zip(RETRY_SCHEDULE_SECS) {
        since_first += delay_secs;
        let _ = writeln!(text, "| {delivery} | {} | {} |", duration(delay_secs), duration(since_first));
    }
    text
}

fn duration(secs: u64) -> String {
    let parts = [(secs / 3600, "h"), (secs % 3600 / 60, "min"), (secs % 60, "s")];
    let shown: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    shown.join(" ")
}
