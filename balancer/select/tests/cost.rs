//! What a choice costs: how many endpoints are looked at, and, printed, how long it takes.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use scaledapp_select::{Algorithm, Candidate, Chooser, Cursor, Standing, Survey, Warmth};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn endpoints(count: usize) -> Vec<Candidate> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..count)
        .map(|at| Candidate {
            key: at as u64,
            tag: at as u64,
            standing: Standing::Serving,
            ejected: false,
            tried: false,
            full: false,
            load: random.u64(..3000),
            heard: Duration::ZERO,
            is_local: at % 3 == 0,
            warmth: Warmth::of(
                Duration::from_secs(10),
                Duration::from_secs(random.u64(..20)),
            ),
        })
        .collect()
}

/// Endpoints looked at for each choice, on average.
fn looks(count: usize, tried: Option<usize>) -> f64 {
    const CHOICES: u32 = 2000;
    let all = endpoints(count);
    let survey = &Survey::of(count, |at| all[at]);
    let mut chooser = Chooser {
        algorithm: Algorithm::LeastOfTwo,
        survey,
        client: CLIENT,
        cursor: &mut Cursor::default(),
        random: &mut fastrand::Rng::with_seed(1),
    };
    let looks = Cell::new(0);
    for _ in 0..CHOICES {
        let see = |at: usize| {
            looks.set(looks.get() + 1);
            Candidate {
                tried: tried == Some(at),
                ..all[at]
            }
        };
        assert!(chooser.choose(see).is_some());
    }
    f64::from(looks.get()) / f64::from(CHOICES)
}

#[test]
fn the_less_busy_of_two_looks_at_few_endpoints_however_many_there_are() {
    for count in [2, 100, 1000, 4096] {
        let (plain, retry) = (looks(count, None), looks(count, Some(count / 2)));
        println!("{count} endpoints: {plain:.2} looks for each choice, {retry:.2} for a retry");
        assert!(plain <= 4.0, "{count}: {plain}");
        if count >= 100 {
            assert!(retry <= 4.5, "{count}: {retry}");
        }
    }
}
