//! Senders that are busy at the same time store together, without the log's thread.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use marram_core::{
    log::{LogError, Safety},
    message::Message,
    ports::{ModuleHost, Sent, Storing},
    route::Origin,
};

use super::{
    hooked::{Call, Gate, Hook},
    routing::{json, link, poll},
    worlds::*,
};
use crate::{
    Agent,
    clock::Clock,
    endpoint::Endpoint,
    router::{BODIES_READ, Refusal, Taken},
    storage::{Answer, NotStored},
};

const STOPPED: &str = r#"{"status":"stopped"}"#;
const TO_B: &str = "FROM /messages/* INTO BrokeredEndpoint('/modules/b/inputs/in')";
const BY_BODY: &str = "FROM /messages/* WHERE $body.a = 1 INTO BrokeredEndpoint('/modules/b/inputs/by-body')";

/// The writes, each with the name of the thread that makes it.
type Writes = Arc<Mutex<Vec<(Call, String)>>>;

struct Senders {
    _world: World,
    agent: Arc<Agent>,
    /// Of each sender.
    sequences: Vec<Arc<AtomicU64>>,
    writes: Writes,
    /// Where the log's thread waits when it notes that a message is done.
    gate: Arc<Mutex<Option<Arc<Gate>>>>,
}

impl Senders {
    /// So many of an agent whose log may be written to by senders; `before` is called before each write.
    async fn new(count: usize, before: impl Fn(&str) -> Result<(), LogError> + Send + Sync + 'static) -> Self {
        Self::by(&[TO_B, BY_BODY], count, before).await
    }

    /// The same of a log that is full while the flag says so.
    async fn that_may_find_it_full(count: usize) -> (Self, Arc<AtomicBool>) {
        let is_full = Arc::new(AtomicBool::new(false));
        let full = is_full.clone();
        let before = move |_: &str| if full.load(SeqCst) { Err(LogError::Full("full".into())) } else { Ok(()) };
        (Self::new(count, before).await, is_full)
    }

    async fn by(
        routes: &[&str],
        count: usize,
        before: impl Fn(&str) -> Result<(), LogError> + Send + Sync + 'static,
    ) -> Self {
        let writes = Writes::default();
        let noted = writes.clone();
        let gate = Arc::<Mutex<Option<Arc<Gate>>>>::default();
        let before_noting = gate.clone();
        let hook: Hook = Arc::new(move |call| {
            if matches!(call, Call::Settle(..)) {
                let gate = before_noting.lock().unwrap().take();
                gate.inspect(|gate| gate.pass());
            }
            if matches!(call, Call::Append(..)) {
                let thread = std::thread::current().name().unwrap_or_default().to_owned();
                before(&thread)?;
                noted.lock().unwrap().push((call, thread));
            }
            Ok(())
        });
        let mut world = World::hooked(hook);
        world.at_hand = true;
        world.upstream.down.store(true, SeqCst);
        let agent = world.agent().await;
        agent.apply(&manifest_with("crash", &[("b", STOPPED)], routes)).await.unwrap();
        // The first message makes the file that the others go into.
        agent.publish("/messages", &message("first")).await.unwrap();
        let sequences = (0..count).map(|_| Arc::default()).collect();
        Self { _world: world, agent, sequences, writes, gate }
    }

    fn send(&self, sender: usize) -> Taken {
        self.send_this(sender, &message("x"))
    }

    fn send_this(&self, sender: usize, message: &Arc<Message>) -> Taken {
        self.try_send_this(sender, message).unwrap()
    }

    /// An error: an input is full.
    fn try_send_this(&self, sender: usize, message: &Arc<Message>) -> Result<Taken, Refusal> {
        let router = self.agent.router();
        let resolved = router.resolve("/messages", Origin::default());
        router.accept(&resolved, message, &self.sequences[sender], &mut None)
    }

    /// Sends with all in turns until they store together; returns what each has sent.
    async fn come_together(&self) -> Vec<u64> {
        let storage = self.agent.router().storage();
        let turns = async {
            while !storage.is_together() {
                for sender in 0..self.sequences.len() {
                    number(self.send(sender)).await.unwrap();
                }
            }
        };
        tokio::time::timeout(DEADLINE, turns).await.expect("they store together");
        self.writes.lock().unwrap().clear();
        self.sequences.iter().map(|sequence| sequence.load(SeqCst)).collect()
    }

    fn answer(&self, sender: usize) -> Answer {
        answer(self.send(sender))
    }

    fn waiting(&self) -> usize {
        self.input().stats().len
    }

    /// The input of all messages.
    fn input(&self) -> Arc<Endpoint> {
        let inputs = self.agent.router().inputs_of("b");
        inputs.into_iter().find(|input| &*input.input == "in").unwrap()
    }

    /// Has the log's thread note that a message is done: when this returns it has the log, and stands before the gate.
    async fn is_being_noted(&self) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        *self.gate.lock().unwrap() = Some(gate.clone());
        let (input, now) = (self.input(), Clock::start().uptime());
        let mut batch = input.take(now, 1);
        batch.settle_first(1);
        input.finish(batch, now);
        gate.reached().await;
        gate
    }

    /// Opens the gate, and waits until the log's thread has let the log go.
    fn let_it_be_noted(&self, gate: &Gate) {
        gate.open();
        let since = Instant::now();
        while !self.agent.router().storage().is_free() {
            assert!(since.elapsed() < DEADLINE, "the log's thread keeps the log");
            std::thread::yield_now();
        }
    }

    /// Whether one write of a sender has stored these two.
    async fn have_stored_themselves(&self, one: Stored, other: Stored) -> bool {
        let (one, other) = tokio::time::timeout(DEADLINE, async { tokio::join!(one, other) }).await.unwrap();
        assert!(one.is_ok() && other.is_ok());
        matches!(&*self.take_writes(), [(Call::Append(2, _), thread)] if is_sender(thread))
    }

    fn take_writes(&self) -> Vec<(Call, String)> {
        std::mem::take(&mut *self.writes.lock().unwrap())
    }
}

fn answer(taken: Taken) -> Answer {
    match taken {
        Taken::Storing(answer, _) => answer,
        taken => panic!("it does not wait for the others: {taken:?}"),
    }
}

async fn number(taken: Taken) -> Result<u64, NotStored> {
    match taken {
        Taken::Now(number) => Ok(number),
        Taken::Storing(answer, _) => answer.stored().await,
        Taken::Not(why, _) => Err(why),
    }
}

/// The log's thread comes back to look what is due, and may just then be without a processor while senders have all their turns: so often
/// in a row hardly.
const TRIES: usize = 10;

type Stored = Pin<Box<dyn Future<Output = Result<u64, NotStored>>>>;

/// By a thread of the test.
fn is_sender(thread: &str) -> bool {
    thread != "message-log"
}

#[tokio::test]
async fn senders_that_are_busy_at_the_same_time_store_with_one_write_in_a_thread_of_theirs() {
    let senders = Arc::new(Senders::new(16, |_| Ok(())).await);
    let sent = senders.come_together().await;
    let before = senders.waiting();
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (senders, first) = (senders.clone(), sent[n] + 1);
            tokio::spawn(async move {
                for expected in first..first + 20 {
                    assert_eq!(number(senders.send(n)).await, Ok(expected));
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    }
    let writes = senders.take_writes();
    assert_eq!(senders.waiting(), before + 16 * 20);
    // The log's thread may come in between, for what it has to do beside.
    let whole = |(call, thread): &&(Call, String)| *call == Call::Append(16, Safety::Written) && is_sender(thread);
    assert!(writes.iter().filter(whole).count() >= 15, "{writes:?}");
}

#[tokio::test]
async fn a_sender_that_is_given_up_while_it_waits_for_the_others_leaves_nobody_waiting() {
    let senders = Senders::new(2, |_| Ok(())).await;
    senders.come_together().await;
    let before = senders.waiting();
    let (one, other) = (senders.answer(0), senders.answer(1));
    drop(one);
    assert_eq!(senders.waiting(), before + 2);
    other.stored().await.unwrap();
    let writes = senders.take_writes();
    assert!(matches!(&*writes, [(Call::Append(2, _), thread)] if is_sender(thread)), "{writes:?}");
}

#[tokio::test]
async fn what_has_come_together_is_not_broken_up_by_what_the_logs_thread_does_beside() {
    let senders = Senders::new(2, |_| Ok(())).await;
    let mut by_senders = false;
    for _ in 0..TRIES {
        senders.come_together().await;
        let one: Stored = Box::pin(senders.answer(0).stored());
        let gate = senders.is_being_noted().await;
        let other: Stored = Box::pin(senders.answer(1).stored());
        senders.let_it_be_noted(&gate);
        by_senders |= senders.have_stored_themselves(one, other).await;
    }
    assert!(by_senders, "the thread takes them along");
}

#[tokio::test]
async fn senders_that_find_the_log_taken_wait_for_it_some_turns() {
    let senders = Senders::new(2, |_| Ok(())).await;
    let mut by_senders = false;
    for _ in 0..TRIES {
        senders.come_together().await;
        let gate = senders.is_being_noted().await;
        let mut one: Stored = Box::pin(senders.answer(0).stored());
        let other: Stored = Box::pin(senders.answer(1).stored());
        for _ in 0..3 {
            assert!(poll(&mut one).await.is_pending());
        }
        senders.let_it_be_noted(&gate);
        by_senders |= senders.have_stored_themselves(one, other).await;
    }
    assert!(by_senders, "they call the thread at once");
}

#[tokio::test]
async fn senders_that_find_the_log_taken_for_long_leave_it_to_its_thread() {
    let senders = Senders::new(2, |_| Ok(())).await;
    senders.come_together().await;
    let gate = senders.is_being_noted().await;
    let (mut one, mut other): (Stored, Stored) =
        (Box::pin(senders.answer(0).stored()), Box::pin(senders.answer(1).stored()));
    for _ in 0..100 {
        assert!(poll(&mut one).await.is_pending() && poll(&mut other).await.is_pending());
    }
    gate.open();
    assert!(!senders.have_stored_themselves(one, other).await);
}

#[tokio::test]
async fn a_disk_that_has_kept_senders_waiting_is_left_to_the_logs_own_thread() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = is_slow.clone();
    let senders = Senders::new(2, move |thread| {
        if slow.load(SeqCst) && is_sender(thread) {
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    })
    .await;
    senders.come_together().await;
    is_slow.store(true, SeqCst);
    for _ in 0..2 {
        let (one, other) = (senders.answer(0), senders.answer(1));
        one.stored().await.unwrap();
        other.stored().await.unwrap();
    }
    let threads: Vec<bool> = senders.take_writes().iter().map(|(_, thread)| is_sender(thread)).collect();
    assert_eq!((threads[0], threads[1..].contains(&true)), (true, false), "once");
}

#[tokio::test]
async fn a_panic_in_one_that_stores_is_no_panic_of_the_others() {
    let panics = Arc::new(AtomicBool::new(false));
    let broken = panics.clone();
    let senders = Senders::new(2, move |_| {
        assert!(!broken.load(SeqCst), "the log is broken");
        Ok(())
    })
    .await;
    senders.come_together().await;
    panics.store(true, SeqCst);
    let one = senders.answer(0);
    let mut other = Box::pin(senders.answer(1).stored());
    assert!(poll(&mut other).await.is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(one))).is_err());
    assert_eq!(tokio::time::timeout(DEADLINE, other).await.unwrap(), Err(NotStored::Stopped));
}

#[tokio::test]
async fn what_is_larger_than_a_group_is_left_to_the_logs_own_thread() {
    // The only receiver whose share holds so much.
    let senders = Senders::by(&["FROM /messages/* INTO $upstream"], 5, |_| Ok(())).await;
    senders.come_together().await;
    let large = message(&"x".repeat(250_000));
    let answers: Vec<_> = (0..5).map(|n| answer(senders.send_this(n, &large))).collect();
    for answer in answers {
        answer.stored().await.unwrap();
    }
    let writes = senders.take_writes();
    assert!(!writes.is_empty() && writes.iter().all(|(_, thread)| !is_sender(thread)), "{writes:?}");
}

#[tokio::test]
async fn each_of_those_that_store_together_hears_that_the_log_is_full() {
    let (senders, is_full) = Senders::that_may_find_it_full(3).await;
    let sent = senders.come_together().await;
    let before = senders.waiting();
    is_full.store(true, SeqCst);
    let answers: Vec<_> = (0..3).map(|n| senders.answer(n)).collect();
    for answer in answers {
        assert_eq!(answer.stored().await, Err(NotStored::Full));
    }
    assert!(!senders.input().is_storing(), "room is still set aside");
    assert_eq!(senders.waiting(), before);
    is_full.store(false, SeqCst);
    assert_eq!(number(senders.send(0)).await, Ok(sent[0] + 1), "no number is used up");
}

#[tokio::test]
async fn a_body_is_read_once_also_where_the_log_refuses_a_message_that_is_sent_again() {
    let (senders, is_full) = Senders::that_may_find_it_full(2).await;
    senders.come_together().await;
    let (link, json) = (link(senders.agent.router()).await, json(10));
    let before = BODIES_READ.get();
    is_full.store(true, SeqCst);
    let Sent::Storing(Storing(mut storing)) = link.try_send("o", &json) else {
        panic!("it does not wait for the others")
    };
    // Beyond the turns that it lets others have it waits for the log.
    for _ in 0..100 {
        assert!(poll(&mut storing).await.is_pending());
    }
    is_full.store(false, SeqCst);
    tokio::time::timeout(DEADLINE, storing).await.unwrap().unwrap();
    assert_eq!(BODIES_READ.get(), before + 1);
}

#[tokio::test]
async fn senders_that_are_alone_again_store_at_once() {
    let senders = Senders::new(2, |_| Ok(())).await;
    senders.come_together().await;
    let alone = async {
        while let Taken::Storing(answer, _) = senders.send(0) {
            answer.stored().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, alone).await.expect("it does not wait for nobody for ever");
    assert!(senders.take_writes().iter().all(|(call, _)| *call == Call::Append(1, Safety::Written)));
}

/// Senders on four threads, of whom each gives up waiting for an answer now and then, while a consumer has noted what it has handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_that_many_store_together_is_there_in_order_though_some_give_up_waiting() {
    const COUNT: usize = 12;
    let senders = Arc::new(Senders::new(COUNT, |_| Ok(())).await);
    senders.come_together().await;
    let (input, is_last) = (senders.input(), Arc::new(AtomicBool::new(false)));
    let before = input.stats().accepted;
    let consumer = tokio::spawn(consume_in_order(input.clone(), is_last.clone()));
    let tasks: Vec<_> = (0..COUNT).map(|sender| tokio::spawn(send_and_give_up(senders.clone(), sender))).collect();
    let mut handed = 0;
    for task in tasks {
        handed += task.await.unwrap();
    }
    // What nobody waits for any more is stored as well.
    let since = Instant::now();
    while input.stats().accepted - before != handed {
        assert!(since.elapsed() < DEADLINE, "{} of {handed}", input.stats().accepted - before);
        tokio::task::yield_now().await;
    }
    is_last.store(true, SeqCst);
    let consumed = tokio::time::timeout(DEADLINE, consumer).await.expect("the consumer hangs").unwrap();
    assert_eq!((consumed, input.stats().len), (input.stats().accepted, 0));
}

/// Takes messages until there are no more and none come; of each sender they rise. Returns how many there were.
async fn consume_in_order(input: Arc<Endpoint>, is_last: Arc<AtomicBool>) -> u64 {
    let (clock, mut last, mut count) = (Clock::start(), BTreeMap::<String, u64>::new(), 0);
    loop {
        let is_last = is_last.load(SeqCst);
        let mut batch = input.take(clock.uptime(), 64);
        let taken = batch.len();
        for item in batch.iter() {
            let text = text(&item.accepted.message);
            let Some((sender, number)) = text.split_once('-') else { continue };
            let number = number.parse().unwrap();
            let before = last.insert(sender.to_owned(), number);
            assert!(before.is_none_or(|before| before < number), "{sender}: {number} after {before:?}");
        }
        count += taken as u64;
        batch.settle_first(taken);
        input.finish(batch, clock.uptime());
        if taken == 0 && is_last && !input.awaits_log() {
            return count;
        }
        tokio::task::yield_now().await;
    }
}

/// Sends, and gives up one answer of five after a few turns. Returns how many messages were taken.
async fn send_and_give_up(senders: Arc<Senders>, sender: usize) -> u64 {
    let (mut taken, mut chance) = (0, sender as u64 * 7919 + 1);
    for n in 0..1600 {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let mut stored = match senders.try_send_this(sender, &message(&format!("{sender}-{n}"))) {
            Ok(Taken::Now(_)) => {
                taken += 1;
                continue;
            }
            Ok(Taken::Storing(answer, _)) => Box::pin(answer.stored()),
            Ok(Taken::Not(why, _)) => panic!("{why:?}"),
            // The queue is full: the consumer has its turn.
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        taken += 1;
        let turns = if chance.is_multiple_of(5) { chance / 5 % 12 } else { u64::MAX };
        tokio::time::timeout(DEADLINE, await_turns(&mut stored, turns)).await.expect("it hangs");
    }
    taken
}

async fn await_turns(stored: &mut Pin<Box<impl Future<Output = Result<u64, NotStored>>>>, turns: u64) {
    if turns == u64::MAX {
        stored.await.unwrap();
        return;
    }
    for _ in 0..turns {
        if poll(stored).await.is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
