//! Uploaded reference images: which tenant has which, who uses them, and for how long they are kept.
//!
//! Always holds: a row is written before its object and deleted after it, so that no object is without an owner; only an
//! image whose object is in the store can be ordered with. A batch notes its images in the transaction that admits it, under a
//! lock that the deletion respects: an image is never deleted while an unfinished batch uses it. What a tenant may keep is
//! counted under a lock of the tenant's own, for which uploads take turns in a process: they never take the connections of
//! others.
//! Refuses: to hold bytes, to touch the object store, and to show one tenant what another has.

mod keep;
mod turns;
mod upload;

pub use keep::{Due, deleted, mark_due, note_uses, there, usable};
pub use turns::{Turn, Turns};
pub use upload::{Image, ImageQuota, NewImage, ReserveError, Reserved, find, known, reserve, stored};
