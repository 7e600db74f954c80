//! The floor: wasmtime, two instances in two tasks, a bounded channel between them. No router, no limits, no queue.

use std::{sync::Arc, time::Duration};

use marram_core::message::Message;
use tokio::sync::mpsc;
use wasmtime::{
    Config, Engine, Store,
    component::{
        Component, ComponentType, Lift, Linker, Lower, Resource as Handle, ResourceTable, ResourceType, TypedFunc,
        WasmStr,
    },
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::report::thread_cpu;

/// Messages between the two tasks.
const CHANNEL: usize = 1024;
/// Messages taken at once.
const BATCH: usize = 64;

struct State<M> {
    table: ResourceTable,
    wasi: WasiCtx,
    out: mpsc::Sender<M>,
    sent: u64,
}

impl<M: Send + 'static> WasiView for State<M> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
#[allow(dead_code)] // named by the interface, never made here
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

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
#[allow(dead_code)] // named by the interface, never made here
enum Nack {
    #[component(name = "retry-after")]
    RetryAfter(Option<u64>),
    #[component(name = "reject")]
    Reject(String),
}

fn engine() -> Engine {
    let mut config = Config::new();
    // As the host sets it.
    config.concurrency_support(false).epoch_interruption(true);
    config.max_wasm_stack(256 << 10).async_stack_size(512 << 10);
    let engine = Engine::new(&config).expect("an engine");
    let ticker = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = ticker.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    engine
}

fn component(engine: &Engine, name: &str) -> Component {
    let path = crate::report::guest(name);
    Component::from_file(engine, &path).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

fn store<M: Send + 'static>(engine: &Engine, out: mpsc::Sender<M>) -> Store<State<M>> {
    let state = State { table: ResourceTable::new(), wasi: WasiCtx::builder().build(), out, sent: 0 };
    let mut store = Store::new(engine, state);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    store
}

fn linker<M: Send + 'static>(engine: &Engine) -> Linker<State<M>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI links");
    linker
}

/// What travels between the tasks by handle.
struct Held(Arc<Message>);

type Handled = TypedFunc<(&'static str, Handle<Held>), (Result<(), Nack>,)>;

/// The message as a resource.
pub(crate) struct Resource {
    a: (Store<State<Arc<Message>>>, Handled),
    b: (Store<State<Arc<Message>>>, Handled),
    between: mpsc::Receiver<Arc<Message>>,
}

impl Resource {
    pub(crate) async fn new() -> Self {
        let engine = engine();
        let linker = Self::linker(&engine);
        let (out, between) = mpsc::channel(CHANNEL);
        let a = Self::instance(&engine, &linker, "forwarder", out.clone()).await;
        let b = Self::instance(&engine, &linker, "sink", out).await;
        Self { a, b, between }
    }

    fn linker(engine: &Engine) -> Linker<State<Arc<Message>>> {
        let mut linker = linker::<Arc<Message>>(engine);
        let mut types = linker.instance("marram:edge/types@0.1.0").expect("types");
        let drop_message = |mut store: wasmtime::StoreContextMut<'_, State<Arc<Message>>>, rep: u32| {
            store.data_mut().table.delete(Handle::<Held>::new_own(rep))?;
            Ok(())
        };
        types.resource("message", ResourceType::host::<Held>(), drop_message).expect("message");
        types
            .func_wrap("[method]message.body", |store, (message,): (Handle<Held>,)| {
                let store: wasmtime::StoreContextMut<'_, State<Arc<Message>>> = store;
                Ok((store.data().table.get(&message)?.0.body.to_vec(),))
            })
            .expect("body");
        let mut messaging = linker.instance("marram:edge/messaging@0.1.0").expect("messaging");
        messaging
            .func_wrap_async("send", |mut store, (_output, message): (WasmStr, Handle<Held>)| {
                Box::new(async move {
                    let state: &mut State<Arc<Message>> = store.data_mut();
                    let message = state.table.get(&message)?.0.clone();
                    state.sent += 1;
                    let number = state.sent;
                    if let Err(mpsc::error::TrySendError::Full(message)) = state.out.try_send(message) {
                        let out = state.out.clone();
                        let _ = out.send(message).await;
                    }
                    Ok((Ok::<u64, SendError>(number),))
                })
            })
            .expect("send");
        // Asked for by the sink's report, which no round calls.
        messaging
            .func_wrap("send-bytes", |_, _: (WasmStr, Vec<u8>, Properties)| Ok((Err::<u64, _>(SendError::Full),)))
            .expect("send-bytes");
        linker
    }

    async fn instance(
        engine: &Engine,
        linker: &Linker<State<Arc<Message>>>,
        guest: &str,
        out: mpsc::Sender<Arc<Message>>,
    ) -> (Store<State<Arc<Message>>>, Handled) {
        let component = component(engine, guest);
        let mut store = store(engine, out);
        let instance = linker.instantiate_async(&mut store, &component).await.expect("an instance");
        let handler = instance.get_export_index(&mut store, None, "marram:edge/input-handler@0.1.0").expect("handler");
        let handle = instance.get_export_index(&mut store, Some(&handler), "handle").expect("handle");
        let handle = instance.get_typed_func(&mut store, handle).expect("the type of handle");
        (store, handle)
    }

    /// CPU nanoseconds a message.
    pub(crate) async fn round(&mut self, message: &Arc<Message>, count: usize) -> f64 {
        let Self { a, b, between } = self;
        let started = thread_cpu();
        let first = async {
            for _ in 0..count {
                call(&mut a.0, &a.1, message.clone()).await;
            }
        };
        let second = async {
            let (mut batch, mut handled) = (Vec::with_capacity(BATCH), 0);
            while handled < count {
                handled += between.recv_many(&mut batch, BATCH).await;
                for message in batch.drain(..) {
                    call(&mut b.0, &b.1, message).await;
                }
            }
        };
        tokio::join!(first, second);
        (thread_cpu() - started) as f64 / count as f64
    }
}

async fn call(store: &mut Store<State<Arc<Message>>>, handle: &Handled, message: Arc<Message>) {
    let message = store.data_mut().table.push(Held(message)).expect("a handle");
    let (result,) = handle.call_async(&mut *store, ("in", message)).await.expect("handled");
    assert!(result.is_ok());
}

type Properties = Vec<(String, String)>;
type Value = (Vec<u8>, Properties);
type HandledValue = TypedFunc<(&'static str, Vec<u8>, Properties), (Result<(), String>,)>;

/// The message by value.
pub(crate) struct ByValue {
    a: (Store<State<Value>>, HandledValue),
    b: (Store<State<Value>>, HandledValue),
    between: mpsc::Receiver<Value>,
}

impl ByValue {
    pub(crate) async fn new() -> Self {
        let engine = engine();
        let mut linker = linker::<Value>(&engine);
        linker
            .root()
            .func_wrap_async("send", |mut store, (_output, body, properties): (WasmStr, Vec<u8>, Properties)| {
                Box::new(async move {
                    let state: &mut State<Value> = store.data_mut();
                    state.sent += 1;
                    let number = state.sent;
                    if let Err(mpsc::error::TrySendError::Full(message)) = state.out.try_send((body, properties)) {
                        let out = state.out.clone();
                        let _ = out.send(message).await;
                    }
                    Ok((Ok::<u64, String>(number),))
                })
            })
            .expect("send");
        let (out, between) = mpsc::channel(CHANNEL);
        let component = component(&engine, "bench_by_value");
        linker.define_unknown_imports_as_traps(&component).expect("unused imports");
        let a = Self::instance(&engine, &linker, &component, out.clone()).await;
        let b = Self::instance(&engine, &linker, &component, out).await;
        Self { a, b, between }
    }

    async fn instance(
        engine: &Engine,
        linker: &Linker<State<Value>>,
        component: &Component,
        out: mpsc::Sender<Value>,
    ) -> (Store<State<Value>>, HandledValue) {
        let mut store = store(engine, out);
        let instance = linker.instantiate_async(&mut store, component).await.expect("an instance");
        let handle = instance.get_typed_func(&mut store, "handle").expect("the type of handle");
        (store, handle)
    }

    /// CPU nanoseconds a message.
    pub(crate) async fn round(&mut self, message: &Arc<Message>, count: usize) -> f64 {
        let Self { a, b, between } = self;
        let value: Value = (
            message.body.to_vec(),
            message.properties().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        );
        // Made beforehand, as the messages of the other form are.
        let values: Vec<Value> = vec![value; count];
        let started = thread_cpu();
        let first = async {
            for (body, properties) in values {
                let (result,) = a.1.call_async(&mut a.0, ("in", body, properties)).await.expect("handled");
                assert!(result.is_ok());
            }
        };
        let second = async {
            let (mut batch, mut handled) = (Vec::with_capacity(BATCH), 0);
            while handled < count {
                handled += between.recv_many(&mut batch, BATCH).await;
                for (body, properties) in batch.drain(..) {
                    let (result,) = b.1.call_async(&mut b.0, ("sink", body, properties)).await.expect("handled");
                    assert!(result.is_ok());
                }
            }
        };
        tokio::join!(first, second);
        (thread_cpu() - started) as f64 / count as f64
    }
}
