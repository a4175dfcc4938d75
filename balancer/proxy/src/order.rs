//! An order that is joined at its end and left from anywhere, each in constant time:
//! a doubly linked list whose nodes lie in one piece of memory.

/// No node.
const NONE: u32 = u32::MAX;

/// A place in an [`Order`], whether it is in line or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Clone, Copy)]
struct Node {
    before: u32,
    after: u32,
    is_in: bool,
}

const OUT: Node = Node {
    before: NONE,
    after: NONE,
    is_in: false,
};

/// Those in line, the longest there first.
#[derive(Debug)]
pub(crate) struct Order {
    nodes: Vec<Node>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
        }
    }
}

impl Order {
    /// A slot, not in line yet; one that was given back, if there is one.
    pub(crate) fn slot(&mut self) -> Slot {
        Slot(self.free.pop().unwrap_or_else(|| {
            self.nodes.push(OUT);
            // Nobody has 4 billion connections.
            self.nodes.len() as u32 - 1
        }))
    }

    /// Gives a slot back.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.leave(slot);
        self.free.push(slot.0);
    }

    /// To the end of the line, from wherever it is.
    pub(crate) fn join(&mut self, slot: Slot) {
        self.leave(slot);
        self.nodes[slot.index()] = Node {
            before: self.last,
            after: NONE,
            is_in: true,
        };
        match self.last {
            NONE => self.first = slot.0,
            last => self.nodes[last as usize].after = slot.0,
        }
        self.last = slot.0;
    }

    /// Out of the line, if it is in it.
    pub(crate) fn leave(&mut self, slot: Slot) {
        let node = std::mem::replace(&mut self.nodes[slot.index()], OUT);
        if !node.is_in {
            return;
        }
        match node.before {
            NONE => self.first = node.after,
            before => self.nodes[before as usize].after = node.after,
        }
        match node.after {
            NONE => self.last = node.before,
            after => self.nodes[after as usize].before = node.before,
        }
    }

    /// The one that has been in line the longest.
    pub(crate) fn first(&self) -> Option<Slot> {
        (self.first != NONE).then_some(Slot(self.first))
    }

    /// The one that joined after that one.
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

    fn all(order: &Order) -> Vec<usize> {
        let first = order.first();
        std::iter::successors(first, |slot| order.after(*slot))
            .map(Slot::index)
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_the_order_in_which_they_joined_last(
            steps in prop::collection::vec((0..6_usize, any::<bool>()), 0..100)
        ) {
            let mut order = Order::default();
            let slots: Vec<_> = (0..6).map(|_| order.slot()).collect();
            let mut expected = Vec::new();
            for (at, joins) in steps {
                expected.retain(|other| *other != at);
                if joins {
                    expected.push(at);
                    order.join(slots[at]);
                } else {
                    order.leave(slots[at]);
                }
                prop_assert_eq!(all(&order), expected.clone());
            }
        }
    }

    #[test]
    fn a_slot_that_was_given_back_is_out_of_line_and_used_again() {
        let mut order = Order::default();
        let (one, two) = (order.slot(), order.slot());
        order.join(one);
        order.join(two);
        order.give_back(one);
        assert_eq!(all(&order), [two.index()]);
        assert_eq!(order.slot(), one);
        assert_eq!(all(&order), [two.index()]);
    }
}
