//! Reference images: their names, and what the first bytes of one say about it.
//!
//! Always holds: an [`ImageFacts`] was read from the bytes themselves, whatever a server or a customer called them; reading
//! looks at a bounded number of segments and never beyond the bytes that are there. An [`ImageId`] is the SHA-256 of the
//! whole image, so that one id is one content.
//! Refuses: to decode pixels, and every format but JPEG, PNG and WebP, which all providers take.

use std::fmt;
use std::str::FromStr;

use super::Size;
use super::video_spec::FieldError;

/// JPEG segments that are looked at before its size has to be found. Cameras write some dozens.
const MAX_SEGMENTS: usize = 1_000;
const ID_PREFIX: &str = "sha256:";

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    Jpeg,
    Png,
    Webp,
}

impl ImageFormat {
    pub const ALL: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Webp];

    pub const fn media_type(self) -> &'static str {
        match self {
            ImageFormat::Jpeg => "image/jpeg",
            ImageFormat::Png => "image/png",
            ImageFormat::Webp => "image/webp",
        }
    }

    /// The ending of a file name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            ImageFormat::Jpeg => "jpg",
            ImageFormat::Png => "png",
            ImageFormat::Webp => "webp",
        }
    }

    pub fn of_media_type(text: &str) -> Option<ImageFormat> {
        ImageFormat::ALL.into_iter().find(|format| format.media_type() == text)
    }
}

/// Format and size in pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    pub format: ImageFormat,
    /// At least 1 each.
    pub width: u32,
    pub height: u32,
}

/// The bytes are no image that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnImage {
    #[error("it is no JPEG, PNG or WebP")]
    OtherFormat,
    #[error("it begins like a {0:?} and its size cannot be read: it is damaged or cut off")]
    Damaged(ImageFormat),
}

impl ImageFacts {
    /// Reads the header of an image.
    ///
    /// # Errors
    /// [`NotAnImage`].
    pub fn read(bytes: &[u8]) -> Result<ImageFacts, NotAnImage> {
        let (format, sides) = match bytes {
            [0xff, 0xd8, 0xff, ..] => (ImageFormat::Jpeg, jpeg(bytes)),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => (ImageFormat::Png, png(bytes)),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => (ImageFormat::Webp, webp(bytes)),
            _ => return Err(NotAnImage::OtherFormat),
        };
        match sides {
            Some((width, height)) if width > 0 && height > 0 => Ok(ImageFacts { format, width, height }),
            _ => Err(NotAnImage::Damaged(format)),
        }
    }

    /// Whether it has exactly the pixels of a video of this size.
    pub fn matches(&self, size: Size) -> bool {
        (self.width, self.height) == (size.width, size.height)
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn le16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn le24(bytes: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = bytes.get(at..at + 3)?.try_into().ok()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

/// IHDR comes first; the image must end with IEND, or it was cut off.
fn png(bytes: &[u8]) -> Option<(u32, u32)> {
    (bytes.get(12..16)? == b"IHDR" && bytes.ends_with(b"IEND\xae\x42\x60\x82")).then_some(())?;
    Some((be32(bytes, 16)?, be32(bytes, 20)?))
}

/// The frame header (SOF0 to SOF15 without DHT, JPG and DAC) holds height and width.
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    for _ in 0..MAX_SEGMENTS {
        // a marker may be preceded by any number of fill bytes
        while bytes.get(at)? == &0xff && bytes.get(at + 1)? == &0xff {
            at += 1;
        }
        (bytes.get(at)? == &0xff).then_some(())?;
        match *bytes.get(at + 1)? {
            0x01 | 0xd0..=0xd8 => at += 2,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be16(bytes, at + 7)?, be16(bytes, at + 5)?));
            }
            // the picture's data, or its end, before its size
            0xd9 | 0xda => return None,
            _ => at += 2 + usize::try_from(be16(bytes, at + 2)?.max(2)).ok()?,
        }
    }
    None
}

/// Simple lossy (`VP8 `), lossless (`VP8L`) and extended (`VP8X`) files; RIFF says how long the whole is.
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    let announced = u64::from(u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?)) + 8;
    (announced <= bytes.len() as u64).then_some(())?;
    match bytes.get(12..16)? {
        b"VP8 " => {
            (bytes.get(23..26)? == [0x9d, 0x01, 0x2a]).then_some(())?;
            Some((le16(bytes, 26)? & 0x3fff, le16(bytes, 28)? & 0x3fff))
        }
        b"VP8L" => {
            (bytes.get(20)? == &0x2f).then_some(())?;
            let bits = u32::from_le_bytes(bytes.get(21..25)?.try_into().ok()?);
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        b"VP8X" => Some((le24(bytes, 24)? + 1, le24(bytes, 27)? + 1)),
        _ => None,
    }
}

/// An uploaded image: the SHA-256 of its bytes, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId([u8; 32]);

impl ImageId {
    pub const fn new(sha256: [u8; 32]) -> ImageId {
        ImageId(sha256)
    }

    pub const fn sha256(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ID_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageId {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<ImageId, FieldError> {
        let wrong = || FieldError::new("must be the `id` of an uploaded image, `sha256:` and 64 hexadecimal digits");
        let digits = text.strip_prefix(ID_PREFIX).filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
        // one image has one name
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let mut sha256 = [0; 32];
        for (byte, pair) in sha256.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        if plain { Ok(ImageId(sha256)) } else { Err(wrong()) }
    }
}

/// What an item starts from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// An image that the tenant has uploaded.
    Upload(ImageId),
    /// A URL, checked as far as its text goes. May hold a signature: never to be logged.
    Url(String),
}

impl ImageSource {
    /// As it stands in the database.
    pub fn stored(&self) -> String {
        match self {
            ImageSource::Upload(id) => id.to_string(),
            ImageSource::Url(url) => url.clone(),
        }
    }

    /// Reads the stored form back.
    pub fn from_stored(text: &str) -> ImageSource {
        match text.parse() {
            Ok(id) => ImageSource::Upload(id),
            Err(_) => ImageSource::Url(text.to_owned()),
        }
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageSource::Upload(id) => fmt::Display::fmt(id, f),
            ImageSource::Url(_) => f.write_str("Url(***)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        png.extend(width.to_be_bytes());
        png.extend(height.to_be_bytes());
        png.extend(b"\x08\x02\0\0\0crc!\0\0\0\0IEND\xae\x42\x60\x82");
        png
    }

    fn jpeg_of(width: u16, height: u16, before: &[u8]) -> Vec<u8> {
        let mut jpeg = vec![0xff, 0xd8];
        jpeg.extend(before);
        jpeg.extend([0xff, 0xff, 0xc2, 0, 17, 8]);
        jpeg.extend(height.to_be_bytes());
        jpeg.extend(width.to_be_bytes());
        jpeg.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xda, 0, 2, 0xff, 0xd9]);
        jpeg
    }

    fn webp_of(chunk: &[u8]) -> Vec<u8> {
        let mut webp = b"RIFF\0\0\0\0WEBP".to_vec();
        webp.extend(chunk);
        let rest = u32::try_from(webp.len() - 8).unwrap();
        webp[4..8].copy_from_slice(&rest.to_le_bytes());
        webp
    }

    #[test]
    fn format_and_size_are_read_from_the_bytes() {
        let app1 = [&[0xff, 0xe1, 0, 6][..], b"Exif", &[0xff, 0xc4, 0, 2]].concat();
        let lossless = ((1280u32 - 1) | ((720 - 1) << 14)).to_le_bytes();
        for (image, format, width, height) in [
            (png_of(1280, 720), ImageFormat::Png, 1280, 720),
            (jpeg_of(1792, 1024, &app1), ImageFormat::Jpeg, 1792, 1024),
            (webp_of(b"VP8 \x20\0\0\0\x30\x01\0\x9d\x01\x2a\x00\x45\xd0\x42"), ImageFormat::Webp, 1280, 720),
            (webp_of(&[&b"VP8L\x20\0\0\0\x2f"[..], &lossless].concat()), ImageFormat::Webp, 1280, 720),
            (webp_of(b"VP8X\x0a\0\0\0\x10\0\0\0\xff\x04\0\xcf\x02\0"), ImageFormat::Webp, 1280, 720),
        ] {
            assert_eq!(ImageFacts::read(&image), Ok(ImageFacts { format, width, height }));
            for cut in 0..image.len() {
                let _ = ImageFacts::read(&image[..cut]);
            }
        }
    }

    #[test]
    fn what_is_no_image_is_told_from_a_damaged_one() {
        for other in [&b""[..], b"<html>", b"GIF89a", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7"] {
            assert_eq!(ImageFacts::read(other), Err(NotAnImage::OtherFormat), "{other:?}");
        }
        let cut = png_of(1280, 720);
        for damaged in [
            &cut[..cut.len() - 3],
            &png_of(0, 720),
            &jpeg_of(1280, 720, &[0xff, 0xda]),
            &jpeg_of(1280, 720, &[0xff, 0xd0].repeat(MAX_SEGMENTS)),
            &[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff],
            &webp_of(b"ICCP\0\0\0\0"),
        ] {
            assert!(matches!(ImageFacts::read(damaged), Err(NotAnImage::Damaged(_))), "{damaged:?}");
        }
        let mut longer = webp_of(b"VP8X\x0a\0\0\0\x10\0\0\0\xff\x04\0\xcf\x02\0");
        longer[4] = 200;
        assert_eq!(ImageFacts::read(&longer), Err(NotAnImage::Damaged(ImageFormat::Webp)));
    }

    #[test]
    fn an_image_has_one_name_and_a_url_is_not_shown() {
        let id = ImageId::new([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in
            ["", "sha256:ab", &id.to_string().to_uppercase(), &id.to_string().replace('a', "A"), &"ab".repeat(32)]
        {
            assert!(wrong.parse::<ImageId>().is_err(), "{wrong}");
        }
        for source in [ImageSource::Upload(id), ImageSource::Url("https://example.com/a?sig=secret".to_owned())] {
            assert_eq!(ImageSource::from_stored(&source.stored()), source);
            assert!(!format!("{source:?}").contains("secret"));
        }
    }
}
