//! The engine against a simulated shell: no processes, no clock.
//!
//! `world` carries actions out and refuses impossible ones; the other modules
//! hold one story per rule, `walks` random ones.
#![expect(
    clippy::panic,
    reason = "the simulated shell refuses by failing the test"
)]

mod lifecycle;
mod recycle;
mod reload;
mod restart;
mod scale;
mod stop;
mod walks;
mod world;
