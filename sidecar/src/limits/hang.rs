//! Reads the signs of hung workers under Connection dispatch: the system calls of their
//! threads (`waiting`) and, if no thread waits for connections, the progress of their sockets.
//! `silence` decides what these signs mean, and `watch` decides what follows.

use std::collections::HashMap;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use scaledapp_engine::{Engine, WorkerId, WorkerState};
use scaledapp_proc::sockets::{self, Progress};

use super::memory;
use super::silence::Carried;
use super::waiting::{self, Waiting};
use crate::connection::open_connections::socket_inodes;
use crate::cores::Quotas;
use crate::dispatch::Front;
use crate::workers::Workers;

/// For how long each worker has made no progress while clients wait. `now` is the time since the
/// supervisor's start. Workers that make progress, or whose progress is unknown, are left out. A
/// worker is hung after `most`, not counting the time in which it waited for a CPU or `quotas` kept
/// it from running.
pub(super) fn silent_workers(
    engine: &Engine,
    workers: &mut Workers,
    now: Duration,
    most: Duration,
    quotas: &Quotas,
) -> HashMap<WorkerId, Duration> {
    let mut all = HashMap::new();
    let Front::Connection(_) = &workers.front else {
        return all;
    };
    let (ports, sharing) = (Rc::clone(&workers.ports), Rc::clone(&workers.sharing));
    // The connections are the same for all workers, and are read only if some worker has no
    // thread that waits for connections.
    let mut connections = None;
    let ready = engine.workers();
    for worker in ready.filter(|worker| worker.state == WorkerState::Ready) {
        let Some(process) = workers.get_mut(worker.id) else {
            continue;
        };
        if process
            .waiting_thread
            .is_some_and(|thread| thread.waits_still())
        {
            process.silence.is_waiting();
            continue;
        }
        let tree = memory::tree(process.pid);
        let listeners = sharing.borrow().listeners(process.generation);
        let pid = match waiting::find(&tree, &listeners) {
            Waiting::Thread(thread) => {
                process.waiting_thread = Some(thread);
                process.silence.is_waiting();
                continue;
            }
            Waiting::Unknown => {
                process.silence.is_waiting();
                continue;
            }
            Waiting::NoThread(pid) => pid,
        };
        let kept = run_delay(pid) + quotas.throttled().unwrap_or_default();
        if !process.silence.is_not_waiting(now, kept, most) {
            continue;
        }
        let connections = connections.get_or_insert_with(|| progress(&ports));
        // If the kernel does not list connections, no waiting client is known.
        let carried = carried(&tree, connections);
        all.insert(worker.id, process.silence.carries(carried));
    }
    all
}

/// The progress of connections by inode.
fn progress(ports: &[u16]) -> HashMap<u64, Progress> {
    let all = ports.iter().flat_map(|port| {
        let told = sockets::progress(*port);
        told.unwrap_or_default()
    });
    all.map(|one| (one.inode, one)).collect()
}

/// Those of `connections` that these processes have open.
fn carried(tree: &[u32], connections: &HashMap<u64, Progress>) -> Carried {
    let mut carried = Carried::default();
    for inode in tree.iter().flat_map(|pid| socket_inodes(*pid)) {
        let Some(one) = connections.get(&inode) else {
            continue;
        };
        carried.moved.insert(inode, (one.read, one.answered));
        // A lone FIN counts as one byte.
        carried.somebody_waits |= one.unread > 1;
    }
    carried
}

/// How long the main thread of a process has waited for a CPU since its start: the second
/// number in `/proc/PID/schedstat`, in nanoseconds.
fn run_delay(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let delay = text.split_ascii_whitespace().nth(1);
    Duration::from_nanos(delay.and_then(|delay| delay.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_carries_the_connections_that_it_holds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let server = listener.accept().unwrap().0;
        client.write_all(b"GET").unwrap();
        server.peek(&mut [0; 3]).unwrap();
        let inode = rustix::fs::fstat(&server).unwrap().st_ino;
        let connections = progress(&[address.port()]);
        let own = std::process::id();
        let carried = |tree: &[u32]| carried(tree, &connections);
        let mine = carried(&[own]);
        assert_eq!(mine.moved.get(&inode), Some(&(0, 0)));
        assert!(mine.somebody_waits);
        assert_eq!(carried(&[own, own]), mine);
        assert_eq!(carried(&[]), Carried::default());
    }

    #[test]
    fn the_time_spent_waiting_for_a_cpu_only_grows() {
        let before = run_delay(std::process::id());
        assert!(run_delay(std::process::id()) >= before);
        assert_eq!(run_delay(u32::MAX), Duration::ZERO);
    }
}
