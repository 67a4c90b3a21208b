//! A value that may be replaced while the process runs, such as the catalogue of models.
//!
//! Always holds: whoever took the value keeps what they took, whole, for as long as they like; the next one to ask gets the
//! new value. Reading takes no lock that a writer holds for longer than it takes to exchange a pointer.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A handle to the present value. Clones share it.
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    pub fn new(value: T) -> Live<T> {
        Live(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The present value.
    pub fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another value in its place, for everybody who asks from now on.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Live;

    #[test]
    fn whoever_took_a_value_keeps_it_and_the_next_one_gets_the_new_one() {
        let live = Live::new(1);
        let (other, taken) = (live.clone(), live.get());
        live.set(2);
        assert_eq!((*taken, *live.get(), *other.get()), (1, 2, 2));
    }
}
