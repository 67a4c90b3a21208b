//! The attempts of a video over HTTP, in the customer's words.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};

use super::words::Word;
use crate::batches::AttemptView;
use crate::domain::{AttemptState, FailureClass, VideoId};

/// One attempt to have a video made.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct VideoAttempt {
    /// From 1.
    number: u32,
    state: AttemptPhase,
    /// When it was sent to whoever makes the videos of this model.
    sent_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// Why it did not bring a video. The video may succeed by another attempt.
    failure_type: Option<Word<FailureClass>>,
    /// Since when it was not known whether the order had been taken. Such an attempt is looked up and never sent again
    /// blindly; `found_at` says when it was found. If it is not found in time, the video is refunded.
    unknown_since: Option<DateTime<Utc>>,
    /// When an attempt whose outcome had been unknown was found.
    found_at: Option<DateTime<Utc>>,
    /// When it was learned that the video had been made after all, too late: after the attempt had been given up. It costs you
    /// nothing.
    late_success_at: Option<DateTime<Utc>>,
}

/// `sent`: no answer yet. `in_progress`: the video is being made. `looking_up`: the answer was lost, and it is being found out
/// whether the order was taken. `refused`: not taken. `succeeded`: the video is stored. `failed`: taken, and no video came
/// of it. `unresolved`: it could not be found out in time whether the order had been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum AttemptPhase {
    Sent,
    InProgress,
    LookingUp,
    Refused,
    Succeeded,
    Failed,
    Unresolved,
}

impl From<&AttemptView> for VideoAttempt {
    fn from(view: &AttemptView) -> VideoAttempt {
        let state = match view.state {
            AttemptState::Sent if view.unknown_at.is_some() => AttemptPhase::LookingUp,
            AttemptState::Sent => AttemptPhase::Sent,
            AttemptState::Accepted => AttemptPhase::InProgress,
            AttemptState::Unknown => AttemptPhase::LookingUp,
            AttemptState::Rejected => AttemptPhase::Refused,
            AttemptState::Succeeded => AttemptPhase::Succeeded,
            AttemptState::Failed => AttemptPhase::Failed,
            AttemptState::Unresolved => AttemptPhase::Unresolved,
        };
        VideoAttempt {
            number: view.number,
            state,
            sent_at: view.sent_at,
            finished_at: view.finished_at,
            failure_type: view.failure.map(Word),
            unknown_since: view.unknown_at,
            found_at: view.accepted_at.filter(|_| view.unknown_at.is_some()),
            late_success_at: view.late_success_at,
        }
    }
}

/// The attempts of the videos of a page, by video.
pub(super) fn by_video(views: &[AttemptView]) -> HashMap<VideoId, Vec<VideoAttempt>> {
    let mut found: HashMap<VideoId, Vec<VideoAttempt>> = HashMap::new();
    for view in views {
        found.entry(view.video).or_default().push(view.into());
    }
    found
}
