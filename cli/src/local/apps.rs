//! The apps of a local run before they start: their addresses, plans, files and programs.
//!
//! Nothing is started here; `local` does that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use scaledapp_plan::local::{Demand, Machine, Plan, Record, hostname, plan};
use scaledapp_wire::Backend;

use crate::addresses::{self, Taken, TakenDns};
use crate::binaries::Binaries;
use crate::certificate::Authority;
use crate::launch::{Files, Program, dns, programs};
use crate::object::{Object, Objects};
use crate::rundir::RunDir;

/// File with the pods of an app, for its balancers. With several apps, its name is
/// `NAME-endpoints.json`.
pub(super) const ENDPOINTS: &str = "endpoints.json";
/// File with the names of a zone, for its DNS server. For the second zone, its name is
/// `2-records.json`.
const RECORDS: &str = "records.json";
/// File with the token by which pods recognise their balancers. With several apps, its name is
/// `NAME-token`.
const TOKEN: &str = "token";
/// Files with the certificate of an app's balancers and the key of the certificate. With several
/// apps, the names begin with `NAME-`.
const TLS: [&str; 2] = ["tls.crt", "tls.key"];
/// The apps with their addresses and plans.
pub(super) fn planned<'a>(
    objects: &'a Objects,
    demands: Vec<Demand>,
    zones: &[Zone],
    machine: Machine,
) -> anyhow::Result<Vec<App<'a>>> {
    let mut apps = Vec::new();
    for (object, demand) in objects.apps.iter().zip(demands) {
        let zone = hostname(&object.app).zone().to_owned();
        let dns = zones.iter().find(|known| known.name == zone);
        let dns = dns.context("the zone of the hostname has no server")?;
        let taken = addresses::take(demand, dns.taken.listen)?;
        let plan = plan(&object.app, machine, demand, taken.addresses);
        apps.push(App {
            object,
            authority: authority(object)?,
            plan,
            _taken: taken,
        });
    }
    Ok(apps)
}

/// An app of the run.
pub(super) struct App<'a> {
    pub(super) object: &'a Object,
    pub(super) plan: Plan,
    /// Signs the certificate of the balancers, if they speak TLS.
    pub(super) authority: Option<Authority>,
    _taken: Taken,
}

/// The authority that signs the certificate of an app's balancers, if they speak TLS.
fn authority(object: &Object) -> anyhow::Result<Option<Authority>> {
    let tls = object.app.tls.as_ref();
    tls.map(|_| Authority::find()).transpose()
}

/// A zone and the DNS server that answers for it.
pub(super) struct Zone {
    pub(super) name: String,
    taken: TakenDns,
    /// The name of the file that the server reads.
    pub(super) records: String,
}

/// The zones of all hostnames, each with its own server, because a server answers for one zone.
pub(super) fn zones(objects: &Objects) -> anyhow::Result<Vec<Zone>> {
    let mut zones: Vec<Zone> = Vec::new();
    for object in &objects.apps {
        let name = hostname(&object.app).zone().to_owned();
        if zones.iter().all(|known| known.name != name) {
            let records = match zones.len() {
                0 => RECORDS.to_owned(),
                more => format!("{}-{RECORDS}", more + 1),
            };
            let taken = addresses::take_dns()?;
            zones.push(Zone {
                name,
                taken,
                records,
            });
        }
    }
    Ok(zones)
}

/// All programs to start; the files that they read exist already.
pub(super) struct AllPrograms {
    /// A list for each app.
    pub(super) pods: Vec<Vec<Program>>,
    pub(super) slots: Vec<Program>,
    pub(super) dns: Vec<Program>,
}

pub(super) fn programs_of(
    apps: &[App<'_>],
    zones: &[Zone],
    run: &RunDir,
    binaries: &Binaries,
) -> anyhow::Result<AllPrograms> {
    let mut all = AllPrograms {
        pods: Vec::new(),
        slots: Vec::new(),
        dns: Vec::new(),
    };
    for app in apps {
        let named = |file: &str| file_of(apps, app, file);
        let (file, token) = (named(ENDPOINTS), named(TOKEN));
        run.write(&file, &endpoints(&app.plan, 0..app.plan.running))?;
        run.write_secret(&token, &scaledapp_runtime::secret()?)?;
        let files = Files {
            endpoints: run.file(&file),
            token: run.file(&token),
            tls: certificate(app, run, TLS.map(named))?,
        };
        let programs = programs(app.object, &app.plan, binaries, &files);
        all.pods.push(programs.pods);
        all.slots.extend(programs.slots);
    }
    for zone in zones {
        let named = apps.iter().map(|app| &app.plan.dns);
        let named = named.filter(|record| record.hostname.zone() == zone.name);
        run.write(&zone.records, &records(named))?;
        let name = match zones.len() {
            1 => "dns".to_owned(),
            _ => format!("dns-{}", zone.name),
        };
        let records = run.file(&zone.records);
        all.dns
            .push(dns(name, &zone.name, zone.taken.listen, binaries, &records));
    }
    Ok(all)
}

/// The name of an app's file: `NAME-FILE` if the run has several apps.
pub(super) fn file_of(apps: &[App<'_>], app: &App<'_>, file: &str) -> String {
    match apps.len() {
        1 => file.to_owned(),
        _ => format!("{}-{file}", app.object.app.name),
    }
}

/// Writes the certificate of an app's balancers and its key, if they speak TLS.
fn certificate(
    app: &App<'_>,
    run: &RunDir,
    names: [String; 2],
) -> anyhow::Result<Option<[PathBuf; 2]>> {
    let Some(authority) = &app.authority else {
        return Ok(None);
    };
    let addresses: Vec<IpAddr> = app
        .plan
        .slots
        .iter()
        .map(|slot| slot.address.ip())
        .collect();
    let host = hostname(&app.object.app).to_string();
    let issued = authority.issue(&host, &addresses)?;
    run.write_secret(&names[0], issued.certificate.trim_end())?;
    run.write_secret(&names[1], issued.key.trim_end())?;
    Ok(Some(names.map(|name| run.file(&name))))
}

/// The pods with these indexes, for the balancers.
pub(super) fn endpoints(plan: &Plan, listed: impl Iterator<Item = usize>) -> Vec<Backend> {
    let pods = listed.filter_map(|index| plan.pods.get(index));
    let pods = pods.map(|pod| Backend {
        address: pod.address,
        admin: Some(pod.admin),
        name: pod.name.clone(),
        zone: None,
    });
    pods.collect()
}

pub(super) fn records<'a>(
    records: impl Iterator<Item = &'a Record>,
) -> BTreeMap<String, scaledapp_wire::Record> {
    let records = records.map(|record| {
        let value = scaledapp_wire::Record {
            addresses: record.addresses.clone(),
            probe: Some(format!("tcp:{}", record.probe)),
            ttl: record.ttl.as_secs() as u32,
        };
        (format!("{}.", record.hostname), value)
    });
    records.collect()
}
