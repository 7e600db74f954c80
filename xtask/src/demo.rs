//! `cargo xtask demo`: the main job on this machine, nothing faked. A stock registry, two guests built from source and
//! pushed to it, a host that pulls and runs them, real readings of this machine, and a change while it runs.
//!
//! It checks what it shows: it fails when no message arrives or when the change has no effect.

mod journal;
mod stage;

use std::{env, io::IsTerminal, os::unix::process::CommandExt, path::Path, process::Command, time::Duration};

use crate::{Result, guests, setup, shell::say, test};
use stage::{Ended, Stage};

/// The hidden command that shows what [`demo`] has built.
pub(crate) const SHOW: &str = "demo-show";

/// Pulling and compiling two guests takes a second or two; the checks' profile on a loaded machine some more.
const FIRST_MESSAGE: Duration = Duration::from_secs(90);
/// How long each act is shown; all of them stay well below half a minute.
const ACT: Duration = Duration::from_secs(4);
/// A change applies at once; messages that were on their way may still arrive within this time.
const SETTLE: Duration = Duration::from_secs(2);
/// Readings come twice a second; the first one that passes again is waited for so long.
const EFFECT: Duration = Duration::from_secs(20);

/// Builds everything, then shows it.
pub(crate) fn demo(choice: guests::Choice, release: bool) -> Result<()> {
    guests::toolchain(choice)?;
    setup::registry()?;
    let names = ["device-telemetry".to_owned(), "threshold-filter".to_owned()];
    let guests = guests::build(choice, &names)?;
    let marram = test::build_marram(release)?;
    if !interactive() {
        return show_with(&marram, &guests);
    }
    // Ctrl-C reaches every process of the terminal. The host must hear it and stop; we must not, or nobody would show
    // the summary. A shell can make a process deaf to it, the standard library cannot.
    let own = env::current_exe().map_err(|err| format!("cannot find my own program: {err}"))?;
    let failed = Command::new("sh")
        .args(["-c", "trap '' INT; exec \"$0\" \"$@\""])
        .arg(own)
        .arg(SHOW)
        .arg(marram)
        .arg(guests)
        .exec();
    Err(format!("cannot start sh: {failed}"))
}

/// Shows: `args` are the `marram` binary and the folder of the guests.
pub(crate) fn show(args: &[String]) -> Result<()> {
    let [marram, guests] = args else { return Err("this command is for `cargo xtask demo`".into()) };
    show_with(Path::new(marram), Path::new(guests))
}

fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn show_with(marram: &Path, guests: &Path) -> Result<()> {
    let mut stage = Stage::set(marram, guests)?;
    match acts(&mut stage) {
        Ok(()) => {}
        Err(Ended::Stopped) if interactive() => say("demo: stopped before its end"),
        Err(ended) => return Err(stage.explain(ended)),
    }
    stage.finish()
}

/// What is shown, in order.
fn acts(stage: &mut Stage) -> std::result::Result<(), Ended> {
    say("demo: the host pulls the modules, checks their digests, compiles and starts them");
    stage.wait_for_alert("memUsedPercent above 0", FIRST_MESSAGE)?;
    stage.watch(ACT)?;
    stage.end_act("threshold 0: every reading passes");

    stage.change("filter", r#"{"threshold":100}"#)?;
    stage.watch(SETTLE)?;
    stage.end_act("threshold 100, while it takes effect");
    let passed = stage.watch(ACT)?;
    stage.end_act("threshold 100: nothing can pass");
    if passed > 0 {
        return Err(Ended::Wrong(format!("{passed} messages passed a threshold of 100 %: the change had no effect")));
    }

    stage.change("filter", r#"{"threshold":0.1}"#)?;
    stage.wait_for_alert("memUsedPercent above 0.1", EFFECT)?;
    stage.watch(ACT)?;
    stage.end_act("threshold 0.1: readings pass again");

    stage.tell(&["twin", "get", "filter"])?;
    stage.tell(&["list"])?;
    if interactive() {
        say(format!("demo: it goes on until Ctrl-C; in another terminal, try: {}", stage.command_line("logs filter")));
        stage.watch_until_stopped();
        stage.end_act("threshold 0.1, until Ctrl-C");
    }
    Ok(())
}
