//! The customer's side of the API: what a program of theirs would send and read, over real HTTP.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder, StatusCode};
use ring::digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::providers::egress::{ClientTimeouts, Egress};

const BATCHES: &str = "/api/enterprise/video-batch";
const TIMEOUTS: ClientTimeouts = ClientTimeouts {
    connect: Duration::from_secs(5),
    total: Duration::from_secs(30),
    keep_idle: Duration::from_secs(5),
};

/// The API as one customer sees it.
pub(super) struct Api {
    http: Client,
    base: Url,
    key: String,
}

/// The answer to an order.
#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) batch_id: String,
    pub(super) status: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) status: String,
    pub(super) counts: Counts,
    pub(super) credits: Money,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Counts {
    pub(super) total: usize,
    pub(super) waiting: usize,
    pub(super) in_progress: usize,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Money {
    pub(super) frozen: i64,
    pub(super) charged: i64,
    pub(super) refunded: i64,
    pub(super) held: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Video {
    pub(super) custom_id: String,
    pub(super) model: String,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<DateTime<Utc>>,
    pub(super) price_credits: i64,
    pub(super) failure: Option<Failure>,
    pub(super) output: Option<Output>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Output {
    pub(super) url: String,
    pub(super) bytes: usize,
    pub(super) sha256: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) act: String,
    pub(super) amount: i64,
    pub(super) reason: String,
    pub(super) balance_of: String,
    pub(super) balance_before: i64,
    pub(super) balance_after: i64,
    pub(super) video_count: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wallet {
    pub(super) available: i64,
    pub(super) held: i64,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl Api {
    pub(super) fn new(base: &str, key: &str) -> Result<Api> {
        Ok(Api { http: Egress::new().provider_client(TIMEOUTS)?, base: Url::parse(base)?, key: key.to_owned() })
    }

    pub(super) async fn order(&self, body: &Value, idempotency_key: &str) -> Result<Accepted> {
        let request = self.http.post(self.at(BATCHES)?).header("Idempotency-Key", idempotency_key).json(body);
        self.read(request, StatusCode::ACCEPTED).await.context("the order")
    }

    pub(super) async fn batch(&self, id: &str) -> Result<Batch> {
        self.get(&format!("{BATCHES}/{id}")).await
    }

    pub(super) async fn videos(&self, id: &str) -> Result<Vec<Video>> {
        self.all(&format!("{BATCHES}/{id}/videos")).await
    }

    pub(super) async fn ledger(&self, id: &str) -> Result<Vec<Entry>> {
        self.all(&format!("{BATCHES}/{id}/ledger")).await
    }

    pub(super) async fn wallet(&self) -> Result<Wallet> {
        self.get("/api/enterprise/wallet").await
    }

    /// Follows a signed link, without the key, and holds the file against what was promised of it.
    pub(super) async fn check_file(&self, output: &Output) -> Result<()> {
        let answer = self.http.get(self.at(&output.url)?).send().await?.error_for_status()?;
        let file = answer.bytes().await?;
        let hash: String = digest::digest(&digest::SHA256, &file).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        ensure!(file.len() == output.bytes && hash == output.sha256, "the file is not the one that was stored");
        Ok(())
    }

    /// An absolute address; links in answers may be relative.
    pub(super) fn at(&self, path: &str) -> Result<Url> {
        self.base.join(path).with_context(|| format!("not an address: {path}"))
    }

    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut page: Page<T> = self.get(path).await?;
        let mut all = std::mem::take(&mut page.data);
        while let Some(cursor) = &page.next_cursor {
            page = self.get(&format!("{path}?cursor={cursor}")).await?;
            all.append(&mut page.data);
        }
        Ok(all)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(self.http.get(self.at(path)?), StatusCode::OK).await.with_context(|| format!("GET {path}"))
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder, expected: StatusCode) -> Result<T> {
        let answer = request.header("X-API-Key", &self.key).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status != expected {
            bail!("the API answered {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("the API answered something else than documented: {text}"))
    }
}
