//! A simulation that is written down: a text file with what happens, and below `----` what must come of it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    fate::{Fate, Fates},
    host::{Host, Story},
    op::{Op, duration, millis},
    turn,
};

/// Divides what happens from what comes of it.
const LINE: &str = "----\n";

/// Plays a scenario, and gives its text with what has come of it.
///
/// ```text
/// # A line for people.
/// image a:1 fetch=2s load=1s start=500ms crashes=5s
/// 0s apply a=a:1
/// 30s status
/// ----
/// ```
///
/// Images are `missing`, `unreachable`, `altered` or `refused`, or have `start=…`, `crashes=…` (code 1) or `done=…` (code 0) after a time; with `answers=…` they
/// handle methods that take so long, and crash amid one; with `sick=…` they say after a time that they are not well, with `beats=…`
/// they have a durable timer of that period. Times of events count from the beginning.
///
/// # Errors
/// A line that cannot be read, or the names of the invariants that did not hold.
pub fn play(text: &str) -> Result<String, String> {
    let happens = text.split_once(LINE).map_or(text, |(happens, _)| happens);
    let mut images = BTreeMap::new();
    let mut events = Vec::new();
    for line in happens.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').ok_or_else(|| format!("`{line}` is no line of a scenario"))?;
        if first == "image" {
            let (image, fate) = rest.split_once(' ').unwrap_or((rest, ""));
            images.insert(image.to_owned(), read_fate(fate)?);
        } else {
            events.push((duration(first)?, Op::parse(rest)?));
        }
    }
    let _turn = turn();
    let mut host = Host::new(Fates::Told(images), None);
    let mut at = Duration::ZERO;
    for (time, op) in events {
        host.happens(time.saturating_sub(at), &op);
        at = time;
    }
    let Story { trace, broken, .. } = host.finish();
    if broken.is_empty() {
        Ok(format!("{happens}{LINE}{trace}"))
    } else {
        Err(format!("{}\n{trace}", broken.join("\n")))
    }
}

fn read_fate(text: &str) -> Result<Fate, String> {
    let mut fate = Fate { patience: 86_400_000, ..Fate::default() };
    for word in text.split_whitespace() {
        match word.split_once('=') {
            None if word == "missing" => fate.missing = true,
            None if word == "unreachable" => fate.unreachable = true,
            None if word == "altered" => fate.altered = true,
            None if word == "refused" => fate.refused = true,
            None if word == "traps" => fate.start_exit = Some(134),
            Some(("fetch", time)) => fate.fetch = millis(time)?,
            Some(("load", time)) => fate.load = millis(time)?,
            Some(("start", time)) => fate.start = millis(time)?,
            Some(("crashes", time)) => fate.life = Some((millis(time)?, 1)),
            Some(("answers", time)) => fate.answers = Some(millis(time)?),
            Some(("beats", time)) => fate.beats = Some(millis(time)?),
            Some(("sick", time)) => fate.sick = Some(millis(time)?),
            Some(("done", time)) => fate.life = Some((millis(time)?, 0)),
            _ => return Err(format!("what does `{word}` mean?")),
        }
    }
    Ok(fate)
}
