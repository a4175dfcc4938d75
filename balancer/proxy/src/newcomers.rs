//! Connections whose client has not achieved anything yet: half-done handshakes of TLS, HTTP/2 and
//! the PROXY protocol, half heads of requests, and relays that have moved no byte. Decides which of
//! them gives way to a new connection at the limit of connections.
//!
//! Opening such a connection costs its client nothing, so it gives way at once. The connection that
//! ends is the oldest of the client address that has the most of them: one address that opens
//! connections without end ends its own, not those of others. Whether any connection must end is
//! decided in `accept`.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use crate::clock::{Deadline, Slot};

/// An address with its number of newcomers, and the number of the oldest one. The last one in order
/// is the next to lose a connection: it has the most and, among such addresses, the oldest.
type Rank = (usize, Reverse<u64>, IpAddr);

#[derive(Debug, Default)]
struct Listed {
    /// The newcomers of each address, oldest first, with their numbers.
    of_address: HashMap<IpAddr, VecDeque<(u64, Slot)>>,
    ranks: BTreeSet<Rank>,
    /// How many newcomers there have been.
    joined: u64,
}

/// The newcomers of a thread.
#[derive(Debug, Default)]
pub(crate) struct Newcomers(RefCell<Listed>);

/// A connection that is listed until this is dropped. Its deadline must outlive it.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    all: &'a Newcomers,
    address: IpAddr,
    number: u64,
}

impl Newcomers {
    /// Lists a connection.
    pub(crate) fn join(&self, deadline: &Deadline, address: IpAddr) -> Newcomer<'_> {
        Newcomer {
            all: self,
            address,
            number: self.0.borrow_mut().join(deadline.slot(), address),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().ranks.is_empty()
    }

    /// Takes the connection that gives way next off the list, and returns it.
    pub(crate) fn take_next(&self) -> Option<Slot> {
        self.0.borrow_mut().take_next()
    }
}

impl Drop for Newcomer<'_> {
    fn drop(&mut self) {
        self.all.0.borrow_mut().leave(self.number, self.address);
    }
}

impl Listed {
    fn join(&mut self, slot: Slot, address: IpAddr) -> u64 {
        let number = self.joined;
        self.joined += 1;
        self.change(address, |all| {
            all.push_back((number, slot));
            None
        });
        number
    }

    fn leave(&mut self, number: u64, address: IpAddr) {
        self.change(address, |all| {
            let at = all.binary_search_by_key(&number, |(number, _)| *number);
            at.ok().and_then(|at| all.remove(at))
        });
    }

    fn take_next(&mut self) -> Option<Slot> {
        let (.., address) = *self.ranks.last()?;
        self.change(address, VecDeque::pop_front)
    }

    /// Changes the newcomers of an address, and its rank with them.
    fn change(
        &mut self,
        address: IpAddr,
        change: impl FnOnce(&mut VecDeque<(u64, Slot)>) -> Option<(u64, Slot)>,
    ) -> Option<Slot> {
        let all = self.of_address.entry(address).or_default();
        let rank = |all: &VecDeque<(u64, Slot)>| {
            let (oldest, _) = *all.front()?;
            Some((all.len(), Reverse(oldest), address))
        };
        let before = rank(all);
        let taken = change(all);
        let after = rank(all);
        if after.is_none() {
            self.of_address.remove(&address);
        }
        if let Some(before) = before {
            self.ranks.remove(&before);
        }
        self.ranks.extend(after);
        taken.map(|(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_address_with_the_most_newcomers_loses_its_oldest() {
        let mut listed = Listed::default();
        // The slots are numbered in the order in which the connections begin.
        for (slot, last) in [1, 2, 2, 3, 2, 3].into_iter().enumerate() {
            listed.join(Slot::of(slot), address(last));
        }
        let order = std::iter::from_fn(|| listed.take_next()).map(Slot::index);
        assert_eq!(
            order.collect::<Vec<_>>(),
            [1, 2, 3, 0, 4, 5],
            "among addresses with equally many, the oldest"
        );
        assert!(listed.of_address.is_empty() && listed.ranks.is_empty());
    }

    #[test]
    fn one_that_has_been_taken_or_has_achieved_something_is_not_taken_again() {
        let mut listed = Listed::default();
        let numbers = [0, 1, 2].map(|slot| listed.join(Slot::of(slot), address(1)));
        listed.leave(numbers[1], address(1));
        assert_eq!(listed.take_next(), Some(Slot::of(0)));
        listed.leave(numbers[0], address(1));
        // A new connection has got the slot of the one that was taken.
        listed.join(Slot::of(0), address(1));
        listed.leave(numbers[0], address(1));
        assert_eq!(listed.take_next(), Some(Slot::of(2)));
        assert_eq!(listed.take_next(), Some(Slot::of(0)));
        assert_eq!(listed.take_next(), None);
    }
}
