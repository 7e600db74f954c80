//! `wasi:messaging@0.2.0-draft`: the same messages under other people's names (`wit/adapters/wasi-messaging.wit`). A topic is the
//! name of an input on the way in and of an output on the way out, metadata are the application properties.
//!
//! `request-reply` is not here: there is nothing that it could be.

use std::future::{Future, ready};

use bytes::Bytes;
use marram_core::{
    message::Message,
    ports::{self, BoxFuture, LogStream, Sent, Settlement},
};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList, WasmStr},
};

use super::{
    messaging::{bad_name, oversized, within},
    types::copy_in,
};
use crate::{
    exit::one_line,
    messages::{Held, MAX_PROPERTIES},
    state::GuestState,
};

/// What a guest may import of the draft.
pub(crate) const INTERFACES: [&str; 2] = ["wasi:messaging/types@0.2.0-draft", "wasi:messaging/producer@0.2.0-draft"];

/// Marks handles of messages; the number of a handle is a slot in `Messages`, as that of a `MessageTag`.
pub(crate) struct WasiMessageTag;
/// Marks handles of clients, of which there is only one.
struct ClientTag;

type Handle = Resource<WasiMessageTag>;
type Client = Resource<ClientTag>;
type Cx<'a> = StoreContextMut<'a, GuestState>;
type Metadata = Vec<(String, String)>;
type Answer = Result<(std::result::Result<(), WasiError>,)>;
type Reply<'a> = Box<dyn Future<Output = Answer> + Send + 'a>;

/// `error`.
#[derive(ComponentType, Lift, Lower, Debug)]
#[component(variant)]
pub(crate) enum WasiError {
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "connection")]
    Connection(String),
    #[component(name = "permission-denied")]
    PermissionDenied(String),
    #[component(name = "other")]
    Other(String),
}

impl From<ports::SendError> for WasiError {
    fn from(error: ports::SendError) -> Self {
        match error {
            ports::SendError::Full => Self::Timeout,
            ports::SendError::Denied(why) => Self::PermissionDenied(why),
            ports::SendError::ShuttingDown => Self::Connection(error.to_string()),
            ports::SendError::TooLarge(_) | ports::SendError::Other(_) => Self::Other(error.to_string()),
        }
    }
}

/// `metadata-error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum MetadataError {
    #[component(name = "not-supported")]
    #[allow(dead_code)] // a case of the interface
    NotSupported,
    #[component(name = "invalid")]
    Invalid(Option<String>),
}

/// What the result of `incoming-handler.handle` means. The text of an error is for the module's log.
pub(crate) fn settlement(state: &GuestState, result: std::result::Result<(), WasiError>) -> Settlement {
    let Err(error) = result else { return Settlement::Done };
    let text = match error {
        WasiError::Timeout => "timeout".to_owned(),
        WasiError::Connection(why) | WasiError::PermissionDenied(why) | WasiError::Other(why) => one_line(&why),
    };
    state.host.log(LogStream::Err, &format!("incoming-handler: {text} (the message comes again)"));
    Settlement::Retry(None)
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut types = linker.instance(INTERFACES[0])?;
    client(&mut types)?;
    message(&mut types)?;
    metadata(&mut types)?;
    let mut producer = linker.instance(INTERFACES[1])?;
    producer.func_wrap_async("send", |cx: Cx<'_>, (_, topic, message): (Client, WasmStr, Handle)| {
        send(cx, &topic, &message)
    })
}

fn client(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    types.resource("client", ResourceType::host::<ClientTag>(), |_, _| Ok(()))?;
    types.func_wrap("[static]client.connect", |_: Cx<'_>, (_,): (String,)| {
        Ok((Ok::<_, WasiError>(Client::new_own(0)),))
    })?;
    types.func_wrap("[method]client.disconnect", |_: Cx<'_>, (_,): (Client,)| Ok((Ok::<(), WasiError>(()),)))
}

fn message(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    types.resource("message", ResourceType::host::<WasiMessageTag>(), |mut cx, slot| {
        let state = cx.data_mut();
        state.messages.remove(&mut state.memory, slot);
        Ok(())
    })?;
    types.func_wrap("[constructor]message", |mut cx: Cx<'_>, (data,): (WasmList<u8>,)| {
        let message = Message::new(copy_in(&cx, &data)?);
        let state = cx.data_mut();
        Ok((Handle::new_own(state.messages.insert(&mut state.memory, Held::draft(message))?),))
    })?;
    types.func_wrap("[method]message.topic", |cx: Cx<'_>, (this,): (Handle,)| {
        let origin = cx.data().messages.get(this.rep())?.origin.as_ref();
        Ok((origin.and_then(|origin| origin.input.clone()),))
    })?;
    types.func_wrap("[method]message.content-type", |cx: Cx<'_>, (this,): (Handle,)| {
        let system = cx.data().messages.get(this.rep())?.message.system();
        Ok((system.and_then(|system| system.content_type.clone()),))
    })?;
    types.func_wrap("[method]message.set-content-type", |mut cx: Cx<'_>, (this, value): (Handle, String)| {
        change(&mut cx, &this, |message| message.system_mut().content_type = Some(value))?;
        Ok((Ok::<(), ()>(()),))
    })?;
    types.func_wrap("[method]message.data", |cx: Cx<'_>, (this,): (Handle,)| -> Result<(Bytes,)> {
        Ok((cx.data().messages.get(this.rep())?.message.body.clone(),))
    })?;
    types.func_wrap("[method]message.set-data", |mut cx: Cx<'_>, (this, data): (Handle, WasmList<u8>)| {
        let body = copy_in(&cx, &data)?;
        change(&mut cx, &this, |message| message.body = body)
    })
}

fn metadata(types: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    types.func_wrap("[method]message.metadata", |cx: Cx<'_>, (this,): (Handle,)| {
        let message = &cx.data().messages.get(this.rep())?.message;
        let all: Metadata = message.properties().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(((!all.is_empty()).then_some(all),))
    })?;
    types.func_wrap(
        "[method]message.add-metadata",
        |mut cx: Cx<'_>, (this, name, value): (Handle, String, String)| {
            let message = &cx.data().messages.get(this.rep())?.message;
            if message.property(&name).is_none() && message.properties().len() >= MAX_PROPERTIES {
                return Ok((Err(too_many()),));
            }
            change(&mut cx, &this, |message| message.set_property(&name, &value))?;
            Ok((Ok(()),))
        },
    )?;
    types.func_wrap("[method]message.set-metadata", |mut cx: Cx<'_>, (this, all): (Handle, Metadata)| {
        if all.len() > MAX_PROPERTIES {
            return Ok((Err(too_many()),));
        }
        change(&mut cx, &this, |message| {
            message.clear_properties();
            for (name, value) in &all {
                message.set_property(name, value);
            }
        })?;
        Ok((Ok(()),))
    })?;
    types.func_wrap("[method]message.remove-metadata", |mut cx: Cx<'_>, (this, name): (Handle, String)| {
        change(&mut cx, &this, |message| message.remove_property(&name))
    })
}

fn too_many() -> MetadataError {
    MetadataError::Invalid(Some(format!("a message has at most {MAX_PROPERTIES} properties")))
}

/// The message is the host's from now on, whatever becomes of it.
fn send<'a>(mut cx: Cx<'a>, topic: &WasmStr, message: &Handle) -> Reply<'a> {
    match sent(&mut cx, topic, message) {
        Ok(Outcome::Now(answer)) => Box::new(ready(Ok((answer,)))),
        Ok(Outcome::Wait(sending)) => {
            let until = cx.data_mut().deadline.wait_until();
            Box::new(async move { Ok((within(until, sending).await?.map(drop).map_err(WasiError::from),)) })
        }
        Err(trap) => Box::new(ready(Err(trap))),
    }
}

enum Outcome {
    Now(std::result::Result<(), WasiError>),
    /// It is being stored, or a receiver is full.
    Wait(BoxFuture<'static, std::result::Result<u64, ports::SendError>>),
}

fn sent(cx: &mut Cx<'_>, topic: &WasmStr, handle: &Handle) -> Result<Outcome> {
    let output = topic.to_str(&*cx)?.into_owned();
    let state = cx.data_mut();
    let held = state.messages.get(handle.rep())?;
    let (message, size) = (held.message.clone(), held.size);
    state.messages.remove(&mut state.memory, handle.rep());
    if let Some(refusal) = oversized(size).or_else(|| bad_name(&output)) {
        return Ok(Outcome::Now(Err(refusal.into())));
    }
    Ok(match state.host.try_send(&output, &message) {
        Sent::Accepted(_) => Outcome::Now(Ok(())),
        Sent::Refused(error) => Outcome::Now(Err(error.into())),
        Sent::Storing(storing) => Outcome::Wait(storing.0),
        Sent::Wait => Outcome::Wait(state.host.send(output, message)),
    })
}

fn change(cx: &mut Cx<'_>, this: &Handle, change: impl FnOnce(&mut Message)) -> Result<()> {
    let state = cx.data_mut();
    Ok(state.messages.change(&mut state.memory, this.rep(), change)?)
}
