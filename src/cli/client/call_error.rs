//! Why a call of the API brought no result: what happened, at which address, what to do next.
//!
//! Always holds: text of the server is stripped of control characters before it reaches a terminal; the key is in no error.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::Head;
use crate::cli::output::{amount, plain};

/// A refusal as the API documents it (RFC 9457).
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Problem {
    #[serde(rename = "type")]
    problem_type: String,
    title: String,
    pub(in crate::cli) detail: String,
    trace_id: Option<String>,
    #[serde(default)]
    pub(in crate::cli) errors: Vec<ProblemError>,
    required: Option<i64>,
    available: Option<i64>,
    shortfall: Option<i64>,
    #[serde(skip)]
    retry_after: Option<Duration>,
    #[serde(skip)]
    base: String,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct ProblemError {
    pub(in crate::cli) pointer: Option<String>,
    pub(in crate::cli) detail: String,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::cli) enum CallError {
    /// Nothing was sent.
    #[error(
        "no connection to {base} ({cause}): is Freezeframe running there? --url or FREEZEFRAME_URL says where it is"
    )]
    Unreachable { base: String, cause: String },
    #[error("{base} gave no complete answer ({cause})")]
    Interrupted { base: String, cause: String },
    /// Something in between is busy, or the service behind it is away.
    #[error("{base} answered {status}: the service, or a proxy before it, is busy or restarting")]
    Busy { base: String, status: u16, retry_after: Option<Duration> },
    #[error(
        "{base} answered {what}, which is not how Freezeframe answers: --url or FREEZEFRAME_URL must name its base, such as \
         https://video.example.com"
    )]
    Stranger { base: String, what: String },
    #[error("{0}")]
    Refused(Box<Problem>),
}

impl CallError {
    pub(super) fn of_transport(base: &str, error: &reqwest::Error) -> CallError {
        let (base, cause) = (base.to_owned(), root_cause(error));
        if error.is_connect() {
            return CallError::Unreachable { base, cause };
        }
        let cause = if error.is_timeout() { "it took too long".to_owned() } else { cause };
        CallError::Interrupted { base, cause }
    }

    /// Of an answer that is no success, or no JSON.
    pub(super) fn of_answer(base: &str, head: &Head, body: &[u8]) -> CallError {
        let ours = |problem: &Problem| problem.problem_type.contains("/problems#");
        if let Some(problem) = serde_json::from_slice::<Problem>(body).ok().filter(ours) {
            let (retry_after, base) = (head.retry_after, base.to_owned());
            return CallError::Refused(Box::new(Problem { retry_after, base, ..problem }));
        }
        let (base, status) = (base.to_owned(), head.status.as_u16());
        if matches!(status, 408 | 429 | 502..=504) {
            return CallError::Busy { base, status, retry_after: head.retry_after };
        }
        let kind = head.headers.get(reqwest::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.map_or_else(|| "no content type".to_owned(), plain);
        CallError::Stranger { base, what: format!("{status} ({kind})") }
    }

    /// The stable name of a refusal, such as `short-of-credits`.
    pub(in crate::cli) fn kind(&self) -> &str {
        match self {
            CallError::Refused(problem) => problem.kind(),
            _ => "",
        }
    }

    /// Whether the same request may be answered when it is repeated.
    pub(in crate::cli) fn passes(&self) -> bool {
        match self {
            CallError::Unreachable { .. } | CallError::Interrupted { .. } | CallError::Busy { .. } => true,
            CallError::Stranger { .. } => false,
            CallError::Refused(problem) => {
                problem.retry_after.is_some()
                    || matches!(
                        problem.kind(),
                        "key-in-flight" | "batch-busy" | "unavailable" | "outcome-unknown" | "internal"
                    )
            }
        }
    }

    /// Whether the request may have had its effect although its answer is missing.
    pub(in crate::cli) fn may_have_arrived(&self) -> bool {
        !matches!(self, CallError::Unreachable { .. })
    }

    /// How long the service asks to be left alone.
    pub(in crate::cli) fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Busy { retry_after, .. } => *retry_after,
            CallError::Refused(problem) => problem.retry_after,
            _ => None,
        }
    }

    /// In a few words, for a line of progress.
    pub(in crate::cli) fn brief(&self) -> String {
        match self {
            CallError::Unreachable { cause, .. } => format!("no connection ({cause})"),
            CallError::Interrupted { cause, .. } => format!("no answer ({cause})"),
            CallError::Busy { status, .. } => format!("answered {status}"),
            CallError::Stranger { what, .. } => format!("answered {what}"),
            CallError::Refused(problem) => plain(&problem.title).to_lowercase(),
        }
    }
}

impl Problem {
    /// Whether it says where in the body something is wrong.
    pub(in crate::cli) fn names_places(&self) -> bool {
        self.errors.iter().any(|error| error.pointer.is_some())
    }

    fn kind(&self) -> &str {
        self.problem_type.rsplit('#').next().unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = plain(&self.detail);
        match (self.kind(), self.required, self.available, self.shortfall) {
            ("unauthorized", ..) => {
                return write!(
                    f,
                    "{} refused the API key: {detail}; FREEZEFRAME_API_KEY or --api-key holds it",
                    self.base
                );
            }
            ("not-found", ..) => {
                return write!(f, "{detail}; `freezeframe batch list` shows the batches of your key");
            }
            ("short-of-credits", Some(required), Some(available), Some(shortfall)) => {
                return write!(
                    f,
                    "not enough credits, nothing was frozen: {} required, {} available, {} too few; send a smaller batch, \
                     wait for refunds, or buy at least {} credits",
                    amount(required),
                    amount(available),
                    amount(shortfall),
                    amount(shortfall)
                );
            }
            _ => write!(f, "{}: {detail}", plain(&self.title))?,
        }
        match &self.trace_id {
            Some(trace) => write!(f, " (trace {})", plain(trace)),
            None => Ok(()),
        }
    }
}

/// The innermost reason of an error: the outer layers of an HTTP error repeat the URL, which may hold a signature.
pub(in crate::cli) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let Some(cause) = causes.last() else { return "for an unknown reason".to_owned() };
    let words = plain(&cause.to_string());
    // "Connection refused (os error 111)"
    words.split(" (os error ").next().unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::super::Head;
    use super::CallError;

    fn of(status: u16, retry_after: Option<u64>, body: &str) -> CallError {
        let head = Head {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        CallError::of_answer("http://x", &head, body.as_bytes())
    }

    fn problem(kind: &str) -> String {
        format!(r#"{{"type":"/problems#{kind}","title":"T","status":1,"detail":"a\u001b[31m red \u009b1m herring"}}"#)
    }

    #[test]
    fn what_passes_is_repeated_and_what_stays_is_not() {
        let passing = ["key-in-flight", "batch-busy", "unavailable", "outcome-unknown", "internal"];
        assert!(passing.iter().all(|kind| of(503, None, &problem(kind)).passes()));
        assert!(of(429, Some(3), &problem("too-many-requests")).passes());
        assert!([429, 502, 503, 504].iter().all(|status| of(*status, None, "<html>").passes()));
        let staying = ["unauthorized", "not-found", "short-of-credits", "invalid-order", "key-reused"];
        assert!(staying.iter().all(|kind| !of(422, None, &problem(kind)).passes()));
        assert!([200, 301, 404, 403].iter().all(|status| !of(*status, None, "<html>").passes()));
        assert_eq!(of(503, Some(7), "").retry_after(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_servers_words_cannot_steer_a_terminal() {
        let text = of(400, None, &problem("bad-request")).to_string();
        assert!(text.contains("herring") && !text.chars().any(char::is_control), "{text:?}");
    }

    #[test]
    fn being_short_of_credits_is_told_in_three_numbers() {
        let body = r#"{"type":"/problems#short-of-credits","title":"T","status":402,"detail":"d",
                       "required":61000,"available":1234,"shortfall":59766}"#;
        let text = of(402, None, body).to_string();
        for part in ["61,000 required", "1,234 available", "59,766 too few"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
