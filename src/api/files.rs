//! Finished videos and their pictures by signed link: no API key, the link is the permission. Whole or in part, so that
//! players can seek.
//!
//! Always holds: the signature is checked before anything is read; a file whose time is over is not served, whether it is
//! deleted yet or not; a video is streamed from the store, and only as fast as the client takes it; no connection to the
//! database is held meanwhile. `HEAD` is answered from the row alone, as a `GET` with the same headers would be.

use std::ops::Range;

use chrono::{DateTime, Utc};
use poem::http::Method;
use poem::http::header::{self, HeaderMap, HeaderName};
use poem::web::Data;
use poem::{Body, Request, Response, ResponseBuilder, handler};

use super::ApiState;
use super::error::{ApiError, NOT_MODIFIED, PARTIAL_CONTENT};
use super::videos::hex;
use crate::batches::{self, VideoOutput};
use crate::domain::VideoId;
use crate::storage::{self, LinkError, Linked, ObjectKey, ReadError, StoredImage};

/// What a genuine link opens.
struct Opened {
    video: VideoId,
    output: VideoOutput,
    key: ObjectKey,
    /// For how long a client may keep what it got.
    max_age_secs: i64,
}

/// The file that a signed link names: `/files/{vid_...}.mp4?expires=UNIX_SECONDS&signature=...`, or its picture,
/// `/files/{vid_...}.thumbnail?...`.
#[handler]
pub async fn file(request: &Request, Data(state): Data<&ApiState>) -> Result<Response, ApiError> {
    let (what, video) = request.raw_path_param("file").and_then(Linked::parse).ok_or_else(no_file)?;
    let now = Utc::now();
    let expires = check_link(state, (what, video), request.uri().query().unwrap_or_default(), now)?;
    let output = state.db.look_up(move |conn| Box::pin(async move { batches::output_of(conn, video).await })).await?;
    let output = output.ok_or_else(no_file)?;
    if !output.is_kept(state.storage.retention(), now) {
        return Err(ApiError::file_purged(output.kept_until(state.storage.retention()).min(now)));
    }
    let key = ObjectKey::from_stored(&output.key)
        .ok_or_else(|| ApiError::internal(format_args!("the stored key of {video} is not one of ours")))?;
    let opened = Opened { video, output, key, max_age_secs: (expires - now.timestamp()).max(0) };
    match what {
        Linked::Video => send_video(request, state, opened).await,
        Linked::Thumbnail => send_thumbnail(request, state, opened).await,
    }
}

fn no_file() -> ApiError {
    ApiError::not_found("there is no such file; the links of a video's `output` lead to files")
}

impl Opened {
    fn answer(&self) -> ResponseBuilder {
        let kept = format!("private, max-age={}, immutable", self.max_age_secs);
        Response::builder().header(header::CACHE_CONTROL, kept).header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }

    /// Made of the id, which needs no quoting.
    fn disposition(&self, extension: &str) -> String {
        format!("inline; filename=\"{}.{extension}\"", self.video)
    }
}

async fn send_video(request: &Request, state: &ApiState, opened: Opened) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", hex(&opened.output.sha256));
    let answer = opened.answer().header(header::ETAG, &etag).header(header::ACCEPT_RANGES, "bytes");
    if text(request.headers(), header::IF_NONE_MATCH).is_some_and(|known| names(known, &etag)) {
        return Ok(answer.status(NOT_MODIFIED).finish());
    }
    let bytes = opened.output.bytes;
    let wanted = wanted(request.headers(), &etag, bytes)?;
    let sent = wanted.clone().unwrap_or(0..bytes);
    let answer = answer
        .content_type(storage::CONTENT_TYPE)
        .header(header::CONTENT_DISPOSITION, opened.disposition("mp4"))
        .header(header::CONTENT_LENGTH, sent.end - sent.start);
    let answer = match &wanted {
        Some(range) => answer
            .status(PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {}-{}/{bytes}", range.start, range.end.saturating_sub(1))),
        None => answer,
    };
    if request.method() == Method::HEAD {
        return Ok(answer.finish());
    }
    let found = state.storage.get(&opened.key, wanted).await;
    let (object, stream) = found.map_err(|error| unreadable(error, opened.video))?;
    if object.bytes != bytes {
        let detail = format_args!("the file of {} has {} bytes in the store, not {bytes}", opened.video, object.bytes);
        return Err(ApiError::internal(detail));
    }
    Ok(answer.body(Body::from_bytes_stream(stream)))
}

/// Whole: a picture is short.
async fn send_thumbnail(request: &Request, state: &ApiState, opened: Opened) -> Result<Response, ApiError> {
    let StoredImage { kind, bytes, sha256 } = opened.output.thumbnail.ok_or_else(no_file)?;
    let etag = format!("\"{}\"", hex(&sha256));
    let answer = opened.answer().header(header::ETAG, &etag);
    if text(request.headers(), header::IF_NONE_MATCH).is_some_and(|known| names(known, &etag)) {
        return Ok(answer.status(NOT_MODIFIED).finish());
    }
    let answer = answer
        .content_type(kind.content_type())
        .header(header::CONTENT_DISPOSITION, opened.disposition(kind.extension()))
        .header(header::CONTENT_LENGTH, bytes);
    if request.method() == Method::HEAD {
        return Ok(answer.finish());
    }
    let found = state.storage.get_image(&opened.key.its_thumbnail()).await;
    match found.map_err(|error| unreadable(error, opened.video))? {
        Some((found, image)) if found == kind && image.len() as u64 == bytes => Ok(answer.body(image)),
        _ => Err(ApiError::internal(format_args!("the picture of {} is not in the store as it was", opened.video))),
    }
}

/// The moment at which a genuine link expires.
fn check_link(state: &ApiState, what: (Linked, VideoId), query: &str, now: DateTime<Utc>) -> Result<i64, ApiError> {
    let forged = || ApiError::forged_link("the link is not complete or was changed: use it exactly as the API gave it");
    let (mut expires, mut signature) = (None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "expires" => expires = value.parse::<i64>().ok(),
            "signature" => signature = Some(value),
            _ => {}
        }
    }
    let (expires, signature) = (expires.ok_or_else(forged)?, signature.ok_or_else(forged)?);
    match state.links.verify(what, expires, &signature, now) {
        Ok(()) => Ok(expires),
        Err(LinkError::Expired) => Err(ApiError::expired_link(LinkError::Expired.to_string())),
        Err(LinkError::Forged) => Err(forged()),
    }
}

fn unreadable(error: ReadError, video: VideoId) -> ApiError {
    match error {
        ReadError::RangeOutside { bytes, .. } => ApiError::range_outside(bytes),
        ReadError::NotFound { .. } => {
            ApiError::internal(format_args!("the file of {video} is gone from the store: {error}"))
        }
        ReadError::Store { key, source } => {
            tracing::warn!(%key, error = %source, "the object store failed");
            ApiError::unavailable("the object store is not available: repeat the request")
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether an `If-None-Match` names `etag`.
fn names(known: &str, etag: &str) -> bool {
    known.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The part that the request asks for; `None` for the whole file.
fn wanted(headers: &HeaderMap, etag: &str, bytes: u64) -> Result<Option<Range<u64>>, ApiError> {
    // compared strongly, as a part must not be joined to another file's; a date names no file of ours
    if headers.get(header::IF_RANGE).is_some_and(|expected| expected.as_bytes() != etag.as_bytes()) {
        return Ok(None);
    }
    match text(headers, header::RANGE).and_then(|range| parse_range(range, bytes)) {
        Some(range) if range.is_empty() => Err(ApiError::range_outside(bytes)),
        range => Ok(range),
    }
}

/// The one range of a `Range` header (RFC 9110, section 14), end exclusive; empty when it cannot be satisfied. `None` for
/// several ranges, other units and text that is no range: such a header is ignored.
fn parse_range(text: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // more digits than fit mean "to the end"
        true if !digits.is_empty() => Some(digits.parse().unwrap_or(u64::MAX)),
        _ => None,
    };
    match (first, last) {
        ("", suffix) => Some(bytes.saturating_sub(number(suffix)?)..bytes),
        (first, "") => Some(number(first)?.min(bytes)..bytes),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(bytes)..last.saturating_add(1).min(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{names, parse_range};

    #[test]
    fn a_range_is_read_as_the_standard_says() {
        for (text, range) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=0-499", Some(0..500)),
            ("bytes=500-", Some(500..1000)),
            ("bytes=-1", Some(999..1000)),
            ("bytes=-5000", Some(0..1000)),
            ("bytes=990-5000", Some(990..1000)),
            ("bytes=0-99999999999999999999999", Some(0..1000)),
        ] {
            assert_eq!(parse_range(text, 1000), range, "{text}");
        }
        for unsatisfiable in ["bytes=1000-", "bytes=-0", "bytes=5000-6000", "bytes=99999999999999999999-"] {
            assert!(parse_range(unsatisfiable, 1000).is_some_and(|range| range.is_empty()), "{unsatisfiable}");
        }
        for ignored in ["", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2"] {
            assert_eq!(parse_range(ignored, 1000), None, "{ignored}");
        }
    }

    #[test]
    fn a_known_tag_is_recognised_in_a_list() {
        assert!(names("\"a\", W/\"b\"", "\"b\""));
        assert!(names("*", "\"b\""));
        assert!(!names("\"a\"", "\"b\""));
    }
}
