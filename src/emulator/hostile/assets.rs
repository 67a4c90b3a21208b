//! The finished file: bodies that are no film, that never end, or that are one although nothing says so.

use std::time::Duration;

use bytes::Bytes;

use super::super::clip;
use super::raw::{Script, Step, answer, chunk, gzip_bomb, head};
use super::words;

const TEN_GIGABYTES: u64 = 10_000_000_000;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";
const MP4: &str = "content-type: video/mp4\r\n";
/// Boxes within boxes.
const DEEP: usize = 10_000;
/// Boxes beside each other.
const MANY: usize = 200_000;

words! {
    /// What is wrong with the file.
    pub enum Asset {
        Empty = "no bytes",
        Short = "a body that breaks off",
        Cut = "half of the film, as if it were all",
        Html = "a web page",
        Png = "a picture",
        HeaderOnly = "the header of an MP4 alone",
        BoxOfNothing = "a box of 0 bytes in the middle",
        BoxOfOne = "a box of 1 byte",
        BoxOfAll = "a box of 2^63 bytes",
        /// The film, with a `moov` that holds thousands of boxes within boxes.
        DeepBoxes = "boxes ten thousand levels deep",
        ManyBoxes = "two hundred thousand boxes",
        TwoHeads = "two moov boxes",
        Trailing = "garbage behind the film",
        Announced = "ten gigabytes announced",
        Streamed = "ten gigabytes streamed",
        Dripped = "a byte a second",
        Stalled = "silence after one half",
        GzipBomb = "a gzip bomb",
        WrongType = "the film, called a web page",
        /// A whole film, but another one.
        Another = "the film of another video",
        Partial = "206 to a request for all of it",
        Multipart = "multipart/x-mixed-replace",
    }
}

impl Asset {
    /// `film` is the honest file.
    pub(super) fn script(self, film: &Bytes, prompt: &str) -> Script {
        let body = |bytes: Vec<u8>| answer(200, MP4, bytes);
        let length = |bytes: u64| head(200, &format!("{MP4}content-length: {bytes}\r\n"));
        let half = film.slice(..film.len() / 2);
        let (ftyp, rest) = (head_of(film), &film[head_of(film).len()..]);
        match self {
            Asset::Empty => body(Vec::new()),
            Asset::Short => vec![length(film.len() as u64), Step::Send(half)],
            Asset::Cut => answer(200, MP4, half),
            Asset::Html => answer(200, MP4, "<!doctype html><html><script>alert(1)</script></html>"),
            Asset::Png => answer(200, "content-type: image/png\r\n", PNG),
            Asset::HeaderOnly => body(ftyp.to_vec()),
            Asset::BoxOfNothing => body([ftyp, b"\0\0\0\0moov", rest].concat()),
            Asset::BoxOfOne => body([ftyp, b"\0\0\0\x01free\0\0\0\0\0\0\0\x01", rest].concat()),
            Asset::BoxOfAll => body([ftyp, b"\0\0\0\x01mdat\x80\0\0\0\0\0\0\0", rest].concat()),
            Asset::DeepBoxes => body([ftyp, &boxes_within_boxes(), &atom(b"mdat", b"pictures")].concat()),
            Asset::ManyBoxes => body([ftyp, &atom(b"free", b"").repeat(MANY), rest].concat()),
            Asset::TwoHeads => body([ftyp, &atom(b"moov", &[0; 16]), rest].concat()),
            Asset::Trailing => body([film, &b"\0\0\0\0\0\0\0\0 and so on"[..]].concat()),
            Asset::Announced => {
                let begin = [ftyp, &atom(b"moov", &[0; 16]), b"\0\0\0\x01mdat", &TEN_GIGABYTES.to_be_bytes()].concat();
                vec![length(TEN_GIGABYTES), Step::Send(begin.into()), zeros(TEN_GIGABYTES)]
            }
            Asset::Streamed => {
                let begin = [ftyp, &atom(b"moov", &[0; 16]), b"\0\0\0\0mdat"].concat();
                let chunked = head(200, &format!("{MP4}transfer-encoding: chunked\r\n"));
                let piece = chunk(&[0; 64 << 10]);
                vec![chunked, Step::Send(chunk(&begin)), Step::Pour { piece, bytes: TEN_GIGABYTES }]
            }
            Asset::Dripped => {
                vec![length(film.len() as u64), Step::Drip { bytes: film.clone(), pause: Duration::from_secs(1) }]
            }
            Asset::Stalled => vec![length(film.len() as u64), Step::Send(half), Step::Hold],
            Asset::GzipBomb => answer(200, &format!("{MP4}content-encoding: gzip\r\n"), gzip_bomb()),
            Asset::WrongType => answer(200, "content-type: text/html; charset=utf-7\r\n", film.clone()),
            Asset::Another => body(clip::title_card(&format!("Not {}", prompt.len()), 320, 180, 1)),
            Asset::Partial => {
                let range = format!("{MP4}content-range: bytes 0-{}/{}\r\n", film.len() - 1, film.len());
                answer(206, &range, film.clone())
            }
            Asset::Multipart => {
                let parts = [b"--x\r\ncontent-type: video/mp4\r\n\r\n", &film[..], b"\r\n--x--\r\n"].concat();
                answer(200, "content-type: multipart/x-mixed-replace; boundary=x\r\n", parts)
            }
        }
    }
}

fn zeros(bytes: u64) -> Step {
    Step::Pour { piece: Bytes::from_static(&[0; 64 << 10]), bytes }
}

/// The first box.
fn head_of(film: &Bytes) -> &[u8] {
    let size = film.first_chunk::<4>().map_or(0, |size| u32::from_be_bytes(*size) as usize);
    film.get(..size).unwrap_or_default()
}

fn atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len() + 8).unwrap_or(u32::MAX).to_be_bytes(), &kind[..], body].concat()
}

fn boxes_within_boxes() -> Vec<u8> {
    (0..DEEP)
        .rev()
        .flat_map(|level| {
            let size = u32::try_from((level + 1) * 8).unwrap_or(u32::MAX).to_be_bytes();
            let kind = if level + 1 == DEEP { *b"moov" } else { *b"trak" };
            size.into_iter().chain(kind)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_within_boxes_end_together() {
        let boxes = boxes_within_boxes();
        assert_eq!(boxes.len(), DEEP * 8);
        assert_eq!((&boxes[..4], &boxes[4..8]), (&(DEEP as u32 * 8).to_be_bytes()[..], &b"moov"[..]));
        assert_eq!(&boxes[boxes.len() - 8..], b"\0\0\0\x08trak");
    }
}
