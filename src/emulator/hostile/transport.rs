//! The way in which an answer comes: what a server does to a connection.

use std::time::Duration;

use bytes::Bytes;

use super::raw::{Script, Step, answer, chunk, gzip_bomb, head};
use super::{Scene, words};

const MEGABYTE: usize = 1 << 20;

words! {
    /// What is wrong with the way.
    pub enum Wire {
        /// Half of the body, then a reset.
        ResetInBody = "reset in the middle of the body",
        /// Something that is no HTTP: the alert of a TLS server.
        Garbage = "bytes that are no HTTP",
        /// The request is read and never answered.
        Silence = "no answer ever",
        /// A byte of the headers every second.
        SlowHeaders = "headers at one byte a second",
        /// Headers at once, a byte of the body every second.
        SlowBody = "a body at one byte a second",
        /// `Content-Length` says less than there is.
        LengthTooShort = "a content-length that is too short",
        /// `Content-Length` says more than there is.
        LengthTooLong = "a content-length that is too long",
        /// Two different lengths, and chunks.
        Lengths = "contradictory lengths",
        /// A header of a megabyte.
        HugeHeader = "headers of a megabyte",
        /// A hundred thousand headers.
        ManyHeaders = "a hundred thousand headers",
        /// Interim answers without end.
        Interim = "interim answers without end",
        /// A chunked body without end.
        EndlessChunks = "a chunked body without end",
        /// A chunk that says to have 2^64 - 1 bytes.
        AbsurdChunk = "a chunk of 2^64 bytes",
        /// A status that is no number.
        Status = "a status that is no number",
        /// A body that unpacks to a hundred megabytes, packed without being asked.
        GzipBomb = "a gzip bomb",
    }
}

impl Wire {
    /// Those that strike polls too.
    pub const AT_POLL: &'static [Wire] = &[Wire::ResetInBody, Wire::Silence, Wire::EndlessChunks, Wire::GzipBomb];

    pub(super) fn script(self, scene: &Scene<'_>) -> Script {
        let body = Bytes::from(scene.answer.to_string());
        let (half, length) = (body.slice(..body.len() / 2), body.len());
        let plain = |length: usize| head(scene.status, &format!("{JSON}content-length: {length}\r\n"));
        let chunked = || head(scene.status, &format!("{JSON}transfer-encoding: chunked\r\n"));
        let second = Duration::from_secs(1);
        match self {
            Wire::ResetInBody => vec![plain(length), Step::Send(half), Step::Reset],
            Wire::Garbage => vec![Step::Send(Bytes::from_static(b"\x15\x03\x03\x00\x02\x02\x28\x00\xff\xfe"))],
            Wire::Silence => vec![Step::Hold],
            Wire::SlowHeaders => {
                let headers = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                vec![Step::Drip { bytes: headers.into(), pause: second }, Step::Send(body)]
            }
            Wire::SlowBody => vec![plain(length), Step::Drip { bytes: body, pause: second }],
            Wire::LengthTooShort => vec![plain(length / 2), Step::Send(body)],
            Wire::LengthTooLong => vec![plain(length * 2), Step::Send(body)],
            Wire::Lengths => {
                let headers = format!("{JSON}content-length: 7\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n");
                vec![head(scene.status, &headers), Step::Send(body)]
            }
            Wire::HugeHeader => {
                let header = format!("{JSON}x-padding: {}\r\n", "x".repeat(MEGABYTE));
                answer(scene.status, &header, body)
            }
            Wire::ManyHeaders => answer(scene.status, &format!("{JSON}{}", "a: b\r\n".repeat(100_000)), body),
            Wire::Interim => {
                let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
                vec![Step::Pour { piece: interim.into(), bytes: u64::MAX }]
            }
            Wire::EndlessChunks => {
                let piece = chunk(&[b' '; 16 << 10]);
                vec![chunked(), Step::Pour { piece, bytes: u64::MAX }]
            }
            Wire::AbsurdChunk => {
                let mut bytes = b"ffffffffffffffff\r\n".to_vec();
                bytes.extend_from_slice(&body);
                vec![chunked(), Step::Send(bytes.into()), Step::Hold]
            }
            Wire::Status => vec![Step::Send(Bytes::from_static(b"HTTP/1.1 OK 200\r\n\r\n{}"))],
            Wire::GzipBomb => answer(scene.status, &format!("{JSON}content-encoding: gzip\r\n"), gzip_bomb()),
        }
    }
}

const JSON: &str = "content-type: application/json\r\n";
