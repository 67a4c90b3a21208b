//! Our bucket at Google Cloud Storage, where Vertex puts the finished files: each attempt has a place of its own there.
//!
//! That place is what finds a submission whose answer was lost: the operation is not known any more, its file will be.
//! Always holds: nothing outside of the configured bucket and prefix is read.

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use url::Url;

use super::super::adapter::{ApiClient, Ask, FilePolicy, JsonBounds};
use super::super::{ByteStream, Candidate, FetchError, FindOutcome, Handle, Output, Place, PollOutcome, ReadError};
use crate::domain::{AttemptId, FailureClass};

/// Google's own figure for the slowest videos is six minutes; a file that is not there after this is not coming.
const LONGEST_MAKING: TimeDelta = TimeDelta::minutes(30);

pub(super) struct Bucket {
    /// `gs://bucket/prefix`, no slash at the end.
    uri: String,
    bucket: String,
    /// `prefix/`, or nothing.
    prefix: String,
    api: ApiClient,
}

/// A file in the bucket.
struct Object {
    name: String,
    created_at: DateTime<Utc>,
}

impl Bucket {
    /// # Errors
    /// The text is no `gs://bucket` or `gs://bucket/prefix`.
    pub(super) fn new(uri: &str, api: ApiClient) -> anyhow::Result<Bucket> {
        let path = uri.strip_prefix("gs://").context("storage_uri does not start with gs://")?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) };
        let uri = uri.trim_end_matches('/').to_owned();
        Ok(Bucket { uri, bucket: bucket.to_owned(), prefix, api })
    }

    /// Where the file of this attempt goes: `gs://bucket/prefix/attempt/`.
    pub(super) fn place_of(&self, attempt: AttemptId) -> String {
        format!("{}/{}/", self.uri, attempt.bare())
    }

    /// Whether a handle or a file is in here.
    pub(super) fn has(&self, uri: &str) -> bool {
        uri.strip_prefix(&self.uri).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The place of this attempt, once its file is there.
    pub(super) async fn find(&self, attempt: AttemptId, sent_at: DateTime<Utc>) -> Result<FindOutcome, ReadError> {
        let place = self.place_of(attempt);
        match self.films_at(&place).await? {
            // a bucket that is not there cannot say that nothing is in it
            None => Ok(FindOutcome::Unsupported),
            Some(films) => Ok(match films.into_iter().next() {
                Some(film) => {
                    FindOutcome::Candidates(vec![Candidate { handle: Handle(place), created_at: film.created_at }])
                }
                None if Utc::now() - sent_at < LONGEST_MAKING => FindOutcome::NotYet,
                None => FindOutcome::Candidates(Vec::new()),
            }),
        }
    }

    /// What became of a job that is known by its place alone.
    pub(super) async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        let Some(films) = self.films_at(&handle.0).await? else { return Ok(PollOutcome::gone()) };
        Ok(match films.into_iter().next() {
            Some(film) => {
                let place = Place::Object(format!("gs://{}/{}", self.bucket, film.name));
                PollOutcome::Succeeded { output: Output { handle: handle.clone(), place, expires_at: None } }
            }
            None => PollOutcome::gone(),
        })
    }

    /// # Errors
    /// As [`ApiClient::fetch`]; an object elsewhere is refused.
    pub(super) async fn fetch(&self, uri: &str) -> Result<ByteStream, FetchError> {
        let name = uri.strip_prefix("gs://").and_then(|path| path.strip_prefix(&self.bucket)?.strip_prefix('/'));
        let Some(name) = name.filter(|_| self.has(uri)) else {
            let message = "the provider put the file into another bucket than ours".to_owned();
            return Err(FetchError::Read(ReadError::Refused { class: FailureClass::ProviderFault, message }));
        };
        let mut url = self.object_url(Some(name));
        url.query_pairs_mut().append_pair("alt", "media");
        self.api.fetch(&url, FilePolicy { gone: &[404], expires_at: None }).await
    }

    /// Every film below `place`; `None` when there is no bucket.
    async fn films_at(&self, place: &str) -> Result<Option<Vec<Object>>, ReadError> {
        let below = place.strip_prefix(&self.uri).unwrap_or_default().trim_start_matches('/');
        let mut url = self.object_url(None);
        url.query_pairs_mut().append_pair("prefix", &format!("{}{below}", self.prefix));
        let Some(answer) = self.api.read(&Ask::Get(url), JsonBounds::LIST).await? else { return Ok(None) };
        let items = match answer.get("items") {
            // an empty list is left out
            None => return Ok(Some(Vec::new())),
            Some(items) => items.as_array(),
        };
        let unreadable = || ReadError::Unavailable { cause: "a list of objects that cannot be read".to_owned() };
        let objects = items.ok_or_else(unreadable)?.iter().map(|item| object(item).ok_or_else(unreadable));
        let objects = objects.collect::<Result<Vec<Object>, ReadError>>()?;
        Ok(Some(objects.into_iter().filter(|object| object.name.ends_with(".mp4")).collect()))
    }

    fn object_url(&self, name: Option<&str>) -> Url {
        self.api.url(["storage", "v1", "b", &self.bucket, "o"].into_iter().chain(name))
    }
}

fn object(item: &Value) -> Option<Object> {
    let name = item.get("name")?.as_str()?.to_owned();
    let created = item.get("timeCreated")?.as_str()?;
    Some(Object { name, created_at: DateTime::parse_from_rfc3339(created).ok()?.to_utc() })
}
