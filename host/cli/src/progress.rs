//! How far a transfer is, on standard error, for a person who waits at a terminal. Nobody else is told: a log of such lines
//! is of no use.

use std::{
    convert::Infallible,
    future::Future,
    io::{IsTerminal, stderr},
    sync::Arc,
    time::Duration,
};

use marram_core::ports::Progress;

use crate::output;

/// Pause between two looks: as fast as numbers can be read.
const LOOK: Duration = Duration::from_millis(200);
/// Back to the line's beginning, and away with what stands there (ECMA-48).
const CLEAR: &str = "\r\x1b[K";

/// Does the work, and shows how far it is while it is under way. `verb`: `pulling`, `pushing`.
pub(crate) async fn shown<T>(verb: &str, progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
    if !stderr().is_terminal() {
        return work.await;
    }
    // Clears its line also when the work is given up.
    let line = Line;
    let done = tokio::select! {
        done = work => done,
        never = show(verb, progress) => match never {},
    };
    drop(line);
    done
}

async fn show(verb: &str, progress: &Progress) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        if progress.is_under_way() {
            output::talk(&format!("{CLEAR}{verb} {progress}"));
        }
    }
}

struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        output::talk(CLEAR);
    }
}
