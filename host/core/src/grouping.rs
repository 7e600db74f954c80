//! Whether messages are stored one by one or together. A message that is stored alone costs a write of its own and no waiting; many
//! senders at the same time are better off when each lets the others have their turn before it writes: what has come together then
//! is one write. Where turns are long, because a guest computes in the same thread, it is not worth it. Reads no clock.

use std::time::Duration;

/// Messages stored one by one in which changes of the sender are counted.
const LOOK_AT: u32 = 512;
/// So many of them say that senders are busy at the same time. One that works off what waits for it stores dozens in a row.
const CHANGES: u32 = 4;
/// So many groups of one in a row say that they are not any more: as many as a sender works off in a row, for one may be behind the others
/// by that. A turn that was for nothing costs less than a write.
const ALONE: u32 = 64;
/// A turn that takes longer than this is worth [`LONG_COUNTS`] groups of one: a write takes some microseconds.
const LONG_TURN: Duration = Duration::from_millis(2);
const LONG_COUNTS: u32 = 16;
/// Messages stored one by one after long turns, before senders are tried together again.
const LONG_REST: u32 = 1024;

/// The habit of a log's senders.
#[derive(Debug, Clone, Default)]
pub struct Grouping {
    together: bool,
    /// They were a moment ago: one change of the sender shows that they are again.
    just_ended: bool,
    /// Who stored last.
    last: Option<usize>,
    seen: u32,
    changes: u32,
    alone: u32,
    rest: u32,
}

impl Grouping {
    /// Whether senders wait for each other.
    #[must_use]
    pub fn is_together(&self) -> bool {
        self.together
    }

    /// A message was stored alone, of this sender.
    pub fn stored_alone(&mut self, sender: usize) {
        self.rest = self.rest.saturating_sub(1);
        self.seen += 1;
        if self.last.replace(sender).is_some_and(|last| last != sender) {
            self.changes += 1;
        }
        let needed = if self.just_ended { 1 } else { CHANGES };
        if self.changes >= needed && self.rest == 0 {
            *self = Self { together: true, ..Self::default() };
        } else if self.seen >= LOOK_AT {
            (self.seen, self.changes, self.just_ended) = (0, 0, false);
        }
    }

    /// So many messages were stored together; the first of them has waited so long for the others.
    pub fn stored_together(&mut self, messages: usize, waited: Duration) {
        self.alone = match messages {
            _ if waited > LONG_TURN => self.alone + LONG_COUNTS,
            2.. => 0,
            _ => self.alone + 1,
        };
        if self.alone >= ALONE {
            let is_long = waited > LONG_TURN;
            *self = Self { rest: if is_long { LONG_REST } else { 0 }, just_ended: !is_long, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn long_turns_end_it_however_many_store_together() {
        let mut grouping = Grouping { together: true, ..Grouping::default() };
        for turn in 1..=4 {
            assert!(grouping.is_together());
            grouping.stored_together(100, Duration::from_millis(if turn == 1 { 3 } else { 10 }));
        }
        assert_eq!((grouping.is_together(), alone(&mut grouping)), (false, LONG_REST - 1));
    }

    /// Messages of many that are stored one by one until they store together.
    fn alone(grouping: &mut Grouping) -> u32 {
        let alone = (0..).take_while(|n| {
            grouping.stored_alone(*n);
            !grouping.is_together()
        });
        alone.count() as u32
    }

    #[test]
    fn one_sender_stores_alone_however_much_it_sends() {
        let mut grouping = Grouping::default();
        for n in 0..100_000 {
            // Another one now and then.
            grouping.stored_alone(usize::from(n % 600 == 0));
            assert!(!grouping.is_together(), "{n}");
        }
    }

    #[test]
    fn senders_that_work_off_what_waits_for_them_in_turns_come_together_within_a_few_turns() {
        let mut grouping = Grouping::default();
        let stored = (0..).take_while(|n| {
            grouping.stored_alone(n / 64 % 16);
            !grouping.is_together()
        });
        assert_eq!(stored.count(), 4 * 64);
    }

    #[test]
    fn groups_of_one_end_it_and_it_is_tried_again_after_a_while() {
        let mut grouping = Grouping { together: true, ..Grouping::default() };
        for _ in 0..100 {
            (1..ALONE).for_each(|_| grouping.stored_together(1, AT_ONCE));
            grouping.stored_together(2, AT_ONCE);
            assert!(grouping.is_together(), "two now and then are worth it");
        }
        (0..ALONE).for_each(|_| grouping.stored_together(1, AT_ONCE));
        assert!(!grouping.is_together());
        assert_eq!(alone(&mut grouping), 1, "the second sender shows it");
        (0..ALONE).for_each(|_| grouping.stored_together(1, AT_ONCE));
        (0..LOOK_AT).for_each(|_| grouping.stored_alone(7));
        assert_eq!(alone(&mut grouping), CHANGES - 1, "a while later it takes more");
    }

    proptest! {
        /// Whatever came before: neither habit lasts when what speaks for it does not.
        #[test]
        fn it_follows_what_the_senders_do(before in prop::collection::vec((any::<bool>(), 0_usize..4), 0..3000)) {
            let mut grouping = Grouping::default();
            for (together, n) in before {
                if together { grouping.stored_together(n, AT_ONCE) } else { grouping.stored_alone(n) }
            }
            let mut lone = grouping.clone();
            (0..ALONE).for_each(|_| lone.stored_together(1, AT_ONCE));
            prop_assert!(!lone.is_together());
            (0..5000).for_each(|n| grouping.stored_alone(n));
            prop_assert!(grouping.is_together());
        }
    }
}
