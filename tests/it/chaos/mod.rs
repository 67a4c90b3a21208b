//! Everything that can die, dies at random: workers, all workers, the database, connections, clients. Each test ends with the
//! audit of the test app: what was acknowledged exists, every movement balances, every job at the provider has one owner.
//!
//! An ordinary run affords small counts; `make chaos CHAOS=full` asks for those that the promises are held to, by variables
//! named `FREEZEFRAME_CHAOS_...` ([`count_of`]). Seeds are printed; `FREEZEFRAME_CHAOS_SEED` repeats one.

mod commits;
mod creates;
mod deploys;
mod kills;
mod refusals;
mod restarts;
mod simulation;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A count from `FREEZEFRAME_CHAOS_{name}`, or what an ordinary run affords.
fn count_of(name: &str, ordinary: usize) -> usize {
    let variable = format!("FREEZEFRAME_CHAOS_{name}");
    match std::env::var(&variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is no count")),
        Err(_) => ordinary,
    }
}

/// A generator whose seed is printed.
fn seeded() -> (u64, StdRng) {
    let seed = match std::env::var("FREEZEFRAME_CHAOS_SEED") {
        Ok(text) => text.parse().expect("FREEZEFRAME_CHAOS_SEED is no number"),
        Err(_) => rand::rng().random(),
    };
    eprintln!("FREEZEFRAME_CHAOS_SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}

/// Whether the promised counts were asked for, and with them the promised times. An ordinary run shares its two cores with
/// other tests: there the times are printed.
fn is_full() -> bool {
    std::env::var("FREEZEFRAME_CHAOS_TIMES").is_ok()
}

/// How long something took, many times.
struct Waits(Vec<Duration>);

impl Waits {
    /// Prints it, and holds all but the slowest hundredth against what is promised.
    fn print(&mut self, what: &str, promised: Duration) {
        self.0.sort_unstable();
        if let Some(p99) = self.0.get((self.0.len() * 99 / 100).min(self.0.len().saturating_sub(1))) {
            assert!(!is_full() || *p99 <= promised, "{what}: p99 {p99:?}, promised {promised:?}");
        }
        let at = |permille: usize| self.0[(self.0.len() * permille / 1000).min(self.0.len() - 1)].as_millis();
        match self.0.len() {
            0 => eprintln!("{what}: never"),
            times => eprintln!("{what}, {times} times: p50 {} ms, p99 {} ms, most {} ms", at(500), at(990), at(1000)),
        }
    }
}
