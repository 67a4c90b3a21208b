//! How one video ended, held against what may become of its kind.

use serde::Serialize;

use super::kinds::Kind;

/// The longest message that a customer is shown, in characters: the provider's words, and ours around them.
const MAX_MESSAGE_CHARS: usize = 400;

/// The end of a video.
#[derive(Clone, Debug, Default, Serialize)]
pub struct End {
    pub state: String,
    /// The failure class, empty when it was made.
    pub class: String,
    /// What the customer reads, empty when it was made.
    pub message: String,
    /// Its whole price is back.
    pub refunded: bool,
    pub attempts: i32,
    /// From the order to the end.
    pub seconds: f64,
}

impl Kind {
    /// What is wrong with this end; `secrets` must not stand in the message.
    pub fn complaints(self, end: &End, secrets: &[&str]) -> Vec<String> {
        let expected = self.expected();
        let mut wrong = Vec::new();
        match end.state.as_str() {
            "succeeded" if expected.fate.must_fail() => wrong.push("it was made and charged".to_owned()),
            "succeeded" if end.refunded => wrong.push("it was made and refunded".to_owned()),
            "succeeded" => {}
            "failed" if !end.refunded => wrong.push("it was not refunded".to_owned()),
            "failed" if !expected.classes.iter().any(|class| class.name() == end.class) => {
                wrong.push(format!("it failed as {}", end.class));
            }
            "failed" if end.message.is_empty() => wrong.push("nobody says why it failed".to_owned()),
            "failed" => {}
            other => wrong.push(format!("it is {other}")),
        }
        wrong.extend(faults_of(&end.message, secrets).map(|fault| format!("its message {fault}")));
        wrong.into_iter().map(|what| format!("{self}: {what}: {:?}", end.message)).collect()
    }
}

/// What a customer should not read.
fn faults_of<'m>(message: &'m str, secrets: &[&str]) -> impl Iterator<Item = &'static str> + use<'m> {
    let tag = |(at, _): (usize, &str)| message[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let steers = |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    let faults = [
        (secrets.iter().any(|secret| message.contains(secret)), "tells the prompt or the key"),
        (message.contains("://"), "has a link"),
        (message.chars().any(steers), "has control characters"),
        (message.match_indices('<').any(tag), "has HTML"),
        (message.chars().count() > MAX_MESSAGE_CHARS, "is long"),
    ];
    faults.into_iter().filter(|(there, _)| *there).map(|(_, fault)| fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_end_and_a_message_that_attacks_are_complained_about() {
        let kind = Kind::round(0)[0];
        let end = |state: &str, refunded, message: &str| End {
            state: state.to_owned(),
            class: "moderation".to_owned(),
            message: message.to_owned(),
            refunded,
            attempts: 1,
            seconds: 1.0,
        };
        for (end, complaints) in [
            (end("succeeded", false, ""), 0),
            (end("succeeded", true, ""), 1),
            (end("running", false, ""), 1),
            (end("failed", false, "x"), 1),
            (end("failed", true, "\u{1b}[2J <b>the key</b> at http://x"), 5),
        ] {
            assert_eq!(kind.complaints(&end, &["the key"]).len(), complaints, "{end:?}");
        }
    }
}
