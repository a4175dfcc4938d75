//! What a person sees of a run with two apps.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use scaledapp_tests::process::{self, Process, Signal};
use scaledapp_tests::{binaries, http, sidecar, wait};
use serde_json::Value;

use crate::browser::Browser;

/// How long everything may take to start, on a busy machine.
const BOOT: Duration = Duration::from_mins(1);

fn app(name: &str, port: u16, workers: u32) -> String {
    let server = binaries::path("scaledapp-hello-rust").unwrap();
    let server = server.display();
    format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: {name}}}\nspec:\n  \
         image: example/{name}:1\n  command: [{server}]\n  port: {port}\n  replicas: {{total: 2}}\n  \
         workers: {{count: {workers}}}\n  balancers: {{replicas: 2}}\n  dns: {{hostname: {name}.apps.local}}\n"
    )
}

fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binaries::path("scaledapp").unwrap());
    command.args(words).current_dir(home);
    command.env("XDG_RUNTIME_DIR", home);
    command.env_remove("SCALEDAPP_STATE_FILE");
    command
}

/// Starts a command and waits for a text in its output.
fn start(home: &Path, words: &[&str], text: &str) -> Process {
    let started = Process::spawn(command(home, words)).unwrap();
    wait::until(BOOT, text, || {
        let out = started.stdout();
        let is_there = out.contains(text);
        is_there
            .then_some(())
            .ok_or_else(|| format!("{out}\n{}", started.stderr()))
    })
    .unwrap();
    started
}

#[test]
fn the_page_shows_what_runs_and_a_killed_worker_within_a_second() {
    if !binaries::has("chromium") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let file = home.join("apps.yaml");
    fs::write(
        &file,
        format!("{}---\n{}", app("shop", 3000, 2), app("cart", 3001, 1)),
    )
    .unwrap();
    let state_file = home.join("state.json");
    let words = [
        "local",
        file.to_str().unwrap(),
        "--nodes",
        "1",
        "--state-file",
        state_file.to_str().unwrap(),
    ];
    let _local = start(home, &words, "cart is ready after");
    wait::until_true(BOOT, "the state file exists", || state_file.exists()).unwrap();
    let state: Value = serde_json::from_slice(&fs::read(&state_file).unwrap()).unwrap();
    let dashboard = start(home, &["dashboard"], "/#t=");
    let url = dashboard.stdout().trim().to_owned();
    let shop = state["apps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|app| app["name"] == "shop")
        .unwrap();

    let mut browser = Browser::start();
    browser.show(1600, "light");
    browser.open(&url);
    // The first app is `cart`; the other one is chosen as a person would.
    browser.until(
        BOOT,
        "document.querySelectorAll('#apps button').length === 2",
    );
    browser.value("[...document.querySelectorAll('#apps button')].find((it) => it.title.startsWith('shop')).click()");
    browser.until(
        BOOT,
        "document.getElementById('name').textContent === 'shop'",
    );
    browser.until(
        BOOT,
        "document.getElementById('figure-workers').textContent === '4 of 4'",
    );
    assert_eq!(
        browser.value("location.hash + document.cookie"),
        "",
        "the token is wiped"
    );
    counts_are_those_of_the_processes(&mut browser, shop);

    let slot: std::net::SocketAddr = shop["balancers"][0].as_str().unwrap().parse().unwrap();
    for _ in 0..50 {
        assert_eq!(http::get(slot, "/").unwrap().status, 200);
    }
    browser.until(BOOT, "S.points.some((point) => point[1] > 0)");
    browser.until(
        BOOT,
        "document.querySelectorAll('#edges .flow').length === 0 || S.view.apps.shop.rps > 0",
    );

    a_killed_worker_is_seen(&mut browser, shop);
    paused_figures_stay(&mut browser);
    pictures(&mut browser);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    refusals(&mut browser, &url);
}

fn a_killed_worker_is_seen(browser: &mut Browser, shop: &Value) {
    // Frames come at once and every second, so a kill between two of them is seen soon.
    let admin = shop["pods"][1]["admin"].as_str().unwrap().parse().unwrap();
    let victim = sidecar::workers(admin).unwrap().remove(0);
    let start = Instant::now();
    process::send(victim.pid, Signal::KILL).unwrap();
    browser.until(
        BOOT,
        "document.getElementById('figure-restarts').textContent === '1'",
    );
    let took = start.elapsed();
    println!("the killed worker was seen after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    browser.until(BOOT, "document.getElementById('events').textContent.includes('worker 0 of shop-1 ended by SIGKILL')");
    browser.until(
        BOOT,
        "document.getElementById('figure-workers').textContent === '4 of 4'",
    );
    counts_are_those_of_the_processes(browser, shop);
}

/// The counts in the page, in its picture and in its tables are those that the admin ports tell.
fn counts_are_those_of_the_processes(browser: &mut Browser, shop: &Value) {
    let mut pids = Vec::new();
    for pod in shop["pods"].as_array().unwrap() {
        let admin = pod["admin"].as_str().unwrap().parse().unwrap();
        let workers = sidecar::workers(admin).unwrap();
        pids.extend(workers.into_iter().map(|worker| worker.pid.to_string()));
    }
    pids.sort();
    let shown = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[2].textContent).sort().join()";
    let expected = pids.join(",");
    browser.until(BOOT, &format!("{shown} === '{expected}'"));
    for (what, expected) in [
        ("document.querySelectorAll('#pods > li').length", 2),
        ("document.querySelectorAll('#balancers > li').length", 2),
        ("document.querySelectorAll('#slots > li').length", 2),
        (
            "Number(document.getElementById('podsCount').textContent)",
            2,
        ),
        (
            "Number(document.getElementById('appsCount').textContent)",
            2,
        ),
        ("S.view.open.dns.published", 2),
    ] {
        assert_eq!(browser.value(what), expected, "{what}");
    }
}

fn paused_figures_stay(browser: &mut Browser) {
    browser.press("p");
    browser.until(
        BOOT,
        "document.getElementById('pause').getAttribute('aria-pressed') === 'true'",
    );
    let before = browser.value("[S.view.now, document.getElementById('app').textContent]");
    browser.until(BOOT, &format!("S.view.now > {} + 2500", before[0]));
    assert_eq!(
        browser.value("document.getElementById('app').textContent"),
        before[1]
    );
    browser.press("p");
    browser.until(
        BOOT,
        "document.getElementById('liveText').textContent === 'live'",
    );
}

fn pictures(browser: &mut Browser) {
    let directory = binaries::workspace().join("target/dashboard");
    fs::create_dir_all(&directory).unwrap();
    for theme in ["light", "dark"] {
        for width in [360, 1024, 1600] {
            browser.show(width, theme);
            browser.picture(&directory.join(format!("{width}-{theme}.png")));
        }
    }
    // The smallest width that must work (WCAG 1.4.10): nothing is wider than the window.
    browser.show(320, "light");
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 320);
    let elements = browser.value("document.querySelectorAll('*').length");
    assert!(elements.as_u64().unwrap() <= 1_500, "{elements} elements");
    browser.show(1600, "light");
    // Each control has a name, and the targets are large enough (WCAG 4.1.2, 2.5.8).
    let nameless = "[...document.querySelectorAll('button, input, summary')].filter((it) => it.offsetParent && \
                    !(it.getAttribute('aria-label') || it.textContent.trim() || it.labels && it.labels.length)).length";
    assert_eq!(browser.value(nameless), 0);
    let small = "[...document.querySelectorAll('button, summary')].filter((it) => it.offsetParent && \
                 it.getBoundingClientRect().height < 24).length";
    assert_eq!(browser.value(small), 0);
}

/// The page's policy is in force, and a wrong token is told.
fn refusals(browser: &mut Browser, url: &str) {
    browser.value("document.body.setAttribute('style', 'color: red')");
    let complaints = browser.complaints();
    assert!(
        complaints
            .iter()
            .any(|it| it.contains("Content Security Policy")),
        "{complaints:?}"
    );
    browser.tab();
    let (page, _token) = url.split_once('#').unwrap();
    browser.open(&format!("{page}#t=0123456789abcdef0123456789abcdef"));
    browser.until(
        BOOT,
        "document.getElementById('banner')?.textContent.startsWith('The token is missing') === true",
    );
}
