//! `marram:edge/types`: the message as a host resource. Types in signatures follow `wit/types.wit`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use marram_core::{
    message::{Message, SystemProperties},
    ports::Settlement,
};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList},
};

use crate::{
    exit::{Ended, one_line},
    messages::Held,
    state::GuestState,
};

/// Marks handles of messages; the number of a handle is a slot in `Messages`.
pub(crate) struct MessageTag;

type Handle = Resource<MessageTag>;
type Cx<'a> = StoreContextMut<'a, GuestState>;

/// `nack`.
#[derive(ComponentType, Lift, Debug)]
#[component(variant)]
pub(crate) enum Nack {
    /// `retry-after`, in milliseconds.
    #[component(name = "retry-after")]
    RetryAfter(Option<u64>),
    /// `reject`.
    #[component(name = "reject")]
    Reject(String),
}

/// What a guest's word on a message means.
pub(crate) fn settlement(result: Result<(), Nack>) -> Settlement {
    match result {
        Ok(()) => Settlement::Done,
        Err(Nack::RetryAfter(delay)) => Settlement::Retry(delay.map(Duration::from_millis)),
        Err(Nack::Reject(reason)) => Settlement::Reject(one_line(&reason)),
    }
}

/// `delivery`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Delivery {
    source: Arc<str>,
    sequence: u64,
    #[component(name = "enqueued-unix-ms")]
    enqueued_unix_ms: u64,
    attempt: u32,
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut types = linker.instance("marram:edge/types@0.1.0")?;
    types.resource("message", ResourceType::host::<MessageTag>(), |mut cx, slot| {
        let state = cx.data_mut();
        if let Some(ticket) = state.messages.remove(&mut state.memory, slot) {
            state.host.settle(ticket, Settlement::Retry(None)); // given up unsettled (`wit/inbox.wit`)
        }
        Ok(())
    })?;
    types.func_wrap("[constructor]message", |mut cx: Cx<'_>, (body,): (WasmList<u8>,)| {
        let message = Message::new(copy_in(&cx, &body)?);
        let state = cx.data_mut();
        let slot = state.messages.insert(&mut state.memory, Held::draft(message))?;
        Ok((Handle::new_own(slot),))
    })?;
    types.func_wrap("[method]message.delivery", |cx: Cx<'_>, (this,): (Handle,)| {
        let origin = cx.data().messages.get(this.rep())?.origin.as_ref();
        Ok((origin.map(|origin| Delivery {
            source: origin.source.clone(),
            sequence: origin.sequence,
            enqueued_unix_ms: origin.enqueued.0,
            attempt: origin.attempt,
        }),))
    })?;
    body(&mut types)?;
    properties(&mut types)?;
    system_properties(&mut types)
}

fn body(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    types.func_wrap("[method]message.body", |cx: Cx<'_>, (this,): (Handle,)| {
        Ok((cx.data().messages.get(this.rep())?.message.body.clone(),))
    })?;
    types.func_wrap("[method]message.body-len", |cx: Cx<'_>, (this,): (Handle,)| {
        Ok((cx.data().messages.get(this.rep())?.message.body.len() as u64,))
    })?;
    types.func_wrap("[method]message.set-body", |mut cx: Cx<'_>, (this, body): (Handle, WasmList<u8>)| {
        let body = copy_in(&cx, &body)?;
        change(&mut cx, &this, |message| message.body = body)
    })
}

fn properties(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    types.func_wrap("[method]message.property", |cx: Cx<'_>, (this, name): (Handle, String)| {
        Ok((cx.data().messages.get(this.rep())?.message.property(&name).map(str::to_owned),))
    })?;
    types.func_wrap("[method]message.properties", |cx: Cx<'_>, (this,): (Handle,)| {
        let message = &cx.data().messages.get(this.rep())?.message;
        let all = message.properties().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok((all.collect::<Vec<_>>(),))
    })?;
    types.func_wrap(
        "[method]message.set-property",
        |mut cx: Cx<'_>, (this, name, value): (Handle, String, String)| {
            change(&mut cx, &this, |message| message.set_property(&name, &value))
        },
    )?;
    types.func_wrap(
        "[method]message.set-properties",
        |mut cx: Cx<'_>, (this, all): (Handle, Vec<(String, String)>)| {
            check_count(all.len())?;
            change(&mut cx, &this, |message| {
                for (name, value) in &all {
                    message.set_property(name, value);
                }
            })
        },
    )?;
    types.func_wrap("[method]message.remove-property", |mut cx: Cx<'_>, (this, name): (Handle, String)| {
        change(&mut cx, &this, |message| message.remove_property(&name))
    })
}

/// The four of one shape: a getter and a setter for each.
fn system_properties(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    system_property(types, "content-type", |s| &s.content_type, |s| &mut s.content_type)?;
    system_property(types, "content-encoding", |s| &s.content_encoding, |s| &mut s.content_encoding)?;
    system_property(types, "message-id", |s| &s.message_id, |s| &mut s.message_id)?;
    system_property(types, "correlation-id", |s| &s.correlation_id, |s| &mut s.correlation_id)
}

fn system_property(
    types: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    get: fn(&SystemProperties) -> &Option<String>,
    get_mut: fn(&mut SystemProperties) -> &mut Option<String>,
) -> Result<()> {
    types.func_wrap(&format!("[method]message.{name}"), move |cx: Cx<'_>, (this,): (Handle,)| {
        let message = &cx.data().messages.get(this.rep())?.message;
        Ok((message.system().and_then(|system| get(system).clone()),))
    })?;
    types.func_wrap(
        &format!("[method]message.set-{name}"),
        move |mut cx: Cx<'_>, (this, value): (Handle, Option<String>)| {
            change(&mut cx, &this, |message| *get_mut(message.system_mut()) = value)
        },
    )
}

/// Copies a body out of the guest's memory, once and only if it may be kept.
pub(super) fn copy_in(cx: &Cx<'_>, body: &WasmList<u8>) -> Result<Bytes> {
    cx.data().memory.check(body.len() as u64, "a message")?;
    Ok(Bytes::copy_from_slice(body.as_le_slice(cx)))
}

/// A list that no message may hold ends the instance, as a setter does that goes too far.
pub(super) fn check_count(properties: usize) -> Result<(), Ended> {
    use crate::messages::MAX_PROPERTIES;
    if properties > MAX_PROPERTIES {
        return Err(Ended::Memory(format!("more than {MAX_PROPERTIES} properties in one message")));
    }
    Ok(())
}

fn change(cx: &mut Cx<'_>, this: &Handle, change: impl FnOnce(&mut Message)) -> Result<()> {
    let state = cx.data_mut();
    Ok(state.messages.change(&mut state.memory, this.rep(), change)?)
}
