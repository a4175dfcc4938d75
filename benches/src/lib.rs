//! Code that the benches share: load by wrk, CPU time from `/proc`, medians, and the
//! proxies of one hop. The binaries decide what is measured, and beside which peers.

pub mod cpu;
pub mod figures;
pub mod h2load;
pub mod peer;
pub mod rounds;
pub mod wrk;
