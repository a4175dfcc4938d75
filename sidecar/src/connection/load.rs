//! How many connections each worker holds under Connection dispatch, for the load
//! report: how often that is looked at, and what is looked at only when something
//! has changed. Who holds what is read in `held`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::connection::held::{self, Member};
use crate::input::Input;
use crate::limits::memory;
use crate::report::Report;
use crate::sharing::Sharing;

/// How often at most.
const PERIOD: Duration = Duration::from_secs(1);
/// How seldom at most.
const SELDOM: Duration = Duration::from_secs(5);
/// Looking takes one part of the time out of so many. With many connections the
/// kernel needs tens of milliseconds for one look.
const SHARE: u32 = 100;

/// Tells the supervisor of each change, for ever.
pub(crate) fn watch(
    ports: Vec<u16>,
    inputs: mpsc::UnboundedSender<Input>,
    report: Arc<Report>,
    sharing: Rc<RefCell<Sharing>>,
) {
    tokio::task::spawn_local(async move {
        let mut looks = Looks::default();
        let mut waited = 0;
        let mut pause = PERIOD;
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
            if inputs.send(Input::Held { by_group, queued }).is_err() {
                return;
            }
        }
    });
}

fn pause_after(took: Duration) -> Duration {
    (took * SHARE).clamp(PERIOD, SELDOM)
}

/// What was seen last.
#[derive(Default)]
struct Looks {
    /// Of each process, how many descriptors it has; `None` where the kernel does
    /// not say so.
    open: Option<Vec<(Member, u64)>>,
    held: HashMap<u32, HashSet<u64>>,
    /// Connections by group.
    counts: HashMap<u32, u32>,
}

impl Looks {
    /// Whether any group may hold another number of connections than before.
    fn look(&mut self, groups: &[u32], ports: &[u16]) -> bool {
        // Descendants only: looking through all processes costs more than it shows.
        let members: Vec<Member> = groups
            .iter()
            .flat_map(|group| {
                let tree = memory::tree(*group).into_iter();
                tree.map(move |pid| (pid, *group))
            })
            .collect();
        // Counting descriptors is one system call for each process, naming them is
        // one for each descriptor.
        let open: Option<Vec<(Member, u64)>> = members
            .iter()
            .map(|member| Some((*member, held::open_descriptors(member.0)?)))
            .collect();
        if open.is_some() && open == self.open {
            return false;
        }
        self.open = open;
        let held = held::sockets_of(&members);
        // For connections the kernel walks its whole table: not for workers that
        // hold what they held.
        if held == self.held {
            return false;
        }
        let carrying = held::carrying(ports);
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
    fn looking_takes_a_hundredth_of_the_time_at_most_and_is_never_given_up() {
        for (took, pause) in [(0, 1_000), (10, 1_000), (26, 2_600), (900, 5_000)] {
            let pause = Duration::from_millis(pause);
            assert_eq!(pause_after(Duration::from_millis(took)), pause);
        }
    }

    #[test]
    fn a_connection_changes_the_count_of_who_accepted_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [listener.local_addr().unwrap().port()];
        let us = std::process::id();
        let mut looks = Looks::default();
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 0);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap();
        // Other tests of this process open and close things, too.
        looks.open = None;
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 1);
        drop(accepted);
        looks.open = None;
        assert!(looks.look(&[us], &ports));
        assert_eq!(looks.counts[&us], 0);
    }
}
