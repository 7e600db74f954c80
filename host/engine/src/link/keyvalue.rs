//! `wasi:keyvalue@0.2.0-draft` (`store`, `atomics`, `batch`) over the module's durable state. Every write is safe when its
//! function returns; one call of `batch` happens wholly or not at all, which is more than the draft asks for.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use marram_core::{
    ports::ModuleHost,
    state::{StateError, Write, check_bucket, check_key},
};
use wasmtime::{
    AsContextMut as _, Result, StoreContextMut,
    component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType},
};
use wasmtime_wasi::WasiView as _;

use super::messaging::within;
use crate::state::{GuestState, HOSTCALL_BYTES};

/// What a guest may import of the draft.
pub(crate) const INTERFACES: [&str; 3] =
    ["wasi:keyvalue/store@0.2.0-draft", "wasi:keyvalue/atomics@0.2.0-draft", "wasi:keyvalue/batch@0.2.0-draft"];

/// Keys in one answer of `list-keys`: at most 256 KiB of them.
const KEYS_AT_ONCE: usize = 1024;
/// What an entry costs in a list besides its bytes.
const ITEM_BYTES: usize = 64;

/// An open bucket.
struct Bucket {
    name: String,
    /// The cursor of the last answer of `list-keys`, and the last key in it.
    listed: (u64, String),
}

type This = Resource<Bucket>;
type Cx<'a> = StoreContextMut<'a, GuestState>;
type Answer<T> = Result<(std::result::Result<T, Error>,)>;
type Reply<'a, T> = Box<dyn Future<Output = Answer<T>> + Send + 'a>;
type Entry = (String, Bytes);

/// `error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    #[allow(dead_code)] // a case of the interface
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::BadBucket => Self::NoSuchStore,
            other => Self::Other(other.to_string()),
        }
    }
}

/// `key-response`.
#[derive(ComponentType, Lower, Debug)]
#[component(record)]
struct KeyResponse {
    keys: Vec<String>,
    cursor: Option<u64>,
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    store(&mut linker.instance(INTERFACES[0])?)?;
    let mut atomics = linker.instance(INTERFACES[1])?;
    atomics.func_wrap_async("increment", |cx: Cx<'_>, (this, key, delta): (This, String, u64)| -> Reply<'_, u64> {
        Box::new(async move { Call::of(cx, &this)?.increment(key, delta).await })
    })?;
    batch(&mut linker.instance(INTERFACES[2])?)
}

fn store(store: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    store.resource("bucket", ResourceType::host::<Bucket>(), |mut cx, rep| {
        cx.data_mut().ctx().table.delete(This::new_own(rep))?;
        Ok(())
    })?;
    store.func_wrap("open", |mut cx: Cx<'_>, (name,): (String,)| -> Answer<This> {
        if let Err(error) = check_bucket(&name) {
            return Ok((Err(error.into()),));
        }
        let bucket = Bucket { name, listed: Default::default() };
        Ok((Ok(cx.data_mut().ctx().table.push(bucket)?),))
    })?;
    store.func_wrap_async(
        "[method]bucket.get",
        |cx: Cx<'_>, (this, key): (This, String)| -> Reply<'_, Option<Bytes>> {
            Box::new(async move { Call::of(cx, &this)?.get(key).await })
        },
    )?;
    store.func_wrap_async("[method]bucket.exists", |cx: Cx<'_>, (this, key): (This, String)| -> Reply<'_, bool> {
        Box::new(async move {
            let (found,) = Call::of(cx, &this)?.get(key).await?;
            Ok((found.map(|value| value.is_some()),))
        })
    })?;
    store.func_wrap_async(
        "[method]bucket.set",
        |cx: Cx<'_>, (this, key, value): (This, String, Bytes)| -> Reply<'_, ()> {
            Box::new(async move { Call::of(cx, &this)?.write([(key, Some(value))]).await })
        },
    )?;
    store.func_wrap_async("[method]bucket.delete", |cx: Cx<'_>, (this, key): (This, String)| -> Reply<'_, ()> {
        Box::new(async move { Call::of(cx, &this)?.write([(key, None)]).await })
    })?;
    store.func_wrap_async(
        "[method]bucket.list-keys",
        |cx: Cx<'_>, (this, cursor): (This, Option<u64>)| -> Reply<'_, KeyResponse> {
            Box::new(list_keys(cx, this, cursor))
        },
    )
}

fn batch(batch: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    batch.func_wrap_async(
        "get-many",
        |cx: Cx<'_>, (this, keys): (This, Vec<String>)| -> Reply<'_, Vec<Option<Entry>>> {
            Box::new(async move { Call::of(cx, &this)?.get_many(keys).await })
        },
    )?;
    batch.func_wrap_async("set-many", |cx: Cx<'_>, (this, entries): (This, Vec<Entry>)| -> Reply<'_, ()> {
        Box::new(async move {
            let writes = entries.into_iter().map(|(key, value)| (key, Some(value)));
            Call::of(cx, &this)?.write(writes).await
        })
    })?;
    batch.func_wrap_async("delete-many", |cx: Cx<'_>, (this, keys): (This, Vec<String>)| -> Reply<'_, ()> {
        Box::new(async move { Call::of(cx, &this)?.write(keys.into_iter().map(|key| (key, None))).await })
    })
}

async fn list_keys(mut cx: Cx<'_>, this: This, cursor: Option<u64>) -> Answer<KeyResponse> {
    let bucket = cx.data_mut().ctx().table.get(&this)?;
    let (page, last) = &bucket.listed;
    let after = match cursor {
        None => None,
        Some(cursor) if cursor == *page && cursor > 0 => Some(last.clone()),
        Some(_) => {
            let text = "the cursor is not that of this bucket's last answer; begin without one";
            return Ok((Err(Error::Other(text.into())),));
        }
    };
    let page = page + 1;
    let call = Call::of(cx.as_context_mut(), &this)?;
    // One more, to see whether there is more.
    let keys = call.host.state_keys(call.bucket.clone(), String::new(), after, KEYS_AT_ONCE + 1);
    let mut keys: Vec<String> = match within(call.until, keys).await? {
        Ok(keys) => keys.into_iter().map(String::from).collect(),
        Err(error) => return Ok((Err(error.into()),)),
    };
    let more = keys.len() > KEYS_AT_ONCE;
    keys.truncate(KEYS_AT_ONCE);
    if let Some(last) = keys.last().filter(|_| more) {
        cx.data_mut().ctx().table.get_mut(&this)?.listed = (page, last.clone());
    }
    Ok((Ok(KeyResponse { keys, cursor: more.then_some(page) }),))
}

/// A call on a bucket, free of the store.
struct Call {
    host: Arc<dyn ModuleHost>,
    bucket: String,
    until: super::messaging::WaitUntil,
}

impl Call {
    fn of(mut cx: Cx<'_>, this: &This) -> Result<Self> {
        let state = cx.data_mut();
        let bucket = state.ctx().table.get(this)?.name.clone();
        Ok(Self { host: state.host.clone(), bucket, until: state.deadline.wait_until() })
    }

    async fn get(&self, key: String) -> Answer<Option<Bytes>> {
        if let Err(error) = check_key(&key) {
            return Ok((Err(error.into()),));
        }
        let value = within(self.until, self.host.state_get(self.bucket.clone(), key)).await?;
        Ok((value.map_err(Error::from),))
    }

    async fn get_many(&self, keys: Vec<String>) -> Answer<Vec<Option<Entry>>> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        for key in keys {
            let value = match self.get(key.clone()).await? {
                (Ok(value),) => value,
                (Err(error),) => return Ok((Err(error),)),
            };
            bytes += ITEM_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
            if bytes > HOSTCALL_BYTES {
                let text =
                    format!("the values are more than {HOSTCALL_BYTES} bytes together; ask for fewer keys at once");
                return Ok((Err(Error::Other(text)),));
            }
            all.push(value.map(|value| (key, value)));
        }
        Ok((Ok(all),))
    }

    async fn write(&self, entries: impl IntoIterator<Item = (String, Option<Bytes>)>) -> Answer<()> {
        let writes = entries.into_iter().map(|(key, value)| self.change(key, value, None)).collect();
        let written = within(self.until, self.host.state_write(writes)).await?;
        Ok((written.map_err(Error::from),))
    }

    fn change(&self, key: String, value: Option<Bytes>, only_if: Option<Option<Bytes>>) -> Write {
        Write { bucket: self.bucket.as_str().into(), key: key.into(), value, only_if }
    }

    /// The number is kept as decimal digits, as other hosts do, so that `get` shows it.
    async fn increment(&self, key: String, delta: u64) -> Answer<u64> {
        loop {
            let old = match self.get(key.clone()).await? {
                (Ok(old),) => old,
                (Err(error),) => return Ok((Err(error),)),
            };
            let number = match &old {
                None => Some(0),
                Some(digits) => std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok()),
            };
            let Some(number) = number else {
                return Ok((Err(Error::Other(format!("the value of `{key}` is no number in decimal digits"))),));
            };
            let Some(new) = number.checked_add(delta) else {
                return Ok((Err(Error::Other(format!("`{key}` would be more than {}", u64::MAX))),));
            };
            let write = self.change(key.clone(), Some(new.to_string().into()), Some(old));
            match within(self.until, self.host.state_write(vec![write])).await? {
                Ok(()) => return Ok((Ok(new),)),
                Err(StateError::Changed) => {} // by an instance that is on its way out
                Err(error) => return Ok((Err(error.into()),)),
            }
        }
    }
}
