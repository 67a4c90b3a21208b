//! Everything that can die, dies at random: workers, all workers, the database, connections, clients. Each test ends with the
//! audit of the test app: what was acknowledged exists, every movement balances, every job at the provider has one owner.
//!
//! An ordinary run affords small counts; `make chaos CHAOS=full` asks for those that the promises are held to, by variables
//! named `FREEZEFRAME_CHAOS_...` ([`count_of`]). Seeds are printed; `FREEZEFRAME_CHAOS_SEED` repeats one.

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

/// How long something took, many times.
struct Waits(Vec<Duration>);

impl Waits {
    fn print(&mut self, what: &str) {
        self.0.sort_unstable();
        let at = |permille: usize| self.0[(self.0.len() * permille / 1000).min(self.0.len() - 1)].as_millis();
        match self.0.len() {
            0 => eprintln!("{what}: never"),
            times => eprintln!("{what}, {times} times: p50 {} ms, p99 {} ms, most {} ms", at(500), at(990), at(1000)),
        }
    }
}
