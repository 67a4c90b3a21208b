//! What the demo orders: twenty videos, some of which carry a phrase that makes the emulator misbehave
//! ([`crate::emulator::Profile::demo`] lists the phrases).

use serde_json::{Value, json};

/// One video of the demo: its name, its model and what it shows.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) model: &'static str,
    pub(super) prompt: &'static str,
}

const fn scene(name: &'static str, model: &'static str, prompt: &'static str) -> Scene {
    Scene { name, model, prompt }
}

/// The batch. What is to fail slowest comes first, so that its retries run beside the others' work.
pub(super) const SCENES: [Scene; 20] = [
    scene("endless-stairs", "sora-2", "An impossible physics study: a staircase that pours itself upwards"),
    scene("storm-chaser", "sora-2", "A flaky storm: snow drifts sideways past a lighthouse"),
    scene("harbour-dawn", "sora-2", "Fishing boats leave a quiet harbour at dawn, gulls overhead"),
    scene("red-carpet", "veo-3.1", "A real celebrity waves from a red carpet in the rain"),
    scene("glass-city", "veo-3.1", "A city of glass wakes up, sunlight runs down the towers"),
    scene("tea-ceremony", "sora-2", "Steam curls over a bowl of green tea, close up, soft light"),
    scene("night-market", "veo-3.1", "Lanterns sway above a crowded night market after the rain"),
    scene("paper-fleet", "sora-2", "Folded paper boats race down a rain gutter"),
    scene("lost-parcel", "sora-2", "A lost answer travels by pneumatic tube through an old post office"),
    scene("desert-train", "sora-2", "A long train crosses a salt desert, seen from above"),
    scene("clockmaker", "sora-2", "An old clockmaker fits the last wheel into a pocket watch"),
    scene("haunted-cinema", "sora-2", "Gore and thunder in an abandoned cinema"),
    scene("coral-garden", "veo-3.1", "A turtle glides over a coral garden, shafts of light"),
    scene("rooftop-garden", "sora-2", "Bees visit a rooftop garden in the evening sun"),
    scene("first-snow", "sora-2", "The first snow falls on a village square, children look up"),
    scene("bakery", "sora-2", "Loaves rise in a stone oven, time lapse"),
    scene("observatory", "veo-3.1", "The dome of an observatory opens under the Milky Way"),
    scene("street-piano", "sora-2", "A passer-by plays a street piano, pigeons scatter"),
    scene("autumn-drive", "sora-2", "A green car on a mountain road in autumn, drone view"),
    scene("tide-pool", "sora-2", "A crab inspects a tide pool, macro lens"),
];

/// The body of the order. `take` ends every prompt, so that the emulator tells this demo's videos from those of an earlier
/// one that was killed and is being finished beside it.
pub(super) fn order(webhook_url: &str, take: &str) -> Value {
    let items: Vec<Value> = SCENES
        .iter()
        .map(|scene| {
            let prompt = format!("{}, {take}", scene.prompt);
            json!({ "prompt": prompt, "model": scene.model, "custom_id": scene.name })
        })
        .collect();
    json!({ "items": items, "webhook_url": webhook_url, "metadata": { "campaign": "demo" } })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::SCENES;
    use crate::config::built_in_models;
    use crate::emulator::{Fault, Profile};

    #[test]
    fn every_misfortune_that_the_emulator_knows_by_heart_is_ordered_once() {
        let policy = Profile::demo().policy;
        let met = |fault: &Fault| {
            let phrase =
                policy.iter().find(|rule| rule.fault.as_ref() == Some(fault)).and_then(|r| r.prompt_contains.clone());
            let phrase = phrase.unwrap_or_else(|| panic!("no phrase leads to {fault:?}"));
            SCENES.iter().filter(|scene| scene.prompt.to_lowercase().contains(&phrase)).count()
        };
        for fault in [Fault::JobModerated, Fault::ModerationAtSubmit, Fault::DroppedAfterAccept] {
            assert_eq!(met(&fault), 1, "{fault:?}");
        }
        let phrases: Vec<String> = policy.iter().filter_map(|rule| rule.prompt_contains.clone()).collect();
        let unlucky = SCENES.iter().filter(|s| phrases.iter().any(|p| s.prompt.to_lowercase().contains(p)));
        assert_eq!(unlucky.count(), phrases.len(), "each phrase once, no scene by accident");
    }

    #[test]
    fn scenes_have_names_of_their_own_and_models_on_offer() {
        let names: BTreeSet<&str> = SCENES.iter().map(|scene| scene.name).collect();
        assert_eq!(names.len(), SCENES.len());
        let models = built_in_models();
        assert!(SCENES.iter().all(|scene| models.iter().any(|model| model.name == scene.model)));
    }
}
