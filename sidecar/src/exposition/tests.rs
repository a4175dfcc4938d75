//! Tests of pages of metrics: how they are read and written, and properties of merging them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGE: &str = "\
# HELP http_requests_total Requests, by \"code\"
# TYPE http_requests_total counter
http_requests_total{method=\"GET\",code=\"200\"} 1027 1395066363000
http_requests_total{ code = \"500\", } 3
# a comment
# TYPE heap_bytes gauge
heap_bytes 1.5e9
plain 7
# TYPE took_seconds histogram
took_seconds_bucket{le=\"0.1\"} 5
took_seconds_bucket{le=\"+Inf\"} 6
took_seconds_sum 0.75
took_seconds_count 6
# TYPE rpc summary
rpc{quantile=\"0.5\"} NaN
rpc_sum 10
rpc_count 2
";

fn sum_once(pages: &[&str]) -> String {
    let pages: Vec<(u32, Exposition)> = (1..).zip(pages.iter().map(|text| parse(text))).collect();
    let alive: Vec<u32> = pages.iter().map(|(pid, _)| *pid).collect();
    render(&Sums::default().sum(&alive, &pages))
}

#[test]
fn a_page_is_written_as_it_was_read() {
    let page = parse(PAGE);
    assert_eq!((page.skipped, page.conflicts), (0, 0));
    let expected = "\
# HELP http_requests_total Requests, by \"code\"
# TYPE http_requests_total counter
http_requests_total{method=\"GET\",code=\"200\"} 1027
http_requests_total{code=\"500\"} 3
# TYPE heap_bytes gauge
heap_bytes 1500000000
# TYPE plain untyped
plain 7
# TYPE took_seconds histogram
took_seconds_bucket{le=\"0.1\"} 5
took_seconds_bucket{le=\"+Inf\"} 6
took_seconds_sum 0.75
took_seconds_count 6
# TYPE rpc summary
rpc{quantile=\"0.5\"} NaN
rpc_sum 10
rpc_count 2
";
    assert_eq!(render(&page), expected);
}

#[test]
fn open_metrics_become_the_older_format() {
    let page = parse(
        "\
# TYPE hits counter
# UNIT hits requests
# HELP hits All of them.
hits_total{path=\"/a b\"} 17.0 1520879607.789 # {trace_id=\"K #\"} 0.67
hits_created{path=\"/a b\"} 1.5
# TYPE build info
build_info{version=\"1\"} 1
# TYPE up stateset
up{up=\"a\"} 1
# TYPE sizes gaugehistogram
sizes_bucket{le=\"+Inf\"} 2
sizes_gcount 2
# TYPE odd unknown
odd 1
# EOF
",
    );
    assert_eq!((page.skipped, page.conflicts), (0, 0));
    let expected = "\
# HELP hits_total All of them.
# TYPE hits_total counter
hits_total{path=\"/a b\"} 17
# TYPE hits_created gauge
hits_created{path=\"/a b\"} 1.5
# TYPE build_info gauge
build_info{version=\"1\"} 1
# TYPE up gauge
up{up=\"a\"} 1
# TYPE sizes_bucket gauge
sizes_bucket{le=\"+Inf\"} 2
# TYPE sizes_gcount gauge
sizes_gcount 2
# TYPE odd untyped
odd 1
";
    assert_eq!(render(&page), expected);
}

#[test]
fn a_line_that_is_not_a_sample_is_skipped_and_counted() {
    let broken = [
        "no_value",
        "1name 2",
        "name{a=\"b\" 2",
        "name{a=b} 2",
        "name{a=\"b\",a=\"c\"} 2",
        "name{a=\"b\"c=\"d\"} 2",
        "name two",
        "name 1 then more",
        "na-me 1",
        "{\"quoted.name\"} 1",
        "# TYPE x nonsense",
        "<html>",
    ];
    for line in broken {
        let page = parse(&format!("{line}\ngood 1\n"));
        assert_eq!(page.skipped, 1, "{line}");
        assert!(render(&page).contains("\ngood 1\n"), "{line}");
    }
}

#[test]
fn label_values_keep_their_escapes() {
    let text = "# TYPE a untyped\na{b=\"x\\\\y\\\"z\\n\"} 1\n";
    let page = parse(text);
    assert_eq!(page.families[0].1.samples[0].labels[0].1, "x\\y\"z\n");
    assert_eq!(render(&page), text);
}

#[test]
fn values_are_written_so_that_they_are_read_back() {
    for (word, written) in [
        ("0", "0"),
        ("-0.25", "-0.25"),
        ("1e300", "1e300"),
        ("1.7e-9", "1.7e-9"),
        ("+Inf", "+Inf"),
        ("-Inf", "-Inf"),
        ("9007199254740993", "9007199254740992"),
    ] {
        let text = render(&parse(&format!("a {word}")));
        assert!(text.ends_with(&format!("a {written}\n")), "{word}: {text}");
    }
}

#[test]
fn each_worker_has_its_label_and_each_family_one_head() {
    let pages = [
        (
            0,
            parse("# HELP a A.\n# TYPE a counter\na 1\na{worker=\"w\"} 2\n"),
        ),
        (
            1,
            parse("# HELP a B.\n# TYPE a counter\na 3\n# TYPE b gauge\nb 4\n"),
        ),
    ];
    let merged = label(&pages);
    assert_eq!(
        render(&merged),
        "\
# HELP a A.
# TYPE a counter
a{worker=\"0\"} 1
a{worker=\"0\",exported_worker=\"w\"} 2
a{worker=\"1\"} 3
# TYPE b gauge
b{worker=\"1\"} 4
"
    );
}

#[test]
fn a_family_of_another_type_is_left_out_and_counted() {
    let pages = [
        (0, parse("# TYPE a counter\na 1\n")),
        (1, parse("# TYPE a gauge\na 2\n# TYPE b gauge\nb 1\n")),
    ];
    for merged in [label(&pages), Sums::default().sum(&[0, 1], &pages)] {
        assert_eq!(merged.conflicts, 1);
        let text = render(&merged);
        assert!(text.contains("# TYPE a counter\n"), "{text}");
        assert!(!text.contains("gauge\na"), "{text}");
        assert!(text.contains("# TYPE b gauge\n"), "{text}");
    }
    let twice = parse("# TYPE a counter\n# TYPE a gauge\na 1\n");
    assert_eq!(
        (twice.conflicts, twice.families[0].1.kind),
        (1, Kind::Counter)
    );
}

#[test]
fn sums_add_by_name_and_labels_in_any_order() {
    let one = "# TYPE c counter\nc{a=\"1\",b=\"2\"} 1\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n";
    let two = "# TYPE c counter\nc{b=\"2\",a=\"1\"} 10\n# TYPE h histogram\nh_bucket{le=\"1\"} 10\nh_sum 20\nh_count 30\n";
    assert_eq!(
        sum_once(&[one, two]),
        "\
# TYPE c counter
c{a=\"1\",b=\"2\"} 11
# TYPE h histogram
h_bucket{le=\"1\"} 11
h_sum 22
h_count 33
"
    );
}

#[test]
fn quantiles_and_times_of_creation_are_not_added_up() {
    let text = sum_once(&[
        "# TYPE s summary\ns{quantile=\"0.9\"} 5\ns_sum 1\ns_count 2\n# TYPE c counter\nc_total 1\nc_created 9\n",
    ]);
    assert_eq!(
        text,
        "# TYPE s summary\ns_sum 1\ns_count 2\n# TYPE c_total counter\nc_total 1\n"
    );
}

/// The running pids, and the counters of those that answer.
type Step = (&'static [u32], &'static [(u32, f64)]);

/// The value of counter `c` after each step.
fn steps(steps: &[Step]) -> Vec<Option<f64>> {
    let mut sums = Sums::default();
    let step = |(alive, counted): &Step| {
        let page = |value| {
            parse(&format!(
                "# TYPE c counter\nc {value}\n# TYPE g gauge\ng 1\n"
            ))
        };
        let pages: Vec<(u32, Exposition)> = counted
            .iter()
            .map(|(pid, value)| (*pid, page(*value)))
            .collect();
        let merged = sums.sum(alive, &pages);
        let family = merged.families.iter().find(|(name, _)| name == "c");
        family.map(|(_, family)| family.samples[0].value)
    };
    steps.iter().map(step).collect()
}

#[test]
fn a_counter_never_goes_backwards_when_a_worker_is_replaced() {
    assert_eq!(
        steps(&[
            (&[], &[]),
            (&[1, 2], &[(1, 10.0), (2, 5.0)]),
            // Process 1 is replaced by 3.
            (&[2, 3], &[(2, 6.0), (3, 1.0)]),
            // Process 2 does not answer, so its last known value counts.
            (&[2, 3], &[(3, 2.0)]),
            // The counter of process 2 restarts from 0 in the same process.
            (&[2, 3], &[(2, 1.0), (3, 2.0)]),
            // First no process answers, then none is left.
            (&[2, 3], &[]),
            (&[], &[]),
        ]),
        [
            None,
            Some(15.0),
            Some(17.0),
            Some(18.0),
            Some(19.0),
            Some(19.0),
            Some(19.0)
        ]
    );
}

#[test]
fn values_that_are_not_finite_or_too_large_spoil_no_sum() {
    let counter = |value: &str| parse(&format!("# TYPE c counter\nc {value}\n"));
    let mut sums = Sums::default();
    sums.sum(&[1], &[(1, counter("5"))]);
    for bad in ["NaN", "+Inf", "-Inf"] {
        sums.sum(&[2], &[(2, counter(bad))]);
    }
    let page = render(&sums.sum(&[3], &[(3, counter("1"))]));
    assert_eq!(page, "# TYPE c counter\nc 6\n");
    let largest = counter("1.7e308");
    sums.sum(&[4], &[(4, largest.clone())]);
    let page = render(&sums.sum(&[5], &[(5, largest)]));
    assert_eq!(page, format!("# TYPE c counter\nc {:e}\n", f64::MAX));
}

#[test]
fn endless_labels_do_not_use_up_our_memory() {
    let mut sums = Sums::default();
    for pid in 0..20 {
        let label = format!("{pid}-{}", "x".repeat(1 << 20));
        let page = parse(&format!(
            "# TYPE c counter\nc{{l=\"{label}\"}} 1\nd{pid} 1\n"
        ));
        sums.sum(&[pid], &[(pid, page)]);
        assert!(sums.bytes <= merge::KEPT_BYTES);
    }
    assert!(sums.bytes > merge::KEPT_BYTES / 2);
}

fn page() -> impl Strategy<Value = String> {
    let sample = (0..4_u32, 0..3_u32, 0..1_000_000_u32);
    (
        prop::collection::vec(sample.clone(), 0..8),
        prop::collection::vec(sample, 0..8),
        0..1000_u32,
    )
        .prop_map(|(counters, gauges, count)| {
            let mut text = String::new();
            let mut seen = std::collections::BTreeSet::new();
            for (kind, list) in [("counter", counters), ("gauge", gauges)] {
                for (name, label, value) in list {
                    let name = format!("{kind}_{name}_x");
                    if seen.insert(name.clone()) {
                        // Names come in any order, so each gets its type where it first
                        // appears.
                        let _ok = writeln!(text, "# TYPE {name} {kind}");
                    }
                    if seen.insert(format!("{name}/{label}")) {
                        let _ok = writeln!(text, "{name}{{l=\"{label}\"}} {value}");
                    }
                }
            }
            let _ok = writeln!(text, "# TYPE h histogram\nh_bucket{{le=\"+Inf\"}} {count}");
            let _ok = writeln!(text, "h_sum {count}\nh_count {count}");
            text
        })
}

/// Name with labels → value.
fn values(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(pair).collect()
}

proptest! {
    #[test]
    fn reading_what_was_written_changes_nothing(text in page()) {
        let once = render(&parse(&text));
        prop_assert_eq!(render(&parse(&once)), once);
    }

    #[test]
    fn merging_one_page_gives_that_page(text in page()) {
        prop_assert_eq!(sum_once(&[&text]), render(&parse(&text)));
    }

    #[test]
    fn the_merged_sum_is_the_sum_of_all(texts in prop::collection::vec(page(), 1..5)) {
        let mut expected: BTreeMap<String, f64> = BTreeMap::new();
        for text in &texts {
            for (name, value) in values(&render(&parse(text))) {
                *expected.entry(name).or_default() += value;
            }
        }
        let pages: Vec<&str> = texts.iter().map(String::as_str).collect();
        prop_assert_eq!(values(&sum_once(&pages)), expected);
    }

    #[test]
    fn no_text_causes_a_panic(text in "[ -~\n\"{}=\\\\#é]{0,200}") {
        let _page = parse(&text);
    }
}
