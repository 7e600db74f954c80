//! `marram:edge/messaging`: from the guest into the router. When every receiver has room, no future of the host is made;
//! otherwise the guest's fiber waits, at most for the route's send time-out and the call's wall bound.

use std::{
    future::{Future, ready},
    pin::pin,
    sync::Arc,
    time::Instant,
};

use marram_core::{
    message::{MAX_MESSAGE_BYTES, Message},
    name::MAX_NAME_BYTES,
    ports::{self, BoxFuture, ModuleHost, Sent, Storing},
};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Linker, Lower, Resource, WasmList, WasmStr},
};

use super::types::{MessageTag, check_count, copy_in};
use crate::{
    deadline::{CallLimits, bounded},
    state::GuestState,
};

type Handle = Resource<MessageTag>;
type Cx<'a> = StoreContextMut<'a, GuestState>;
type Answer<T> = Result<(Result<T, SendError>,)>;
type Reply<'a, T> = Box<dyn Future<Output = Answer<T>> + Send + 'a>;
/// When a call may wait no longer; none = never.
pub(super) type WaitUntil = Option<(Instant, CallLimits)>;

/// `send-error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum SendError {
    #[component(name = "too-large")]
    TooLarge(u64),
    #[component(name = "full")]
    Full,
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "shutting-down")]
    ShuttingDown,
    #[component(name = "other")]
    Other(String),
}

impl From<ports::SendError> for SendError {
    fn from(error: ports::SendError) -> Self {
        match error {
            ports::SendError::TooLarge(most) => Self::TooLarge(most),
            ports::SendError::Full => Self::Full,
            ports::SendError::Denied(why) => Self::Denied(why),
            ports::SendError::ShuttingDown => Self::ShuttingDown,
            ports::SendError::Other(why) => Self::Other(why),
        }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut messaging = linker.instance("marram:edge/messaging@0.1.0")?;
    messaging.func_wrap_async("send", |cx: Cx<'_>, (output, message): (WasmStr, Handle)| {
        reply(send(cx, &output, &message))
    })?;
    messaging.func_wrap_async("send-batch", |cx: Cx<'_>, (output, messages): (WasmStr, Vec<Handle>)| {
        reply(send_batch(cx, &output, &messages))
    })?;
    messaging.func_wrap_async(
        "send-bytes",
        |cx: Cx<'_>, (output, body, properties): (WasmStr, WasmList<u8>, Vec<(String, String)>)| {
            reply(send_bytes(cx, &output, &body, &properties))
        },
    )
}

/// An answer at once, or what must be waited for.
enum Outcome<T> {
    Now(Result<T, SendError>),
    Wait(Reply<'static, T>),
}

fn reply<'a, T: Send + 'a>(outcome: Result<Outcome<T>>) -> Reply<'a, T> {
    match outcome {
        Ok(Outcome::Now(answer)) => Box::new(ready(Ok((answer,)))),
        Ok(Outcome::Wait(future)) => future,
        Err(trap) => Box::new(ready(Err(trap))),
    }
}

fn send(mut cx: Cx<'_>, output: &WasmStr, message: &Handle) -> Result<Outcome<u64>> {
    let held = cx.data().messages.get(message.rep())?;
    if let Some(refusal) = oversized(held.size) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    let name = output.to_str(&cx)?;
    if let Some(refusal) = bad_name(&name) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    match cx.data().host.try_send(&name, &held.message) {
        Sent::Accepted(sequence) => Ok(Outcome::Now(Ok(sequence))),
        Sent::Refused(error) => Ok(Outcome::Now(Err(error.into()))),
        Sent::Storing(storing) => Ok(wait(&mut cx, storing.0)),
        Sent::Wait => {
            let sending = cx.data().host.send(name.into_owned(), held.message.clone());
            Ok(wait(&mut cx, sending))
        }
    }
}

fn send_bytes(
    mut cx: Cx<'_>,
    output: &WasmStr,
    body: &WasmList<u8>,
    properties: &[(String, String)],
) -> Result<Outcome<u64>> {
    if let Some(refusal) = oversized(body.len()) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    check_count(properties.len())?;
    let mut message = Message::new(copy_in(&cx, body)?);
    for (name, value) in properties {
        message.set_property(name, value);
    }
    if let Some(refusal) = oversized(message.size()) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    let message = Arc::new(message);
    let name = output.to_str(&cx)?;
    if let Some(refusal) = bad_name(&name) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    match cx.data().host.try_send(&name, &message) {
        Sent::Accepted(sequence) => Ok(Outcome::Now(Ok(sequence))),
        Sent::Refused(error) => Ok(Outcome::Now(Err(error.into()))),
        Sent::Storing(storing) => Ok(wait(&mut cx, storing.0)),
        Sent::Wait => {
            let sending = cx.data().host.send(name.into_owned(), message);
            Ok(wait(&mut cx, sending))
        }
    }
}

/// Accepts a prefix: as many as it can, in order.
fn send_batch(mut cx: Cx<'_>, output: &WasmStr, messages: &[Handle]) -> Result<Outcome<u32>> {
    let name = output.to_str(&cx)?;
    if let Some(refusal) = bad_name(&name) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    let mut accepted = 0;
    for (index, handle) in messages.iter().enumerate() {
        let held = cx.data().messages.get(handle.rep())?;
        let sent = match oversized(held.size) {
            Some(refusal) => return Ok(Outcome::Now(prefix(accepted, refusal.into()))),
            None => cx.data().host.try_send(&name, &held.message),
        };
        match sent {
            Sent::Accepted(_) => accepted += 1,
            Sent::Refused(error) => return Ok(Outcome::Now(prefix(accepted, error.into()))),
            Sent::Wait | Sent::Storing(_) => {
                let storing = if let Sent::Storing(storing) = sent { Some(storing) } else { None };
                let rest = shared(&cx, &messages[index..])?;
                let name = name.into_owned();
                let (host, until) = (cx.data().host.clone(), cx.data_mut().deadline.wait_until());
                return Ok(Outcome::Wait(Box::new(send_rest(host, storing, name, rest, accepted, until))));
            }
        }
    }
    Ok(Outcome::Now(Ok(accepted)))
}

/// The messages of a batch that has to wait, with their sizes.
fn shared(cx: &Cx<'_>, handles: &[Handle]) -> Result<Vec<(Arc<Message>, usize)>> {
    let one = |handle: &Handle| {
        let held = cx.data().messages.get(handle.rep())?;
        Ok((held.message.clone(), held.size))
    };
    handles.iter().map(one).collect()
}

async fn send_rest(
    host: Arc<dyn ModuleHost>,
    mut storing: Option<Storing>,
    output: String,
    rest: Vec<(Arc<Message>, usize)>,
    mut accepted: u32,
    until: WaitUntil,
) -> Answer<u32> {
    for (message, size) in rest {
        if let Some(refusal) = oversized(size) {
            return Ok((prefix(accepted, refusal.into()),));
        }
        let sent = match storing.take().map_or_else(|| host.try_send(&output, &message), Sent::Storing) {
            Sent::Wait => within(until, host.send(output.clone(), message)).await?,
            Sent::Storing(storing) => within(until, storing.0).await?,
            Sent::Accepted(sequence) => Ok(sequence),
            Sent::Refused(error) => Err(error),
        };
        match sent {
            Ok(_) => accepted += 1,
            Err(error) => return Ok((prefix(accepted, error.into()),)),
        }
    }
    Ok((Ok(accepted),))
}

fn prefix(accepted: u32, refusal: SendError) -> Result<u32, SendError> {
    if accepted > 0 { Ok(accepted) } else { Err(refusal) }
}

/// Waits for a message that is being stored, or until there is room for it.
fn wait(cx: &mut Cx<'_>, sending: BoxFuture<'static, Result<u64, ports::SendError>>) -> Outcome<u64> {
    let until = cx.data_mut().deadline.wait_until();
    Outcome::Wait(Box::new(async move { Ok((within(until, sending).await?.map_err(SendError::from),)) }))
}

/// Waits no longer than the call may last; beyond, the call traps here, so that its backtrace shows where it waited.
pub(super) async fn within<T>(until: WaitUntil, future: impl Future<Output = T>) -> Result<T> {
    match until {
        None => Ok(future.await),
        Some((at, limits)) => bounded(pin!(future), || tokio::time::sleep_until(at.into()))
            .await
            .ok_or_else(|| limits.wall_exceeded("waiting in a host function").into()),
    }
}

pub(super) fn oversized(size: usize) -> Option<ports::SendError> {
    (size > MAX_MESSAGE_BYTES).then_some(ports::SendError::TooLarge(MAX_MESSAGE_BYTES as u64))
}

/// Only the length is ours to check, so that no enormous text reaches the router, which checks the rest.
pub(super) fn bad_name(name: &str) -> Option<ports::SendError> {
    (name.len() > MAX_NAME_BYTES)
        .then(|| ports::SendError::Denied(format!("an output's name has at most {MAX_NAME_BYTES} bytes")))
}
