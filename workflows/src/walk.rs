//! Walks every path of a flow and says what is wrong with it, or nothing.
//!
//! [`walk`] knows places, edges and credits, and no flow; [`order`], [`delivery`] and [`month_close`] hand it the real ones.
//! A flow that passed has these properties:
//! - every path ends: without the waiting edges there is no circle, and wherever it waits a deadline leads out;
//! - every path that freezes credits resolves them exactly once and closes them afterwards; no other path touches them;
//! - neither a wait nor a retry moves credits;
//! - a retry that spends no attempt starts where nothing can have been bought.
//!
//! Refuses to do: anything at run time. It serves the tests and `GRAPH.md`.

mod flows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use crate::money::CreditMove;

pub use flows::{
    DeliveryPlace, OrderEdge, OrderEnd, OrderPlace, OrderWalk, Rules, delivery, month_close, order,
    order_may_have_bought, unused,
};

/// A flow with more places than this counts as endless. The largest real one has a few thousand.
const MOST_PLACES: usize = 20_000;

/// One way out of a place.
#[derive(Clone, Copy, Debug)]
pub struct Edge<P, E> {
    /// How the step at this place ended.
    pub end: E,
    /// Where that leads.
    pub to: To<P>,
    /// What it does to credits.
    pub moves: CreditMove,
    /// What it is to the flow's progress.
    pub kind: EdgeKind,
    /// Whether this end comes for certain once time has passed.
    pub deadline: bool,
}

/// Where an edge leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<P> {
    /// To another place.
    Place(P),
    /// To this named end of the flow.
    Over(&'static str),
}

impl<P: Copy> To<P> {
    /// The place, unless the flow is over.
    pub fn place(&self) -> Option<P> {
        match self {
            To::Place(place) => Some(*place),
            To::Over(_) => None,
        }
    }
}

/// What an edge is to the progress of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeKind {
    /// The flow moves on.
    Forward,
    /// The same again later. The only kind that may be part of a circle.
    Waiting,
    /// A new attempt later.
    Retry {
        /// Whether the old one counts against the bound.
        spends_attempt: bool,
        /// Whether a provider may have billed something by then.
        maybe_bought: bool,
    },
}

/// A flow that passed.
#[derive(Clone, Debug)]
pub struct Walk<P, E> {
    /// Every reachable place, ordered so that no edge but a waiting one leads backwards.
    pub places: Vec<P>,
    /// Every edge with the place it starts from, in the order of `places`.
    pub edges: Vec<(P, Edge<P, E>)>,
}

/// What is wrong with a flow. Places and ends are `Debug` text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The places do not stop coming: a counter is not bounded.
    #[error("more than {MOST_PLACES} places are reachable, such as {place}: something that counts up is not bounded")]
    Endless {
        /// The place at which the walk stopped.
        place: String,
    },
    /// A path comes back to its own beginning without waiting.
    #[error("a path can run in a circle without ever waiting: {place} lies on it or behind it")]
    Circle {
        /// A place on the circle, or one that is reached through it.
        place: String,
    },
    /// No end is possible at this place.
    #[error("nothing leads out of {place}")]
    Stuck {
        /// The place.
        place: String,
    },
    /// The place may wait and its deadline does not end that.
    #[error("{place} may wait, and no deadline leads out of it")]
    WaitsForever {
        /// The place.
        place: String,
    },
    /// A retry for free where a provider may have billed something.
    #[error("at {place}, `{end}` is retried without spending an attempt although something may have been bought")]
    FreeRetryAfterPurchase {
        /// The place.
        place: String,
        /// The end that is retried.
        end: String,
    },
    /// A wait or a retry moves credits.
    #[error("at {place}, `{end}` only waits or tries again, and yet it would {act} credits")]
    WaitMovesCredits {
        /// The place.
        place: String,
        /// The end of the step.
        end: String,
        /// What the edge does.
        act: &'static str,
    },
    /// Credits are moved where they must not be, or left behind where they must be moved.
    #[error("at {place}, `{end}` would {act} credits that are {balance}")]
    Credits {
        /// The place.
        place: String,
        /// The end of the step.
        end: String,
        /// What the edge does.
        act: &'static str,
        /// How the credits stood on some path that reaches it.
        balance: &'static str,
    },
}

/// How the credits of one video stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Balance {
    Untouched,
    Held,
    Resolved,
    Closed,
}

impl Balance {
    const fn name(self) -> &'static str {
        match self {
            Balance::Untouched => "untouched",
            Balance::Held => "held and undecided",
            Balance::Resolved => "charged or refunded and not yet closed",
            Balance::Closed => "closed",
        }
    }

    /// The balance after a move, or nothing where the balance does not allow it.
    const fn after(self, moves: CreditMove) -> Option<Balance> {
        match (moves, self) {
            (CreditMove::Nothing, balance) => Some(balance),
            (CreditMove::Freeze, Balance::Untouched) => Some(Balance::Held),
            (CreditMove::Charge | CreditMove::Refund, Balance::Held) => Some(Balance::Resolved),
            (CreditMove::Close, Balance::Resolved) => Some(Balance::Closed),
            (CreditMove::Freeze, Balance::Held | Balance::Resolved | Balance::Closed)
            | (CreditMove::Charge | CreditMove::Refund, Balance::Untouched | Balance::Resolved | Balance::Closed)
            | (CreditMove::Close, Balance::Untouched | Balance::Held | Balance::Closed) => None,
        }
    }

    /// Whether a flow may be over while the credits stand so.
    const fn may_be_left(self) -> bool {
        match self {
            Balance::Untouched | Balance::Closed => true,
            Balance::Held | Balance::Resolved => false,
        }
    }
}

/// Walks every path from `start`.
///
/// # Errors
/// The first [`Flaw`] found.
pub fn walk<P, E>(start: P, edges_of: impl Fn(P) -> Vec<Edge<P, E>>) -> Result<Walk<P, E>, Flaw>
where
    P: Copy + Ord + Debug,
    E: Copy + Debug,
{
    let found = discover(start, edges_of)?;
    for (place, edges) in &found {
        check_place(place, edges)?;
    }
    check_credits(start, &found)?;
    let places = in_order(&found)?;
    let edges = places.iter().flat_map(|place| found[place].iter().map(|edge| (*place, *edge))).collect();
    Ok(Walk { places, edges })
}

impl<P: Copy + Ord, E> Walk<P, E> {
    /// The heaviest that a path can be when every edge weighs what `weigh` says. Waiting edges weigh nothing.
    pub fn heaviest(&self, weigh: impl Fn(&P, &Edge<P, E>) -> u32) -> u32 {
        let mut heaviest = 0;
        let mut weights: BTreeMap<P, u32> = BTreeMap::new();
        for (place, edge) in self.edges.iter().filter(|(_, edge)| edge.kind != EdgeKind::Waiting) {
            let weight = weights.get(place).copied().unwrap_or(0) + weigh(place, edge);
            heaviest = heaviest.max(weight);
            if let To::Place(to) = edge.to {
                let known = weights.entry(to).or_default();
                *known = weight.max(*known);
            }
        }
        heaviest
    }
}

type Found<P, E> = BTreeMap<P, Vec<Edge<P, E>>>;

fn discover<P, E>(start: P, edges_of: impl Fn(P) -> Vec<Edge<P, E>>) -> Result<Found<P, E>, Flaw>
where
    P: Copy + Ord + Debug,
{
    let mut found = BTreeMap::new();
    let mut open = vec![start];
    while let Some(place) = open.pop() {
        if found.contains_key(&place) {
            continue;
        }
        if found.len() == MOST_PLACES {
            return Err(Flaw::Endless { place: format!("{place:?}") });
        }
        let edges = edges_of(place);
        open.extend(edges.iter().filter_map(|edge| edge.to.place()));
        found.insert(place, edges);
    }
    Ok(found)
}

fn check_place<P: Debug, E: Debug>(place: &P, edges: &[Edge<P, E>]) -> Result<(), Flaw> {
    let here = || format!("{place:?}");
    if edges.is_empty() {
        return Err(Flaw::Stuck { place: here() });
    }
    let may_wait = edges.iter().any(|edge| edge.kind == EdgeKind::Waiting);
    let deadline_leads_out = edges.iter().any(|edge| edge.deadline && edge.kind != EdgeKind::Waiting);
    if may_wait && !deadline_leads_out {
        return Err(Flaw::WaitsForever { place: here() });
    }
    for edge in edges {
        let end = || format!("{:?}", edge.end);
        match edge.kind {
            EdgeKind::Retry { spends_attempt: false, maybe_bought: true } => {
                return Err(Flaw::FreeRetryAfterPurchase { place: here(), end: end() });
            }
            EdgeKind::Waiting | EdgeKind::Retry { .. } if edge.moves != CreditMove::Nothing => {
                return Err(Flaw::WaitMovesCredits { place: here(), end: end(), act: edge.moves.name() });
            }
            EdgeKind::Waiting | EdgeKind::Retry { .. } | EdgeKind::Forward => {}
        }
    }
    Ok(())
}

/// Carries every balance with which a place can be reached along every edge.
fn check_credits<P, E>(start: P, found: &Found<P, E>) -> Result<(), Flaw>
where
    P: Copy + Ord + Debug,
    E: Debug,
{
    let mut seen = BTreeSet::new();
    let mut open = vec![(start, Balance::Untouched)];
    while let Some((place, balance)) = open.pop() {
        if !seen.insert((place, balance)) {
            continue;
        }
        for edge in &found[&place] {
            let flaw = |act, balance: Balance| Flaw::Credits {
                place: format!("{place:?}"),
                end: format!("{:?}", edge.end),
                act,
                balance: balance.name(),
            };
            let after = balance.after(edge.moves).ok_or_else(|| flaw(edge.moves.name(), balance))?;
            match edge.to {
                To::Place(to) => open.push((to, after)),
                To::Over(_) if after.may_be_left() => {}
                To::Over(_) => return Err(flaw("leave behind", after)),
            }
        }
    }
    Ok(())
}

/// Orders the places along their edges, waiting edges left out; what cannot be ordered runs in a circle.
fn in_order<P, E>(found: &Found<P, E>) -> Result<Vec<P>, Flaw>
where
    P: Copy + Ord + Debug,
{
    let onward = |place: &P| {
        let edges = found[place].iter().filter(|edge| edge.kind != EdgeKind::Waiting);
        edges.filter_map(|edge| edge.to.place()).collect::<Vec<P>>()
    };
    let mut ways_in: BTreeMap<P, usize> = found.keys().map(|place| (*place, 0)).collect();
    for to in found.keys().flat_map(onward) {
        *ways_in.entry(to).or_default() += 1;
    }
    let mut ready: Vec<P> = ways_in.iter().filter(|(_, count)| **count == 0).map(|(place, _)| *place).collect();
    let mut ordered = Vec::with_capacity(found.len());
    while let Some(place) = ready.pop() {
        ordered.push(place);
        for to in onward(&place) {
            let left = ways_in.entry(to).or_default();
            *left -= 1;
            if *left == 0 {
                ready.push(to);
            }
        }
    }
    match ways_in.iter().find(|(_, count)| **count > 0) {
        Some((place, _)) => Err(Flaw::Circle { place: format!("{place:?}") }),
        None => Ok(ordered),
    }
}
