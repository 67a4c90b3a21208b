//! The integration tests: one binary, a real Postgres, a database for each test.

mod admission;
mod app;
mod flow;
mod house;
mod ledger;
mod store;
