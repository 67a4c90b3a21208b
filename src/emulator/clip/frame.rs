//! One picture: planar Y'CbCr 4:2:0, both sides rounded up to whole macroblocks of 16.

/// A colour as (luma, blue difference, red difference), limited range.
pub(super) type Colour = (u8, u8, u8);

const BLACK: Colour = (16, 128, 128);

#[derive(Clone)]
pub(super) struct Frame {
    /// In luma samples, a multiple of 16.
    pub(super) width: usize,
    /// In luma samples, a multiple of 16.
    pub(super) height: usize,
    pub(super) luma: Plane,
    pub(super) blue: Plane,
    pub(super) red: Plane,
}

/// One component, row after row.
#[derive(Clone)]
pub(super) struct Plane {
    pub(super) stride: usize,
    pub(super) samples: Vec<u8>,
}

impl Plane {
    fn new(width: usize, height: usize, value: u8) -> Self {
        Plane { stride: width, samples: vec![value; width * height] }
    }
}

impl Frame {
    /// A black picture that holds at least `width` x `height`.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let (width, height) = (width.next_multiple_of(16), height.next_multiple_of(16));
        Frame {
            width,
            height,
            luma: Plane::new(width, height, BLACK.0),
            blue: Plane::new(width / 2, height / 2, BLACK.1),
            red: Plane::new(width / 2, height / 2, BLACK.2),
        }
    }

    /// Copies a picture of the same size.
    pub(super) fn copy_from(&mut self, other: &Frame) {
        self.luma.samples.copy_from_slice(&other.luma.samples);
        self.blue.samples.copy_from_slice(&other.blue.samples);
        self.red.samples.copy_from_slice(&other.red.samples);
    }

    /// Fills a rectangle; what lies outside the picture is left out.
    pub(super) fn fill(&mut self, left: usize, top: usize, (width, height): (usize, usize), colour: Colour) {
        for y in top..top.saturating_add(height).min(self.height) {
            for x in left..left.saturating_add(width).min(self.width) {
                self.luma.samples[y * self.luma.stride + x] = colour.0;
                let at = (y / 2) * self.blue.stride + x / 2;
                self.blue.samples[at] = colour.1;
                self.red.samples[at] = colour.2;
            }
        }
    }

    /// Sets the brightness of a square and keeps its tint; what lies outside the picture is left out.
    pub(super) fn fill_luma(&mut self, left: usize, top: usize, side: usize, luma: u8) {
        for y in top..top.saturating_add(side).min(self.height) {
            for x in left..left.saturating_add(side).min(self.width) {
                self.luma.samples[y * self.luma.stride + x] = luma;
            }
        }
    }
}
