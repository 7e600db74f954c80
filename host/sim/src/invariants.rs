//! What must hold at each event, whatever happened before. Each broken one is kept with its name; the simulation fails by it.

use std::collections::{BTreeMap, BTreeSet};

use marram_core::planner::{HEALTHY_AFTER, backoff};

use crate::time::{awake, now};

/// A module as the deployment in force wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its image.
    pub(crate) image: String,
    /// Running, or stopped.
    pub(crate) runs: bool,
    /// `restartPolicy`.
    pub(crate) policy: &'static str,
    /// `maxRestarts`.
    pub(crate) max_restarts: Option<u32>,
    /// `startupOrder`.
    pub(crate) order: u32,
    /// The interval of its health check, in milliseconds.
    pub(crate) health: Option<u64>,
    /// `limits.memory`, in MiB.
    pub(crate) memory: u64,
}

impl Wanted {
    fn ends_if_unhealthy(&self) -> bool {
        self.health.is_some() && matches!(self.policy, "on-unhealthy" | "always")
    }
}

/// Milliseconds after which a module whose last check did not pass is asked again, if its interval is longer.
const SOON: u64 = 30_000;

/// By name.
pub(crate) type Deployment = BTreeMap<String, Wanted>;

/// The limits of all that it wants to run, in MiB.
pub(crate) fn memory_of(deployment: &Deployment) -> u64 {
    deployment.values().filter(|wanted| wanted.runs).map(|wanted| wanted.memory).sum()
}

/// What is known of the instances, and what was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// In force; two while one takes the place of the other.
    pub(crate) deployments: Vec<Deployment>,
    /// Operators asked for a new instance of these.
    pub(crate) restarts: Vec<String>,
    /// The host stops, or was killed: everything ends.
    pub(crate) ending: bool,
    instances: BTreeMap<String, Vec<Alive>>,
    failures: BTreeMap<(String, String), Failures>,
    /// By image: of its fetches and compilations.
    unprepared: BTreeMap<String, Failures>,
    /// How each image of a module that a deployment wanted is checked.
    checked: BTreeMap<(String, String), Checked>,
    /// When another deployment came into force last.
    in_force_since: u64,
    /// The owner's ceiling on the limits of all instances, in MiB.
    ceiling: Option<u64>,
    /// That, or what a deployment has that was accepted under a higher one and has been in force in this life.
    allowed: u64,
    /// The limits of all instances that there are, and that are being started, in MiB.
    taken: u64,
    /// The image of each module that was started last.
    last_image: BTreeMap<String, String>,
    /// Modules that the host ended while they were wanted, without an update beside them.
    made_way: BTreeSet<String>,
    pub(crate) broken: Vec<String>,
}

#[derive(Debug)]
struct Alive {
    number: u64,
    /// Since when, by the time in which the device was awake: no module has proved itself by another.
    in_charge: Option<u64>,
    image: String,
    /// When it was asked for its health last.
    asked: Option<u64>,
    /// It was not desired at some time, or its update was up: it ends after its call, whatever is desired then.
    asked_to_end: bool,
}

/// How an image of a module is asked for its health.
#[derive(Debug, Clone, Copy, Default)]
struct Checked {
    /// By the last deployment that wanted it.
    interval: Option<u64>,
    /// By any that wanted it.
    ends_if_unhealthy: bool,
}

/// Of one image of a module, under one deployment, in one life of the host.
#[derive(Debug, Clone, Copy)]
struct Failures {
    in_a_row: u32,
    last: u64,
}

impl Watch {
    /// What was before does not count any more: another deployment is in force, or another host.
    pub(crate) fn forget_failures(&mut self) {
        self.failures.clear();
        self.unprepared.clear();
    }

    /// An operator wants a new instance: it comes without a back-off.
    pub(crate) fn restarted(&mut self, module: &str) {
        self.failures.retain(|(other, _), _| other != module);
        self.unprepared.clear();
        self.restarts.push(module.into());
    }

    /// An image is fetched.
    pub(crate) fn prepares(&mut self, image: &str) {
        let failures = self.unprepared.get(image).copied();
        self.invariant_each_back_off_is_waited_out(image, failures);
    }

    /// It could not be had, or not be compiled.
    pub(crate) fn cannot_be_prepared(&mut self, image: &str) {
        let failures = self.unprepared.entry(image.into()).or_insert(Failures { in_a_row: 0, last: 0 });
        *failures = Failures { in_a_row: failures.in_a_row + 1, last: now() };
    }

    /// It is fetched and compiled.
    pub(crate) fn is_prepared(&mut self, image: &str) {
        self.unprepared.remove(image);
    }

    /// A host begins under this ceiling.
    pub(crate) fn begins_under(&mut self, ceiling: Option<u64>) {
        self.made_way.clear();
        (self.ceiling, self.allowed) = (ceiling, ceiling.unwrap_or(u64::MAX));
        self.accepts_what_is_in_force();
    }

    /// What was accepted goes on, whatever the ceiling is now.
    fn accepts_what_is_in_force(&mut self) {
        let needed = self.deployments.iter().map(memory_of).max().unwrap_or(0);
        self.allowed = self.allowed.max(needed);
    }

    /// Whether this is the first instance of an update that the old version has made way for, because there is a ceiling.
    pub(crate) fn takes_a_place(&mut self, module: &str, image: &str) -> bool {
        let old = self.last_image.insert(module.into(), image.into());
        let ran = self.made_way.remove(module);
        self.ceiling.is_some() && ran && old.is_some_and(|old| old != image)
    }

    /// An instance begins to take its memory.
    pub(crate) fn takes(&mut self, module: &str, memory: u64) {
        self.taken += memory;
        let holds = self.ceiling.is_none() || self.taken <= self.allowed;
        self.invariant_limits_of_all_instances_stay_below_the_ceiling(module, holds);
    }

    pub(crate) fn gives_back(&mut self, memory: u64) {
        self.taken -= memory;
    }

    pub(crate) fn starts(&mut self, module: &str, image: &str) {
        let wanted = self.deployments.iter().any(|it| it.get(module).is_some_and(|wanted| wanted.runs));
        self.invariant_nothing_starts_that_is_not_desired_running(module, wanted);
        let failures = self.failures.get(&(module.to_owned(), image.to_owned())).copied();
        self.invariant_each_back_off_is_waited_out(module, failures);
    }

    pub(crate) fn start_failed(&mut self, module: &str, image: &str) {
        self.fails(module, image, false, 0);
    }

    pub(crate) fn is_up(&mut self, module: &str, image: &str, number: u64) {
        let instances = self.instances.entry(module.into()).or_default();
        instances.iter_mut().for_each(|alive| alive.asked_to_end |= alive.in_charge.is_some());
        instances.push(Alive { number, image: image.into(), in_charge: None, asked: None, asked_to_end: false });
        self.invariant_an_update_has_one_instance_beside_the_old_one(module);
    }

    /// The newest deployment is in force, or about to be.
    pub(crate) fn is_in_force(&mut self) {
        let Some(deployment) = self.deployments.last() else { return };
        self.in_force_since = now();
        self.allowed = self.allowed.max(memory_of(deployment));
        let unwanted = |name: &str| deployment.get(name).is_none_or(|wanted| !wanted.runs);
        let ending = self.instances.iter_mut().filter(|(name, _)| unwanted(name));
        ending.flat_map(|(_, instances)| instances).for_each(|alive| alive.asked_to_end = true);
        for (name, wanted) in deployment {
            let checked = self.checked.entry((name.clone(), wanted.image.clone())).or_default();
            checked.interval = wanted.health;
            checked.ends_if_unhealthy |= wanted.ends_if_unhealthy();
        }
    }

    pub(crate) fn is_gone(&mut self, module: &str, number: u64) {
        if let Some(instances) = self.instances.get_mut(module) {
            instances.retain(|alive| alive.number != number);
        }
    }

    pub(crate) fn runs(&mut self, module: &str, number: u64) {
        self.restarts.retain(|other| other != module);
        let instances = self.instances.entry(module.into()).or_default();
        for alive in instances.iter_mut().filter(|alive| alive.number == number) {
            alive.in_charge = Some(awake());
        }
        self.invariant_one_instance_does_the_work(module);
    }

    /// By itself.
    pub(crate) fn exited(&mut self, module: &str, image: &str, number: u64) {
        let asked_to_end = self.is_asked_to_end(module, number);
        let ran = awake() - self.leaves(module, number).unwrap_or_else(awake);
        // Amid its last call: the next instance comes as if it had ended well.
        if !asked_to_end && self.restarts.iter().all(|other| other != module) {
            self.fails(module, image, true, ran);
        }
    }

    /// By the host.
    pub(crate) fn was_ended(&mut self, module: &str, image: &str, number: u64) {
        let asked_to_end = self.is_asked_to_end(module, number);
        let ran = awake() - self.leaves(module, number).unwrap_or_else(awake);
        if !asked_to_end && self.makes_way(module, image) {
            self.made_way.insert(module.into());
        } else if !asked_to_end && self.is_ended_without_a_word(module, number) {
            let checked = self.checked.get(&(module.into(), image.into()));
            let ends_if_unhealthy = checked.is_some_and(|checked| checked.ends_if_unhealthy);
            self.invariant_what_works_is_ended_for_a_reason(module, ends_if_unhealthy);
            self.fails(module, image, true, ran);
        }
    }

    /// It is asked for its health.
    pub(crate) fn is_asked(&mut self, module: &str, number: u64) {
        let since = self.in_force_since;
        let alive = self.instances.get_mut(module).into_iter().flatten().find(|alive| alive.number == number);
        let Some(alive) = alive else { return };
        let before = alive.asked.replace(now()).filter(|before| *before > since);
        let interval = self.checked.get(&(module.into(), alive.image.clone())).and_then(|checked| checked.interval);
        let early = before.is_some_and(|before| interval.is_none_or(|interval| now() < before + interval.min(SOON)));
        self.invariant_a_module_is_asked_for_its_health_once_in_an_interval(module, early);
    }

    /// The instances that do their module's work.
    pub(crate) fn in_charge(&self) -> BTreeMap<String, usize> {
        let count = |instances: &Vec<Alive>| instances.iter().filter(|alive| alive.in_charge.is_some()).count();
        self.instances
            .iter()
            .map(|(name, instances)| (name.clone(), count(instances)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    fn is_asked_to_end(&self, module: &str, number: u64) -> bool {
        let alive = self.instances.get(module).into_iter().flatten().find(|alive| alive.number == number);
        alive.is_some_and(|alive| alive.asked_to_end)
    }

    fn leaves(&mut self, module: &str, number: u64) -> Option<u64> {
        let instances = self.instances.get_mut(module)?;
        instances.iter_mut().find(|alive| alive.number == number)?.in_charge.take()
    }

    fn fails(&mut self, module: &str, image: &str, ran: bool, life: u64) {
        let healthy = u128::from(life) >= HEALTHY_AFTER.as_millis();
        let failures = self.failures.entry((module.into(), image.into())).or_insert(Failures { in_a_row: 0, last: 0 });
        // Failed starts may belong to an update, whose failures end with it.
        failures.in_a_row = if healthy { 1 } else { failures.in_a_row + u32::from(ran) };
        failures.last = now();
    }

    fn broken(&mut self, holds: bool, name: &str, module: &str) {
        if !holds {
            self.broken.push(format!("{name}: {module} at {} ms", now()));
        }
    }

    pub(crate) fn invariant_changes_of_a_twin_come_once_and_in_order(&mut self, module: &str, follows: bool) {
        self.broken(follows, "changes of a twin come once, in order, and lead to what is in force", module);
    }

    fn invariant_nothing_starts_that_is_not_desired_running(&mut self, module: &str, wanted: bool) {
        self.broken(wanted, "nothing starts that is not desired running", module);
    }

    /// Also while versions take over from each other, and after it was lowered.
    fn invariant_limits_of_all_instances_stay_below_the_ceiling(&mut self, module: &str, holds: bool) {
        self.broken(holds, "the limits of all instances stay below the ceiling", module);
    }

    /// Whatever the wall clock does.
    fn invariant_each_back_off_is_waited_out(&mut self, module: &str, failures: Option<Failures>) {
        let holds =
            failures.is_none_or(|failures| u128::from(now() - failures.last) >= backoff(failures.in_a_row).as_millis());
        self.broken(holds, "each back-off is waited out", module);
    }

    fn invariant_an_update_has_one_instance_beside_the_old_one(&mut self, module: &str) {
        let most = self.instances.get(module).map_or(0, Vec::len);
        self.broken(most <= 2, "an update has one instance beside the old one", module);
    }

    fn invariant_one_instance_does_the_work(&mut self, module: &str) {
        let most = self.in_charge().get(module).copied().unwrap_or(0);
        self.broken(most <= 1, "one instance does the work", module);
    }

    /// It is desired, its update is not up, and no operator said so.
    fn is_ended_without_a_word(&self, module: &str, number: u64) -> bool {
        let unwanted = self.deployments.iter().any(|it| it.get(module).is_none_or(|wanted| !wanted.runs));
        let update = self.instances.get(module).is_some_and(|all| all.iter().any(|alive| alive.number != number));
        let asked = self.ending || self.restarts.iter().any(|other| other == module);
        !(unwanted || update || asked)
    }

    /// Its update has no room beside it, under a ceiling.
    fn makes_way(&self, module: &str, image: &str) -> bool {
        let others = |it: &Deployment| it.get(module).is_some_and(|wanted| wanted.runs && wanted.image != image);
        let instances = self.instances.get(module).map_or(0, Vec::len);
        self.ceiling.is_some() && !self.ending && instances <= 1 && self.deployments.iter().any(others)
    }

    /// Then only its health is left.
    fn invariant_what_works_is_ended_for_a_reason(&mut self, module: &str, ends_if_unhealthy: bool) {
        self.broken(ends_if_unhealthy, "what works is ended for a reason", module);
    }

    /// Whatever happens to the clock, and however slow it is; another deployment asks anew, and what does not pass is asked again soon.
    fn invariant_a_module_is_asked_for_its_health_once_in_an_interval(&mut self, module: &str, early: bool) {
        self.broken(!early, "a module is asked for its health once in an interval", module);
    }
}
