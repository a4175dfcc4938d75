//! What both benches share: load by wrk, CPU time from `/proc`, medians, and
//! the proxies of one hop. What is measured, and beside whom, is decided in the
//! binaries.

pub mod cpu;
pub mod figures;
pub mod peer;
pub mod wrk;
