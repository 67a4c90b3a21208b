//! Scripted behaviour: which create meets which fault.
//!
//! A [`Rule`] names the creates it speaks for (text in the prompt, model, nth create of that prompt) and what happens to
//! them. Rules are asked in the order in which they were set, the first one that fits wins, and they come before any chance
//! that the profile takes. The same rules describe a profile's standing policy (`Profile::policy`).
//!
//! A rule decides once, at the create; the job then carries its fault for life, so that later changes to the script do not
//! rewrite jobs that were already accepted.

use serde::{Deserialize, Serialize};

use super::callbacks::CallbackFault;
use super::hostile::Attack;

/// Everything that can go wrong, in the order in which a video meets it. JSON: `{"kind":"rate_limited","retry_after_secs":2}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    // Refused at the create: nothing is booked, nothing will be charged.
    /// 400 `sentinel_block`: the policy refuses the prompt before a job exists.
    ModerationAtSubmit,
    /// 429 `rate_limit_exceeded`, with `Retry-After` in seconds when given.
    RateLimited { retry_after_secs: Option<u32> },
    /// 429 with `Retry-After` as an HTTP date so many seconds ahead.
    RateLimitedUntil { secs: u32 },
    /// 429 that tells the wait in the vendor's own form, where it has one; else in `Retry-After`.
    RateLimitedInBody { secs: u32 },
    /// 429 `insufficient_quota`: waiting does not help.
    QuotaExhausted,
    /// 404 `model_not_found`, what a provider says of a model that it has switched off.
    ModelNotFound,
    /// `status` (500, 503, ...) with the error envelope, nothing booked.
    ServerError { status: u16 },
    /// The connection is closed without an answer and nothing was booked: to a client it looks like `DroppedAfterAccept`.
    DroppedBeforeAccept,
    /// 502 with a gateway's HTML page; whether the job was `accepted` behind it is the gateway's secret.
    HtmlBadGateway { accepted: bool },

    // Accepted and booked, but the answer is spoiled.
    /// The whole answer comes `ms` milliseconds late.
    SlowAnswer { ms: u64 },
    /// Status and headers come at once, the body `ms` milliseconds later.
    SlowBody { ms: u64 },
    /// The connection is closed without an answer.
    DroppedAfterAccept,
    /// `status` with the error envelope although the job exists.
    ErrorAfterAccept { status: u16 },
    /// The JSON body breaks off half way and the connection closes.
    TruncatedAnswer,
    /// The answer is JSON of a form that nobody should trust.
    HostileAnswer { form: Hostile },

    // The job itself.
    /// Ends `failed` with code `moderation_blocked`.
    JobModerated,
    /// Ends `failed` with code `video_generation_failed`.
    JobFailed,
    /// Stays `in_progress` for ever.
    Stall,
    /// `progress` jumps back and forth until the job completes.
    ProgressBackwards,
    /// Says `post_processing`, a word outside the protocol, until the job completes.
    UnknownStatus,
    /// Polls and lists do not know the job from the start (404), yet it is made and charged: the costly case.
    Gone,
    /// The first `first` polls answer `status`.
    PollErrors { first: u32, status: u16 },
    /// Polls (the first so many, or all) are answered with JSON that nobody should trust.
    HostilePolls { form: Hostile, first: Option<u32> },
    /// Once finished, every other poll says that it is still running.
    ContradictoryPolls,
    /// Says 100 per cent long before it is finished.
    FullProgress,

    // The download. `first` limits the fault to the first so many downloads; without it every download is hit.
    /// `expires_at` has passed by the time the job completes, and `/content` answers 404.
    ExpiredLink,
    /// `Content-Length` tells the truth, half of the bytes come, the connection closes.
    ShortBody { first: Option<u32> },
    /// 200 with no bytes.
    EmptyBody { first: Option<u32> },
    /// 200 `video/mp4` whose bytes are an HTML page.
    NotAVideo { first: Option<u32> },
    /// 404 for the file of a finished job, for ever.
    MissingFile,
    /// A body that never ends, and the `Content-Length` that it claims, if any.
    EndlessFile { claimed_bytes: Option<u64> },
    /// A byte every so many milliseconds.
    TrickledFile { pause_ms: u64 },
    /// The provider sends whoever asks for the file somewhere else.
    RedirectedFile { to: Detour },
    /// The film is as it should be, its thumbnail is not.
    OddThumbnail { form: OddPicture },

    /// One of the many kinds of hostility, at the moment that it names.
    Attack { attack: Attack },
}

/// What comes in place of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OddPicture {
    /// 404.
    Missing,
    /// 200 `image/webp` whose bytes are an HTML page.
    Page,
    /// The film, as from a server that does not know of variants.
    Film,
    /// A picture that begins well and never ends.
    Endless,
    /// Headers, and then nothing.
    Silent,
    /// Half of a picture that says it is whole.
    Cut,
}

/// JSON that nobody should trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hostile {
    /// One text that never ends.
    Huge,
    /// Lists within lists, 100,000 of them.
    Deep,
    /// Every value is of a type that the protocol does not have there.
    WrongTypes,
    /// Every value is null.
    Nulls,
    /// An empty object.
    Missing,
    /// Numbers and truths are texts, and texts that are numbers are numbers. What it says is true.
    Swapped,
}

/// Where a redirect leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detour {
    /// The emulator's other host, which has the file and needs no key.
    OtherHost,
    /// The address at which clouds give out their secrets.
    Metadata,
    /// Itself, for ever.
    Circle,
}

impl Fault {
    /// Whether the fault is spent at the create: the job behind it, if one is booked, then runs without fault.
    pub(super) fn strikes_at_create(&self) -> bool {
        self.refusal().is_some()
            || matches!(self, Fault::Attack { attack } if attack.strikes_at_create())
            || matches!(
                self,
                Fault::HtmlBadGateway { .. }
                    | Fault::SlowAnswer { .. }
                    | Fault::SlowBody { .. }
                    | Fault::DroppedAfterAccept
                    | Fault::ErrorAfterAccept { .. }
                    | Fault::TruncatedAnswer
                    | Fault::HostileAnswer { .. }
            )
    }

    /// Under which word the book counts the create that this fault refuses; `None` when the create is accepted.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self {
            Fault::ModerationAtSubmit => Some("moderation"),
            Fault::RateLimited { .. } | Fault::RateLimitedUntil { .. } | Fault::RateLimitedInBody { .. } => {
                Some("rate_limited")
            }
            Fault::QuotaExhausted => Some("quota"),
            Fault::ModelNotFound => Some("model_not_found"),
            Fault::ServerError { .. } => Some("server_error"),
            Fault::DroppedBeforeAccept => Some("dropped"),
            Fault::HtmlBadGateway { accepted: false } => Some("bad_gateway"),
            Fault::Attack { attack } if attack.refuses() => Some("hostile"),
            _ => None,
        }
    }

    /// Whether the client of an accepted create never learns the job's id from its answer.
    pub(super) fn loses_answer(&self) -> bool {
        matches!(
            self,
            Fault::DroppedAfterAccept
                | Fault::ErrorAfterAccept { .. }
                | Fault::TruncatedAnswer
                | Fault::HtmlBadGateway { accepted: true }
        ) || matches!(self, Fault::Attack { attack } if attack.strikes_at_create() && !attack.refuses())
            || matches!(self, Fault::HostileAnswer { form } if *form != Hostile::Swapped)
    }
}

/// Which creates of one prompt, counted from 1 in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nth {
    pub from: u32,
    /// The last one meant; without it all later ones are meant too.
    #[serde(default)]
    pub to: Option<u32>,
}

impl Nth {
    /// Only the create number `nth`.
    pub fn only(nth: u32) -> Self {
        Nth { from: nth, to: Some(nth) }
    }

    fn contains(self, nth: u32) -> bool {
        nth >= self.from && self.to.is_none_or(|to| nth <= to)
    }
}

/// What happens to the creates that fit. A field left out restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// The prompt contains this text, in any letter case.
    pub prompt_contains: Option<String>,
    /// The model is exactly this one.
    pub model: Option<String>,
    pub on_nth: Option<Nth>,
    /// Without a fault the rule is a promise: these creates go well, whatever the profile's chances say.
    pub fault: Option<Fault>,
    /// How often the rule may be used before it is spent; without it, for ever.
    pub times: Option<u32>,
    /// Milliseconds from create to the job's end, in place of the profile's range.
    pub latency_ms: Option<u64>,
    /// What goes wrong with the job's callback, beside the fault.
    pub callback: Option<CallbackFault>,
}

impl Rule {
    /// Every create meets this fault.
    pub fn always(fault: Fault) -> Self {
        Rule { fault: Some(fault), ..Rule::default() }
    }

    /// Creates whose prompt contains `text` meet this fault.
    pub fn on_prompt(text: impl Into<String>, fault: Fault) -> Self {
        Rule { prompt_contains: Some(text.into()), ..Rule::always(fault) }
    }

    /// Creates for exactly this model meet this fault.
    pub fn on_model(model: impl Into<String>, fault: Fault) -> Self {
        Rule { model: Some(model.into()), ..Rule::always(fault) }
    }

    /// Creates whose prompt contains `text` go well and take `latency_ms` milliseconds.
    pub fn takes(text: impl Into<String>, latency_ms: u64) -> Self {
        Rule { prompt_contains: Some(text.into()), latency_ms: Some(latency_ms), ..Rule::default() }
    }

    pub fn nth(self, nth: Nth) -> Self {
        Rule { on_nth: Some(nth), ..self }
    }

    pub fn times(self, times: u32) -> Self {
        Rule { times: Some(times), ..self }
    }

    pub fn latency_ms(self, latency_ms: u64) -> Self {
        Rule { latency_ms: Some(latency_ms), ..self }
    }

    pub fn callback(self, fault: CallbackFault) -> Self {
        Rule { callback: Some(fault), ..self }
    }
}

/// A list of rules and how often each was used.
#[derive(Debug, Default)]
pub(super) struct Script {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    rule: Rule,
    /// `Rule::prompt_contains` in lower case, so that a create lowers its prompt once and the rules never.
    needle: Option<String>,
    used: u32,
}

impl Script {
    pub(super) fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut script = Script::default();
        for rule in rules {
            script.push(rule);
        }
        script
    }

    pub(super) fn push(&mut self, rule: Rule) {
        let needle = rule.prompt_contains.as_ref().map(|text| text.to_lowercase());
        self.lines.push(Line { rule, needle, used: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        self.lines.iter().map(|line| line.rule.clone()).collect()
    }

    /// The first rule that fits this create, and spends one use of it.
    pub(super) fn take(&mut self, prompt_lower: &str, model: &str, nth: u32) -> Option<&Rule> {
        let line = self.lines.iter_mut().find(|line| line.fits(prompt_lower, model, nth))?;
        line.used = line.used.saturating_add(1);
        Some(&line.rule)
    }
}

impl Line {
    fn fits(&self, prompt_lower: &str, model: &str, nth: u32) -> bool {
        self.rule.times.is_none_or(|times| self.used < times)
            && self.rule.on_nth.is_none_or(|range| range.contains(nth))
            && self.rule.model.as_deref().is_none_or(|wanted| wanted == model)
            && self.needle.as_deref().is_none_or(|needle| prompt_lower.contains(needle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(script: &mut Script, prompt: &str, nth: u32) -> Option<Fault> {
        script.take(prompt, "sora-2", nth).and_then(|rule| rule.fault.clone())
    }

    #[test]
    fn the_first_fitting_rule_wins_and_is_spent_after_its_times() {
        let mut script = Script::new([
            Rule::on_prompt("FOX", Fault::Stall).times(1),
            Rule::on_model("veo-3.1", Fault::QuotaExhausted),
            Rule::on_prompt("fox", Fault::JobFailed).nth(Nth { from: 2, to: None }),
        ]);
        assert_eq!(fault_of(&mut script, "a red fox", 1), Some(Fault::Stall));
        assert_eq!(fault_of(&mut script, "a red fox", 1), None);
        assert_eq!(fault_of(&mut script, "a red fox", 2), Some(Fault::JobFailed));
        assert_eq!(fault_of(&mut script, "a heron", 1), None);
    }

    #[test]
    fn a_rule_survives_its_journey_through_json() {
        let rule = Rule::on_prompt("fox", Fault::RateLimited { retry_after_secs: Some(2) }).nth(Nth::only(3)).times(4);
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
        let short: Rule = serde_json::from_str(r#"{"fault":{"kind":"short_body"}}"#).unwrap();
        assert_eq!(short, Rule::always(Fault::ShortBody { first: None }));
        assert!(serde_json::from_str::<Rule>(r#"{"fualt":{"kind":"stall"}}"#).is_err());
    }

    #[test]
    fn a_fault_is_either_spent_at_the_create_or_carried_by_the_job() {
        assert!(Fault::ModerationAtSubmit.strikes_at_create() && !Fault::ModerationAtSubmit.loses_answer());
        assert!(Fault::DroppedAfterAccept.loses_answer() && Fault::DroppedAfterAccept.refusal().is_none());
        assert!(Fault::SlowAnswer { ms: 1 }.strikes_at_create() && !Fault::SlowAnswer { ms: 1 }.loses_answer());
        assert!(!Fault::ShortBody { first: None }.strikes_at_create());
        assert!(Fault::HtmlBadGateway { accepted: true }.strikes_at_create());
    }
}
