//! The MP4 file around the pictures: one video track, one chunk, index before data, so that a player can start at once.
//!
//! Box names and layouts are those of ISO/IEC 14496-12 (file) and 14496-15 (`avc1`, `avcC`).

/// Of the two matrices in the headers: no rotation, no scaling.
const UNITY_MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
/// ISO 639-2 "und" in three times five bits, then two bytes of zero.
const LANGUAGE_UNDETERMINED: u32 = 0x55C4_0000;
/// 72 dots per inch in 16.16 fixed point.
const DPI_72: u32 = 0x48_0000;

/// A movie under construction; pictures are NAL units without start codes.
pub(super) struct Movie {
    width: u32,
    height: u32,
    fps: u32,
    sizes: Vec<u32>,
    data: Vec<u8>,
}

impl Movie {
    pub(super) fn new(width: usize, height: usize, fps: u32) -> Self {
        Movie { width: width as u32, height: height as u32, fps, sizes: Vec::new(), data: Vec::new() }
    }

    /// Adds the next picture. Only the first may be, and must be, an IDR picture.
    pub(super) fn push(&mut self, nal: &[u8]) {
        self.sizes.push(nal.len() as u32 + 4);
        self.data.extend((nal.len() as u32).to_be_bytes());
        self.data.extend(nal);
    }

    pub(super) fn finish(self, sps: &[u8], pps: &[u8]) -> Vec<u8> {
        let kind = boxed(b"ftyp", &[b"isom", &words(&[512]), b"isomiso2avc1mp41"]);
        let entry = self.sample_entry(sps, pps);
        // The index holds the position of the data behind it; its own size does not depend on that number.
        let position = kind.len() + self.index(&entry, 0).len() + 8;
        let index = self.index(&entry, position as u32);
        [kind, index, boxed(b"mdat", &[&self.data])].concat()
    }

    fn index(&self, entry: &[u8], data_position: u32) -> Vec<u8> {
        let frames = self.sizes.len() as u32;
        let header = words(&[0, 0, 0, self.fps, frames, 0x1_0000, 0x100_0000, 0, 0]);
        let tail = words(&[0, 0, 0, 0, 0, 0, 2]); // predefined; the next track would be number 2
        let header = boxed(b"mvhd", &[&header, &words(&UNITY_MATRIX), &tail]);
        boxed(b"moov", &[&header, &self.track(entry, data_position)])
    }

    fn track(&self, entry: &[u8], data_position: u32) -> Vec<u8> {
        let frames = self.sizes.len() as u32;
        let header = words(&[3, 0, 0, 1, 0, frames, 0, 0, 0, 0]); // flags: enabled, in the movie; track number 1
        let size = words(&[self.width << 16, self.height << 16]);
        let header = boxed(b"tkhd", &[&header, &words(&UNITY_MATRIX), &size]);
        let clock = boxed(b"mdhd", &[&words(&[0, 0, 0, self.fps, frames, LANGUAGE_UNDETERMINED])]);
        let handler = boxed(b"hdlr", &[&words(&[0, 0]), b"vide", &[0; 12], b"video\0"]);
        let video = boxed(b"vmhd", &[&words(&[1, 0, 0])]);
        let same_file = boxed(b"url ", &[&words(&[1])]);
        let location = boxed(b"dinf", &[&boxed(b"dref", &[&words(&[0, 1]), &same_file])]);
        let media = boxed(b"minf", &[&video, &location, &self.sample_table(entry, data_position)]);
        boxed(b"trak", &[&header, &boxed(b"mdia", &[&clock, &handler, &media])])
    }

    fn sample_table(&self, entry: &[u8], data_position: u32) -> Vec<u8> {
        let frames = self.sizes.len() as u32;
        let description = boxed(b"stsd", &[&words(&[0, 1]), entry]);
        let durations = boxed(b"stts", &[&words(&[0, 1, frames, 1])]);
        let sync = boxed(b"stss", &[&words(&[0, 1, 1])]);
        let chunks = boxed(b"stsc", &[&words(&[0, 1, 1, frames, 1])]);
        let sizes = boxed(b"stsz", &[&words(&[0, 0, frames]), &words(&self.sizes)]);
        let offsets = boxed(b"stco", &[&words(&[0, 1, data_position])]);
        boxed(b"stbl", &[&description, &durations, &sync, &chunks, &sizes, &offsets])
    }

    fn sample_entry(&self, sps: &[u8], pps: &[u8]) -> Vec<u8> {
        let version_profile_level = [1, sps[1], sps[2], sps[3]];
        let sps_length = (sps.len() as u16).to_be_bytes();
        let pps_length = (pps.len() as u16).to_be_bytes();
        // 0xFF: four-byte NAL lengths; 0xE1: one sequence parameter set.
        let parts: [&[u8]; 7] = [&version_profile_level, &[0xFF, 0xE1], &sps_length, sps, &[1], &pps_length, pps];
        let configuration = boxed(b"avcC", &parts);
        let reference = [0, 0, 0, 0, 0, 0, 0, 1];
        let size = words(&[self.width << 16 | self.height, DPI_72, DPI_72, 0]);
        let one_frame_per_sample = [0, 1];
        let depth_24_no_colour_table = [0, 24, 0xFF, 0xFF];
        let parts: [&[u8]; 7] =
            [&reference, &[0; 16], &size, &one_frame_per_sample, &[0; 32], &depth_24_no_colour_table, &configuration];
        boxed(b"avc1", &parts)
    }
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend((size as u32).to_be_bytes());
    bytes.extend(kind);
    for part in parts {
        bytes.extend(*part);
    }
    bytes
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}
