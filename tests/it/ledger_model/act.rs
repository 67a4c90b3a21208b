//! What may happen to a ledger, drawn by chance.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Tenants of a world; the one after the last does not exist.
pub const TENANTS: usize = 5;

/// Numbers that choose among what is there are taken modulo their count.
#[derive(Clone, Debug)]
pub enum Act {
    Grant {
        tenant: usize,
        source: usize,
        amount: i64,
    },
    Adjust {
        tenant: usize,
        source: usize,
        add: bool,
        amount: i64,
    },
    /// `again` freezes for a batch that exists already.
    Freeze {
        tenant: usize,
        prices: Vec<i64>,
        again: Option<usize>,
    },
    Settle {
        picks: Vec<Pick>,
    },
    /// Refunds a video at the front of its batch for `more` than the batch ever froze.
    Greedy {
        batch: usize,
        video: usize,
        more: i64,
    },
    /// `ready` chooses among the batches whose videos are all settled; otherwise among all, and one that does not exist.
    Finalize {
        batch: usize,
        ready: bool,
    },
}

/// A video to be settled.
#[derive(Clone, Debug)]
pub struct Pick {
    pub batch: usize,
    pub video: usize,
    /// Chooses among unsettled videos only.
    pub fresh: bool,
    pub failure: Option<usize>,
}

/// The acts of a seed. Every third world has amounts at the edge of counting.
pub fn acts(seed: u64, count: usize) -> Vec<Act> {
    let mut dice = Dice { random: StdRng::seed_from_u64(seed), edges: seed.is_multiple_of(3) };
    (0..count).map(|_| dice.act()).collect()
}

struct Dice {
    random: StdRng,
    edges: bool,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    fn chance(&mut self, permille: usize) -> bool {
        self.below(1_000) < permille
    }

    fn any(&mut self) -> usize {
        self.random.random_range(0..1 << 30)
    }

    fn amount(&mut self, usual: i64) -> i64 {
        const EDGES: [i64; 5] = [i64::MAX, i64::MAX - 1, i64::MAX / 2, i64::MAX / 2 + 1, i64::MAX - 100_000];
        match self.below(1_000) {
            0..15 => 0,
            15..30 => -1,
            30..80 => 1,
            80..100 if self.edges => EDGES[self.below(EDGES.len())],
            _ => self.random.random_range(1..=usual),
        }
    }

    fn tenant(&mut self) -> usize {
        if self.chance(10) { TENANTS } else { self.below(TENANTS) }
    }

    fn act(&mut self) -> Act {
        match self.below(100) {
            0..7 => Act::Grant { tenant: self.tenant(), source: self.below(3), amount: self.amount(9_000) },
            7..13 => Act::Adjust {
                tenant: self.tenant(),
                source: self.below(3),
                add: self.chance(450),
                amount: self.amount(3_000),
            },
            13..38 => {
                let usual = if self.chance(50) { 40_000 } else { 600 };
                let again = self.chance(40).then(|| self.any());
                let videos = 1 + self.below(6);
                Act::Freeze { tenant: self.tenant(), prices: (0..videos).map(|_| self.amount(usual)).collect(), again }
            }
            38..76 => Act::Settle { picks: (0..1 + self.below(6)).map(|_| self.pick()).collect() },
            76..78 => Act::Greedy { batch: self.any(), video: self.any(), more: 1 + self.below(50) as i64 },
            _ => Act::Finalize { batch: self.any(), ready: self.chance(850) },
        }
    }

    fn pick(&mut self) -> Pick {
        let failure = self.chance(350).then(|| self.below(5));
        Pick { batch: self.any(), video: self.any(), fresh: !self.chance(15), failure }
    }
}
