//! The integration tests: one binary, a real Postgres, a database for each test.

// helpers of tests fail by panicking, as tests do
#![allow(clippy::unwrap_used)]

mod admission;
mod app;
mod callbacks;
mod chain;
mod chaos;
mod circuits;
mod cli;
mod conformance;
mod cooldowns;
mod crash;
mod engine;
mod failures;
mod fairness;
mod fence;
mod flow;
mod generated;
mod grafana;
mod hostile;
mod house;
mod images;
mod isolation;
mod ledger;
mod ledger_model;
mod likeness;
mod operator;
mod outages;
mod outlooks;
mod pacing;
mod pauses;
mod quotes;
mod reconcile;
mod retries;
mod routes;
mod server;
mod spend;
mod steps;
mod storage;
mod store;
mod thumbnails;
mod unknown;
mod webhooks;
mod withdrawals;
