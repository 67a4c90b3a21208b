//! The bytes of a download: clips painted when first asked for, and the ways in which a body can go wrong.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Request, Response};

use super::clip;
use super::hostile;
use super::jobs::Spoil;
use super::office::Office;
use super::outcomes::Download;
use super::script::{Detour, OddPicture};

/// Clips kept; at some 140 kB each this is under 5 MB.
const KEPT_CLIPS: usize = 32;
const LONG_SIDE: u32 = 640;
const SHORT_SIDE: u32 = 360;
/// Longer than anybody waits for a picture.
const SILENCE: Duration = Duration::from_secs(120);
const NOT_A_VIDEO: &str = "<!doctype html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>";

/// The clips that were painted last.
#[derive(Default)]
pub(super) struct Clips {
    kept: Mutex<VecDeque<(ClipKey, Bytes)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct ClipKey {
    prompt_sha256: [u8; 32],
    sides: (u32, u32),
    seconds: u32,
}

impl Clips {
    fn find(&self, key: &ClipKey) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| known == key).map(|(_, clip)| clip.clone())
    }

    fn keep(&self, key: ClipKey, clip: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_CLIPS {
            kept.pop_front();
        }
        kept.push_back((key, clip));
    }

    /// Painting takes milliseconds of pure computing, so it leaves the threads that serve connections.
    async fn painted(&self, prompt: Arc<str>, key: ClipKey) -> Result<Bytes, tokio::task::JoinError> {
        if let Some(clip) = self.find(&key) {
            return Ok(clip);
        }
        let (width, height) = key.sides;
        let paint = move || Bytes::from(clip::title_card(&prompt, width, height, key.seconds));
        let clip = tokio::task::spawn_blocking(paint).await?;
        self.keep(key, clip.clone());
        Ok(clip)
    }
}

/// The answer to a download that the studio allowed.
pub(super) async fn respond(download: Download, request: &Request, office: &Office) -> poem::Result<Response> {
    Ok(match download.spoil {
        Spoil::Empty => whole("video/mp4", Bytes::new()),
        Spoil::Html => whole("video/mp4", Bytes::from_static(NOT_A_VIDEO.as_bytes())),
        Spoil::Nothing => whole("video/mp4", clip_of(&download, &office.clips).await?),
        Spoil::Short => {
            let clip = clip_of(&download, &office.clips).await?;
            let half = clip.len() / 2;
            broken_off("video/mp4", clip, half)
        }
        Spoil::Trickle { pause_ms } => {
            let clip = clip_of(&download, &office.clips).await?;
            trickled(clip, Duration::from_millis(pause_ms))
        }
        Spoil::Attack(attack) => {
            let clip = clip_of(&download, &office.clips).await?;
            let struck = office.attacked_file(attack, (&download, &clip), request);
            struck.unwrap_or_else(|| whole("video/mp4", clip))
        }
        Spoil::Endless { claimed_bytes } => {
            let first = clip_of(&download, &office.clips).await?;
            let mut answer =
                Response::builder().content_type("video/mp4").body(hostile::endless(first, &office.journal));
            if let Some(bytes) = claimed_bytes {
                answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            }
            answer
        }
    })
}

/// The answer to a download that leads somewhere else; `here` is its own path, or its own URL on the other host.
pub(super) fn redirect(detour: Detour, id: &str, here: &str, office: &Office) -> Response {
    let target = match detour {
        Detour::OtherHost => format!("{}/files/{id}", office.other_host),
        Detour::Metadata => "http://169.254.169.254/latest/meta-data/".to_owned(),
        Detour::Circle if here.starts_with('/') => format!("{}{here}", office.home),
        Detour::Circle => here.to_owned(),
    };
    Response::builder().status(StatusCode::FOUND).header(header::LOCATION, target).finish()
}

/// A picture of a finished video, or what comes in its place.
pub(super) async fn picture(download: &Download, office: &Office) -> poem::Result<Response> {
    let sides = sides_of(&download.order.size);
    let still = Bytes::from(clip::still(&download.order.prompt, sides.0, sides.1));
    Ok(match download.odd_picture {
        None | Some(OddPicture::Missing) => whole("image/webp", still),
        Some(OddPicture::Page) => whole("image/webp", Bytes::from_static(NOT_A_VIDEO.as_bytes())),
        Some(OddPicture::Film) => whole("video/mp4", clip_of(download, &office.clips).await?),
        Some(OddPicture::Endless) => {
            Response::builder().content_type("image/webp").body(hostile::endless(still, &office.journal))
        }
        Some(OddPicture::Silent) => late_body("image/webp", still, SILENCE),
        Some(OddPicture::Cut) => whole("image/webp", still.slice(..still.len() / 2)),
    })
}

/// The film of a finished video, unspoiled.
pub(super) async fn clip_of(download: &Download, clips: &Clips) -> poem::Result<Bytes> {
    let (prompt, prompt_sha256) = match download.one_clip_for_all {
        true => (Arc::from("One clip for all"), [0; 32]),
        false => (Arc::clone(&download.order.prompt), download.prompt_sha256),
    };
    let key = ClipKey { prompt_sha256, sides: sides_of(&download.order.size), seconds: download.clip_seconds };
    painted(clips, prompt, key).await
}

async fn painted(clips: &Clips, prompt: Arc<str>, key: ClipKey) -> poem::Result<Bytes> {
    clips.painted(prompt, key).await.map_err(|error| poem::Error::new(error, StatusCode::INTERNAL_SERVER_ERROR))
}

/// The clip's sides for a requested `WIDTHxHEIGHT`: small, but standing or lying like the original.
fn sides_of(size: &str) -> (u32, u32) {
    let (width, height) = size.split_once('x').unwrap_or((size, size));
    match (width.parse::<u32>(), height.parse::<u32>()) {
        (Ok(width), Ok(height)) if width < height => (SHORT_SIDE, LONG_SIDE),
        _ => (LONG_SIDE, SHORT_SIDE),
    }
}

fn whole(content_type: &str, bytes: Bytes) -> Response {
    Response::builder().content_type(content_type).body(bytes)
}

/// Promises all `bytes`, sends the first `sent` of them and closes the connection.
pub(super) fn broken_off(content_type: &str, bytes: Bytes, sent: usize) -> Response {
    let length = bytes.len();
    let first = stream::once(async move { Ok(bytes.slice(..sent)) });
    let end = stream::once(async {
        // One round through the scheduler, in which the server flushes what it has before it learns of the break.
        tokio::task::yield_now().await;
        Err(io::Error::new(io::ErrorKind::ConnectionReset, "broken off by the emulator"))
    });
    streamed(content_type, length, Body::from_bytes_stream(first.chain(end)))
}

/// Status and headers now, `bytes` after `delay`.
pub(super) fn late_body(content_type: &str, bytes: Bytes, delay: Duration) -> Response {
    let length = bytes.len();
    let body = stream::once(async move {
        tokio::time::sleep(delay).await;
        Ok::<_, io::Error>(bytes)
    });
    streamed(content_type, length, Body::from_bytes_stream(body))
}

/// The whole length is promised, and a byte comes every `pause`.
fn trickled(bytes: Bytes, pause: Duration) -> Response {
    let length = bytes.len();
    let drops = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok::<_, io::Error>(rest.split_to(1)), rest))
    });
    streamed("video/mp4", length, Body::from_bytes_stream(drops))
}

fn streamed(content_type: &str, length: usize, body: Body) -> Response {
    let mut answer = Response::builder().content_type(content_type).body(body);
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_stands_or_lies_like_the_size_that_was_bought() {
        assert_eq!(sides_of("720x1280"), (360, 640));
        assert_eq!(sides_of("1792x1024"), (640, 360));
        assert_eq!(sides_of("nonsense"), (640, 360));
    }

    #[tokio::test]
    async fn clips_are_painted_once_and_only_so_many_are_kept() {
        let clips = Clips::default();
        let key = |seconds| ClipKey { prompt_sha256: [1; 32], sides: (64, 64), seconds };
        let first = clips.painted("fox".into(), key(1)).await.unwrap();
        let again = clips.painted("fox".into(), key(1)).await.unwrap();
        assert_eq!(first.as_ptr(), again.as_ptr());
        for number in 0..KEPT_CLIPS as u32 {
            clips.keep(key(100 + number), Bytes::new());
        }
        assert!(clips.find(&key(1)).is_none());
        assert_eq!(clips.kept.lock().unwrap().len(), KEPT_CLIPS);
    }
}
