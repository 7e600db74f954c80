//! What a caller is promised, one small picture each.

use super::{sim::Sim, *};

#[test]
fn what_is_appended_is_read_in_order_also_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(folder.path(), SMALL, &clocks(0)).unwrap();
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..100 {
        append(&mut log, &message("s", number, 200), &[to(a, 0), to(b, 5)]).unwrap();
    }
    assert_eq!(numbers(&mut log, a, 0), (0..100).collect::<Vec<_>>());
    drop(log);
    let (mut log, recovery) = Log::open(folder.path(), SMALL, &clocks(1)).unwrap();
    assert_eq!((recovery.references, recovery.torn, recovery.damage), (200, vec![], vec![]));
    assert_eq!(log.endpoint("b"), b);
    assert_eq!(numbers(&mut log, b, 5), (0..100).collect::<Vec<_>>());
}

#[test]
fn settled_segments_give_their_room_back() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..500 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    assert!(log.usage().segments > 20);
    for stored in all(&mut log, a, 0) {
        log.settle(stored.place, How::Delivered);
    }
    assert!(log.usage().disk_bytes <= 4 * SMALL.segment_bytes, "{:?}", log.usage());
    assert_eq!(sim.bytes(), log.usage().disk_bytes);
}

#[test]
fn a_message_is_read_as_it_was_sent() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let mut sent = message("/messages/modules/temp/outputs/o", 1 << 40, 300);
    let message = Arc::make_mut(&mut sent.message);
    message.set_property("ünit", "");
    let system = message.system_mut();
    (system.message_id, system.correlation_id) = (Some(String::new()), Some("c".into()));
    let reference = Reference { endpoint: a, priority: 10, deadline: Some(Elapsed(99_999)), max_attempts: Some(20) };
    let sequence = append(&mut log, &sent, &[reference]).unwrap();
    let (mut log, _) = sim.killed().open(SMALL, &clocks(1));
    let [read] = &all(&mut log, a, 10)[..] else { panic!("one message") };
    assert_eq!(read.place, Place { endpoint: a, priority: 10, sequence });
    assert_eq!((read.deadline, read.max_attempts, read.attempts), (Some(Elapsed(99_999)), Some(20), 0));
    assert_eq!(read.accepted.message, sent.message);
    assert_eq!((&read.accepted.source, read.accepted.sequence), (&sent.source, 1 << 40));
    assert_eq!(read.accepted.enqueued, sent.enqueued);
}

#[test]
fn a_body_for_many_endpoints_is_stored_once() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(Options { segment_bytes: 1 << 20, max_bytes: 8 << 20, ..SMALL }, &clocks(0));
    let references: Vec<Reference> = (0..20).map(|n| to(log.endpoint(&format!("e{n}")), 0)).collect();
    append(&mut log, &message("s", 0, 1000), &references).unwrap();
    let before = sim.contents();
    for number in 1..=100 {
        append(&mut log, &message("s", number, 1000), &references).unwrap();
    }
    let body = body(50, 1000);
    let found =
        sim.contents().values().map(|file| file.windows(64).filter(|w| *w == &body[..64]).count()).sum::<usize>();
    assert_eq!(found, 1);
    assert_eq!(before.len(), sim.contents().len(), "one segment took all");
    for reference in &references {
        assert_eq!(numbers(&mut log, reference.endpoint, 0).len(), 101);
    }
}

#[test]
fn a_reading_goes_on_behind_the_last_one_and_takes_at_least_one() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..120 {
        append(&mut log, &message("s", number, 200), &[to(a, 0)]).unwrap();
    }
    let (mut after, mut read) = (None, Vec::new());
    loop {
        let mut batch = Vec::new();
        log.read(a, 0, after, 1 + read.len() * 100, &mut batch).unwrap();
        let Some(last) = batch.last() else { break };
        after = Some(last.place.sequence);
        read.extend(batch.iter().map(|stored| stored.accepted.sequence));
        // Between two readings others come, are settled, and segments end.
        let b = log.endpoint("b");
        append(&mut log, &message("s", 120, 200), &[to(b, 0)]).unwrap();
        log.settle(batch[0].place, How::Delivered);
    }
    assert_eq!(read, (0..120).collect::<Vec<_>>());
}

#[test]
fn attempts_are_there_after_a_kill_and_after_segments_have_come_and_gone() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    let sequence = append(&mut log, &message("s", 0, 200), &[to(a, 0)]).unwrap();
    let place = Place { endpoint: a, priority: 0, sequence };
    log.attempt(place, 7);
    log.flush().unwrap();
    let (mut killed, _) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!(all(&mut killed, a, 0)[0].attempts, 7);
    for number in 1..200 {
        append(&mut log, &message("s", number, 300), &[to(b, 0)]).unwrap();
        for stored in all(&mut log, b, 0) {
            log.settle(stored.place, How::Delivered);
        }
    }
    let (mut killed, _) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!(all(&mut killed, a, 0)[0].attempts, 7);
    killed.settle(place, How::Delivered);
    killed.attempt(place, 8);
    assert!(killed.attempts.is_empty());
}

fn until(endpoint: EndpointId, deadline: u64) -> Reference {
    Reference { deadline: Some(Elapsed(deadline)), ..to(endpoint, 0) }
}

#[test]
fn what_has_expired_behind_a_message_goes_unread_by_queue_and_segment_and_all_else_stays() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..300 {
        let reference = if number % 3 == 0 { to(b, 0) } else { until(a, number) };
        append(&mut log, &message("s", number, 300), &[reference]).unwrap();
    }
    let before = numbers(&mut log, a, 0);
    assert_eq!(log.expire(a, 0, None, Elapsed(0), None), None);
    assert_eq!(log.expire(b, 0, None, Elapsed(1000), None), None, "b's never expire");
    for mut log in [log, sim.killed().open(SMALL, &clocks(1)).0] {
        let after = all(&mut log, a, 0)[10].place.sequence;
        let Expired { messages, bytes, left_messages, left_bytes } =
            log.expire(a, 0, Some(after), Elapsed(150), None).unwrap();
        // The segment in which they begin to live stays whole.
        assert!((70..=89).contains(&messages), "{messages} of 89 that are over");
        assert_eq!(log.usage().settled(How::Expired), messages);
        assert_eq!(messages + left_messages, 189);
        assert!(bytes.abs_diff(messages * 330) < messages * 20, "{bytes} of {messages}");
        assert!(left_bytes.abs_diff(left_messages * 330) < left_messages * 20, "{left_bytes} of {left_messages}");
        let left = [&before[..11], &before[11 + messages as usize..]].concat();
        assert_eq!(numbers(&mut log, a, 0), left);
        assert_eq!(numbers(&mut log, b, 0).len(), 100, "of the same segments");
        assert_eq!(
            log.expire(a, 0, Some(after), Elapsed(1000), None).unwrap().left_messages,
            0,
            "the last segment too"
        );
        assert_eq!(numbers(&mut log, a, 0), before[..11]);
        log.flush().unwrap();
    }
    let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!((recovery.references, recovery.damage), (111, vec![]));
    assert_eq!(numbers(&mut killed, a, 0), before[..11]);
}

#[test]
fn what_cannot_be_counted_while_others_expire_is_not_forgotten() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..120 {
        let deadline = Some(Elapsed(if number < 60 { 1000 } else { 5 }));
        append(&mut log, &message("s", number, 300), &[Reference { deadline, ..to(a, 0) }]).unwrap();
    }
    assert!(log.segments.len() >= 4);
    log.flush().unwrap();
    drop(log);
    let (mut log, _) = sim.open(SMALL, &clocks(1));
    sim.open_no_more(true);
    let expired = log.expire(a, 0, Some(3), Elapsed(100), None).unwrap();
    assert!(expired.messages > 0);
    sim.open_no_more(false);
    let left = numbers(&mut log, a, 0).iter().filter(|number| **number > 3).count() as u64;
    assert!(left > 0 && expired.left_messages >= left, "{expired:?} but {left} wait");
}

#[test]
fn of_what_has_expired_the_newest_are_dead_letters_if_they_shall_be() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..300 {
        append(&mut log, &message("s", number, 300), &[until(a, if number < 200 { 1 } else { 9 })]).unwrap();
    }
    let fifth = all(&mut log, a, 0)[4].place.sequence;
    let letters = Some(Letters { reason: "ttl_expiry", at: UtcMillis(7) });
    let expired = log.expire(a, 0, Some(fifth), Elapsed(5), letters).unwrap();
    let left = numbers(&mut log, a, 0);
    assert_eq!((expired.messages, expired.left_messages), (300 - left.len() as u64, left.len() as u64 - 5));
    let gone = 5 + expired.messages;
    assert!((180..=200).contains(&gone) && left[5] == gone, "{gone} {left:?}");
    let dead: Vec<u64> =
        log.dead_letters(None, usize::MAX).unwrap().iter().map(|letter| letter.accepted.sequence).collect();
    assert!(dead.len() > 10 && dead.iter().copied().eq(gone - dead.len() as u64..gone), "{dead:?} of {gone}");
    assert_eq!(log.usage().settled(How::DeadLettered) + log.usage().settled(How::Expired), expired.messages);
}

/// A device without a battery clock: 1970 at the boot, the right time later, a reboot to 1970.
#[test]
fn elapsed_time_goes_on_over_restarts_and_no_step_of_the_wall_clock_counts() {
    let boot = |boot: u8, since_boot, utc, synchronised| Clocks {
        boot: [boot; 16],
        since_boot,
        utc: UtcMillis(utc),
        synchronised,
    };
    let years = 56 * 365 * 86_400_000;
    let sim = Sim::new();
    let (mut log, recovery) = sim.open(SMALL, &boot(1, 1000, 0, false));
    assert_eq!(recovery.elapsed, Elapsed(1000));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 0, 10), &[until(a, 1_000_000)]).unwrap();
    assert_eq!(log.stamp(&boot(1, 61_000, years, true)), Elapsed(61_000));
    log.flush().unwrap();
    // The host is killed: the boot's own clock is exact.
    let (_, recovery) = sim.killed().open(SMALL, &boot(1, 91_000, 0, false));
    assert_eq!(recovery.elapsed, Elapsed(91_000));
    // The device is without power for a day: what is known counts.
    let (_, recovery) = sim.killed().open(SMALL, &boot(2, 5_000, 0, false));
    assert_eq!(recovery.elapsed, Elapsed(66_000));
    let (_, recovery) = sim.killed().open(SMALL, &boot(2, 5_000, years + 86_400_000, true));
    assert_eq!(recovery.elapsed, Elapsed(61_000 + 86_400_000));
}

#[test]
fn dead_letters_are_listed_replayed_and_purged() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..4 {
        append(&mut log, &message("s", number, 100), &[to(a, 0)]).unwrap();
    }
    let places: Vec<Place> = all(&mut log, a, 0).iter().map(|stored| stored.place).collect();
    log.attempt(places[1], 20);
    for place in &places[1..] {
        log.bury(*place, "rejected: no such sensor", UtcMillis(7)).unwrap();
    }
    assert!(matches!(log.bury(places[1], "again", UtcMillis(8)), Err(Replay::Unknown(_))));
    assert_eq!(numbers(&mut log, a, 0), [0]);
    log.flush().unwrap();
    let (mut log, _) = sim.killed().open(SMALL, &clocks(1));
    let letters = log.dead_letters(None, usize::MAX).unwrap();
    letters.iter().for_each(check);
    let death = letters[0].death.as_ref().unwrap();
    assert_eq!((&*death.endpoint, &*death.reason, death.attempts), ("a", "rejected: no such sensor", 20));
    assert_eq!(letters.iter().map(|letter| letter.accepted.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    log.replay(letters[0].place.sequence, &[to(a, 0)]).unwrap();
    assert!(log.purge(letters[1].place.sequence));
    assert!(!log.purge(letters[1].place.sequence));
    assert_eq!(numbers(&mut log, a, 0), [0, 1]);
    assert_eq!(log.dead_letters(None, usize::MAX).unwrap().len(), 1);
    assert_eq!(log.purge_all(), 1);
    assert_eq!(log.dead_letters(None, usize::MAX).unwrap().len(), 0);
}

#[test]
fn dead_letters_stay_within_their_bytes_and_the_oldest_go() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..200 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        let place = all(&mut log, a, 0)[0].place;
        log.bury(place, "no", UtcMillis(7)).unwrap();
    }
    let letters = log.dead_letters(None, usize::MAX).unwrap();
    let kept: Vec<u64> = letters.iter().map(|letter| letter.accepted.sequence).collect();
    assert_eq!(kept, (200 - kept.len() as u64..200).collect::<Vec<_>>());
    assert!((15..=27).contains(&kept.len()), "{}", kept.len());
}

#[test]
fn messages_of_a_removed_endpoint_become_dead_letters_the_newest_of_them() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..100 {
        append(&mut log, &message("s", number, 300), &[to(a, 0), to(b, 0)]).unwrap();
    }
    let mut removed = Removed::default();
    while log.remove_endpoint(a, "endpoint_removed", UtcMillis(7), &mut removed).unwrap() {}
    assert_eq!(removed.buried + removed.dropped, 100);
    assert!(removed.buried >= 15, "{removed:?}");
    let letters = log.dead_letters(None, usize::MAX).unwrap();
    assert_eq!(letters.last().map(|letter| letter.accepted.sequence), Some(99));
    assert!(numbers(&mut log, a, 0).is_empty());
    assert_eq!(numbers(&mut log, b, 0), (0..100).collect::<Vec<_>>());
    // The name goes with the next checkpoint; one that is used again stays.
    for number in 100..150 {
        append(&mut log, &message("s", number, 300), &[to(b, 0)]).unwrap();
    }
    let (mut log, _) = sim.killed().open(SMALL, &clocks(1));
    assert!(log.endpoints().iter().all(|usage| &*usage.name != "a"));
    assert_ne!(log.endpoint("a"), a, "no number is used twice");
}

#[test]
fn what_cannot_be_stored_is_refused_whole() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let good = message("s", 0, 10);
    for bad in [&[][..], &[to(a, 0), to(a, 1)], &[to(a, 11)], &[to(EndpointId(99), 0)]] {
        assert!(matches!(append(&mut log, &good, bad), Err(AppendError::References)), "{bad:?}");
    }
    let large = message("s", 1, 5000);
    let references = [to(a, 0)];
    let batch = [&good, &large].map(|message| Entry { message, references: &references });
    let error = log.append(&batch, Safety::Written).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { bytes, most: 4096 } if bytes > 5000), "{error}");
    assert!(numbers(&mut log, a, 0).is_empty());
}

#[test]
fn the_largest_message_with_the_most_properties_fits_the_smallest_real_segment() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(Options::within(0), &clocks(0));
    let a = log.endpoint("a");
    let names: Vec<(Box<str>, Box<str>)> = (0..60_000).map(|n| (format!("{n:04x}").into(), "".into())).collect();
    let large = Message::restore(Bytes::new(), names, None);
    let mut accepted = message("s", 0, 0);
    accepted.message = Arc::new(large.clone());
    assert!(large.size() > 230_000);
    append(&mut log, &accepted, &[to(a, 0)]).unwrap();
    assert_eq!(*all(&mut log, a, 0)[0].accepted.message, large);
}

#[test]
fn batches_of_any_size_are_split_over_segments() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let messages: Vec<Accepted> = (0..250).map(|number| message("s", number, 300)).collect();
    let references = [to(a, 0)];
    let entries: Vec<Entry<'_>> = messages.iter().map(|message| Entry { message, references: &references }).collect();
    let range = log.append(&entries, Safety::Synced).unwrap();
    assert_eq!(range, 0..250);
    let (mut dark, _) = sim.without_power(&mut Chance(5)).open(SMALL, &clocks(1));
    assert_eq!(numbers(&mut dark, a, 0), (0..250).collect::<Vec<_>>());
    // Too many for the cap: none of them.
    let before = log.usage().references;
    let entries = entries.repeat(10);
    assert!(matches!(log.append(&entries, Safety::Written), Err(AppendError::Full { .. })));
    assert_eq!((log.usage().references, numbers(&mut log, a, 0).len()), (before, 250));
}

#[test]
fn more_sources_than_have_numbers_keep_their_names() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(Options { segment_bytes: 1 << 20, max_bytes: 8 << 20, ..SMALL }, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..600 {
        append(&mut log, &message(&format!("/messages/modules/m/outputs/{number}"), number, 10), &[to(a, 0)]).unwrap();
    }
    let (mut log, _) = sim.killed().open(SMALL, &clocks(1));
    for (number, stored) in all(&mut log, a, 0).iter().enumerate() {
        assert_eq!(*stored.accepted.source, *format!("/messages/modules/m/outputs/{number}"));
    }
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (segment_bytes, max_bytes) in [(0, 1 << 20), (9 << 20, 1 << 30), (1 << 20, 4 << 20)] {
        let options = Options { segment_bytes, max_bytes, ..SMALL };
        assert!(matches!(Log::open(folder.path(), options, &clocks(0)), Err(OpenError::Options(_))));
    }
    assert!(Options::within(0).check().is_ok() && Options::within(1 << 40).check().is_ok());
}

#[test]
fn files_and_folder_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("log");
    let (mut log, _) = Log::open(&path, SMALL, &clocks(0)).unwrap();
    let a = log.endpoint("a");
    append(&mut log, &message("s", 0, 10), &[to(a, 0)]).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&path).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// Too many open files is a matter of the moment: no reason to call a queue empty, or a message lost.
#[test]
fn a_reading_that_fails_now_is_an_error_and_costs_nothing() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..100 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    sim.open_no_more(true);
    let error = log.read(a, 0, None, usize::MAX, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /log/0"), "{error}");
    sim.open_no_more(false);
    assert_eq!(numbers(&mut log, a, 0), (0..100).collect::<Vec<_>>());
    assert_eq!(log.take_damage(), []);
}
