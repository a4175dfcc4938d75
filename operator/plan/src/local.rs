//! What an app becomes on one machine: simulated pods and balancer slots, each
//! on a loopback address of its own, and the records that name them.
//!
//! The caller finds free addresses ([`Demand`] says how many are needed) and starts the
//! processes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::{Hostname, Pods, ValidatedApp, WorkerCount};

/// Admin port of a balancer, and of a pod's supervisor unless the app names another one;
/// the same as in a cluster.
pub const ADMIN_PORT: NonZeroU16 = NonZeroU16::new(9377).expect("invariant: 9377 is not 0");
/// Admin port of the supervisor that holds a balancer's socket.
pub const HOLDER_ADMIN_PORT: u16 = 9378;
/// Most pods of one run: their addresses share the first three octets.
pub const MAX_PODS: u32 = 250;

/// The simulated nodes, and the real cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Nodes to simulate.
    pub nodes: NonZeroU32,
    /// Cores to share out among the pods.
    pub cores: NonZeroU32,
}

/// Why an app cannot run on one machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// The app wants more pods than a run has addresses for.
    #[error(
        "{pods} pods are too many for one machine: ask for at most {MAX_PODS} in spec.replicas"
    )]
    TooManyPods {
        /// The number of pods that the object asks for.
        pods: u64,
    },
}

/// What a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Simulated pods that need addresses.
    pub pods: u32,
    /// How many of them run at the start; all, unless the app has an autoscaler.
    pub running: u32,
    /// Workers in each of them; with an autoscaler, the fewest.
    pub workers: u32,
    /// The most workers, if an autoscaler has a range.
    pub most_workers: Option<u32>,
    /// Balancer slots.
    pub slots: u32,
    /// Whether balancers need a port for TLS as well.
    pub has_tls: bool,
    /// The port of every balancer; `None`: any port.
    pub balancer_port: Option<NonZeroU16>,
    /// The port on which the app listens in every pod.
    pub port: NonZeroU16,
    /// The admin port of every pod's supervisor.
    pub admin_port: NonZeroU16,
}

/// Addresses that the caller has found free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// First three octets of the balancers' addresses; the fourth counts from 1.
    pub balancers: Ipv4Addr,
    /// Port of every balancer.
    pub balancer_port: u16,
    /// The port of every balancer for TLS; `None` if the demand needs none.
    pub tls_port: Option<u16>,
    /// First three octets of the pods' addresses, as in `balancers`.
    pub pods: Ipv4Addr,
    /// Where DNS listens.
    pub dns: SocketAddr,
}

/// All processes of a run, with their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The simulated pods that may run.
    pub pods: Vec<Pod>,
    /// How many of them, counted from the first, run at the start.
    pub running: usize,
    /// Workers in each pod; with an autoscaler, the fewest.
    pub workers: u32,
    /// The most workers, if an autoscaler has a range.
    pub most_workers: Option<u32>,
    /// The balancers.
    pub slots: Vec<Slot>,
    /// The app's DNS record.
    pub dns: Record,
}

/// A simulated pod: one supervisor with its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod's name: `APP-INDEX`.
    pub name: String,
    /// The simulated node on which the pod runs.
    pub node: String,
    /// The address at which the app listens.
    pub address: SocketAddr,
    /// The address of the supervisor's admin port.
    pub admin: SocketAddr,
}

/// A balancer and the supervisor that holds its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The slot's name: `APP-lb-INDEX`.
    pub name: String,
    /// The address at which the balancer serves.
    pub address: SocketAddr,
    /// The address at which the balancer serves with TLS.
    pub tls: Option<SocketAddr>,
    /// The address of the balancer's admin port.
    pub admin: SocketAddr,
    /// The address of the admin port of the supervisor that holds the balancer's socket.
    pub holder_admin: SocketAddr,
}

/// A DNS record and its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the server listens.
    pub listen: SocketAddr,
    /// The app's name.
    pub hostname: Hostname,
    /// How long resolvers may keep an answer.
    pub ttl: Duration,
    /// The addresses of the name.
    pub addresses: Vec<IpAddr>,
    /// The port that a healthy address accepts connections on.
    pub probe: u16,
}

/// How much a run of `app` needs on `machine`.
///
/// # Errors
/// More pods than one machine has addresses for.
pub fn demand(app: &ValidatedApp, machine: Machine) -> Result<Demand, LocalError> {
    let pods = match app.pods {
        Pods::Total(total) => u64::from(total.get()),
        Pods::PerNode(per_node) => u64::from(per_node.get()) * u64::from(machine.nodes.get()),
        // There are addresses for so many pods, and no more.
        Pods::Auto(range) => u64::from(range.max().min(MAX_PODS)),
    };
    let in_range = u32::try_from(pods).ok().filter(|pods| *pods <= MAX_PODS);
    let pods = in_range.ok_or(LocalError::TooManyPods { pods })?;
    let running = match app.pods {
        // One pod shows whether the app starts at all.
        Pods::Auto(range) => range.min().clamp(1, pods),
        Pods::Total(_) | Pods::PerNode(_) => pods,
    };
    let most_workers = match app.workers.count {
        WorkerCount::Range(_, most) => Some(most.get()),
        WorkerCount::Count(_) | WorkerCount::PerCore(_) => None,
    };
    let workers = match app.workers.count {
        WorkerCount::Count(count) | WorkerCount::Range(count, _) => count.get(),
        // Simulated pods share this machine's cores; each real pod would have a node's cores.
        WorkerCount::PerCore(per_core) => per_core
            .get()
            .saturating_mul((machine.cores.get() / pods).max(1)),
    };
    let slots = app.protocol.balancers().slots.get();
    // Balancers that relay connections have only one port.
    let ours = [ADMIN_PORT.get(), HOLDER_ADMIN_PORT];
    let is_usable = app.is_tcp() && !ours.contains(&app.port.get());
    Ok(Demand {
        pods,
        running,
        workers,
        most_workers,
        slots,
        has_tls: app.tls.is_some() && !app.is_tcp(),
        balancer_port: is_usable.then_some(app.port),
        port: app.port,
        admin_port: app.admin_port,
    })
}

/// The whole run, on addresses that fit `demand`.
pub fn plan(app: &ValidatedApp, machine: Machine, demand: Demand, addresses: Addresses) -> Plan {
    let pods: Vec<Pod> = (0..demand.pods)
        .map(|index| {
            let ip = numbered(addresses.pods, index);
            Pod {
                name: format!("{}-{index}", app.name),
                node: format!("node-{}", index % machine.nodes),
                address: SocketAddr::new(ip, demand.port.get()),
                admin: SocketAddr::new(ip, demand.admin_port.get()),
            }
        })
        .collect();
    let slots: Vec<Slot> = (0..demand.slots)
        .map(|index| {
            let ip = numbered(addresses.balancers, index);
            Slot {
                name: format!("{}-lb-{index}", app.name),
                address: SocketAddr::new(ip, addresses.balancer_port),
                tls: addresses.tls_port.map(|port| SocketAddr::new(ip, port)),
                admin: SocketAddr::new(ip, ADMIN_PORT.get()),
                holder_admin: SocketAddr::new(ip, HOLDER_ADMIN_PORT),
            }
        })
        .collect();
    let named = slots.iter().map(|slot| slot.address.ip()).collect();
    Plan {
        pods,
        running: demand.running as usize,
        workers: demand.workers,
        most_workers: demand.most_workers,
        slots,
        dns: Record {
            listen: addresses.dns,
            hostname: hostname(app),
            ttl: app.dns.ttl,
            addresses: named,
            probe: addresses.balancer_port,
        },
    }
}

/// The app's name in DNS: the name in the object, or `APP.apps.local`.
pub fn hostname(app: &ValidatedApp) -> Hostname {
    app.dns.hostname.clone().unwrap_or_else(|| {
        format!("{}.apps.local", app.name)
            .parse()
            .expect("invariant: a validated name is a label")
    })
}

/// The address of member `index` (from 0) of a block.
pub fn numbered(block: Ipv4Addr, index: u32) -> IpAddr {
    let [a, b, c, _] = block.octets();
    IpAddr::V4(Ipv4Addr::new(a, b, c, (index + 1) as u8))
}
