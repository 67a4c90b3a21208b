//! Lets JSON through while it arrives, within bounds, and keeps long texts out of memory.
//!
//! Some providers put the finished film into the answer of a poll, as base64. [`Sieve`] keeps the answer and puts a short
//! mark in place of every long text, so that a worker with thousands of polls under way holds none of them; with
//! [`Sieve::capturing`] it gives out the bytes of one such text as they arrive.
//! Always holds: what is kept is at most [`JsonBounds::bytes`], nested at most [`JsonBounds::depth`] deep, of at most
//! [`JsonBounds::values`] values. Refuses: to judge whether it is JSON; the parser behind it does.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// How much of an answer is taken.
#[derive(Clone, Copy, Debug)]
pub(in crate::providers) struct JsonBounds {
    /// What is kept, in bytes.
    pub bytes: usize,
    /// What may arrive, long texts included.
    pub raw_bytes: u64,
    pub depth: usize,
    /// Elements of lists and objects together.
    pub values: usize,
    /// A longer text is not kept (see [`Sieve`]), in bytes.
    pub longest_text: usize,
}

impl JsonBounds {
    /// A job, or the answer to a create. A prompt of 32,000 characters may come back escaped, six bytes each.
    pub(in crate::providers) const JOB: JsonBounds =
        JsonBounds { bytes: 1 << 20, raw_bytes: 1 << 20, depth: 64, values: 10_000, longest_text: 1 << 20 };
    /// A page of jobs.
    pub(in crate::providers) const LIST: JsonBounds =
        JsonBounds { bytes: 32 << 20, raw_bytes: 32 << 20, depth: 64, values: 50_000, longest_text: 1 << 20 };
    /// A job that may carry its film with it, as base64: 192 MiB of it.
    pub(in crate::providers) const WITH_FILE: JsonBounds =
        JsonBounds { bytes: 1 << 20, raw_bytes: 256 << 20, depth: 64, values: 10_000, longest_text: 8 << 10 };

    pub(super) fn carries_file(&self) -> bool {
        self.raw_bytes > self.bytes as u64
    }
}

/// What stands in place of a long text; a real text does not begin with a zero character.
const MARK: &str = "\u{0}inline ";

/// Which bound an answer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::providers) enum TooMuch {
    #[error("an answer of too many bytes")]
    Bytes,
    #[error("an answer that is nested too deep")]
    Depth,
    #[error("an answer of too many values")]
    Values,
}

pub(in crate::providers) struct Sieve {
    bounds: JsonBounds,
    kept: Vec<u8>,
    raw_bytes: u64,
    depth: usize,
    values: usize,
    /// Where in `kept` the text began that is being read.
    text_at: Option<usize>,
    escaped: bool,
    /// The text being read is a long one.
    long: bool,
    long_texts: usize,
    capture: Option<usize>,
    captured: Vec<u8>,
}

impl Sieve {
    pub(in crate::providers) fn new(bounds: JsonBounds) -> Sieve {
        Sieve {
            bounds,
            kept: Vec::new(),
            raw_bytes: 0,
            depth: 0,
            values: 0,
            text_at: None,
            escaped: false,
            long: false,
            long_texts: 0,
            capture: None,
            captured: Vec::new(),
        }
    }

    /// Gives out the long text number `nth`, counted from 0, through [`Sieve::take_captured`].
    pub(in crate::providers) fn capturing(bounds: JsonBounds, nth: usize) -> Sieve {
        Sieve { capture: Some(nth), ..Sieve::new(bounds) }
    }

    /// # Errors
    /// The bound that this piece breaks; nothing more should be fed.
    pub(in crate::providers) fn feed(&mut self, piece: &[u8]) -> Result<(), TooMuch> {
        self.raw_bytes += piece.len() as u64;
        if self.raw_bytes > self.bounds.raw_bytes {
            return Err(TooMuch::Bytes);
        }
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.long && !self.escaped && self.capture != Some(self.long_texts) {
                // nothing of it is wanted
                let skipped = plain_bytes(rest);
                if skipped > 0 {
                    rest = &rest[skipped..];
                    continue;
                }
            }
            match self.text_at {
                Some(start) => self.inside_text(byte, start),
                None => self.outside_text(byte)?,
            }
            rest = behind;
        }
        if self.kept.len() > self.bounds.bytes { Err(TooMuch::Bytes) } else { Ok(()) }
    }

    fn inside_text(&mut self, byte: u8, start: usize) {
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        if ends {
            if self.long {
                self.kept.truncate(start);
                self.kept.extend_from_slice(mark(self.long_texts, "\\u0000").as_bytes());
                self.long_texts += 1;
                self.long = false;
            }
            self.kept.push(byte);
            self.text_at = None;
            return;
        }
        if !self.long && self.kept.len() - start >= self.bounds.longest_text {
            self.long = true;
            if self.capture == Some(self.long_texts) {
                self.captured.extend_from_slice(&self.kept[start..]);
            }
        }
        match self.long {
            false => self.kept.push(byte),
            true if self.capture == Some(self.long_texts) => self.captured.push(byte),
            true => {}
        }
    }

    fn outside_text(&mut self, byte: u8) -> Result<(), TooMuch> {
        match byte {
            b'"' => self.text_at = Some(self.kept.len() + 1),
            b'[' | b'{' => {
                self.depth += 1;
                self.values += 1;
            }
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b',' => self.values += 1,
            _ => {}
        }
        self.kept.push(byte);
        if self.depth > self.bounds.depth {
            return Err(TooMuch::Depth);
        }
        if self.values > self.bounds.values { Err(TooMuch::Values) } else { Ok(()) }
    }

    pub(in crate::providers) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// What has arrived of the text since the last call, as it stands in the JSON.
    pub(in crate::providers) fn take_captured(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.captured)
    }
}

/// How many bytes come before the next quote or backslash. A hostile server pours hundreds of megabytes through here, so
/// that most of them are looked at in blocks, by the standard library's search for one byte.
fn plain_bytes(text: &[u8]) -> usize {
    const BLOCK: usize = 1024;
    let plain = |block: &&[u8]| !block.contains(&b'"') && !block.contains(&b'\\');
    let blocks: usize = text.chunks(BLOCK).take_while(plain).map(<[u8]>::len).sum();
    let rest = &text[blocks..];
    blocks + rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len())
}

fn mark(number: usize, zero: &str) -> String {
    format!("{}{number}", MARK.replace('\u{0}', zero))
}

/// The number of the long text that `text` stands for.
pub(in crate::providers) fn inline_number(text: &str) -> Option<usize> {
    text.strip_prefix(MARK)?.parse().ok()
}

/// Standard or URL-safe, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes base64 that arrives in pieces, as it stands inside of a JSON text: escapes included.
#[derive(Default)]
pub(in crate::providers) struct InlineBytes {
    waiting: Vec<u8>,
    /// A backslash, and the digits behind `\u`.
    escape: Vec<u8>,
}

impl InlineBytes {
    /// # Errors
    /// It is no base64.
    pub(in crate::providers) fn feed(&mut self, piece: &[u8]) -> Result<Vec<u8>, String> {
        for &byte in piece {
            if let Some(byte) = self.unescaped(byte)? {
                match byte {
                    b'-' => self.waiting.push(b'+'),
                    b'_' => self.waiting.push(b'/'),
                    b'=' | b'\n' | b'\r' | b' ' => {}
                    other => self.waiting.push(other),
                }
            }
        }
        let whole = self.waiting.len() - self.waiting.len() % 4;
        let rest = self.waiting.split_off(whole);
        decode(&std::mem::replace(&mut self.waiting, rest))
    }

    /// The last bytes.
    ///
    /// # Errors
    /// It is no base64.
    pub(in crate::providers) fn finish(self) -> Result<Vec<u8>, String> {
        decode(&self.waiting)
    }

    fn unescaped(&mut self, byte: u8) -> Result<Option<u8>, String> {
        match (self.escape.len(), byte) {
            (0, b'\\') => self.escape.push(byte),
            (0, byte) => return Ok(Some(byte)),
            (1, b'u') => self.escape.push(byte),
            (1, other) => {
                self.escape.clear();
                return Ok(Some(if matches!(other, b'n' | b'r') { b'\n' } else { other }));
            }
            (2..=4, digit) => self.escape.push(digit),
            (_, digit) => {
                self.escape.push(digit);
                let digits = std::str::from_utf8(&self.escape[2..]).ok();
                let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                self.escape.clear();
                return code.map(Some).ok_or_else(|| "a file that is no base64".to_owned());
            }
        }
        Ok(None)
    }
}

fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|_| "a file that is no base64".to_owned())
}

/// A whole text of base64.
///
/// # Errors
/// It is no base64.
pub(in crate::providers) fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = InlineBytes::default();
    let mut file = bytes.feed(text.as_bytes())?;
    file.extend(bytes.finish()?);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SMALL: JsonBounds = JsonBounds { bytes: 400, raw_bytes: 100_000, depth: 8, values: 20, longest_text: 64 };

    fn sieved(text: &str, piece: usize) -> Result<Value, TooMuch> {
        let mut sieve = Sieve::new(SMALL);
        text.as_bytes().chunks(piece).try_for_each(|piece| sieve.feed(piece))?;
        Ok(serde_json::from_slice(sieve.kept()).unwrap())
    }

    #[test]
    fn long_texts_are_marked_and_everything_else_stays_however_it_is_cut() {
        let film = "A".repeat(1000);
        let answer = json!({"a": "\"\\{[", "film": film, "b": [1, "x"], "next": film, "done": true});
        for piece in [1, 3, 7, 64, 5000] {
            let kept = sieved(&answer.to_string(), piece).unwrap();
            assert_eq!((&kept["a"], &kept["b"], &kept["done"]), (&answer["a"], &answer["b"], &json!(true)));
            assert_eq!(inline_number(kept["film"].as_str().unwrap()), Some(0), "{kept}");
            assert_eq!(inline_number(kept["next"].as_str().unwrap()), Some(1));
        }
        assert_eq!(inline_number("plain"), None);
        for at in [0, 1, 1023, 1024, 1025, 5000] {
            for end in [b'"', b'\\'] {
                let mut text = vec![b'A'; 6000];
                text[at] = end;
                assert_eq!(plain_bytes(&text), at);
            }
        }
        assert_eq!((plain_bytes(&[b'A'; 3000]), plain_bytes(b"")), (3000, 0));
    }

    #[test]
    fn a_captured_text_comes_out_whole_whatever_its_spelling() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1001).collect();
        let standard = BASE64.encode(&bytes);
        let spellings = [
            standard.clone(),
            standard.replace('/', "\\/").replace('+', "\\u002b").replace('=', "\\u003d"),
            standard.replace('/', "_").replace('+', "-").replace('=', ""),
        ];
        for spelling in spellings {
            let text = format!("{{\"first\": \"{}\", \"film\": \"{spelling}\", \"x\": 1}}", "B".repeat(70));
            for piece in [1, 5, 100, 9000] {
                let mut sieve = Sieve::capturing(SMALL, 1);
                let (mut film, mut decoder) = (Vec::new(), InlineBytes::default());
                for piece in text.as_bytes().chunks(piece) {
                    sieve.feed(piece).unwrap();
                    film.extend(decoder.feed(&sieve.take_captured()).unwrap());
                }
                film.extend(decoder.finish().unwrap());
                assert_eq!(film, bytes);
            }
        }
        assert!(decoded("no base64!").is_err());
        assert_eq!(decoded("aGVsbG8").unwrap(), b"hello");
    }

    #[test]
    fn every_bound_holds() {
        assert_eq!(sieved(&"[".repeat(100_000), 1000).unwrap_err(), TooMuch::Depth);
        assert_eq!(sieved(&format!("[{}0]", "0,".repeat(30)), 10).unwrap_err(), TooMuch::Values);
        assert_eq!(sieved(&format!("[{}]", " ".repeat(1000)), 10).unwrap_err(), TooMuch::Bytes);
        assert_eq!(sieved(&format!("[\"{}", "x".repeat(200_000)), 1000).unwrap_err(), TooMuch::Bytes);
    }
}
