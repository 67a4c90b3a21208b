//! Signed links: whoever holds one may fetch one video until it expires, without an API key.
//!
//! Always holds: a link names one video (or its picture) and one moment of expiry, which is never later than the end of the
//! file itself, and both are signed; whether it is genuine is decided
//! without reading the database. The attempt is not part of it: a video that succeeded keeps its one stored file, so the
//! video's id finds it. Links made in the same stretch of time are the same text, so that polling a batch does not
//! spoil the caches of browsers and proxies.
//! Refuses: taking a link back. One that leaked works until it expires, or until the file is purged.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use url::Url;

use crate::domain::master_key::SigningKey;
use crate::domain::{MasterKey, VideoId};

const PURPOSE: &str = "file-link";
/// Expiries are rounded up to this, or to the time to live when that is shorter.
const LONGEST_BUCKET_SECS: i64 = 3600;
const LONGEST_TTL_SECS: u64 = 366 * 24 * 3600;

/// Why a link does not open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Genuine, but its time is over. The holder may ask the API for a new one.
    #[error("the link has expired; fetch the video's record again for a new one")]
    Expired,
    /// Not made by us, or changed.
    #[error("the link's signature does not match")]
    Forged,
}

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    Video,
    Thumbnail,
}

impl Linked {
    const ALL: [Linked; 2] = [Linked::Video, Linked::Thumbnail];

    /// The last part of the file's name.
    const fn ending(self) -> &'static str {
        match self {
            Linked::Video => ".mp4",
            Linked::Thumbnail => ".thumbnail",
        }
    }

    /// What the last part of a link's path names.
    pub fn parse(name: &str) -> Option<(Linked, VideoId)> {
        Linked::ALL.into_iter().find_map(|what| Some((what, name.strip_suffix(what.ending())?.parse().ok()?)))
    }
}

/// A link and the moment until which it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedLink {
    /// `{base}/files/{vid_...}.mp4?expires=UNIX_SECONDS&signature=BASE64URL`
    pub url: Url,
    pub expires_at: DateTime<Utc>,
}

/// Makes and checks the links of one installation.
#[derive(Clone, Debug)]
pub struct LinkSigner {
    key: SigningKey,
    base_url: Url,
    ttl_secs: i64,
}

impl LinkSigner {
    /// A signer of links below `base_url` that work for at least `ttl` and at most an hour (or once more `ttl`, when
    /// that is shorter) longer.
    ///
    /// # Errors
    /// When `base_url` is not plain `http(s)://host/path`, or `ttl` is not between a second and a year.
    pub fn new(master: &MasterKey, base_url: Url, ttl: Duration) -> anyhow::Result<LinkSigner> {
        anyhow::ensure!(
            matches!(base_url.scheme(), "http" | "https")
                && base_url.query().is_none()
                && base_url.fragment().is_none(),
            "the base URL of file links must be http(s)://host/path without query or fragment, not `{base_url}`"
        );
        anyhow::ensure!(
            (1..=LONGEST_TTL_SECS).contains(&ttl.as_secs()),
            "file links must live between 1 and {LONGEST_TTL_SECS} seconds, not {}",
            ttl.as_secs()
        );
        let ttl_secs = i64::try_from(ttl.as_secs()).context("the links' time to live")?;
        Ok(LinkSigner { key: master.signing_key(PURPOSE), base_url, ttl_secs })
    }

    /// A link to the file of `video`, which is kept until then. The same text for every `now` of one stretch of time (an
    /// hour at most).
    pub fn sign(&self, video: VideoId, now: DateTime<Utc>, kept_until: DateTime<Utc>) -> SignedLink {
        self.sign_any((Linked::Video, video), now, kept_until)
    }

    /// The same to the picture of the video, which is kept as long as the video.
    pub fn sign_thumbnail(&self, video: VideoId, now: DateTime<Utc>, kept_until: DateTime<Utc>) -> SignedLink {
        self.sign_any((Linked::Thumbnail, video), now, kept_until)
    }

    fn sign_any(&self, what: (Linked, VideoId), now: DateTime<Utc>, kept_until: DateTime<Utc>) -> SignedLink {
        let bucket_secs = self.ttl_secs.min(LONGEST_BUCKET_SECS);
        let least = now.timestamp().saturating_add(self.ttl_secs);
        let expires = least.saturating_add((-least).rem_euclid(bucket_secs)).min(kept_until.timestamp());
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(&message(what, expires)));
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["files", &format!("{}{}", what.1, what.0.ending())]);
        }
        url.query_pairs_mut().append_pair("expires", &expires.to_string()).append_pair("signature", &signature);
        SignedLink { url, expires_at: DateTime::from_timestamp(expires, 0).unwrap_or(DateTime::<Utc>::MAX_UTC) }
    }

    /// Checks what a link said: what its path names, and its two parameters as they were sent. Constant time in the
    /// signature.
    ///
    /// # Errors
    /// [`LinkError`]; `Expired` is said of genuine links only.
    pub fn verify(
        &self,
        what: (Linked, VideoId),
        expires: i64,
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LinkError> {
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| LinkError::Forged)?;
        if !self.key.verify(&message(what, expires), &signature) {
            return Err(LinkError::Forged);
        }
        if now.timestamp() < expires { Ok(()) } else { Err(LinkError::Expired) }
    }
}

fn message((what, video): (Linked, VideoId), expires: i64) -> Vec<u8> {
    match what {
        Linked::Video => format!("v1\n{video}\n{expires}").into_bytes(),
        Linked::Thumbnail => format!("v1 thumbnail\n{video}\n{expires}").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use url::Url;

    use super::{LinkError, LinkSigner, Linked, SignedLink};
    use crate::domain::{MasterKey, VideoId};

    const FOR_EVER: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

    fn signer(base: &str, ttl_secs: u64) -> anyhow::Result<LinkSigner> {
        let master = MasterKey::from_hex(&"42".repeat(32)).unwrap();
        LinkSigner::new(&master, Url::parse(base).unwrap(), Duration::from_secs(ttl_secs))
    }

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(secs, 0).unwrap()
    }

    fn parameters(link: &SignedLink) -> (i64, String) {
        let pairs: HashMap<_, _> = link.url.query_pairs().into_owned().collect();
        (pairs["expires"].parse().unwrap(), pairs["signature"].clone())
    }

    #[test]
    fn a_link_works_until_it_expires() {
        let signer = signer("https://example.test/v1/", 600).unwrap();
        let video = VideoId::generate();
        let link = signer.sign(video, at(1_000_000_050), FOR_EVER);
        assert_eq!(link.url.path(), format!("/v1/files/{video}.mp4"));
        let (expires, signature) = parameters(&link);
        assert_eq!(at(expires), link.expires_at);
        assert_eq!(signer.verify((Linked::Video, video), expires, &signature, at(expires - 1)), Ok(()));
        assert_eq!(signer.verify((Linked::Video, video), expires, &signature, at(expires)), Err(LinkError::Expired));
    }

    #[test]
    fn a_changed_link_is_forged_even_when_expired() {
        let signer = signer("https://example.test", 600).unwrap();
        let video = VideoId::generate();
        let now = at(1_000_000_000);
        let (expires, signature) = parameters(&signer.sign(video, now, FOR_EVER));
        let forged = |video, expires, signature: &str| {
            assert_eq!(
                signer.verify((Linked::Video, video), expires, signature, now),
                Err(LinkError::Forged),
                "{signature}"
            );
        };
        forged(VideoId::generate(), expires, &signature);
        forged(video, expires + 3600, &signature);
        forged(video, 0, &signature);
        forged(video, i64::MIN, &signature);
        forged(video, expires, "");
        forged(video, expires, &signature[1..]);
        forged(video, expires, &format!("{signature}="));
        let first = if signature.starts_with('A') { "B" } else { "A" };
        forged(video, expires, &format!("{first}{}", &signature[1..]));
        let other = MasterKey::from_hex(&"43".repeat(32)).unwrap();
        let other = LinkSigner::new(&other, Url::parse("https://example.test").unwrap(), Duration::from_secs(600));
        forged(video, expires, &parameters(&other.unwrap().sign(video, now, FOR_EVER)).1);
    }

    #[test]
    fn links_of_one_hour_are_one_text_and_live_at_least_as_long_as_promised() {
        let signer = signer("https://example.test", 86_400).unwrap();
        let video = VideoId::generate();
        let hour = 1_000_000 * 3600;
        let first = signer.sign(video, at(hour + 1), FOR_EVER);
        assert_eq!(first, signer.sign(video, at(hour + 3600), FOR_EVER));
        assert_ne!(first, signer.sign(video, at(hour + 3601), FOR_EVER));
        assert_eq!(first.expires_at, at(hour + 3600 + 86_400));
    }

    #[test]
    fn a_short_life_is_at_most_doubled() {
        let signer = signer("https://example.test", 60).unwrap();
        for now in 1_000_000_000..1_000_000_120 {
            let lives = signer.sign(VideoId::generate(), at(now), FOR_EVER).expires_at - at(now);
            assert!((60..120).contains(&lives.num_seconds()), "{lives} at {now}");
        }
    }

    #[test]
    fn a_link_never_outlives_its_file() {
        let signer = signer("https://example.test", 86_400).unwrap();
        let link = signer.sign(VideoId::generate(), at(1_000_000_000), at(1_000_000_007));
        assert_eq!(link.expires_at, at(1_000_000_007));
    }

    #[test]
    fn a_link_to_the_picture_does_not_open_the_video() {
        let signer = signer("https://example.test", 600).unwrap();
        let (video, now) = (VideoId::generate(), at(1_000_000_000));
        let link = signer.sign_thumbnail(video, now, FOR_EVER);
        let name = link.url.path().strip_prefix("/files/").unwrap();
        assert_eq!(Linked::parse(name), Some((Linked::Thumbnail, video)));
        let (expires, signature) = parameters(&link);
        assert_eq!(signer.verify((Linked::Thumbnail, video), expires, &signature, now), Ok(()));
        assert_eq!(signer.verify((Linked::Video, video), expires, &signature, now), Err(LinkError::Forged));
        assert_eq!(Linked::parse(&format!("{video}.mp4")), Some((Linked::Video, video)));
        assert_eq!(Linked::parse(&format!("{video}.txt")), None);
    }

    #[test]
    fn unusable_settings_are_refused() {
        assert!(signer("https://example.test", 0).is_err());
        assert!(signer("https://example.test", u64::MAX).is_err());
        assert!(signer("mailto:someone@example.test", 60).is_err());
        assert!(signer("https://example.test/?a=b", 60).is_err());
    }
}
