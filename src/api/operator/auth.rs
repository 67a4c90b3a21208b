//! Which operator a request speaks for, and whether it may change anything.
//!
//! Always holds: keys that are nobody's are counted for their address together with those that are shown to the customers' API,
//! and are refused in the same way; what is remembered of keys is what [`recognise`] remembers.

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth;

use super::OperatorState;
use crate::api::ApiState;
use crate::api::auth::{address_of, recognise};
use crate::api::error::ApiError;
use crate::db;
use crate::operators::{Operator, OperatorKey, Role, Said};

/// An operator's key, as it was shown once when the operator was added: `ffop_` and 38 letters and digits.
#[derive(SecurityScheme)]
#[oai(rename = "OperatorKey", ty = "api_key", key_in = "header", key_name = "X-API-Key", checker = "identify")]
pub struct Caller(Operator);

/// An operator who may change something.
pub struct Changer(String);

impl Caller {
    /// Looked at before anything of a change is read.
    ///
    /// # Errors
    /// The role is one that only looks.
    pub fn may_change(self) -> Result<Changer, ApiError> {
        match self.0.role {
            Role::Ops => Ok(Changer(self.0.name)),
            Role::Viewer => Err(ApiError::role_forbids(&self.0.name)),
        }
    }
}

impl Changer {
    /// What the history is told.
    pub fn says(self, reason: String) -> Said {
        Said { by: self.0, reason }
    }
}

async fn identify(request: &Request, sent: auth::ApiKey) -> poem::Result<Operator> {
    let (Some(shared), Some(state)) = (request.data::<ApiState>(), request.data::<OperatorState>()) else {
        return Err(ApiError::internal("a route was mounted without its state").into());
    };
    let address = address_of(request);
    let key = match OperatorKey::parse(&sent.key) {
        Ok(key) => key,
        Err(malformed) => {
            shared.rates.stranger(address)?;
            return Err(ApiError::unauthorized(malformed.to_string()).into());
        }
    };
    let hash = key.hash();
    let asked = async {
        match db::in_time(state.controls.operator_of(hash)).await {
            Ok(found) => Ok(found?),
            Err(late) => Err(sqlx::Error::from(late).into()),
        }
    };
    Ok(Box::pin(recognise((&shared.rates, &state.known_keys), address, hash, asked)).await?)
}
