//! The HTTP server against clients that are slow, stuck, greedy or gone: each is given up in time, none costs another one
//! anything, and what moves money is whole whoever vanished.

mod clients;
mod crowd;
mod encryption;
mod limits;
mod money;
mod rates;
mod stop;
mod waits;
