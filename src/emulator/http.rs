//! The emulator's addresses: every surface and the control endpoint on one, the files on the other.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::web::{Data, Path};
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler};

use super::content;
use super::control;
use super::journal;
use super::office::Office;
use super::script::Detour;
use super::surfaces;

/// The provider's own address.
pub(super) fn routes(office: Arc<Office>) -> impl Endpoint {
    surfaces::mount(Route::new())
        .nest("/control", control::routes())
        .catch_all_error(|error: poem::Error| async move { surfaces::refused_by_server(&error) })
        .around(journal::at_home)
        .around(surfaces::with_request_id)
        .data(office)
}

/// The other host: `GET /files/{id}`, without a key, as a store with unguessable links does.
pub(super) fn other_host_routes(office: Arc<Office>) -> impl Endpoint {
    Route::new().at("/files/:id", get(kept_file)).around(journal::elsewhere).data(office)
}

#[handler]
async fn kept_file(Path(id): Path<String>, request: &Request, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    match office.studio.detour(&id) {
        // whoever was sent here has arrived
        None | Some(Detour::OtherHost) => {}
        Some(detour) => {
            return Ok(content::redirect(detour, &id, &format!("{}/files/{id}", office.other_host), &office));
        }
    }
    match office.studio.download(&id, true) {
        Ok(download) => content::respond(download, request, &office).await,
        Err(_) => Ok(StatusCode::FORBIDDEN.into_response()),
    }
}
