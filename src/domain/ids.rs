//! Ids: ULIDs, sortable by time, shown with a prefix that says what they name.
//!
//! Always holds: an id of one kind never stands where another is meant. The database and the queue keep the bare 26
//! characters (a video's id is also its queue job's id); everybody outside sees `vid_01J...`.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

/// Text that is not an id of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id: expected `{prefix}_` followed by 26 characters")]
pub struct InvalidId {
    pub prefix: &'static str,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new id of this moment.
            pub fn generate() -> Self {
                Self(Ulid::generate())
            }

            /// The bare 26 characters, as stored.
            pub fn bare(self) -> String {
                self.0.to_string()
            }

            /// Reads the bare form back.
            ///
            /// # Errors
            /// [`InvalidId`] when `text` is no ULID.
            pub fn from_bare(text: &str) -> Result<Self, InvalidId> {
                Ulid::from_string(text).map(Self).map_err(|_| InvalidId { prefix: $prefix })
            }

            pub const fn ulid(self) -> Ulid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bare = text.strip_prefix(concat!($prefix, "_")).ok_or(InvalidId { prefix: $prefix })?;
                let id = Self::from_bare(bare)?;
                // One id has one spelling: lower case or look-alike letters would make two keys of one thing.
                if id.bare() == bare { Ok(id) } else { Err(InvalidId { prefix: $prefix }) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(ty: &sqlx::postgres::PgTypeInfo) -> bool {
                <String as sqlx::Type<sqlx::Postgres>>::compatible(ty)
            }
        }

        impl sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::postgres::PgHasArrayType>::array_type_info()
            }
        }

        impl sqlx::Encode<'_, sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buffer: &mut sqlx::postgres::PgArgumentBuffer,
            ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
                let mut text = [0u8; ulid::ULID_LEN];
                let text: &str = self.0.array_to_str(&mut text);
                <&str as sqlx::Encode<'_, sqlx::Postgres>>::encode_by_ref(&text, buffer)
            }
        }

        impl<'r> sqlx::Decode<'r, sqlx::Postgres> for $name {
            fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                Ok(Self::from_bare(<&str as sqlx::Decode<'r, sqlx::Postgres>>::decode(value)?)?)
            }
        }
    };
}

prefixed_id!(
    /// A customer: the owner of wallets, keys and batches.
    TenantId,
    "ten"
);
prefixed_id!(
    /// One accepted order of many videos.
    BatchId,
    "bat"
);
prefixed_id!(
    /// One video of a batch.
    VideoId,
    "vid"
);
prefixed_id!(
    /// One try to have a video made by a provider.
    AttemptId,
    "att"
);
prefixed_id!(
    /// Something that happened and is told by webhook.
    EventId,
    "evt"
);
prefixed_id!(
    /// The delivery of one event to one address (also the id of its queue job).
    DeliveryId,
    "dlv"
);

#[cfg(test)]
mod tests {
    use super::{BatchId, VideoId};

    #[test]
    fn an_id_reads_back_what_it_shows_and_refuses_other_kinds() {
        let video = VideoId::generate();
        assert_eq!(video.to_string().parse::<VideoId>(), Ok(video));
        assert!(video.to_string().parse::<BatchId>().is_err());
        assert!(video.bare().parse::<VideoId>().is_err());
        assert!(video.to_string().to_lowercase().parse::<VideoId>().is_err());
    }
}
