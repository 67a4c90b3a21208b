//! Reference images as clients send them: decoded, looked at as a vendor would, and named by their hash, so that a test can
//! hold what arrived against what was ordered.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::super::jobs::hex;

/// What a vendor sees of an image.
pub(super) struct Seen {
    pub(super) sha256: Arc<str>,
    pub(super) media_type: &'static str,
    /// Width and height, where the format says them plainly.
    sides: Option<(u32, u32)>,
}

impl Seen {
    /// `None` for what is no JPEG, PNG or WebP.
    pub(super) fn of(bytes: &[u8]) -> Option<Seen> {
        let (media_type, sides) = match bytes {
            [0xff, 0xd8, 0xff, ..] => ("image/jpeg", jpeg(bytes)),
            [0x89, b'P', b'N', b'G', ..] => ("image/png", Some((number(bytes, 16)?, number(bytes, 20)?))),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("image/webp", None),
            _ => return None,
        };
        let sha256 = hex(digest(&SHA256, bytes).as_ref()).into();
        Some(Seen { sha256, media_type, sides })
    }

    /// Whether it has the pixels of `WIDTHxHEIGHT`, as far as it says.
    pub(super) fn has_size(&self, size: &str) -> bool {
        self.sides.is_none_or(|(width, height)| format!("{width}x{height}") == size)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The first frame header, behind whatever segments.
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [0xff, marker, high, low] = *bytes.get(at..at + 4)? else { return None };
        if matches!(marker, 0xc0..=0xc2) {
            let [top, bottom, left, right] = *bytes.get(at + 5..at + 9)? else { return None };
            return Some((u32::from(left) << 8 | u32::from(right), u32::from(top) << 8 | u32::from(bottom)));
        }
        at += 2 + (usize::from(high) << 8 | usize::from(low));
    }
}

pub(super) fn of_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// `data:image/png;base64,...`; the type has to be the bytes' own.
pub(super) fn of_data_uri(text: &str) -> Option<Vec<u8>> {
    let (media_type, data) = text.strip_prefix("data:")?.split_once(";base64,")?;
    of_base64(data).filter(|bytes| Seen::of(bytes).is_some_and(|seen| seen.media_type == media_type))
}
