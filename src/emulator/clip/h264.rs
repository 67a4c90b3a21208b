//! A lossless H.264 writer for flat pictures: Constrained Baseline, CAVLC, one slice per picture.
//!
//! A macroblock that repeats its left or upper neighbour is an Intra16x16 prediction without residual, one that is unchanged
//! since the last picture is P_Skip, any other is I_PCM (raw samples). No transform, no motion, no deblocking, so that the
//! decoder shows exactly the samples given. Section numbers are those of Rec. ITU-T H.264.

use super::frame::{Frame, Plane};

/// Level 4.0: 8192 macroblocks per picture (Annex A, table A-1), enough for 1280x1280.
const LEVEL: u8 = 40;
/// `nal_ref_idc` and `nal_unit_type` in one byte (7.3.1).
const NAL_SPS: u8 = 0x67;
const NAL_PPS: u8 = 0x68;
const NAL_IDR: u8 = 0x65;
const NAL_NON_IDR: u8 = 0x41;
/// What the count of coefficients of an I_PCM macroblock is taken to be (9.2.1).
const PCM_COEFFICIENTS: u32 = 16;

/// Encodes the pictures of one clip in order; the first becomes the IDR picture.
pub(super) struct Encoder {
    width: usize,
    height: usize,
    fps: u32,
    frame_num: u32,
    previous: Option<Frame>,
}

impl Encoder {
    /// `width` and `height` are what shall be seen, even and not necessarily whole macroblocks.
    pub(super) fn new(width: usize, height: usize, fps: u32) -> Self {
        Encoder { width, height, fps, frame_num: 0, previous: None }
    }

    /// Sequence parameter set (7.3.2.1.1), as a NAL unit without start code.
    pub(super) fn sps(&self) -> Vec<u8> {
        let mut bits = BitWriter::default();
        bits.put(66, 8); // profile_idc: Baseline
        bits.put(0xC0, 8); // constraint_set0 and 1: Constrained Baseline
        bits.put(LEVEL.into(), 8);
        bits.ue(0); // seq_parameter_set_id
        bits.ue(4); // frame_num has 8 bits
        bits.ue(2); // picture order is decoding order
        bits.ue(1); // one reference picture
        bits.put(0, 1); // no gaps in frame_num
        let (columns, rows) = (self.width.div_ceil(16), self.height.div_ceil(16));
        bits.ue(columns as u32 - 1);
        bits.ue(rows as u32 - 1);
        bits.put(0b11, 2); // frames only, direct_8x8_inference
        let crop_right = (columns * 16 - self.width) as u32 / 2;
        let crop_bottom = (rows * 16 - self.height) as u32 / 2;
        bits.put(u32::from(crop_right + crop_bottom > 0), 1);
        if crop_right + crop_bottom > 0 {
            for crop in [0, crop_right, 0, crop_bottom] {
                bits.ue(crop);
            }
        }
        self.put_usability(&mut bits);
        bits.into_nal(NAL_SPS)
    }

    /// Video usability information (E.1.1): colours are BT.709, the frame rate is fixed, nothing is reordered.
    fn put_usability(&self, bits: &mut BitWriter) {
        bits.put(1, 1); // vui_parameters_present
        bits.put(0b00, 2); // no aspect ratio, no overscan
        bits.put(1, 1); // video_signal_type_present
        bits.put(5, 3); // video_format: unspecified
        bits.put(0, 1); // limited range
        bits.put(1, 1); // colour_description_present
        for _primaries_transfer_matrix in 0..3 {
            bits.put(1, 8);
        }
        bits.put(0, 1); // no chroma location
        bits.put(1, 1); // timing_info_present
        bits.put(1, 32); // num_units_in_tick
        bits.put(2 * self.fps, 32); // time_scale: a tick is a field
        bits.put(1, 1); // fixed_frame_rate
        bits.put(0, 3); // no HRD parameters, no pic_struct
        bits.put(1, 1); // bitstream_restriction
        bits.put(1, 1); // motion_vectors_over_pic_boundaries
        for limit in [0, 0, 9, 9, 0, 1] {
            bits.ue(limit); // bytes, bits, vector ranges unlimited; no reordering; one picture buffered
        }
    }

    /// Picture parameter set (7.3.2.2), as a NAL unit without start code.
    pub(super) fn pps(&self) -> Vec<u8> {
        let mut bits = BitWriter::default();
        bits.ue(0); // pic_parameter_set_id
        bits.ue(0); // seq_parameter_set_id
        bits.put(0, 2); // CAVLC, no field order
        for _slice_groups_and_reference_counts in 0..3 {
            bits.ue(0);
        }
        bits.put(0, 3); // no weighted prediction
        for _quantizers_and_offset in 0..3 {
            bits.ue(0);
        }
        bits.put(0b100, 3); // deblocking_filter_control_present
        bits.into_nal(NAL_PPS)
    }

    /// One picture as a NAL unit without start code.
    pub(super) fn encode(&mut self, frame: &Frame) -> Vec<u8> {
        let slice = write_slice(frame, self.previous.as_ref(), self.frame_num);
        self.frame_num = self.frame_num.wrapping_add(1);
        match &mut self.previous {
            Some(previous) => previous.copy_from(frame),
            None => self.previous = Some(frame.clone()),
        }
        slice
    }
}

fn write_slice(frame: &Frame, previous: Option<&Frame>, frame_num: u32) -> Vec<u8> {
    let mut bits = BitWriter::default();
    put_slice_header(&mut bits, previous.is_some(), frame_num);
    let (columns, rows) = (frame.width / 16, frame.height / 16);
    // Total coefficients of each macroblock so far: only its neighbours to the right and below ask (9.2.1).
    let mut coefficients = vec![0u32; columns * rows];
    let mut skipped = 0;
    for number in 0..columns * rows {
        let block = Macroblock { frame, column: number % columns, row: number / columns };
        if let Some(previous) = previous {
            if block.is_unchanged(previous) {
                skipped += 1;
                continue;
            }
            bits.ue(skipped); // mb_skip_run
            skipped = 0;
        }
        // Intra macroblock types come after the five inter types in a P slice (table 7-13).
        let first_type = if previous.is_some() { 5 } else { 0 };
        match block.prediction() {
            Some(prediction) => {
                bits.ue(first_type + 1 + prediction.luma_mode());
                bits.ue(prediction.chroma_mode());
                bits.ue(0); // mb_qp_delta
                let left = (block.column > 0).then(|| coefficients[number - 1]);
                let above = (block.row > 0).then(|| coefficients[number - columns]);
                put_no_coefficients(&mut bits, left, above);
            }
            None => {
                bits.ue(first_type + 25); // I_PCM
                block.put_samples(&mut bits);
                coefficients[number] = PCM_COEFFICIENTS;
            }
        }
    }
    if skipped > 0 {
        bits.ue(skipped);
    }
    bits.into_nal(if previous.is_some() { NAL_NON_IDR } else { NAL_IDR })
}

/// Slice header (7.3.3).
fn put_slice_header(bits: &mut BitWriter, predicted: bool, frame_num: u32) {
    bits.ue(0); // first_mb_in_slice
    bits.ue(if predicted { 5 } else { 7 }); // slice_type: all P, all I
    bits.ue(0); // pic_parameter_set_id
    bits.put(frame_num & 0xFF, 8);
    if predicted {
        bits.put(0, 3); // default reference count and order, sliding window marking
    } else {
        bits.ue(0); // idr_pic_id
        bits.put(0, 2); // no special marking
    }
    bits.ue(0); // slice_qp_delta
    bits.ue(1); // deblocking off
}

/// `coeff_token` for "no coefficients" (table 9-5). Its context is the mean of the neighbours' counts; as these are 0 or 16
/// here, the context is 0, or at least 8.
fn put_no_coefficients(bits: &mut BitWriter, left: Option<u32>, above: Option<u32>) {
    let context = match (left, above) {
        (Some(left), Some(above)) => (left + above).div_ceil(2),
        (Some(count), None) | (None, Some(count)) => count,
        (None, None) => 0,
    };
    if context < 2 {
        bits.put(1, 1);
    } else {
        bits.put(0b00_0011, 6);
    }
}

/// From where an Intra16x16 macroblock copies its samples.
#[derive(Clone, Copy)]
enum Prediction {
    Left,
    Above,
}

impl Prediction {
    /// `Intra16x16PredMode` (table 8-4).
    fn luma_mode(self) -> u32 {
        match self {
            Prediction::Above => 0,
            Prediction::Left => 1,
        }
    }

    /// `intra_chroma_pred_mode` (table 8-5).
    fn chroma_mode(self) -> u32 {
        match self {
            Prediction::Left => 1,
            Prediction::Above => 2,
        }
    }
}

struct Macroblock<'a> {
    frame: &'a Frame,
    column: usize,
    row: usize,
}

impl Macroblock<'_> {
    /// The three planes with the side of a macroblock in each.
    fn planes(frame: &Frame) -> [(&Plane, usize); 3] {
        [(&frame.luma, 16), (&frame.blue, 8), (&frame.red, 8)]
    }

    /// Where this macroblock's rows start in a plane.
    fn row_starts(&self, plane: &Plane, side: usize) -> impl Iterator<Item = usize> + use<> {
        let (stride, top, left) = (plane.stride, self.row * side, self.column * side);
        (0..side).map(move |row| (top + row) * stride + left)
    }

    fn is_unchanged(&self, previous: &Frame) -> bool {
        let pairs = Self::planes(self.frame).into_iter().zip(Self::planes(previous));
        pairs.into_iter().all(|((new, side), (old, _))| {
            self.row_starts(new, side).all(|at| new.samples[at..at + side] == old.samples[at..at + side])
        })
    }

    fn prediction(&self) -> Option<Prediction> {
        let repeats = |test: fn(&Self, &Plane, usize) -> bool| {
            Self::planes(self.frame).into_iter().all(|(plane, side)| test(self, plane, side))
        };
        if self.column > 0 && repeats(Self::repeats_left) {
            Some(Prediction::Left)
        } else if self.row > 0 && repeats(Self::repeats_above) {
            Some(Prediction::Above)
        } else {
            None
        }
    }

    /// Whether each row only repeats the sample left of it; not for the first column.
    fn repeats_left(&self, plane: &Plane, side: usize) -> bool {
        let samples = &plane.samples;
        self.row_starts(plane, side).all(|at| samples[at..at + side].iter().all(|sample| *sample == samples[at - 1]))
    }

    /// Whether each row repeats the row above the macroblock; not for the first row.
    fn repeats_above(&self, plane: &Plane, side: usize) -> bool {
        let samples = &plane.samples;
        let above = (self.row * side - 1) * plane.stride + self.column * side;
        self.row_starts(plane, side).all(|at| samples[at..at + side] == samples[above..above + side])
    }

    /// The raw samples of I_PCM (7.3.5), byte aligned.
    fn put_samples(&self, bits: &mut BitWriter) {
        bits.align();
        for (plane, side) in Self::planes(self.frame) {
            for at in self.row_starts(plane, side) {
                bits.bytes.extend_from_slice(&plane.samples[at..at + side]);
            }
        }
    }
}

/// Bits, most significant first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// The lowest `count` bits of `value`; `count` is at most 32.
    fn put(&mut self, value: u32, count: u32) {
        self.pending = (self.pending << count) | u64::from(value);
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.pending_bits -= 8;
            self.bytes.push((self.pending >> self.pending_bits) as u8);
        }
        self.pending &= (1 << self.pending_bits) - 1;
    }

    /// Unsigned Exp-Golomb code (9.1); zero is also the signed code of zero.
    fn ue(&mut self, value: u32) {
        let length = 32 - (value + 1).leading_zeros();
        self.put(0, length - 1);
        self.put(value + 1, length);
    }

    fn align(&mut self) {
        if self.pending_bits > 0 {
            self.put(0, 8 - self.pending_bits);
        }
    }

    /// Stop bit and alignment (7.3.2.11), then emulation prevention (7.4.1.1): no three bytes look like a start code.
    fn into_nal(mut self, header: u8) -> Vec<u8> {
        self.put(1, 1);
        self.align();
        let mut nal = Vec::with_capacity(self.bytes.len() + self.bytes.len() / 64 + 16);
        nal.push(header);
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros >= 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            nal.push(byte);
            zeros = if byte == 0 { zeros + 1 } else { 0 };
        }
        nal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BitWriter)) -> Vec<u8> {
        let mut bits = BitWriter::default();
        write(&mut bits);
        bits.align();
        bits.bytes
    }

    #[test]
    fn exp_golomb_codes_are_those_of_the_standard() {
        assert_eq!(written(|bits| bits.ue(0)), [0b1000_0000]);
        assert_eq!(written(|bits| bits.ue(1)), [0b0100_0000]);
        assert_eq!(written(|bits| bits.ue(3)), [0b0010_0000]);
        assert_eq!(written(|bits| bits.ue(25)), [0b0000_1101, 0]);
        assert_eq!(written(|bits| bits.put(u32::MAX, 32)), [0xFF; 4]);
    }

    #[test]
    fn a_nal_unit_never_holds_a_start_code() {
        let nal = |bytes: &[u8]| BitWriter { bytes: bytes.to_vec(), ..BitWriter::default() }.into_nal(0x65);
        assert_eq!(nal(&[0, 0, 1]), [0x65, 0, 0, 3, 1, 0x80]);
        assert_eq!(nal(&[0, 0, 0, 0, 0]), [0x65, 0, 0, 3, 0, 0, 3, 0, 0x80]);
        assert_eq!(nal(&[0, 0, 4]), [0x65, 0, 0, 4, 0x80]);
    }

    #[test]
    fn an_unchanged_picture_costs_next_to_nothing_and_a_changed_block_its_samples() {
        let mut encoder = Encoder::new(64, 64, 12);
        let mut frame = Frame::new(64, 64);
        let first = encoder.encode(&frame);
        assert!(first.len() > 384, "the first block is raw, the others copy it");
        assert!(encoder.encode(&frame).len() < 12);
        frame.fill_luma(20, 20, 4, 235);
        let changed = encoder.encode(&frame);
        assert!((384..420).contains(&changed.len()), "{} bytes", changed.len());
    }

    #[test]
    fn the_parameter_sets_declare_profile_and_level() {
        let encoder = Encoder::new(640, 360, 12);
        assert_eq!(encoder.sps()[..4], [NAL_SPS, 66, 0xC0, LEVEL]);
        assert_eq!(encoder.pps()[0], NAL_PPS);
    }
}
