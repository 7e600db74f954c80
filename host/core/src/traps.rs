//! What is kept of instances that a trap, a limit or a deadline ended: for whoever looks for the reason later. Bounded in number and
//! bytes; the oldest go first, of who has most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{hex::hex, message::Accepted, name::ModuleName, ports::Exit, time::UtcMillis};

/// Traps that are kept of one module: enough to see whether they are the same.
pub const MAX_OF_A_MODULE: usize = 10;
/// Bytes of all that are kept, as JSON. They are one document, which each trap writes anew.
pub const MAX_BYTES: usize = 128 << 10;
/// Bytes of a message's body that are kept, or of a call's payload.
pub const MAX_BODY_BYTES: usize = 4 << 10;
/// Of the messages that a program held, so many are kept: those that it received last. What it choked on is as a rule among them.
pub const MAX_HELD: usize = 10;
/// Bytes of the body of each of these, so that one trap does not drive out all others.
pub const MAX_HELD_BODY_BYTES: usize = 1 << 10;
/// Of a message's id and media type.
pub const MAX_NAME_BYTES: usize = 256;

/// Core dumps that are kept, of all modules together and one of each at the most. With the bound of each, that of all.
pub const MAX_CORE_DUMPS: usize = 4;

/// What an instance had in memory when it ended, in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreDump {
    /// Its name in the folder of dumps; in answers to people, its path.
    pub file: String,
    /// Of the file.
    pub bytes: u64,
    /// Of memory that was beyond the bound of a dump and is not in it; zeros do not count.
    pub left_out_bytes: u64,
}

/// What an instance was doing when it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum During {
    /// Its start-handler.
    Start,
    /// It was told of its desired properties.
    Twin {
        /// Of this version.
        version: u64,
    },
    /// A timer.
    Timer {
        /// Which.
        name: String,
    },
    /// A method.
    Method(HandledCall),
    /// A message on an input.
    Message(HandledMessage),
    /// A program had received messages, and had not settled them.
    Messages(HeldMessages),
}

impl During {
    /// Forgets what messages and calls held.
    pub fn forget_bodies(&mut self) {
        match self {
            Self::Start | Self::Twin { .. } | Self::Timer { .. } => {}
            Self::Method(call) => call.payload = None,
            Self::Message(message) => message.body = None,
            Self::Messages(held) => held.messages.iter_mut().for_each(|message| message.body = None),
        }
    }
}

/// A call of a method that was being answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandledCall {
    /// Which method.
    pub name: String,
    /// Of its payload.
    #[serde(default)]
    pub bytes: usize,
    /// The payload, or its beginning. Only where the device's owner wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl HandledCall {
    /// With the beginning of the payload.
    #[must_use]
    pub fn new(name: &str, payload: &str) -> Self {
        let start = start(payload.as_bytes(), MAX_BODY_BYTES);
        Self { name: name.into(), bytes: payload.len(), payload: Some(start) }
    }
}

/// Messages that a program had received and not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldMessages {
    /// How many.
    pub held: usize,
    /// The last ones, in the order in which they were received.
    pub messages: Vec<HandledMessage>,
}

/// A message that was being handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandledMessage {
    /// The input.
    pub input: String,
    /// Where from.
    pub source: String,
    /// Its sequence.
    pub sequence: u64,
    /// When it was accepted.
    #[serde(rename = "enqueuedMs")]
    pub enqueued: UtcMillis,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// Of its body.
    pub bytes: usize,
    /// Media type of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The sender's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The body, or its beginning: text, or `0x` and hex digits. Only where the device's owner wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl HandledMessage {
    /// With the beginning of the body.
    #[must_use]
    pub fn new(input: &str, accepted: &Accepted, attempt: u32) -> Self {
        Self::with_body(input, accepted, attempt, MAX_BODY_BYTES)
    }

    /// With so many bytes of the body at the most.
    #[must_use]
    pub fn with_body(input: &str, accepted: &Accepted, attempt: u32, max: usize) -> Self {
        let message = &accepted.message;
        let system = message.system();
        Self {
            input: input.into(),
            source: accepted.source.to_string(),
            sequence: accepted.sequence,
            enqueued: accepted.enqueued,
            attempt,
            bytes: message.body.len(),
            content_type: system.and_then(|system| system.content_type.as_deref()).map(name),
            message_id: system.and_then(|system| system.message_id.as_deref()).map(name),
            body: Some(start(&message.body, max)),
        }
    }
}

/// What a sender calls something, or its beginning: it may be as long as a message.
fn name(text: &str) -> String {
    start(text.as_bytes(), MAX_NAME_BYTES)
}

/// At most so many bytes as text, or as `0x` and hex digits.
fn start(bytes: &[u8], max: usize) -> String {
    let start = &bytes[..bytes.len().min(max)];
    // A character that the cut went through is left out.
    let text = match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&start[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    text.map_or_else(|| hex("0x", start), str::to_owned)
}

/// An instance that was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trap {
    /// Whose.
    pub module: ModuleName,
    /// When.
    #[serde(rename = "atMs")]
    pub at: UtcMillis,
    /// 134 trap, 137 memory limit, 124 deadline.
    pub exit_code: i32,
    /// One line for people.
    pub reason: String,
    /// Symbolised frames, innermost first.
    pub backtrace: Vec<String>,
    /// What it was doing, if the host had called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<During>,
    /// Version of the deployment in force.
    pub deployment: u64,
    /// Its image as written.
    pub image: String,
    /// Digest of the image.
    pub digest: Option<String>,
    /// What it had in memory, if that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_dump: Option<CoreDump>,
}

/// Whether an instance that ended so is worth keeping in mind: not of its own will, and not by the operator's.
#[must_use]
pub fn is_trap(exit: &Exit) -> bool {
    matches!(exit.code, Exit::TRAP | Exit::MEMORY | Exit::DEADLINE)
}

/// The traps of all modules, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traps {
    traps: Vec<Trap>,
}

impl Traps {
    /// Keeps one more. Returns the files of the core dumps that go: of each module the last dump is kept, as long as its trap,
    /// and if it is among the last [`MAX_CORE_DUMPS`] of all.
    #[must_use]
    pub fn keep(&mut self, trap: Trap) -> Vec<String> {
        let before: Vec<String> = self.core_dumps().map(str::to_owned).collect();
        if trap.core_dump.is_some() {
            self.traps.iter_mut().filter(|older| older.module == trap.module).for_each(|older| older.core_dump = None);
        }
        self.push(trap);
        let with_dump = self.traps.iter_mut().rev().filter(|trap| trap.core_dump.is_some());
        with_dump.skip(MAX_CORE_DUMPS).for_each(|trap| trap.core_dump = None);
        let kept: Vec<&str> = self.core_dumps().collect();
        before.into_iter().filter(|file| !kept.contains(&file.as_str())).collect()
    }

    /// The files of all core dumps.
    pub fn core_dumps(&self) -> impl Iterator<Item = &str> {
        self.traps.iter().filter_map(|trap| trap.core_dump.as_ref()).map(|dump| dump.file.as_str())
    }

    fn push(&mut self, trap: Trap) {
        let module = trap.module.clone();
        self.traps.push(trap);
        let of_module = |trap: &Trap| trap.module == module;
        if self.traps.iter().filter(|trap| of_module(trap)).count() > MAX_OF_A_MODULE
            && let Some(oldest) = self.traps.iter().position(of_module)
        {
            self.traps.remove(oldest);
        }
        let size = |trap: &Trap| serde_json::to_vec(trap).map_or(0, |json| json.len() + 1);
        let mut bytes: usize = self.traps.iter().map(size).sum();
        while bytes > MAX_BYTES
            && let Some(next) = self.next_to_go(size)
        {
            bytes -= size(&self.traps.remove(next));
        }
    }

    /// The oldest of the module whose traps take most bytes: one that traps in a loop pushes out its own, and no others'. Never the newest
    /// of all; none if that is the only one.
    fn next_to_go(&self, size: impl Fn(&Trap) -> usize) -> Option<usize> {
        let mut bytes_of: BTreeMap<&ModuleName, usize> = BTreeMap::new();
        self.traps.iter().for_each(|trap| *bytes_of.entry(&trap.module).or_default() += size(trap));
        let (_, earlier) = self.traps.split_last()?;
        let most = earlier.iter().filter_map(|trap| bytes_of.get(&trap.module)).max()?;
        earlier.iter().position(|trap| bytes_of.get(&trap.module) == Some(most))
    }

    /// Keeps what has come after these. Returns the files of the core dumps that go.
    #[must_use]
    pub fn follow(&mut self, newer: Self) -> Vec<String> {
        newer.traps.into_iter().flat_map(|trap| self.keep(trap)).collect()
    }

    /// Those of a module, the newest first.
    pub fn of<'a>(&'a self, module: &'a str) -> impl Iterator<Item = &'a Trap> {
        self.traps.iter().rev().filter(move |trap| trap.module.as_str() == module)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::message::Message;

    fn trap(module: &str, number: u64, frame_bytes: usize) -> Trap {
        Trap {
            module: ModuleName::new(module).unwrap(),
            at: UtcMillis(number),
            exit_code: 134,
            reason: "why".into(),
            backtrace: vec!["f".repeat(frame_bytes)],
            during: Some(During::Timer { name: "t".into() }),
            deployment: 1,
            image: "i".into(),
            digest: None,
            core_dump: None,
        }
    }

    #[test]
    fn the_last_traps_of_each_module_are_kept_the_newest_first_and_all_within_a_bound() {
        let mut traps = Traps::default();
        let _ = traps.keep(trap("quiet", 0, 1));
        for number in 1..=25 {
            let _ = traps.keep(trap("loud", number, 1));
        }
        let times = |traps: &Traps, name: &str| traps.of(name).map(|trap| trap.at.0).collect::<Vec<_>>();
        assert_eq!(times(&traps, "loud"), (16..=25).rev().collect::<Vec<_>>());
        assert_eq!(times(&traps, "quiet"), [0]);
        let read: Traps = serde_json::from_slice(&serde_json::to_vec(&traps).unwrap()).unwrap();
        assert_eq!(read, traps);
        for number in 0..20 {
            let _ = traps.keep(trap(&format!("large{}", number % 4), 100 + number, 12 << 10));
            assert!(serde_json::to_vec(&traps).unwrap().len() <= MAX_BYTES + 16);
        }
        assert_eq!(times(&traps, "quiet"), [0], "who has most gives way");
        assert_eq!(times(&traps, "large3")[0], 119);
        assert!(
            times(&traps, "large0").iter().is_sorted_by(|newer, older| newer > older),
            "of it the oldest went first"
        );
    }

    #[test]
    fn a_module_that_traps_in_a_loop_crowds_out_no_other_however_large_its_traps_are() {
        let mut traps = Traps::default();
        for number in 0..4 {
            let _ = traps.keep(trap(&format!("quiet{number}"), number, 4 << 10));
        }
        for number in 4..1_000 {
            let _ = traps.keep(trap("loud", number, 40 << 10));
            assert_eq!(traps.of("loud").next().unwrap().at.0, number, "the newest is always there");
        }
        for number in 0..4 {
            assert_eq!(traps.of(&format!("quiet{number}")).count(), 1);
        }
        let _ = traps.keep(trap("huge", 1_000, 2 * MAX_BYTES));
        assert_eq!(traps.of("huge").count(), 1, "one is kept, whatever it takes");
    }

    #[test]
    fn of_each_module_the_last_core_dump_is_kept_and_of_all_a_few() {
        let with = |module: &str, file: &str| {
            let dump = CoreDump { file: file.into(), bytes: 9, left_out_bytes: 0 };
            Trap { core_dump: Some(dump), ..trap(module, 1, 1) }
        };
        let mut traps = Traps::default();
        assert!(traps.keep(with("a", "a1")).is_empty());
        assert!(traps.keep(trap("a", 2, 1)).is_empty(), "a trap without a dump leaves that of the one before");
        assert_eq!(traps.keep(with("a", "a2")), ["a1"]);
        for module in ["b", "c", "d"] {
            assert!(traps.keep(with(module, module)).is_empty());
        }
        assert_eq!(traps.keep(with("e", "e")), ["a2"]);
        assert_eq!(traps.core_dumps().collect::<Vec<_>>(), ["b", "c", "d", "e"]);
        let gone: Vec<String> =
            (0..MAX_OF_A_MODULE as u64).flat_map(|number| traps.keep(trap("b", number, 1))).collect();
        assert_eq!(gone, ["b"], "it goes with its trap");
        let stored = serde_json::to_string(&with("a", "1.core")).unwrap();
        assert!(stored.contains(r#""coreDump":{"file":"1.core","bytes":9,"leftOutBytes":0}"#), "{stored}");
        assert!(!serde_json::to_string(&trap("a", 1, 1)).unwrap().contains("coreDump"));
    }

    #[test]
    fn of_a_message_its_metadata_are_kept_and_the_beginning_of_its_body() {
        let told = |body: Vec<u8>| {
            let mut message = Message::new(Bytes::from(body));
            message.system_mut().message_id = Some("id".repeat(MAX_NAME_BYTES));
            message.system_mut().content_type = Some("x".into());
            let (source, sequence, enqueued) = ("/messages/modules/a/outputs/o".into(), 9, UtcMillis(5));
            HandledMessage::new("in", &Accepted { message: Arc::new(message), source, sequence, enqueued }, 2)
        };
        let mut call = During::Method(HandledCall::new("m", &"ü".repeat(MAX_BODY_BYTES)));
        let During::Method(HandledCall { bytes, payload: Some(payload), .. }) = &call else { panic!("{call:?}") };
        assert_eq!((*bytes, payload.len()), (2 * MAX_BODY_BYTES, MAX_BODY_BYTES));
        call.forget_bodies();
        assert_eq!(serde_json::to_string(&call).unwrap(), r#"{"kind":"method","name":"m","bytes":8192}"#);
        let of_earlier_versions = r#"{"kind":"method","name":"m"}"#;
        assert!(serde_json::from_str::<During>(of_earlier_versions).is_ok());
        let short = told(b"hello".to_vec());
        assert_eq!((short.sequence, short.attempt, short.bytes), (9, 2, 5));
        assert_eq!(
            (short.message_id.as_deref(), short.body.as_deref()),
            (Some(&*"id".repeat(MAX_NAME_BYTES / 2)), Some("hello"))
        );
        assert_eq!(told(vec![0xff, 0x01]).body.as_deref(), Some("0xff01"));
        let long = told([b"x".as_slice(), "ä".repeat(MAX_BODY_BYTES).as_bytes()].concat());
        assert_eq!(long.body.unwrap().len(), MAX_BODY_BYTES - 1, "a cut character is left out");
        assert_eq!(long.bytes, 1 + 2 * MAX_BODY_BYTES);
    }
}
