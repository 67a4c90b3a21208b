//! What is decided about one create: script, then policy, then chance.

use super::callbacks::CallbackFault;
use super::jobs::Order;
use super::profile::{Lot, Profile};
use super::script::{Fault, Script};

pub(super) struct Fate {
    pub(super) at_create: Option<Fault>,
    pub(super) on_job: Option<Fault>,
    pub(super) latency_ms: u64,
    pub(super) callback: Option<CallbackFault>,
}

impl Fate {
    /// The fate of the `nth` create of this prompt.
    pub(super) fn of((request, nth): (&Order, u32), lot: Lot, profile: &Profile, rules: [&mut Script; 2]) -> Fate {
        let latency_ms = profile.latency(lot);
        if rules.iter().any(|script| !script.is_empty()) {
            let prompt = request.prompt.to_lowercase();
            let rule = rules.into_iter().find_map(|script| script.take(&prompt, &request.model, nth));
            if let Some(rule) = rule {
                let latency_ms = rule.latency_ms.unwrap_or(latency_ms);
                let callback = rule.callback.clone();
                return match rule.fault.clone() {
                    Some(fault) if fault.strikes_at_create() => {
                        Fate { at_create: Some(fault), on_job: None, latency_ms, callback }
                    }
                    on_job => Fate { at_create: None, on_job, latency_ms, callback },
                };
            }
        }
        let chances = profile.chances(lot);
        Fate { at_create: chances.at_create, on_job: chances.on_job, latency_ms, callback: None }
    }
}
