//! `marram:edge/inbox`: a program asks for messages and settles them itself. A handle of a message that is not settled yet
//! carries the ticket by which the agent knows it; see [`crate::messages`].

use std::{future::Future, sync::Arc, time::Duration};

use marram_core::ports::{self, Received};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Linker, Lower, Resource},
};

use super::{
    messaging::within,
    types::{MessageTag, Nack, settlement},
};
use crate::{
    messages::{Held, Ticket},
    state::GuestState,
};

type Handle = Resource<MessageTag>;
type Cx<'a> = StoreContextMut<'a, GuestState>;
type Receipt = Result<(Result<Option<(Arc<str>, Handle)>, ReceiveError>,)>;

/// `receive-error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum ReceiveError {
    #[component(name = "stopping")]
    Stopping,
    #[component(name = "too-many-unsettled")]
    TooManyUnsettled,
}

impl From<ports::ReceiveError> for ReceiveError {
    fn from(error: ports::ReceiveError) -> Self {
        match error {
            ports::ReceiveError::Stopping => Self::Stopping,
            ports::ReceiveError::TooManyUnsettled => Self::TooManyUnsettled,
        }
    }
}

/// `settle-error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum SettleError {
    #[component(name = "already-settled")]
    AlreadySettled,
    #[component(name = "not-received")]
    NotReceived,
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut inbox = linker.instance("marram:edge/inbox@0.1.0")?;
    inbox.func_wrap_async(
        "receive",
        |cx: Cx<'_>, (timeout_ms,): (u64,)| -> Box<dyn Future<Output = Receipt> + Send + '_> {
            Box::new(receive(cx, timeout_ms))
        },
    )?;
    inbox.func_wrap("settle", |mut cx: Cx<'_>, (message, outcome): (Handle, Result<(), Nack>)| {
        Ok((settle(cx.data_mut(), &message, outcome)?,))
    })
}

async fn receive(mut cx: Cx<'_>, timeout_ms: u64) -> Receipt {
    let state = cx.data_mut();
    let until = state.deadline.wait_until();
    let received = within(until, state.host.receive(Duration::from_millis(timeout_ms))).await?;
    let Received { ticket, delivery } = match received {
        Ok(Some(received)) => received,
        Ok(None) => return Ok((Ok(None),)),
        Err(error) => return Ok((Err(error.into()),)),
    };
    let (held, input) = Held::received(delivery, ticket);
    let slot = state.messages.insert(&mut state.memory, held)?;
    Ok((Ok(Some((input, Handle::new_own(slot)))),))
}

fn settle(state: &mut GuestState, message: &Handle, outcome: Result<(), Nack>) -> Result<Result<(), SettleError>> {
    let ticket = match state.messages.take_ticket(message.rep())? {
        Ticket::Open(ticket) => ticket,
        Ticket::Settled => return Ok(Err(SettleError::AlreadySettled)),
        Ticket::None => return Ok(Err(SettleError::NotReceived)),
    };
    Ok(match state.host.settle(ticket, settlement(outcome)) {
        true => Ok(()),
        false => Err(SettleError::AlreadySettled),
    })
}
