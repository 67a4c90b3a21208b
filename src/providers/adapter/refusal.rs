//! What an answer that is no success means: for a submission, for a read, and inside a failed job.
//!
//! Always holds: a submission counts as refused only for statuses by which the server says that it did not take the
//! request. No 5xx does that, `slow_down` and `server_is_overloaded` included: a gateway sends them for a job that its
//! backend may have taken. Neither do 3xx, 408, 409, 425 and 499.
//! Which words mean what is the vendor's [`Vocabulary`].

use std::time::Duration;

use serde_json::Value;

use super::super::egress::LONGEST_RETRY_AFTER;
use super::super::{ReadError, SubmitOutcome};
use super::json;
use super::redact::fit_for_customers;
use crate::domain::FailureClass;

/// The words of a vendor's errors. Codes are compared whole, phrases are looked for in messages, in lower case.
#[derive(Debug)]
pub(in crate::providers) struct Vocabulary {
    pub moderation: &'static [&'static str],
    pub moderation_phrases: &'static [&'static str],
    pub no_credit: &'static [&'static str],
    pub no_credit_phrases: &'static [&'static str],
    pub overloaded: &'static [&'static str],
    pub no_model: &'static [&'static str],
    pub wrong_key: &'static [&'static str],
    pub wrong_key_phrases: &'static [&'static str],
    /// Statuses by which a read learns that the job is not known, or no longer, unless their words are about the account.
    pub not_there: &'static [u16],
}

impl Vocabulary {
    /// No words at all, 404 and 410 for what is not there.
    pub(in crate::providers) const EMPTY: Vocabulary = Vocabulary {
        moderation: &[],
        moderation_phrases: &[],
        no_credit: &[],
        no_credit_phrases: &[],
        overloaded: &[],
        no_model: &[],
        wrong_key: &[],
        wrong_key_phrases: &[],
        not_there: &[404, 410],
    };

    /// Whether an error speaks of the content policy.
    pub(in crate::providers) fn is_moderation(&self, error: &ErrorBody) -> bool {
        error.is(self.moderation) || error.says(self.moderation_phrases)
    }

    fn is_no_credit(&self, error: &ErrorBody) -> bool {
        error.exhausted || error.is(self.no_credit) || error.says(self.no_credit_phrases)
    }

    fn is_wrong_key(&self, error: &ErrorBody) -> bool {
        error.is(self.wrong_key) || error.says(self.wrong_key_phrases)
    }

    /// Whether a read that was answered with `status` learned that the job is not there.
    pub(in crate::providers) fn is_not_there(&self, status: u16, error: &ErrorBody) -> bool {
        self.not_there.contains(&status) && !self.is_wrong_key(error) && !self.is_no_credit(error)
    }
}

fn says(text: &str, phrases: &[&str]) -> bool {
    let text = text.to_lowercase();
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// The texts that must not stand in any message.
pub(in crate::providers) type Hidden<'a> = [&'a str];

/// The class by which `status` refuses a submission; `None` when it proves nothing.
fn class_of(words: &Vocabulary, status: u16, error: &ErrorBody) -> Option<FailureClass> {
    match status {
        300..400 | 408 | 409 | 425 | 499 => None,
        402 => Some(FailureClass::NoCredit),
        400..500 if words.is_moderation(error) => Some(FailureClass::Moderation),
        400..500 if words.is_no_credit(error) => Some(FailureClass::NoCredit),
        429 if error.is(words.overloaded) => Some(FailureClass::Capacity),
        429 => Some(FailureClass::RateLimited),
        400..500 if words.is_wrong_key(error) => Some(FailureClass::Auth),
        404 | 410 => Some(FailureClass::ModelRetired),
        400..500 if error.is(words.no_model) => Some(FailureClass::ModelRetired),
        401 | 403 => Some(FailureClass::Auth),
        400 | 413 | 422 => Some(FailureClass::InvalidInput),
        400..500 => Some(FailureClass::ProviderFault),
        _ => None,
    }
}

/// What a submission came to that was answered with `status`, other than success.
pub(super) fn of_submission(
    words: &Vocabulary,
    status: u16,
    error: &ErrorBody,
    retry_after: Option<Duration>,
    hidden: &Hidden<'_>,
) -> SubmitOutcome {
    match class_of(words, status, error) {
        Some(class) => SubmitOutcome::Rejected { class, message: message(class, status, error, hidden), retry_after },
        None => SubmitOutcome::Unknown { cause: told(status, error, hidden) },
    }
}

/// What a read came to that was answered with `status`, other than success or "not there".
pub(super) fn of_read(
    words: &Vocabulary,
    status: u16,
    error: &ErrorBody,
    retry_after: Option<Duration>,
    hidden: &Hidden<'_>,
) -> ReadError {
    match class_of(words, status, error) {
        Some(FailureClass::RateLimited | FailureClass::Capacity) => ReadError::RateLimited { retry_after },
        // No words of the provider: they are about our request, and may quote a prompt that is not known here.
        Some(class) => ReadError::Refused { class, message: summary(class, status, error, hidden) },
        None => ReadError::Unavailable { cause: told(status, error, hidden) },
    }
}

/// The message of a job that failed: the provider's own words, made fit to be seen.
pub(in crate::providers) fn failed_job_message(error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    let words =
        error.message.as_deref().map(|words| fit_for_customers(words, hidden)).filter(|words| !words.is_empty());
    match (words, &error.code) {
        (Some(words), _) => words,
        (None, Some(code)) => format!("the provider reported a failure ({})", fit_for_customers(code, hidden)),
        (None, None) => "the provider reported a failure without a reason".to_owned(),
    }
}

/// `HTTP 503 (slow_down)`.
fn told(status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    // a code that only repeats the status says less than the vendor's word for it
    let code = error.code.as_ref().filter(|code| **code != status.to_string());
    match code.or(error.kind.as_ref()) {
        Some(code) => format!("HTTP {status} ({})", fit_for_customers(code, hidden)),
        None => format!("HTTP {status}"),
    }
}

/// Our words, with status and code.
fn summary(class: FailureClass, status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    let ours = match class {
        FailureClass::Moderation => "the provider's content policy refused the request",
        FailureClass::Auth => "the provider refused our account",
        FailureClass::NoCredit => "our account at the provider has run out of credit",
        FailureClass::RateLimited => "the provider limits our rate of requests",
        FailureClass::Capacity => "the provider has no room at the moment",
        FailureClass::ModelRetired => "the provider does not serve this model",
        _ => "the provider refused the request",
    };
    format!("{ours}: {}", told(status, error, hidden))
}

/// Our words, and the provider's own behind them where they are about the customer's order and not about our account.
fn message(class: FailureClass, status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    let summary = summary(class, status, error, hidden);
    if !matches!(class, FailureClass::InvalidInput | FailureClass::Moderation) {
        return summary;
    }
    match error.message.as_deref().map(|words| fit_for_customers(words, hidden)) {
        Some(words) if !words.is_empty() => format!("{summary}: {words}"),
        _ => summary,
    }
}

/// The `error` object of an answer or of a failed job, in every form that vendors use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::providers) struct ErrorBody {
    pub code: Option<String>,
    /// `type`, or Google's `status`.
    pub kind: Option<String>,
    /// `reason` of Google's `ErrorInfo`.
    pub reason: Option<String>,
    pub message: Option<String>,
    /// Google's `RetryInfo`.
    pub wait: Option<Duration>,
    /// Google's `QuotaFailure` names a quota that only comes back on another day.
    pub exhausted: bool,
}

impl ErrorBody {
    /// Reads the body of an answer, or a job: an `error` in it, or its own message.
    pub(in crate::providers) fn of(body: &Value) -> ErrorBody {
        // Some front ends answer with a list of one error.
        let body = body.get(0).unwrap_or(body);
        match body.get("error") {
            Some(Value::String(message)) => ErrorBody { message: Some(message.clone()), ..ErrorBody::default() },
            Some(error) => ErrorBody::of_error(error),
            None => ErrorBody::of_detail(body),
        }
    }

    /// Reads what servers of the FastAPI family say: a `detail` that is a text, or a list of what is wrong with which
    /// field, possibly without the object around it.
    fn of_detail(body: &Value) -> ErrorBody {
        let wrong = body.get("detail").and_then(|detail| detail.get(0)).unwrap_or(body);
        let field = wrong.get("loc").and_then(Value::as_array).and_then(|path| path.last()?.as_str());
        let message = text(wrong, "msg").map(|words| match field {
            Some(field) => format!("{field}: {words}"),
            None => words,
        });
        ErrorBody {
            code: json::word(wrong, "type"),
            kind: json::word(body, "error_type"),
            message: message.or_else(|| text(body, "message")).or_else(|| text(body, "detail")),
            ..ErrorBody::default()
        }
    }

    /// Reads the error itself.
    pub(in crate::providers) fn of_error(error: &Value) -> ErrorBody {
        let mut body = ErrorBody {
            code: json::word(error, "code"),
            kind: json::word(error, "type").or_else(|| json::word(error, "status")),
            message: text(error, "message"),
            ..ErrorBody::default()
        };
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            body.add_google_detail(detail);
        }
        body
    }

    fn add_google_detail(&mut self, detail: &Value) {
        let kind = detail.get("@type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next() {
            Some("RetryInfo") => {
                self.wait = detail.get("retryDelay").and_then(Value::as_str).and_then(proto_duration);
            }
            Some("ErrorInfo") => self.reason = json::word(detail, "reason"),
            Some("QuotaFailure") => {
                let violations = detail.get("violations").and_then(Value::as_array).into_iter().flatten();
                self.exhausted = violations.into_iter().any(|violation| {
                    let names = ["quotaId", "quotaMetric", "subject", "description"];
                    names.iter().filter_map(|name| text(violation, name)).any(|name| is_of_a_day(&name))
                });
            }
            _ => {}
        }
    }

    /// Whether the code, the type or the reason is one of `words`.
    pub(in crate::providers) fn is(&self, words: &[&str]) -> bool {
        [&self.code, &self.kind, &self.reason].into_iter().flatten().any(|told| words.contains(&told.as_str()))
    }

    /// Whether the message has one of `phrases`.
    fn says(&self, phrases: &[&str]) -> bool {
        self.message.as_deref().is_some_and(|message| says(message, phrases))
    }
}

fn is_of_a_day(name: &str) -> bool {
    let name = name.to_lowercase();
    ["perday", "per_day", "per day", "daily"].iter().any(|day| name.contains(day))
}

/// `"34s"`, `"1.5s"`: the JSON form of a protobuf `Duration`.
fn proto_duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().map(|wait| wait.min(LONGEST_RETRY_AFTER))
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WORDS: Vocabulary = Vocabulary {
        moderation: &["moderation_blocked"],
        moderation_phrases: &["prohibited content"],
        no_credit: &["insufficient_quota"],
        no_credit_phrases: &["exhausted balance"],
        overloaded: &["server_is_overloaded"],
        no_model: &["model_not_found"],
        wrong_key: &["API_KEY_INVALID"],
        wrong_key_phrases: &["api key not valid"],
        not_there: &[400, 404],
    };

    fn error(code: &str) -> ErrorBody {
        ErrorBody { code: Some(code.to_owned()), ..ErrorBody::default() }
    }

    fn google(details: Value) -> ErrorBody {
        ErrorBody::of(
            &json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": details}}),
        )
    }

    #[test]
    fn only_a_definite_refusal_proves_that_nothing_was_bought() {
        for status in [301, 303, 307, 408, 409, 425, 499, 500, 502, 503, 504, 520] {
            for code in ["slow_down", "server_is_overloaded", "insufficient_quota", "moderation_blocked"] {
                assert_eq!(class_of(&WORDS, status, &error(code)), None, "{status} {code}");
            }
        }
        for status in (400..500).filter(|status| ![408, 409, 425, 499].contains(status)) {
            assert!(class_of(&WORDS, status, &ErrorBody::default()).is_some(), "{status}");
        }
    }

    #[test]
    fn a_refusal_has_the_class_that_its_status_and_words_say() {
        for (status, code, class) in [
            (400, "invalid_value", FailureClass::InvalidInput),
            (422, "", FailureClass::InvalidInput),
            (403, "moderation_blocked", FailureClass::Moderation),
            (401, "invalid_api_key", FailureClass::Auth),
            (400, "API_KEY_INVALID", FailureClass::Auth),
            (402, "", FailureClass::NoCredit),
            (404, "", FailureClass::ModelRetired),
            (400, "model_not_found", FailureClass::ModelRetired),
            (410, "", FailureClass::ModelRetired),
            (429, "", FailureClass::RateLimited),
            (429, "insufficient_quota", FailureClass::NoCredit),
            (429, "server_is_overloaded", FailureClass::Capacity),
            (405, "", FailureClass::ProviderFault),
        ] {
            assert_eq!(class_of(&WORDS, status, &error(code)), Some(class), "{status} {code}");
        }
        let by_type = ErrorBody { kind: Some("insufficient_quota".to_owned()), ..ErrorBody::default() };
        assert_eq!(class_of(&WORDS, 429, &by_type), Some(FailureClass::NoCredit));
        let by_phrase = ErrorBody { message: Some("It is Prohibited Content.".to_owned()), ..ErrorBody::default() };
        assert_eq!(class_of(&WORDS, 400, &by_phrase), Some(FailureClass::Moderation));
    }

    #[test]
    fn an_error_is_found_in_every_form_that_servers_use() {
        let listed = ErrorBody::of(&json!([{"error": {"code": 429, "type": "x y", "message": "slow"}}]));
        assert_eq!((listed.code.as_deref(), listed.kind, listed.message.as_deref()), (Some("429"), None, Some("slow")));
        assert_eq!(ErrorBody::of(&json!({"error": "text"})).message.as_deref(), Some("text"));
        assert_eq!(ErrorBody::of(&json!({"detail": "text"})).message.as_deref(), Some("text"));
        assert_eq!(ErrorBody::of(&json!("text")), ErrorBody::default());
        let wrong = json!({"loc": ["body", "duration"], "msg": "not on offer", "type": "literal_error", "input": "x"});
        for body in [json!({"detail": [wrong]}), json!([wrong])] {
            let error = ErrorBody::of(&body);
            assert_eq!(error.code.as_deref(), Some("literal_error"), "{body}");
            assert_eq!(error.message.as_deref(), Some("duration: not on offer"), "{body}");
        }
        let flat = ErrorBody::of(&json!({"detail": "took too long", "error_type": "request_timeout"}));
        assert_eq!((flat.kind.as_deref(), flat.message.as_deref()), (Some("request_timeout"), Some("took too long")));
    }

    #[test]
    fn phrases_have_their_class_too_and_a_refused_account_is_no_missing_job() {
        let says = |message: &str| ErrorBody { message: Some(message.to_owned()), ..ErrorBody::default() };
        for (status, message, class) in [
            (403, "User is locked. Reason: Exhausted balance.", FailureClass::NoCredit),
            (400, "API key not valid. Please pass a valid one.", FailureClass::Auth),
            (403, "Something else.", FailureClass::Auth),
        ] {
            assert_eq!(class_of(&WORDS, status, &says(message)), Some(class), "{message}");
            assert!(!WORDS.is_not_there(status, &says(message)), "{message}");
        }
        assert!(WORDS.is_not_there(400, &says("Unknown id.")) && WORDS.is_not_there(404, &ErrorBody::default()));
    }

    #[test]
    fn googles_details_say_how_long_to_wait_and_whether_waiting_helps() {
        let retry = |delay: Value| json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay});
        let quota =
            |id: &str| json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": id}]});
        for (delay, wait) in [
            (json!("34s"), Some(Duration::from_secs(34))),
            (json!("1.5s"), Some(Duration::from_millis(1500))),
            (json!("999999999s"), Some(LONGEST_RETRY_AFTER)),
            (json!("-3s"), Some(Duration::ZERO)),
            (json!("soon"), None),
            (json!(34), None),
        ] {
            assert_eq!(google(json!([retry(delay.clone())])).wait, wait, "{delay}");
        }
        let minute = google(json!([quota("GenerateRequestsPerMinutePerProject"), retry(json!("3s"))]));
        assert_eq!(class_of(&WORDS, 429, &minute), Some(FailureClass::RateLimited));
        let day = google(json!([quota("GenerateRequestsPerDayPerProjectPerModel"), retry(json!("3s"))]));
        assert_eq!(class_of(&WORDS, 429, &day), Some(FailureClass::NoCredit));
        for nonsense in [json!("x"), json!([7, null, {"@type": 3}, {"@type": "a.QuotaFailure", "violations": "x"}])] {
            assert_eq!(class_of(&WORDS, 429, &google(nonsense)), Some(FailureClass::RateLimited));
        }
        assert_eq!(told(429, &minute, &[]), "HTTP 429 (RESOURCE_EXHAUSTED)");
    }

    #[test]
    fn words_about_our_account_do_not_reach_the_customer() {
        let error = ErrorBody { message: Some("Key of ACME Corp is invalid".to_owned()), ..error("invalid_api_key") };
        let shown = message(FailureClass::Auth, 401, &error, &[]);
        assert_eq!(shown, "the provider refused our account: HTTP 401 (invalid_api_key)");
    }
}
