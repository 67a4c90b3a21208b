//! What Freezeframe decides: steps, order, retry, undo, and who gets the money.
//!
//! Owns the four flows ([`video`], [`video_batch`], [`webhook`], [`month_close`]), the retry policy of every failure class
//! ([`retry`]), what each transition does to credits ([`money`]), the proof that all of this ends and balances ([`walk`]),
//! and the picture of it ([`graph`], checked in as `GRAPH.md`).
//!
//! Always holds: every function here is pure. It takes no clock, no randomness and no connection; a caller that needs
//! jitter draws it and passes it in. Every flow is an exhaustive `match` without a wildcard arm, so that a new step or a
//! new end stops the compiler wherever a decision is missing.
//!
//! Refuses to do: anything. The root package asks "this step ended like this, what next?" and writes the answer down.

/// Declares an enum together with its stable names and the list of all its values.
///
/// A list written beside the enum by hand could lack a value, and the walk would then prove something about a smaller
/// flow than the one that runs. Here the list cannot differ. The name is also the value's name in serde.
macro_rules! closed_list {
    ($(#[$about:meta])* pub enum $list:ident {
        $($(#[$meaning:meta])* $value:ident $(($class:ident))? = $name:literal,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $list {
            $($(#[$meaning])* #[serde(rename = $name)] $value $(($class))?,)+
        }

        impl $list {
            /// The stable name, without the failure class that some values carry.
            pub const fn name(self) -> &'static str {
                match self {
                    $($list::$value { .. } => $name,)+
                }
            }

            /// Every value in declared order; one that carries a failure class occurs once for each class.
            pub fn all() -> Vec<$list> {
                let mut all = Vec::new();
                $(all.extend(closed_list!(@values $list $value $($class)?));)+
                all
            }
        }
    };
    (@values $list:ident $value:ident) => { [$list::$value] };
    (@values $list:ident $value:ident $class:ident) => { $class::ALL.map($list::$value) };
}

pub mod failure;
pub mod graph;
pub mod money;
pub mod month_close;
pub mod retry;
pub mod video;
pub mod video_batch;
pub mod walk;
pub mod webhook;

pub use failure::FailureClass;
