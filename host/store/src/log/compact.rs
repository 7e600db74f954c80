//! Copies what is left of neighbouring segments into one that takes their place in the order. The stream of settlements does not
//! notice: it speaks of sequences, which stay.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use super::{
    Damage, Key, Log, Loss, Reference, file_name,
    format::{END_BYTES, HEADER_BYTES, Kind, Origin, TAIL_BYTES},
    index::Finder,
    read::name_of,
    record::{put_message, take_head},
    rotate::{Active, tail, write_footer},
    scan::{Found, Scanner},
    segment::{IndexAt, Segment, Sources},
    spares::Spare,
    wire::Put,
};

/// Bytes that are written at once.
const WRITE: usize = 64 << 10;

impl Log {
    /// Copies segments whose files cannot be trusted. What cannot be copied now is tried again at the next occasion.
    pub(super) fn copy_suspects(&mut self) {
        // What is settled is not copied: what it has become must be safe. If it cannot be made safe, copies of that come first.
        if !self.held.is_empty() && self.sync_file().is_err() {
            return; // they have been made
        }
        let suspects: Vec<u64> =
            self.segments.iter().filter(|segment| segment.suspect).map(Segment::generation).collect();
        for generation in suspects {
            let Some(place) = self.segments.iter().position(|segment| segment.generation() == generation) else {
                continue;
            };
            if let Err(error) = self.copy_together(place..place + 1, true) {
                tracing::error!(%error, segment = generation, "messages of the message log are in danger: they cannot be copied to \
                                where the disk keeps them");
                return;
            }
        }
    }

    /// Copies the live messages of these segments together and removes them. False: it was of no use. `always`: also
    /// then.
    pub(super) fn copy_together(&mut self, run: Range<usize>, always: bool) -> io::Result<bool> {
        self.clear_strays()?;
        self.settle_deferred();
        if self.active.is_none() {
            // The last checkpoint is in one that may go.
            if self.spares.is_empty() {
                self.make_spare()?;
            }
            let copied: Vec<u64> = self.segments[run.clone()].iter().map(Segment::generation).collect();
            self.begin_next()?;
            debug_assert!(self.segments[run.clone()].iter().map(Segment::generation).eq(copied));
        }
        let spare = self.spare_for_copy()?;
        let generation = self.next_generation;
        self.next_generation += 1;
        let copied = self.copy_into(&spare, generation, run.clone());
        let old: u64 = self.segments[run.clone()].iter().map(|segment| segment.len).sum();
        let useless = |segment: &Segment| !always && segment.len * 100 > old * 75;
        match copied {
            Ok(segment) if useless(&segment) => {
                self.discard(spare);
                for segment in &mut self.segments[run] {
                    segment.full_at = segment.live;
                }
                Ok(false)
            }
            Ok(segment) => {
                if let Err(error) = self.name(&spare, generation) {
                    self.discard(spare);
                    return Err(error);
                }
                self.replace(run, segment);
                Ok(true)
            }
            Err(error) => {
                self.discard(spare);
                Err(error)
            }
        }
    }

    fn spare_for_copy(&mut self) -> io::Result<Spare> {
        // The last one is for settlements. On a full disk it is lent: the segments that go give it back.
        if self.spares.len() < 2 {
            let made = self.make_spare();
            if self.spares.is_empty() {
                made?;
            }
        }
        self.sync_names_if_dirty()?;
        self.spares.pop().ok_or_else(|| io::ErrorKind::StorageFull.into())
    }

    /// A spare that a copy was written into in vain. It may have been cut, and a longer length gives no room back: its room is set
    /// aside anew.
    fn discard(&mut self, spare: Spare) {
        self.remove_file(&spare.name);
        drop(spare);
        if self.wants_spare()
            && let Err(error) = self.make_spare()
        {
            tracing::warn!(%error, "cannot set room aside for the message log");
        }
    }

    fn copy_into(&mut self, spare: &Spare, generation: u64, run: Range<usize>) -> io::Result<Segment> {
        let first = self.segments[run.clone()].iter().map(|segment| segment.first).min().unwrap_or(0);
        let header = self.header(generation, Origin::Compact, first);
        let frame = header.frame();
        let mut buffer = header.encode().to_vec();
        let replaced: Vec<u64> = self.segments[run.clone()].iter().map(Segment::generation).collect();
        frame.push(&mut buffer, 0, Kind::Replaces, |out| replaced.iter().for_each(|generation| out.put(*generation)));
        let start = buffer.len() as u64;
        spare.file.write_at(&buffer, 0)?;
        let mut copy = Active::new(Segment::new(header, spare.len, start), spare.file.clone());
        for place in run {
            self.copy_segment(place, &mut copy)?;
        }
        let Active { mut segment, file, .. } = copy;
        segment.len = segment.data_end + segment.footer_bound() + (END_BYTES + TAIL_BYTES) as u64;
        file.set_len(segment.len)?;
        file.write_at(&tail(&header), segment.len - TAIL_BYTES as u64)?;
        let indexes = write_footer(&mut segment, &*file, &frame)?;
        for (queue, at) in segment.queues.iter_mut().zip(indexes) {
            queue.index = IndexAt::Disk(at);
        }
        Ok(segment)
    }

    fn copy_segment(&mut self, place: usize, copy: &mut Active) -> io::Result<()> {
        let mut live = self.live_of(place)?;
        let names = self.names_of(place)?;
        let (header, end) = (self.segments[place].header, self.segments[place].data_end);
        let file = self.files.file(&*self.folder, header.generation)?;
        let patched = self.files.bad.patch(header.generation, file);
        let mut scanner = Scanner::up_to(&patched, header.generation, header.frame(), end);
        let (mut buffer, mut staged) = (Vec::new(), Vec::new());
        let (mut damaged, mut missing) = (Damaged::default(), self.segments[place].live);
        let base = copy.base();
        loop {
            let next = match scanner.next() {
                Ok(next) => next,
                Err(error) => {
                    self.is_lost(place, &error); // then the next copy goes without it
                    return Err(error);
                }
            };
            let (at, payload) = match next {
                Found::Record { kind: Kind::Message, at, payload, .. } => (at, payload),
                Found::Record { .. } => continue,
                Found::Damaged { at, bytes, kind } => {
                    match kind {
                        None => damaged.gaps.push((at, bytes)),
                        Some(Kind::Message) => damaged.messages.push((at, bytes)),
                        Some(_) => {}
                    }
                    continue;
                }
                Found::End { at } | Found::Torn { at } => {
                    if at < end {
                        damaged.gaps.push((at, end - at));
                    }
                    break;
                }
            };
            let Some(head) = take_head(payload, header.base) else { continue };
            let sequence = head.sequence;
            let references: Vec<Reference> =
                head.references.iter().copied().filter(|reference| live.contains(reference, sequence)).collect();
            if references.is_empty() {
                continue;
            }
            let Some((message, death)) = head.message(|number| name_of(&names, number)) else {
                damaged.messages.push((at, payload.len() as u64));
                continue;
            };
            missing = missing.saturating_sub(references.len() as u64);
            let source = copy.source(&message.source);
            // The name goes before the messages of this write.
            let mut record = Vec::new();
            put_message(&mut record, base, sequence, &message, source, &references, death.as_ref());
            buffer.push(record);
            staged.push((sequence, references));
            if buffer.iter().map(Vec::len).sum::<usize>() >= WRITE {
                write_copies(copy, &mut buffer, &mut staged)?;
            }
        }
        // Otherwise it was known before, or nobody waits for it.
        if missing > 0 {
            self.report_lost(header.generation, damaged, missing);
        }
        write_copies(copy, &mut buffer, &mut staged)
    }

    /// Tells of so many lost references: in gaps they are counted together.
    fn report_lost(&mut self, generation: u64, Damaged { messages, gaps }: Damaged, missing: u64) {
        let path = self.path.join(file_name(generation));
        let mut in_gaps = missing.saturating_sub(messages.len() as u64).max(1);
        for (at, bytes) in gaps {
            let loss = Loss::Messages(std::mem::take(&mut in_gaps));
            self.report(Damage { path: path.clone(), at, bytes, loss });
        }
        for (at, bytes) in messages {
            self.report(Damage { path: path.clone(), at, bytes, loss: Loss::Messages(1) });
        }
    }

    fn live_of(&mut self, place: usize) -> io::Result<Live> {
        let keys: Vec<Key> =
            self.segments[place].queues.iter().filter(|queue| queue.live() > 0).map(|queue| queue.key).collect();
        let mut queues = BTreeMap::new();
        for key in keys {
            let index = self.index_of(place, key)?;
            let Some(queue) = self.segments[place].queue(key) else { continue };
            let index = index.unwrap_or_else(|| queue.in_memory().unwrap_or_default().into());
            queues.insert(key, (index, Finder::default(), queue.settled.clone()));
        }
        Ok(Live { queues })
    }

    /// The copy takes the place of what it was made of.
    fn replace(&mut self, run: Range<usize>, segment: Segment) {
        let mut changes: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
        for queue in self.segments[run.clone()].iter().flat_map(|segment| &segment.queues) {
            changes.entry(queue.key).or_default().0 += u64::from(queue.live());
        }
        for queue in &segment.queues {
            changes.entry(queue.key).or_default().1 += u64::from(queue.live());
        }
        for (key, (before, after)) in changes {
            if let Some(state) = self.queues.get_mut(&key) {
                // Less only where a damaged one could not be copied.
                state.len = state.len + after - before.min(state.len + after);
                state.lost += before.saturating_sub(after);
            }
        }
        let old: Vec<u64> = self.segments[run.clone()].iter().map(Segment::generation).collect();
        self.pending.freed(&old);
        self.pending.copied(segment.generation(), segment.live);
        self.unsaid_copies.insert(segment.generation());
        if segment.live > 0 {
            self.keep(segment);
            self.remove_segments(&old);
        } else {
            self.remove_segments(&old);
            self.pending.freed(&[segment.generation()]);
            self.files.forget(segment.generation());
            self.remove_file(&file_name(segment.generation()));
        }
    }
}

/// Places that could not be read: of one message each, and of nobody knows how many.
#[derive(Default)]
struct Damaged {
    messages: Vec<(u64, u64)>,
    gaps: Vec<(u64, u64)>,
}

/// What is not settled in a segment.
struct Live {
    queues: BTreeMap<Key, (Arc<[u8]>, Finder, super::index::Settled)>,
}

impl Live {
    fn contains(&mut self, reference: &Reference, sequence: u64) -> bool {
        let Some((index, finder, settled)) = self.queues.get_mut(&reference.endpoint.key(reference.priority)) else {
            return false;
        };
        finder.find(index, sequence).is_some_and(|spot| !settled.contains(spot.ordinal))
    }
}

/// Writes messages with the names that they need before them.
fn write_copies(
    copy: &mut Active,
    records: &mut Vec<Vec<u8>>,
    staged: &mut Vec<(u64, Vec<Reference>)>,
) -> io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let (mut out, start) = (Vec::new(), copy.segment.data_end);
    debug_assert!(matches!(copy.segment.sources, Sources::Memory(_)) && start >= HEADER_BYTES as u64);
    copy.put_sources(&mut out);
    let mut places = Vec::with_capacity(records.len());
    for record in records.drain(..) {
        let at = start + out.len() as u64;
        places.push((at, copy.frame.push(&mut out, start, Kind::Message, |out| out.extend_from_slice(&record))));
    }
    copy.write(&mut out)?;
    for ((sequence, references), (at, bytes)) in staged.drain(..).zip(places) {
        copy.segment.add(sequence, at, bytes, &references);
    }
    Ok(())
}
