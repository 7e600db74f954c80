//! The durable state of modules on its way between guests and disk: opened at the first use, shared by the instances of a module,
//! on blocking threads, and slowed down where a guest would wear the flash out. What is kept and how is the store's.

mod timers;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    allowance::Allowance,
    name::ModuleName,
    ports::{State, States},
    state::{QUOTA_BYTES, StateError, Write},
};
use tokio::{sync::Semaphore, time::Instant};

/// Time that a page of a write costs, on average. Each write is synced and wears out a page of the flash at least, so ten pages a
/// second are 3.3 GiB a day for ever, and with the rewrites of the file twice that at the most. A cheap 8 GB eMMC takes some 24 TB
/// (3000 cycles of each cell): nine years of one module that does nothing else.
const BETWEEN_PAGES: Duration = Duration::from_millis(100);
/// What flash writes at once at the least.
const PAGE_BYTES: usize = 4096;
/// Pages at once, before that holds: a start that sets all up that a module may keep, or a burst of readings, is not to wait.
const BURST: u32 = (QUOTA_BYTES / PAGE_BYTES) as u32;

/// Calls on the disk at once, of all modules. As with twins: they wait for the one flash anyway, and without this bound a thousand
/// modules would take some hundred threads for that.
const DISK_CALLS: usize = 4;

/// The states of all modules.
pub(crate) struct StateCells {
    states: Arc<dyn States>,
    /// Kept as long as an instance has one.
    cells: Mutex<BTreeMap<ModuleName, Weak<StateCell>>>,
    disk: Arc<Semaphore>,
}

impl StateCells {
    pub(crate) fn new(states: Arc<dyn States>) -> Self {
        Self { states, cells: Mutex::default(), disk: Arc::new(Semaphore::new(DISK_CALLS)) }
    }

    /// The state of a module; opens nothing yet.
    pub(crate) fn cell(&self, module: &ModuleName) -> Arc<StateCell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = cells.get(module).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = self.new_cell(module);
        cells.insert(module.clone(), Arc::downgrade(&cell));
        cell
    }

    /// Forgets all that a module keeps, if no instance of it is there. One that comes meanwhile begins with nothing.
    pub(crate) async fn remove(&self, module: &ModuleName) -> Result<(), RemoveError> {
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            if cells.get(module).is_some_and(|cell| cell.strong_count() > 0) {
                return Err(RemoveError::InUse);
            }
            let cell = self.new_cell(module);
            cells.insert(module.clone(), Arc::downgrade(&cell));
            cell
        };
        // Whoever comes now shares the cell, and opens the state only after this.
        let open = cell.open.clone().lock_owned().await;
        if open.is_some() {
            return Err(RemoveError::InUse);
        }
        let place = cell.disk.clone().acquire_owned().await; // nobody closes it
        let removed = tokio::task::spawn_blocking(move || {
            let (_open, _place) = (open, place);
            cell.states.remove(&cell.module)
        });
        let removed = removed.await;
        removed
            .unwrap_or_else(|error| Err(StateError::Store(format!("the disk task failed: {error}"))))
            .map_err(RemoveError::Disk)
    }

    fn new_cell(&self, module: &ModuleName) -> Arc<StateCell> {
        Arc::new(StateCell {
            module: module.clone(),
            states: self.states.clone(),
            disk: self.disk.clone(),
            open: Arc::default(),
            allowance: tokio::sync::Mutex::new(Allowance::new(BETWEEN_PAGES, BURST)),
            durable: Mutex::default(),
            timer_writer: tokio::sync::Mutex::default(),
        })
    }
}

/// Why the state of a module was not removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RemoveError {
    /// An instance of the module is there.
    InUse,
    /// The disk.
    Disk(StateError),
}

/// The state of one module.
pub(crate) struct StateCell {
    module: ModuleName,
    states: Arc<dyn States>,
    disk: Arc<Semaphore>,
    open: Arc<tokio::sync::Mutex<Option<Box<dyn State>>>>,
    /// Of pages to write; who writes waits here for its turn.
    allowance: tokio::sync::Mutex<Allowance>,
    durable: Mutex<timers::Durable>,
    /// One change of the timers at a time, from the change to the disk.
    timer_writer: tokio::sync::Mutex<()>,
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
        let mut allowance = self.allowance.lock().await;
        tokio::time::sleep_until(allowance.next(Instant::now().into_std()).into()).await;
        allowance.take(pages(&writes), Instant::now().into_std());
        self.clone().on_disk(move |state| state.write(&writes)).await
    }

    async fn on_disk<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&mut dyn State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        // The module's own turn first: its calls must not take the places of others to wait for each other. Both go with the
        // work, which goes on when the instance that asked for it ends.
        let mut open = self.open.clone().lock_owned().await;
        let place = self.disk.clone().acquire_owned().await; // nobody closes it
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            match &mut *open {
                Some(state) => work(&mut **state),
                None => work(&mut **open.insert(self.states.open(&self.module)?)),
            }
        });
        done.await.unwrap_or_else(|error| Err(StateError::Store(format!("the disk task failed: {error}"))))
    }
}

/// Pages of flash that writes cost which are made together; one at the least.
fn pages(writes: &[Write]) -> u32 {
    let value = |write: &Write| write.value.as_ref().map_or(0, Bytes::len);
    let bytes: usize = writes.iter().map(|write| write.bucket.len() + write.key.len() + value(write)).sum();
    u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Counts what is opened and written.
    #[derive(Default)]
    struct Counting {
        opened: AtomicUsize,
        removed: AtomicUsize,
        written: Arc<AtomicUsize>,
    }

    impl States for Counting {
        fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
            self.opened.fetch_add(1, SeqCst);
            Ok(Box::new(Writes(self.written.clone())))
        }

        fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
            self.removed.fetch_add(1, SeqCst);
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
        assert!(begun.elapsed() >= BETWEEN_PAGES * 4, "{:?}", begun.elapsed());
        assert_eq!(states.written.load(SeqCst), BURST as usize + 4);
        let begun = Instant::now();
        cells.cell(&ModuleName::new("other").unwrap()).write(Vec::new()).await.unwrap();
        assert!(begun.elapsed() < BETWEEN_PAGES, "each module has its own");
    }

    fn value(bytes: usize) -> Write {
        Write { bucket: "b".into(), key: "k".into(), value: Some(vec![0; bytes].into()), only_if: None }
    }

    #[test]
    fn a_write_costs_the_pages_that_it_fills() {
        assert_eq!([pages(&[]), pages(&[value(1)]), pages(&[value(4094)]), pages(&[value(4095)])], [1, 1, 1, 2]);
        assert_eq!(pages(&[value(100_000), value(100_000)]), 49);
    }

    #[tokio::test(start_paused = true)]
    async fn a_module_that_writes_much_is_slowed_down_as_one_that_writes_often() {
        let cell = StateCells::new(Arc::new(Counting::default())).cell(&ModuleName::new("m").unwrap());
        let begun = Instant::now();
        for _ in 0..4 {
            cell.clone().write(vec![value(256 * 1024)]).await.unwrap(); // all that it may keep, 65 pages each
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "a start does not wait");
        cell.write(vec![value(1)]).await.unwrap();
        let waited = begun.elapsed(); // the timer counts milliseconds
        assert!((BETWEEN_PAGES * 5..BETWEEN_PAGES * 6).contains(&waited), "{waited:?}");
    }

    /// Each call says that it is there, and goes on with a permit.
    struct Gates {
        inside: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        entered: std::sync::mpsc::Sender<()>,
        leave: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
    }

    impl States for Gates {
        fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
            let most = self.inside.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(most, SeqCst);
            self.entered.send(()).unwrap();
            self.leave.lock().unwrap().recv().unwrap();
            self.inside.fetch_sub(1, SeqCst);
            Ok(Box::new(Writes(Arc::default())))
        }

        fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn calls_of_many_modules_take_few_threads_and_all_have_their_turn() {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (may_leave, leave) = std::sync::mpsc::channel();
        let most = Arc::<AtomicUsize>::default();
        let leave = Arc::new(Mutex::new(leave));
        let states = Arc::new(Gates { inside: Arc::default(), most: most.clone(), entered, leave });
        let cells = StateCells::new(states);
        let calls: Vec<_> = (0..40)
            .map(|n| tokio::spawn(cells.cell(&ModuleName::new(&format!("m{n}")).unwrap()).get("b".into(), "k".into())))
            .collect();
        let gate = tokio::task::spawn_blocking(move || {
            (0..DISK_CALLS).for_each(|_| has_entered.recv().unwrap());
            for n in 0..40 {
                may_leave.send(()).unwrap();
                if n < 40 - DISK_CALLS {
                    has_entered.recv().unwrap();
                }
            }
        });
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(None));
        }
        gate.await.unwrap();
        assert_eq!(most.load(SeqCst), DISK_CALLS);
    }

    #[tokio::test]
    async fn a_state_is_removed_only_while_no_instance_of_its_module_is_there() {
        let states = Arc::new(Counting::default());
        let cells = StateCells::new(states.clone());
        let (name, other) = (ModuleName::new("m").unwrap(), ModuleName::new("other").unwrap());
        let (running, _beside) = (cells.cell(&name), cells.cell(&other));
        assert_eq!(cells.remove(&name).await, Err(RemoveError::InUse), "before it has used it, too");
        running.clone().write(Vec::new()).await.unwrap();
        assert_eq!(cells.remove(&name).await, Err(RemoveError::InUse));
        assert_eq!(states.removed.load(SeqCst), 0);
        drop(running);
        assert_eq!(cells.remove(&name).await, Ok(()));
        assert_eq!(states.removed.load(SeqCst), 1);
        let again = cells.cell(&name);
        again.write(Vec::new()).await.unwrap();
        assert_eq!(states.opened.load(SeqCst), 2, "it is opened anew");
    }

    #[tokio::test]
    async fn an_instance_that_comes_amid_a_removal_opens_the_state_after_it() {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (may_leave, leave) = std::sync::mpsc::channel();
        let states = Arc::new(SlowRemoval { entered, leave: Mutex::new(leave), done: Arc::default() });
        let (done, name) = (states.done.clone(), ModuleName::new("m").unwrap());
        let cells = Arc::new(StateCells::new(states));
        let removal = tokio::spawn({
            let (cells, name) = (cells.clone(), name.clone());
            async move { cells.remove(&name).await }
        });
        tokio::task::spawn_blocking(move || has_entered.recv().unwrap()).await.unwrap();
        let mut read = Box::pin(cells.cell(&name).get("b".into(), "k".into()));
        assert!(is_pending(&mut read).await, "it waits");
        may_leave.send(()).unwrap();
        assert_eq!(read.await, Ok(None));
        assert_eq!(removal.await.unwrap(), Ok(()));
        assert_eq!(*done.lock().unwrap(), ["remove", "open"]);
    }

    /// Whether a future is not ready yet.
    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }

    /// A removal says that it has begun, and ends when it may.
    struct SlowRemoval {
        entered: std::sync::mpsc::Sender<()>,
        leave: Mutex<std::sync::mpsc::Receiver<()>>,
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    impl States for SlowRemoval {
        fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
            self.done.lock().unwrap().push("open");
            Ok(Box::new(Writes(Arc::default())))
        }

        fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
            self.entered.send(()).unwrap();
            self.leave.lock().unwrap().recv().unwrap();
            self.done.lock().unwrap().push("remove");
            Ok(())
        }
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
