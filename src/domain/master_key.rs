//! The master key: the one secret from which every other key of the house is derived.
//!
//! Always holds: a key derived for one purpose (HKDF-SHA-256) is of no use for another; sealed bytes (ChaCha20-Poly1305,
//! random nonce) open only with the purpose and the context (the tenant, say) that they were sealed with, so that a row
//! copied to another tenant stays shut. All processes that were given the same path hold the same key.
//! Refuses: showing any key, replacing a key file that it cannot read (what was sealed with it would be lost), using a
//! key file that other users may read.
//!
//! Sealed form: version (1 byte, now 1), nonce (12 bytes), ciphertext, tag (16 bytes). Random 96-bit nonces are safe for
//! about 2^32 seals under one purpose (NIST SP 800-38D, 8.3); webhook secrets stay far below.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fmt, str};

use ring::rand::SecureRandom as _;
use ring::{aead, hkdf, hmac, rand};

/// Length of a master key in bytes; its written form is twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;
const SEALED_VERSION: u8 = 1;
/// The HKDF salt: names the product and the scheme, so that the same 32 bytes used elsewhere give other keys.
const SALT: &[u8] = b"freezeframe master key v1";

/// Text that is not a master key. Says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a master key: expected 64 hexadecimal digits (32 random bytes)")]
pub struct InvalidMasterKey;

/// Sealed bytes that do not open: changed, cut, sealed under another master key, or for another purpose or context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed value does not open: it was changed, or sealed with another master key, purpose or owner")]
pub struct CannotOpen;

/// The master key of an installation. Cheap to clone; `Debug` shows nothing of it.
#[derive(Clone)]
pub struct MasterKey(hkdf::Prk);

impl MasterKey {
    /// The key written as 64 hexadecimal digits of either case.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] when `text` is anything else.
    pub fn from_hex(text: &str) -> Result<MasterKey, InvalidMasterKey> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidMasterKey);
        }
        let mut key = [0u8; KEY_BYTES];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| InvalidMasterKey)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidMasterKey)?;
        }
        Ok(MasterKey(hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&key)))
    }

    /// The key kept in the file `path`, which is made (mode 0600, with its directories) when there is none.
    ///
    /// Of processes that start at the same moment one makes the key and all read that one: a new key is written beside
    /// `path`, flushed, and then linked to it, which the file system grants to exactly one.
    ///
    /// # Errors
    /// `InvalidData` when the file holds no master key, `PermissionDenied` when its group or others may access it; any
    /// other error is of the file system. Every message names the path.
    pub fn load_or_create(path: &Path) -> io::Result<MasterKey> {
        match Self::load(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(path).map_err(|error| at(path, "cannot create the master key file", &error))?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    fn load(path: &Path) -> io::Result<MasterKey> {
        let file = File::open(path).map_err(|error| at(path, "cannot open the master key file", &error))?;
        let mode = file.metadata()?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let hint = format!("its mode is {mode:04o}; only its owner may access it (chmod 600)");
            return Err(at(path, "refusing the master key file", &io::Error::new(ErrorKind::PermissionDenied, hint)));
        }
        let text = io::read_to_string(file).map_err(|error| at(path, "cannot read the master key file", &error))?;
        Self::from_hex(text.trim_end()).map_err(|error| {
            let error = io::Error::new(ErrorKind::InvalidData, format!("{error}; restore the file from a backup"));
            at(path, "refusing the master key file", &error)
        })
    }

    /// Encrypts `plaintext` for one purpose. Only the same `purpose` and `context` open it; the context (the owner, say a
    /// tenant's bare id) is bound to the result but not kept in it. The result is 29 bytes longer than `plaintext`.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    pub fn seal(&self, purpose: &'static str, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; aead::NONCE_LEN] = random_bytes();
        let mut ciphertext = plaintext.to_vec();
        self.sealing_key(purpose)
            .seal_in_place_append_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(context),
                &mut ciphertext,
            )
            .expect("ChaCha20-Poly1305 takes any text below 256 GiB");
        [&[SEALED_VERSION], nonce.as_slice(), &ciphertext].concat()
    }

    /// Decrypts what [`seal`](Self::seal) made for the same purpose and context.
    ///
    /// # Errors
    /// [`CannotOpen`] for everything else, without telling which part differs.
    pub fn open(&self, purpose: &'static str, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let (&version, rest) = sealed.split_first().ok_or(CannotOpen)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<{ aead::NONCE_LEN }>().ok_or(CannotOpen)?;
        if version != SEALED_VERSION {
            return Err(CannotOpen);
        }
        let mut buffer = ciphertext.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let plaintext = self
            .sealing_key(purpose)
            .open_in_place(nonce, aead::Aad::from(context), &mut buffer)
            .map_err(|_| CannotOpen)?;
        Ok(plaintext.to_vec())
    }

    /// HMAC-SHA-256 of `message` under the key for `purpose`.
    pub fn sign(&self, purpose: &'static str, message: &[u8]) -> [u8; 32] {
        self.signing_key(purpose).sign(message)
    }

    /// Whether `signature` is [`sign`](Self::sign)'s answer for the same purpose and message. The time it takes does not
    /// depend on where they differ.
    pub fn verify(&self, purpose: &'static str, message: &[u8], signature: &[u8]) -> bool {
        self.signing_key(purpose).verify(message, signature)
    }

    /// The signing key for one purpose alone, for a holder that needs nothing else of the master key.
    pub fn signing_key(&self, purpose: &'static str) -> SigningKey {
        let mut key = [0u8; KEY_BYTES];
        self.derive(["sign/", purpose], &mut key);
        SigningKey(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    fn sealing_key(&self, purpose: &'static str) -> aead::LessSafeKey {
        let mut key = [0u8; KEY_BYTES];
        self.derive(["seal/", purpose], &mut key);
        let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &key).expect("the algorithm's keys have 32 bytes");
        aead::LessSafeKey::new(key)
    }

    fn derive(&self, info: [&str; 2], key: &mut [u8; KEY_BYTES]) {
        let info = info.map(str::as_bytes);
        self.0
            .expand(&info, hkdf::HKDF_SHA256)
            .and_then(|material| material.fill(key))
            .expect("HKDF-SHA-256 gives 32 bytes for any info");
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// A key that signs for one purpose (see [`MasterKey::signing_key`]).
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// HMAC-SHA-256 of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        let mut signature = [0u8; 32];
        signature.copy_from_slice(hmac::sign(&self.0, message).as_ref());
        signature
    }

    /// Whether `signature` is that of `message`, compared in constant time.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.0, message, signature).is_ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Random bytes of the operating system, fit for keys.
///
/// # Panics
/// When the operating system gives none: a process that cannot make secrets must not go on with weak ones.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    rand::SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Writes a new key beside `path` and links it to `path`, unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    // `parent` of a bare file name is the empty path, which is no directory one can open.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let draft = Draft(directory.join(format!(".master-key-{}", hex(&random_bytes::<8>()))));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.0)?;
    writeln!(file, "{}", hex(&random_bytes::<KEY_BYTES>()))?;
    file.sync_all()?;
    match fs::hard_link(&draft.0, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Also when another process was first: nothing may be sealed with a key whose name a power cut could still lose.
    File::open(directory)?.sync_all()
}

/// A file that is removed whatever becomes of it.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // A leftover is an unused key that only the owner may read; there is nothing to do about it and nobody to tell.
        let _ = fs::remove_file(&self.0);
    }
}

fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::Barrier;
    use std::{fs, thread};

    use super::{CannotOpen, InvalidMasterKey, MasterKey, hex};

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_hex(&hex(&[byte; 32])).unwrap()
    }

    #[test]
    fn sealed_bytes_open_only_for_the_same_key_purpose_and_context() {
        let sealed = key(7).seal("webhook-secret", b"tenant-1", b"hello");
        assert_eq!(sealed.len(), 5 + 29);
        assert!(!sealed.windows(5).any(|window| window == b"hello"));
        assert_eq!(key(7).open("webhook-secret", b"tenant-1", &sealed), Ok(b"hello".to_vec()));
        assert_eq!(key(7).open("webhook-secret", b"tenant-2", &sealed), Err(CannotOpen));
        assert_eq!(key(7).open("other", b"tenant-1", &sealed), Err(CannotOpen));
        assert_eq!(key(8).open("webhook-secret", b"tenant-1", &sealed), Err(CannotOpen));
        assert_ne!(sealed, key(7).seal("webhook-secret", b"tenant-1", b"hello"), "nonces differ");
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_refused() {
        let sealed = key(7).seal("p", b"c", b"secret");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key(7).open("p", b"c", &changed), Err(CannotOpen), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(key(7).open("p", b"c", &sealed[..length]), Err(CannotOpen), "length {length}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_message_purpose_and_key_only() {
        let signature = key(1).sign("links", b"message");
        assert!(key(1).verify("links", b"message", &signature));
        assert!(!key(1).verify("links", b"massage", &signature));
        assert!(!key(1).verify("other", b"message", &signature));
        assert!(!key(2).verify("links", b"message", &signature));
        assert!(!key(1).verify("links", b"message", &signature[..31]));
        assert!(!key(1).verify("links", b"message", b""));
    }

    #[test]
    fn hex_of_either_case_is_one_key_and_other_text_is_none() {
        let text = "00ff".repeat(16);
        let signature = MasterKey::from_hex(&text).unwrap().sign("p", b"m");
        assert!(MasterKey::from_hex(&text.to_uppercase()).unwrap().verify("p", b"m", &signature));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace("ff", "+f"), &"é".repeat(32)] {
            assert_eq!(MasterKey::from_hex(wrong).err(), Some(InvalidMasterKey), "{wrong:?}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?} {:?}", key(1), key(1).signing_key("p")), "MasterKey SigningKey");
    }

    #[test]
    fn the_file_is_made_for_its_owner_alone_and_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets/master.key");
        let signature = MasterKey::load_or_create(&path).unwrap().sign("p", b"m");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(MasterKey::load_or_create(&path).unwrap().verify("p", b"m", &signature));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn processes_that_start_together_agree_on_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let start = Barrier::new(8);
        let signatures: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        MasterKey::load_or_create(&path).unwrap().sign("p", b"m")
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(signatures.iter().all(|signature| *signature == signatures[0]));
    }

    #[test]
    fn a_damaged_or_readable_key_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        MasterKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(MasterKey::load_or_create(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        let error = MasterKey::load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(!error.to_string().contains("not a key"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }
}
