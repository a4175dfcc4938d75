//! How many connections each worker has under Connection dispatch, for the load report.
//! This file decides how often the kernel is asked, and lists connections only if the workers'
//! sockets have changed. `open_connections` reads which process has which connection open.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::connection::open_connections::{self, Member};
use crate::handover::sharing::Sharing;
use crate::input::Input;
use crate::limits::memory;
use crate::report::Report;

/// The shortest interval between two checks.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval between two checks.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
/// The pause after a check is this many times as long as the check. With many connections
/// one check costs the kernel tens of milliseconds.
const LOOK_SHARE: u32 = 100;

/// Checks the workers' connections from time to time, and reports each change to the supervisor's
/// loop, until the loop ends.
pub(crate) fn watch(
    ports: Vec<u16>,
    inputs: mpsc::UnboundedSender<Input>,
    report: Arc<Report>,
    sharing: Rc<RefCell<Sharing>>,
) {
    tokio::task::spawn_local(async move {
        let mut looks = Looks::default();
        let mut waited = 0;
        let mut pause = MIN_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let changed = looks.look(&report.groups(), &ports);
            pause = pause_after(begun.elapsed());
            let queued = sharing.borrow().queued_in_all();
            if !changed && queued == waited {
                continue;
            }
            waited = queued;
            let by_group = looks.counts.clone();
            if inputs
                .send(Input::OpenConnections { by_group, queued })
                .is_err()
            {
                return;
            }
        }
    });
}

fn pause_after(took: Duration) -> Duration {
    (took * LOOK_SHARE).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// The results of the last check.
#[derive(Default)]
struct Looks {
    /// The number of open descriptors of each process; `None` if the kernel does not report
    /// it.
    open: Option<Vec<(Member, u64)>>,
    held: HashMap<u32, HashSet<u64>>,
    /// Connections by process group.
    counts: HashMap<u32, u32>,
}

impl Looks {
    /// Checks the workers. Returns whether any group may have a different number of connections
    /// than before.
    fn look(&mut self, groups: &[u32], ports: &[u16]) -> bool {
        // Only descendants are checked: a scan of all processes would cost more than it is
        // worth.
        let members: Vec<Member> = groups
            .iter()
            .flat_map(|group| {
                let tree = memory::tree(*group).into_iter();
                tree.map(move |pid| (pid, *group))
            })
            .collect();
        // Counting descriptors takes one system call per process, listing them one per
        // descriptor.
        let open: Option<Vec<(Member, u64)>> = members
            .iter()
            .map(|member| Some((*member, open_connections::open_descriptors(member.0)?)))
            .collect();
        if open.is_some() && open == self.open {
            return false;
        }
        self.open = open;
        let held = open_connections::sockets_of(&members);
        // To list connections the kernel walks its whole table, so it is not asked if the
        // workers have the same sockets open as before.
        if held == self.held {
            return false;
        }
        let carrying = open_connections::carrying(ports);
        let count = |mine: &HashSet<u64>| mine.intersection(&carrying).count() as u32;
        let counts = held.iter().map(|(group, mine)| (*group, count(mine)));
        self.counts = counts.collect();
        self.held = held;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn looking_takes_at_most_a_hundredth_of_the_time_and_never_stops() {
        for (took, pause) in [(0, 1_000), (10, 1_000), (26, 2_600), (900, 5_000)] {
            let pause = Duration::from_millis(pause);
            assert_eq!(pause_after(Duration::from_millis(took)), pause);
        }
    }

    #[test]
    fn a_connection_changes_the_count_of_the_worker_that_accepted_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [listener.local_addr().unwrap().port()];
        let us = std::process::id();
        let mut looks = Looks::default();
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 0);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap();
        // Other tests of this process open and close descriptors, too.
        looks.open = None;
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 1);
        drop(accepted);
        looks.open = None;
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 0);
    }
}
