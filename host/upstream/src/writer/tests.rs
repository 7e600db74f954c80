//! The writer on real files, with a layer that runs out of space, tears writes and fails on command.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    message::{Accepted, Message},
    time::UtcMillis,
};

use super::*;
use crate::disk::RealDisk;

/// What the disk under test still does.
#[derive(Debug, Clone, Default)]
struct Health {
    /// Bytes until it is full; none = never.
    space: Option<usize>,
    /// Largest write that it takes at once; none = any.
    piece: Option<usize>,
    refuses_truncate: bool,
    refuses_sync: bool,
    refuses_open: bool,
    syncs: usize,
}

#[derive(Debug, Clone)]
struct FragileDisk {
    real: PathBuf,
    health: Arc<Mutex<Health>>,
}

struct FragileFile {
    real: Box<dyn LogFile>,
    health: Arc<Mutex<Health>>,
}

impl FragileDisk {
    fn new(folder: &Path, health: Health) -> Self {
        Self { real: folder.to_owned(), health: Arc::new(Mutex::new(health)) }
    }

    fn set(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.health.lock().unwrap());
    }

    fn real(&self) -> RealDisk {
        RealDisk { folder: self.real.clone() }
    }
}

fn fail_if(broken: bool) -> io::Result<()> {
    if broken { Err(io::Error::other("made to fail")) } else { Ok(()) }
}

impl Disk for FragileDisk {
    fn open(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        fail_if(self.health.lock().unwrap().refuses_open)?;
        Ok(Box::new(FragileFile { real: self.real().open(path)?, health: self.health.clone() }))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.real().remove(path)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.real().sync_folder()
    }
}

impl LogFile for FragileFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut health = self.health.lock().unwrap();
        let part = bytes.len().min(health.piece.unwrap_or(usize::MAX)).min(health.space.unwrap_or(usize::MAX));
        if part == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        health.space = health.space.map(|space| space - part);
        self.real.write(&bytes[..part])
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        fail_if(self.health.lock().unwrap().refuses_truncate)?;
        self.real.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut health = self.health.lock().unwrap();
        fail_if(health.refuses_sync)?;
        health.syncs += 1;
        self.real.sync()
    }
}

fn message(sequence: u64) -> Outgoing {
    let message = Arc::new(Message::new(Bytes::from(format!("body of {sequence}"))));
    let source = "/messages/modules/a/outputs/b".into();
    Outgoing { accepted: Accepted { message, source, sequence, enqueued: UtcMillis(sequence) }, attempt: 1 }
}

fn messages(sequences: std::ops::Range<u64>) -> Vec<Outgoing> {
    sequences.map(message).collect()
}

fn line_of(sequence: u64) -> Vec<u8> {
    let mut line = Vec::new();
    line::append(&mut line, &message(sequence)).unwrap();
    line
}

fn settings(folder: &Path) -> Settings {
    Settings { sync: SyncPolicy::OnFlush, ..Settings::new(folder) }
}

fn open(settings: &Settings, disk: &FragileDisk) -> Writer {
    Writer::open(settings.clone(), Box::new(disk.clone())).unwrap()
}

/// Sequences in the folder's files, in order; panics when a line is not whole.
fn sequences(folder: &Path) -> Vec<u64> {
    let files = numbered_files(folder).unwrap();
    let text: String = files.iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    let sequence = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap();
    text.lines().map(sequence).collect()
}

/// Offers messages until all are taken, as the agent does; a refusal ends it.
fn publish(writer: &mut Writer, mut batch: &[Outgoing]) -> Result<(), UpstreamError> {
    while !batch.is_empty() {
        let taken = writer.append(batch, Instant::now())?;
        assert!((1..=batch.len()).contains(&taken));
        batch = &batch[taken..];
    }
    Ok(())
}

#[test]
fn a_disk_that_fills_at_any_byte_keeps_whole_lines_and_goes_on_when_space_returns() {
    let batch = messages(1..4);
    let total: usize = (1..4).map(|sequence| line_of(sequence).len()).sum();
    for space in 0..=total {
        let folder = tempfile::tempdir().unwrap();
        let disk = FragileDisk::new(folder.path(), Health { space: Some(space), ..Health::default() });
        let mut writer = open(&settings(folder.path()), &disk);
        let taken = match writer.append(&batch, Instant::now()) {
            Ok(taken) => taken,
            Err(error) => {
                assert!(error.to_string().contains("free some space"), "{error}");
                0
            }
        };
        assert_eq!(sequences(folder.path()), (1..=taken as u64).collect::<Vec<_>>(), "space for {space}");
        disk.set(|health| health.space = None);
        publish(&mut writer, &batch[taken..]).unwrap();
        assert_eq!(sequences(folder.path()), [1, 2, 3], "space for {space}");
    }
}

#[test]
fn a_torn_line_that_cannot_be_cut_off_at_once_is_cut_off_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let space = Some(line_of(1).len() + 10);
    let disk = FragileDisk::new(folder.path(), Health { space, refuses_truncate: true, ..Health::default() });
    let mut writer = open(&settings(folder.path()), &disk);
    assert_eq!(writer.append(&messages(1..3), Instant::now()), Ok(1));
    disk.set(|health| health.space = None);
    assert!(writer.append(&messages(2..3), Instant::now()).is_err()); // never behind a torn line
    disk.set(|health| health.refuses_truncate = false);
    publish(&mut writer, &messages(2..3)).unwrap();
    assert_eq!(sequences(folder.path()), [1, 2]);
}

#[test]
fn a_file_cut_at_any_byte_is_whole_again_after_opening() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::new(folder.path(), Health::default());
    publish(&mut open(&settings(folder.path()), &disk), &messages(1..4)).unwrap();
    let path = folder.path().join(file_name(1));
    let content = fs::read(&path).unwrap();
    for cut in 0..=content.len() {
        fs::write(&path, &content[..cut]).unwrap();
        let whole = content[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        publish(&mut open(&settings(folder.path()), &disk), &messages(9..10)).unwrap();
        let expected: Vec<u64> = (1..=whole).chain([9]).collect();
        assert_eq!(sequences(folder.path()), expected, "cut at {cut}");
    }
}

#[test]
fn a_system_that_writes_in_small_pieces_still_gets_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::new(folder.path(), Health { piece: Some(7), ..Health::default() });
    publish(&mut open(&settings(folder.path()), &disk), &messages(1..20)).unwrap();
    assert_eq!(sequences(folder.path()), (1..20).collect::<Vec<_>>());
}

#[test]
fn files_rotate_by_size_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let line = line_of(10).len() as u64;
    let settings = Settings { max_file_bytes: 3 * line, max_files: 2, ..settings(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings, &disk);
    for sequence in 10..30 {
        publish(&mut writer, &messages(sequence..sequence + 1)).unwrap();
        let files = numbered_files(folder.path()).unwrap();
        assert!(files.len() <= 2);
        assert!(files.iter().all(|(_, path)| path.metadata().unwrap().len() <= 3 * line));
    }
    assert_eq!(sequences(folder.path()), (25..30).collect::<Vec<_>>());
    assert_eq!(numbered_files(folder.path()).unwrap().iter().map(|file| file.0).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn a_batch_that_spans_files_is_taken_in_order_and_each_file_keeps_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let line = line_of(10).len() as u64;
    let settings = Settings { max_file_bytes: 2 * line + 5, max_files: 100, ..settings(folder.path()) };
    publish(&mut open(&settings, &FragileDisk::new(folder.path(), Health::default())), &messages(10..31)).unwrap();
    assert_eq!(sequences(folder.path()), (10..31).collect::<Vec<_>>());
    assert_eq!(numbered_files(folder.path()).unwrap().len(), 11);
}

#[test]
fn a_line_larger_than_a_file_gets_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_file_bytes: 1, max_files: 3, ..settings(folder.path()) };
    publish(&mut open(&settings, &FragileDisk::new(folder.path(), Health::default())), &messages(1..4)).unwrap();
    assert_eq!(sequences(folder.path()), [1, 2, 3]);
    assert_eq!(numbered_files(folder.path()).unwrap().len(), 3);
}

#[test]
fn a_restart_goes_on_in_the_last_file_and_then_with_the_next_number() {
    let folder = tempfile::tempdir().unwrap();
    let line = line_of(10).len() as u64;
    let settings = Settings { max_file_bytes: 2 * line, ..settings(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    for sequence in 10..15 {
        publish(&mut open(&settings, &disk), &messages(sequence..sequence + 1)).unwrap();
    }
    assert_eq!(sequences(folder.path()), (10..15).collect::<Vec<_>>());
    assert_eq!(numbered_files(folder.path()).unwrap().iter().map(|file| file.0).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_rotation_that_keeps_failing_deletes_one_file_at_most_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let line = line_of(10).len() as u64;
    let settings = Settings { max_file_bytes: line, max_files: 3, ..settings(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings, &disk);
    publish(&mut writer, &messages(10..13)).unwrap();
    disk.set(|health| health.refuses_open = true);
    for _ in 0..5 {
        assert!(writer.append(&messages(13..14), Instant::now()).is_err());
    }
    assert_eq!(sequences(folder.path()), [11, 12]);
    disk.set(|health| health.refuses_open = false);
    publish(&mut writer, &messages(13..14)).unwrap();
    assert_eq!(sequences(folder.path()), [11, 12, 13]);
}

#[test]
fn a_window_syncs_by_age_or_by_bytes_and_never_when_idle() {
    let folder = tempfile::tempdir().unwrap();
    let interval = Duration::from_secs(5);
    let bytes = 3 * line_of(1).len() as u64;
    let settings = Settings { sync: SyncPolicy::Window { bytes, interval }, ..Settings::new(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings, &disk);
    let start = Instant::now();
    assert_eq!(writer.sync_due(), None);
    writer.append(&messages(1..2), start).unwrap();
    writer.append(&messages(2..3), start + Duration::from_secs(1)).unwrap();
    assert_eq!(writer.sync_due(), Some(start + interval)); // the oldest line decides
    writer.append(&messages(3..4), start + Duration::from_secs(2)).unwrap();
    assert_eq!(writer.sync_due(), Some(start)); // enough bytes: at once
    writer.sync_in_background();
    assert_eq!(writer.sync_due(), None);
    assert_eq!(disk.health.lock().unwrap().syncs, 1);
}

#[test]
fn each_batch_is_synced_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { sync: SyncPolicy::EachBatch, ..Settings::new(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings, &disk);
    writer.append(&messages(1..4), Instant::now()).unwrap();
    assert_eq!(disk.health.lock().unwrap().syncs, 1);
    disk.set(|health| health.refuses_sync = true);
    assert!(writer.append(&messages(4..5), Instant::now()).is_err()); // not safe, so not taken
}

#[test]
fn a_finished_file_is_synced_before_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_file_bytes: 1, ..settings(folder.path()) };
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings, &disk);
    publish(&mut writer, &messages(1..4)).unwrap();
    assert_eq!(disk.health.lock().unwrap().syncs, 2);
    writer.flush().unwrap();
    assert_eq!(disk.health.lock().unwrap().syncs, 3);
}

#[test]
fn a_sync_that_failed_in_the_background_is_the_next_flushs_error_once() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings(folder.path()), &disk);
    publish(&mut writer, &messages(1..2)).unwrap();
    disk.set(|health| health.refuses_sync = true);
    writer.sync_in_background();
    disk.set(|health| health.refuses_sync = false);
    publish(&mut writer, &messages(2..3)).unwrap();
    assert!(writer.flush().unwrap_err().to_string().contains("made to fail"));
    assert_eq!(writer.flush(), Ok(()));
    assert_eq!(sequences(folder.path()), [1, 2]);
}

#[test]
fn a_large_batch_is_written_in_bounded_parts() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::new(folder.path(), Health::default());
    let mut writer = open(&settings(folder.path()), &disk);
    let taken = writer.append(&messages(0..10_000), Instant::now()).unwrap();
    assert!(taken > 1000 && taken < 10_000);
    assert!(folder.path().join(file_name(1)).metadata().unwrap().len() <= MAX_WRITE_BYTES as u64);
}
