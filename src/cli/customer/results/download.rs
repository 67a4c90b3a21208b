//! Files: fetched several at a time, checked, and put in their place whole.
//!
//! Always holds: a file appears under its name only when its length and SHA-256 are those that were promised, by a rename
//! within its directory; a file that is there with the right content is not fetched again, one with other content is not
//! touched unless that was asked for; an expired link is replaced by a new one.
//! Refuses: to send the API key to a link.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream;
use ring::digest;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;
use ulid::Ulid;

use super::names::file_names;
use crate::cli::client::{Answer, Api, CallError, Output, Video, hex, root_cause};
use crate::cli::output::plain;
use crate::cli::progress::FilesBar;
use crate::cli::signals::Signals;

const ATTEMPTS: u32 = 5;
/// A download that brings nothing for so long has stalled.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// A page of videos and what finds it again, for new links.
pub(super) struct Sheet {
    pub(super) cursor: Option<String>,
    pub(super) videos: Vec<Answer<Video>>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Fetched {
    /// By the video's place.
    pub(super) files: HashMap<usize, PathBuf>,
    pub(super) thumbnails: HashMap<usize, PathBuf>,
    pub(super) new: usize,
    pub(super) new_bytes: u64,
    /// Were there already.
    pub(super) present: usize,
    pub(super) faults: BTreeMap<(usize, What), String>,
}

/// What is fetched of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    Film,
    Thumbnail,
}

/// How it is fetched.
pub(super) struct Wishes<'a> {
    pub(super) directory: &'a Path,
    pub(super) thumbnails: bool,
    pub(super) overwrite: bool,
    /// Files at once.
    pub(super) parallel: u8,
}

/// What the service says of a file.
struct Promise<'a> {
    /// The video's place, and which of its files.
    of: (usize, What),
    bytes: u64,
    /// Lower-case hexadecimal.
    sha256: &'a str,
    purged_at: Option<DateTime<Utc>>,
}

impl<'a> Promise<'a> {
    fn of_film(index: usize, output: &'a Output) -> Promise<'a> {
        let Output { bytes, sha256, purged_at, .. } = output;
        Promise { of: (index, What::Film), bytes: *bytes, sha256, purged_at: *purged_at }
    }

    /// With the ending of its file's name; `None` when there is none to fetch.
    fn of_thumbnail(index: usize, output: &'a Output) -> Option<(Promise<'a>, &'static str)> {
        let ending = match output.thumbnail_content_type.as_deref()? {
            "image/webp" => "webp",
            "image/jpeg" => "jpg",
            "image/png" => "png",
            _ => return None,
        };
        let (bytes, sha256) = (output.thumbnail_bytes?, output.thumbnail_sha256.as_deref()?);
        Some((Promise { of: (index, What::Thumbnail), bytes, sha256, purged_at: None }, ending))
    }
}

enum Done {
    New(u64),
    Present,
}

/// Fetches every finished video into a directory, which is made if it is missing, and its picture if that is wanted.
///
/// # Errors
/// When the directory cannot be made, or on Ctrl-C. What is wrong with single files stands in the result.
pub(super) async fn fetch(api: &Api, id: &str, sheets: &[Sheet], wishes: &Wishes<'_>) -> Result<Fetched> {
    let (directory, overwrite) = (wishes.directory, wishes.overwrite);
    let shown = plain(&directory.display().to_string());
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {shown}"))?;
    let mut signals = Signals::listen()?;
    let all = sheets.iter().flat_map(|sheet| &sheet.videos).map(|video| &video.value);
    let names = file_names(all.map(|video| (video.index, video.custom_id.as_deref())));
    let links: Vec<Links> = sheets.iter().map(|sheet| Links::new(api, id, sheet)).collect();
    let mut wanted = Vec::new();
    for (sheet, links) in sheets.iter().zip(&links) {
        for video in sheet.videos.iter().map(|video| &video.value) {
            if let (Some(output), Some(name)) = (&video.output, names.get(&video.index)) {
                let path = directory.join(name);
                if let Some((promise, ending)) =
                    Promise::of_thumbnail(video.index, output).filter(|_| wishes.thumbnails)
                {
                    wanted.push((promise, links, Place { path: path.with_extension(ending), overwrite }));
                }
                wanted.push((Promise::of_film(video.index, output), links, Place { path, overwrite }));
            }
        }
    }
    let bar = FilesBar::start(wanted.len());
    let mut fetched = Fetched::default();
    let mut work = stream::iter(wanted)
        .map(|(promise, links, place)| async move {
            let done = place.fill(api, &promise, links).await;
            (promise.of, place.path, done)
        })
        .buffer_unordered(usize::from(wishes.parallel));
    loop {
        let next = tokio::select! {
            next = work.next() => next,
            () = signals.next() => bail!("stopped; run the same command again to fetch the rest"),
        };
        let Some((of, path, done)) = next else { return Ok(fetched) };
        match done {
            Ok(Done::New(bytes)) => {
                fetched.new += 1;
                fetched.new_bytes += bytes;
                fetched.note(of, path);
            }
            Ok(Done::Present) => {
                fetched.present += 1;
                fetched.note(of, path);
            }
            Err(error) => {
                fetched.faults.insert(of, crate::cli::explain(&error));
            }
        }
        bar.note(fetched.new + fetched.present + fetched.faults.len(), fetched.new_bytes);
    }
}

impl Fetched {
    fn note(&mut self, (index, what): (usize, What), path: PathBuf) {
        match what {
            What::Film => self.files.insert(index, path),
            What::Thumbnail => self.thumbnails.insert(index, path),
        };
    }
}

/// The links of a page, made anew when one of them expired: once for all that find out at the same time.
struct Links<'a> {
    api: &'a Api,
    id: &'a str,
    cursor: Option<String>,
    current: Mutex<HashMap<(usize, What), String>>,
}

impl<'a> Links<'a> {
    fn new(api: &'a Api, id: &'a str, sheet: &Sheet) -> Links<'a> {
        let links = sheet.videos.iter().flat_map(|video| links_of(&video.value)).collect();
        Links { api, id, cursor: sheet.cursor.clone(), current: Mutex::new(links) }
    }

    async fn current(&self, of: (usize, What)) -> Option<String> {
        self.current.lock().await.get(&of).cloned()
    }

    /// A link in place of `expired`.
    async fn renew(&self, of: (usize, What), expired: &str) -> Result<String> {
        let mut current = self.current.lock().await;
        if let Some(link) = current.get(&of).filter(|link| *link != expired) {
            return Ok(link.clone());
        }
        let page = self.api.videos_page(self.id, None, self.cursor.clone()).await?;
        current.extend(page.data.iter().flat_map(|video| links_of(&video.value)));
        let link = current.get(&of).filter(|link| *link != expired).cloned();
        link.context("its link expired and the service gives no other: the file may be past its retention")
    }
}

fn links_of(video: &Video) -> impl Iterator<Item = ((usize, What), String)> {
    let links =
        video.output.iter().flat_map(|output| [(What::Film, &output.url), (What::Thumbnail, &output.thumbnail_url)]);
    links.filter_map(|(what, link)| Some(((video.index, what), link.clone()?)))
}

/// Where a file is to be.
struct Place {
    path: PathBuf,
    overwrite: bool,
}

impl Place {
    async fn fill(&self, api: &Api, promise: &Promise<'_>, links: &Links<'_>) -> Result<Done> {
        match self.look(promise).await? {
            Found::Right => return Ok(Done::Present),
            Found::Other if !self.overwrite => {
                bail!(
                    "{} is there with other content: --overwrite replaces it",
                    plain(&self.path.display().to_string())
                );
            }
            Found::Other | Found::Nothing => {}
        }
        let Some(mut link) = links.current(promise.of).await else {
            let day =
                promise.purged_at.map(|at| format!(", it was deleted on {}", at.date_naive())).unwrap_or_default();
            bail!("the file is no longer kept{day}");
        };
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let error = match self.bring(api, &link, promise).await {
                Ok(()) => return Ok(Done::New(promise.bytes)),
                Err(error) => error,
            };
            let call = error.downcast_ref::<CallError>();
            let expired = call.is_some_and(|call| matches!(call.kind(), "expired-link" | "forged-link"));
            if expired && !renewed {
                link = links.renew(promise.of, &link).await?;
                renewed = true;
                continue;
            }
            let passes = call.is_some_and(CallError::passes);
            if !passes || attempt == ATTEMPTS {
                return Err(error);
            }
            let pause = call.and_then(CallError::retry_after).unwrap_or(Duration::from_millis(250) * 2u32.pow(attempt));
            tokio::time::sleep(pause.min(Duration::from_secs(15))).await;
            attempt += 1;
        }
    }

    async fn look(&self, promise: &Promise<'_>) -> Result<Found> {
        let (path, bytes, sha256) = (self.path.clone(), promise.bytes, promise.sha256.to_owned());
        let looked = tokio::task::spawn_blocking(move || match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(error),
            Ok(found) if !found.is_file() || found.len() != bytes => Ok(Found::Other),
            Ok(_) if hash_of(&path)? == sha256 => Ok(Found::Right),
            Ok(_) => Ok(Found::Other),
        });
        looked.await?.with_context(|| format!("cannot read {}", plain(&self.path.display().to_string())))
    }

    /// Fetches once, under another name, and renames what proved right.
    async fn bring(&self, api: &Api, link: &str, promise: &Promise<'_>) -> Result<()> {
        let part = Part::of(&self.path)?;
        let mut answer = api.open(link).await?;
        let cannot = || format!("cannot write {}", plain(&part.0.display().to_string()));
        let mut file = tokio::fs::File::create_new(&part.0).await.with_context(cannot)?;
        let (mut hash, mut bytes) = (digest::Context::new(&digest::SHA256), 0u64);
        let broken = |cause: String| CallError::Interrupted { base: "the download".to_owned(), cause };
        loop {
            let chunk = match tokio::time::timeout(LONGEST_SILENCE, answer.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| broken(root_cause(&error)))?,
                Err(_) => return Err(broken(format!("nothing for {} s", LONGEST_SILENCE.as_secs())).into()),
            };
            let Some(chunk) = chunk else { break };
            bytes += chunk.len() as u64;
            if bytes > promise.bytes {
                bail!("the file is longer than the {} bytes that were promised", promise.bytes);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.with_context(cannot)?;
        }
        if bytes < promise.bytes {
            return Err(broken(format!("it ended after {bytes} of {} bytes", promise.bytes)).into());
        }
        if hex(hash.finish().as_ref()) != promise.sha256 {
            return Err(broken("its SHA-256 is not the promised one".to_owned()).into());
        }
        file.sync_all().await.with_context(cannot)?;
        drop(file);
        part.become_whole(&self.path)
    }
}

enum Found {
    Nothing,
    Right,
    Other,
}

fn hash_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (digest::Context::new(&digest::SHA256), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash.finish().as_ref())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A file that is not whole yet; removed when it is given up.
struct Part(PathBuf);

impl Part {
    fn of(path: &Path) -> Result<Part> {
        let name = path.file_name().ok_or_else(|| anyhow!("a file without a name"))?.to_string_lossy();
        Ok(Part(path.with_file_name(format!(".{name}.{}.part", Ulid::generate()))))
    }

    fn become_whole(self, path: &Path) -> Result<()> {
        let moved = std::fs::rename(&self.0, path);
        moved.with_context(|| format!("cannot write {}", plain(&path.display().to_string())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // renamed files are not there any more
        let _ = std::fs::remove_file(&self.0);
    }
}
