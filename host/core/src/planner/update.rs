//! What is done for a module whose version in place is an old one.

use super::{
    Decision, ModuleState, NextState, ObservedModule, Step, Turn, backoff, end_if_unhealthy, keep_running,
    needs_new_instance,
};
use crate::{deployment::ModuleSpec, time::Uptime};

/// The spec in place is an old one that takes a new instance to replace.
pub(super) fn update(spec: &ModuleSpec, module: &ObservedModule, turn: Turn, now: Uptime) -> Decision {
    match module.state {
        ModuleState::Preparing => Decision::act_if(fetches_other(&module.spec, spec), || Step::Prepare(spec.clone())),
        ModuleState::Ending { .. } | ModuleState::Stopping => Decision::WAIT,
        ModuleState::Starting | ModuleState::Running { .. } => {
            let decision = update_beside(spec, module, turn, now);
            // The new version may be a long way off. One that is about to take over ends the old one anyway.
            let far = module.next.as_ref().is_none_or(|next| !next.state.has_instance());
            let unhealthy = end_if_unhealthy(spec, module, now);
            if decision.step.is_none() && far && unhealthy.step.is_some() { unhealthy } else { decision }
        }
        ModuleState::PrepareFailed { .. }
        | ModuleState::Prepared
        | ModuleState::Stopped
        | ModuleState::Exited { .. } => update_in_place(spec, module, turn, now),
    }
}

/// Whether a preparation of `old` is in vain for `new`. If it is not, its end is waited for: what it has fetched and
/// compiled by then is the most of what the next one needs.
fn fetches_other(old: &ModuleSpec, new: &ModuleSpec) -> bool {
    old.image != new.image || old.pull_policy != new.pull_policy
}

/// The old instance is up: it runs on until one of the new version is up beside it. So neither an image that cannot be had
/// nor a start that fails ends what works.
fn update_beside(spec: &ModuleSpec, module: &ObservedModule, turn: Turn, now: Uptime) -> Decision {
    let prepare = || Step::Prepare(spec.clone());
    let is_up = matches!(module.state, ModuleState::Running { .. });
    let Some(next) = &module.next else { return Decision::act(prepare()) };
    match next.state {
        NextState::Preparing if fetches_other(&next.spec, spec) => Decision::act(prepare()),
        NextState::Preparing | NextState::Starting | NextState::Stopping => Decision::WAIT,
        NextState::Failed { .. } | NextState::Ready if needs_new_instance(&next.spec, spec) => Decision::act(prepare()),
        NextState::Failed { at } => Decision::act_at(at.after(backoff(next.failures)), now, prepare),
        NextState::Ready => Decision::act_if(is_up && turn.to_update, || Step::StartUpdate(spec.name.clone())),
        NextState::Up { .. } => Decision::act_if(is_up, || Step::Stop(spec.name.clone())),
    }
}

/// Nothing runs. A ready update takes its place; one that is still under way or has failed does not keep an old version
/// down that would be started again: a bad image must not turn a crash, or a change of mind in the middle of an update,
/// into an outage.
fn update_in_place(spec: &ModuleSpec, module: &ObservedModule, turn: Turn, now: Uptime) -> Decision {
    let prepare = || Step::Prepare(spec.clone());
    let old_stands_in = module.stands_in(spec);
    let Some(next) = &module.next else { return Decision::act(prepare()) };
    match next.state {
        NextState::Preparing if fetches_other(&next.spec, spec) => Decision::act(prepare()),
        NextState::Preparing if old_stands_in => keep_running(spec, module, turn.to_start, now),
        // A start does not take long, and ends one way or the other.
        NextState::Preparing | NextState::Starting | NextState::Stopping => Decision::WAIT,
        NextState::Failed { .. } | NextState::Ready if needs_new_instance(&next.spec, spec) => Decision::act(prepare()),
        NextState::Up { .. } => Decision::act(Step::Promote(spec.name.clone())),
        // One without a place waits for its turn to start after that.
        NextState::Ready if turn.to_update || !module.has_place => Decision::act(Step::Promote(spec.name.clone())),
        NextState::Ready if old_stands_in => keep_running(spec, module, turn.to_start, now),
        NextState::Ready => Decision::WAIT,
        NextState::Failed { .. } if old_stands_in => keep_running(spec, module, turn.to_start, now),
        NextState::Failed { at } => Decision::act_at(at.after(backoff(next.failures)), now, prepare),
    }
}
