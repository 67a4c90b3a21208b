//! Everything by which a provider can be an enemy: its answers, the way they come, its links and its files.
//!
//! An [`Attack`] is one kind of hostility, at one moment of a video's life. Nearly all are written to the socket byte by
//! byte ([`raw`]), because an HTTP server refuses to be as wrong as a hostile one. What an attack is told is the same for
//! every vendor's surface: the honest answer in that vendor's words, which it spoils.
//! Always holds: an attack that refuses a create has booked nothing, every other one has.
//! Refuses: to judge what a client should make of it.

mod answers;
mod assets;
mod forms;
mod links;
mod raw;
mod transport;

use poem::{Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::office::Office;
use super::outcomes::Download;
pub use answers::Answer;
pub use assets::Asset;
pub(super) use forms::{endless, json_answer};
pub use links::Link;
use raw::Script;
pub use transport::Wire;

/// A list of words: the variants, each with the word that names it in rules and reports.
macro_rules! words {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// Its name.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
    };
}
use words;

/// One kind of hostility. JSON: `{"create": "empty"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// The answer to a create.
    Create(Answer),
    /// The answer to a create, by the way it comes.
    CreateWire(Wire),
    /// The answer to a poll.
    Poll(Answer),
    /// The answer to a poll, by the way it comes.
    PollWire(Wire),
    /// Where the finished file is said to be.
    Link(Link),
    /// The finished file.
    File(Asset),
}

impl Attack {
    /// Every kind there is.
    pub fn all() -> Vec<Attack> {
        let answers = Answer::AT_CREATE.iter().copied().map(Attack::Create);
        let wires = Wire::ALL.iter().copied().map(Attack::CreateWire);
        let polls = Answer::AT_POLL.iter().copied().map(Attack::Poll);
        let poll_wires = Wire::AT_POLL.iter().copied().map(Attack::PollWire);
        let links = Link::ALL.iter().copied().map(Attack::Link);
        answers
            .chain(wires)
            .chain(polls)
            .chain(poll_wires)
            .chain(links)
            .chain(Asset::ALL.iter().copied().map(Attack::File))
            .collect()
    }

    /// Such as `create: empty`.
    pub fn name(self) -> String {
        match self {
            Attack::Create(answer) => format!("create: {}", answer.word()),
            Attack::CreateWire(wire) => format!("create: {}", wire.word()),
            Attack::Poll(answer) => format!("poll: {}", answer.word()),
            Attack::PollWire(wire) => format!("poll: {}", wire.word()),
            Attack::Link(link) => format!("link: {}", link.word()),
            Attack::File(asset) => format!("file: {}", asset.word()),
        }
    }

    /// How many creates of a prompt it strikes before it lets one through; `None` for all.
    pub fn first_creates(self) -> Option<u32> {
        match self {
            Attack::Create(answer) => answer.first_creates(),
            _ => None,
        }
    }

    pub(super) fn strikes_at_create(self) -> bool {
        matches!(self, Attack::Create(_) | Attack::CreateWire(_))
    }

    /// Whether nothing is booked.
    pub(super) fn refuses(self) -> bool {
        matches!(self, Attack::Create(answer) if answer.refuses())
    }

    /// Whether the job is to end as a failed one.
    pub(super) fn fails_the_job(self) -> bool {
        matches!(self, Attack::Poll(answer) if answer.fails_the_job())
    }
}

/// The honest answer, and what a liar needs to know to spoil it.
pub(super) struct Scene<'a> {
    pub(super) status: u16,
    pub(super) answer: &'a Value,
    /// The job's id as the surface spells it; empty when there is no job.
    pub(super) id: &'a str,
    pub(super) prompt: &'a str,
    /// Which poll this is, from 1; 0 for a create.
    pub(super) polls: u32,
    pub(super) finished: bool,
}

impl Office {
    /// The answer to a create that `attack` spoils.
    pub(super) fn attacked(&self, attack: Attack, scene: &Scene<'_>, request: &Request) -> Response {
        let script = match attack {
            Attack::Create(answer) | Attack::Poll(answer) => answer.script(scene, self),
            Attack::CreateWire(wire) | Attack::PollWire(wire) => Some(wire.script(scene)),
            Attack::Link(link) => return self.honest(scene.status, &link.rewritten(scene.answer, self)),
            Attack::File(_) => None,
        };
        match script {
            Some(script) => self.play(script, request),
            None => self.honest(scene.status, scene.answer),
        }
    }

    /// The answer to a download that `attack` spoils; `film` is the honest one. `None` when it comes as it is.
    pub(super) fn attacked_file(
        &self,
        attack: Attack,
        (download, film): (&Download, &bytes::Bytes),
        request: &Request,
    ) -> Option<Response> {
        let script = match attack {
            Attack::File(asset) => Some(asset.script(film, &download.order.prompt)),
            Attack::Link(link) => link.answered(request, self),
            _ => None,
        };
        script.map(|script| self.play(script, request))
    }

    fn honest(&self, status: u16, value: &Value) -> Response {
        let mut answer = self.json(value, None);
        answer.set_status(poem::http::StatusCode::from_u16(status).unwrap_or_default());
        answer
    }

    /// Takes the connection away from the server and writes `script` to it.
    fn play(&self, script: Script, request: &Request) -> Response {
        if let Some(client) = request.remote_addr().as_socket_addr()
            && let Some(stream) = self.connections.take_over(*client)
        {
            let (stop, journal) = (self.stop.clone(), std::sync::Arc::clone(&self.journal));
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = raw::play(script, &stream, &journal) => {}
                }
            });
        }
        // never leaves the process
        Response::builder().status(poem::http::StatusCode::INTERNAL_SERVER_ERROR).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_more_than_fifty_kinds_and_each_has_a_name_of_its_own() {
        let all = Attack::all();
        let names: BTreeSet<String> = all.iter().map(|attack| attack.name()).collect();
        assert!(all.len() >= 50 && names.len() == all.len(), "{} kinds, {} names", all.len(), names.len());
        for attack in all {
            let json = serde_json::to_string(&attack).unwrap();
            assert_eq!(serde_json::from_str::<Attack>(&json).unwrap(), attack, "{json}");
        }
    }
}
