//! Slots: what a worker process can do at once. One held job row = one held slot.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::jobs::Ticket;
use crate::db::Database;

/// How one queue is worked on by one process.
#[derive(Clone, Debug)]
pub struct SlotSettings {
    pub queue: &'static str,
    /// Jobs run at once.
    pub slots: usize,
    /// Rows of one fetch at the most.
    pub max_fetch: usize,
    pub heartbeat: Duration,
    /// Without a heartbeat for this long a worker counts as dead and its jobs go to others.
    pub dead_after: Duration,
    /// A look for jobs whose notification was lost or never sent.
    pub poll: Duration,
}

/// How long a job rests whose handler panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(5);

/// A job that goes back to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GivenBack {
    pub(super) ticket: Ticket,
    /// Not to be fetched again before this has passed.
    pub(super) after: Duration,
}

/// A job in a worker's hands. Dropping it frees the slot and, unless it was settled, gives the row back to the queue.
pub struct Job {
    ticket: Ticket,
    settled: bool,
    pause: Duration,
    /// Cancelled when the same job came again because its row had been lost: then this one is not the row's holder.
    superseded: CancellationToken,
    pool: Arc<SlotPool>,
    _slot: OwnedSemaphorePermit,
}

impl Job {
    pub fn id(&self) -> Ulid {
        self.ticket.id
    }

    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The name under which this worker holds its jobs.
    pub fn worker(&self) -> &str {
        &self.pool.worker
    }

    /// Gives the row back, not to be fetched before `pause` has passed.
    pub fn set_aside(mut self, pause: Duration) {
        self.pause = pause;
    }

    /// The row was deleted by the step's own transaction: there is nothing to give back.
    pub fn settled(mut self) {
        self.settled = true;
    }

    /// Resolves when the process is asked to stop, or when the same job came again: hand over at the next safe point.
    pub async fn stopping(&self) {
        tokio::select! {
            () = self.pool.stop.cancelled() => {}
            () = self.superseded.cancelled() => {}
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let is_holder = !self.superseded.is_cancelled();
        if is_holder {
            self.pool.held().remove(&self.ticket.id);
        }
        if is_holder && !self.settled {
            // a handler that panics would panic again at once
            let after = if std::thread::panicking() { PANIC_PAUSE } else { self.pause };
            self.pool.unsettled().push(GivenBack { ticket: self.ticket, after });
        }
        // a stopping worker waits for its last job to hand in
        if !self.settled || self.pool.stop.is_cancelled() {
            self.pool.beat_now.notify_one();
        }
    }
}

/// The slots of one worker and what moves through them.
pub(super) struct SlotPool {
    pub(super) worker: String,
    pub(super) settings: SlotSettings,
    pub(super) db: Database,
    pub(super) slots: Arc<Semaphore>,
    pub(super) waker: AtomicWaker,
    /// Keeps a permit, so that a wake-up during a fetch is not lost.
    pub(super) wake: Notify,
    pub(super) beat_now: Notify,
    pub(super) stop: CancellationToken,
    pub(super) registered: CancellationToken,
    /// The heartbeat is over: from then on nothing of this worker touches the database.
    pub(super) pulse_ended: CancellationToken,
    fetch_ended: AtomicBool,
    ready: Mutex<VecDeque<Job>>,
    held: Mutex<HashMap<Ulid, CancellationToken>>,
    unsettled: Mutex<Vec<GivenBack>>,
}

impl SlotPool {
    /// `stop` stops the process; the pool's own token can be cancelled without stopping the other pools.
    pub(super) fn new(db: Database, settings: SlotSettings, stop: &CancellationToken) -> Arc<SlotPool> {
        Arc::new(SlotPool {
            // no other process and no earlier life of this one had this name: a reused one would keep the jobs of a
            // dead process looking alive
            worker: format!("{}-{}-{}", settings.queue, std::process::id(), Ulid::generate()),
            slots: Arc::new(Semaphore::new(settings.slots)),
            settings,
            db,
            waker: AtomicWaker::new(),
            wake: Notify::new(),
            beat_now: Notify::new(),
            stop: stop.child_token(),
            registered: CancellationToken::new(),
            pulse_ended: CancellationToken::new(),
            fetch_ended: AtomicBool::new(false),
            ready: Mutex::default(),
            held: Mutex::default(),
            unsettled: Mutex::default(),
        })
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<Ulid, CancellationToken>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unsettled(&self) -> MutexGuard<'_, Vec<GivenBack>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands fetched rows to the worker, each with one of the permits that were taken before the fetch.
    pub(super) fn offer(self: &Arc<Self>, tickets: Vec<Ticket>, mut permits: OwnedSemaphorePermit) {
        for ticket in tickets {
            let Some(slot) = permits.split(1) else {
                tracing::error!(worker = %self.worker, job = %ticket.id, "more jobs were fetched than slots were free; given back");
                self.unsettled().push(GivenBack { ticket, after: Duration::ZERO });
                self.beat_now.notify_one();
                continue;
            };
            let superseded = CancellationToken::new();
            if let Some(predecessor) = self.held().insert(ticket.id, superseded.clone()) {
                predecessor.cancel();
            }
            self.ready().push_back(Job {
                ticket,
                settled: false,
                pause: Duration::ZERO,
                superseded,
                pool: self.clone(),
                _slot: slot,
            });
        }
        self.waker.wake();
    }

    pub(super) fn take_ready(&self) -> Option<Job> {
        self.ready().pop_front()
    }

    /// No more jobs will come; those that no handler saw go back.
    pub(super) fn end_fetching(&self) {
        let unseen = std::mem::take(&mut *self.ready());
        drop(unseen);
        self.fetch_ended.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.beat_now.notify_one();
    }

    pub(super) fn fetching_ended(&self) -> bool {
        self.fetch_ended.load(Ordering::SeqCst)
    }

    /// Stopped, and every row is settled or back in the queue.
    pub(super) fn is_drained(&self) -> bool {
        self.fetching_ended() && self.slots.available_permits() == self.settings.slots && self.unsettled().is_empty()
    }
}
