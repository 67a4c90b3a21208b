//! The order as Veo takes it: `instances` and `parameters`.
//!
//! Length, aspect ratio, resolution and number of samples are always said: a default of the vendor costs money too.

use serde_json::{Value, json};

use super::super::adapter::ImageSlot;
use super::super::{GenerationRequest, ReferenceImage};
use crate::domain::Size;

/// Sizes that Veo knows, and how it says them.
const SIZES: [(u32, u32, &str, &str); 6] = [
    (1280, 720, "16:9", "720p"),
    (720, 1280, "9:16", "720p"),
    (1920, 1080, "16:9", "1080p"),
    (1080, 1920, "9:16", "1080p"),
    (3840, 2160, "16:9", "4k"),
    (2160, 3840, "9:16", "4k"),
];

pub(super) struct Order<'r> {
    prompt: &'r str,
    seconds: u32,
    aspect_ratio: &'static str,
    resolution: &'static str,
    person_generation: Option<&'r str>,
    /// Vertex only; sound has a price.
    generate_audio: Option<bool>,
    /// Vertex only: where the file goes.
    storage_uri: Option<String>,
    image: Option<ReferenceImage<'r>>,
}

impl<'r> Order<'r> {
    /// `None` for a size that Veo does not know.
    pub(super) fn new(
        request: &GenerationRequest<'r>,
        person_generation: Option<&'r str>,
        generate_audio: Option<bool>,
        storage_uri: Option<String>,
    ) -> Option<Order<'r>> {
        let (aspect_ratio, resolution) = spelled(request.size)?;
        let GenerationRequest { prompt, seconds, image, .. } = *request;
        Some(Order { prompt, seconds, aspect_ratio, resolution, person_generation, generate_audio, storage_uri, image })
    }

    /// The body; the image goes into the slot.
    pub(super) fn to_json(&self, slot: &ImageSlot) -> Value {
        let mut parameters = json!({
            "aspectRatio": self.aspect_ratio,
            "durationSeconds": self.seconds,
            "resolution": self.resolution,
            "sampleCount": 1,
        });
        let optional = [
            ("personGeneration", self.person_generation.map(Value::from)),
            ("generateAudio", self.generate_audio.map(Value::from)),
            ("storageUri", self.storage_uri.as_deref().map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                parameters[name] = value;
            }
        }
        let mut instance = json!({"prompt": self.prompt});
        if let Some(image) = &self.image {
            instance["image"] = json!({"bytesBase64Encoded": slot.base64(), "mimeType": image.format.media_type()});
        }
        json!({"instances": [instance], "parameters": parameters})
    }
}

fn spelled(size: Size) -> Option<(&'static str, &'static str)> {
    let known = SIZES.iter().find(|(width, height, ..)| (*width, *height) == (size.width, size.height))?;
    Some((known.2, known.3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(width: u32, height: u32) -> GenerationRequest<'static> {
        GenerationRequest {
            prompt: "a fox",
            upstream_model: "veo-x",
            seconds: 6,
            size: Size { width, height },
            image: None,
        }
    }

    #[test]
    fn everything_that_has_a_price_is_said_and_nothing_else() {
        let plain = Order::new(&request(720, 1280), None, None, None).unwrap().to_json(&ImageSlot::new());
        assert_eq!(
            plain,
            json!({"instances": [{"prompt": "a fox"}], "parameters": {
                "aspectRatio": "9:16", "durationSeconds": 6, "resolution": "720p", "sampleCount": 1}})
        );
        let place = Some("gs://b/x/".to_owned());
        let full = Order::new(&request(3840, 2160), Some("allow_adult"), Some(false), place).unwrap();
        let full = full.to_json(&ImageSlot::new());
        assert_eq!(
            full["parameters"],
            json!({"aspectRatio": "16:9", "durationSeconds": 6, "resolution": "4k", "sampleCount": 1,
                "personGeneration": "allow_adult", "generateAudio": false, "storageUri": "gs://b/x/"})
        );
        assert!(Order::new(&request(1000, 1000), None, None, None).is_none());
    }
}
