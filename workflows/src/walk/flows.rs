//! The real flows, spelled as places and edges for the walk.
//!
//! An order is a batch with one video. One stands for all, because videos share nothing but the freeze and the close.
//! The attempts and waits that a video has used are part of its place, counted as [`VideoNext::RetryLater`] says, so that
//! the walk sees every bound being reached.

use std::collections::BTreeSet;

use super::{Edge, EdgeKind, Flaw, To, Walk, walk};
use crate::money::{self, CreditMove};
use crate::month_close::{self, MonthCloseEnd, MonthCloseNext, MonthCloseStep};
use crate::video::{self, Spent, VideoEnd, VideoNext, VideoStep};
use crate::video_batch::{self, BatchEnd, BatchNext, BatchStep};
use crate::webhook::{self, DeliveryEnd, DeliveryNext};

/// The rules that an order follows. Replaceable, so that the tests can see the walk refuse wrong ones.
#[derive(Clone, Copy)]
pub struct Rules {
    /// [`video::next`]
    pub video: fn(VideoStep, VideoEnd, Spent) -> Result<VideoNext, video::ImpossibleEnd>,
    /// [`video_batch::next`]
    pub batch: fn(BatchStep, BatchEnd) -> Result<BatchNext, video_batch::ImpossibleEnd>,
    /// [`money::of_video`]
    pub video_money: fn(VideoNext) -> CreditMove,
    /// [`money::of_batch`]
    pub batch_money: fn(BatchEnd) -> CreditMove,
}

impl Rules {
    /// The rules that run.
    pub const REAL: Rules = Rules {
        video: video::next,
        batch: video_batch::next,
        video_money: money::of_video,
        batch_money: money::of_batch,
    };
}

/// Where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderPlace {
    /// The batch is at this step; at `Generate` its video has not begun.
    Batch(BatchStep),
    /// The video is at this step.
    Video {
        /// The step.
        step: VideoStep,
        /// Attempts charged before the present one.
        attempts: u32,
        /// Retries in a row that spent no attempt.
        waits: u32,
    },
    /// The batch is at `Generate` and its video has ended.
    VideoSettled,
}

/// How a step of an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderEnd {
    /// The batch's step.
    Batch(BatchEnd),
    /// Not an end: the batch sets its video going.
    VideoBegins,
    /// The video's step.
    Video(VideoEnd),
}

/// An edge of an order.
pub type OrderEdge = Edge<OrderPlace, OrderEnd>;

/// An order that passed.
pub type OrderWalk = Walk<OrderPlace, OrderEnd>;

/// Walks a batch with one video under `rules`, from the freeze to the last notification.
///
/// # Errors
/// The first [`Flaw`] found.
pub fn order(rules: Rules) -> Result<OrderWalk, Flaw> {
    walk(OrderPlace::Batch(BatchStep::Freeze), |place| match place {
        OrderPlace::Batch(BatchStep::Generate) => {
            let begin = OrderPlace::Video { step: VideoStep::Submit, attempts: 0, waits: 0 };
            vec![forward(OrderEnd::VideoBegins, To::Place(begin), CreditMove::Nothing)]
        }
        OrderPlace::Batch(step @ (BatchStep::Freeze | BatchStep::Finalize | BatchStep::Notify)) => {
            batch_edges(rules, step)
        }
        OrderPlace::VideoSettled => batch_edges(rules, BatchStep::Generate),
        OrderPlace::Video { step, attempts, waits } => {
            let ends = VideoEnd::all().into_iter();
            ends.filter_map(|end| video_edge(rules, step, end, (attempts, waits))).collect()
        }
    })
}

/// Whether this edge ends in a provider having billed something, or in nobody knowing whether it did.
pub fn order_may_have_bought(place: &OrderPlace, edge: &OrderEdge) -> bool {
    match (*place, edge.end) {
        (_, OrderEnd::Video(VideoEnd::Accepted | VideoEnd::Found)) => true,
        (OrderPlace::Video { step: VideoStep::LookUp, .. }, OrderEnd::Video(VideoEnd::DeadlinePassed)) => true,
        (OrderPlace::Batch(_) | OrderPlace::Video { .. } | OrderPlace::VideoSettled, _) => false,
    }
}

/// The steps and ends of batch and video that no path contains, by name.
pub fn unused(order: &OrderWalk) -> Vec<String> {
    let places: BTreeSet<OrderPlace> = order.places.iter().copied().map(without_counters).collect();
    let ends: BTreeSet<OrderEnd> = order.edges.iter().map(|(_, edge)| edge.end).collect();
    let batch_steps = BatchStep::all().into_iter().map(OrderPlace::Batch);
    let video_steps = VideoStep::all().into_iter().map(|step| OrderPlace::Video { step, attempts: 0, waits: 0 });
    let batch_ends = BatchEnd::all().into_iter().map(OrderEnd::Batch);
    let video_ends = VideoEnd::all().into_iter().map(OrderEnd::Video);
    let dead_places = batch_steps.chain(video_steps).filter(|place| !places.contains(place));
    let dead_ends = batch_ends.chain(video_ends).filter(|end| !ends.contains(end));
    dead_places.map(|place| format!("{place:?}")).chain(dead_ends.map(|end| format!("{end:?}"))).collect()
}

fn without_counters(place: OrderPlace) -> OrderPlace {
    match place {
        OrderPlace::Video { step, .. } => OrderPlace::Video { step, attempts: 0, waits: 0 },
        OrderPlace::Batch(_) | OrderPlace::VideoSettled => place,
    }
}

fn forward<P, E>(end: E, to: To<P>, moves: CreditMove) -> Edge<P, E> {
    Edge { end, to, moves, kind: EdgeKind::Forward, deadline: false }
}

fn batch_edges(rules: Rules, step: BatchStep) -> Vec<OrderEdge> {
    let edge = |end| {
        let to = match (rules.batch)(step, end).ok()? {
            BatchNext::Step(step) => To::Place(OrderPlace::Batch(step)),
            BatchNext::Refuse => To::Over("refused"),
            BatchNext::Done => To::Over("done"),
        };
        Some(forward(OrderEnd::Batch(end), to, (rules.batch_money)(end)))
    };
    BatchEnd::all().into_iter().filter_map(edge).collect()
}

fn video_edge(rules: Rules, step: VideoStep, end: VideoEnd, used: (u32, u32)) -> Option<OrderEdge> {
    let (attempts, waits) = used;
    // The walk does not look at delays, so one jitter stands for all.
    let next = (rules.video)(step, end, Spent { attempts, waits, jitter_permille: 0 }).ok()?;
    let at = |step, attempts, waits| To::Place(OrderPlace::Video { step, attempts, waits });
    let (to, kind) = match next {
        VideoNext::Step(step) => (at(step, attempts, waits), EdgeKind::Forward),
        VideoNext::Again(step) => (at(step, attempts, waits), EdgeKind::Waiting),
        VideoNext::RetryLater { spends_attempt, .. } => {
            let (attempts, waits) = if spends_attempt { (attempts + 1, 0) } else { (attempts, waits + 1) };
            let kind = EdgeKind::Retry { spends_attempt, maybe_bought: step != VideoStep::Submit };
            (at(VideoStep::Submit, attempts, waits), kind)
        }
        VideoNext::Succeed | VideoNext::Fail(_) => (To::Place(OrderPlace::VideoSettled), EdgeKind::Forward),
    };
    let deadline = end == VideoEnd::DeadlinePassed;
    Some(Edge { end: OrderEnd::Video(end), to, moves: (rules.video_money)(next), kind, deadline })
}

/// Where a webhook event is: so many deliveries were made before the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryPlace(pub u32);

/// Walks the deliveries of one webhook event. Each status stands for the range that answers like it.
///
/// # Errors
/// The first [`Flaw`] found.
pub fn delivery() -> Result<Walk<DeliveryPlace, DeliveryEnd>, Flaw> {
    let statuses = [200, 302, 410, 429, 500, 503].map(DeliveryEnd::Status);
    let others = [DeliveryEnd::TimedOut, DeliveryEnd::Unreachable, DeliveryEnd::Refused];
    walk(DeliveryPlace(0), |DeliveryPlace(before)| {
        let edge = |end| {
            let (to, kind) = match webhook::next(end, before + 1, 0, None) {
                DeliveryNext::Delivered => (To::Over("delivered"), EdgeKind::Forward),
                DeliveryNext::Disable => (To::Over("disabled"), EdgeKind::Forward),
                DeliveryNext::GiveUp => (To::Over("given up"), EdgeKind::Forward),
                DeliveryNext::BackOff { .. } => {
                    let retry = EdgeKind::Retry { spends_attempt: true, maybe_bought: false };
                    (To::Place(DeliveryPlace(before + 1)), retry)
                }
            };
            Edge { end, to, moves: CreditMove::Nothing, kind, deadline: false }
        };
        statuses.into_iter().chain(others).map(edge).collect()
    })
}

/// Walks the closing of one month.
///
/// # Errors
/// The first [`Flaw`] found.
pub fn month_close() -> Result<Walk<MonthCloseStep, MonthCloseEnd>, Flaw> {
    walk(MonthCloseStep::Statement, |step| {
        let edge = |end| {
            let (to, kind) = match month_close::next(step, end).ok()? {
                MonthCloseNext::Step(step) => (To::Place(step), EdgeKind::Forward),
                MonthCloseNext::Again(step) => (To::Place(step), EdgeKind::Waiting),
                MonthCloseNext::Halt => (To::Over("halted for an operator"), EdgeKind::Forward),
                MonthCloseNext::Done => (To::Over("done"), EdgeKind::Forward),
            };
            let deadline = end == MonthCloseEnd::DeadlinePassed;
            Some(Edge { end, to, moves: CreditMove::Nothing, kind, deadline })
        };
        MonthCloseEnd::all().into_iter().filter_map(edge).collect()
    })
}
