//! `scaledapp dashboard`: serves the page for the runs on this machine until a signal.
//!
//! `runs` finds the runs, and `scaledapp-dashboard` decides what the page shows and who may see it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use scaledapp_dashboard::{
    AdminPlaces, AdminSource, BalancerPlace, Dashboard, DnsAnswers, DnsPlace, PodPlace,
};
use scaledapp_plan::local::{ADMIN_PORT, HOLDER_ADMIN_PORT};
use scaledapp_runtime::{Signals, say};

use crate::runs;
use crate::state::State;

/// Serves the page until a signal. Returns what is printed at the end.
///
/// # Errors
/// The state file cannot be used, or the port cannot be opened.
pub(crate) fn run(state: Option<&Path>, port: u16, open: bool) -> anyhow::Result<String> {
    let found = runs::all(state)?;
    for note in &found.notes {
        say(&format!("scaledapp: {note}"));
    }
    if found.living.is_empty() {
        say(
            "scaledapp: nothing runs here yet: the page shows an app soon after `scaledapp local FILE`",
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(state.map(Path::to_owned), port, open))
}

async fn serve(state: Option<PathBuf>, port: u16, open: bool) -> anyhow::Result<String> {
    let mut signals = Signals::new().context("signals cannot be handled")?;
    let dashboard = Dashboard::bind(port).await?;
    let url = dashboard.url();
    let mut out = std::io::stdout();
    writeln!(out, "{url}")?;
    out.flush()?;
    say("scaledapp: the dashboard is at the address above until Ctrl-C");
    if open && let Err(error) = browse(&url) {
        say(&format!("scaledapp: {error:#}: open the address yourself"));
    }
    let source = AdminSource::new("this machine", move || {
        let found = runs::all(state.as_deref()).map_err(|error| format!("{error:#}"))?;
        Ok(found.living.iter().map(places).collect())
    });
    tokio::select! {
        () = dashboard.serve(source) => bail!("the dashboard has ended"),
        _signal = signals.next() => Ok(String::new()),
    }
}

/// The processes of an app. Pods whose address another process has taken are not asked.
fn places(run: &State) -> AdminPlaces {
    let pods = run.pods.iter().map(|pod| PodPlace {
        name: pod.name.clone(),
        address: pod.address.to_string(),
        node: None,
        admin: match runs::check(pod) {
            Ok(()) => Ok(pod.admin),
            Err(error) => Err(format!("{error:#}")),
        },
    });
    let balancers = run.balancers.iter().zip(0..).map(|(address, slot)| {
        let (mut admin, mut holder) = (*address, *address);
        admin.set_port(ADMIN_PORT.get());
        holder.set_port(HOLDER_ADMIN_PORT);
        BalancerPlace {
            name: format!("{}-lb-{slot}", run.app()),
            slot,
            address: address.to_string(),
            ip: Some(address.ip()),
            admin: Ok(admin),
            holder: Some(holder),
        }
    });
    AdminPlaces {
        name: run.app().to_owned(),
        dns: Some(DnsPlace {
            hostname: run.hostname.clone(),
            answers: DnsAnswers::Server(run.dns),
        }),
        balancers: balancers.collect(),
        pods: pods.collect(),
    }
}

/// Opens an address in the user's browser. The token is then in the arguments of a short-lived
/// process, which only this user and root can use: others of this machine could read it there, but
/// `--open` is meant for a machine of one's own.
fn browse(url: &str) -> anyhow::Result<()> {
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("xdg-open cannot be started")?;
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::PodState;

    #[test]
    fn a_run_has_the_admin_ports_of_its_slots_and_no_pod_of_another() {
        let run = State {
            dns: "127.0.0.1:5353".parse().unwrap(),
            hostname: "shop.apps.local".to_owned(),
            balancers: vec!["127.0.77.9:8080".parse().unwrap()],
            pods: vec![PodState {
                name: "shop-0".to_owned(),
                address: "127.0.252.1:3000".parse().unwrap(),
                admin: "127.0.252.1:9377".parse().unwrap(),
            }],
            app: None,
            autoscaling: None,
        };
        let places = places(&run);
        let balancer = &places.balancers[0];
        assert_eq!((balancer.name.as_str(), balancer.slot), ("shop-lb-0", 0));
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(balancer.admin, Ok(at("127.0.77.9:9377")));
        assert_eq!(balancer.holder, Some(at("127.0.77.9:9378")));
        let reason = places.pods[0].admin.as_ref().unwrap_err();
        assert!(reason.contains("does not answer"), "{reason}");
    }
}
