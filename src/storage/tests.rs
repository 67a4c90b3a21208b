//! The room as its callers see it, in memory and in a directory.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io, iter};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use ring::digest;
use tempfile::TempDir;

use super::put::LOCAL_PART_BYTES;
use super::{
    ImageError, ImageKind, MAX_IMAGE_BYTES, NotAVideo, ObjectKey, PART_BYTES, ReadError, Storage, StoreClients,
    StoreError, StoredObject,
};
use crate::config::{Config, StorageConfig};
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

fn config(place: &str, more: &str) -> StorageConfig {
    let text = format!("[storage]\nurl = {place:?}\nmax_video_bytes = {LIMIT_BYTES}\n{more}");
    Config::from_sources(&text, []).unwrap().storage
}

fn no_clients() -> anyhow::Result<StoreClients> {
    panic!("a local store needs no connections")
}

fn some_clients() -> anyhow::Result<StoreClients> {
    crate::providers::egress::install_crypto();
    Ok(StoreClients { write: reqwest::Client::new(), read: reqwest::Client::new() })
}

fn open(place: impl AsRef<str>) -> Storage {
    Storage::open(&config(place.as_ref(), ""), no_clients).unwrap()
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
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Storage::open(&config(file.to_str().unwrap(), ""), no_clients).is_err());
    for (place, more) in [
        ("s3://bucket", ""),
        ("s3://bucket/prefix", "access_key_id = \"AK\"\nsecret_access_key = \"hunter2\"\nregion = \"eu-west-1\""),
        ("s3://bucket/prefix", "endpoint = \"https://s3.example.com:9000/\"\nvirtual_hosted = true"),
        ("gs://bucket/prefix", ""),
        ("az://container/prefix", "access_key_id = \"account\"\nsecret_access_key = \"aHVudGVyMg==\""),
    ] {
        let storage = Storage::open(&config(place, more), some_clients).unwrap();
        let shown = format!("{storage:?}");
        assert!(shown.contains(place) && !shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
    }
    let no_account = config("az://container/prefix", "");
    let refused = Storage::open(&no_account, some_clients).unwrap_err();
    assert!(format!("{refused:#}").contains("az://container/prefix"), "{refused:#}");
}

#[tokio::test]
async fn a_probe_tells_whether_a_place_can_be_written_to() {
    Storage::in_memory().probe().await.unwrap();
    let (storage, directory) = in_directory();
    storage.probe().await.unwrap();
    assert_eq!(files(&directory), Vec::<PathBuf>::new());
    fs::write(directory.path().join("freezeframe-probe"), "in the way").unwrap();
    let error = storage.probe().await.unwrap_err().to_string();
    assert!(error.contains(directory.path().to_str().unwrap()) && error.contains("write"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

/// Uploads whose sources bring so much and then nothing more, for as long as it lives.
struct Stuck {
    uploads: tokio::task::JoinSet<()>,
    /// One for each that has brought all it brings.
    dry: tokio::sync::mpsc::UnboundedReceiver<()>,
}

impl Stuck {
    fn begin(storage: &Storage, count: usize, bytes: usize) -> Stuck {
        let file = clip(2 * bytes);
        let (told, dry) = tokio::sync::mpsc::unbounded_channel();
        let mut uploads = tokio::task::JoinSet::new();
        for _ in 0..count {
            let (storage, told) = (storage.clone(), told.clone());
            let source = body(&file[..bytes]).chain(stream::once(async move {
                told.send(()).unwrap();
                std::future::pending().await
            }));
            uploads.spawn(async move {
                let ended = storage.put_video(&new_key(), source, None).await;
                panic!("a source that never ends has ended: {ended:?}");
            });
        }
        Stuck { uploads, dry }
    }

    async fn all_are_dry(&mut self, count: usize) {
        for _ in 0..count {
            tokio::time::timeout(Duration::from_secs(120), self.dry.recv()).await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_do_not_go_on_take_only_what_they_brought_and_stand_in_nobodys_way() {
    // parts as for a bucket, and the memory that is the default: room for ten whole parts of uploads that ask for blocks
    let storage = Storage::open(&config("memory://", ""), no_clients).unwrap();
    let all = storage.upload_memory.free();
    for (count, bytes) in [(40, 400_000), (5, PART_BYTES - 1), (40, 200_000)] {
        let mut stuck = Stuck::begin(&storage, count, bytes);
        let honest = (0..5).map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.put_video(&new_key(), body(&clip(3 * PART_BYTES)), None).await.unwrap() })
        });
        let through = tokio::time::timeout(Duration::from_secs(300), futures_util::future::try_join_all(honest));
        assert_eq!(through.await.expect("slow sources held them up").unwrap().len(), 5, "{count} with {bytes} bytes");
        stuck.all_are_dry(count).await;
        let taken = all.0 - storage.upload_memory.free().0 + (all.1 - storage.upload_memory.free().1) * PART_BYTES;
        assert!(taken <= count * bytes, "{taken} of {} bytes that came", count * bytes);
        stuck.uploads.shutdown().await;
        assert_eq!(storage.upload_memory.free(), all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_uploads_than_there_is_memory_for_take_turns() {
    // eight parts of a local directory
    let directory = tempfile::tempdir().unwrap();
    let settings = config(directory.path().to_str().unwrap(), "upload_memory_bytes = 8388608");
    let storage = Storage::open(&settings, no_clients).unwrap();
    let all = storage.upload_memory.free();
    let file = clip(3 * LOCAL_PART_BYTES);
    let keys: Vec<ObjectKey> = (0..40).map(|_| new_key()).collect();
    let puts = keys.iter().map(|key| storage.put_video(key, body(&file), None));
    assert_eq!(futures_util::future::try_join_all(puts).await.unwrap().len(), 40);
    assert_eq!(storage.upload_memory.free(), all);

    // sources that never let go of a whole part each: there is room for ten at most (fewer where many hold a little each),
    // and not for what is longer beside them
    let mut stuck = Stuck::begin(&storage, 20, LOCAL_PART_BYTES);
    let full = async {
        while storage.upload_memory.free() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), full).await.expect("twenty parts did not fill eight");
    storage.put_video(&new_key(), body(&clip(100_000)), None).await.unwrap();
    let whole = std::iter::from_fn(|| stuck.dry.try_recv().ok()).count();
    assert!(whole <= 10, "{whole} whole parts in the memory of eight and what needs none");
    // those that wait for it, each with a part of its own begun, get through once the stuck ones are ended
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (storage, source) = (storage.clone(), body(&file));
        waiting.spawn(async move { storage.put_video(&new_key(), source, None).await.unwrap() });
    }
    tokio::task::yield_now().await;
    stuck.uploads.shutdown().await;
    let through = tokio::time::timeout(Duration::from_secs(120), waiting.join_all()).await;
    assert_eq!(through.expect("they wait for each other").len(), 20);
    assert_eq!(storage.upload_memory.free(), all);
}

#[tokio::test]
async fn what_cannot_become_a_picture_is_not_read_to_its_end() {
    let storage = Storage::in_memory();
    for start in [&b"<html>"[..], b"\0\0\0\x20ftypisom", b"{}", b"\xff\xd9"] {
        let unread = stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> { panic!("read on") });
        let refused = storage.put_image(&new_key(), body(start).chain(unread)).await;
        assert!(matches!(refused, Err(ImageError::NotAnImage)), "{refused:?}");
    }
    // byte by byte
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[0; 50], b"IEND\xae\x42\x60\x82"].concat();
    let bytes: Vec<Result<Bytes, Infallible>> = png.iter().map(|byte| Ok(Bytes::from(vec![*byte]))).collect();
    assert_eq!(storage.put_image(&new_key(), stream::iter(bytes)).await.unwrap().kind, ImageKind::Png);
}

#[tokio::test]
async fn a_picture_is_taken_by_its_bytes_and_found_beside_its_video() {
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[0; 50], b"IEND\xae\x42\x60\x82"].concat();
    let jpeg = [[0xff, 0xd8, 0xff, 0xe0].as_slice(), &[0; 50], &[0xff, 0xd9]].concat();
    let webp = [b"RIFF".as_slice(), &44u32.to_le_bytes(), b"WEBP", &[0; 40]].concat();
    let (local, _directory) = in_directory();
    for storage in [Storage::in_memory(), local] {
        for (image, kind) in [(&png, ImageKind::Png), (&jpeg, ImageKind::Jpeg), (&webp, ImageKind::Webp)] {
            let key = new_key().its_thumbnail();
            let stored = storage.put_image(&key, body(image)).await.unwrap();
            assert_eq!((stored.kind, stored.bytes), (kind, image.len() as u64));
            assert_eq!(stored.sha256, digest::digest(&digest::SHA256, image).as_ref());
            assert_eq!(storage.get_image(&key).await.unwrap(), Some((kind, image.clone().into())));
            let cut = storage.put_image(&new_key(), body(&image[..image.len() - 1])).await;
            assert!(matches!(cut, Err(ImageError::NotAnImage)), "{cut:?}");
        }
        for other in [b"".as_slice(), b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", b"GIF89a", &clip(10)] {
            let refused = storage.put_image(&new_key(), body(other)).await;
            assert!(matches!(refused, Err(ImageError::NotAnImage)), "{refused:?}");
        }
        let endless = stream::repeat(Bytes::from_static(&[0xff; 1 << 16])).map(Ok::<_, Infallible>);
        let huge = body(&jpeg[..50]).chain(endless.take(MAX_IMAGE_BYTES));
        let refused = storage.put_image(&new_key(), huge).await;
        assert!(matches!(refused, Err(ImageError::TooLarge)), "{refused:?}");
        assert_eq!(storage.get_image(&new_key()).await.unwrap(), None);
    }
}

#[test]
fn a_key_is_made_of_bare_ids() {
    let (tenant, batch) = (TenantId::generate(), BatchId::generate());
    let (video, attempt) = (VideoId::generate(), AttemptId::generate());
    let key = ObjectKey::video(tenant, batch, video, attempt);
    let expected = format!("{}/{}/{}/{}.mp4", tenant.bare(), batch.bare(), video.bare(), attempt.bare());
    assert_eq!(key.to_string(), expected);
    let thumbnail = ObjectKey::thumbnail(tenant, batch, video, attempt);
    assert_eq!(thumbnail, key.its_thumbnail());
    assert_eq!(thumbnail.to_string(), expected.replace(".mp4", ".thumbnail"));
}
