//! The journal as the agent uses it: through the `Upstream` trait, on real files.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use marram_core::{
    message::{Accepted, Message},
    ports::{Outgoing, Upstream},
    time::UtcMillis,
};
use marram_upstream::{Journal, OpenError, Settings, SyncPolicy, journal_files};
use proptest::prelude::*;
use serde_json::Value;

fn outgoing(message: Message, sequence: u64) -> Outgoing {
    let source = "/messages/modules/a/outputs/b".into();
    Outgoing { accepted: Accepted { message: Arc::new(message), source, sequence, enqueued: UtcMillis(0) }, attempt: 1 }
}

fn batch(sequences: std::ops::Range<u64>) -> Vec<Outgoing> {
    sequences.map(|sequence| outgoing(Message::new(sequence.to_string().into()), sequence)).collect()
}

fn lines(folder: &Path) -> Vec<Value> {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let text: String = journal_files(folder).unwrap().into_iter().map(read).collect();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sequences(folder: &Path) -> Vec<u64> {
    lines(folder).iter().map(|line| line["sequence"].as_u64().unwrap()).collect()
}

async fn publish_all(journal: &Journal, mut batch: &[Outgoing]) {
    while !batch.is_empty() {
        batch = &batch[journal.publish(batch).await.unwrap()..];
    }
}

#[tokio::test]
async fn a_message_stands_in_the_file_when_publish_returns() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings::new(folder.path())).unwrap();
    assert_eq!(journal.publish(&[]).await, Ok(0));
    assert_eq!(journal.publish(&batch(1..4)).await, Ok(3));
    assert_eq!(sequences(folder.path()), [1, 2, 3]);
    journal.flush().await.unwrap();
}

#[tokio::test]
async fn a_reopened_journal_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    for sequence in 1..4 {
        let journal = Journal::open(Settings::new(folder.path())).unwrap();
        publish_all(&journal, &batch(sequence..sequence + 1)).await;
    }
    assert_eq!(sequences(folder.path()), [1, 2, 3]);
    assert_eq!(journal_files(folder.path()).unwrap().len(), 1);
}

#[tokio::test]
async fn two_journals_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Journal::open(Settings::new(folder.path())).unwrap();
    assert!(matches!(Journal::open(Settings::new(folder.path())), Err(OpenError::InUse(_))));
    drop(first);
    Journal::open(Settings::new(folder.path())).unwrap();
}

#[tokio::test]
async fn folder_and_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a/journal");
    let journal = Journal::open(Settings::new(&folder)).unwrap();
    publish_all(&journal, &batch(1..2)).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&journal_files(&folder).unwrap()[0]), 0o600);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Journal::open(Settings::new(folder.path().join("file/journal"))).unwrap_err();
    assert!(error.to_string().contains("file/journal"), "{error}");
}

#[tokio::test]
async fn a_dropped_publish_tears_nothing_and_keeps_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings::new(folder.path())).unwrap();
    for sequence in 0..200 {
        let batch = batch(sequence..sequence + 1);
        // Poll once and drop: sometimes before, sometimes after the thread has written it.
        tokio::select! {
            biased;
            taken = journal.publish(&batch) => drop(taken),
            () = std::future::ready(()) => {}
        }
        publish_all(&journal, &batch).await; // offered again, as the agent does
    }
    drop(journal);
    let mut found = sequences(folder.path());
    assert!(found.is_sorted(), "{found:?}");
    found.dedup();
    assert_eq!(found, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_future_that_was_never_polled_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings::new(folder.path())).unwrap();
    drop(journal.publish(&batch(1..2)));
    drop(journal);
    assert!(lines(folder.path()).is_empty());
}

#[tokio::test]
async fn the_deepest_json_does_not_end_the_thread() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings::new(folder.path())).unwrap();
    for depth in [100, 101, 100_000] {
        let text = format!("{}1{}", "{\"a\":[".repeat(depth / 2), "]}".repeat(depth / 2));
        let mut message = Message::new(text.into());
        message.system_mut().content_type = Some("application/json".into());
        publish_all(&journal, &[outgoing(message, depth as u64)]).await;
    }
    assert_eq!(lines(folder.path()).len(), 3);
}

/// A file system of its own, unmounted when dropped. Needs root.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "marram-test"])
            .arg(folder.path())
            .output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_file_system_refuses_and_goes_on_when_space_returns() {
    // Without root the same promise is tested at every byte by `writer::tests`, through an injected disk.
    let Some(disk) = Tmpfs::mount("256k") else { return };
    let folder = disk.0.path().join("journal");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 128 * 1024]).unwrap();
    let journal = Journal::open(Settings::new(&folder)).unwrap();
    let mut taken = 0;
    let error = loop {
        match journal.publish(&batch(taken..taken + 50)).await {
            Ok(more) => taken += more as u64,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(taken > 100);
    assert_eq!(sequences(&folder), (0..taken).collect::<Vec<_>>());
    fs::remove_file(ballast).unwrap();
    publish_all(&journal, &batch(taken..taken + 50)).await;
    drop(journal);
    assert_eq!(sequences(&folder), (0..taken + 50).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn arbitrary_messages_come_back_in_order_over_restarts_and_rotations(
        batches in prop::collection::vec(prop::collection::vec(any::<(Vec<u8>, Vec<(String, String)>)>(), 1..8), 1..6),
        max_file_bytes in 1_u64..2000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let sync = SyncPolicy::Window { bytes: 500, interval: Duration::from_millis(1) };
        let settings = Settings { max_file_bytes, max_files: 1000, sync, ..Settings::new(folder.path()) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut sent = Vec::new();
        for batch in batches {
            let journal = Journal::open(settings.clone()).unwrap();
            let batch: Vec<_> = batch
                .into_iter()
                .zip(sent.len() as u64..)
                .map(|((body, properties), sequence)| {
                    let mut message = Message::new(body.into());
                    properties.iter().for_each(|(name, value)| message.set_property(name, value));
                    outgoing(message, sequence)
                })
                .collect();
            runtime.block_on(publish_all(&journal, &batch));
            sent.extend(batch);
        }
        let found = lines(folder.path());
        prop_assert_eq!(found.len(), sent.len());
        for (line, sent) in found.iter().zip(&sent) {
            prop_assert_eq!(line["sequence"].as_u64(), Some(sent.accepted.sequence));
            for (name, value) in sent.accepted.message.properties() {
                prop_assert_eq!(line["properties"][name].as_str(), Some(value));
            }
            if let Some(text) = line.get("bodyText") {
                prop_assert_eq!(text.as_str().unwrap().as_bytes(), &*sent.accepted.message.body);
            } else {
                prop_assert!(line["bodyBase64"].is_string());
            }
        }
    }
}
