//! A webhook receiver on loopback that says when every batch has been told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use poem::http::StatusCode;
use poem::listener::TcpAcceptor;
use poem::web::Data;
use poem::{EndpointExt, Route, Server, handler, post};
use tokio::sync::watch;

/// Batches told so far.
#[derive(Clone)]
pub(super) struct Told {
    batches: Arc<Mutex<HashSet<String>>>,
    count: watch::Sender<usize>,
}

#[handler]
async fn receive(told: Data<&Told>, body: poem::web::Json<serde_json::Value>) -> StatusCode {
    let Some(batch) = body.pointer("/data/batch_id").and_then(serde_json::Value::as_str) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut batches = told.batches.lock().unwrap_or_else(PoisonError::into_inner);
    batches.insert(batch.to_owned());
    told.count.send_replace(batches.len());
    StatusCode::NO_CONTENT
}

/// Starts receiving; answers the address to name in orders and the count of batches told.
///
/// # Errors
/// When no port is free.
pub(super) async fn start() -> Result<(String, watch::Receiver<usize>)> {
    let (count, counted) = watch::channel(0);
    let told = Told { batches: Arc::default(), count };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let acceptor = TcpAcceptor::from_tokio(listener)?;
    let app = Route::new().at("/hook", post(receive)).data(told);
    tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
    Ok((url, counted))
}
