//! What a customer's engineer does: HTTP with an API key.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub const BATCHES: &str = "/api/enterprise/video-batch";

/// A tenant with its key, as the customer knows it.
#[derive(Clone, Debug)]
pub struct Customer {
    pub api_key: String,
    pub webhook_secret: String,
    pub base: String,
    pub http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    #[track_caller]
    pub fn problem(self, status: u16) -> Value {
        let answer = self.expect(status);
        let kind = answer.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        assert!(kind.starts_with("application/problem+json"), "a {status} that is {kind:?}: {}", answer.text);
        answer.body
    }

    #[track_caller]
    pub fn batch_id(&self) -> String {
        self.body["batch_id"].as_str().unwrap_or_else(|| panic!("no batch_id in {}", self.text)).to_owned()
    }

    /// The number at a JSON pointer.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> i64 {
        let number = self.body.pointer(pointer).and_then(Value::as_i64);
        number.unwrap_or_else(|| panic!("no number at {pointer} in {}", self.text))
    }

    #[track_caller]
    pub fn word(&self, pointer: &str) -> &str {
        let word = self.body.pointer(pointer).and_then(Value::as_str);
        word.unwrap_or_else(|| panic!("no text at {pointer} in {}", self.text))
    }
}

pub fn http_client() -> reqwest::Client {
    freezeframe::providers::egress::install_crypto();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

impl Customer {
    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.http.request(method, url);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-api-key")) {
            request = request.header("X-API-Key", &self.api_key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], None).await
    }

    pub async fn submit(&self, body: &Value) -> Answer {
        self.submit_with(&[], body).await
    }

    pub async fn submit_with(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.call(Method::POST, BATCHES, headers, Some(body.to_string())).await
    }

    /// Submits and answers the batch's id.
    pub async fn order(&self, body: &Value) -> String {
        self.submit(body).await.expect(202).batch_id()
    }

    pub async fn batch(&self, id: &str) -> Answer {
        self.get(&format!("{BATCHES}/{id}")).await.expect(200)
    }

    /// Every video of a batch, page by page.
    pub async fn videos(&self, id: &str) -> Vec<Value> {
        self.pages(&format!("{BATCHES}/{id}/videos")).await
    }

    pub async fn entries(&self, id: &str) -> Vec<Value> {
        self.pages(&format!("{BATCHES}/{id}/ledger")).await
    }

    pub async fn available(&self) -> i64 {
        self.get("/api/enterprise/wallet").await.expect(200).number("/available")
    }

    /// Every thing of a list, page by page.
    async fn pages(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut next = path.to_owned();
        loop {
            let page = self.get(&next).await.expect(200);
            all.extend(
                page.body["data"].as_array().unwrap_or_else(|| panic!("no data in {}", page.text)).iter().cloned(),
            );
            match page.body["next_cursor"].as_str() {
                Some(cursor) => next = format!("{path}?cursor={cursor}"),
                None => return all,
            }
        }
    }
}

pub fn item(prompt: &str) -> Value {
    json!({"prompt": prompt, "model": "sora-2"})
}

/// A body of `count` items `prompt 0`, `prompt 1`, ...
pub fn order_of(count: usize, prompt: &str) -> Value {
    json!({"items": (0..count).map(|n| item(&format!("{prompt} {n}"))).collect::<Vec<_>>()})
}
