//! The plan for people and for programs: what is to be done for each module, or waited for, and why. Decides nothing; it
//! says in words what [`super::plan`] decides, from the same decisions.

use serde::{Deserialize, Serialize};

use super::{
    Choice, ModuleState, NextState, NextVersion, Observed, ObservedModule, Step, backoff, each_choice, is_given_up,
    needs_new_instance,
};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec},
    name::ModuleName,
    time::{Uptime, UtcMillis, as_text},
};

/// A plan in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// At most one a module, in the order in which they are to be done. A module that is as it is desired has none.
    pub steps: Vec<ExplainedStep>,
    /// When to plan again if nothing happens before: the first `not_before`; none = only an event changes anything.
    #[serde(with = "as_text")]
    pub wake: Option<UtcMillis>,
}

/// What is to be done for one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedStep {
    /// What.
    pub action: Action,
    /// For which module.
    pub module: ModuleName,
    /// Why, one line.
    pub reason: String,
    /// When it may go on; only with [`Action::Wait`], and none there where an event ends the wait.
    #[serde(default, with = "as_text", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UtcMillis>,
}

/// What can be done for a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Fetch, verify and compile it.
    Pull,
    /// Start it: it has not run yet, or was stopped.
    Start,
    /// Stop it, because it is desired stopped.
    Stop,
    /// Start it again after it ended by itself.
    Restart,
    /// Replace it by the version that is desired, or go on with that.
    Update,
    /// Stop and forget it: it is not desired any more.
    Remove,
    /// Nothing, until an event or [`ExplainedStep::not_before`].
    Wait,
    /// Nothing, until its settings change: it was restarted as often as they allow.
    GiveUp,
}

impl Action {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Wait => "wait",
            Self::GiveUp => "give-up",
        }
    }
}

/// Says in words what [`super::plan`] answers to the same. `utc` is what the wall clock shows at `now`.
#[must_use]
pub fn explain(desired: &Deployment, observed: &Observed, now: Uptime, utc: UtcMillis) -> Explained {
    let mut steps = Vec::new();
    each_choice(desired, observed, now, |choice| {
        if let Some((action, reason)) = words(&choice) {
            let due = choice.decision.due.filter(|_| action == Action::Wait);
            let not_before = due.map(|due| UtcMillis(utc.0.saturating_add(due.0.saturating_sub(now.0))));
            steps.push(ExplainedStep { action, module: choice.name.clone(), reason, not_before });
        }
    });
    let wake = steps.iter().filter_map(|step| step.not_before).min();
    Explained { steps, wake }
}

type Words = Option<(Action, String)>;

fn words(choice: &Choice<'_>) -> Words {
    match (choice.spec, choice.module, &choice.decision.step) {
        (None, module, step) => Some(leaving(module, step.as_ref())),
        // A note for the planner itself: nothing happens.
        (Some(spec), module, None | Some(Step::Adopt(_))) => waiting(choice, spec, module),
        (Some(spec), module, Some(step)) => acting(spec, module, step),
    }
}

fn leaving(module: Option<&ObservedModule>, step: Option<&Step>) -> (Action, String) {
    let why = "the deployment does not have it any more";
    let state = module.map(|module| &module.state);
    match step {
        Some(Step::Remove(_) | Step::Cancel(_)) => (Action::Remove, why.into()),
        Some(Step::Stop(_) | Step::StopUpdate(_)) => (Action::Remove, format!("{why}; its instance is stopped first")),
        _ if state == Some(&ModuleState::Starting) => (Action::Wait, format!("{why}; it is being started")),
        _ => (Action::Wait, format!("{why}; it is being stopped")),
    }
}

fn acting(spec: &ModuleSpec, module: Option<&ObservedModule>, step: &Step) -> Words {
    let stopped = spec.desired_status == DesiredStatus::Stopped;
    let words = match step {
        Step::Prepare(_) => return Some(preparing(spec, module)),
        Step::Start(_) => return module.map(starting),
        Step::Stop(_) | Step::Cancel(_) if stopped => (Action::Stop, "it is desired `stopped`"),
        Step::Stop(_)
            if module.and_then(|module| module.next.as_ref()).is_some_and(|it| it.state == NextState::Ready) =>
        {
            let why =
                "its update is ready and does not fit beside it under `modules.max-memory-bytes`: it is stopped first";
            (Action::Update, why)
        }
        Step::Stop(_) => (Action::Update, "its update is up and takes over"),
        Step::End(_) => (Action::Restart, "it is unhealthy; it is ended, and started again after its back-off"),
        Step::StartUpdate(_) => (Action::Update, "its update is ready and starts beside the version that runs"),
        Step::Promote(_) => (Action::Update, "its update is ready and takes the place of the old version"),
        Step::StopUpdate(_) if stopped => (Action::Stop, "it is desired `stopped`; its update ends first"),
        Step::StopUpdate(_) | Step::Cancel(_) => (Action::Update, "its update is not desired any more and ends"),
        Step::Remove(_) => (Action::Remove, "it is made anew"),
        Step::Adopt(_) => return None,
    };
    Some((words.0, words.1.into()))
}

fn preparing(spec: &ModuleSpec, module: Option<&ObservedModule>) -> (Action, String) {
    let Some(module) = module else { return (Action::Pull, "it is new in the deployment".into()) };
    let over = |failures| format!("the back-off of {} s is over", backoff(failures).as_secs());
    if !needs_new_instance(&module.spec, spec) {
        return (Action::Pull, format!("it could not be prepared, and {}", over(module.failures)));
    }
    let failed = module
        .next
        .as_ref()
        .filter(|next| matches!(next.state, NextState::Failed { .. }) && !needs_new_instance(&next.spec, spec));
    let why = match failed {
        Some(next) => format!("its update has failed, and {}", over(next.failures)),
        None => changes(&module.spec, spec),
    };
    match module.state {
        ModuleState::Preparing | ModuleState::PrepareFailed { .. } => (Action::Pull, why),
        _ => (Action::Update, why),
    }
}

/// What takes a new instance.
fn changes(old: &ModuleSpec, new: &ModuleSpec) -> String {
    // Known by its digest alone.
    if old.image.is_empty() {
        return "it was made from other settings (`settingsDigest`)".into();
    }
    let mut parts = Vec::new();
    if old.image != new.image {
        parts.push(format!("its image becomes `{}`", new.image));
    }
    let others = [
        (old.version != new.version, "`version`"),
        (old.pull_policy != new.pull_policy, "`imagePullPolicy`"),
        (old.env != new.env, "`env`"),
        (old.sandbox != new.sandbox, "`sandbox`"),
    ];
    let others: Vec<&str> = others.into_iter().filter_map(|(differs, name)| differs.then_some(name)).collect();
    if !others.is_empty() {
        parts.push(format!("its {} changes", others.join(", ")));
    }
    parts.join("; ")
}

fn starting(module: &ObservedModule) -> (Action, String) {
    match module.state {
        ModuleState::Exited { code, .. } => {
            let wait = backoff(module.failures).as_secs();
            (Action::Restart, format!("it ended with code {code}, and the back-off of {wait} s is over"))
        }
        ModuleState::Prepared => (Action::Start, "it is ready and has not run yet".into()),
        _ => (Action::Start, "it is stopped and desired `running`".into()),
    }
}

fn waiting(choice: &Choice<'_>, spec: &ModuleSpec, module: Option<&ObservedModule>) -> Words {
    let module = module?;
    let wait = |reason: String| Some((Action::Wait, reason));
    if spec.desired_status == DesiredStatus::Stopped {
        return match module.state {
            ModuleState::Starting => wait("it is being started, and is stopped after that".into()),
            ModuleState::Ending { .. } | ModuleState::Stopping => wait("it is being stopped".into()),
            _ => None,
        };
    }
    if choice.decision.due.is_some() {
        return wait(backing_off(spec, module));
    }
    if choice.lacks_room {
        let (what, limit) = match &module.next {
            Some(next) if next.state == NextState::Ready => ("its update", next.spec.sandbox.memory_bytes),
            _ => ("it", module.spec.sandbox.memory_bytes),
        };
        return wait(format!(
            "{what} needs {limit} bytes, which do not fit beside what there is under `modules.max-memory-bytes`"
        ));
    }
    match module.state {
        ModuleState::Preparing => wait("it is being fetched and compiled".into()),
        ModuleState::Starting => wait("it is being started".into()),
        ModuleState::Ending { .. } => wait("it is unhealthy, and is being ended".into()),
        ModuleState::Stopping => wait("it is being stopped".into()),
        ModuleState::Exited { code, .. } if is_given_up(spec, code, module.failures) => {
            let most = spec.max_restarts.unwrap_or_default();
            let reason = format!(
                "it ended with code {code}, and was restarted as often as `maxRestarts` allows ({most}); it stays down until \
                 its settings change"
            );
            Some((Action::GiveUp, reason))
        }
        _ => match (&module.next, choice.awaits) {
            (Some(next), _) if next.state.is_under_way() => wait("its update is on its way".into()),
            (_, Some(first)) if module.is_ready() => {
                wait(format!("`{}` has to start first (startup order {})", first.name, first.startup_order))
            }
            _ => None,
        },
    }
}

fn backing_off(spec: &ModuleSpec, module: &ObservedModule) -> String {
    let wait = |failures| format!("its back-off is {} s after {}", backoff(failures).as_secs(), times(failures));
    match (&module.state, &module.next) {
        (_, Some(NextVersion { state: NextState::Failed { .. }, failures, .. }))
            if needs_new_instance(&module.spec, spec) && !module.stands_in(spec) =>
        {
            format!("its update has failed; {}", wait(*failures))
        }
        (ModuleState::Exited { code, .. }, _) => format!("it ended with code {code}; {}", wait(module.failures)),
        _ => format!("it could not be prepared; {}", wait(module.failures)),
    }
}

/// `1 failure`, `2 failures in a row`.
fn times(failures: u32) -> String {
    if failures <= 1 { "1 failure".into() } else { format!("{failures} failures in a row") }
}
