//! What follows from a deployment that is good, or not: `core::rollout` decides, this stores it and puts it in force.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use marram_core::{
    deployment::{Deployment, DesiredStatus, ModuleSpec, RolloutOptions},
    name::ModuleName,
    planner::needs_new_instance,
    ports::DocumentError,
    rollout::{Entry, Fitness, LONG_LIFE, Outcome, Trial, Way, excused},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Agent, Applied, ApplyError,
    deploying::InForce,
    stored::{Lost, Stored},
};
use crate::supervisor::{Event, Judged, Judgement};

/// First wait before what could not be stored is tried again; doubled up to [`LAST_RETRY`].
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A disk that was full is found to have room again within a minute.
pub(super) const LAST_RETRY: Duration = Duration::from_secs(60);

/// The deployments that are remembered. `GET /v1/history` of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployments {
    /// Version of the deployment in force; 0 = none.
    pub in_force: u64,
    /// The newest first.
    pub deployments: Vec<Entry>,
}

impl InForce {
    /// The entry of the deployment in force.
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.history.entry(self.version)
    }

    /// Its entry, as long as it is not known whether it is good.
    fn on_trial(&self) -> Option<&Entry> {
        self.entry().filter(|entry| entry.outcome == Outcome::OnTrial)
    }

    /// What is to be found out about it.
    pub(super) fn trial(&self, way_back: Option<&Deployment>) -> Option<Trial> {
        let (entry, deployment) = (self.entry()?, self.deployment.as_ref()?);
        let open = matches!(entry.outcome, Outcome::OnTrial | Outcome::Bad);
        let would_run = way_back.into_iter().flat_map(|back| &back.modules).filter(|(name, old)| {
            let differs = |new: &ModuleSpec| needs_new_instance(old, new);
            old.desired_status == DesiredStatus::Running && deployment.modules.get(*name).is_some_and(differs)
        });
        let trial = Trial::new(deployment.rollout, entry.accepted.failing_before.clone());
        open.then(|| trial.or_else_run(would_run.map(|(name, _)| name.clone()).collect()))
    }
}

/// A deployment that another one is to take the place of.
#[derive(Debug, Clone)]
struct Unfit {
    version: u64,
    /// None: it cannot be read.
    options: Option<RolloutOptions>,
}

impl Unfit {
    /// The one in force.
    fn of(in_force: &InForce) -> Self {
        Self { version: in_force.version, options: in_force.deployment.as_ref().map(|it| it.rollout) }
    }
}

impl Agent {
    /// The deployments that are remembered.
    pub async fn deployments(&self) -> Deployments {
        let in_force = self.in_force.lock().await;
        let deployments = in_force.history.entries().iter().rev().cloned().collect();
        Deployments { in_force: in_force.version, deployments }
    }

    /// Puts an earlier deployment in force again: the last good one, or that of this version. The one in force counts as rolled back. `of`:
    /// only if that one is in force.
    ///
    /// # Errors
    /// Another one is in force. There is none, its manifest is not kept or would not be accepted any more, or it cannot be stored.
    pub async fn roll_back(self: &Arc<Self>, to: Option<u64>, of: Option<u64>) -> Result<Applied, ApplyError> {
        let mut in_force = self.in_force.clone().lock_owned().await;
        if in_force.stopping {
            return Err(ApplyError::Stopping);
        }
        if let Some(of) = of.filter(|of| *of != in_force.version) {
            let now = in_force.version;
            return Err(ApplyError::Refused(format!(
                "deployment {of} is not in force any more: deployment {now} has taken its place, and nothing was rolled back; \
                 `marram history` shows how it came"
            )));
        }
        let roll_back = move |agent: Arc<Self>| async move {
            let entry = earlier(&in_force, to).map_err(ApplyError::Refused)?;
            let version = entry.accepted.version;
            let text = agent.text_of(&entry.accepted.digest).await;
            let text = text.map_err(|why| ApplyError::Refused(format!("deployment {version} cannot be had: {why}")))?;
            let (deployment, warnings) = agent.read(&text).map_err(ApplyError::Bad)?;
            let warnings = warnings.iter().map(ToString::to_string).collect();
            let way = Way::ByHand { of: in_force.entry().map(|entry| entry.accepted.version), to: version };
            tracing::info!(to = version, "an operator rolls the deployment back");
            let version = agent.accept(&mut in_force, &text, deployment.into(), way).await?;
            Ok(Applied { version, changed: true, warnings })
        };
        self.see_through(roll_back).await
    }

    /// Reads the history, before anything is put in force.
    pub(super) async fn recall(&self) {
        let (history, lost) = self.stored_history().await;
        // Also of those whose document is lost: no version is given twice.
        self.deployment_version.fetch_max(history.newest(), SeqCst);
        let mut in_force = self.in_force.lock().await;
        in_force.texts = history.digests().into_iter().map(str::to_owned).collect();
        (in_force.history, in_force.history_lost) = (history, lost);
    }

    /// Removes manifests that no deployment has. After what is stored is in the history: its own is needed.
    pub(super) async fn tidy(&self) {
        let in_force = self.in_force.lock().await;
        self.remove_stray_texts(&in_force.history).await;
    }

    /// Notes in the history that this deployment is stored, at a start.
    pub(super) fn remember(&self, in_force: &mut InForce, stored: &Stored) {
        let lost = in_force.history_lost;
        in_force.history.resume(stored.accepted(), lost);
        in_force.history.try_again(stored.version);
        let newest = in_force.history.newest().max(stored.version);
        self.deployment_version.fetch_max(newest, SeqCst);
    }

    /// Stores the history. If that fails now the next time does it, and at the worst the next start knows less.
    pub(super) async fn save_history(&self, in_force: &mut InForce) {
        if let Err(error) = self.try_save_history(in_force).await {
            tracing::error!(%error, "the history of deployments cannot be stored");
        }
    }

    async fn try_save_history(&self, in_force: &mut InForce) -> Result<(), DocumentError> {
        self.write_history(&in_force.history).await?;
        let kept: BTreeSet<String> = in_force.history.digests().into_iter().map(str::to_owned).collect();
        let gone = in_force.texts.difference(&kept).cloned().collect();
        in_force.texts = kept;
        self.remove_texts(gone).await;
        Ok(())
    }

    /// Keeps in the cache what the deployment in force needs, and what would take its place.
    pub(super) async fn keep_images(&self, in_force: &InForce, way_back: Option<Arc<Deployment>>) {
        let (Some(collector), Some(deployment)) = (&self.collector, &in_force.deployment) else { return };
        collector.want(std::iter::once(deployment.clone()).chain(way_back).collect()).await;
    }

    /// What would take the place of the deployment in force, as long as it is not known to be good.
    pub(super) async fn way_back(&self, in_force: &InForce) -> Option<Arc<Deployment>> {
        in_force.on_trial()?;
        let instead = self.instead(in_force, &Unfit::of(in_force), false).await;
        instead.ok().flatten().map(|(_, _, way_back)| way_back)
    }

    /// Modules that failed before a deployment came and that it leaves as they are: nothing is held against it.
    pub(super) async fn failing_before(&self, in_force: &InForce, new: &Deployment, way: &Way) -> BTreeSet<ModuleName> {
        let (Some(old), Some(entry)) = (&in_force.deployment, in_force.entry()) else { return BTreeSet::new() };
        let is_left = |name: &ModuleName| match (old.modules.get(name), new.modules.get(name)) {
            (Some(old), Some(new)) => !needs_new_instance(old, new),
            _ => false,
        };
        let left = self.unwell(entry).await.into_iter().filter(is_left).collect();
        excused(entry, way, left, &entry.accepted.failing_before)
    }

    /// The same of modules whose desired properties are not stored: their twin cannot be read, or takes nothing.
    pub(super) async fn unstored_before(
        &self,
        in_force: &InForce,
        new: &Deployment,
        way: &Way,
    ) -> BTreeSet<ModuleName> {
        let (Some(old), Some(entry)) = (&in_force.deployment, in_force.entry()) else { return BTreeSet::new() };
        // What is gone back to lacked it already, or was good before its twin was damaged.
        let back_to = match way {
            Way::Rollback { to, .. } | Way::ByHand { to, .. } => Some(*to),
            Way::Apply | Way::File | Way::Unknown => None,
        };
        let lacked = back_to.and_then(|to| in_force.history.entry(to));
        let lacked = lacked.map(|to| &to.accepted.unstored_before);
        let (mut lack, mut left) = (BTreeSet::new(), BTreeSet::new());
        for name in new.modules.keys() {
            let section = new.twins.get(name);
            let is_damaged = back_to.is_some() && self.twins.cell(name).await.is_err();
            let lacked = is_damaged || lacked.is_some_and(|lacked| lacked.contains(name));
            let is_left = old.modules.contains_key(name) && section == old.twins.get(name);
            if (lacked || is_left) && !self.twins.has_section(name, section).await {
                if lacked { &mut lack } else { &mut left }.insert(name.clone());
            }
        }
        lack.append(&mut excused(entry, way, left, &entry.accepted.unstored_before));
        lack
    }

    /// Modules that have failed under the deployment in force and not been healthy since. Of what nothing is known yet in this life of the
    /// host, what was noted before holds.
    async fn unwell(&self, entry: &Entry) -> BTreeSet<ModuleName> {
        let mut unwell = entry.unwell.clone();
        let fitness = self.ask(|reply| Event::Fitness { reply }).await.unwrap_or_default();
        for (name, fitness) in fitness {
            match fitness {
                Fitness::Unwell => drop(unwell.insert(name)),
                Fitness::Well => drop(unwell.remove(&name)),
                Fitness::Unknown => {}
            }
        }
        unwell
    }

    /// At a start: a deployment that is known to be bad, or on which the host has ended again and again, is not begun with. True: another
    /// one is in force.
    pub(super) async fn replace_at_boot(self: &Arc<Self>, in_force: &mut InForce) -> bool {
        let version = in_force.version;
        let because = match in_force.entry().map(|entry| (entry.outcome, entry.reason.clone())) {
            Some((Outcome::RolledBack, reason)) => reason.unwrap_or_else(|| "it was not good".into()),
            Some((Outcome::OnTrial, _)) => {
                let worn_out = in_force.history.begins(version, true);
                self.save_history(in_force).await;
                match worn_out {
                    Some(because) => because,
                    None => {
                        tokio::spawn(self.clone().note_long_life(version));
                        return false;
                    }
                }
            }
            _ => return false,
        };
        self.replace_or_stand_in(in_force, because, false).await
    }

    /// At a start: of the deployment that is stored nothing can be run. Nothing is held against it.
    pub(super) async fn go_back(self: &Arc<Self>, in_force: &mut InForce, because: String) {
        let version = in_force.version;
        if version == 0 || self.replace_or_stand_in(in_force, because.clone(), true).await {
            return;
        }
        tracing::error!(version, because, "no deployment is in force; apply a manifest to go on");
        in_force.version = 0;
        in_force.lost = Some(Lost { version, because });
    }

    /// At a start: replaces the deployment that is stored. What cannot be stored is put in force nevertheless, as the deployment that it was:
    /// a full disk must not let a device stand still. True: another one is in force.
    async fn replace_or_stand_in(self: &Arc<Self>, in_force: &mut InForce, because: String, again: bool) -> bool {
        let unfit = Unfit::of(in_force);
        let error = match self.replace(in_force, &unfit, because.clone(), again, true).await {
            Ok(replaced) => return replaced,
            Err(error) => error,
        };
        tracing::error!(%error, "the deployment is not good, and cannot be rolled back; tried again");
        let instead = self.instead(in_force, &unfit, true).await.ok().flatten();
        if let Some((to, _, deployment)) = &instead {
            let version = unfit.version;
            tracing::warn!(version, to, "the last good deployment goes on in its place meanwhile");
            in_force.set(deployment.clone(), *to);
            let because = format!("{because}; deployment {to} is in its place, which cannot be stored yet: {error}");
            in_force.lost = Some(Lost { version, because });
            let missing = self.put_in_force(in_force, true).await;
            if let Err(error) = missing.and_then(|missing| self.note_complete(in_force, missing)) {
                tracing::error!(%error, "the last good deployment is not wholly in force");
            }
        }
        // Nothing is, if the one that is stored cannot be read.
        let until = if instead.is_none() && unfit.options.is_none() { 0 } else { in_force.version };
        tokio::spawn(self.clone().replace_later(until, unfit, because, again));
        instead.is_some()
    }

    /// What could not be stored at the start is tried again until it is, or another deployment than `while_in_force` is in force.
    async fn replace_later(self: Arc<Self>, while_in_force: u64, unfit: Unfit, because: String, again: bool) {
        let mut wait = FIRST_RETRY;
        loop {
            tokio::time::sleep(wait).await;
            let mut in_force = self.in_force.clone().lock_owned().await;
            if in_force.stopping || in_force.version != while_in_force {
                return;
            }
            match self.replace(&mut in_force, &unfit, because.clone(), again, wait < LAST_RETRY).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(%error, "the deployment is not good, and cannot be rolled back; tried again")
                }
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// A deployment with which the host lives for a while is not what ends it.
    async fn note_long_life(self: Arc<Self>, version: u64) {
        tokio::time::sleep(LONG_LIFE).await;
        let mut in_force = self.in_force.lock().await;
        if !in_force.stopping && in_force.history.has_lived(version) {
            self.save_history(&mut in_force).await;
        }
    }

    /// The host stops in order: that is nothing against a deployment. Whoever puts another one in its place while the host is down finds
    /// which modules failed.
    pub(super) async fn note_stop(&self, in_force: &mut InForce) {
        let Some(entry) = in_force.entry() else { return };
        let (version, was_counted) = (in_force.version, entry.outcome == Outcome::OnTrial && entry.ends > 0);
        let unwell = self.unwell(entry).await;
        if was_counted {
            let _ = in_force.history.begins(version, false);
        }
        if in_force.history.note_unwell(version, unwell) || was_counted {
            self.save_history(in_force).await;
        }
    }

    /// Carries out what the supervisor finds of deployments, until it ends.
    pub(super) async fn judge(self: Arc<Self>, mut judgements: watch::Receiver<Option<Judged>>) {
        while judgements.changed().await.is_ok() {
            let mut wait = FIRST_RETRY;
            loop {
                let Some(judged) = judgements.borrow_and_update().clone() else { break };
                let Err(error) = self.carry_out(&judged, wait < LAST_RETRY).await else { break };
                tracing::error!(%error, "what became of the deployment cannot be stored; tried again");
                // Another judgement is carried out in its place.
                let _ = tokio::time::timeout(wait, judgements.changed()).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
        }
    }

    /// `patient`: as for [`Agent::instead`].
    async fn carry_out(self: &Arc<Self>, judged: &Judged, patient: bool) -> Result<(), ApplyError> {
        let mut in_force = self.in_force.clone().lock_owned().await;
        let Some(deployment) = in_force.deployment.clone() else { return Ok(()) };
        if in_force.stopping || in_force.version != judged.version {
            return Ok(());
        }
        match &judged.judgement {
            Judgement::Good => {
                in_force.history.decide(judged.version, Outcome::Good, None, self.clock.utc());
                self.try_save_history(&mut in_force).await.map_err(ApplyError::Store)?;
                tracing::info!(version = judged.version, "the deployment is good: all its modules are healthy");
                self.keep_images(&in_force, None).await;
                self.router.let_go().await;
            }
            Judgement::Bad { because, again } => {
                let unfit = Unfit::of(&in_force);
                if self.replace(&mut in_force, &unfit, because.clone(), *again, patient).await? {
                    return Ok(());
                }
                in_force.history.decide(judged.version, Outcome::Bad, Some(because.clone()), self.clock.utc());
                self.try_save_history(&mut in_force).await.map_err(ApplyError::Store)?;
                let is_rollback = in_force.entry().is_some_and(|it| matches!(it.accepted.way, Way::Rollback { .. }));
                let why = match deployment.rollout.rollback {
                    false => "`rollback` is off",
                    true if is_rollback => "it is a rollback itself",
                    true => "nothing good is known before it",
                };
                tracing::error!(
                    version = judged.version,
                    because,
                    "the deployment is not good; it stays in force: {why}"
                );
            }
        }
        Ok(())
    }

    /// Puts the last good deployment in the place of this one. False: there is none that may.
    async fn replace(
        &self,
        in_force: &mut InForce,
        unfit: &Unfit,
        because: String,
        again: bool,
        patient: bool,
    ) -> Result<bool, ApplyError> {
        let instead = self.instead(in_force, unfit, patient).await.map_err(ApplyError::Store)?;
        let Some((to, text, deployment)) = instead else { return Ok(false) };
        let of = unfit.version;
        tracing::error!(version = of, to, because, "the deployment is not good; it is rolled back");
        match self.accept(in_force, &text, deployment, Way::Rollback { of, to, because, again }).await {
            Ok(_) => Ok(true),
            Err(error @ ApplyError::Twin { .. }) => {
                tracing::error!(%error, "the deployment is not wholly in force");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// What takes the place of a deployment that is not good. If nothing can be in force, whatever was good is better.
    ///
    /// # Errors
    /// The best of them cannot be read now, and `patient` is set: it may be soon.
    async fn instead(
        &self,
        in_force: &InForce,
        unfit: &Unfit,
        patient: bool,
    ) -> Result<Option<(u64, String, Arc<Deployment>)>, DocumentError> {
        let (history, version) = (&in_force.history, unfit.version);
        let instead: Vec<&Entry> = match &unfit.options {
            Some(options) => history.instead_of(version, options).collect(),
            None => history.good_before(version).collect(),
        };
        for entry in instead {
            let version = entry.accepted.version;
            let read = match self.text_of(&entry.accepted.digest).await {
                Ok(text) => self.read_accepted(&text).map(|read| (text, read.0)).map_err(|faults| faults.to_string()),
                Err(error @ DocumentError::Failed(_)) if patient => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok((text, deployment)) => return Ok(Some((version, text, deployment.into()))),
                Err(error) => tracing::warn!(version, error, "an earlier good deployment cannot be used"),
            }
        }
        Ok(None)
    }
}

/// The deployment of this version, or the last good one.
fn earlier(in_force: &InForce, to: Option<u64>) -> Result<Entry, String> {
    // Where nothing is in force, all that there was lies before it.
    let before = if in_force.version == 0 { in_force.history.newest() + 1 } else { in_force.version };
    let entry = match to {
        Some(version) => in_force.history.entry(version).cloned().ok_or_else(|| {
            format!("the history has no deployment {version}; `marram history` shows those that it has")
        })?,
        None => in_force.history.good_before(before).next().cloned().ok_or(
            "there is no earlier deployment that was good and not rolled back; `marram history` shows them all, and \
             `--to VERSION` takes any of them",
        )?,
    };
    if in_force.entry().is_some_and(|now| now.accepted.digest == entry.accepted.digest) {
        let (version, now) = (entry.accepted.version, in_force.version);
        return Err(format!("the manifest of deployment {version} is in force already, as deployment {now}"));
    }
    Ok(entry)
}
