//! The integration tests: one binary, a real Postgres, a database for each test.

mod app;
mod house;
mod ledger;
mod store;
