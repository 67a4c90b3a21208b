//! A size in pixels, in the two words that most vendors order by: a shape and a resolution.

use crate::domain::Size;

/// `1280x720` as `16:9`, in lowest terms.
pub(in crate::providers) fn aspect_ratio(size: Size) -> String {
    let mut rest = (size.width, size.height);
    while rest.1 != 0 {
        rest = (rest.1, rest.0 % rest.1);
    }
    let common = rest.0.max(1);
    format!("{}:{}", size.width / common, size.height / common)
}

/// `1280x720` and `720x1280` as `720p`: the shorter side; `None` when it is none that has a name.
pub(in crate::providers) fn resolution(size: Size) -> Option<&'static str> {
    match size.width.min(size.height) {
        360 => Some("360p"),
        480 => Some("480p"),
        540 => Some("540p"),
        580 => Some("580p"),
        720 => Some("720p"),
        768 => Some("768p"),
        1080 => Some("1080p"),
        1440 => Some("1440p"),
        2160 => Some("4k"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_shape_and_mostly_a_named_resolution() {
        for (size, shape, name) in [
            ("1280x720", "16:9", Some("720p")),
            ("720x1280", "9:16", Some("720p")),
            ("3840x2160", "16:9", Some("4k")),
            ("1080x1080", "1:1", Some("1080p")),
            ("1792x1024", "7:4", None),
        ] {
            let parsed = size.parse().unwrap();
            assert_eq!((aspect_ratio(parsed).as_str(), resolution(parsed)), (shape, name), "{size}");
        }
    }
}
