//! Doubly linked lists whose nodes are in one array: a connection is added at the end and
//! removed from anywhere, in constant time. Which connection is in which list, and what
//! follows from that, is decided in `clock`.

/// No node.
const NONE: u32 = u32::MAX;

/// A slot of an [`Order`], which may or may not be in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot with that index.
    pub(crate) fn of(index: usize) -> Self {
        Self(index as u32)
    }
}

/// One of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// The idle connections.
    Idle,
    /// The connections whose client does not send or read.
    Stalled,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    before: u32,
    after: u32,
    list: Option<List>,
}

const OUT: Node = Node {
    before: NONE,
    after: NONE,
    list: None,
};

/// The first and the last node of a list.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// The slots in each list, in the order in which they joined. A slot is in at most one
/// list.
#[derive(Debug)]
pub(crate) struct Order {
    nodes: Vec<Node>,
    free: Vec<u32>,
    lists: [Ends; 2],
}

impl Default for Order {
    fn default() -> Self {
        let empty = Ends {
            first: NONE,
            last: NONE,
        };
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            lists: [empty; 2],
        }
    }
}

impl Order {
    /// A slot that is in no list: one that was given back, or else a new one.
    pub(crate) fn slot(&mut self) -> Slot {
        Slot(self.free.pop().unwrap_or_else(|| {
            self.nodes.push(OUT);
            // 4 billion connections would not fit into memory.
            self.nodes.len() as u32 - 1
        }))
    }

    /// Gives a slot back for reuse.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.leave(slot);
        self.free.push(slot.0);
    }

    /// Moves a slot to the end of a list, wherever it is now.
    pub(crate) fn join(&mut self, slot: Slot, list: List) {
        self.leave(slot);
        let ends = &mut self.lists[list as usize];
        let before = std::mem::replace(&mut ends.last, slot.0);
        self.nodes[slot.index()] = Node {
            before,
            after: NONE,
            list: Some(list),
        };
        match before {
            NONE => ends.first = slot.0,
            before => self.nodes[before as usize].after = slot.0,
        }
    }

    /// Takes a slot out of its list, if it is in one.
    pub(crate) fn leave(&mut self, slot: Slot) {
        let node = std::mem::replace(&mut self.nodes[slot.index()], OUT);
        let Some(list) = node.list else { return };
        let ends = &mut self.lists[list as usize];
        match node.before {
            NONE => ends.first = node.after,
            before => self.nodes[before as usize].after = node.after,
        }
        match node.after {
            NONE => ends.last = node.before,
            after => self.nodes[after as usize].before = node.before,
        }
    }

    /// The slot that has been in a list longest.
    pub(crate) fn first(&self, list: List) -> Option<Slot> {
        let first = self.lists[list as usize].first;
        (first != NONE).then_some(Slot(first))
    }

    /// The slot that joined after this one.
    #[cfg(test)]
    pub(crate) fn after(&self, slot: Slot) -> Option<Slot> {
        let after = self.nodes[slot.index()].after;
        (after != NONE).then_some(Slot(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(order: &Order, list: List) -> Vec<usize> {
        let first = order.first(list);
        std::iter::successors(first, |slot| order.after(*slot))
            .map(Slot::index)
            .collect()
    }

    proptest! {
        #[test]
        fn slots_are_in_the_order_in_which_they_last_joined(
            steps in prop::collection::vec((0..6_usize, 0..3_usize), 0..100)
        ) {
            let mut order = Order::default();
            let slots: Vec<_> = (0..6).map(|_| order.slot()).collect();
            let lists = [List::Idle, List::Stalled];
            let mut expected = [Vec::new(), Vec::new()];
            for (at, to) in steps {
                for list in &mut expected {
                    list.retain(|other| *other != at);
                }
                if let Some(list) = lists.get(to) {
                    expected[to].push(at);
                    order.join(slots[at], *list);
                } else {
                    order.leave(slots[at]);
                }
                prop_assert_eq!(lists.map(|list| all(&order, list)), expected.clone());
            }
        }
    }

    #[test]
    fn a_slot_that_was_given_back_is_in_no_list_and_is_reused() {
        let mut order = Order::default();
        let (one, two) = (order.slot(), order.slot());
        order.join(one, List::Idle);
        order.join(two, List::Idle);
        order.give_back(one);
        assert_eq!(all(&order, List::Idle), [two.index()]);
        assert_eq!(order.slot(), one);
        assert_eq!(all(&order, List::Idle), [two.index()]);
    }
}
