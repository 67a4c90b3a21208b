//! Money. One credit is one US cent at list price; amounts are whole, never negative, and every sum is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A non-negative amount of credits (1 credit = 1 US cent at list price).
///
/// There is no `From<i64>` and no operator: a sum that would overflow or go below zero has to be answered by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Credits(i64);

/// An amount that is no valid number of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid amount of credits: it must be between 0 and {max}", max = i64::MAX)]
pub struct InvalidAmount(pub i64);

impl Credits {
    pub const ZERO: Credits = Credits(0);

    /// # Errors
    /// [`InvalidAmount`] for a negative number.
    pub const fn new(amount: i64) -> Result<Credits, InvalidAmount> {
        if amount < 0 { Err(InvalidAmount(amount)) } else { Ok(Credits(amount)) }
    }

    pub const fn get(self) -> i64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` when the sum does not fit.
    pub fn plus(self, other: Credits) -> Option<Credits> {
        self.0.checked_add(other.0).map(Credits)
    }

    /// `None` when the result would be below zero.
    pub fn minus(self, other: Credits) -> Option<Credits> {
        self.0.checked_sub(other.0).filter(|left| *left >= 0).map(Credits)
    }

    /// `None` when the product does not fit.
    pub fn times(self, count: u32) -> Option<Credits> {
        self.0.checked_mul(i64::from(count)).map(Credits)
    }

    /// The sum of all; `None` when it does not fit.
    pub fn total(amounts: impl IntoIterator<Item = Credits>) -> Option<Credits> {
        amounts.into_iter().try_fold(Credits::ZERO, Credits::plus)
    }
}

impl TryFrom<i64> for Credits {
    type Error = InvalidAmount;

    fn try_from(amount: i64) -> Result<Self, InvalidAmount> {
        Credits::new(amount)
    }
}

impl From<Credits> for i64 {
    fn from(credits: Credits) -> i64 {
        credits.0
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

mod postgres {
    use super::Credits;
    use sqlx::encode::IsNull;
    use sqlx::error::BoxDynError;
    use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
    use sqlx::{Decode, Encode, Postgres, Type};

    impl Type<Postgres> for Credits {
        fn type_info() -> PgTypeInfo {
            <i64 as Type<Postgres>>::type_info()
        }
    }

    impl PgHasArrayType for Credits {
        fn array_type_info() -> PgTypeInfo {
            <i64 as PgHasArrayType>::array_type_info()
        }
    }

    impl Encode<'_, Postgres> for Credits {
        fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            <i64 as Encode<'_, Postgres>>::encode_by_ref(&self.0, buffer)
        }
    }

    impl<'r> Decode<'r, Postgres> for Credits {
        fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
            Ok(Credits::new(<i64 as Decode<'r, Postgres>>::decode(value)?)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Credits;

    fn credits(amount: i64) -> Credits {
        Credits::new(amount).unwrap()
    }

    #[test]
    fn a_negative_amount_is_no_credits() {
        assert!(Credits::new(-1).is_err());
        assert!(serde_json::from_str::<Credits>("-1").is_err());
        assert!(serde_json::from_str::<Credits>("1.5").is_err());
    }

    #[test]
    fn sums_that_do_not_fit_are_answered_with_none() {
        let most = credits(i64::MAX);
        assert_eq!(most.plus(credits(1)), None);
        assert_eq!(credits(1).minus(credits(2)), None);
        assert_eq!(most.times(2), None);
        assert_eq!(Credits::total([most, credits(1)]), None);
        assert_eq!(Credits::total([credits(61), credits(595)]), Some(credits(656)));
    }
}
