//! What `local` prints about an app that is ready.

use std::fmt::Write as _;
use std::time::Duration;

use scaledapp_plan::local::Plan;
use scaledapp_runtime::table;

use crate::certificate::Authority;
use crate::object::Object;

/// The summary of an app that is ready: its addresses, and commands to try.
pub(crate) fn describe(
    object: &Object,
    plan: &Plan,
    authority: Option<&Authority>,
    took: Duration,
) -> String {
    let name = &object.app.name;
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.extend(plan.slots.iter().map(|slot| {
        [
            slot.name.clone(),
            slot.address.to_string(),
            slot.admin.to_string(),
        ]
    }));
    rows.extend(plan.pods.iter().take(plan.running).map(|pod| {
        [
            pod.name.clone(),
            pod.address.to_string(),
            pod.admin.to_string(),
        ]
    }));
    let most = if object.app.autoscaling.is_some() {
        let workers = plan.most_workers.unwrap_or(plan.workers) as usize;
        let workers = counted(workers, "worker");
        format!(
            " (at most {} of {workers})",
            counted(plan.pods.len(), "pod")
        )
    } else {
        String::new()
    };
    let mut text = format!(
        "{name} is ready after {:.1} s: {}{most}, {}\n\n{}\n",
        took.as_secs_f64(),
        counted(
            plan.running,
            &format!("pod of {}", counted(plan.workers as usize, "worker"))
        ),
        counted(plan.slots.len(), "balancer"),
        table(["NAME", "ADDRESS", "ADMIN"], rows)
    );
    let record = &plan.dns;
    let first = plan.slots.first().map(|slot| slot.address);
    let mut line = |text_of: String| {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "  {text_of}");
    };
    match (first, authority) {
        (Some(first), None) if object.app.is_tcp() => {
            line(format!("nc {} {}", first.ip(), first.port()));
        }
        (Some(first), Some(authority)) if object.app.is_tcp() => line(format!(
            "openssl s_client -connect {first} -servername {} -CAfile {}",
            record.hostname,
            authority.path.display()
        )),
        (Some(first), _) => line(format!("curl http://{first}/")),
        (None, _) => {}
    }
    let tls = plan.slots.first().and_then(|slot| slot.tls);
    if let (Some(tls), Some(authority)) = (tls, authority) {
        let (host, port, ip) = (&record.hostname, tls.port(), tls.ip());
        let path = authority.path.display();
        line(format!(
            "curl --cacert {path} --resolve {host}:{port}:{ip} https://{host}:{port}/"
        ));
        line(format!(
            "to trust the certificate everywhere: cp {path} /usr/local/share/ca-certificates/scaledapp.crt && update-ca-certificates (as root, on Debian; browsers import that file)"
        ));
    }
    let (ip, port) = (record.listen.ip(), record.listen.port());
    line(format!("dig @{ip} -p {port} {} +short", record.hostname));
    line(format!(
        "scaledapp status | scale {name} N | reload {name} | logs {name}"
    ));
    text
}

/// `1 pod`, `2 pods`. The plural `s` is added to the first word of `what`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        return format!("1 {what}");
    }
    match what.split_once(' ') {
        Some((first, rest)) => format!("{count} {first}s {rest}"),
        None => format!("{count} {what}s"),
    }
}

/// The URL of an app that speaks HTTP.
pub(crate) fn url(object: &Object, plan: &Plan) -> Option<String> {
    let first = plan.slots.first().filter(|_| !object.app.is_tcp())?;
    Some(format!("http://{}/", first.address))
}
