//! How much may be under way in this process: requests being processed, and bytes of bodies in memory.
//!
//! Always holds: a request beyond either is answered at once with when to come again, before anything of it was done; a
//! request counts only while we work on it, so that clients which send or read slowly take nobody's turn; whoever asks
//! whether the service lives is always answered.
//!
//! Refuses: a queue. A client that waits in one has given up before it is served.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use poem::{Body, Endpoint, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{Incoming, Turn};
use super::watch::Watch;
use crate::api::error::ApiError;
use crate::config::{HttpConfig, WaitLimits};
use crate::{db, metrics};

/// Answered however much is under way.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// An endpoint, and how many requests it processes at a time.
pub struct Gate<E> {
    inner: E,
    turns: Arc<Semaphore>,
    room: BodyRoom,
    waits: WaitLimits,
}

impl<E> Gate<E> {
    pub fn new(inner: E, http: &HttpConfig) -> Gate<E> {
        let turns = Arc::new(Semaphore::new(http.requests.concurrent));
        Gate { inner, turns, room: BodyRoom::new(http.requests.buffered_body_bytes), waits: http.waits }
    }

    /// Lets a request's body come at its client's pace, without a turn while it does.
    fn pace_body(&self, request: &mut Request, turn: &Turn) {
        let body = request.take_body();
        if body.is_empty() {
            return request.set_body(body);
        }
        let watch = request.data::<Arc<Watch>>().cloned();
        let chunks = Box::pin(body.into_bytes_stream());
        let body = Incoming::new(chunks, self.waits, (turn.clone(), self.turns.clone()), watch);
        request.set_body(Body::from_bytes_stream(body));
        request.set_data(self.room.clone());
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Gate<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        if ALWAYS.contains(&request.uri().path()) {
            return self.inner.call(request).await;
        }
        let turn = Turn::default();
        self.pace_body(&mut request, &turn);
        if !turn.take(&self.turns) {
            metrics::http_request_refused("requests");
            return Err(ApiError::too_busy().into());
        }
        db::counting_waits(self.inner.call(request)).await
    }
}

/// The memory that bodies may take, all together. Cheap to clone.
#[derive(Clone)]
pub struct BodyRoom(Arc<Semaphore>);

/// The memory is counted in these.
const UNIT_BYTES: usize = 1024;

impl BodyRoom {
    pub fn new(bytes: usize) -> BodyRoom {
        BodyRoom(Arc::new(Semaphore::new((bytes / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS))))
    }
}

/// A body while it is read.
pub struct Buffer {
    read: BytesMut,
    room: Option<(BodyRoom, Option<OwnedSemaphorePermit>)>,
}

impl Buffer {
    /// `room` is what all bodies share; without it, only the caller's own limit holds.
    pub fn new(room: Option<BodyRoom>) -> Buffer {
        Buffer { read: BytesMut::new(), room: room.map(|room| (room, None)) }
    }

    pub fn len(&self) -> usize {
        self.read.len()
    }

    /// # Errors
    /// [`ApiError::too_busy`] when other bodies take all the memory.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        if let Some((room, held)) = &mut self.room {
            let units = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = (self.read.len() + chunk.len()).div_ceil(UNIT_BYTES).saturating_sub(units);
            if more > 0 {
                let more = u32::try_from(more).unwrap_or(u32::MAX);
                let permit = room.0.clone().try_acquire_many_owned(more).map_err(|_| {
                    metrics::http_request_refused("memory");
                    ApiError::unavailable(
                        "too many large requests are being received; nothing was changed: repeat this one",
                    )
                })?;
                match held {
                    Some(held) => held.merge(permit),
                    None => *held = Some(permit),
                }
            }
        }
        self.read.extend_from_slice(chunk);
        Ok(())
    }

    /// The whole body; its memory is given back when the last clone is dropped.
    pub fn freeze(self) -> Bytes {
        match self.room {
            Some((_, Some(held))) => Bytes::from_owner(Held { read: self.read.freeze(), _held: held }),
            _ => self.read.freeze(),
        }
    }
}

struct Held {
    read: Bytes,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.read
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyRoom, Buffer};

    #[test]
    fn bodies_share_their_memory_and_give_it_back() {
        let room = BodyRoom::new(4096);
        let (mut one, mut other) = (Buffer::new(Some(room.clone())), Buffer::new(Some(room.clone())));
        one.push(&[1; 1000]).unwrap();
        one.push(&[2; 24]).unwrap();
        other.push(&[3; 3072]).unwrap();
        assert_eq!(room.0.available_permits(), 0);
        assert!(other.push(&[4; 1]).is_err());
        let (one, another) = (one.freeze(), other.freeze());
        assert_eq!((one.len(), one[1023], another.len()), (1024, 2, 3072));
        let part = another.slice(1..2);
        drop((one, another));
        assert_eq!(room.0.available_permits(), 1);
        drop(part);
        assert_eq!(room.0.available_permits(), 4);
    }
}
