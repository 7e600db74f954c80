//! The messages that one guest holds, by handle. What was accepted or delivered is shared and never changes: a setter acts
//! on a private copy. Bytes are counted by [`crate::limits::Memory`].

use std::sync::Arc;

use marram_core::{
    message::{Accepted, Message},
    ports::Delivery,
    time::UtcMillis,
};

use crate::{exit::Ended, limits::Memory};

/// Handles of messages that a guest may hold (`wit/types.wit`). One batch of 64 in work and a window of messages to be
/// joined need far fewer; more is a leak.
pub(crate) const MAX_MESSAGES: usize = 4096;

/// Properties of one message (`wit/types.wit`). The host searches them one by one, in time that no deadline counts: with
/// names as long as they can be, that is some milliseconds for a whole set, and grows with the square.
pub(crate) const MAX_PROPERTIES: usize = 256;

/// What a handle costs the host besides the bytes of its message.
const HANDLE_BYTES: u64 = 256;
/// What a property costs the host besides its bytes: two texts with their allocations, and room of a list that doubles.
const PROPERTY_BYTES: u64 = 128;

/// The messages of one instance. Part of the store's data.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    slots: Vec<Option<Held>>,
    free: Vec<u32>,
}

/// One message and how it came.
#[derive(Debug)]
pub(crate) struct Held {
    /// Shared with the router and other receivers.
    pub(crate) message: Arc<Message>,
    /// As [`Message::size`] says; kept, because `send` asks each time.
    pub(crate) size: usize,
    /// None: the guest made it.
    pub(crate) origin: Option<Origin>,
}

/// How a message came to the module.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// As in `Accepted`.
    pub(crate) source: Arc<str>,
    /// As in `Accepted`.
    pub(crate) sequence: u64,
    /// As in `Accepted`.
    pub(crate) enqueued: UtcMillis,
    /// As in `Delivery`.
    pub(crate) attempt: u32,
    /// The input that it came to, for guests that ask the message for it; see [`Messages::name_input`].
    pub(crate) input: Option<Arc<str>>,
    /// Whether the guest is to settle it.
    ticket: Ticket,
}

/// Whether and how a guest settles a message by its handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// It does not: the message is a draft, or the result of `handle` settles it.
    None,
    /// By this, in `ModuleHost::settle`.
    Open(u64),
    /// It has.
    Settled,
}

impl Held {
    /// A draft of the guest.
    pub(crate) fn draft(message: Message) -> Self {
        Self { size: message.size(), message: Arc::new(message), origin: None }
    }

    /// A delivery that the result of its call settles, and the name of the input that it goes to.
    pub(crate) fn delivered(delivery: Delivery) -> (Self, Arc<str>) {
        Self::arrived(delivery, Ticket::None)
    }

    /// A delivery that the guest settles by its handle.
    pub(crate) fn received(delivery: Delivery, ticket: u64) -> (Self, Arc<str>) {
        Self::arrived(delivery, Ticket::Open(ticket))
    }

    fn arrived(delivery: Delivery, ticket: Ticket) -> (Self, Arc<str>) {
        let Delivery { input, accepted, attempt } = delivery;
        let Accepted { message, source, sequence, enqueued } = accepted;
        let origin = Origin { source, sequence, enqueued, attempt, input: None, ticket };
        (Self { size: message.size(), message, origin: Some(origin) }, input)
    }

    fn cost(&self) -> u64 {
        HANDLE_BYTES + self.size as u64 + PROPERTY_BYTES * self.message.properties().len() as u64
    }
}

impl Messages {
    /// Keeps a message and returns its handle.
    ///
    /// # Errors
    /// Too many handles, or over the memory limit.
    pub(crate) fn insert(&mut self, memory: &mut Memory, held: Held) -> Result<u32, Ended> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < MAX_MESSAGES => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return Err(Ended::Memory(format!("more than {MAX_MESSAGES} message handles held"))),
        };
        memory.take(held.cost())?; // on an error the instance ends: the lost slot does not matter
        self.slots[slot as usize] = Some(held);
        Ok(slot)
    }

    /// A message by handle.
    ///
    /// # Errors
    /// A handle that the guest does not hold; wasmtime lets none through.
    pub(crate) fn get(&self, slot: u32) -> Result<&Held, Ended> {
        self.slots.get(slot as usize).and_then(Option::as_ref).ok_or_else(unknown)
    }

    /// Changes a message, on a private copy if anyone else has it.
    ///
    /// # Errors
    /// As [`Messages::get`]; over the memory limit; too many properties.
    pub(crate) fn change(
        &mut self,
        memory: &mut Memory,
        slot: u32,
        change: impl FnOnce(&mut Message),
    ) -> Result<(), Ended> {
        let held = self.slots.get_mut(slot as usize).and_then(Option::as_mut).ok_or_else(unknown)?;
        memory.give_back(held.cost());
        change(Arc::make_mut(&mut held.message));
        held.size = held.message.size();
        if held.message.properties().len() > MAX_PROPERTIES {
            return Err(Ended::Memory(format!("more than {MAX_PROPERTIES} properties in one message")));
        }
        memory.take(held.cost())
    }

    /// Notes the input that a delivery came to, where the guest is not told it otherwise.
    pub(crate) fn name_input(&mut self, slot: u32, input: Arc<str>) {
        if let Some(Some(Held { origin: Some(origin), .. })) = self.slots.get_mut(slot as usize) {
            origin.input = Some(input);
        }
    }

    /// Takes the ticket of a message, which is settled from now on.
    ///
    /// # Errors
    /// As [`Messages::get`].
    pub(crate) fn take_ticket(&mut self, slot: u32) -> Result<Ticket, Ended> {
        let held = self.slots.get_mut(slot as usize).and_then(Option::as_mut).ok_or_else(unknown)?;
        let Some(origin) = &mut held.origin else { return Ok(Ticket::None) };
        let ticket = origin.ticket;
        if let Ticket::Open(_) = ticket {
            origin.ticket = Ticket::Settled;
        }
        Ok(ticket)
    }

    /// Forgets a message. Returns the ticket of one that was not settled.
    pub(crate) fn remove(&mut self, memory: &mut Memory, slot: u32) -> Option<u64> {
        let held = self.slots.get_mut(slot as usize).and_then(Option::take)?;
        memory.give_back(held.cost());
        self.free.push(slot);
        match held.origin?.ticket {
            Ticket::Open(ticket) => Some(ticket),
            Ticket::None | Ticket::Settled => None,
        }
    }
}

fn unknown() -> Ended {
    Ended::Rule("used a message handle that it does not hold".into())
}
