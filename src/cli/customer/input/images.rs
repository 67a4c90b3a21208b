//! Reference images of a file's items: a `reference_image` that is a path names a file here, which is uploaded before the
//! batch is sent; its place in the item takes the id of the upload.
//!
//! Always holds: paths are relative to the file that names them (with standard input, to the working directory); every
//! file is looked at before anything is sent; equal files are one upload, and one that the service has already is none.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{Fault, Faults, Items};
use crate::cli::client::{Api, CallError};
use crate::cli::output::{self, count, plain};
use crate::domain::{ImageFacts, ImageFormat, ImageId};

pub(in crate::cli::customer) const IMAGE: &str = "reference_image";
pub(in crate::cli::customer) const IMAGE_URL: &str = "reference_image_url";
const ID_PREFIX: &str = "sha256:";
/// More than any service takes.
const MAX_IMAGE_BYTES: u64 = 15 << 20;
const AT_ONCE: usize = 4;
/// An upload that the service has is used as it is if it is kept for so long at least.
const KEPT_LONG_ENOUGH: TimeDelta = TimeDelta::hours(24);

/// A file that is to be uploaded.
#[derive(Clone, Debug)]
pub(in crate::cli::customer) struct LocalImage {
    path: PathBuf,
    id: ImageId,
    format: ImageFormat,
    bytes: u64,
}

impl LocalImage {
    /// As an item names it when it is uploaded.
    pub(in crate::cli::customer) fn id(&self) -> String {
        self.id.to_string()
    }

    fn look_at(path: &Path) -> Result<LocalImage, String> {
        let bytes = contents(path)?;
        let facts = ImageFacts::read(&bytes).map_err(|error| format!("{}: {error}", shown(path)))?;
        let id = id_of(&bytes);
        Ok(LocalImage { path: path.to_owned(), id, format: facts.format, bytes: bytes.len() as u64 })
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", shown(path));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(format!("{} is larger than {}", shown(path), output::bytes(MAX_IMAGE_BYTES)));
    }
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    plain(&path.display().to_string())
}

fn id_of(bytes: &[u8]) -> ImageId {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, bytes).as_ref());
    ImageId::new(sha256)
}

impl Items {
    /// Puts ids in the place of paths; answers the files behind them. `file` is where the items were read from.
    ///
    /// # Errors
    /// [`Faults`] names every file that is no image.
    pub(in crate::cli::customer) fn resolve_images(&mut self, file: &Path) -> Result<Vec<LocalImage>, Faults> {
        let directory = file.parent().unwrap_or(Path::new(""));
        let mut looked_at: HashMap<PathBuf, Result<LocalImage, String>> = HashMap::new();
        let mut found = Vec::new();
        for item in &mut self.items {
            let Some(Value::String(named)) = item.fields.get(IMAGE) else { continue };
            if item.fields.get(IMAGE_URL).is_some_and(|url| !url.is_null()) {
                found.push(Fault::at(item.line, IMAGE, format!("stands beside `{IMAGE_URL}`; name one of the two")));
                continue;
            }
            if named.starts_with(ID_PREFIX) {
                continue;
            }
            let path = directory.join(named);
            match looked_at.entry(path.clone()).or_insert_with(|| LocalImage::look_at(&path)) {
                Ok(image) => drop(item.fields.insert(IMAGE.to_owned(), json!(image.id.to_string()))),
                Err(detail) => found.push(Fault::at(item.line, IMAGE, detail.clone())),
            }
        }
        if !found.is_empty() {
            return Err(Faults { name: self.name.clone(), found });
        }
        let images: BTreeMap<ImageId, LocalImage> =
            looked_at.into_values().filter_map(|image| image.ok().map(|image| (image.id, image))).collect();
        Ok(images.into_values().collect())
    }
}

/// Uploads what the service does not have yet. A service that is busy or away is tried again for as long as `patience`.
///
/// # Errors
/// Which file was not taken, and why; nothing was bought.
pub(in crate::cli::customer) async fn upload(api: &Api, images: &[LocalImage], patience: Duration) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let bytes = images.iter().map(|image| image.bytes).sum();
    output::aside(&format!("reference images: {}, {}", count(images.len(), "file"), output::bytes(bytes)));
    let until = Instant::now() + patience;
    let uploads = stream::iter(images).map(|image| async move {
        upload_one(api, image, until).await.with_context(|| format!("{} was not uploaded", shown(&image.path)))
    });
    let uploaded: Vec<bool> = uploads.buffer_unordered(AT_ONCE).try_collect().await?;
    let new = uploaded.iter().filter(|new| **new).count();
    output::aside(&format!("{} uploaded, {} there already", new, images.len() - new));
    Ok(())
}

/// Whether it was new to the service.
async fn upload_one(api: &Api, image: &LocalImage, until: Instant) -> Result<bool> {
    let id = image.id.to_string();
    match api.image(&id).await {
        Ok(known) if known.value.expires_at > Utc::now() + KEPT_LONG_ENOUGH => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == "not-found" => {}
        Err(error) => return Err(error.into()),
    }
    let bytes = Bytes::from(contents(&image.path).map_err(anyhow::Error::msg)?);
    if id_of(&bytes) != image.id {
        bail!("it was changed while it was being read; run the command again");
    }
    let mut pause = Duration::from_millis(500);
    loop {
        let error: CallError = match api.upload_image(bytes.clone(), image.format.media_type()).await {
            Ok(uploaded) if uploaded.value.id == id => return Ok(true),
            Ok(_) => bail!("the service answered with another image's id"),
            Err(error) => error,
        };
        let wait = error.retry_after().unwrap_or(pause);
        if !error.passes() || Instant::now() + wait > until {
            return Err(error.into());
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(Duration::from_secs(15));
    }
}
