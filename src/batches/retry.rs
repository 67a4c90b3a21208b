//! A retry: the failed videos of a batch that has ended, ordered again as a batch of their own.
//!
//! Always holds: a failed video is retried once, and what fails again is retried from the batch that retried it, so that of
//! each video one at the most is under way or made, whoever asks however often (the database says so too). What is ordered
//! again is held against today's catalogue like any order, and costs what it costs today. A video that started from an image
//! starts from it again, or from one that the request names, or is not ordered.
//!
//! Refuses: a batch that has not ended, because what fails is not known yet; to change what a video shows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::image::{IMAGE, IMAGE_URL, IMAGES};
use super::item::{self, OrderItem, Retried};
use super::order::{self, Order, OrderLimits};
use crate::domain::faults::{self, Faults, Wrong};
use crate::domain::{BatchId, BatchStatus, CustomId, FailureClass, ImageSource, TenantId, VideoId};
use crate::idempotency::RequestHash;
use crate::providers::catalogue::Catalogue;

const TYPES: &str = "failure_types";
const FIELDS: [&str; 8] =
    [TYPES, IMAGES, "webhook_url", "x-request-id", "metadata", "videos_per_minute", "priority", "complete_by"];

/// A valid request to retry a batch. What it leaves out is as it was, but for `complete_by`.
#[derive(Clone, Debug)]
pub struct RetryRequest {
    batch: BatchId,
    /// The failures that are retried.
    types: Vec<FailureClass>,
    /// Other images, by the place of the video in its batch; `None` leaves the video out.
    images: BTreeMap<u32, Option<String>>,
    webhook_url: Option<String>,
    metadata: Option<Value>,
    videos_per_minute: Option<u32>,
    priority: Option<u8>,
    complete_by: Option<DateTime<Utc>>,
    pub(super) key: Option<String>,
    pub(super) hash: RequestHash,
}

/// Failed videos that nobody has retried, and what their batch was ordered with.
#[derive(Debug)]
pub struct FailedVideos {
    videos: Vec<FailedVideo>,
    webhook_url: Option<String>,
    metadata: Option<Value>,
    videos_per_minute: Option<u32>,
    priority: u8,
}

#[derive(Debug)]
struct FailedVideo {
    retried: Retried,
    /// As an item of an order, but for its image.
    item: Value,
    image: Image,
}

#[derive(Debug)]
enum Image {
    None,
    Kept(String),
    /// It had one that is not known any more.
    Forgotten,
}

/// Why a batch is not retried; nothing was frozen and nothing written.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    #[error("there is no such batch of this tenant")]
    NoBatch,
    #[error("the batch has not ended: it is {}", .0.word())]
    NotEnded(BatchStatus),
    #[error("no video of the batch failed for what is to be retried")]
    NothingFailed,
    /// All of them were, by these batches.
    #[error("every failed video of the batch that is asked for was retried before")]
    RetriedBefore(BTreeSet<BatchId>),
    /// Some of them were a moment ago, or are being retried by another request.
    #[error("another retry of the batch is being admitted")]
    InFlight,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Parses the body of a retry of `batch`. `header_keys` are the idempotency keys that came as headers (name, value).
///
/// # Errors
/// Everything that is wrong.
pub fn parse_retry(
    batch: BatchId,
    body: &Value,
    header_keys: &[(&str, &str)],
    (limits, now): (OrderLimits, DateTime<Utc>),
) -> Result<RetryRequest, Vec<Wrong>> {
    let mut found = Vec::new();
    let mut faults = Faults { base: String::new(), found: &mut found };
    let Some(object) = body.as_object() else {
        faults.add("", "the body must be a JSON object, or absent");
        return Err(found);
    };
    faults::refuse_unknown(object, &FIELDS, &mut faults);
    let request = RetryRequest {
        batch,
        types: failure_types(body, &mut faults),
        images: images(body, &mut faults),
        webhook_url: order::webhook_url(body, limits, &mut faults),
        metadata: item::metadata(object, &mut faults),
        videos_per_minute: order::videos_per_minute(body, &mut faults),
        priority: order::priority(body, &mut faults),
        complete_by: order::complete_by(body, now, &mut faults),
        key: order::key(body, header_keys, &mut faults),
        hash: order::canonical_hash(&act(batch), body),
    };
    if found.is_empty() { Ok(request) } else { Err(found) }
}

/// The key and the hash of a request for a retry, see [`order::repeated_request`].
pub fn repeated_retry(batch: BatchId, body: &Value, header_keys: &[(&str, &str)]) -> Option<(String, RequestHash)> {
    order::repeated(&act(batch), body, header_keys)
}

/// Tells the request from an order with the same body, and from the retry of another batch.
fn act(batch: BatchId) -> String {
    format!("retry {batch} ")
}

/// All of them when none is named.
fn failure_types(body: &Value, faults: &mut Faults<'_>) -> Vec<FailureClass> {
    let all = || FailureClass::ALL.to_vec();
    let Some(named) = body.get(TYPES).filter(|named| !named.is_null()) else { return all() };
    let Some(named) = named.as_array().filter(|named| !named.is_empty()) else {
        faults.add(TYPES, "must be an array of at least one failure type; leave it out to retry every failure");
        return all();
    };
    let mut types = Vec::new();
    for (at, name) in named.iter().enumerate() {
        match FailureClass::ALL.into_iter().find(|class| Some(class.name()) == name.as_str()) {
            Some(class) => types.push(class),
            None => {
                let known = FailureClass::ALL.map(FailureClass::name).join(", ");
                let pointer = format!("{}/{TYPES}/{at}", faults.base);
                faults.found.push(Wrong { pointer, detail: format!("is no failure type; known are {known}") });
            }
        }
    }
    types
}

fn images(body: &Value, faults: &mut Faults<'_>) -> BTreeMap<u32, Option<String>> {
    let Some(named) = body.get(IMAGES).filter(|named| !named.is_null()) else { return BTreeMap::new() };
    let Some(named) = named.as_object() else {
        faults
            .add(IMAGES, "must be an object of images by the index of their video, such as {\"17\": \"https://...\"}");
        return BTreeMap::new();
    };
    let base = format!("{}/{IMAGES}", faults.base);
    let mut faults = Faults { base, found: faults.found };
    let mut images = BTreeMap::new();
    for (index, image) in named {
        let place = index.parse::<u32>().ok().filter(|place| place.to_string() == *index);
        match (place, image) {
            (Some(place), Value::String(image)) => drop(images.insert(place, Some(image.clone()))),
            (Some(place), Value::Null) => drop(images.insert(place, None)),
            (Some(_), _) => {
                faults.add(index, "must be a URL, the id of an uploaded image, or null to leave the video out")
            }
            (None, _) => faults.add(index, "is no index of a video"),
        }
    }
    images
}

/// The failed videos that a request means, in the order of the batch.
///
/// # Errors
/// [`RetryError`].
pub(super) async fn failed_videos(
    conn: &mut PgConnection,
    tenant: TenantId,
    request: &RetryRequest,
) -> Result<FailedVideos, RetryError> {
    let batch = sqlx::query!(
        r#"select status as "status: BatchStatus", finished_at is not null as "ended!", webhook_url, metadata,
               videos_per_minute, priority
           from batches where tenant_id = $1 and id = $2"#,
        tenant as TenantId,
        request.batch as BatchId,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(RetryError::NoBatch)?;
    if !batch.ended {
        return Err(RetryError::NotEnded(batch.status));
    }
    let rows = sqlx::query!(
        r#"select v.id as "id: VideoId", v.position, v.model, v.prompt, v.seconds, v.size, v.custom_id, v.metadata,
               v.reference_image, v.image_forgotten, r.batch_id as "retried_by?: BatchId"
           from videos v left join videos r on r.retry_of = v.id
           where v.tenant_id = $1 and v.batch_id = $2 and v.state = 'failed' and v.failure_class::text = any($3)
           order by v.position"#,
        tenant as TenantId,
        request.batch as BatchId,
        &request.types.iter().map(|class| class.name().to_owned()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    if rows.is_empty() {
        return Err(RetryError::NothingFailed);
    }
    let retried_by: BTreeSet<BatchId> = rows.iter().filter_map(|row| row.retried_by).collect();
    let left = rows.into_iter().filter(|row| row.retried_by.is_none());
    let videos: Vec<FailedVideo> = left
        .map(|row| FailedVideo {
            retried: Retried { video: row.id, position: row.position.unsigned_abs(), image_is_new: false },
            item: json!({
                "model": row.model, "prompt": row.prompt, "seconds": row.seconds, "size": row.size,
                "custom_id": row.custom_id, "metadata": row.metadata,
            }),
            image: match (row.reference_image, row.image_forgotten) {
                (Some(image), _) => Image::Kept(image),
                (None, Some(true)) => Image::Forgotten,
                (None, _) => Image::None,
            },
        })
        .collect();
    if videos.is_empty() {
        return Err(RetryError::RetriedBefore(retried_by));
    }
    let videos_per_minute = batch.videos_per_minute.map(i32::unsigned_abs);
    let priority = u8::try_from(batch.priority).unwrap_or(order::USUAL_PRIORITY);
    Ok(FailedVideos { videos, webhook_url: batch.webhook_url, metadata: batch.metadata, videos_per_minute, priority })
}

/// The order that a retry is: every item held against the catalogue and priced as if it came today.
///
/// # Errors
/// Everything that is wrong, with pointers into the order of the batch that is retried.
pub fn retry_order(
    failed: &FailedVideos,
    request: &RetryRequest,
    limits: OrderLimits,
    (catalogue, now): (&Catalogue, DateTime<Utc>),
) -> Result<Order, Vec<Wrong>> {
    let (mut found, mut custom_ids, mut items) = (Vec::new(), HashSet::new(), Vec::new());
    let mut unused: BTreeSet<u32> = request.images.keys().copied().collect();
    for video in &failed.videos {
        let place = video.retried.position;
        let image = request.images.get(&place);
        if !matches!(video.image, Image::None) {
            unused.remove(&place);
        }
        if image == Some(&None) {
            continue;
        }
        let new = image.and_then(Option::as_deref).filter(|_| !matches!(video.image, Image::None));
        items.extend(ordered_again(video, new, limits, (catalogue, now), (&mut custom_ids, &mut found)));
    }
    for place in unused {
        let detail = "names no video of this retry that started from an image".to_owned();
        found.push(Wrong { pointer: format!("/{IMAGES}/{place}"), detail });
    }
    let many = items.len();
    if found.is_empty() && !(1..=limits.max_items).contains(&many) {
        let detail = format!("{many} videos would be ordered; a batch has 1 to {}", limits.max_items);
        found.push(Wrong { pointer: if many == 0 { format!("/{IMAGES}") } else { format!("/{TYPES}") }, detail });
    }
    Ok(Order {
        total: order::total(&items, found)?,
        items,
        webhook_url: request.webhook_url.clone().or_else(|| failed.webhook_url.clone()),
        metadata: request.metadata.clone().or_else(|| failed.metadata.clone()),
        videos_per_minute: request.videos_per_minute.or(failed.videos_per_minute),
        priority: request.priority.unwrap_or(failed.priority),
        complete_by: request.complete_by,
        key: request.key.clone(),
        hash: request.hash,
        retry_of: Some(request.batch),
    })
}

/// A failed video as an item of an order, with its own image or a `new` one.
fn ordered_again(
    video: &FailedVideo,
    new: Option<&str>,
    limits: OrderLimits,
    (catalogue, now): (&Catalogue, DateTime<Utc>),
    (custom_ids, found): (&mut HashSet<CustomId>, &mut Vec<Wrong>),
) -> Option<OrderItem> {
    let place = video.retried.position;
    let mut faults = Faults { base: format!("/items/{place}"), found };
    let image = match (&video.image, new) {
        (_, Some(new)) => Some(new),
        (Image::Kept(kept), None) => Some(kept.as_str()),
        (Image::None, None) => None,
        (Image::Forgotten, None) => {
            let detail = format!("is not known any more, because it may have held a signature: name it in `{IMAGES}`");
            faults.add(IMAGE_URL, detail);
            return None;
        }
    };
    let mut item = video.item.clone();
    if let Some(image) = image {
        let upload = matches!(ImageSource::from_stored(image), ImageSource::Upload(_));
        item[if upload { IMAGE } else { IMAGE_URL }] = json!(image);
    }
    let before = faults.found.len();
    let parsed = item::parse(&item, (catalogue, now.date_naive()), limits.images, custom_ids, &mut faults);
    if new.is_some() {
        let of_image = [IMAGE, IMAGE_URL].map(|field| format!("/items/{place}/{field}"));
        for wrong in faults.found.iter_mut().skip(before).filter(|wrong| of_image.contains(&wrong.pointer)) {
            wrong.pointer = format!("/{IMAGES}/{place}");
        }
    }
    let mut parsed = parsed?;
    parsed.retries = Some(Retried { image_is_new: new.is_some(), ..video.retried });
    Some(parsed)
}

/// Makes sure that the videos of a retry are nobody else's until the transaction ends. Never waits; does nothing for an order.
///
/// # Errors
/// [`RetryError::InFlight`], or the database's.
pub(super) async fn keep_others_out(
    conn: &mut PgConnection,
    tenant: TenantId,
    order: &Order,
) -> Result<(), RetryError> {
    let Some(batch) = order.retry_of else { return Ok(()) };
    let mine = sqlx::query_scalar!(
        r#"select id as "id: BatchId" from batches where tenant_id = $1 and id = $2 for no key update skip locked"#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let videos: Vec<VideoId> = order.items.iter().filter_map(|item| Some(item.retries?.video)).collect();
    let retried = sqlx::query_scalar!(
        r#"select exists (select from videos where retry_of = any($1)) as "any!""#,
        &videos as &[VideoId],
    )
    .fetch_one(conn)
    .await?;
    if mine.is_none() || retried { Err(RetryError::InFlight) } else { Ok(()) }
}
