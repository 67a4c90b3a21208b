//! The provider's character: which models it sells, how long a video takes, and how often what goes wrong.
//!
//! Nothing here is left to a random generator: every chance is drawn by hashing the seed, the prompt and how many creates of
//! that prompt came before. A run with the same seed meets the same faults whatever the order and the timing of its requests.
//!
//! Chances alone cannot promise that twenty prompts show a refusal. `Profile::demo()` therefore takes no chances at all: like a
//! real content policy it reads the prompt, and its standing rules ([`Profile::policy`]) name the phrases that it objects to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::script::{Fault, Nth, Rule};

/// A model on offer. Prices are the vendors' list prices in US cents (see [`Profile::calm`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    pub name: String,
    /// Lengths on offer, as the protocol spells them; the first is what an omitted `seconds` means.
    pub seconds: Vec<String>,
    /// Sizes on offer and the price of one second in US cents.
    pub cents_per_second: BTreeMap<String, u32>,
}

impl ModelCard {
    fn new(name: &str, seconds: &[&str], prices: &[(u32, &[&str])]) -> Self {
        let priced = prices.iter().flat_map(|(cents, sizes)| sizes.iter().map(|size| ((*size).to_owned(), *cents)));
        ModelCard {
            name: name.to_owned(),
            seconds: seconds.iter().map(|text| (*text).to_owned()).collect(),
            cents_per_second: priced.collect(),
        }
    }
}

/// Latency, faults and money rules. The `*_permille` chances of one group exclude each other: they share one draw, so
/// a group's sum should stay within 1000 (what exceeds it is never reached).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Milliseconds from create to a job's end, lowest and highest, evenly spread.
    pub latency_ms: (u64, u64),

    // Group 1, drawn at the create.
    pub moderation_at_submit_permille: u32,
    /// 429 without `Retry-After`.
    pub rate_limited_permille: u32,
    /// 429 with `Retry-After: 1`.
    pub rate_limited_with_retry_after_permille: u32,
    pub quota_permille: u32,
    /// 503, nothing booked.
    pub server_error_permille: u32,
    pub slow_answer_permille: u32,
    pub dropped_after_accept_permille: u32,
    pub error_after_accept_permille: u32,

    // Group 2, drawn for the accepted job.
    pub moderation_permille: u32,
    pub provider_fault_permille: u32,
    pub expired_link_permille: u32,
    /// The first download breaks off, the second is whole.
    pub short_body_permille: u32,

    /// How late a slow answer is, in milliseconds.
    pub slow_answer_ms: u64,
    /// Standing rules, asked after the script and before any chance.
    pub policy: Vec<Rule>,

    /// Seconds from completion to `expires_at`.
    pub output_ttl_secs: u64,
    /// Whether a failed or moderated job costs as much as a good one (vendors differ, some do not say).
    pub charge_failed: bool,
    /// Sent as `openai-poll-after-ms` with every video object when set.
    pub poll_after_ms: Option<u64>,
    /// While set, the list of jobs of the `/v1/videos` surface is answered with this status: an outage (500, 503), or a
    /// vendor that has no list (404, 405).
    pub list_outage_status: Option<u16>,
    /// Whether the `/v1/videos` surface answers the same `Idempotency-Key` by the same job. Otherwise the header means nothing.
    pub honours_keys: bool,
    /// What `/content` answers before completion: 404, or 400 as some gateways do.
    pub content_not_ready_status: u16,
    /// Length of the clips handed out; independent of the seconds bought, so that downloads stay small.
    pub clip_seconds: u32,
    /// Every prompt gets the same clip, painted once: for benches that measure something else.
    pub one_clip_for_all: bool,
    pub models: Vec<ModelCard>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile::calm()
    }
}

impl Profile {
    /// No faults, videos in 20 to 60 ms. Models, lengths, sizes and prices follow the vendors' published tables: OpenAI's
    /// video guide (`sora-2` $0.10/s; `sora-2-pro` $0.30, $0.50, $0.70/s by size) and Google's price list (Veo 3.1 $0.40/s,
    /// fast $0.10 and $0.12/s), the latter in the lengths in which gateways resell it through `/v1/videos`; Gemini Omni
    /// $0.03 to $0.30/s by resolution. What fal sells beside Veo has made-up prices: its lengths and forms are the point.
    pub fn calm() -> Self {
        Profile {
            latency_ms: (20, 60),
            moderation_at_submit_permille: 0,
            rate_limited_permille: 0,
            rate_limited_with_retry_after_permille: 0,
            quota_permille: 0,
            server_error_permille: 0,
            slow_answer_permille: 0,
            dropped_after_accept_permille: 0,
            error_after_accept_permille: 0,
            moderation_permille: 0,
            provider_fault_permille: 0,
            expired_link_permille: 0,
            short_body_permille: 0,
            slow_answer_ms: 2_000,
            policy: Vec::new(),
            output_ttl_secs: 3_600,
            charge_failed: false,
            poll_after_ms: None,
            list_outage_status: None,
            honours_keys: false,
            content_not_ready_status: 404,
            clip_seconds: 3,
            one_clip_for_all: false,
            models: catalogue(),
        }
    }

    /// For showing the product: videos in 1.2 to 4.5 s, no chances, and prompts that carry their own fate:
    ///
    /// | the prompt contains | what happens |
    /// |---|---|
    /// | `real celebrity` | accepted, then the job ends `moderation_blocked`, on every try |
    /// | `gore` | refused at submit with `sentinel_block`, on every try |
    /// | `impossible physics` | accepted, then the job fails by the provider's fault, on every try |
    /// | `flaky` | the first job fails by the provider's fault, the next one succeeds |
    /// | `lost answer` | the first create is accepted and booked, but its connection breaks before the answer |
    ///
    /// Every other prompt succeeds.
    pub fn demo() -> Self {
        Profile {
            latency_ms: (1_200, 4_500),
            policy: vec![
                Rule::on_prompt("real celebrity", Fault::JobModerated),
                Rule::on_prompt("gore", Fault::ModerationAtSubmit),
                Rule::on_prompt("impossible physics", Fault::JobFailed),
                Rule::on_prompt("flaky", Fault::JobFailed).nth(Nth::only(1)),
                Rule::on_prompt("lost answer", Fault::DroppedAfterAccept).nth(Nth::only(1)),
            ],
            ..Profile::calm()
        }
    }

    /// For endurance: every kind of chance fault at once, refusals and lost answers in about a fifth of the creates.
    pub fn rough() -> Self {
        Profile {
            latency_ms: (20, 400),
            moderation_at_submit_permille: 10,
            rate_limited_permille: 30,
            rate_limited_with_retry_after_permille: 30,
            server_error_permille: 30,
            slow_answer_permille: 20,
            slow_answer_ms: 300,
            dropped_after_accept_permille: 40,
            error_after_accept_permille: 40,
            moderation_permille: 30,
            provider_fault_permille: 80,
            expired_link_permille: 10,
            short_body_permille: 50,
            ..Profile::calm()
        }
    }

    pub(super) fn model(&self, name: &str) -> Option<&ModelCard> {
        self.models.iter().find(|card| card.name == name)
    }

    /// What chance has in store for one create.
    pub(super) fn chances(&self, lot: Lot) -> Chances {
        let at_create = pick(
            lot.permille(Draw::Create),
            [
                (self.moderation_at_submit_permille, Fault::ModerationAtSubmit),
                (self.rate_limited_permille, Fault::RateLimited { retry_after_secs: None }),
                (self.rate_limited_with_retry_after_permille, Fault::RateLimited { retry_after_secs: Some(1) }),
                (self.quota_permille, Fault::QuotaExhausted),
                (self.server_error_permille, Fault::ServerError { status: 503 }),
                (self.slow_answer_permille, Fault::SlowAnswer { ms: self.slow_answer_ms }),
                (self.dropped_after_accept_permille, Fault::DroppedAfterAccept),
                (self.error_after_accept_permille, Fault::ErrorAfterAccept { status: 500 }),
            ],
        );
        let on_job = pick(
            lot.permille(Draw::Job),
            [
                (self.moderation_permille, Fault::JobModerated),
                (self.provider_fault_permille, Fault::JobFailed),
                (self.expired_link_permille, Fault::ExpiredLink),
                (self.short_body_permille, Fault::ShortBody { first: Some(1) }),
            ],
        );
        Chances { at_create, on_job }
    }

    /// How long the job takes from create to end, in milliseconds.
    pub(super) fn latency(&self, lot: Lot) -> u64 {
        let (low, high) = (self.latency_ms.0.min(self.latency_ms.1), self.latency_ms.0.max(self.latency_ms.1));
        let span = (high - low).saturating_add(1);
        low + lot.draw(Draw::Latency) % span
    }
}

fn catalogue() -> Vec<ModelCard> {
    const HD: &[&str] = &["720x1280", "1280x720"];
    const TALL: &[&str] = &["1024x1792", "1792x1024"];
    const FULL: &[&str] = &["1080x1920", "1920x1080"];
    const ULTRA: &[&str] = &["2160x3840", "3840x2160"];
    const SORA: &[&str] = &["4", "8", "12", "16", "20"];
    const SMALL: &[&str] = &["360x640", "640x360"];
    const VEO: &[&str] = &["8", "4", "6"];
    const OMNI: &[&str] = &["10", "3", "4", "5", "6", "7", "8", "9"];
    const FLUX: &[&str] = &["5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20"];
    let sora = |name| ModelCard::new(name, SORA, &[(10, HD)]);
    let pro = |name| ModelCard::new(name, SORA, &[(30, HD), (50, TALL), (70, FULL)]);
    let veo = |name| ModelCard::new(name, VEO, &[(40, HD), (40, FULL)]);
    let fast = |name| ModelCard::new(name, VEO, &[(10, HD), (12, FULL)]);
    vec![
        sora("sora-2"),
        sora("sora-2-2025-10-06"),
        sora("sora-2-2025-12-08"),
        pro("sora-2-pro"),
        pro("sora-2-pro-2025-10-06"),
        veo("veo-3.1"),
        veo("veo-3.1-generate-001"),
        fast("veo-3.1-fast"),
        fast("veo-3.1-fast-generate-001"),
        ModelCard::new("veo-3.1-generate-preview", VEO, &[(40, HD), (40, FULL), (60, ULTRA)]),
        ModelCard::new("veo-3.1-fast-generate-preview", VEO, &[(10, HD), (12, FULL), (30, ULTRA)]),
        ModelCard::new("gemini-omni-1.1-flash", OMNI, &[(3, SMALL), (10, HD), (15, FULL), (30, ULTRA)]),
        veo("fal-ai/veo3.1"),
        fast("fal-ai/veo3.1/fast"),
        fast("fal-ai/veo3.1/fast/image-to-video"),
        ModelCard::new("fal-ai/kling-video/v3/turbo/text-to-video", &["5", "10"], &[(8, HD)]),
        ModelCard::new("blackforestlabs/flux-3-max/text-to-video", FLUX, &[(10, HD), (15, FULL)]),
    ]
}

fn pick<const N: usize>(roll: u32, choices: [(u32, Fault); N]) -> Option<Fault> {
    let mut end = 0u32;
    for (permille, fault) in choices {
        end = end.saturating_add(permille);
        if roll < end {
            return Some(fault);
        }
    }
    None
}

/// What chance decided for one create.
pub(super) struct Chances {
    pub(super) at_create: Option<Fault>,
    pub(super) on_job: Option<Fault>,
}

/// The lot of one create: the seed, the prompt and which create of that prompt it is. Equal lots draw equal numbers.
#[derive(Clone, Copy)]
pub(super) struct Lot {
    mixed: u64,
}

/// The independent questions asked of one lot.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    Create = 1,
    Job = 2,
    Latency = 3,
    /// Whether null keys are left out of the video object.
    Sparse = 4,
}

impl Lot {
    /// `prompt_key` is any good hash of the prompt.
    pub(super) fn new(seed: u64, prompt_key: u64, nth: u32) -> Self {
        Lot { mixed: scramble(scramble(scramble(seed) ^ prompt_key) ^ u64::from(nth)) }
    }

    pub(super) fn draw(self, question: Draw) -> u64 {
        scramble(self.mixed ^ question as u64)
    }

    fn permille(self, question: Draw) -> u32 {
        (self.draw(question) % 1000) as u32
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit.
pub(super) fn scramble(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of(profile: &Profile, seed: u64, wanted: &Fault) -> usize {
        let lots = (0..10_000).map(|number| Lot::new(seed, scramble(number), 1));
        let hits = lots.filter(|lot| {
            let chances = profile.chances(*lot);
            chances.at_create.as_ref() == Some(wanted) || chances.on_job.as_ref() == Some(wanted)
        });
        hits.count()
    }

    #[test]
    fn chances_come_about_as_often_as_asked_for() {
        let profile = Profile { provider_fault_permille: 200, dropped_after_accept_permille: 50, ..Profile::calm() };
        for seed in [1, 2, 3] {
            let failed = share_of(&profile, seed, &Fault::JobFailed);
            let dropped = share_of(&profile, seed, &Fault::DroppedAfterAccept);
            assert!((1_850..2_150).contains(&failed), "seed {seed}: {failed} of 10000");
            assert!((430..570).contains(&dropped), "seed {seed}: {dropped} of 10000");
        }
    }

    #[test]
    fn the_same_lot_draws_the_same_and_another_seed_or_try_draws_anew() {
        let profile = Profile::rough();
        let draws = |seed, nth| (0..200).map(|key| profile.latency(Lot::new(seed, key, nth))).collect::<Vec<_>>();
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(8, 1));
        assert_ne!(draws(7, 1), draws(7, 2));
        assert!(draws(7, 1).iter().all(|latency| (20..=400).contains(latency)));
    }

    #[test]
    fn certain_and_impossible_chances_are_just_that() {
        let certain = Profile { quota_permille: 1000, ..Profile::calm() };
        assert_eq!(share_of(&certain, 5, &Fault::QuotaExhausted), 10_000);
        assert_eq!(share_of(&Profile::calm(), 5, &Fault::QuotaExhausted), 0);
    }

    #[test]
    fn a_reversed_or_boundless_latency_range_is_harmless() {
        let lot = Lot::new(1, 2, 3);
        assert!((10..=20).contains(&Profile { latency_ms: (20, 10), ..Profile::calm() }.latency(lot)));
        let boundless = Profile { latency_ms: (0, u64::MAX), ..Profile::calm() };
        assert!(boundless.latency(lot) < u64::MAX);
    }
}
