//! Recovery of the message log, and what comes after it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use marram_core::{
    elapsed::{Clocks, Elapsed},
    message::{Accepted, Message},
    time::UtcMillis,
};
use marram_store::log::{AppendError, EndpointId, Entry, How, Letters, Log, Options, Reference, Safety};
use tempfile::TempDir;

use crate::change::Chance;

const OPTIONS: Options = Options { segment_bytes: 4 << 10, max_bytes: 64 << 12, dead_letter_bytes: 4 << 10 };
/// Messages of the kept log have smaller numbers.
const NEW: u64 = 500;

/// The files of a small log in several segments, some of them full, with settlements, attempts and dead letters: what
/// [`write_log`] wrote once. Kept in `kept/`, because each log has a salt of its own, and an input must always find the same
/// bytes.
pub(crate) fn kept_log() -> &'static BTreeMap<String, Vec<u8>> {
    static KEPT: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    KEPT.get_or_init(|| {
        let entries = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kept")).unwrap();
        let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        entries.map(|entry| file(entry.unwrap())).collect()
    })
}

/// Whatever is done to the files of a log: no panic, the log opens or says why not, what it reads was written, it goes on, and
/// what it accepts then is there after the next opening.
///
/// The input is a list of changes of the kept log, eight bytes each: kind (by 8; the rest names another file), file, place,
/// length, place in the other file.
pub(crate) fn attack(data: &[u8]) {
    let files = damaged(data);
    let folder = folder();
    for (name, bytes) in &files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let Ok((mut log, _)) = Log::open(folder.path(), OPTIONS, &clocks(1)) else { return };
    read_all(&mut log);
    let new = log.endpoint("new");
    let accepted = append(&mut log, NEW, &[to(new, 0)]).is_ok();
    for endpoint in log.endpoints() {
        for queue in endpoint.queues {
            let letters = Letters { reason: "ttl_expiry", at: UtcMillis(0) };
            log.expire(endpoint.id, queue.priority, Some(3), Elapsed(1_000_000), Some(letters));
            log.expire(endpoint.id, queue.priority, None, Elapsed(1_000_000), None);
        }
    }
    while log.tidy() {}
    log.flush().unwrap();
    drop(log);
    let (mut log, _) = Log::open(folder.path(), OPTIONS, &clocks(2)).unwrap();
    read_all(&mut log);
    if accepted {
        let new = log.endpoint("new");
        assert!(numbers(&mut log, new, 0).contains(&NEW), "{data:?}");
    }
}

/// In memory where there is such a place: thousands of logs are opened and synced.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn damaged(data: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = kept_log().clone();
    let names: Vec<String> = files.keys().cloned().collect();
    let (changes, _) = data.as_chunks::<8>();
    for (number, change) in changes.iter().enumerate() {
        let [kind, file, ..] = *change;
        let place = |low: usize| usize::from(u16::from_le_bytes([change[low], change[low + 1]]));
        let name = &names[usize::from(file) % names.len()];
        let other = files.get(&names[usize::from(kind / 8) % names.len()]).cloned().unwrap_or_default();
        let bytes = files.entry(name.clone()).or_default();
        let at = place(2) % (bytes.len() + 1);
        let end = at + place(4).min(bytes.len() - at);
        match kind % 8 {
            0 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = change[4]),
            1 => bytes[at..end].fill(0),
            2 => {
                let mut chance = Chance::new(place(6) as u64);
                bytes[at..end].iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..end, other.iter().copied().skip(place(6)).take(end - at))),
            5 => *bytes = other,
            6 => drop(files.remove(name)),
            // What follows as it is.
            _ => {
                let rest = &data[8 * (number + 1)..];
                bytes.resize(bytes.len().max((at + rest.len()).min(OPTIONS.segment_bytes as usize)), 0);
                bytes[at..].iter_mut().zip(rest).for_each(|(byte, new)| *byte = *new);
                break;
            }
        }
    }
    files
}

/// Reads each queue.
fn read_all(log: &mut Log) {
    for endpoint in log.endpoints() {
        for queue in endpoint.queues {
            let read = numbers(log, endpoint.id, queue.priority);
            assert!(read.len() as u64 <= queue.messages);
            assert!(read.iter().all(|number| *number < 100 || *number == NEW));
        }
    }
    assert!(log.dead_letters(None, usize::MAX).unwrap().iter().all(|dead| dead.death.is_some()));
}

/// The messages of a queue by number; each is what was written under it.
fn numbers(log: &mut Log, endpoint: EndpointId, priority: u8) -> Vec<u64> {
    let mut stored = Vec::new();
    log.read(endpoint, priority, None, usize::MAX, &mut stored).unwrap();
    let number = |stored: marram_store::log::Stored| {
        let accepted = stored.accepted;
        assert_eq!((&accepted.message, accepted.sequence), (&message(accepted.sequence).message, accepted.sequence));
        accepted.sequence
    };
    stored.into_iter().map(number).collect()
}

/// Writes the log that is kept into an empty folder. Run when the format of the log changes:
/// `cargo run --package marram-fuzz --example keep_log`.
pub fn write_log(folder: &Path) {
    let (mut log, _) = Log::open(folder, OPTIONS, &clocks(0)).unwrap();
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..60 {
        append(&mut log, number, &[to(a, 0), to(b, number as u8 % 3)]).unwrap();
        if number % 4 != 0 {
            let mut stored = Vec::new();
            log.read(a, 0, None, usize::MAX, &mut stored).unwrap();
            log.settle(stored[stored.len() / 2].place, How::Delivered);
            log.attempt(stored[0].place, number as u32);
        }
        if number % 20 == 10 {
            let mut stored = Vec::new();
            log.read(b, 0, None, 1, &mut stored).unwrap();
            log.bury(stored[0].place, "rejected", UtcMillis(1_790_000_000_000)).unwrap();
        }
    }
    while log.tidy() {}
    log.flush().unwrap();
}

fn append(log: &mut Log, number: u64, references: &[Reference]) -> Result<(), AppendError> {
    log.append(&[Entry { message: &message(number), references }], Safety::Written).map(drop)
}

/// A message whose body can be told from all others.
fn message(number: u64) -> Accepted {
    let mut chance = Chance::new(number);
    let mut message = Message::new(Bytes::from_iter((0..150).map(|_| chance.below(256) as u8)));
    message.set_property("number", &number.to_string());
    if number.is_multiple_of(3) {
        message.system_mut().content_type = Some("application/json".into());
    }
    let enqueued = UtcMillis(1_790_000_000_000 + number);
    Accepted { message: Arc::new(message), source: "s".into(), sequence: number, enqueued }
}

fn to(endpoint: EndpointId, priority: u8) -> Reference {
    Reference { endpoint, priority, deadline: None, max_attempts: None }
}

fn clocks(since_boot: u64) -> Clocks {
    Clocks { boot: [1; 16], since_boot, utc: UtcMillis(1_790_000_000_000 + since_boot), synchronised: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the format must not make the attacks ones on a log that is refused at once.
    #[test]
    fn the_kept_log_opens_whole() {
        const AGAIN: &str = "the format has changed: `cargo run --package marram-fuzz --example keep_log`";
        let folder = folder();
        for (name, bytes) in kept_log() {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let (mut log, recovery) = Log::open(folder.path(), OPTIONS, &clocks(1)).unwrap();
        assert!(recovery.damage.is_empty() && recovery.torn.is_empty(), "{AGAIN}: {recovery:?}");
        assert!(kept_log().len() > 2 && recovery.references > 20, "{AGAIN}: {recovery:?}");
        assert!(!log.dead_letters(None, usize::MAX).unwrap().is_empty(), "{AGAIN}");
        read_all(&mut log);
    }
}
