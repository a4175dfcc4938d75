//! x
#![allow(clippy::print_stdout, reason = "x")]
use scaledapp_simulate::*;
fn main() {
    let seeds: Vec<u64> = std::env::args()
        .skip(1)
        .map(|s| s.parse().unwrap())
        .collect();
    println!("{:16} {:>7} | late pods changes queue", "", "reqs");
    for trace in TRACES {
        let mut line = String::new();
        let mut reqs = 0;
        for kind in Kind::ALL {
            let (mut l, mut p, mut c, mut q) = (0, 0.0, 0, 0);
            for seed in &seeds {
                let o = run(&trace, kind.rules().as_mut(), *seed);
                l += o.late;
                p += o.pod_seconds;
                c += o.changes;
                q = q.max(o.max_queue);
                reqs = o.requests;
            }
            let n = seeds.len() as f64;
            line += &format!(
                " | {:6.0} {:6.0} {:4.0} {:5}",
                l as f64 / n,
                p / n,
                c as f64 / n,
                q
            );
        }
        println!("{:16} {:>7}{line}", trace.name, reqs);
    }
}
