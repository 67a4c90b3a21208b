//! The integration tests: one binary, a real Postgres, a database for each test.

mod admission;
mod app;
mod crash;
mod engine;
mod flow;
mod generated;
mod grafana;
mod house;
mod ledger;
mod store;
mod webhooks;
