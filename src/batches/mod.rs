//! Batches: what an order means, what it would cost, its admission, its retry, and how it is shown.
//!
//! Always holds: an order is wholly valid before anything of it is priced, frozen or written, and all that is wrong with
//! it is said at once; a batch, its videos, its freeze and its idempotency key are one transaction; whatever is read is
//! read for one tenant, but for operators ([`bulk`]).
//!
//! Refuses: to make videos, to move money by itself, to know HTTP.

mod admission;
mod attempts;
pub mod bulk;
mod cancel;
mod image;
mod item;
mod order;
mod pause;
mod quote;
mod retry;
mod uploads;
mod video;
mod view;

pub use crate::domain::Wrong;
pub use admission::{Admission, AdmissionError, Admitted, Receipt, Retryable};
pub use attempts::{AttemptView, attempts};
pub use cancel::{CancelError, cancel, cancel_as_operator};
pub use item::OrderItem;
pub use order::{MAX_KEY_CHARS, Order, OrderLimits, parse, repeated_request};
pub use pause::{PauseError, pause, resume};
pub use quote::{Quote, QuoteGroup, quote};
pub use retry::{FailedVideos, RetryError, RetryRequest, parse_retry, repeated_retry, retry_order};
pub use video::{VideoFailure, VideoOutput, VideoView, output_of, videos};
pub use view::{BatchCounts, BatchOutlook, BatchView, batch, batches, settled_batch};
