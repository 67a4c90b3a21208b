//! Access keys: a prefix that says whose kind it is, 32 random characters, 6 characters of checksum.
//!
//! Always holds: a value of a key's type has the form of a key of ours, checksum included, so that a typing error or
//! another service's key is refused without reading the database, a leaked key can be told from other text by
//! scanners (the fixed prefix), and a key of one kind never stands where another is meant. The database keeps the hash and
//! the hint of a key, never the key.
//! Refuses: showing a key. There is no `Display`; `Debug` gives the hint.

use std::fmt;

use ring::digest;

use super::master_key::random_bytes;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 32 characters of 62 are 190 bits.
const RANDOM_CHARS: usize = 32;
/// The fewest characters of 62 that hold every 32-bit number.
const CHECKSUM_CHARS: usize = 6;

/// What keys of one kind are called, and how they begin.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyForm {
    called: &'static str,
    prefix: &'static str,
}

impl KeyForm {
    const fn chars(&self) -> usize {
        self.prefix.len() + RANDOM_CHARS + CHECKSUM_CHARS
    }
}

/// Why a text is no key of that kind. The text itself is not repeated: it may be a secret of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    #[error("{} starts with `{}`", .0.called, .0.prefix)]
    Prefix(&'static KeyForm),
    #[error("{} has {} characters", .0.called, .0.chars())]
    Length(&'static KeyForm),
    #[error("{} has only letters and digits after its prefix", .0.called)]
    Alphabet(&'static KeyForm),
    #[error("the key's checksum does not match: it was mistyped or cut")]
    Checksum,
}

macro_rules! access_key {
    ($(#[$doc:meta])* $name:ident, $called:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(String);

        impl $name {
            pub const FORM: KeyForm = KeyForm { called: $called, prefix: $prefix };

            /// A new key, every character of its random part equally likely.
            pub fn generate() -> $name {
                $name(generate(&$name::FORM))
            }

            /// Reads a key as its holder sent it.
            ///
            /// # Errors
            /// [`MalformedKey`] when `text` cannot be such a key.
            pub fn parse(text: &str) -> Result<$name, MalformedKey> {
                check(text, &$name::FORM).map(|()| $name(text.to_owned()))
            }

            /// SHA-256 of the key: what the database keeps and looks up. A slow, salted password hash would gain nothing: a
            /// key has 190 random bits, so nobody finds it by trying, and every request has to compute this.
            pub fn hash(&self) -> [u8; 32] {
                let mut hash = [0u8; 32];
                hash.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
                hash
            }

            /// What may be shown to tell keys apart: the prefix and the last four characters. They are part of the checksum
            /// and give away at most 24 of the 190 bits.
            pub fn hint(&self) -> String {
                format!("{}...{}", $prefix, &self.0[$name::FORM.chars() - 4..])
            }

            /// The key itself, to be shown once to whom it was made for.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.hint())
            }
        }
    };
}

access_key!(
    /// An API key in plaintext, as the customer holds it. Well-formed; whether it is anybody's key only the database knows.
    ApiKey,
    "an API key",
    "ff_live_"
);
access_key!(
    /// An operator's key in plaintext, as the operator holds it. Well-formed; whether it is anybody's key only the database
    /// knows.
    OperatorKey,
    "an operator's key",
    "ffop_"
);

fn generate(form: &KeyForm) -> String {
    let mut key = String::with_capacity(form.chars());
    key.push_str(form.prefix);
    while key.len() < form.prefix.len() + RANDOM_CHARS {
        let missing = form.prefix.len() + RANDOM_CHARS - key.len();
        key.extend(random_bytes::<48>().into_iter().filter_map(unbiased_digit).take(missing));
    }
    key.push_str(&checksum(&key));
    key
}

fn check(text: &str, form: &'static KeyForm) -> Result<(), MalformedKey> {
    let secret = text.strip_prefix(form.prefix).ok_or(MalformedKey::Prefix(form))?;
    if text.len() != form.chars() {
        return Err(MalformedKey::Length(form));
    }
    if !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(MalformedKey::Alphabet(form));
    }
    let (body, claimed) = text.split_at(form.chars() - CHECKSUM_CHARS);
    if checksum(body) == claimed { Ok(()) } else { Err(MalformedKey::Checksum) }
}

/// A digit for four values in 256 each; the last eight values are thrown away, as `% 62` would favour the first digits.
fn unbiased_digit(random: u8) -> Option<char> {
    (random < 248).then(|| char::from(ALPHABET[usize::from(random % 62)]))
}

/// CRC-32 of `body` in base 62, most significant digit first, filled up with zeros.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::{ALPHABET, ApiKey, MalformedKey, OperatorKey, checksum, unbiased_digit};

    const FORM: &super::KeyForm = &ApiKey::FORM;

    #[test]
    fn a_generated_key_parses_and_keeps_its_hash() {
        let key = ApiKey::generate();
        let read = ApiKey::parse(key.expose()).unwrap();
        assert_eq!(read.hash(), key.hash());
        assert_eq!(key.expose().len(), 46);
        assert_ne!(key.hash(), ApiKey::generate().hash());
    }

    #[test]
    fn a_known_key_stays_valid() {
        // Computed apart from this code: zlib's CRC-32 of the first 40 characters is 1_125_737_729.
        let key = "ff_live_0123456789abcdefghijABCDEFGHIJ011EBTo9";
        assert_eq!(ApiKey::parse(key).map(|key| key.hint()), Ok("ff_live_...BTo9".to_owned()));
    }

    #[test]
    fn every_changed_character_is_refused() {
        let key = ApiKey::generate();
        for position in 0..FORM.chars() {
            for replacement in [b'a', b'Z', b'0', b'_'] {
                let mut bytes = key.expose().as_bytes().to_vec();
                if bytes[position] == replacement {
                    continue;
                }
                bytes[position] = replacement;
                let text = String::from_utf8(bytes).unwrap();
                assert!(ApiKey::parse(&text).is_err(), "position {position} of {}", key.expose());
            }
        }
    }

    #[test]
    fn each_kind_of_other_text_is_named() {
        let key = ApiKey::generate();
        let refused = |text: &str| ApiKey::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(refused(""), MalformedKey::Prefix(FORM));
        assert_eq!(refused(&key.expose().replace("live", "test")), MalformedKey::Prefix(FORM));
        assert_eq!(refused(FORM.prefix), MalformedKey::Length(FORM));
        assert_eq!(refused(&format!("{} ", key.expose())), MalformedKey::Length(FORM));
        assert_eq!(refused(&key.expose()[..45]), MalformedKey::Length(FORM));
        assert_eq!(refused(&format!("{}{}", FORM.prefix, "é".repeat(19))), MalformedKey::Alphabet(FORM));
        let body = &key.expose()[..40];
        let other = if checksum(body) == "000000" { "000001" } else { "000000" };
        assert_eq!(refused(&format!("{body}{other}")), MalformedKey::Checksum);
    }

    #[test]
    fn debug_and_hint_show_no_more_than_the_last_four_characters() {
        let key = ApiKey::generate();
        assert_eq!(key.hint(), format!("ff_live_...{}", &key.expose()[42..]));
        assert_eq!(format!("{key:?}"), format!("ApiKey({})", key.hint()));
    }

    #[test]
    fn every_digit_stands_for_equally_many_random_bytes() {
        let mut counts = [0; 62];
        for digit in (0..=255).filter_map(unbiased_digit) {
            counts[ALPHABET.iter().position(|candidate| char::from(*candidate) == digit).unwrap()] += 1;
        }
        assert_eq!(counts, [4; 62]);
    }

    #[test]
    fn a_key_of_one_kind_is_none_of_another() {
        let (customer, operator) = (ApiKey::generate(), OperatorKey::generate());
        assert_eq!(OperatorKey::parse(operator.expose()).unwrap().hash(), operator.hash());
        assert!(operator.expose().starts_with("ffop_") && operator.expose().len() == 43);
        let refused = ApiKey::parse(operator.expose()).unwrap_err().to_string();
        assert_eq!(refused, "an API key starts with `ff_live_`");
        let refused = OperatorKey::parse(customer.expose()).unwrap_err().to_string();
        assert_eq!(refused, "an operator's key starts with `ffop_`");
    }
}
