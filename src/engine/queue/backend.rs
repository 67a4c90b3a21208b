//! apalis' `Backend` over our slots, and the `Monitor` that keeps the workers of a process going.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::fetch::fetch_jobs;
use super::pulse;
use super::slots::{Job, SlotPool, SlotSettings};
use crate::db::Database;

/// The workers of one process. Add queues, then run.
pub struct Workers {
    db: Database,
    stop: CancellationToken,
    monitor: Monitor,
}

/// apalis' monitor ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the job workers ended: {0}; restart the process")]
pub struct WorkersStopped(String);

impl Workers {
    /// `stop` ends fetching at once; running handlers are asked to hand over.
    pub fn new(db: Database, stop: CancellationToken) -> Workers {
        // a worker that ended while nobody asked for it is started anew, under a new name
        let asked = stop.clone();
        let monitor = Monitor::new().should_restart(move |_, _| !asked.is_cancelled());
        Workers { db, stop, monitor }
    }

    /// Works on a queue: `handler` runs for each job, in a task of its own. A handler that panics frees its slot and its
    /// job goes back to the queue.
    #[must_use]
    pub fn add<H, F>(mut self, settings: SlotSettings, handler: H) -> Workers
    where
        H: Fn(Job) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (db, stop) = (self.db.clone(), self.stop.clone());
        self.monitor = self.monitor.register(move |_restarts| {
            let backend = SlotBackend::new(SlotPool::new(db.clone(), settings.clone(), &stop));
            let handler = handler.clone();
            WorkerBuilder::new(backend.pool.worker.as_str()).backend(backend).parallelize(tokio::spawn).build(
                move |job: Job| {
                    let (handler, id, queue) = (handler.clone(), job.id(), settings.queue);
                    async move {
                        // built inside, so that a panic before the first await is caught as well
                        let run = AssertUnwindSafe(async move { handler(job).await });
                        if run.catch_unwind().await.is_err() {
                            tracing::error!(queue, job = %id, "a job's handler panicked; the job goes back to the queue");
                        }
                    }
                },
            )
        });
        self
    }

    /// Runs until `stop` is cancelled and every job is settled or given back.
    ///
    /// # Errors
    /// [`WorkersStopped`] when the monitor ends by itself.
    pub async fn run(self) -> Result<(), WorkersStopped> {
        let stop = self.stop.clone();
        let signal = async move {
            stop.cancelled().await;
            Ok(())
        };
        self.monitor.run_with_signal(signal).await.map_err(|error| WorkersStopped(error.to_string()))
    }
}

/// One queue's slots as a source of apalis tasks. All I/O is on tasks of its own; nothing here touches the database.
struct SlotBackend {
    pool: Arc<SlotPool>,
    started: bool,
}

impl SlotBackend {
    fn new(pool: Arc<SlotPool>) -> SlotBackend {
        SlotBackend { pool, started: false }
    }
}

impl Backend for SlotBackend {
    type Task = Task<Job>;
    // nothing that the database does can end the worker
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        if !std::mem::replace(&mut self.started, true) {
            if let Err(error) = pulse::start(self.pool.clone()) {
                tracing::error!(worker = %self.pool.worker, %error, "no thread for the heartbeat; this worker will fetch nothing: restart the process");
                self.pool.pulse_ended.cancel();
            }
            tokio::spawn(pulse::listen(self.pool.clone()));
            tokio::spawn(fetch_jobs(self.pool.clone()));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Task<Job>, Infallible>>> {
        // registered before the look: a job offered in between wakes us
        self.pool.waker.register(cx.waker());
        match self.pool.take_ready() {
            Some(job) => Poll::Ready(Some(Ok(Task::new(job)))),
            None if self.pool.fetching_ended() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.pool.stop.cancel();
        self.pool.waker.register(cx.waker());
        if self.started && !(self.pool.is_drained() && self.pool.pulse_ended.is_cancelled()) {
            return Poll::Pending;
        }
        // without it a worker whose stream has ended waits for ever
        if let Err(error) = worker.stop() {
            tracing::debug!(worker = %self.pool.worker, %error, "the worker had stopped already");
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SlotBackend {
    /// A worker that is started anew has a pool of its own; this one's tasks end.
    fn drop(&mut self) {
        self.pool.stop.cancel();
    }
}

impl BackendConfig for SlotBackend {
    type Args = Job;
    type Id = ulid::Ulid;
    // hands tasks out as they are: no codec that a foreign payload could break
    type Kind = Ephemeral;
    type Config = SlotSettings;
    // no stock acknowledgement and no lock events: the step's own transaction does both
    type Layer = tower_layer::Identity;

    fn config(&self) -> &SlotSettings {
        &self.pool.settings
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> tower_layer::Identity {
        tower_layer::Identity::new()
    }
}
