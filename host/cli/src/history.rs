//! `marram history` and `marram rollback`: the deployments of a device and what became of them.

use marram_agent::{Applied, Deployments};
use marram_core::rollout::{Entry, Outcome, Way};

use crate::{
    args::{Ask, Rollback},
    ask::{answer, read, warn},
    client::Call,
    config,
    failure::Failure,
    output::{self, Table},
};

pub(crate) fn history(ask: &Ask) -> Result<(), Failure> {
    answer(ask, Call::get("/v1/history"), |history: Deployments| {
        if history.deployments.is_empty() {
            output::talk("no deployment yet; `marram apply FILE` brings one\n");
        }
        text(&history)
    })
}

pub(crate) fn rollback(args: &Rollback) -> Result<(), Failure> {
    // The host may roll back by itself at the same moment: then it is not to be done twice.
    let data = config::data_folder(&args.ask.place, None)?;
    let seen: Deployments = read(&Call::get("/v1/history").send(&data)?)?;
    let to = args.to.map_or_else(String::new, |to| format!("&to={to}"));
    let call = Call::post(format!("/v1/rollback?of={}{to}", seen.in_force));
    answer(&args.ask, call, |applied: Applied| {
        warn(&applied);
        format!("deployment {} is in force\n", applied.version)
    })
}

fn text(history: &Deployments) -> String {
    let mut table = Table::new(&["VERSION", "ACCEPTED", "BY", "MANIFEST", "OUTCOME", "REASON"], &[0]);
    for entry in &history.deployments {
        let accepted = &entry.accepted;
        let star = if accepted.version == history.in_force { "*" } else { "" };
        let digest: String = accepted.digest.trim_start_matches("sha256:").chars().take(12).collect();
        table.row([
            format!("{star}{}", accepted.version),
            accepted.at.to_string(),
            way(&accepted.way),
            digest,
            outcome(entry).into(),
            entry.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

fn way(way: &Way) -> String {
    match way {
        Way::Apply => "apply".into(),
        Way::File => "file".into(),
        Way::Rollback { to, .. } => format!("rollback to {to}"),
        Way::ByHand { to, .. } => format!("operator, to {to}"),
        Way::Unknown => "-".into(),
    }
}

fn outcome(entry: &Entry) -> &'static str {
    match entry.outcome {
        Outcome::OnTrial => "on trial",
        Outcome::Good => "good",
        Outcome::Bad => "bad",
        Outcome::RolledBack => "rolled back",
        Outcome::Replaced => "replaced",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use marram_core::{
        rollout::{Accepted, History},
        time::UtcMillis,
    };

    use super::*;

    #[test]
    fn each_deployment_is_told_with_how_it_came_and_what_became_of_it() {
        let mut history = History::default();
        let accepted = |version, way, digest: &str| Accepted {
            version,
            at: UtcMillis(1_769_860_800_000 + version * 60_000),
            way,
            digest: format!("sha256:{digest:0>64}"),
            bytes: 1,
            failing_before: BTreeSet::new(),
            unstored_before: BTreeSet::new(),
        };
        history.accept(accepted(1, Way::File, "a"));
        history.decide(1, Outcome::Good, None, UtcMillis(1));
        history.accept(accepted(2, Way::Apply, "b"));
        let because = "module `m` was not healthy within 300 s: exit 1: \u{1b}[31m".to_owned();
        history.accept(accepted(3, Way::Rollback { of: 2, to: 1, because, again: false }, "a"));
        let deployments = history.entries().iter().rev().cloned().collect();
        let expected = "\
VERSION  ACCEPTED              BY             MANIFEST      OUTCOME      REASON
     *3  2026-01-31T12:03:00Z  rollback to 1  000000000000  on trial
      2  2026-01-31T12:02:00Z  apply          000000000000  rolled back  module `m` was not healthy within 300 s: exit 1: �[31m
      1  2026-01-31T12:01:00Z  file           000000000000  good
";
        assert_eq!(text(&Deployments { in_force: 3, deployments }), expected);
    }
}
