//! Paints the title card: the prompt on a colour of its own, a bouncing ball to see motion, a bar and a clock to see time.
//!
//! Glyphs come from an 8x8 bitmap font: Latin, Greek and Hiragana; every other character becomes a box.

use font8x8::UnicodeFonts;

use super::frame::{Colour, Frame};

const MARGIN: usize = 16;
const GLYPH: usize = 8;
const TITLE: &str = "EMULATED VIDEO";
const TITLE_HEIGHT: usize = 32;
/// Kept free below the prompt for ball, bar and clock.
const FLOOR_HEIGHT: usize = 96;
const BACKGROUND_LUMA: u8 = 48;
const TITLE_BAR_LUMA: u8 = 70;
const BALL: Colour = (210, 60, 160);
const BALL_SIDE: usize = 24;
const BAR: Colour = (180, 128, 128);
const UNKNOWN_GLYPH: [u8; GLYPH] = [0x7e, 0x42, 0x42, 0x42, 0x42, 0x42, 0x7e, 0];

/// What stays the same in every picture of a clip, and how the rest moves.
pub(super) struct TitleCard {
    base: Frame,
    width: usize,
    height: usize,
    frames: u32,
    fps: u32,
}

impl TitleCard {
    pub(super) fn new(prompt: &str, width: usize, height: usize, frames: u32, fps: u32) -> Self {
        let background = background(prompt);
        let mut base = Frame::new(width, height);
        base.fill(0, 0, (width, height), background);
        base.fill(0, 0, (width, TITLE_HEIGHT), (TITLE_BAR_LUMA, background.1, background.2));
        draw_text(&mut base, (MARGIN, 8), 2, TITLE, 220);
        let scale = if width >= 320 { 2 } else { 1 };
        let columns = width.saturating_sub(2 * MARGIN) / (GLYPH * scale);
        let line_height = 2 * GLYPH * scale;
        let lines = height.saturating_sub(TITLE_HEIGHT + MARGIN + FLOOR_HEIGHT) / line_height;
        for (number, line) in wrap(prompt, columns.max(1), lines.max(1)).iter().enumerate() {
            draw_text(&mut base, (MARGIN, TITLE_HEIGHT + MARGIN + number * line_height), scale, line, 235);
        }
        TitleCard { base, width, height, frames, fps }
    }

    /// Paints picture `number` (from 0) over whatever `frame`, of the card's size, holds.
    pub(super) fn paint(&self, number: u32, frame: &mut Frame) {
        frame.copy_from(&self.base);
        self.paint_ball(number as usize, frame);
        let bar = self.width * (number as usize + 1) / self.frames.max(1) as usize;
        frame.fill(0, self.height.saturating_sub(20), (bar, 8), BAR);
        let tenths = number * 10 / self.fps;
        let clock = format!("{:>3}.{} s", tenths / 10, tenths % 10);
        draw_text(frame, (self.width.saturating_sub(72), self.height.saturating_sub(36)), 1, &clock, 200);
    }

    fn paint_ball(&self, number: usize, frame: &mut Frame) {
        let span = self.width.saturating_sub(2 * BALL_SIDE).max(1);
        let way = number * 6 % (2 * span);
        let left = if way < span { way } else { 2 * span - way };
        let beat = number % 24;
        let top = self.height.saturating_sub(64 + beat * (24 - beat) / 4);
        let middle = BALL_SIDE as i32 / 2;
        for y in 0..BALL_SIDE {
            for x in 0..BALL_SIDE {
                if (x as i32 - middle).pow(2) + (y as i32 - middle).pow(2) <= 140 {
                    frame.fill(left + x, top + y, (1, 1), BALL);
                }
            }
        }
    }
}

/// The background of this prompt's card: dark, tinted by the text.
fn background(prompt: &str) -> Colour {
    let mixed = prompt.bytes().fold(7u32, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(byte.into()));
    (BACKGROUND_LUMA, 96 + (mixed % 64) as u8, 96 + (mixed / 64 % 64) as u8)
}

/// The same as red, green and blue (BT.709, limited range).
pub(super) fn background_rgb(prompt: &str) -> [u8; 3] {
    let (luma, blue, red) = background(prompt);
    let (luma, blue, red) = (1.164 * (f32::from(luma) - 16.0), f32::from(blue) - 128.0, f32::from(red) - 128.0);
    let channels = [luma + 1.793 * red, luma - 0.213 * blue - 0.533 * red, luma + 2.112 * blue];
    channels.map(|channel| channel.clamp(0.0, 255.0) as u8)
}

fn draw_text(frame: &mut Frame, (left, top): (usize, usize), scale: usize, text: &str, luma: u8) {
    for (number, character) in text.chars().enumerate() {
        for (row, pattern) in glyph(character).iter().enumerate() {
            for column in (0..GLYPH).filter(|column| pattern >> column & 1 == 1) {
                frame.fill_luma(left + (number * GLYPH + column) * scale, top + row * scale, scale, luma);
            }
        }
    }
}

fn glyph(character: char) -> [u8; GLYPH] {
    let plain = match character {
        '\u{2010}'..='\u{2015}' => '-',
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201c}' | '\u{201d}' => '"',
        '\u{2026}' => '.',
        other => other,
    };
    let known = font8x8::BASIC_FONTS.get(plain).or_else(|| font8x8::LATIN_FONTS.get(plain));
    let known = known.or_else(|| font8x8::GREEK_FONTS.get(plain)).or_else(|| font8x8::HIRAGANA_FONTS.get(plain));
    known.unwrap_or(UNKNOWN_GLYPH)
}

/// Breaks text at white space into lines of at most `columns` characters, and longer words anywhere. What does not fit into
/// `max_lines` is cut off with dots.
fn wrap(text: &str, columns: usize, max_lines: usize) -> Vec<String> {
    let room = columns * (max_lines + 1);
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        if length > 0 && length + 1 + word.chars().take(room).count() > columns {
            lines.push(String::new());
            length = 0;
        } else if length > 0 {
            push(&mut lines, ' ');
            length += 1;
        }
        for character in word.chars().take(room) {
            if length == columns {
                lines.push(String::new());
                length = 0;
            }
            push(&mut lines, character);
            length += 1;
        }
        if lines.len() > max_lines {
            break;
        }
    }
    if lines.len() > max_lines {
        lines.truncate(max_lines);
        let dots = columns.min(3);
        if let Some(last) = lines.last_mut() {
            let kept = last.chars().take(columns - dots).collect::<String>();
            *last = kept + &".".repeat(dots);
        }
    }
    lines
}

fn push(lines: &mut [String], character: char) {
    if let Some(line) = lines.last_mut() {
        line.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_words_and_breaks_longer_ones() {
        assert_eq!(wrap("a red fox runs", 7, 9), ["a red", "fox", "runs"]);
        assert_eq!(wrap("abcdefghij kl", 4, 9), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("", 4, 9), [""]);
        assert_eq!(wrap(" \n ", 4, 9), [""]);
    }

    #[test]
    fn what_does_not_fit_ends_in_dots() {
        assert_eq!(wrap("one two three four", 5, 2), ["one", "tw..."]);
        assert_eq!(wrap(&"x".repeat(100_000), 5, 2), ["xxxxx", "xx..."]);
        for columns in 1..9 {
            let lines = wrap("日本 👩‍👩‍👧 long-word-here and more", columns, 3);
            assert!(
                lines.len() <= 3 && lines.iter().all(|line| line.chars().count() <= columns),
                "{columns}: {lines:?}"
            );
        }
    }

    #[test]
    fn unknown_characters_become_boxes() {
        assert_eq!(glyph('日'), UNKNOWN_GLYPH);
        assert_eq!(glyph('\u{10ffff}'), UNKNOWN_GLYPH);
        assert_eq!(glyph('’'), glyph('\''));
        assert_ne!(glyph('ü'), UNKNOWN_GLYPH);
    }
}
