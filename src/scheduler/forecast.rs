//! How long what waits will take to begin, if everything goes on as it is now. Pure arithmetic: videos are poured like water
//! through everything that limits them, tenants side by side by their weights, a tenant's batches in their order.
//!
//! Always holds: it ends after a fixed number of steps, whatever waits. Steps grow with time, so that an answer is as exact
//! for the next seconds as for the next days: within some percent. Refuses: clocks, and to know what will go wrong.

/// The first step, in seconds, and how each grows on the one before: 290 of them reach over a month.
const FIRST_STEP: f64 = 0.2;
const GROWTH: f64 = 1.05;
const STEPS: usize = 290;
/// In one step tenants that want more share what others left so often.
const PASSES: usize = 6;
/// Less than that of a video, or of a turn, is nothing.
const NOTHING: f64 = 1e-6;

/// Something that videos need to begin: turns of a rate, or slots for as long as a video takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Supply {
    /// What there is now.
    pub(super) level: f64,
    /// What comes in a second.
    pub(super) per_second: f64,
    /// What is kept at the most when nobody wants it.
    pub(super) most: f64,
}

/// Videos of one batch and model that wait.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The place of its weight. Flows of a tenant stand beside each other, what goes first first.
    pub(super) tenant: usize,
    pub(super) videos: f64,
    /// Nothing of it begins, nobody knows until when.
    pub(super) shut: bool,
    /// What each video needs of the supply that all share, which is the first one, and how much of others, by their place.
    pub(super) shared: f64,
    pub(super) needs: Vec<(usize, f64)>,
}

impl Flow {
    /// One of which nothing begins.
    pub(super) fn shut() -> Flow {
        Flow { tenant: 0, videos: 0.0, shut: true, shared: 0.0, needs: vec![] }
    }
}

/// When videos of a flow begin, in seconds from now; none where it takes too long for anybody to care.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Begins {
    pub(super) first: Option<f64>,
    pub(super) last: Option<f64>,
}

/// A flow on its way.
struct Poured {
    left: f64,
    taken: f64,
    begins: Begins,
}

/// When each flow begins. `supplies` begins with the one that everybody shares; there is a weight for every tenant.
pub(super) fn forecast(flows: &[Flow], weights: &[f64], supplies: &mut [Supply]) -> Vec<Begins> {
    let mut poured: Vec<Poured> =
        flows.iter().map(|flow| Poured { left: flow.videos, taken: 0.0, begins: Begins::default() }).collect();
    if supplies.is_empty() {
        return poured.into_iter().map(|flow| flow.begins).collect();
    }
    let mut tenants = by_tenant(flows);
    let (mut now, mut step) = (0.0, 0.0);
    for _ in 0..STEPS {
        for supply in supplies.iter_mut() {
            let more = supply.per_second * step;
            supply.level = (supply.level + more).min(supply.most.max(more));
        }
        let until = now + step;
        pour(flows, &mut poured, (&tenants, weights), supplies, (now, until));
        tenants.retain(|(_, range)| poured[range.clone()].iter().any(|flow| flow.left > NOTHING));
        if tenants.is_empty() {
            break;
        }
        now = until;
        step = if step == 0.0 { FIRST_STEP } else { step * GROWTH };
    }
    poured.into_iter().map(|flow| flow.begins).collect()
}

/// The flows of each tenant.
fn by_tenant(flows: &[Flow]) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut tenants: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for (at, flow) in flows.iter().enumerate() {
        match tenants.last_mut() {
            Some((tenant, range)) if *tenant == flow.tenant => range.end = at + 1,
            _ => tenants.push((flow.tenant, at..at + 1)),
        }
    }
    tenants
}

/// One step: what is there is shared by weight, and what somebody cannot use goes to the others.
fn pour(
    flows: &[Flow],
    poured: &mut [Poured],
    (tenants, weights): (&[(usize, std::ops::Range<usize>)], &[f64]),
    supplies: &mut [Supply],
    (now, until): (f64, f64),
) {
    let mut hungry: Vec<usize> = (0..tenants.len()).collect();
    for _ in 0..PASSES {
        let shared = supplies[0].level;
        let weight = |at: &usize| weights.get(tenants[*at].0).copied().unwrap_or(1.0);
        let sum: f64 = hungry.iter().map(weight).sum();
        if shared <= NOTHING || hungry.is_empty() {
            return;
        }
        hungry.retain(|at| {
            let mut share = shared * weight(at) / sum;
            for flow in tenants[*at].1.clone() {
                if !flows[flow].shut {
                    take(&flows[flow], &mut poured[flow], &mut share, supplies, (now, until));
                }
            }
            // who could not use its share does not want more
            share <= NOTHING
        });
    }
}

/// Lets a flow take what it can of its tenant's share.
fn take(flow: &Flow, poured: &mut Poured, share: &mut f64, supplies: &mut [Supply], (now, until): (f64, f64)) {
    if poured.left <= NOTHING || *share <= NOTHING {
        return;
    }
    let of_shared = if flow.shared > 0.0 { *share / flow.shared } else { f64::INFINITY };
    let possible = flow.needs.iter().fold(of_shared, |least, (supply, each)| least.min(supplies[*supply].level / each));
    let taken = poured.left.min(possible).max(0.0);
    if taken <= 0.0 {
        return;
    }
    *share -= taken * flow.shared;
    supplies[0].level -= taken * flow.shared;
    for (supply, each) in &flow.needs {
        supplies[*supply].level -= taken * each;
    }
    poured.taken += taken;
    // a whole video has to be there before one begins
    if poured.begins.first.is_none() && poured.taken >= flow.videos.min(1.0) - NOTHING {
        poured.begins.first = Some(until);
    }
    poured.left -= taken;
    if poured.left <= NOTHING {
        poured.left = 0.0;
        let part = if possible.is_finite() && possible > 0.0 { taken / possible } else { 0.0 };
        let last = now + (until - now) * part;
        poured.begins =
            Begins { first: Some(poured.begins.first.map_or(last, |first| first.min(last))), last: Some(last) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots, all free, for videos that take so long.
    fn slots(slots: f64, secs: f64) -> Supply {
        Supply { level: slots * secs, per_second: slots, most: slots * secs }
    }

    fn rate(per_second: f64) -> Supply {
        Supply { level: 0.0, per_second, most: per_second }
    }

    fn flow(tenant: usize, videos: f64, secs: f64, needs: &[usize]) -> Flow {
        let needs = needs.iter().map(|at| (*at, 1.0)).collect();
        Flow { tenant, videos, shut: false, shared: secs, needs }
    }

    fn near(begins: Option<f64>, wanted: f64) {
        let begins = begins.expect("it begins");
        assert!((begins - wanted).abs() <= 0.3 + wanted * 0.06, "{begins} is not about {wanted}");
    }

    #[test]
    fn slots_turn_over_and_a_rate_goes_on() {
        // ten at once, 3 s each: of 1,000 the last begins after 99 rounds
        let begins = forecast(&[flow(0, 1_000.0, 3.0, &[])], &[1.0], &mut [slots(10.0, 3.0)]);
        near(begins[0].first, 0.0);
        near(begins[0].last, 297.0);
        let few = forecast(&[flow(0, 7.0, 3.0, &[])], &[1.0], &mut [slots(10.0, 3.0)]);
        near(few[0].last, 0.0);
        let paced = forecast(&[flow(0, 600.0, 3.0, &[1])], &[1.0], &mut [slots(100.0, 3.0), rate(2.0)]);
        near(paced[0].last, 300.0);
        near(paced[0].first, 0.5);
    }

    #[test]
    fn tenants_share_by_weight_and_what_one_cannot_use_goes_to_the_other() {
        let mut supplies = [slots(10.0, 1.0)];
        let begins = forecast(&[flow(0, 300.0, 1.0, &[]), flow(1, 900.0, 1.0, &[])], &[1.0, 3.0], &mut supplies);
        near(begins[0].last, 119.0);
        near(begins[1].last, 119.0);
        // the first may begin one a second, the second has the other nine
        let limited = [flow(0, 100.0, 1.0, &[1]), flow(1, 900.0, 1.0, &[])];
        let begins = forecast(&limited, &[1.0, 1.0], &mut [slots(10.0, 1.0), rate(1.0)]);
        near(begins[0].last, 100.0);
        near(begins[1].last, 99.0);
    }

    #[test]
    fn within_a_tenant_the_first_goes_first_and_a_shut_one_stands_in_nobodys_way() {
        let flows = [Flow::shut(), flow(0, 100.0, 1.0, &[]), flow(0, 100.0, 1.0, &[])];
        let begins = forecast(&flows, &[1.0], &mut [slots(10.0, 1.0)]);
        near(begins[1].last, 9.0);
        near(begins[2].first, 9.0);
        near(begins[2].last, 19.0);
        assert_eq!(begins[0], Begins::default());
    }

    #[test]
    fn what_never_begins_is_not_foretold() {
        let begins = forecast(&[flow(0, 5.0, 1.0, &[])], &[1.0], &mut [slots(0.0, 1.0)]);
        assert_eq!(begins, [Begins::default()]);
        let nobody = forecast(&[], &[], &mut [slots(1.0, 1.0)]);
        assert!(nobody.is_empty());
    }
}
