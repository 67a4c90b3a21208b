//! A picture of one colour as lossless WebP ("VP8L"), for the thumbnail and spritesheet variants.
//!
//! Each of the five prefix codes of the format has a single symbol, so that a pixel takes no bits at all: any size fits into
//! some forty bytes (RFC 9649, section 3).

/// Sides from 1 to 16384 pixels.
pub(super) fn webp(width: usize, height: usize, [red, green, blue]: [u8; 3]) -> Vec<u8> {
    let mut bits = BitsFromLowest::default();
    bits.put(0x2F, 8); // signature
    bits.put(width as u64 - 1, 14);
    bits.put(height as u64 - 1, 14);
    bits.put(0, 4); // no alpha, version 0
    bits.put(0, 3); // no transform, no colour cache, no meta prefix codes
    for symbol in [green, red, blue, 255, 0] {
        bits.put(0b101, 3); // a simple code of one symbol, which has eight bits
        bits.put(symbol.into(), 8);
    }
    let mut image = bits.finish();
    let image_bytes = image.len() as u32;
    if image.len() % 2 == 1 {
        image.push(0);
    }
    let mut file = Vec::with_capacity(20 + image.len());
    file.extend(b"RIFF");
    file.extend((12 + image.len() as u32).to_le_bytes());
    file.extend(b"WEBPVP8L");
    file.extend(image_bytes.to_le_bytes());
    file.extend(image);
    file
}

/// Bits, least significant first.
#[derive(Default)]
struct BitsFromLowest {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitsFromLowest {
    fn put(&mut self, value: u64, count: u32) {
        self.pending |= value << self.pending_bits;
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}
