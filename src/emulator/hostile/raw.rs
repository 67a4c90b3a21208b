//! Bytes on a socket, as a hostile server writes them: slowly, for ever, or not at all.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::super::journal::Journal;

/// What is written, in order. The connection closes behind the last step.
pub(super) type Script = Vec<Step>;

pub(super) enum Step {
    Send(Bytes),
    /// The same piece again and again, until so many bytes have gone or the client does.
    Pour {
        piece: Bytes,
        bytes: u64,
    },
    /// A byte every so often.
    Drip {
        bytes: Bytes,
        pause: Duration,
    },
    /// Nothing, until the client goes.
    Hold,
    /// The connection is reset rather than closed.
    Reset,
}

/// Longer than any client waits.
const HOLD: Duration = Duration::from_secs(3600);

/// A whole answer, well-formed, with these further header lines.
pub(super) fn answer(status: u16, headers: &str, body: impl Into<Bytes>) -> Script {
    let body = body.into();
    let length = format!("content-length: {}\r\n{headers}", body.len());
    vec![head(status, &length), Step::Send(body)]
}

/// A whole JSON answer.
pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Script {
    answer(status, "content-type: application/json\r\n", body)
}

/// Status line and headers; `headers` are whole lines.
pub(super) fn head(status: u16, headers: &str) -> Step {
    Step::Send(format!("HTTP/1.1 {status} As It Is\r\nconnection: close\r\n{headers}\r\n").into())
}

/// A piece of a chunked body.
pub(super) fn chunk(bytes: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

/// Writes it all, or as much as the client takes.
pub(super) async fn play(script: Script, stream: &TcpStream, journal: &Journal) {
    for step in script {
        let played = match step {
            Step::Send(bytes) => send(stream, &bytes).await,
            Step::Pour { piece, bytes } => pour(stream, &piece, bytes, journal).await,
            Step::Drip { bytes, pause } => drip(stream, &bytes, pause).await,
            Step::Hold => {
                let _ = tokio::time::timeout(HOLD, left(stream)).await;
                return;
            }
            Step::Reset => {
                // what has been written is to arrive before the reset does
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
        };
        if played.is_err() {
            return;
        }
    }
    // closing at once could reset the connection before its last bytes were read
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    let _ = tokio::time::timeout(Duration::from_secs(5), left(stream)).await;
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn pour(stream: &TcpStream, piece: &[u8], bytes: u64, journal: &Journal) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let next = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        send(stream, next).await?;
        left -= next.len() as u64;
        journal.poured.fetch_add(next.len() as u64, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn drip(stream: &TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        send(stream, std::slice::from_ref(byte)).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Returns when the client has closed its side.
async fn left(stream: &TcpStream) {
    let mut unread = [0; 1024];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut unread) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A hundred megabytes of zeros as a gzip stream, a hundred and fifty times smaller (RFC 1951, 3.2.6: fixed codes; RFC 1952). Its
/// checksum is wrong: a client that gets so far has lost already.
pub(super) fn gzip_bomb() -> Bytes {
    static BOMB: LazyLock<Bytes> = LazyLock::new(|| gzip_of_zeros(100 << 20));
    BOMB.clone()
}

fn gzip_of_zeros(zeros: usize) -> Bytes {
    let mut bits = Bits { bytes: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], used: 8 };
    bits.put(0b011, 3); // the last block, with fixed codes
    bits.put_code(0x30, 8); // the literal 0
    for _ in 0..zeros / 258 {
        bits.put_code(0b1100_0101, 8); // as long as can be: 258
        bits.put_code(0, 5); // from one byte back
    }
    bits.put_code(0, 7); // the end
    let mut bytes = bits.bytes;
    bytes.extend([0; 8]);
    bytes.into()
}

struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// The lowest bit first.
    fn put(&mut self, value: u32, count: u32) {
        for at in 0..count {
            if self.used == 8 {
                self.bytes.push(0);
                self.used = 0;
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from(value >> at & 1 == 1) << self.used;
            }
            self.used += 1;
        }
    }

    /// Codes come with their highest bit first.
    fn put_code(&mut self, code: u32, count: u32) {
        for at in (0..count).rev() {
            self.put(code >> at & 1, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_small() {
        let bomb = gzip_bomb();
        assert!(bomb.len() < 1 << 20 && bomb.starts_with(&[0x1f, 0x8b, 8]), "{}", bomb.len());
    }
}
