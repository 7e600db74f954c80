//! The durable state of modules on its way between guests and disk: opened at the first use, shared by the instances of a module,
//! on blocking threads, and slowed down where a guest would wear the flash out. What is kept and how is the store's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    name::ModuleName,
    ports::{State, States},
    state::{StateError, Write},
};
use tokio::time::Instant;

/// Time between two writes of a module, on average. Each is synced to flash: ten a second, for ever, is as much as one module
/// may wear.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
/// Writes at once, before that holds. A start that sets everything up, or a burst of readings, is not to wait.
const BURST: u32 = 100;

/// The states of all modules.
pub(crate) struct StateCells {
    states: Arc<dyn States>,
    /// Kept as long as an instance has one.
    cells: Mutex<BTreeMap<ModuleName, Weak<StateCell>>>,
}

impl StateCells {
    pub(crate) fn new(states: Arc<dyn States>) -> Self {
        Self { states, cells: Mutex::default() }
    }

    /// The state of a module; opens nothing yet.
    pub(crate) fn cell(&self, module: &ModuleName) -> Arc<StateCell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = cells.get(module).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(StateCell {
            module: module.clone(),
            states: self.states.clone(),
            open: Mutex::default(),
            paid_until: tokio::sync::Mutex::new(None),
        });
        cells.insert(module.clone(), Arc::downgrade(&cell));
        cell
    }
}

/// The state of one module.
pub(crate) struct StateCell {
    module: ModuleName,
    states: Arc<dyn States>,
    open: Mutex<Option<Box<dyn State>>>,
    /// Until when the writes so far use up what is allowed; who writes waits here for its turn.
    paid_until: tokio::sync::Mutex<Option<Instant>>,
}

impl StateCell {
    pub(crate) async fn get(self: Arc<Self>, bucket: String, key: String) -> Result<Option<Bytes>, StateError> {
        self.on_disk(move |state| state.get(&bucket, &key)).await
    }

    pub(crate) async fn keys(
        self: Arc<Self>,
        bucket: String,
        prefix: String,
        after: Option<String>,
        max: usize,
    ) -> Result<Vec<Box<str>>, StateError> {
        self.on_disk(move |state| Ok(state.keys(&bucket, &prefix, after.as_deref(), max))).await
    }

    pub(crate) async fn write(self: Arc<Self>, writes: Vec<Write>) -> Result<(), StateError> {
        let mut paid_until = self.paid_until.lock().await;
        let now = Instant::now();
        let from = paid_until.map_or(now, |until| until.max(now));
        let allowed = now + BETWEEN_WRITES * BURST;
        if from > allowed {
            tokio::time::sleep(from - allowed).await;
        }
        *paid_until = Some(from + BETWEEN_WRITES);
        self.clone().on_disk(move |state| state.write(&writes)).await
    }

    async fn on_disk<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&mut dyn State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let done = tokio::task::spawn_blocking(move || {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *open {
                Some(state) => work(&mut **state),
                None => work(&mut **open.insert(self.states.open(&self.module)?)),
            }
        });
        done.await.unwrap_or_else(|error| Err(StateError::Store(format!("the disk task failed: {error}"))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Counts what is opened and written.
    #[derive(Default)]
    struct Counting {
        opened: AtomicUsize,
        written: Arc<AtomicUsize>,
    }

    impl States for Counting {
        fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
            self.opened.fetch_add(1, SeqCst);
            Ok(Box::new(Writes(self.written.clone())))
        }

        fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
            Ok(())
        }
    }

    struct Writes(Arc<AtomicUsize>);

    impl State for Writes {
        fn get(&self, _: &str, _: &str) -> Result<Option<Bytes>, StateError> {
            Ok(None)
        }

        fn keys(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Vec<Box<str>> {
            Vec::new()
        }

        fn write(&mut self, _: &[Write]) -> Result<(), StateError> {
            self.0.fetch_add(1, SeqCst);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_module_that_writes_without_end_is_slowed_down_and_others_are_not() {
        let states = Arc::new(Counting::default());
        let cells = StateCells::new(states.clone());
        let cell = cells.cell(&ModuleName::new("busy").unwrap());
        let begun = Instant::now();
        for _ in 0..BURST + 4 {
            cell.clone().write(Vec::new()).await.unwrap();
        }
        assert!(begun.elapsed() >= BETWEEN_WRITES * 3, "{:?}", begun.elapsed());
        assert_eq!(states.written.load(SeqCst), BURST as usize + 4);
        assert!(cells.cell(&ModuleName::new("other").unwrap()).paid_until.lock().await.is_none());
    }

    #[tokio::test]
    async fn a_state_is_opened_at_its_first_use_and_shared_by_the_instances_of_a_module() {
        let states = Arc::new(Counting::default());
        let cells = StateCells::new(states.clone());
        let name = ModuleName::new("m").unwrap();
        let (old, new) = (cells.cell(&name), cells.cell(&name));
        assert_eq!(states.opened.load(SeqCst), 0);
        old.clone().write(Vec::new()).await.unwrap();
        drop(old);
        assert_eq!(new.clone().get("b".into(), "k".into()).await, Ok(None));
        assert_eq!(states.opened.load(SeqCst), 1);
        drop(new);
        assert_eq!(cells.cell(&name).get("b".into(), "k".into()).await, Ok(None));
        assert_eq!(states.opened.load(SeqCst), 2, "it was closed with the last instance");
    }
}
