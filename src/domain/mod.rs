//! The pure ground floor: ids, credits, states and the words of a video order.
//!
//! Always holds: a value of a type from here is valid; nothing here knows a clock or performs I/O (but for
//! [`master_key`], which reads or makes its own file once, at start). The enums of
//! [`state`] are repeated by Postgres enums of the same words (a test compares them).
//! Refuses: floats for money, ids of one kind where another is meant, text that Postgres or a provider cannot take.

pub mod access_key;
pub mod credits;
pub mod faults;
pub mod ids;
pub mod image;
pub mod master_key;
pub mod secret;
pub mod state;
pub mod video_spec;

pub use access_key::{ApiKey, MalformedKey, OperatorKey};
pub use credits::Credits;
pub use faults::Wrong;
pub use freezeframe_workflows::FailureClass;
pub use ids::{AttemptId, BatchId, DeliveryId, EventId, TenantId, VideoId};
pub use image::{ImageFacts, ImageFormat, ImageId, ImageSource, NotAnImage};
pub use master_key::{MasterKey, SigningKey};
pub use secret::Secret;
pub use state::{
    AttemptState, BatchStatus, DeliveryState, GrantSource, LateFinding, LedgerAct, VideoState, WaitingReason,
};
pub use video_spec::{CustomId, FieldError, Prompt, Size};
