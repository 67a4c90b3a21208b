//! The room as its callers see it, in memory and in a directory.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io, iter};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use ring::digest;
use tempfile::TempDir;

use super::{NotAVideo, ObjectKey, PART_BYTES, ReadError, Storage, StorageSettings, StoreError, StoredObject};
use crate::domain::{AttemptId, BatchId, TenantId, VideoId};

const LIMIT_BYTES: u64 = 64 << 20;

/// A box with a 32-bit size.
pub(super) fn atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(8 + body.len()).unwrap();
    [size.to_be_bytes().as_slice(), kind, body].concat()
}

/// A box with a 64-bit size.
pub(super) fn long_atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = 16 + body.len() as u64;
    [1u32.to_be_bytes().as_slice(), kind, &size.to_be_bytes(), body].concat()
}

fn boxes(media_bytes: usize) -> [Vec<u8>; 3] {
    let media: Vec<u8> = (0..media_bytes).map(|position| (position * 31 % 251) as u8).collect();
    [atom(b"ftyp", b"isom\0\0\x02\0isomiso2"), atom(b"moov", &[1; 20]), atom(b"mdat", &media)]
}

/// A whole file with this much media data.
pub(super) fn clip(media_bytes: usize) -> Vec<u8> {
    boxes(media_bytes).concat()
}

fn new_key() -> ObjectKey {
    ObjectKey::video(TenantId::generate(), BatchId::generate(), VideoId::generate(), AttemptId::generate())
}

/// A body that arrives in chunks of 60 kB.
fn body(file: &[u8]) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
    let chunks: Vec<_> = file.chunks(60_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks)
}

fn open(place: impl Into<String>) -> Storage {
    Storage::open(&StorageSettings { url_or_path: place.into(), max_video_bytes: LIMIT_BYTES }).unwrap()
}

fn in_directory() -> (Storage, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (open(directory.path().to_str().unwrap()), directory)
}

/// Every file below a directory, unfinished uploads included.
fn files(directory: &TempDir) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (vec![], vec![directory.path().to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found
}

async fn read(storage: &Storage, key: &ObjectKey) -> Vec<u8> {
    let (object, stream) = storage.get(key, None).await.unwrap();
    let bytes = stream.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!(object, StoredObject { bytes: bytes.len() as u64, range: 0..bytes.len() as u64 });
    bytes
}

#[tokio::test]
async fn a_whole_video_is_stored_with_its_length_and_hash_in_one_part_or_many() {
    let (local, directory) = in_directory();
    for storage in [Storage::in_memory(), open("memory://"), local] {
        let part = PART_BYTES - clip(0).len();
        for media_bytes in [1, part - 1, part, part + 1, 2 * part, 3 * PART_BYTES] {
            let (file, key) = (clip(media_bytes), new_key());
            let length = file.len() as u64;
            let stored = storage.put_video(&key, body(&file), Some(length)).await.unwrap();
            assert_eq!((stored.bytes, stored.content_type), (length, "video/mp4"));
            assert_eq!(stored.sha256, digest::digest(&digest::SHA256, &file).as_ref());
            assert_eq!(storage.head(&key).await.unwrap(), Some(length));
            assert!(read(&storage, &key).await == file, "{media_bytes} bytes of media");
            storage.delete(&key).await.unwrap();
            storage.delete(&key).await.unwrap();
            assert_eq!(storage.head(&key).await.unwrap(), None);
            assert!(matches!(storage.get(&key, None).await, Err(ReadError::NotFound { .. })));
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "deleting leaves no empty directories");
}

#[tokio::test]
async fn a_range_is_served_and_cut_at_the_end() {
    let (local, _directory) = in_directory();
    for storage in [Storage::in_memory(), local] {
        let (file, key) = (clip(2 * PART_BYTES), new_key());
        let bytes = file.len() as u64;
        storage.put_video(&key, body(&file), None).await.unwrap();
        let across = PART_BYTES as u64 - 500_000..PART_BYTES as u64 + 500_000;
        for (asked, served) in [(0..1, 0..1), (across.clone(), across), (bytes - 3..bytes + 9, bytes - 3..bytes)] {
            let (object, stream) = storage.get(&key, Some(asked)).await.unwrap();
            assert_eq!(object, StoredObject { bytes, range: served.clone() });
            let part = stream.try_collect::<Vec<_>>().await.unwrap().concat();
            assert!(part == file[served.start as usize..served.end as usize], "{served:?}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "a hostile request may ask for one")]
        for outside in [bytes..bytes + 1, 5..5, 5..4, u64::MAX - 1..u64::MAX] {
            let refused = storage.get(&key, Some(outside.clone())).await.map(|(object, _)| object);
            assert!(
                matches!(refused, Err(ReadError::RangeOutside { bytes: told, .. }) if told == bytes),
                "{outside:?}"
            );
        }
        assert!(matches!(storage.get(&new_key(), Some(0..1)).await, Err(ReadError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_video_cut_at_any_box_edge_is_refused_and_leaves_nothing() {
    let (storage, directory) = in_directory();
    for media_bytes in [100, 2 * PART_BYTES] {
        let [ftyp, moov, mdat] = boxes(media_bytes);
        let file = [ftyp.as_slice(), &moov, &mdat].concat();
        let edges = [ftyp.len(), ftyp.len() + moov.len(), file.len()];
        let cuts = edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1, edge + 8]).chain([0, 4, 8]);
        for cut in cuts.filter(|cut| *cut < file.len()) {
            let key = new_key();
            let refused = storage.put_video(&key, body(&file[..cut]), None).await;
            assert!(matches!(refused, Err(StoreError::NotAVideo(_))), "cut at {cut}: {refused:?}");
            assert_eq!(storage.head(&key).await.unwrap(), None);
            let refused = storage.put_video(&key, body(&file[..cut]), Some(file.len() as u64)).await;
            assert!(matches!(refused, Err(StoreError::Length { .. })), "cut at {cut}: {refused:?}");
        }
    }
    assert_eq!(files(&directory), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_error_page_is_refused_at_its_first_bytes() {
    let storage = Storage::in_memory();
    let page = Ok::<_, Infallible>(Bytes::from_static(b"<html>busy</html>"));
    let endless = stream::iter(iter::repeat_n(page, 1_000_000)).inspect({
        let mut read = 0;
        move |_| {
            read += 1;
            assert_eq!(read, 1, "read on after the page was recognised");
        }
    });
    let refused = storage.put_video(&new_key(), endless, None).await;
    assert!(matches!(refused, Err(StoreError::NotAVideo(NotAVideo::OtherContent(_)))), "{refused:?}");
}

#[tokio::test]
async fn a_video_above_the_limit_is_refused_as_early_as_it_can_be_told() {
    let (storage, directory) = in_directory();
    let key = new_key();
    let unread = stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> { panic!("was read") });
    let refused = storage.put_video(&key, unread, Some(LIMIT_BYTES + 1)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { limit_bytes: LIMIT_BYTES })), "{refused:?}");

    let [ftyp, moov, _] = boxes(0);
    let huge = [ftyp.as_slice(), &moov, &long_atom(b"mdat", b"")[..8], &(1u64 << 60).to_be_bytes()].concat();
    let pending = body(&huge).chain(stream::pending());
    let refused = storage.put_video(&key, pending, None).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");

    let open_end = body(&[ftyp.as_slice(), &moov, b"\0\0\0\0mdat"].concat());
    let endless = open_end.chain(stream::repeat(Bytes::from_static(&[9; 1 << 20])).map(Ok));
    let refused = storage.put_video(&key, endless, None).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(files(&directory), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_broken_download_is_the_sources_fault_and_leaves_nothing() {
    let (storage, directory) = in_directory();
    let file = clip(3 * PART_BYTES);
    for received in [0, 100, 2 * PART_BYTES] {
        let broken = body(&file[..received]).map(|chunk| chunk.map_err(|never| match never {}));
        let broken = broken.chain(stream::iter([Err(io::Error::other("reset"))]));
        let refused = storage.put_video(&new_key(), broken, None).await;
        assert!(matches!(&refused, Err(StoreError::Source(error)) if error.to_string() == "reset"), "{refused:?}");
    }
    let refused = storage.put_video(&new_key(), body(&file), Some(file.len() as u64 - 1)).await;
    assert!(matches!(refused, Err(StoreError::Length { .. })), "{refused:?}");
    assert_eq!(files(&directory), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_failing_store_is_our_own_fault() {
    let (storage, directory) = in_directory();
    let (tenant, batch) = (TenantId::generate(), BatchId::generate());
    fs::write(directory.path().join(tenant.bare()), "in the way").unwrap();
    for media_bytes in [100, 2 * PART_BYTES] {
        let key = ObjectKey::video(tenant, batch, VideoId::generate(), AttemptId::generate());
        let refused = storage.put_video(&key, body(&clip(media_bytes)), None).await;
        assert!(matches!(refused, Err(StoreError::Store { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_put_that_is_given_up_removes_its_parts() {
    let (storage, directory) = in_directory();
    let file = clip(3 * PART_BYTES);
    let (reached, mut signal) = tokio::sync::mpsc::unbounded_channel();
    let stuck = body(&file[..2 * PART_BYTES]).chain(stream::once(async move {
        reached.send(()).unwrap();
        std::future::pending().await
    }));
    let key = new_key();
    tokio::select! {
        outcome = storage.put_video(&key, stuck, None) => panic!("ended with {outcome:?}"),
        _ = signal.recv() => assert_eq!(files(&directory).len(), 1, "the upload was under way"),
    }
    tokio::time::timeout(Duration::from_secs(30), async {
        while !files(&directory).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_puts_under_one_key_leave_one_whole_file() {
    let (storage, directory) = in_directory();
    for media_bytes in [1000, 2 * PART_BYTES] {
        let (file, key) = (clip(media_bytes), new_key());
        let puts = (0..6).map(|_| storage.put_video(&key, body(&file), None));
        let stored = futures_util::future::try_join_all(puts).await.unwrap();
        assert!(stored.iter().all(|each| each == &stored[0]));
        assert!(read(&storage, &key).await == file);
        storage.delete(&key).await.unwrap();
    }
    assert_eq!(files(&directory), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_one_video_do_not_touch_each_others_files() {
    let (storage, _directory) = in_directory();
    let (tenant, batch, video) = (TenantId::generate(), BatchId::generate(), VideoId::generate());
    let mut puts = tokio::task::JoinSet::new();
    for media_bytes in 1..20 {
        let (storage, key) = (storage.clone(), ObjectKey::video(tenant, batch, video, AttemptId::generate()));
        puts.spawn(async move {
            storage.put_video(&key, body(&clip(media_bytes)), None).await.unwrap();
            (key, media_bytes)
        });
    }
    for (key, media_bytes) in puts.join_all().await {
        assert_eq!(read(&storage, &key).await, clip(media_bytes));
    }
}

#[test]
fn the_place_is_a_directory_or_a_url_of_a_known_kind() {
    use std::os::unix::fs::MetadataExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/videos");
    open(path.to_str().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    open(format!("file://{}", path.display()));
    for unknown in ["gs://bucket/videos", "https://example.test/videos", "file://host/videos", "nothing://"] {
        let settings = StorageSettings { url_or_path: unknown.to_owned(), max_video_bytes: 1 };
        assert!(Storage::open(&settings).is_err(), "{unknown}");
    }
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let settings = StorageSettings { url_or_path: file.to_str().unwrap().to_owned(), max_video_bytes: 1 };
    assert!(Storage::open(&settings).is_err());
}

#[test]
fn a_key_is_made_of_bare_ids() {
    let (tenant, batch) = (TenantId::generate(), BatchId::generate());
    let (video, attempt) = (VideoId::generate(), AttemptId::generate());
    let key = ObjectKey::video(tenant, batch, video, attempt);
    let expected = format!("{}/{}/{}/{}.mp4", tenant.bare(), batch.bare(), video.bare(), attempt.bare());
    assert_eq!(key.to_string(), expected);
}
