//! Opening: what the segments hold, what is settled of it, and where to write on.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io,
    path::Path,
    sync::Arc,
};

use marram_core::elapsed::{Clocks, Elapsed, Stamp};

use super::{
    Damage, Endpoints, Key, Log, Loss, OpenError, Options, QueueState, Recovery,
    disk::SegmentFolder,
    file_name,
    files::Files,
    format::{Header, Kind, Origin},
    opening::{Candidate, Opening},
    pending::Pending,
    record::{Checkpoint, take_name, take_range, take_stamp, take_tried},
    scan::{Found, Scanner},
    segment::Segment,
    spares::{SPARES, Spare},
    wire::Take,
};

/// What the stream says of segments.
#[derive(Default)]
struct Notes {
    /// Gone on purpose.
    freed: BTreeSet<u64>,
    /// Made of others, and how many references are in them.
    copied: Vec<(u64, u64)>,
}

impl Log {
    pub(super) fn open_on(
        path: &Path,
        folder: Arc<dyn SegmentFolder>,
        options: Options,
        clocks: &Clocks,
    ) -> Result<(Self, Recovery), OpenError> {
        let io = |source| OpenError::io(path, source);
        let mut opening = Opening::list(path, &folder)?;
        opening.drop_replaced().map_err(io)?;
        let checkpoint = opening.checkpoint().map_err(io)?;
        opening.drop_freed(checkpoint.as_ref()).map_err(io)?;
        let (segments, active) = opening.segments().map_err(io)?;
        let streams = opening.streams(checkpoint.as_ref().map(|(generation, _)| *generation));
        let is_whole = checkpoint.as_ref().is_some_and(|(generation, _)| streams.last() == Some(generation));
        let Opening { candidates, spares, next_generation, torn, damage, headless, replaced, barren, .. } = opening;
        let mut log = Self {
            path: path.to_owned(),
            folder,
            options,
            // Of this opening alone: the file of a copy that a kill broke off is not renamed yet, and may be written again under the
            // same number. With the same salt its old records would count.
            salt: RandomState::new().hash_one(path),
            next_generation,
            next_sequence: 0,
            segments,
            active,
            spares: Vec::new(),
            names_dirty: true,
            endpoints: Endpoints::default(),
            removed: Vec::new(),
            queues: BTreeMap::new(),
            attempts: BTreeMap::new(),
            pending: Pending::default(),
            deferred: super::deferred::Deferred::default(),
            held: Pending::default(),
            revived: BTreeSet::new(),
            has_empty: false,
            obsolete: Vec::new(),
            unsaid_copies: BTreeSet::new(),
            strays: Vec::new(),
            files: Files::default(),
            buffer: Vec::new(),
            stamp: Stamp::default(),
            damage,
            settled: [0; super::How::COUNT],
        };
        log.give_up_pages(&candidates);
        log.count();
        let listed = checkpoint.as_ref().map_or(&[][..], |(_, checkpoint)| &checkpoint.segments);
        let notes = log.read_stream(&candidates, &streams, listed).map_err(io)?;
        log.give_up_pages(&candidates);
        log.miss(checkpoint, notes, &spares, &replaced, &headless);
        log.name_the_nameless();
        let elapsed = candidates.values().map(|candidate| candidate.header.base.elapsed).max().unwrap_or(0);
        if let Some(active) = &mut log.active {
            // After a loss of power, sectors behind the end may hold whole records of writes that are lost. They must not come to light
            // when a later write there breaks off. And where a sync has failed and the host was killed then, pages before the end are not on
            // the disk, though everybody reads them: what would be written and synced behind them, a loss of power would take along.
            active.closed = true;
        }
        log.stamp = Stamp { elapsed: log.stamp.at(clocks).max(Elapsed(elapsed)), clocks: *clocks };
        log.pending.stamp = true;
        drop(candidates);
        log.revived.clear(); // nobody has read anything yet
        log.tidy_files(&spares, barren, is_whole);
        let recovery = Recovery {
            references: log.queues.values().map(|state| state.len).sum(),
            torn,
            damage: log.take_damage(),
            elapsed: log.stamp.elapsed,
        };
        Ok((log, recovery))
    }

    /// Pages that could not be read are not tried again and again.
    fn give_up_pages(&mut self, candidates: &BTreeMap<u64, Candidate>) {
        for (generation, candidate) in candidates {
            self.files.bad.give_up(*generation, candidate.file.given_up());
        }
    }

    /// Counts what the segments hold.
    fn count(&mut self) {
        let mut lens: BTreeMap<Key, u64> = BTreeMap::new();
        for segment in self.all_segments() {
            for queue in &segment.queues {
                *lens.entry(queue.key).or_default() += u64::from(queue.count);
            }
        }
        let next = self.all_segments().map(|segment| segment.header.base.sequence.max(after_last(segment))).max();
        self.next_sequence = next.unwrap_or(0);
        self.queues = lens.into_iter().map(|(key, len)| (key, QueueState { len, ..QueueState::default() })).collect();
    }

    /// Goes through the stream from its last good checkpoint on, which lists these segments.
    fn read_stream(
        &mut self,
        candidates: &BTreeMap<u64, Candidate>,
        streams: &[u64],
        listed: &[(u64, u64)],
    ) -> io::Result<Notes> {
        let mut notes = Notes::default();
        for generation in streams {
            let Some(Candidate { header, len, file, .. }) = candidates.get(generation) else { continue };
            let segment = self.all_segments().find(|segment| segment.generation() == *generation);
            let mut scanner = match segment {
                Some(segment) => Scanner::up_to(&**file, *generation, header.frame(), segment.data_end),
                None => Scanner::new(&**file, *generation, header.frame(), *len),
            };
            loop {
                match scanner.next()? {
                    Found::Record { kind: Kind::Copied, payload, .. } => {
                        let mut take = Take(payload);
                        notes.copied.extend(take.number().zip(take.number()));
                    }
                    Found::Record { kind: Kind::CheckpointEnd, .. } if Some(generation) == streams.first() => {
                        self.miss_ends(listed);
                    }
                    Found::Record { kind, payload, .. } => {
                        self.replay_record(*header, kind, payload, &mut notes.freed)?;
                    }
                    Found::Damaged { .. } => {}
                    Found::End { .. } | Found::Torn { .. } => break,
                }
            }
        }
        Ok(notes)
    }

    fn replay_record(
        &mut self,
        header: Header,
        kind: Kind,
        payload: &[u8],
        freed: &mut BTreeSet<u64>,
    ) -> io::Result<()> {
        let mut take = Take(payload);
        match kind {
            Kind::Checkpoint => {
                if let Some(checkpoint) = Checkpoint::take(payload) {
                    self.stamp = checkpoint.stamp;
                    self.next_sequence = self.next_sequence.max(checkpoint.next_sequence);
                    self.endpoints.next = self.endpoints.next.max(checkpoint.next_endpoint);
                }
            }
            Kind::Endpoints => {
                while let Some((number, name)) = take_name(&mut take) {
                    self.endpoints.insert(number, name.into());
                }
            }
            Kind::Settled => {
                while let Some(range) = take_range(&mut take, header.base) {
                    self.next_sequence = self.next_sequence.max(range.last.saturating_add(1));
                    self.settle_again(range)?;
                }
            }
            Kind::Attempts => {
                while let Some(tried) = take_tried(&mut take, header.base) {
                    // A loss of power may have taken the message alone: the one that gets its number must not have been tried.
                    self.next_sequence = self.next_sequence.max(tried.sequence.saturating_add(1));
                    self.attempts.insert((tried.key, tried.sequence), tried.attempts);
                }
            }
            Kind::Stamp => self.stamp = take_stamp(&mut take).unwrap_or(self.stamp),
            Kind::Freed => {
                while let Some(generation) = take.number() {
                    freed.insert(generation);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Reports messages that a checkpoint has counted and that are not there, where nothing else has told of them: the disk has lost the end
    /// of a segment, and has the mark of an earlier end. What is settled is as it was at that checkpoint.
    fn miss_ends(&mut self, listed: &[(u64, u64)]) {
        let counted: BTreeMap<u64, u64> = listed.iter().copied().collect();
        let found = self.all_segments().map(|segment| (segment.generation(), segment.live, segment.data_end));
        let short = found.filter_map(|(generation, live, at)| {
            let missing = counted.get(&generation)?.checked_sub(live).filter(|missing| *missing > 0)?;
            Some((self.path.join(file_name(generation)), at, missing))
        });
        let is_told = |path: &std::path::PathBuf| {
            self.damage.iter().any(|it| &it.path == path && matches!(it.loss, Loss::Messages(_)))
        };
        for (path, at, missing) in short.filter(|(path, ..)| !is_told(path)).collect::<Vec<_>>() {
            self.report(Damage { path, at, bytes: 0, loss: Loss::Messages(missing) });
        }
    }

    /// Reports segments that should be there and are not.
    fn miss(
        &mut self,
        checkpoint: Option<(u64, Checkpoint)>,
        Notes { freed, copied }: Notes,
        spares: &[(u64, u64)],
        replaced: &BTreeSet<u64>,
        headless: &BTreeSet<u64>,
    ) {
        let (newest, mut listed) =
            checkpoint.map_or((0, Vec::new()), |(newest, checkpoint)| (newest, checkpoint.segments));
        listed.extend(copied);
        let present: BTreeSet<u64> = self.all_segments().map(Segment::generation).collect();
        // A kill came before the stream said it: otherwise the originals would be missed when their copy is gone.
        let unsaid = listed.iter().map(|(generation, _)| *generation);
        let unsaid: Vec<u64> = unsaid.filter(|number| replaced.contains(number) && !freed.contains(number)).collect();
        let copies = self.all_segments().filter(|segment| segment.header.origin != Origin::Stream);
        let copies: Vec<(u64, u64)> = copies.map(|segment| (segment.generation(), segment.live)).collect();
        for (generation, live) in copies {
            if listed.iter().all(|(number, _)| *number != generation) {
                self.pending.copied(generation, live);
                self.unsaid_copies.insert(generation);
            }
        }
        if !unsaid.is_empty() {
            self.pending.freed(&unsaid);
        }
        let is_spare = |generation: u64| spares.iter().any(|(spare, _)| *spare == generation);
        let mut missing: Vec<(u64, Option<u64>)> = Vec::new();
        for (generation, live) in &listed {
            let gone = freed.contains(generation) || replaced.contains(generation) || is_spare(*generation);
            if !present.contains(generation) && !gone {
                missing.push((*generation, Some(*live)));
            }
        }
        let unknown = headless.iter().filter(|generation| **generation >= newest && !freed.contains(generation));
        missing.extend(unknown.map(|generation| (*generation, None)));
        for (generation, live) in missing {
            let mut path = self.path.join(file_name(generation));
            if headless.contains(&generation) {
                path.set_extension("damaged");
            }
            self.report(Damage { path, at: 0, bytes: 0, loss: Loss::Segment(live) });
        }
    }

    /// Gives names to endpoints whose names are lost, so that their messages can be seen.
    fn name_the_nameless(&mut self) {
        let nameless: BTreeSet<u32> =
            self.queues.iter().filter(|(_, state)| state.len > 0).map(|(key, _)| key.0).collect();
        for number in nameless {
            if !self.endpoints.names.contains_key(&number) {
                self.endpoints.insert(number, format!("$lost-{number}").into());
                self.endpoints.new.push(number);
                self.report(Damage { path: self.path.clone(), at: 0, bytes: 0, loss: Loss::Name(number) });
            }
        }
    }

    /// Segments that are settled give their room back; spares beyond need go. Best effort: the next opening does what fails.
    fn tidy_files(&mut self, spares: &[(u64, u64)], barren: Vec<(u64, u64)>, is_whole: bool) {
        for (generation, len) in spares {
            let name = super::spare_name(*generation);
            let wanted = *len == self.options.segment_bytes && self.spares.len() < SPARES;
            match self.folder.open(&name) {
                Ok(file) if wanted => self.spares.push(Spare { name, file, len: *len }),
                _ => self.remove_file(&name),
            }
        }
        // With a damaged checkpoint, segments without messages still say what is settled.
        self.pending.incomplete = !is_whole && self.active.is_some();
        if self.pending.incomplete
            && let Err(error) = self.flush()
        {
            tracing::warn!(%error, "cannot write a new checkpoint of the message log");
            self.has_empty = true;
            self.obsolete = barren;
            return;
        }
        if self.active.is_none() {
            self.has_empty = true;
            self.obsolete = barren;
            return;
        }
        for (generation, _) in barren {
            self.remove_file(&file_name(generation));
        }
        self.has_empty = true;
        self.give_room_back();
    }
}

fn after_last(segment: &Segment) -> u64 {
    if segment.first <= segment.last { segment.last.saturating_add(1) } else { 0 }
}
