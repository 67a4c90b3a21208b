//! Files from the provider to the player: on a local disk and on a real S3 server, in parts, while the store or the
//! provider is away, and until their time is over.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use freezeframe::config::Config;
use freezeframe::domain::{AttemptId, BatchId, TenantId, VideoId};
use freezeframe::emulator::{Fault, Nth, Profile, Rule};
use freezeframe::providers::Egress;
use freezeframe::service::{self, Parts, Roles, Service, Store};
use freezeframe::storage::{LinkSigner, ObjectKey, PART_BYTES, Storage, StoreError};
use futures_util::stream::{self, Stream, StreamExt as _};
use reqwest::{Method, Response};
use ring::digest::{Context, SHA256, digest};
use serde_json::{Value, json};

use crate::app::client::{item, order_of};
use crate::app::s3::{ACCESS_KEY, BUCKET, Mood, S3, SECRET_KEY};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings, until};

/// A store of the test's own on that server.
fn storage_on(s3: &S3, more: &str) -> Storage {
    let text = format!("[storage]\nurl = \"{}\"\n{}\n{more}", S3::url(), s3.settings());
    open(&text).unwrap()
}

fn open(text: &str) -> anyhow::Result<Storage> {
    let config = Config::from_sources(text, []).unwrap();
    Storage::open(&config.storage, || service::store_clients(&Egress::new()))
}

pub fn on_s3(s3: &S3, settings: TestSettings) -> TestSettings {
    TestSettings { storage: Some(S3::url().leak()), more_storage: s3.settings(), ..settings }
}

/// Lets the audit look at the server's own files.
pub fn show_files_to_the_audit(app: &TestApp, s3: &S3) {
    std::os::unix::fs::symlink(s3.videos_dir(), app.videos_dir()).unwrap();
}

fn new_key() -> ObjectKey {
    ObjectKey::video(TenantId::generate(), BatchId::generate(), VideoId::generate(), AttemptId::generate())
}

fn atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [u32::try_from(8 + body.len()).unwrap().to_be_bytes().as_slice(), kind, body].concat()
}

/// A whole MP4 with `chunks` times 60,000 bytes of media, made as it is read.
fn video_of(chunks: usize) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let media = u32::try_from(8 + chunks * 60_000).unwrap();
    let head = [atom(b"ftyp", b"isom\0\0\x02\0isomiso2"), atom(b"moov", &[1; 20]), media.to_be_bytes().to_vec()];
    let head = [head.concat().as_slice(), b"mdat"].concat();
    let body = (0..chunks).map(|n| Bytes::from(vec![(n % 251) as u8; 60_000]));
    stream::iter(std::iter::once(Bytes::from(head)).chain(body).map(Ok))
}

async fn range(app: &TestApp, url: &str, range: &str) -> Response {
    app.http.get(url).header("range", range).send().await.unwrap()
}

pub fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[track_caller]
fn output_of(video: &Value) -> (&str, &str) {
    let text = |name: &str| video["output"][name].as_str().unwrap_or_else(|| panic!("no {name} in {video}"));
    (text("url"), text("sha256"))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a player may ask for, and the part of the file that it must get.
fn ranges(bytes: usize) -> BTreeMap<String, std::ops::Range<usize>> {
    let ranges = [
        ("bytes=0-".to_owned(), 0..bytes),
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=4-7".to_owned(), 4..8),
        ("bytes=-1".to_owned(), bytes - 1..bytes),
        (format!("bytes=-{}", bytes * 2), 0..bytes),
        (format!("bytes={}-", bytes / 2), bytes / 2..bytes),
        (format!("bytes={}-{}", bytes - 10, bytes * 3), bytes - 10..bytes),
        ("bytes=40000-40015".to_owned(), 40_000..40_016),
    ];
    ranges.into()
}

/// Everything that a client may do with a link, against the whole file that it got.
async fn assert_served(app: &TestApp, url: &str, sha256: &str) -> Bytes {
    let whole = app.http.get(url).send().await.unwrap();
    assert_eq!((whole.status().as_u16(), header(&whole, "accept-ranges")), (200, "bytes"));
    assert_eq!((header(&whole, "content-type"), header(&whole, "x-content-type-options")), ("video/mp4", "nosniff"));
    let name = header(&whole, "content-disposition").strip_prefix("inline; filename=\"vid_").unwrap();
    assert!(name.strip_suffix(".mp4\"").is_some_and(|id| id.len() == 26), "{name}");
    let etag = header(&whole, "etag").to_owned();
    assert_eq!(etag, format!("\"{sha256}\""));
    let file = whole.bytes().await.unwrap();
    assert_eq!(hex(digest(&SHA256, &file).as_ref()), sha256);

    for (text, part) in ranges(file.len()) {
        let answer = range(app, url, &text).await;
        let said = format!("bytes {}-{}/{}", part.start, part.end - 1, file.len());
        assert_eq!((answer.status().as_u16(), header(&answer, "content-range")), (206, said.as_str()), "{text}");
        assert_eq!(header(&answer, "content-length"), part.len().to_string(), "{text}");
        assert!(answer.bytes().await.unwrap() == file[part], "{text}: other bytes");
    }
    for text in [format!("bytes={}-", file.len()), "bytes=-0".to_owned(), "bytes=99999999999999999999-".to_owned()] {
        let answer = range(app, url, &text).await;
        let said = (answer.status().as_u16(), header(&answer, "content-range").to_owned());
        assert_eq!(said, (416, format!("bytes */{}", file.len())), "{text}");
        assert!(header(&answer, "content-type").starts_with("application/problem+json"));
    }
    // what is no single range is answered whole
    for text in ["bytes=0-1,4-7", "bytes=7-4", "seconds=0-1"] {
        let answer = range(app, url, text).await;
        assert_eq!(answer.status(), 200, "{text}");
        assert_eq!(answer.bytes().await.unwrap(), file);
    }
    assert_conditions_are_heard(app, url, &etag, &file).await;
    file
}

async fn assert_conditions_are_heard(app: &TestApp, url: &str, etag: &str, file: &Bytes) {
    let with = async |method: Method, headers: &[(&str, &str)]| {
        let request = app.http.request(method, url);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
    };
    let known = with(Method::GET, &[("if-none-match", etag)]).await;
    assert_eq!((known.status().as_u16(), header(&known, "etag")), (304, etag));
    assert!(known.bytes().await.unwrap().is_empty());
    assert_eq!(with(Method::GET, &[("if-none-match", "\"other\"")]).await.status(), 200);
    let same = with(Method::GET, &[("range", "bytes=4-7"), ("if-range", etag)]).await;
    assert_eq!((same.status().as_u16(), same.bytes().await.unwrap()), (206, file.slice(4..8)));
    // another file's tag, a weak one, a date, which we never gave: a part might not belong to what the client has
    let weak = format!("W/{etag}");
    for other in ["\"other\"", &weak, "Mon, 23 Nov 2026 10:00:00 GMT"] {
        let changed = with(Method::GET, &[("range", "bytes=4-7"), ("if-range", other)]).await;
        assert_eq!((changed.status().as_u16(), changed.bytes().await.unwrap().len()), (200, file.len()), "{other}");
    }
    // it is a condition of the range alone
    assert_eq!(with(Method::GET, &[("if-range", "\"other\"")]).await.status(), 200);

    let head = with(Method::HEAD, &[]).await;
    let length = file.len().to_string();
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, length.as_str()));
    assert_eq!((header(&head, "accept-ranges"), header(&head, "etag")), ("bytes", etag));
    assert_eq!((header(&head, "content-type"), header(&head, "x-content-type-options")), ("video/mp4", "nosniff"));
    assert!(head.bytes().await.unwrap().is_empty());
    let known = with(Method::HEAD, &[("if-none-match", etag)]).await;
    assert_eq!(known.status(), 304);
    let head = with(Method::HEAD, &[("range", "bytes=4-7")]).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (206, "4"));
    assert_eq!(with(Method::HEAD, &[("range", "bytes=-0")]).await.status(), 416);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_link_serves_the_file_from_disk_and_from_s3_after_the_providers_link_died() {
    let s3 = S3::start().await;
    // one clip for all, so that both stores hold the same bytes; the provider keeps it for a minute
    let profile = Profile { output_ttl_secs: 60, ..TestSettings::default().profile };
    let local = TestSettings { profile, ..TestSettings::default() };
    let mut files = Vec::new();
    for settings in [local.clone(), on_s3(&s3, local)] {
        let is_s3 = settings.storage.is_some();
        let app = TestApp::start(settings).await;
        let customer = app.customer(1_000).await;
        let id = customer.order(&order_of(3, "a calm sea")).await;
        assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
        app.emulator.advance_clock(61_000);
        let handle: String =
            sqlx::query_scalar("select handle from attempts limit 1").fetch_one(app.pool()).await.unwrap();
        let theirs = format!("{}/videos/{handle}/content", app.emulator.base_url());
        let dead = app.http.get(&theirs).bearer_auth("emulator-key").send().await.unwrap();
        assert_eq!(dead.status(), 404, "the provider still has the file");
        if is_s3 {
            show_files_to_the_audit(&app, &s3);
            assert_eq!(s3.objects().iter().filter(|key| key.ends_with(".mp4")).count(), 3, "{:?}", s3.objects());
        }
        let videos = customer.videos(&id).await;
        let (url, sha256) = output_of(&videos[0]);
        files.push(assert_served(&app, url, sha256).await);
        let reads = s3.seen(|method, _| method == Method::GET);
        app.http.head(url).send().await.unwrap();
        assert_eq!(s3.seen(|method, _| method == Method::GET), reads, "a HEAD read the file");
        app.finish().await;
    }
    assert!(files[0] == files[1], "disk and S3 serve different bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_bucket_key_or_endpoint_is_told_at_start_in_one_line() {
    let s3 = S3::start().await;
    storage_on(&s3, "").probe().await.unwrap();
    assert_eq!(s3.objects(), Vec::<String>::new(), "the probe left something behind");
    let right = format!("url = \"{}\"\n{}", S3::url(), s3.settings());
    // a port at which nobody listens any more
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (wrong, part) in [
        (right.replace(BUCKET, "flims"), "there is no such bucket"),
        (right.replace(SECRET_KEY, "another/secret"), "the access key is not accepted"),
        (right.replace(ACCESS_KEY, "AKIANOBODY"), "the access key is not accepted"),
        (right.replace(&s3.endpoint(), &format!("http://{nobody}")), "refused"),
    ] {
        let error = open(&format!("[storage]\n{wrong}")).unwrap().probe().await.unwrap_err().to_string();
        eprintln!("{error}");
        assert!(error.contains(part) && error.contains("write objects") && error.contains("s3://"), "{error}");
        assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
    }
    s3.set_mood(Mood::Forbidden, |method, _| method == Method::DELETE);
    let error = storage_on(&s3, "").probe().await.unwrap_err().to_string();
    assert!(error.contains("delete objects") && error.contains("(AccessDenied)"), "{error}");

    // a worker does not start with it; what only answers requests does
    let settings = on_s3(&s3, TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() });
    let app =
        TestApp::start(TestSettings { more_storage: settings.more_storage.replace("AKIA", "AKIB"), ..settings }).await;
    let variables = [("DATABASE_URL", app.db.url.as_str()), ("EMULATOR_KEY", "emulator-key")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_sources(&app.settings, variables).unwrap();
    let store = Store::open(&config).await.unwrap();
    let roles = Roles { api: false, worker: true, scheduler: false };
    let refused = Service::start(&config, &store, roles, Parts::default()).await.err().expect("it started");
    assert!(format!("{refused:#}").contains("the access key is not accepted"), "{refused:#}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_for_a_while_costs_time_and_not_the_video() {
    let s3 = S3::start().await;
    let app = TestApp::start(on_s3(&s3, TestSettings::default())).await;
    s3.set_mood(Mood::Away, |_, _| true);
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(3, "a calm sea")).await;
    // each is tried, and tried again
    app.until("uploads are refused", async || {
        s3.seen(|method, path| method == Method::PUT && path.contains(".mp4")) > 6
    })
    .await;
    assert_eq!(customer.batch(&id).await.number("/counts/succeeded"), 0);
    s3.open_up();
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    assert!(customer.videos(&id).await.iter().all(|video| video["attempts"] == 1), "bought again");
    show_files_to_the_audit(&app, &s3);
    app.finish().await;
}

const SHORT_DEADLINE: &str = "
[[model]]
name = \"sora-2\"
provider = \"sora\"
price_credits = 61
standard_seconds = 4
seconds = [4, 8]
sizes = [\"1280x720\"]
deadline_secs = 10
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_ends_the_video_as_our_fault_and_refunds_it() {
    let s3 = S3::start().await;
    let settings = on_s3(&s3, TestSettings::default());
    let more_storage = format!("{}\n{SHORT_DEADLINE}", settings.more_storage);
    let app = TestApp::start(TestSettings { more_storage, ..settings }).await;
    s3.set_mood(Mood::Forbidden, |method, _| method == Method::PUT);
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a calm sea")).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/refunded")), ("failed", 122));
    for video in customer.videos(&id).await {
        assert_eq!(video["failure"]["type"], "storage_fault", "{video}");
        assert!(video.get("output").is_none(), "{video}");
    }
    assert_eq!(customer.available().await, 1_000);
    assert_eq!((s3.objects(), s3.unfinished()), (vec![], vec![]));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_that_fails_or_is_given_up_leaves_nothing_behind() {
    let s3 = S3::start().await;
    let storage = storage_on(&s3, "");
    let chunks = 4 * PART_BYTES / 60_000;
    // the store goes away in the middle, and stays away while the upload is aborted
    let key = new_key();
    let half_way = chunks / 2;
    let source = video_of(chunks).enumerate().map(|(n, chunk)| {
        if n == half_way {
            assert!(!s3.unfinished().is_empty(), "the upload has not begun");
            s3.set_mood(Mood::Away, |_, _| true);
        }
        chunk
    });
    let refused = storage.put_video(&key, source, None).await;
    assert!(matches!(refused, Err(StoreError::Store { .. })), "{refused:?}");
    assert_eq!(s3.objects(), Vec::<String>::new());
    s3.open_up();
    until("the parts are gone", async || s3.unfinished().is_empty()).await;
    assert_eq!(storage.head(&key).await.unwrap(), None);

    // given up by its caller
    let key = new_key();
    let stuck = video_of(chunks).take(half_way).chain(stream::pending());
    tokio::select! {
        outcome = storage.put_video(&key, stuck, None) => panic!("{outcome:?}"),
        // its record and its first part: a part on its way would outlive the upload on this server
        () = until("the first part is there", async || s3.unfinished().len() > 1) => {}
    }
    until("the parts are gone", async || s3.unfinished().is_empty()).await;
    assert_eq!(storage.head(&key).await.unwrap(), None);

    // and once more, twice at a time, to the end
    let (first, second) = futures_util::future::join(
        storage.put_video(&key, video_of(chunks), None),
        storage.put_video(&key, video_of(chunks), None),
    )
    .await;
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!((s3.objects().len(), s3.unfinished()), (1, vec![]));
}

/// Bytes of memory of this process at their highest, from the kernel.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

const MIB: u64 = 1 << 20;
const LARGE_CHUNKS: usize = 2_500;
const CHILD_SETTINGS: &str = "FF_TEST_STORAGE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_videos_go_to_s3_in_parts_and_back_with_bounded_memory() {
    let s3 = S3::start().await;
    let settings = format!("[storage]\nurl = \"{}\"\n{}\nupload_memory_bytes = 33554432", S3::url(), s3.settings());
    // in a process of its own, whose memory is nobody else's
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "storage::the_process_that_stores_large_videos", "--ignored", "--nocapture"]);
    child.env(CHILD_SETTINGS, settings).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    eprintln!("{said}");
    assert!(ended.status.success() && said.contains("1 passed"));
    assert!(s3.seen(|method, path| method == Method::PUT && path.contains("partNumber=")) > 28 + 24);
    assert_eq!((s3.objects().len(), s3.unfinished()), (14, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above"]
async fn the_process_that_stores_large_videos() {
    let storage = open(&std::env::var(CHILD_SETTINGS).expect("run by another test")).unwrap();
    storage.put_video(&new_key(), video_of(1), None).await.unwrap();
    let before = peak_memory();
    let key = new_key();
    let stored = storage.put_video(&key, video_of(LARGE_CHUNKS), None).await.unwrap();
    assert!(stored.bytes > 140 * MIB);
    let one = peak_memory() - before;

    let (object, mut read) = storage.get(&key, None).await.unwrap();
    let mut hash = Context::new(&SHA256);
    while let Some(chunk) = read.next().await {
        hash.update(&chunk.unwrap());
    }
    assert_eq!((object.bytes, hash.finish().as_ref()), (stored.bytes, stored.sha256.as_slice()));
    let read = peak_memory() - before;

    // six fit into 32 MiB; the others take turns
    let many = (0..12).map(|_| {
        let storage = storage.clone();
        tokio::spawn(async move { storage.put_video(&new_key(), video_of(180), None).await.unwrap() })
    });
    futures_util::future::try_join_all(many).await.unwrap();
    let many = peak_memory() - before;
    eprintln!(
        "growth: {} kB for one of {} MB, {} kB after reading it, {} kB for twelve at once",
        one / 1024,
        stored.bytes / 1_000_000,
        read / 1024,
        many / 1024
    );
    assert!(one < 24 * MIB && read < 32 * MIB && many < 32 * MIB + 40 * MIB);
}

/// A source that means no good: what it sends, and whether a store may ever call it a video.
fn hostile(kind: usize) -> futures_util::stream::BoxStream<'static, Result<Bytes, std::io::Error>> {
    let start = [atom(b"ftyp", b"isom\0\0\x02\0isomiso2"), atom(b"moov", &[1; 20])].concat();
    let send = |bytes: Vec<u8>| stream::iter([Ok(Bytes::from(bytes))]);
    // as fast as a network might bring it
    let endless = || {
        stream::repeat(Bytes::from_static(&[9; 1 << 16])).then(|chunk| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(chunk)
        })
    };
    match kind % 10 {
        0 => stream::empty().boxed(),
        1 => send(b"<html>sign in</html>".to_vec()).chain(endless()).boxed(),
        // no size: to the end of a file that has none
        2 => send([start.as_slice(), b"\0\0\0\0mdat"].concat()).chain(endless()).boxed(),
        // an exabyte is announced
        3 => {
            let huge = [start.as_slice(), b"\0\0\0\x01mdat", &(1u64 << 60).to_be_bytes()].concat();
            send(huge).chain(endless()).boxed()
        }
        // one byte a second, for ever
        4 => stream::iter(start)
            .then(|byte| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Bytes::from(vec![byte]))
            })
            .boxed(),
        // nothing but headers
        5 => send(start).chain(stream::repeat(Bytes::from(b"\0\0\0\x08free".repeat(8_000))).map(Ok)).boxed(),
        6 => video_of(100).take(60).boxed(),
        7 => {
            let reset = stream::iter([Err(std::io::Error::other("reset"))]);
            video_of(100).take(60).chain(reset).boxed()
        }
        // a good beginning, then silence
        8 => video_of(100).take(3).chain(stream::pending()).boxed(),
        _ => stream::repeat(Bytes::from_static(&[0; 1 << 16])).map(Ok).boxed(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_hostile_files_take_little_memory_and_every_honest_one_gets_through() {
    let s3 = S3::start().await;
    let settings = format!("[storage]\nurl = \"{}\"\n{}\nmax_video_bytes = 20000000", S3::url(), s3.settings());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "storage::the_process_that_is_sent_hostile_files", "--ignored", "--nocapture"]);
    child.env(CHILD_SETTINGS, settings).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    eprintln!("{said}");
    assert!(ended.status.success() && said.contains("1 passed"));
    // the honest ones and nothing else
    assert_eq!(s3.objects().len(), 21, "{:?}", s3.objects());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above"]
async fn the_process_that_is_sent_hostile_files() {
    let storage = open(&std::env::var(CHILD_SETTINGS).expect("run by another test")).unwrap();
    storage.put_video(&new_key(), video_of(3), None).await.unwrap();
    let before = peak_memory();
    let mut attacks = tokio::task::JoinSet::new();
    for kind in 0..100 {
        let storage = storage.clone();
        attacks.spawn(async move { storage.put_video(&new_key(), hostile(kind), None).await });
    }
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        storage.put_video(&new_key(), video_of(3), None).await.unwrap();
    }
    let honest = begun.elapsed();
    // those that would go on for ever are left to their source's time limits
    for _ in 0..80 {
        let refused = attacks.join_next().await.unwrap().unwrap();
        assert!(refused.is_err(), "{refused:?} was taken for a video");
    }
    attacks.shutdown().await;
    let grown = peak_memory() - before;
    eprintln!("growth: {} kB; twenty honest files meanwhile took {honest:?}", grown / 1024);
    assert!(grown < 100 * MIB, "grew by {} MB", grown / MIB);
}

/// Moves everything that happened into the past.
pub async fn pass(app: &TestApp, hours: i64) {
    for statement in [
        "update videos set finished_at = finished_at - interval 'N hours'",
        "update batches set created_at = created_at - interval 'N hours', finished_at = finished_at - interval 'N hours'",
        "update attempts set finished_at = finished_at - interval 'N hours'",
    ] {
        app.execute(&statement.replace('N', &hours.to_string())).await;
    }
}

fn moment(video: &Value, name: &str) -> DateTime<Utc> {
    video["output"][name].as_str().unwrap_or_else(|| panic!("no {name} in {video}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_kept_for_the_tenants_time_and_then_deleted_while_the_money_stays() {
    let app = TestApp::start(TestSettings::default()).await;
    let (short, usual) = (app.customer(1_000).await, app.customer(1_000).await);
    let (gone, kept) = (short.order(&order_of(3, "gone")).await, usual.order(&order_of(3, "kept")).await);
    app.finished_batch(&short, &gone).await;
    app.finished_batch(&usual, &kept).await;
    let tenant: TenantId = sqlx::query_scalar("select tenant_id from batches where 'bat_' || id = $1")
        .bind(&gone)
        .fetch_one(app.pool())
        .await
        .unwrap();
    let mut conn = app.pool().acquire().await.unwrap();
    assert!(freezeframe::tenants::set_retention(&mut conn, tenant, Some(2)).await.unwrap());
    assert!(!freezeframe::tenants::set_retention(&mut conn, TenantId::generate(), Some(2)).await.unwrap());
    drop(conn);

    let ours = short.videos(&gone).await.remove(0);
    let days = |video: &Value| {
        (moment(video, "kept_until") - video["finished_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap())
            .num_hours()
    };
    assert_eq!((days(&ours), days(&usual.videos(&kept).await[0])), (48, 720));
    // a day before its end, links end with the file
    pass(&app, 47).await;
    let ours = short.videos(&gone).await.remove(0);
    assert_eq!(moment(&ours, "expires_at").timestamp(), moment(&ours, "kept_until").timestamp());
    let (url, _) = output_of(&ours);
    assert_eq!(app.http.get(url).send().await.unwrap().status(), 200);
    // a link that claims more than the file has left
    let signer = LinkSigner::new(&app.master, app.base().parse().unwrap(), Duration::from_secs(86_400)).unwrap();
    let video: VideoId = ours["video_id"].as_str().unwrap().parse().unwrap();
    let long = signer.sign(video, Utc::now(), Utc::now() + TimeDelta::days(9)).url;
    pass(&app, 2).await;
    let problem = app.http.get(long.clone()).send().await.unwrap();
    assert_eq!(problem.status(), 410);
    assert_eq!(problem.json::<Value>().await.unwrap()["type"], "/problems#file-purged");

    app.until("the files are deleted", async || {
        app.count("select count(*) from videos where purged_at is not null").await == 3
    })
    .await;
    for video in short.videos(&gone).await {
        assert_eq!((video["state"].as_str(), video["charged_credits"].as_i64()), (Some("succeeded"), Some(61)));
        let output = video["output"].as_object().unwrap();
        assert!(
            output["purged_at"].is_string() && !output.contains_key("url") && !output.contains_key("expires_at"),
            "{video}"
        );
    }
    assert_eq!(app.http.head(long).send().await.unwrap().status(), 410);
    let batch = short.batch(&gone).await;
    assert_eq!(
        (batch.word("/status"), batch.number("/credits/charged"), short.available().await),
        ("completed", 183, 817)
    );
    app.until("the batch is done with", async || {
        app.count("select count(*) from batches where purged_at is not null").await == 1
    })
    .await;
    // of the other tenant everything is there: the audit looks at it too
    let others = usual.videos(&kept).await;
    assert_eq!(app.http.get(output_of(&others[0]).0).send().await.unwrap().status(), 200);
    let left = walk(&app.videos_dir());
    assert_eq!(left.len(), 6, "three videos, each with its picture: {left:?}");
    app.finish().await;
}

pub fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut waiting) = (vec![], vec![directory.to_owned()]);
    while let Some(next) = waiting.pop() {
        let entries = match std::fs::read_dir(&next) {
            // a purge removed it while we looked
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && next != directory => continue,
            entries => entries.unwrap(),
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_is_killed_between_its_steps_is_finished_by_the_next() {
    let s3 = S3::start().await;
    let mut app =
        TestApp::start(on_s3(&s3, TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() })).await;
    let customer = app.customer(1_000).await;
    let victim = app.start_process("worker").await;
    let id = customer.order(&order_of(4, "a calm sea")).await;
    app.finished_batch(&customer, &id).await;
    let urls: Vec<String> = customer.videos(&id).await.iter().map(|video| output_of(video).0.to_owned()).collect();
    let http = app.http.clone();
    let statuses = async || {
        let mut statuses = Vec::new();
        for url in &urls {
            statuses.push(http.get(url).send().await.unwrap().status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [200; 4]);
    // the worker's probe deleted what it wrote
    let probes = s3.seen(|method, _| method == Method::DELETE);
    s3.set_mood(Mood::Silent, |method, _| method == Method::DELETE);
    pass(&app, 31 * 24).await;
    app.until("the purge deletes", async || s3.seen(|method, _| method == Method::DELETE) > probes).await;
    // marked, not deleted: what may be gone at any moment is not served
    assert_eq!(app.count("select count(*) from videos where purging_at is not null and purged_at is null").await, 4);
    assert_eq!(statuses().await, [410; 4]);
    let video = customer.videos(&id).await.remove(0);
    assert!(video["output"].get("url").is_none() && video["output"].get("purged_at").is_none(), "{video}");
    assert_eq!(s3.objects().len(), 8, "four videos, each with its picture");
    app.process(victim).kill();

    s3.open_up();
    // one of them was deleted, and the process died before it could say so
    std::fs::remove_file(walk(&s3.videos_dir()).remove(0)).unwrap();
    let heir = app.start_process("worker").await;
    let all = "select count(*) from videos where purged_at is not null";
    app.until("all are purged", async || app.count(all).await == 4).await;
    assert_eq!(s3.objects(), Vec::<String>::new());
    assert_eq!(statuses().await, [410; 4]);
    assert_eq!(customer.available().await, 1_000 - 4 * 61);
    let log = app.process(heir).logged("deleted files whose time was over").await;
    assert!(log.contains("count=4"), "{log}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_attempt_left_in_the_store_is_deleted_and_the_success_stays() {
    let rules = vec![Rule::on_prompt("flaky", Fault::JobFailed).nth(Nth::only(1))];
    let app = TestApp::start(TestSettings { rules, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [item("flaky")]})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let leftover: String = sqlx::query_scalar(
        "select v.tenant_id || '/' || v.batch_id || '/' || v.id || '/' || a.id || '.mp4'
         from attempts a join videos v on v.id = a.video_id where a.state = 'failed'",
    )
    .fetch_one(app.pool())
    .await
    .unwrap();
    let leftover = app.videos_dir().join(leftover);
    std::fs::write(&leftover, "half of a film").unwrap();
    std::fs::write(leftover.with_extension("thumbnail"), "its picture").unwrap();
    // a worker that was replaced might still be at it
    assert_eq!(app.count("select count(*) from attempts where cleared_at is not null").await, 0);
    pass(&app, 3).await;
    app.until("it is deleted", async || !leftover.exists()).await;
    app.until("it is noted", async || {
        app.count("select count(*) from attempts where cleared_at is not null").await == 1
    })
    .await;
    let left = walk(&app.videos_dir());
    assert_eq!(left.len(), 2, "the video and its picture: {left:?}");
    app.finish().await;
}
