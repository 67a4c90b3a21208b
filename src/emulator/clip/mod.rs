//! Real, playable clips made on the spot: the prompt as a title card, a bouncing ball, a clock.
//!
//! H.264 Constrained Baseline in MP4, written without any codec library: lossless, few bytes for flat pictures, a few
//! milliseconds per clip. The same arguments always give the same bytes. Any text is accepted: it is only ever drawn, and
//! characters without a glyph become boxes. There is no sound and no claim to be small for anything but flat pictures.

mod frame;
mod h264;
mod mp4;
mod painter;
mod still;

use frame::Frame;
use painter::TitleCard;

/// Pictures per second.
const FPS: u32 = 12;
/// Sides beyond this would leave the H.264 level that the stream declares.
const MAX_SIDE: u32 = 1280;
const MIN_SIDE: u32 = 64;
const MAX_SECONDS: u32 = 60;

/// A clip as MP4 bytes. Sides are in pixels, made even and kept within 64 to 1280; the length is kept within 1 to 60 s.
pub fn title_card(prompt: &str, width: u32, height: u32, seconds: u32) -> Vec<u8> {
    let (width, height) = (side(width), side(height));
    let frames = seconds.clamp(1, MAX_SECONDS) * FPS;
    let card = TitleCard::new(prompt, width, height, frames, FPS);
    let mut encoder = h264::Encoder::new(width, height, FPS);
    let mut movie = mp4::Movie::new(width, height, FPS);
    let mut frame = Frame::new(width, height);
    for number in 0..frames {
        card.paint(number, &mut frame);
        movie.push(&encoder.encode(&frame));
    }
    movie.finish(&encoder.sps(), &encoder.pps())
}

/// A still as WebP bytes, in the colour of the prompt's title card; sides as for [`title_card`].
pub fn still(prompt: &str, width: u32, height: u32) -> Vec<u8> {
    still::webp(side(width), side(height), painter::background_rgb(prompt))
}

fn side(pixels: u32) -> usize {
    (pixels.clamp(MIN_SIDE, MAX_SIDE) & !1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boxes of an MP4 file in order, as (kind, size); panics when sizes do not add up.
    fn boxes(bytes: &[u8]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            found.push((String::from_utf8(rest[4..8].to_vec()).unwrap(), size));
            rest = &rest[size..];
        }
        found
    }

    #[test]
    fn a_clip_is_a_whole_mp4_file_and_always_the_same() {
        let clip = title_card("a red fox in the snow", 640, 360, 3);
        let kinds: Vec<String> = boxes(&clip).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["ftyp", "moov", "mdat"]);
        assert!(clip.len() > 20_000 && clip.len() < 400_000, "{} bytes", clip.len());
        assert_eq!(clip, title_card("a red fox in the snow", 640, 360, 3));
        assert_ne!(clip, title_card("a blue heron", 640, 360, 3));
    }

    #[test]
    fn the_chunk_offset_points_at_the_first_picture() {
        let clip = title_card("fox", 360, 640, 1);
        let at = clip.windows(4).position(|window| window == b"stco").unwrap() + 12;
        let offset = u32::from_be_bytes(clip[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(&clip[offset - 4..offset], b"mdat");
        assert_eq!(clip[offset + 4], 0x65, "an IDR slice comes first");
    }

    #[test]
    fn hostile_prompts_and_odd_sizes_are_painted_too() {
        let hostile = [
            String::new(),
            "\u{0}\u{1b}[31m\u{202e}drow\u{feff}\u{200d}👩‍👩‍👧‍👦\u{10ffff}".to_owned(),
            "x".repeat(32_000),
            "<script>alert(1)</script>'; drop table videos; --".to_owned(),
            "\n\t ".repeat(500),
            "日本語のプロンプト ".repeat(300),
        ];
        for prompt in &hostile {
            for (width, height) in [(640, 360), (360, 640), (0, 0), (65, 1279), (u32::MAX, 64)] {
                let clip = title_card(prompt, width, height, 1);
                assert_eq!(boxes(&clip).len(), 3, "{prompt:.20} {width}x{height}");
            }
        }
    }

    #[test]
    fn a_still_is_a_riff_file_of_the_length_it_declares() {
        let still = still("fox", 640, 360);
        assert_eq!((&still[..4], &still[8..16]), (&b"RIFF"[..], &b"WEBPVP8L"[..]));
        assert_eq!(u32::from_le_bytes(still[4..8].try_into().unwrap()) as usize, still.len() - 8);
    }
}
