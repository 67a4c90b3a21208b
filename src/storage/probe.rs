//! The probe at start: whether the store takes, gives back and deletes an object, told in one line before the first
//! video depends on it.
//!
//! Always holds: the probe touches nothing but an object of its own below `freezeframe-probe/`, and deletes it (a crash
//! in between leaves some bytes there). The line names the place, the act and the store's own code of the error, and no
//! key.
//! Refuses: to wait for a store that is away.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutPayload};
use ulid::Ulid;

use super::Storage;

const WITHIN: Duration = Duration::from_secs(20);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the storage {place} cannot be used: it does not let us {act} objects: {cause}")]
pub struct ProbeError {
    place: String,
    act: Act,
    cause: String,
}

/// What the probe was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Write,
    Read,
    Delete,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Act::Write => "write",
            Act::Read => "read",
            Act::Delete => "delete",
        })
    }
}

impl Storage {
    /// Writes, reads and deletes a small object.
    ///
    /// # Errors
    /// [`ProbeError`], in words for the operator.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let failed = |act, cause| ProbeError { place: self.place.to_string(), act, cause };
        let mut act = Act::Write;
        let probed = tokio::time::timeout(WITHIN, async {
            let key = Path::from_iter(["freezeframe-probe".to_owned(), Ulid::generate().to_string()]);
            let text = key.to_string();
            self.hasty.put(&key, PutPayload::from(text.clone().into_bytes())).await?;
            act = Act::Read;
            let found = self.hasty.get(&key).await?.bytes().await?;
            act = Act::Delete;
            self.hasty.delete(&key).await?;
            Ok::<bool, Error>(found == text.as_bytes())
        });
        match probed.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(failed(Act::Read, "it gave back other bytes than it was given".to_owned())),
            Ok(Err(error)) => Err(failed(act, in_words(&error))),
            Err(_) => Err(failed(act, format!("no answer within {} seconds", WITHIN.as_secs()))),
        }
    }
}

/// What a store's error means for the one who set it up.
pub(super) fn in_words(error: &Error) -> String {
    let code = code_of(&chain(error)).map(|code| format!(" ({code})")).unwrap_or_default();
    match error {
        Error::NotFound { .. } => format!("there is no such bucket, container or directory{code}"),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            format!("the access key is not accepted, or lacks the right{code}")
        }
        other => match code.is_empty() {
            true => innermost(other),
            false => format!("the store answered with an error{code}"),
        },
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// The `<Code>` of an answer in the XML that S3, Google and Azure share.
fn code_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (!code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::code_of;

    #[test]
    fn the_code_of_an_answer_is_found_and_nothing_else_is_taken_for_one() {
        let answer =
            "status 403: <?xml?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        assert_eq!(code_of(answer), Some("SignatureDoesNotMatch"));
        for other in
            ["", "<Code></Code>", "<Code>a b</Code>", "<Code>open", &format!("<Code>{}</Code>", "x".repeat(65))]
        {
            assert_eq!(code_of(other), None, "{other}");
        }
    }
}
