//! The words by which several vendors order a size: a shape such as `16:9` and a resolution such as `720p`.

/// Whether `WIDTHxHEIGHT` has this shape and this resolution.
pub(super) fn is(size: &str, shape: &str, resolution: &str) -> bool {
    let sides = |text: &str, between: char| {
        let (first, second) = text.split_once(between)?;
        Some((first.parse::<u64>().ok()?, second.parse::<u64>().ok()?))
    };
    let (Some((width, height)), Some((across, down))) = (sides(size, 'x'), sides(shape, ':')) else { return false };
    let lines = match resolution {
        "4k" => Some(2160),
        named => named.strip_suffix('p').and_then(|lines| lines.parse().ok()),
    };
    width * down == height * across && lines == Some(width.min(height))
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn shape_and_resolution_name_one_size() {
        assert!(is("1280x720", "16:9", "720p") && is("720x1280", "9:16", "720p") && is("3840x2160", "16:9", "4k"));
        assert!(!is("1280x720", "9:16", "720p") && !is("1280x720", "16:9", "1080p") && !is("x", "16:9", "720p"));
        assert!(!is("1280x720", "auto", "720p") && !is("1280x720", "16:9", "p"));
    }
}
