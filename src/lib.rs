//! Freezeframe: enterprise batch video generation that freezes a batch's price, charges only successes and refunds every
//! failure by itself. A room imports only from rooms below it (`tests/it/house.rs` refuses anything else).

// floor 9
pub mod cli;
// floor 8
pub mod bench;
pub mod service;
// floor 7
pub mod api;
pub mod worker;
// floor 6
pub mod control;
pub mod steps;
// floor 5
pub mod batches;
pub mod billing;
pub mod callbacks;
pub mod webhooks;
// floor 4
pub mod providers;
pub mod scheduler;
pub mod storage;
// floor 3
pub mod accounts;
pub mod engine;
pub mod idempotency;
pub mod images;
pub mod ledger;
pub mod limits;
pub mod operators;
pub mod tenants;
// floor 2
pub mod db;
// floor 1
pub mod domain;
// beside
pub mod config;
pub mod emulator;
pub mod metrics;
pub mod telemetry;
