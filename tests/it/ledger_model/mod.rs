//! The ledger as a state machine against a pure model: random acts, the odd and the forbidden among them, must have the
//! same outcome, by name and number, and leave the same wallets, holds and entries.
//!
//! `FREEZEFRAME_LEDGER_ACTS` says how many acts (2,000 by default), `FREEZEFRAME_LEDGER_SEED` from which seed. Acts name
//! tenants, batches and videos by what is there at the moment, so that any of them may be left out: a list that fails is
//! cut down before it is shown.

mod act;
mod model;
mod world;

use futures_util::stream::{self, StreamExt};

use act::{Act, acts};
use world::{Tally, play};

/// Acts on one database.
const ACTS_OF_A_WORLD: usize = 20_000;
/// Databases at a time.
const WORLDS_AT_ONCE: usize = 3;
/// How often a failing list is tried with something left out.
const MOST_CUTS: usize = 150;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_acts_end_as_the_model_says() {
    let total = number("FREEZEFRAME_LEDGER_ACTS").unwrap_or(2_000) as usize;
    let first = number("FREEZEFRAME_LEDGER_SEED").unwrap_or(1);
    // at least three, so that each kind of world is among them; some acts of a world find nothing to act on
    let each = total.div_ceil(3).min(ACTS_OF_A_WORLD);
    eprintln!("worlds of {each} acts, seeds from {first}, until {total} acts were played");
    let mut played = stream::iter((0u64..).map(|n| first + n))
        .map(|seed| async move {
            let acts = acts(seed, each);
            match play(&acts).await {
                Ok(tally) => tally,
                Err(failure) => panic!("{}", cut_down(seed, acts, failure).await),
            }
        })
        .buffer_unordered(WORLDS_AT_ONCE);
    let (mut sum, mut done) = (Tally::default(), 0);
    while done < 3 || sum.acts() < total as u64 {
        sum.add(&played.next().await.unwrap());
        done += 1;
        if done % 10 == 0 {
            eprintln!("{done} worlds: {sum}");
        }
    }
    eprintln!("0 violations in {sum}");
    assert!(sum.done > 0 && sum.refused.len() >= 8, "too few ways to be refused were met: {sum}");
}

/// Leaves out whatever the failure does not need, by halves, quarters and so on.
async fn cut_down(seed: u64, mut acts: Vec<Act>, (at, mut why): (usize, String)) -> String {
    acts.truncate(at + 1);
    let (mut size, mut cuts) = (acts.len() / 2, 0);
    while size > 0 && cuts < MOST_CUTS {
        let mut from = 0;
        while from < acts.len() && cuts < MOST_CUTS {
            let mut fewer = acts.clone();
            fewer.drain(from..(from + size).min(acts.len()));
            cuts += 1;
            match play(&fewer).await {
                Err((at, still)) => {
                    fewer.truncate(at + 1);
                    (acts, why) = (fewer, still);
                }
                Ok(_) => from += size,
            }
        }
        size /= 2;
    }
    let listed: Vec<String> = acts.iter().map(|act| format!("  {act:?}")).collect();
    format!("seed {seed}: {why}\nafter these {} acts:\n{}", acts.len(), listed.join("\n"))
}
