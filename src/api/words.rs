//! The closed lists of words that the API shows, documented from the domain's own lists: a state added there is shown here
//! without anybody's help.

use std::borrow::Cow;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

use crate::domain::{BatchStatus, FailureClass, GrantSource, LedgerAct, VideoState, WaitingReason};
use crate::limits::{Rule, Scope};

/// A closed list of words.
pub trait Vocabulary: Copy + Send + Sync + 'static {
    /// The schema's name in the document.
    const NAME: &'static str;
    const ABOUT: &'static str;
    fn all() -> &'static [Self];
    fn word(self) -> &'static str;
}

macro_rules! vocabulary {
    ($($list:ident . $all:ident . $word:ident is $name:literal $about:literal;)+) => {
        $(impl Vocabulary for $list {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = $about;

            fn all() -> &'static [$list] {
                &$list::$all
            }

            fn word(self) -> &'static str {
                $list::$word(self)
            }
        })+
    };
}

vocabulary! {
    BatchStatus.ALL.word is "BatchStatus"
        "`queued`: accepted and paid for. `processing`: the first video was handed to a worker. `completed`, `partial`, \
         `failed`: all, some, none of the videos succeeded, and the money is settled.";
    VideoState.ALL.word is "VideoState"
        "`waiting`: for its turn, or before another attempt. `released`: a worker will take it. `running`: being made. \
         `succeeded`: stored and charged with the batch. `failed`: refunded.";
    FailureClass.ALL.name is "FailureType" "Why a video failed. Every failed video is refunded in full, whatever its type.";
    WaitingReason.ALL.word is "WaitingReason"
        "Why a video waits. `queued`: its turn is near. `back_off`: its last attempt failed, the next is not due. \
         `tenant_limit`, `model_limit`, `provider_limit`, `batch_pace`: that many have started in this minute, or are under \
         way. `cooldown`: the provider asked for a pause. `circuit_open`: orders failed one after the other at the provider, \
         which is tried by one video at a time. `paused`: you paused the batch, or an operator paused something on its way. \
         `out_of_quota`, `refused`, `no_route`: on our side, an operator has to act. `no_worker`: all our workers are busy.";
    GrantSource.ALL.word is "CreditSource"
        "Where credits came from. They are spent in this order, and a refund returns to its own source.";
    LedgerAct.OF_CUSTOMERS.word is "LedgerAct" "What an entry records.";
    Scope.ALL.name is "LimitScope" "What a limit is for.";
    Rule.ALL.name is "LimitRule"
        "What is limited. `videos_per_minute`: videos that start in any 60 seconds. `requests_per_minute`: orders that an account \
         gets in any 60 seconds, or requests of a tenant that one API process answers in a minute. `max_in_flight`: videos \
         under way at once. `weight`: a tenant's share beside others. `spend_credits`: what the videos may cost us \
         that begin at an account in any `spend_window_secs` seconds. `paused`: nothing new begins.";
}

/// A word of a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<T>(pub T);

impl<T: Vocabulary> Type for Word<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(T::NAME.to_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>(T::NAME.to_owned(), |_| MetaSchema {
            description: Some(T::ABOUT),
            enum_items: T::all().iter().map(|value| value.word().into()).collect(),
            ..MetaSchema::new("string")
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Vocabulary> ParseFromParameter for Word<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let found = T::all().iter().find(|value| value.word() == text);
        found.map(|value| Word(*value)).ok_or_else(|| {
            let words: Vec<&str> = T::all().iter().map(|value| value.word()).collect();
            ParseError::custom(format!("must be one of {}", words.join(", ")))
        })
    }
}

impl<T: Vocabulary> ParseFromJSON for Word<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let value = value.unwrap_or_default();
        Self::parse_from_parameter(value.as_str().unwrap_or_default())
    }
}

impl<T: Vocabulary> ToJSON for Word<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.word().into())
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ParseFromParameter as _;

    use super::Word;
    use crate::domain::VideoState;

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        assert_eq!(Word::parse_from_parameter("failed").unwrap(), Word(VideoState::Failed));
        let error = Word::<VideoState>::parse_from_parameter("Failed").unwrap_err().into_message();
        assert!(error.ends_with("must be one of waiting, released, running, succeeded, failed"), "{error}");
    }
}
