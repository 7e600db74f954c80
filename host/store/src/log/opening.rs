//! The files of a log at an opening: which are segments, which have been replaced or freed, and what is in those that are left.
//! Damage is passed over and noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use super::{
    Damage, Loss, MAX_REPORTED, OpenError, Torn,
    disk::{Readable, SegmentFolder},
    file_name,
    files::Window,
    format::{BadHeader, HEADER_BYTES, Header, Kind, Origin, TAIL_BYTES, TRAILER_BYTES},
    medium::Patient,
    read::add_names,
    record::{Checkpoint, Summary, take_head},
    rotate::Active,
    scan::{Found, Scanner},
    segment::Segment,
    wire::Take,
};

/// Numbers of segments and messages are below: a log that is written without pause does not come near.
const MAX_NUMBER: u64 = 1 << 63;

/// A segment's file.
pub(super) struct Candidate {
    pub(super) header: Header,
    pub(super) len: u64,
    pub(super) file: Arc<Patient>,
    /// Both of its headers are good.
    both: bool,
}

/// What is found, as it is found.
pub(super) struct Opening<'p> {
    pub(super) path: &'p Path,
    pub(super) folder: &'p Arc<dyn SegmentFolder>,
    pub(super) candidates: BTreeMap<u64, Candidate>,
    pub(super) spares: Vec<(u64, u64)>,
    pub(super) next_generation: u64,
    pub(super) torn: Vec<Torn>,
    pub(super) damage: Vec<Damage>,
    /// Both headers of these are unreadable.
    pub(super) headless: BTreeSet<u64>,
    /// Named by copies that were made of them.
    pub(super) replaced: BTreeSet<u64>,
    /// Without messages.
    pub(super) barren: Vec<(u64, u64)>,
}

impl<'p> Opening<'p> {
    pub(super) fn list(path: &'p Path, folder: &'p Arc<dyn SegmentFolder>) -> Result<Self, OpenError> {
        let mut opening = Self {
            path,
            folder,
            candidates: BTreeMap::new(),
            spares: Vec::new(),
            next_generation: 1,
            torn: Vec::new(),
            damage: Vec::new(),
            headless: BTreeSet::new(),
            replaced: BTreeSet::new(),
            barren: Vec::new(),
        };
        let mut files = folder.list().map_err(|source| OpenError::io(path, source))?;
        files.sort();
        for (name, len) in files {
            let Some((digits, kind)) = name.split_once('.').filter(|(digits, _)| digits.len() == 16) else { continue };
            let Ok(generation) = u64::from_str_radix(digits, 16) else { continue };
            // Others are nobody's, and numbers go on from those that are ours.
            if generation >= MAX_NUMBER || !["log", "spare", "damaged"].contains(&kind) {
                tracing::warn!(name, "a file in the folder of the message log is not of it; it is left alone");
                continue;
            }
            opening.next_generation = opening.next_generation.max(generation + 1);
            match kind {
                "log" => opening.look_at(generation, &name, len)?,
                "spare" => opening.spares.push((generation, len)),
                _ => {}
            }
        }
        Ok(opening)
    }

    fn look_at(&mut self, generation: u64, name: &str, len: u64) -> Result<(), OpenError> {
        let path = self.path.join(name);
        let io = |source| OpenError::io(&path, source);
        let file = Arc::new(Patient::new(self.folder.open(name).map_err(io)?, self.folder));
        let mut headers = [None; 2];
        for (found, at) in headers.iter_mut().zip([Some(0), len.checked_sub(TAIL_BYTES as u64)]) {
            let Some(at) = at else { continue };
            let mut bytes = [0; HEADER_BYTES];
            file.read_at(&mut bytes, at).map_err(io)?;
            match Header::decode(&bytes) {
                Ok(header) if header.generation == generation && header.base.sequence < MAX_NUMBER => {
                    *found = Some(header);
                }
                Err(BadHeader::Newer(version)) => return Err(OpenError::Newer { path, version }),
                _ => {}
            }
        }
        if let Some(header) = headers[0].or(headers[1]) {
            if headers[0].is_none() {
                self.report(generation, 0, HEADER_BYTES as u64, Loss::Nothing);
            }
            let both = headers == [Some(header); 2];
            self.candidates.insert(generation, Candidate { header, len, file, both });
            return Ok(());
        }
        self.headless.insert(generation);
        let aside = path.with_extension("damaged");
        let aside = aside.file_name().and_then(|name| name.to_str()).unwrap_or(name).to_owned();
        self.folder.rename(name, &aside).map_err(io)
    }

    fn report(&mut self, generation: u64, at: u64, bytes: u64, loss: Loss) {
        let damage = Damage { path: self.path.join(file_name(generation)), at, bytes, loss };
        tracing::error!("the message log is damaged: {damage}");
        if self.damage.len() < MAX_REPORTED {
            self.damage.push(damage);
        }
    }

    /// Removes segments of which copies have been made, which a crash left.
    pub(super) fn drop_replaced(&mut self) -> io::Result<()> {
        let mut replaced = BTreeSet::new();
        for candidate in self.candidates.values().filter(|candidate| candidate.header.origin == Origin::Compact) {
            let header = candidate.header;
            let mut window = Window::lean(header.generation);
            let first = window.record(&*candidate.file, &header.frame(), HEADER_BYTES as u64, candidate.len)?;
            if let Some((Kind::Replaces, payload)) = first {
                let mut take = Take(payload);
                while let Some(generation) = take.number() {
                    replaced.insert(generation);
                }
            }
        }
        for generation in &replaced {
            if self.candidates.remove(generation).is_some() {
                self.folder.remove(&file_name(*generation))?;
            }
        }
        self.replaced = replaced;
        Ok(())
    }

    /// The newest whole checkpoint, and whose it is.
    pub(super) fn checkpoint(&mut self) -> io::Result<Option<(u64, Checkpoint)>> {
        let streams: Vec<u64> = self.streams(None);
        for generation in streams.into_iter().rev() {
            let Some(candidate) = self.candidates.get(&generation) else { continue };
            if let Some(checkpoint) = read_checkpoint(candidate)? {
                return Ok(Some((generation, checkpoint)));
            }
        }
        Ok(None)
    }

    /// Removes segments that a checkpoint after them does not name: their messages were settled.
    pub(super) fn drop_freed(&mut self, checkpoint: Option<&(u64, Checkpoint)>) -> io::Result<()> {
        let Some((newest, checkpoint)) = checkpoint else { return Ok(()) };
        let listed: BTreeSet<u64> = checkpoint.segments.iter().map(|(generation, _)| *generation).collect();
        let freed: Vec<u64> = self.candidates.range(..newest).map(|(generation, _)| *generation).collect();
        for generation in freed.into_iter().filter(|generation| !listed.contains(generation)) {
            self.candidates.remove(&generation);
            self.folder.remove(&file_name(generation))?;
        }
        Ok(())
    }

    /// Segments of the stream in its order, from one of them on.
    pub(super) fn streams(&self, from: Option<u64>) -> Vec<u64> {
        let streams = self.candidates.values().map(|candidate| candidate.header);
        let streams = streams.filter(|header| header.origin == Origin::Stream).map(|header| header.generation);
        streams.filter(|generation| from.is_none_or(|from| *generation >= from)).collect()
    }

    /// All segments with messages in their order, and the one to write on.
    pub(super) fn segments(&mut self) -> io::Result<(Vec<Segment>, Option<Active>)> {
        let last = self.streams(None).last().copied();
        let (mut segments, mut active) = (Vec::new(), None);
        for generation in self.candidates.keys().copied().collect::<Vec<_>>() {
            let Some(candidate) = self.candidates.get(&generation) else { continue };
            let Candidate { header, len, both, .. } = *candidate;
            let file = candidate.file.clone();
            if let Some(mut segment) = sealed(&*file, header, len)? {
                if !both {
                    self.check_end(&*file, header, len, Loss::Nothing)?;
                }
                // With one header left it is copied soon, before that one is damaged as well.
                segment.suspect = !both;
                self.keep(segment, &mut segments);
                continue;
            }
            let before = self.damage.len();
            let (mut segment, torn) = self.scan(&*file, header, len, self.bound(header))?;
            self.check_end(&*file, header, len, Loss::End)?;
            let is_whole = both && self.damage.len() == before;
            if Some(generation) == last && is_whole {
                let end = header.frame().end(segment.data_end);
                let spoiled = torn && file.file().write_at(&end, segment.data_end).is_err();
                let mut active_segment = Active::new(segment, file.file().clone());
                (active_segment.spoiled, active_segment.dirty) = (spoiled, true);
                active = Some(active_segment);
            } else {
                // Copied soon: its index is on the disk then, and its damage is not found at each opening.
                segment.suspect = true;
                self.keep(segment, &mut segments);
            }
        }
        segments.sort_by_key(|segment| (segment.first, segment.generation()));
        self.drop_overlapping(&mut segments);
        Ok((segments, active))
    }

    /// A segment ends with its header. One without summary has been cut otherwise.
    fn check_end(&mut self, file: &dyn Readable, header: Header, len: u64, loss: Loss) -> io::Result<()> {
        let (mut bytes, at) = ([0; HEADER_BYTES], len.saturating_sub(TAIL_BYTES as u64));
        file.read_at(&mut bytes, at)?;
        if at < HEADER_BYTES as u64 || Header::decode(&bytes) != Ok(header) {
            self.report(header.generation, at, len - at, loss);
        }
        Ok(())
    }

    fn keep(&mut self, segment: Segment, segments: &mut Vec<Segment>) {
        if segment.first > segment.last {
            self.barren.push((segment.generation(), segment.len));
        } else {
            segments.push(segment);
        }
    }

    /// Where two segments hold the same messages, one is a copy of the other, and a damaged record has hidden it: the newer holds.
    fn drop_overlapping(&mut self, segments: &mut Vec<Segment>) {
        let mut place = 1;
        while place < segments.len() {
            let (a, b) = (&segments[place - 1], &segments[place]);
            if a.last < b.first || a.first > a.last || b.first > b.last {
                place += 1;
                continue;
            }
            let older = if a.generation() < b.generation() { place - 1 } else { place };
            let generation = segments.remove(older).generation();
            self.replaced.insert(generation);
            self.report(generation, 0, 0, Loss::Nothing);
            if let Err(error) = self.folder.remove(&file_name(generation)) {
                tracing::warn!(%error, "cannot remove a file of the message log");
            }
            place = place.saturating_sub(1).max(1);
        }
    }

    /// The sequence from which on messages are in other segments, or will be.
    fn bound(&self, header: Header) -> u64 {
        let others = self.candidates.values().map(|candidate| candidate.header);
        let is_next = |other: &Header| other.origin == Origin::Stream && other.generation > header.generation;
        let next_in_stream = others.clone().find(is_next).filter(|_| header.origin == Origin::Stream);
        let behind = others.filter(|other| other.base.sequence > header.base.sequence);
        next_in_stream.into_iter().chain(behind).map(|other| other.base.sequence).min().unwrap_or(u64::MAX)
    }

    /// Reads a segment from end to end. True: it breaks off. What is in it from the bound on was written before a loss of power and is not
    /// counted: its numbers were given anew, and it came to light because what was written over it later is torn.
    fn scan(&mut self, file: &dyn Readable, header: Header, len: u64, bound: u64) -> io::Result<(Segment, bool)> {
        let generation = header.generation;
        let end = len.saturating_sub(TAIL_BYTES as u64);
        let mut segment = Segment::new(header, len, end);
        let mut names = Vec::new();
        let mut gap: Option<(u64, u64)> = None;
        let mut scanner = Scanner::new(file, generation, header.frame(), end);
        let next = |segment: &Segment| match segment.first <= segment.last {
            true => segment.last + 1,
            false => header.base.sequence,
        };
        let torn = loop {
            match scanner.next()? {
                Found::Record { kind: Kind::Message, at, total, payload } => {
                    let head = take_head(payload, header.base);
                    if head.as_ref().is_some_and(|head| head.sequence >= bound) {
                        segment.data_end = at;
                        break false;
                    }
                    let rises = |sequence| segment.first > segment.last || sequence > segment.last;
                    let Some(head) = head.filter(|head| rises(head.sequence)) else {
                        self.report(generation, at, total as u64, Loss::Messages(1));
                        continue;
                    };
                    if let Some((at, bytes)) = gap.take() {
                        let missing = head.sequence.saturating_sub(next(&segment)).min(bytes);
                        self.report(generation, at, bytes, Loss::Messages(missing));
                    }
                    segment.add(head.sequence, at, total, &head.references);
                }
                Found::Record { kind: Kind::Sources, payload, .. } => add_names(&mut names, payload),
                Found::Record { .. } => {}
                Found::Damaged { at, bytes, kind: None } => {
                    gap = Some(gap.map_or((at, bytes), |(first, _)| (first, at + bytes - first)));
                }
                Found::Damaged { at, bytes, kind: Some(kind) } => self.report(generation, at, bytes, loss_of(kind)),
                Found::End { at } => {
                    segment.data_end = at;
                    break false;
                }
                Found::Torn { at } => {
                    segment.data_end = at;
                    self.torn.push(Torn { path: self.path.join(file_name(generation)), at });
                    break true;
                }
            }
        };
        if let Some((at, bytes)) = gap {
            let missing = (bytes / 16).max(1).min(bound.saturating_sub(next(&segment)));
            self.report(generation, at, bytes, if missing > 0 { Loss::Messages(missing) } else { Loss::Nothing });
        }
        segment.set_sources(names);
        Ok((segment, torn))
    }
}

fn loss_of(kind: Kind) -> Loss {
    match kind {
        Kind::Message => Loss::Messages(1),
        Kind::Settled | Kind::Attempts | Kind::Checkpoint | Kind::CheckpointEnd | Kind::Stamp => Loss::Settlements,
        Kind::Endpoints | Kind::Sources | Kind::Index | Kind::Summary | Kind::Replaces | Kind::Freed | Kind::Copied => {
            Loss::Nothing
        }
    }
}

/// The checkpoint at the head of a segment, if nothing of it is damaged.
fn read_checkpoint(candidate: &Candidate) -> io::Result<Option<Checkpoint>> {
    let Candidate { header, len, file, .. } = candidate;
    let mut scanner = Scanner::new(&**file, header.generation, header.frame(), len.saturating_sub(TAIL_BYTES as u64));
    let mut checkpoint = None;
    loop {
        match scanner.next()? {
            Found::Record { kind: Kind::Checkpoint, payload, .. } => checkpoint = Checkpoint::take(payload),
            Found::Record { kind: Kind::CheckpointEnd, .. } => return Ok(checkpoint),
            Found::Record { kind: Kind::Endpoints | Kind::Settled | Kind::Attempts, .. } if checkpoint.is_some() => {}
            _ => return Ok(None),
        }
    }
}

/// A sealed segment from its summary; none = it has no good one.
fn sealed(file: &dyn Readable, header: Header, len: u64) -> io::Result<Option<Segment>> {
    let Some(at) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let (mut bytes, frame) = ([0; TRAILER_BYTES], header.frame());
    file.read_at(&mut bytes, at)?;
    let Some(trailer) = frame.read_trailer(&bytes) else { return Ok(None) };
    let mut window = Window::lean(header.generation);
    let record = window.record(file, &frame, u64::from(trailer.summary_at), len)?;
    let Some((Kind::Summary, payload)) = record else { return Ok(None) };
    let summary = Summary::take(payload, header.base);
    Ok(summary.map(|summary| Segment::from_summary(header, len, u64::from(trailer.data_end), summary)))
}
