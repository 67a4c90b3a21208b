//! Renders `GRAPH.md`: the four flows as pictures, and the numbers they rest on, all from the same walk as the proof.
//!
//! Always holds: what is drawn was walked. Nothing about a flow is written here by hand except the words on the boxes.
//! A transition reads `end / what it does to credits`.

mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::FailureClass;
use crate::money::CreditMove;
use crate::month_close::{MonthCloseEnd, MonthCloseStep};
use crate::retry;
use crate::video::{VideoEnd, VideoStep};
use crate::video_batch::BatchStep;
use crate::walk::{
    self, DeliveryPlace, EdgeKind, Flaw, OrderEdge, OrderEnd, OrderPlace, OrderWalk, Rules, To, Walk,
    order_may_have_bought,
};
use crate::webhook::DeliveryEnd;

/// The whole text of `GRAPH.md`.
///
/// # Errors
/// The [`Flaw`] of a flow that must not be drawn, because it does not pass the walk.
pub fn render() -> Result<String, Flaw> {
    let order = walk::order(Rules::REAL)?;
    let sections = [
        INTRODUCTION.to_owned(),
        proven(&order),
        section("One batch", BATCH_WORDS, &batch(&order).render()),
        section("One video", VIDEO_WORDS, &video(&order).render()),
        section("One webhook event", WEBHOOK_WORDS, &delivery(&walk::delivery()?).render()),
        tables::webhook_schedule(),
        section("One month", MONTH_WORDS, &month(&walk::month_close()?).render()),
        tables::retries(),
        tables::explanations(),
    ];
    Ok(sections.join("\n"))
}

const INTRODUCTION: &str = "\
# What Freezeframe decides

Generated from the rules in this crate and compared by a test; do not edit. To write it anew after a change of the rules:

    FREEZEFRAME_REGENERATE=1 cargo test -p freezeframe-workflows --test graph

A transition is labelled `how the step ended / what that does to credits`.
";

const BATCH_WORDS: &str = "\
`generate` holds every video of the batch; each goes its own way as below, and the batch goes on when the last has ended.";

const VIDEO_WORDS: &str = "\
An arrow from a step to itself waits: it holds its slot and spends nothing, and a deadline ends it. `waiting` holds no slot.
Which failure class is retried, and how often, stands in the table at the end.";

const WEBHOOK_WORDS: &str = "Any answer but 2xx and 410, a redirect included, and no answer at all are failures.";

const MONTH_WORDS: &str = "No credit moves: a statement tells what the ledger already says.";

fn section(title: &str, words: &str, diagram: &str) -> String {
    format!("## {title}\n\n{words}\n\n```mermaid\n{diagram}```\n")
}

fn proven(order: &OrderWalk) -> String {
    let mut attempts = 0;
    let mut waits = 0;
    for place in &order.places {
        if let OrderPlace::Video { attempts: before, waits: waited, .. } = *place {
            attempts = attempts.max(before + 1);
            waits = waits.max(waited);
        }
    }
    let bought = order.heaviest(|place, edge| u32::from(order_may_have_bought(place, edge)));
    let (places, transitions) = (order.places.len(), order.edges.len());
    format!(
        "## What the walk found\n\n\
         Every path of a batch with one video, from the freeze to the last notification ({places} places, {transitions} \
         transitions, every\ncounter included):\n\n\
         - each path ends; wherever it waits, a deadline leads out;\n\
         - each path that freezes credits resolves them exactly once, by a charge or by a refund, and then closes them;\n\
         - no wait and no retry moves credits, and no wait spends an attempt;\n\
         - a video has at most {attempts} attempts, and at most {waits} waits between two of them that were spent;\n\
         - we may pay a provider for at most {bought} jobs per video.\n"
    )
}

/// A mermaid state diagram. Transitions between the same two boxes are drawn as one.
#[derive(Default)]
struct Diagram {
    heads: Vec<String>,
    arrows: Vec<(String, String, Vec<String>)>,
}

impl Diagram {
    fn head(&mut self, line: &str) {
        self.heads.push(line.to_owned());
    }

    fn arrow(&mut self, from: &str, to: &str, label: &str) {
        let known = self.arrows.iter_mut().find(|(known_from, known_to, _)| known_from == from && known_to == to);
        match known {
            Some((_, _, labels)) if labels.iter().any(|known| known == label) => {}
            Some((_, _, labels)) => labels.push(label.to_owned()),
            None => self.arrows.push((from.to_owned(), to.to_owned(), vec![label.to_owned()])),
        }
    }

    fn render(&self) -> String {
        let mut text = String::from("stateDiagram-v2\n");
        for line in &self.heads {
            let _ = writeln!(text, "    {line}");
        }
        for (from, to, labels) in &self.arrows {
            // Transitions that do the same to credits share the action, which is then written once.
            let mut by_action: Vec<(&str, Vec<&str>)> = Vec::new();
            for label in labels {
                let (end, action) = label.split_once(" / ").unwrap_or((label, ""));
                match by_action.iter_mut().find(|(known, _)| *known == action) {
                    Some((_, ends)) => ends.push(end),
                    None => by_action.push((action, vec![end])),
                }
            }
            let parts = by_action.iter().map(|(action, ends)| match *action {
                "" => ends.join(" or "),
                action => format!("{} / {action}", ends.join(" or ")),
            });
            let label = parts.collect::<Vec<String>>().join(" or ");
            let _ = match label.as_str() {
                "" => writeln!(text, "    {from} --> {to}"),
                label => writeln!(text, "    {from} --> {to}: {label}"),
            };
        }
        text
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn with_action(end: &str, moves: CreditMove) -> String {
    match moves {
        CreditMove::Nothing => end.to_owned(),
        CreditMove::Freeze | CreditMove::Charge | CreditMove::Refund | CreditMove::Close => {
            format!("{end} / {} credits", moves.name())
        }
    }
}

fn batch(order: &OrderWalk) -> Diagram {
    let mut diagram = Diagram::default();
    diagram.head("[*] --> freeze");
    diagram.head("state \"refused (402)\" as refused");
    for step in BatchStep::all() {
        for (place, edge) in &order.edges {
            let drawn_at = match *place {
                OrderPlace::Batch(at) => at,
                OrderPlace::VideoSettled => BatchStep::Generate,
                OrderPlace::Video { .. } => continue,
            };
            let OrderEnd::Batch(end) = edge.end else { continue };
            if drawn_at != step {
                continue;
            }
            let to = match edge.to {
                To::Place(OrderPlace::Batch(to)) => to.name(),
                To::Place(OrderPlace::Video { .. } | OrderPlace::VideoSettled) => BatchStep::Generate.name(),
                To::Over(name) => name,
            };
            diagram.arrow(step.name(), to, &with_action(&words(end.name()), edge.moves));
        }
    }
    diagram.arrow("refused", "[*]", "");
    diagram.arrow("done", "[*]", "");
    diagram
}

/// Draws the first attempt of a video; later ones differ from it only in what the box `bound` decides.
fn video(order: &OrderWalk) -> Diagram {
    let mut diagram = Diagram::default();
    diagram.head("[*] --> submit");
    diagram.head("state bound <<choice>>");
    for step in VideoStep::all() {
        let fresh = OrderPlace::Video { step, attempts: 0, waits: 0 };
        let mut classes: BTreeMap<(String, &str), BTreeSet<FailureClass>> = BTreeMap::new();
        let edges: Vec<&OrderEdge> = order.edges.iter().filter(|(at, _)| *at == fresh).map(|(_, edge)| edge).collect();
        for edge in &edges {
            if let OrderEnd::Video(end) = edge.end {
                classes.entry((video_target(edge), end.name())).or_default().extend(class_of(end));
            }
        }
        for edge in &edges {
            let OrderEnd::Video(end) = edge.end else { continue };
            let to = video_target(edge);
            let among = &classes[&(to.clone(), end.name())];
            let label = format!("{}{}", words(end.name()), class_words(among));
            diagram.arrow(step.name(), &to, &with_action(&label, edge.moves));
        }
    }
    diagram.arrow("bound", "waiting", "an attempt or a wait is left");
    diagram.arrow("waiting", "submit", "after the delay");
    if bound_is_reached(order) {
        diagram.arrow("bound", "failed", &with_action("none is left", CreditMove::Refund));
    }
    diagram.arrow("succeeded", "[*]", "");
    diagram.arrow("failed", "[*]", "");
    diagram
}

fn video_target(edge: &OrderEdge) -> String {
    let name = match (edge.kind, edge.to, edge.moves) {
        (EdgeKind::Retry { .. }, _, _) => "bound",
        (_, To::Place(OrderPlace::Video { step, .. }), _) => step.name(),
        (_, To::Place(OrderPlace::VideoSettled), CreditMove::Charge) => "succeeded",
        (_, To::Place(OrderPlace::VideoSettled | OrderPlace::Batch(_)) | To::Over(_), _) => "failed",
    };
    name.to_owned()
}

/// Whether an end that a step retries at first is final for the same step at some later place.
fn bound_is_reached(order: &OrderWalk) -> bool {
    let at_step = |place: &OrderPlace, edge: &OrderEdge| match *place {
        OrderPlace::Video { step, .. } => Some((step, edge.end)),
        OrderPlace::Batch(_) | OrderPlace::VideoSettled => None,
    };
    let retries = order.edges.iter().filter(|(_, edge)| matches!(edge.kind, EdgeKind::Retry { .. }));
    let retried: BTreeSet<(VideoStep, OrderEnd)> = retries.filter_map(|(place, edge)| at_step(place, edge)).collect();
    let mut refunds = order.edges.iter().filter(|(_, edge)| edge.moves == CreditMove::Refund);
    refunds.any(|(place, edge)| at_step(place, edge).is_some_and(|end| retried.contains(&end)))
}

fn class_of(end: VideoEnd) -> Option<FailureClass> {
    match end {
        VideoEnd::Rejected(class)
        | VideoEnd::RouteRefused(class)
        | VideoEnd::ProviderFailed(class)
        | VideoEnd::StoreFailed(class) => Some(class),
        VideoEnd::Accepted
        | VideoEnd::Cancelled
        | VideoEnd::Expired
        | VideoEnd::AnswerLost
        | VideoEnd::Found
        | VideoEnd::NotFoundYet
        | VideoEnd::NotBought
        | VideoEnd::CannotLookUp
        | VideoEnd::Poisoned
        | VideoEnd::StillRunning
        | VideoEnd::OutputReady
        | VideoEnd::Gone
        | VideoEnd::Stored
        | VideoEnd::DeadlinePassed => None,
    }
}

fn class_words(among: &BTreeSet<FailureClass>) -> String {
    let of = |retried: bool| FailureClass::ALL.into_iter().filter(move |class| retry::policy(*class).retry == retried);
    if among.is_empty() {
        String::new()
    } else if among.iter().copied().eq(of(true)) {
        " (a class that is retried)".to_owned()
    } else if among.iter().copied().eq(of(false)) {
        " (a class that is final)".to_owned()
    } else {
        let names: Vec<String> = among.iter().map(|class| words(class.name())).collect();
        format!(" ({})", names.join(", "))
    }
}

fn delivery(walk: &Walk<DeliveryPlace, DeliveryEnd>) -> Diagram {
    let mut diagram = Diagram::default();
    diagram.head("[*] --> send");
    diagram.head("state schedule <<choice>>");
    diagram.head("state \"disabled, and the endpoint with it\" as disabled");
    for (_, edge) in &walk.edges {
        let end = match edge.end {
            DeliveryEnd::Status(200..=299) => "2xx",
            DeliveryEnd::Status(410) => "410",
            DeliveryEnd::Status(_) | DeliveryEnd::TimedOut | DeliveryEnd::Unreachable | DeliveryEnd::Refused => {
                "anything else"
            }
        };
        match edge.to {
            To::Over("given up") => diagram.arrow("schedule", "given_up", "none is left"),
            To::Over(name) => diagram.arrow("send", name, end),
            To::Place(_) => {
                diagram.arrow("send", "schedule", end);
                diagram.arrow("schedule", "back_off", "a retry is left");
            }
        }
    }
    diagram.arrow("back_off", "send", "after the delay");
    for over in ["delivered", "given_up", "disabled"] {
        diagram.arrow(over, "[*]", "");
    }
    diagram
}

fn month(walk: &Walk<MonthCloseStep, MonthCloseEnd>) -> Diagram {
    let mut diagram = Diagram::default();
    diagram.head("[*] --> statement");
    diagram.head("state \"halted for an operator\" as halted");
    for step in MonthCloseStep::all() {
        for (_, edge) in walk.edges.iter().filter(|(place, _)| *place == step) {
            let to = match edge.to {
                To::Place(to) => to.name(),
                To::Over("done") => "done",
                To::Over(_) => "halted",
            };
            diagram.arrow(step.name(), to, &words(edge.end.name()));
        }
    }
    diagram.arrow("halted", "[*]", "");
    diagram.arrow("done", "[*]", "");
    diagram
}
