//! What a host does in a life of [`History`], and what happens to it. Nothing is judged here.

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::{
    super::sim::{Fault, Sim},
    *,
};

/// What a host does.
impl History {
    pub(super) fn append(&mut self) {
        let (count, len) = (1 + self.chance.below(6) as u64, self.chance.below(700));
        let safety = if self.chance.below(3) == 0 { Safety::Synced } else { Safety::Written };
        let queues: &[usize] = [&[0][..], &[1], &[2], &[0, 2], &[1, 2]][self.chance.below(5)];
        let references: Vec<Reference> =
            queues.iter().map(|queue| to(self.log.endpoint(QUEUES[*queue].0), QUEUES[*queue].1)).collect();
        let numbers = self.number..self.number + count;
        self.number += count;
        let source = |number: u64| SOURCES[number as usize % 2];
        let messages: Vec<Accepted> = numbers.clone().map(|number| message(source(number), number, len)).collect();
        let entries: Vec<Entry<'_>> =
            messages.iter().map(|message| Entry { message, references: &references }).collect();
        let done = self.log.append(&entries, safety);
        self.say(format!("append {numbers:?}, {len} bytes, to {queues:?}, {safety:?}: {done:?}"));
        let status = if done.is_ok() { Status::Waiting } else { Status::Refused };
        for (n, number) in numbers.clone().enumerate() {
            for queue in queues {
                self.status.insert((*queue, number), status);
                if let Ok(sequences) = &done {
                    self.places.insert((*queue, number), sequences.start + n as u64);
                }
            }
        }
        if done.is_ok() && safety == Safety::Synced {
            self.durable.extend(numbers);
            self.raise(Reach::Medium);
        } else if done.is_ok() {
            self.raise(Reach::Kernel);
        }
    }

    /// What was settled up to now is on the disk.
    fn raise(&mut self, to: Reach) {
        for (item, status) in self.status.iter_mut().filter(|(item, _)| !self.buried.contains(item)) {
            if let Status::Settled(reach) = status {
                let to = if self.uncertain.contains(&item.1) { to.min(Reach::Kernel) } else { to };
                *reach = to.max(*reach);
            }
        }
    }

    pub(super) fn settle_first(&mut self) {
        let queue = self.chance.below(if self.kind.letters { 4 } else { 3 });
        let count = 1 + self.chance.below(10);
        for number in self.waiting(queue).into_iter().take(count) {
            self.settle((queue, number));
        }
    }

    pub(super) fn settle_any(&mut self) {
        let queue = self.chance.below(3);
        let waiting = self.waiting(queue);
        if !waiting.is_empty() {
            let number = waiting[self.chance.below(waiting.len())];
            self.settle((queue, number));
        }
    }

    fn settle(&mut self, item: Item) {
        self.say(format!("settle {item:?}"));
        let place = self.place(item);
        assert!(self.log.settle(place, How::Delivered), "{item:?} is not there");
        self.status.insert(item, Status::Settled(Reach::Memory));
    }

    pub(super) fn flush(&mut self) {
        let done = self.log.flush();
        self.say(format!("flush: {done:?}"));
        if done.is_ok() {
            self.buried.clear();
            self.raise(Reach::Kernel);
        }
    }

    pub(super) fn sync(&mut self) {
        let done = self.log.sync();
        self.say(format!("sync: {done:?}"));
        if done.is_ok() {
            self.buried.clear();
            self.raise(Reach::Medium);
            let certain: Vec<u64> = self.all_waiting().filter(|number| !self.uncertain.contains(number)).collect();
            self.durable.extend(certain);
        }
    }

    pub(super) fn attempt(&mut self) {
        let queue = self.chance.below(3);
        let Some(number) = self.waiting(queue).first().copied() else { return };
        let item = (queue, number);
        let attempts = self.attempts.get(&item).copied().unwrap_or(0) + 1;
        self.attempts.insert(item, attempts);
        let place = self.place(item);
        self.log.attempt(place, attempts);
        self.say(format!("attempt {attempts} of {item:?}"));
        self.flush();
    }

    pub(super) fn bury(&mut self) {
        let queue = self.chance.below(3);
        let Some(number) = self.waiting(queue).first().copied() else { return };
        let place = self.place((queue, number));
        let done = self.log.bury(place, "x", UtcMillis(7));
        self.say(format!("bury {:?}: {done:?}", (queue, number)));
        if let Ok(sequence) = done {
            self.status.insert((queue, number), Status::Settled(Reach::Memory));
            self.buried.insert((queue, number));
            self.status.insert((DEAD, number), Status::Waiting);
            self.places.insert((DEAD, number), sequence);
            self.note_dropped_letters();
        } else {
            self.status.entry((DEAD, number)).or_insert(Status::Refused);
        }
    }

    /// The oldest go when there are too many.
    fn note_dropped_letters(&mut self) {
        let left = self.log.dead_letters(None, usize::MAX).unwrap();
        let left: BTreeSet<u64> = left.iter().map(|letter| letter.accepted.sequence).collect();
        for number in self.waiting(DEAD).into_iter().filter(|number| !left.contains(number)) {
            self.status.insert((DEAD, number), Status::Settled(Reach::Memory));
        }
    }
}

/// What happens to it.
impl History {
    pub(super) fn break_disk(&mut self) {
        let at = self.chance.below(14);
        let fault = match self.chance.below(7) {
            0 | 1 => Fault::Once { at, with: Errno::NOSPC },
            2 | 3 => Fault::Once { at, with: Errno::IO },
            4 => Fault::Twice { at },
            5 => Fault::Done { at },
            _ => Fault::Dead { at },
        };
        self.disk_failed = true;
        self.sim = self.sim.clone().failing(fault);
        self.say(format!("the disk fails: {fault:?}"));
    }

    pub(super) fn mend_disk(&mut self) {
        self.sim = self.sim.clone().failing(Fault::None);
        self.say("the disk is well");
    }

    pub(super) fn kill(&mut self) {
        self.say("KILL");
        self.doubt();
        self.sim = self.sim.killed();
        self.open_after(Crash { power: false, may_lose: 0 });
    }

    pub(super) fn lose_power(&mut self) {
        self.say("LOSS OF POWER");
        self.go_dark();
        self.open_after(Crash { power: true, may_lose: 0 });
    }

    fn go_dark(&mut self) {
        self.sim = self.sim.without_power_by_sectors(&mut self.chance);
        self.boot += 1;
    }

    /// A process goes whose disk has failed.
    fn doubt(&mut self) {
        if !self.disk_failed {
            return;
        }
        self.uncertain.extend((0..self.number).filter(|number| !self.durable.contains(number)));
        let settled = |status: &Status| matches!(status, Status::Settled(Reach::Memory | Reach::Kernel));
        let settled = self.status.iter().filter(|(_, status)| settled(status));
        self.uncertain.extend(settled.map(|((_, number), _)| *number));
    }

    /// A crash, and then something is another one on the medium.
    pub(super) fn spoil(&mut self) {
        let power = self.chance.below(2) == 0;
        let Some(spoils) = self.kind.spoils else { return self.lose_power() };
        if std::mem::replace(&mut self.is_spoilt, true) {
            // There is time to mend between two of them: two headers of one segment are all that it has.
            self.log.tidy();
            self.sync();
        }
        if power {
            self.go_dark();
        }
        let (mut files, mut may_lose) = (self.sim.contents(), 0);
        let names: Vec<String> = files.keys().filter(|name| name.ends_with(".log")).cloned().collect();
        if !names.is_empty() {
            let name = &names[self.chance.below(names.len())];
            let file = files.get_mut(name).unwrap();
            let at;
            (at, may_lose) = spoil(file, spoils, &mut self.chance);
            self.say(format!("SPOILT {spoils:?} of {name} at {at}, power {power}"));
        }
        self.sim = Sim::with(&files);
        self.open_now(Crash { power, may_lose });
        // The medium is what was seen.
        let waiting: Vec<u64> = self.all_waiting().collect();
        self.durable.extend(waiting);
    }

    /// The opening may meet a fault as well, and crash in turn.
    fn open_after(&mut self, crash: Crash) {
        if !self.kind.disk_fails || self.chance.below(4) != 0 {
            return self.open_now(crash);
        }
        self.time += 1;
        let at = self.chance.below(12);
        self.sim = self.sim.clone().failing(Fault::Dead { at });
        let is_open = self.sim.try_open(self.options, &self.clocks()).is_ok();
        self.say(format!("opened with a disk that fails at {at}: {is_open}"));
        self.disk_failed = true;
        let power = self.chance.below(2) == 0;
        if power {
            self.go_dark();
        } else {
            self.doubt();
            self.sim = self.sim.killed();
        }
        self.open_now(Crash { power: power || crash.power, ..crash });
    }

    pub(super) fn clocks(&self) -> Clocks {
        Clocks { boot: [self.boot; 16], ..clocks(self.time) }
    }
}

/// Another bit, or a sector of zeros; often near the end, where index and header are. Returns where, and how many messages it may cost.
fn spoil(file: &mut [u8], spoils: Spoils, chance: &mut Chance) -> (usize, usize) {
    let at = match chance.below(3) {
        0 => file.len() - 1 - chance.below(90.min(file.len())),
        _ => chance.below(file.len()),
    };
    if spoils == Spoils::Bit {
        file[at] ^= 1 << chance.below(8);
        return (at, 1);
    }
    let sector = at / SECTOR * SECTOR;
    let end = file.len().min(sector + SECTOR);
    let has_sources = file[sector..end]
        .windows(SOURCES[0].len())
        .any(|window| SOURCES.iter().any(|source| window == source.as_bytes()));
    file[sector..end].fill(0);
    // Both names of a source, until the segment is full: its messages are lost (docs/store.md, Limits). Others take forty bytes at least.
    (at, if has_sources { usize::MAX } else { SECTOR / 40 + 2 })
}
