//! The words of a video order: what a prompt, a size and a custom id may be. Prompts are hostile text: they are stored
//! and sent as they are, and never logged.

use std::fmt;
use std::str::FromStr;

/// Why a field was refused, in words for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldError(pub String);

impl FieldError {
    pub fn new(message: impl Into<String>) -> FieldError {
        FieldError(message.into())
    }
}

/// A video prompt: 1 to 32,000 characters (the bound of the `/v1/videos` shape), no control characters but tab and
/// line breaks.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt(String);

impl Prompt {
    pub const MAX_CHARS: usize = 32_000;

    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Prompt, FieldError> {
        if text.trim().is_empty() {
            return Err(FieldError::new("must not be empty"));
        }
        let chars = text.chars().count();
        if chars > Self::MAX_CHARS {
            return Err(FieldError::new(format!("has {chars} characters; at most {} are allowed", Self::MAX_CHARS)));
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(FieldError::new("contains a control character; only tab and line breaks are allowed"));
        }
        Ok(Prompt(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompt({} bytes)", self.0.len())
    }
}

/// The customer's own name for an item: 1 to 128 printable characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CustomId(String);

impl CustomId {
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<CustomId, FieldError> {
        let chars = text.chars().count();
        if chars == 0 || chars > 128 || text.chars().any(char::is_control) {
            return Err(FieldError::new("must have 1 to 128 printable characters"));
        }
        Ok(CustomId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Width and height in pixels, written `1280x720`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl FromStr for Size {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Size, FieldError> {
        let wrong = || FieldError::new("must be WIDTHxHEIGHT in pixels, such as 1280x720");
        let (width, height) = text.split_once('x').ok_or_else(wrong)?;
        let side = |digits: &str| match digits.parse::<u32>() {
            Ok(pixels) if (16..=8192).contains(&pixels) && digits == pixels.to_string() => Ok(pixels),
            _ => Err(wrong()),
        };
        Ok(Size { width: side(width)?, height: side(height)? })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{CustomId, Prompt, Size};

    #[test]
    fn a_prompt_has_text_within_bounds_and_no_control_characters() {
        assert!(Prompt::parse("a red fox\nruns").is_ok());
        assert!(Prompt::parse("  ").is_err());
        assert!(Prompt::parse("a\0b").is_err());
        assert!(Prompt::parse(&"x".repeat(Prompt::MAX_CHARS)).is_ok());
        assert!(Prompt::parse(&"x".repeat(Prompt::MAX_CHARS + 1)).is_err());
    }

    #[test]
    fn a_prompt_does_not_show_its_text_in_debug_output() {
        assert!(!format!("{:?}", Prompt::parse("secret plan").unwrap()).contains("secret"));
    }

    #[test]
    fn a_size_has_one_spelling() {
        assert_eq!("1280x720".parse::<Size>().unwrap().to_string(), "1280x720");
        for wrong in ["1280", "1280x", "x720", "01280x720", "1280x720x1", "+1280x720", "0x0", "99999x1"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_custom_id_is_short_and_printable() {
        assert!(CustomId::parse("shot-17").is_ok());
        assert!(CustomId::parse("").is_err());
        assert!(CustomId::parse("a\tb").is_err());
    }
}
