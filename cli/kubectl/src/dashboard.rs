//! `dashboard`: serves the page of `scaledapp dashboard` on loopback, for the apps of a cluster.
//!
//! `cluster` reads the figures through the API server, with the rights of the user's kubeconfig. Ports of
//! pods never become ports of this machine: only the page's own port listens, which answers nobody
//! without its token.

mod cluster;
mod found;

use scaledapp_dashboard::{AdminSource, Dashboard};

use crate::api::Api;
use crate::cli::DashboardArgs;
use crate::open::browse;
use crate::outcome::{Ended, Failure};
use crate::read;

use cluster::Cluster;

/// Runs the verb until it is interrupted.
pub(crate) async fn run(api: &Api, args: &DashboardArgs) -> Ended {
    // What makes the page useless is said here, where it can be read.
    read::apps(api, &args.which).await?;
    let dashboard = Dashboard::bind(args.port)
        .await
        .map_err(|error| Failure::fails(error.to_string()))?;
    let url = dashboard.url();
    crate::output::write(&format!("{url}\n"))?;
    let place = if args.which.all_namespaces {
        "all namespaces".to_owned()
    } else {
        format!("namespace {}", api.namespace)
    };
    scaledapp_runtime::say(&format!(
        "the dashboard of {place} is at the address above until Ctrl-C"
    ));
    if !args.no_browser && crate::text::Surroundings::of_stdout().is_terminal {
        browse(&url);
    }
    let cluster = Cluster::new(api.clone(), args.which.clone());
    let source = AdminSource::through(&place, cluster);
    dashboard.serve(source).await;
    Err(Failure::unknown("the dashboard has ended"))
}
