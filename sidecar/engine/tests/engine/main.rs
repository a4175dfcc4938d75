//! The engine against a simulated shell: no processes, no clock.
//!
//! `world` carries out actions and refuses impossible ones. `walks` takes random steps, and
//! each other module has one test per rule.
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
