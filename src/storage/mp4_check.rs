//! Whether a stream of bytes is a whole MP4, told while it passes by.
//!
//! Always holds: the verdict depends on the bytes alone, never on how they were cut into chunks; memory is a few dozen
//! bytes whatever the file says of itself. The check is a walk over the top-level boxes (ISO/IEC 14496-12, 4.2): `ftyp`
//! first and once, one `moov`, some media data in `mdat`, and sizes that end exactly where the file ends.
//! Refuses: to look into boxes. A file with damaged pictures passes, and so does a fragmented file cut between two
//! fragments, or one cut inside a last `mdat` that names no size: only the length that the source announced tells those.

use std::{fmt, mem};

/// `ftyp` lists brands of four bytes; a real one has fewer than ten.
const MAX_FTYP_BYTES: u64 = 4096;
/// Far above the fragments of a clip of minutes; a file of nothing but headers ends here.
const MAX_BOXES: u32 = 100_000;
/// Size and type.
const SHORT_HEADER: usize = 8;
/// Size 1, type, size in 64 bits.
const LONG_HEADER: usize = 16;

/// Why bytes are not a whole MP4. Holds numbers and box types only, so that it may be logged and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAVideo {
    #[error("the body is empty")]
    Empty,
    #[error("the body does not begin like an MP4; it looks like {0}")]
    OtherContent(&'static str),
    #[error("the file ends after {at_bytes} bytes, inside a box")]
    Truncated { at_bytes: u64 },
    #[error("the file has no `{0}` box")]
    Missing(BoxType),
    #[error("the file has a second `{0}` box")]
    Repeated(BoxType),
    #[error("the `{kind}` box at byte {at_bytes} claims the impossible size {size_bytes}")]
    BoxSize { kind: BoxType, at_bytes: u64, size_bytes: u64 },
    #[error("at byte {at_bytes}, where a box should begin, there is something else")]
    NoBox { at_bytes: u64 },
    #[error("the `mdat` boxes hold no media data")]
    NoMediaData,
    #[error("the file has more than {MAX_BOXES} top-level boxes")]
    TooManyBoxes,
}

/// A box's type: four printable ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BoxType([u8; 4]);

impl BoxType {
    pub const FTYP: BoxType = BoxType(*b"ftyp");
    pub const MOOV: BoxType = BoxType(*b"moov");
    pub const MDAT: BoxType = BoxType(*b"mdat");
}

impl fmt::Display for BoxType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for BoxType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where in the file the next byte belongs.
#[derive(Clone, Copy)]
enum Place {
    /// In a box's header, of which this much has been read into `Mp4Check::header`.
    Header { filled: usize },
    /// In a box's body, of which this much is to come.
    Body { remaining: u64 },
    /// In a last box that reaches to the end of the file.
    OpenEnd,
}

/// The walk over one file: [`push`](Self::push) every chunk in order, then ask [`finish`](Self::finish).
pub struct Mp4Check {
    place: Place,
    header: [u8; LONG_HEADER],
    offset_bytes: u64,
    box_start_bytes: u64,
    announced_bytes: u64,
    media_bytes: u64,
    boxes: u32,
    has_ftyp: bool,
    has_moov: bool,
    has_mdat: bool,
    in_mdat: bool,
}

impl Default for Mp4Check {
    fn default() -> Mp4Check {
        Mp4Check {
            place: Place::Header { filled: 0 },
            header: [0; LONG_HEADER],
            offset_bytes: 0,
            box_start_bytes: 0,
            announced_bytes: 0,
            media_bytes: 0,
            boxes: 0,
            has_ftyp: false,
            has_moov: false,
            has_mdat: false,
            in_mdat: false,
        }
    }
}

impl Mp4Check {
    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`NotAVideo`] as soon as no continuation could make it an MP4; what comes after need not be read.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), NotAVideo> {
        while !chunk.is_empty() {
            let taken = match self.place {
                Place::Header { filled } => self.take_header(filled, chunk)?,
                Place::Body { remaining } => self.take_body(remaining, chunk),
                Place::OpenEnd => self.take_body(u64::MAX, chunk),
            };
            chunk = &chunk[taken..];
        }
        Ok(())
    }

    /// The length that the file must reach at least, by the boxes seen so far.
    pub fn announced_bytes(&self) -> u64 {
        self.announced_bytes
    }

    /// The verdict, when the file has no more bytes.
    ///
    /// # Errors
    /// [`NotAVideo`] when the file ends inside a box or lacks one it needs.
    pub fn finish(self) -> Result<(), NotAVideo> {
        match self.place {
            Place::Header { filled: 0 } if self.boxes == 0 => return Err(NotAVideo::Empty),
            // Too short for even one header: say what it looks like rather than that it is cut.
            Place::Header { filled } if self.boxes == 0 => return Err(other_content(&self.header[..filled])),
            Place::Header { filled: 0 } | Place::OpenEnd => {}
            Place::Header { .. } | Place::Body { .. } => {
                return Err(NotAVideo::Truncated { at_bytes: self.offset_bytes });
            }
        }
        match (self.has_moov, self.has_mdat, self.media_bytes) {
            (false, _, _) => Err(NotAVideo::Missing(BoxType::MOOV)),
            (_, false, _) => Err(NotAVideo::Missing(BoxType::MDAT)),
            (_, _, 0) => Err(NotAVideo::NoMediaData),
            _ => Ok(()),
        }
    }

    /// Passes over what `chunk` holds of the present box's body. Returns how many bytes that were.
    fn take_body(&mut self, remaining: u64, chunk: &[u8]) -> usize {
        let taken = chunk.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
        self.offset_bytes += taken as u64;
        if self.in_mdat {
            self.media_bytes += taken as u64;
        }
        if matches!(self.place, Place::Body { .. }) {
            self.expect(remaining - taken as u64);
        }
        taken
    }

    /// Reads on in a header and enters its box when the header is complete. Returns how many bytes it took.
    fn take_header(&mut self, filled: usize, chunk: &[u8]) -> Result<usize, NotAVideo> {
        let wanted = if filled < SHORT_HEADER { SHORT_HEADER } else { LONG_HEADER };
        let taken = chunk.len().min(wanted - filled);
        let filled = filled + taken;
        self.header[filled - taken..filled].copy_from_slice(&chunk[..taken]);
        self.offset_bytes += taken as u64;
        self.place = Place::Header { filled };
        let [s0, s1, s2, s3, _, _, _, _, long_size @ ..] = self.header;
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        match filled {
            SHORT_HEADER => {
                self.admit()?;
                match size {
                    // The size follows in 64 bits.
                    1 => {}
                    // Only of media data may the end stay unsaid, else every cut would go unnoticed.
                    0 if self.in_mdat => self.place = Place::OpenEnd,
                    _ => self.enter(u64::from(size), SHORT_HEADER)?,
                }
            }
            LONG_HEADER => self.enter(u64::from_be_bytes(long_size), LONG_HEADER)?,
            _ => {}
        }
        Ok(taken)
    }

    /// Decides whether a box of the type that has just been read may stand here.
    fn admit(&mut self) -> Result<(), NotAVideo> {
        let kind = self.kind();
        if self.boxes == 0 && kind != BoxType::FTYP {
            return Err(other_content(&self.header[..SHORT_HEADER]));
        }
        if !kind.0.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(NotAVideo::NoBox { at_bytes: self.box_start_bytes });
        }
        let repeated = match kind {
            BoxType::FTYP => mem::replace(&mut self.has_ftyp, true),
            BoxType::MOOV => mem::replace(&mut self.has_moov, true),
            _ => false,
        };
        if repeated {
            return Err(NotAVideo::Repeated(kind));
        }
        self.in_mdat = kind == BoxType::MDAT;
        self.has_mdat |= self.in_mdat;
        self.boxes += 1;
        if self.boxes > MAX_BOXES { Err(NotAVideo::TooManyBoxes) } else { Ok(()) }
    }

    /// Steps into the body of the box that has just been admitted and claims `size_bytes`, header included.
    fn enter(&mut self, size_bytes: u64, header_bytes: usize) -> Result<(), NotAVideo> {
        let kind = self.kind();
        let possible = match kind {
            // A brand and its version, then more brands.
            BoxType::FTYP => header_bytes as u64 + 8..=MAX_FTYP_BYTES,
            BoxType::MOOV => header_bytes as u64 + 8..=u64::MAX,
            _ => header_bytes as u64..=u64::MAX,
        };
        match self.box_start_bytes.checked_add(size_bytes) {
            Some(end) if possible.contains(&size_bytes) => {
                self.announced_bytes = end;
                self.expect(size_bytes - header_bytes as u64);
                Ok(())
            }
            _ => Err(NotAVideo::BoxSize { kind, at_bytes: self.box_start_bytes, size_bytes }),
        }
    }

    /// The present box has `remaining` more bytes; after them the next box begins.
    fn expect(&mut self, remaining: u64) {
        if remaining > 0 {
            self.place = Place::Body { remaining };
        } else {
            self.place = Place::Header { filled: 0 };
            self.box_start_bytes = self.offset_bytes;
        }
    }

    fn kind(&self) -> BoxType {
        let [_, _, _, _, a, b, c, d, ..] = self.header;
        BoxType([a, b, c, d])
    }
}

/// Names what providers and proxies answer in place of a video.
fn other_content(start: &[u8]) -> NotAVideo {
    NotAVideo::OtherContent(match start.trim_ascii_start().first() {
        Some(b'<') => "a web page (HTML or XML)",
        Some(b'{' | b'[') => "JSON",
        _ if start.starts_with(&[0x1A, 0x45, 0xDF, 0xA3]) => "WebM",
        _ if start.starts_with(b"RIFF") => "WebP or AVI",
        _ if start.starts_with(&[0xFF, 0xD8, 0xFF]) || start.starts_with(b"\x89PNG") => "an image",
        _ => "something else",
    })
}

#[cfg(test)]
mod tests {
    use super::{BoxType, Mp4Check, NotAVideo};
    use crate::storage::tests::{atom, clip, long_atom};

    fn verdict(chunks: &[&[u8]]) -> Result<(), NotAVideo> {
        let mut check = Mp4Check::default();
        for chunk in chunks {
            check.push(chunk)?;
        }
        check.finish()
    }

    fn ftyp() -> Vec<u8> {
        atom(b"ftyp", b"isom\0\0\x02\0isomiso2")
    }

    /// Files with their verdicts: one for each way to be a video or not.
    fn cases() -> Vec<(Vec<u8>, Result<(), NotAVideo>)> {
        let (moov, mdat) = (atom(b"moov", &[1; 20]), atom(b"mdat", b"pictures"));
        let open_mdat = [b"\0\0\0\0mdat".as_slice(), b"pictures"].concat();
        let sized = |size: u32, kind: &[u8; 4]| [size.to_be_bytes(), *kind].concat();
        let wide = |size: u64| [b"\0\0\0\x01mdat".as_slice(), &size.to_be_bytes()].concat();
        let at = ftyp().len() as u64;
        let mdat_size = |size_bytes| Err(NotAVideo::BoxSize { kind: BoxType::MDAT, at_bytes: at, size_bytes });
        vec![
            (clip(8), Ok(())),
            ([ftyp(), mdat.clone(), moov.clone()].concat(), Ok(())),
            ([ftyp(), atom(b"free", b""), moov.clone(), mdat.clone(), atom(b"uuid", &[7; 16])].concat(), Ok(())),
            ([ftyp(), moov.clone(), long_atom(b"mdat", b"pictures")].concat(), Ok(())),
            ([ftyp(), long_atom(b"moov", &[1; 20]), mdat.clone(), mdat.clone()].concat(), Ok(())),
            ([ftyp(), moov.clone(), open_mdat].concat(), Ok(())),
            (vec![], Err(NotAVideo::Empty)),
            (b"<!DOCTYPE html><html></html>".to_vec(), Err(NotAVideo::OtherContent("a web page (HTML or XML)"))),
            (b" {\"error\": {}}".to_vec(), Err(NotAVideo::OtherContent("JSON"))),
            (b"<b>".to_vec(), Err(NotAVideo::OtherContent("a web page (HTML or XML)"))),
            (vec![0; 64], Err(NotAVideo::OtherContent("something else"))),
            ([moov.clone(), ftyp(), mdat.clone()].concat(), Err(NotAVideo::OtherContent("something else"))),
            ([ftyp(), mdat.clone()].concat(), Err(NotAVideo::Missing(BoxType::MOOV))),
            ([ftyp(), moov.clone()].concat(), Err(NotAVideo::Missing(BoxType::MDAT))),
            ([ftyp(), moov.clone(), atom(b"mdat", b"")].concat(), Err(NotAVideo::NoMediaData)),
            ([ftyp(), moov.clone(), mdat.clone(), moov.clone()].concat(), Err(NotAVideo::Repeated(BoxType::MOOV))),
            ([ftyp(), ftyp(), moov.clone(), mdat.clone()].concat(), Err(NotAVideo::Repeated(BoxType::FTYP))),
            ([ftyp(), moov, mdat, vec![0; 8]].concat(), Err(NotAVideo::NoBox { at_bytes: at + 28 + 16 })),
            ([ftyp(), sized(2, b"mdat")].concat(), mdat_size(2)),
            ([ftyp(), sized(7, b"mdat")].concat(), mdat_size(7)),
            ([ftyp(), wide(15)].concat(), mdat_size(15)),
            ([ftyp(), wide(0)].concat(), mdat_size(0)),
            ([ftyp(), wide(u64::MAX)].concat(), mdat_size(u64::MAX)),
            ([ftyp(), sized(0, b"moov")].concat(), Err(size_of_box(*b"moov", at, 0))),
            ([ftyp(), atom(b"moov", b"")].concat(), Err(size_of_box(*b"moov", at, 8))),
            (sized(4097, b"ftyp"), Err(size_of_box(*b"ftyp", 0, 4097))),
            (atom(b"ftyp", b"isom"), Err(size_of_box(*b"ftyp", 0, 12))),
        ]
    }

    fn size_of_box(kind: [u8; 4], at_bytes: u64, size_bytes: u64) -> NotAVideo {
        NotAVideo::BoxSize { kind: BoxType(kind), at_bytes, size_bytes }
    }

    #[test]
    fn each_way_to_be_a_video_or_not_has_its_verdict() {
        for (number, (file, expected)) in cases().into_iter().enumerate() {
            assert_eq!(verdict(&[&file]), expected, "case {number}");
        }
    }

    #[test]
    fn the_verdict_does_not_depend_on_how_the_file_was_cut_into_chunks() {
        for (number, (file, expected)) in cases().into_iter().enumerate() {
            for cut in 0..=file.len() {
                assert_eq!(verdict(&[&file[..cut], b"", &file[cut..]]), expected, "case {number} cut at {cut}");
            }
            let single_bytes: Vec<&[u8]> = file.chunks(1).collect();
            assert_eq!(verdict(&single_bytes), expected, "case {number} byte by byte");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_no_video() {
        let file = clip(8);
        for length in 0..file.len() {
            assert!(verdict(&[&file[..length]]).is_err(), "length {length}");
        }
        let open = [b"\0\0\0\0mdat".as_slice(), b""].concat();
        assert_eq!(verdict(&[&ftyp(), &atom(b"moov", &[1; 20]), &open]), Err(NotAVideo::NoMediaData));
    }

    #[test]
    fn a_file_of_headers_only_ends_at_the_limit() {
        let mut check = Mp4Check::default();
        check.push(&ftyp()).unwrap();
        let headers = atom(b"free", b"").repeat(200_000);
        assert_eq!(check.push(&headers), Err(NotAVideo::TooManyBoxes));
    }

    #[test]
    fn a_box_announces_the_length_of_the_file_before_its_body_arrives() {
        let mut check = Mp4Check::default();
        check.push(&ftyp()).unwrap();
        check.push(&[b"\0\0\0\x01mdat".as_slice(), &(1u64 << 40).to_be_bytes()].concat()).unwrap();
        assert_eq!(check.announced_bytes(), ftyp().len() as u64 + (1 << 40));
    }
}
