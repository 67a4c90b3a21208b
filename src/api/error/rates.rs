//! Refusals of what comes too often.

use poem::http::header;

use super::{ApiError, Kind};

impl ApiError {
    /// `whose` is `key` or `tenant`; it may make `quota` requests a minute.
    pub fn too_many_requests(whose: &str, quota: u32, wait_secs: u64) -> ApiError {
        let whose = if whose == "key" { "this API key" } else { "this tenant, with all of its API keys," };
        let detail = format!(
            "{whose} may make {quota} requests a minute and has made them; nothing was changed: repeat the request in \
             {wait_secs} s"
        );
        ApiError::new(Kind::TooManyRequests, detail).header(header::RETRY_AFTER, wait_secs)
    }

    /// The key was not looked at.
    pub fn too_many_failed_keys(wait_secs: u64) -> ApiError {
        let detail = format!(
            "too many requests from this address had an API key that is nobody's, so this key was not looked at: repeat the \
             request in {wait_secs} s"
        );
        ApiError::new(Kind::TooManyFailedKeys, detail).header(header::RETRY_AFTER, wait_secs)
    }
}
