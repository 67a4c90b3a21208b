//! What a client reads of each kind of error, after the framework has had it in its hands.

use poem::http::StatusCode;
use poem::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use poem::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::{ApiError, Kind, RequestName};
use crate::batches::{AdmissionError, Wrong};
use crate::domain::Credits;

async fn document(response: Response) -> (Response, Value) {
    answered(async { response }).await
}

async fn document_of(error: impl Into<ApiError>) -> (Response, Value) {
    let error = error.into();
    // an error travels through the framework's own type, which keeps little of it
    answered(async { poem::Error::from(error).into_response() }).await
}

async fn answered(answer: impl Future<Output = Response>) -> (Response, Value) {
    let request = RequestName { path: "/some/path".to_owned(), trace_id: "01TRACE".to_owned() };
    let mut response = request.answering(answer).await;
    let body = response.take_body().into_json().await.unwrap();
    (response, body)
}

#[tokio::test]
async fn a_shortage_names_the_three_amounts() {
    let credits = |amount| Credits::new(amount).unwrap();
    let short = AdmissionError::ShortOfCredits { required: credits(610), available: credits(600) };
    let (response, body) = document_of(short).await;
    assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    assert_eq!(
        body,
        json!({
            "type": "/problems#short-of-credits",
            "title": "Not enough credits",
            "status": 402,
            "detail": "the batch costs 610 credits and 600 are available, 10 too few; nothing was frozen",
            "instance": "/some/path",
            "trace_id": "01TRACE",
            "required": 610,
            "available": 600,
            "shortfall": 10,
        })
    );
}

#[tokio::test]
async fn every_fault_of_an_order_has_its_pointer() {
    let wrong = |pointer: &str| Wrong { pointer: pointer.to_owned(), detail: "is required".to_owned() };
    let (response, body) =
        document_of(ApiError::invalid_order(vec![wrong("/items/0/model"), wrong("/items/7/prompt")])).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["errors"][1], json!({ "pointer": "/items/7/prompt", "detail": "is required" }));
    assert_eq!(body["errors"].as_array().map(Vec::len), Some(2));
    let (_, body) = document_of(ApiError::invalid_order(vec![wrong("/items/0/model")])).await;
    assert_eq!(body["detail"], "`/items/0/model` is required; nothing was frozen");
}

#[tokio::test]
async fn what_passes_by_itself_may_be_tried_again_and_what_does_not_says_nothing_of_its_cause() {
    let (response, body) = document_of(sqlx::Error::PoolTimedOut).await;
    assert_eq!((response.status().as_u16(), response.headers()[RETRY_AFTER].to_str().unwrap()), (503, "2"));
    assert_eq!(body["type"], "/problems#unavailable");
    let (response, body) = document_of(sqlx::Error::Protocol("secret words".to_owned())).await;
    assert_eq!(response.status().as_u16(), 500);
    assert!(!body.to_string().contains("secret words"), "{body}");
    let (response, _) = document_of(AdmissionError::KeyInFlight).await;
    assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (409, true));
    let (response, _) = document_of(AdmissionError::KeyUsedForOtherContent).await;
    assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (422, false));
}

#[tokio::test]
async fn an_answer_of_the_framework_becomes_a_problem_and_keeps_its_data() {
    let mut plain = StatusCode::METHOD_NOT_ALLOWED.with_body("method not allowed").into_response();
    plain.set_data(17u8);
    let (response, body) = document(plain).await;
    assert_eq!((response.data::<u8>(), response.headers()[ALLOW].to_str().unwrap()), (Some(&17), "GET, HEAD"));
    assert_eq!(body["type"], "/problems#method-not-allowed");
    let (response, body) = document(StatusCode::IM_A_TEAPOT.into_response()).await;
    assert_eq!((response.status().as_u16(), body["status"].as_u64()), (400, Some(400)));
    let (_, body) = document(StatusCode::NOT_FOUND.into_response()).await;
    assert_eq!((body["title"].as_str(), body["trace_id"].as_str()), (Some("Not found"), Some("01TRACE")));
}

#[tokio::test]
async fn an_answer_that_is_no_error_is_left_alone() {
    let request = RequestName { path: "/".to_owned(), trace_id: "01TRACE".to_owned() };
    let fine = request.answering(async { "fine".into_response() }).await;
    assert_eq!(fine.into_body().into_string().await.unwrap(), "fine");
}

#[tokio::test]
async fn the_framework_s_own_errors_name_the_parameter() {
    let error = poem_openapi::error::ParseParamError {
        name: "limit",
        reason: "failed to parse \"limit\": must be a whole number from 1 to 1000 (occurred while parsing \"optional_limit\")"
            .to_owned(),
    };
    let (response, body) = answered(async { ApiError::from_framework(error.into()) }).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(body["errors"], json!([{ "parameter": "limit", "detail": "must be a whole number from 1 to 1000" }]));
}

#[test]
fn each_kind_has_a_name_of_its_own_and_an_error_status() {
    let mut slugs: Vec<_> = Kind::ALL.into_iter().map(Kind::slug).collect();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), Kind::ALL.len());
    assert!(Kind::ALL.into_iter().all(|kind| kind.status().is_client_error() || kind.status().is_server_error()));
}
