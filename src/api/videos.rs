//! The videos of a batch over HTTP: how far each is, why it failed, where its file is.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freezeframe_workflows::retry::{explain, retryable_by_customer};
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::attempts::{self, VideoAttempt};
use super::auth::Caller;
use super::batch_schema::metadata;
use super::batches::{no_batch, parse_id};
use super::error::ApiError;
use super::page::{self, Limit};
use super::words::Word;
use super::{ApiState, Topic};
use crate::batches::{self, VideoFailure, VideoOutput, VideoView};
use crate::domain::{Credits, FailureClass, VideoId, VideoState, WaitingReason};
use crate::storage::{self, LinkSigner, Retention};

const LIST: &str = "videos";

pub struct VideosApi;

#[OpenApi(tag = "Topic::Batches")]
impl VideosApi {
    /// List the videos of a batch
    ///
    /// In the order of the items. A finished video has a link to its file as soon as it is stored, while the others are
    /// still being made. Follow `next_cursor` until it is absent.
    #[oai(path = "/video-batch/:batch_id/videos", method = "get", operation_id = "listVideos")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
        /// Only videos in this state.
        #[oai(name = "state")]
        wanted: Query<Option<Word<VideoState>>>,
        /// How many videos a page shows.
        #[oai(default)]
        limit: Query<Limit>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<VideoPage>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let after: Option<u32> = page::after(LIST, cursor.0.as_deref())?;
        let (tenant, wanted) = (caller.0.id, wanted.0.map(|Word(state)| state));
        let most = limit.rows();
        let rows = state.db.read(tenant, move |conn| {
            Box::pin(async move {
                let rows = batches::videos(conn, (tenant, id), after, wanted, most).await?;
                let exists = !rows.is_empty() || batches::batch(conn, tenant, id).await?.is_some();
                let shown: Vec<VideoId> = rows.iter().map(|row| row.id).collect();
                let attempts = batches::attempts(conn, tenant, &shown).await?;
                Ok::<_, sqlx::Error>(exists.then_some((rows, attempts)))
            })
        });
        let (rows, attempts) = rows.await?.ok_or_else(|| no_batch(id))?;
        let mut attempts = attempts::by_video(&attempts);
        let (rows, next_cursor) = page::page(rows, limit.0, |video| page::cursor(LIST, video.position));
        let (now, files) = (Utc::now(), (&state.links, state.storage.retention()));
        let data = rows.into_iter().map(|row| {
            let attempts = attempts.remove(&row.id).unwrap_or_default();
            Video { attempt_history: attempts, ..Video::new(row, files, now) }
        });
        let data = data.collect();
        Ok(Json(VideoPage { data, next_cursor }))
    }
}

/// A page of videos.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct VideoPage {
    data: Vec<Video>,
    /// For the next page; absent on the last one.
    next_cursor: Option<String>,
}

/// A video at one moment.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Video {
    video_id: String,
    /// Which item of the batch it is, from 0.
    index: u32,
    custom_id: Option<String>,
    model: String,
    seconds: u32,
    size: String,
    state: Word<VideoState>,
    /// Why it waits, while it does.
    waiting_reason: Option<Word<WaitingReason>>,
    /// How often it was tried, the present attempt included.
    attempts: u32,
    /// Each attempt that was sent, in order.
    attempt_history: Vec<VideoAttempt>,
    /// When a video that waits after a failed attempt may be tried again.
    retry_at: Option<DateTime<Utc>>,
    /// Present when it failed.
    failure: Option<Failure>,
    price_credits: i64,
    /// Its price when it succeeded, otherwise 0. Taken from the batch's frozen credits when the batch ends.
    charged_credits: i64,
    /// Its price when it failed, otherwise 0. Back in the wallet at that moment.
    refunded_credits: i64,
    /// Present when it succeeded.
    output: Option<Output>,
    metadata: Option<BTreeMap<String, String>>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// In a batch that retries another one: the failed video that it stands for.
    retry_of: Option<String>,
    /// The video that stands for it, when it failed and was retried.
    retried_by: Option<String>,
}

/// Why a video failed.
#[derive(Object)]
#[oai(rename = "VideoFailure", skip_serializing_if_is_none)]
struct Failure {
    #[oai(rename = "type")]
    failure_type: Word<FailureClass>,
    /// What happened and what to do, in one plain sentence: the same for every failure of this type.
    message: String,
    /// What the provider, or our own check of the file, said of this very video. Absent when there is no more to say.
    detail: Option<String>,
    /// Whether ordering the same video again may succeed.
    retryable: bool,
}

/// The file of a video. A file is kept for a time and then deleted; the video stays made, and charged.
#[derive(Object)]
#[oai(rename = "VideoOutput", skip_serializing_if_is_none)]
struct Output {
    /// The link to the file. Works without an API key until `expires_at`; read the video again for a new one. Absent once
    /// the file is no longer kept.
    url: Option<String>,
    /// When this link stops working. The file itself is kept until `kept_until`.
    expires_at: Option<DateTime<Utc>>,
    /// Until when the file is kept: no link works longer. Fetch what you want to keep before. Absent once it was deleted.
    kept_until: Option<DateTime<Utc>>,
    /// When the file was deleted because its time was over. Absent as long as it is there.
    purged_at: Option<DateTime<Utc>>,
    bytes: u64,
    /// SHA-256 of the file, in lower-case hexadecimal; also its `ETag`.
    sha256: String,
    content_type: String,
    /// A link to a small picture of the video, such as for a list. Works and ends as `url` does; absent for videos of which
    /// there is none.
    thumbnail_url: Option<String>,
    thumbnail_bytes: Option<u64>,
    /// SHA-256 of the picture, in lower-case hexadecimal; also its `ETag`.
    thumbnail_sha256: Option<String>,
    /// `image/webp`, `image/jpeg` or `image/png`.
    thumbnail_content_type: Option<String>,
}

impl Video {
    fn new(view: VideoView, files: (&LinkSigner, Retention), now: DateTime<Utc>) -> Video {
        let settled_as = |state| if view.state == state { view.price } else { Credits::ZERO }.get();
        let backs_off = view.state == VideoState::Waiting && view.attempts > 0;
        Video {
            video_id: view.id.to_string(),
            index: view.position,
            model: view.model,
            seconds: view.seconds,
            size: view.size,
            state: Word(view.state),
            waiting_reason: view.waiting_for.map(Word),
            attempts: view.attempts,
            attempt_history: Vec::new(),
            retry_at: view.eligible_at.filter(|at| backs_off && *at > now),
            price_credits: view.price.get(),
            charged_credits: settled_as(VideoState::Succeeded),
            refunded_credits: settled_as(VideoState::Failed),
            custom_id: view.custom_id,
            failure: view.failure.filter(|_| view.state == VideoState::Failed).map(Failure::from),
            output: view.output.map(|output| Output::new(view.id, &output, files, now)),
            metadata: metadata(view.metadata),
            created_at: view.created_at,
            finished_at: view.finished_at,
            retry_of: view.retry_of.map(|id| id.to_string()),
            retried_by: view.retried_by.map(|id| id.to_string()),
        }
    }
}

impl From<VideoFailure> for Failure {
    fn from(failure: VideoFailure) -> Failure {
        let sentence = explain(failure.class);
        Failure {
            failure_type: Word(failure.class),
            message: sentence.to_owned(),
            detail: Some(failure.message).filter(|detail| !detail.is_empty() && detail != sentence),
            retryable: retryable_by_customer(failure.class),
        }
    }
}

impl Output {
    fn new(
        video: VideoId,
        output: &VideoOutput,
        (links, retention): (&LinkSigner, Retention),
        now: DateTime<Utc>,
    ) -> Output {
        let kept_until = output.kept_until(retention);
        let is_kept = output.is_kept(retention, now);
        let link = is_kept.then(|| links.sign(video, now, kept_until));
        let thumbnail = output.thumbnail.filter(|_| is_kept);
        Output {
            url: link.as_ref().map(|link| link.url.to_string()),
            expires_at: link.map(|link| link.expires_at),
            kept_until: output.purged_at.is_none().then_some(kept_until),
            purged_at: output.purged_at,
            bytes: output.bytes,
            sha256: hex(&output.sha256),
            content_type: storage::CONTENT_TYPE.to_owned(),
            thumbnail_url: thumbnail.map(|_| links.sign_thumbnail(video, now, kept_until).url.to_string()),
            thumbnail_bytes: thumbnail.map(|picture| picture.bytes),
            thumbnail_sha256: thumbnail.map(|picture| hex(&picture.sha256)),
            thumbnail_content_type: thumbnail.map(|picture| picture.kind.content_type().to_owned()),
        }
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
