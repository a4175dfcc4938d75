//! x
#![allow(clippy::print_stdout, reason = "x")]
use scaledapp_simulate::*;
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let trace = TRACES.into_iter().find(|t| t.name == a[0]).unwrap();
    let kind = Kind::ALL[a[1].parse::<usize>().unwrap()];
    let o = run(&trace, kind.rules().as_mut(), 1);
    let mut last = -1.0;
    for (i, s) in o.seconds.iter().enumerate() {
        if s.capacity != last || s.queue > 50.0 {
            println!(
                "{i} demand {:.1} cap {} queue {} late {}",
                s.demand, s.capacity, s.queue, s.late
            );
        }
        last = s.capacity;
    }
}
