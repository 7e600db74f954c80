//! Brings twins and upstream together: hands over what was reported, and takes what the cloud wants. When is `core::twin`'s.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use marram_core::{
    name::ModuleName,
    ports::{Reported, UpstreamError, UpstreamEvent, UpstreamTwins},
    twin::{CloudPatch, Merged, SyncStep, TwinSync},
};
use tokio::sync::{Notify, mpsc, watch};

use super::Twins;
use crate::{clock::Clock, delivery::sleep_until};

/// Events of upstream that wait. A cloud session hands over one at a time and waits for room here.
pub(crate) const EVENTS: usize = 64;

/// Time for the last reports at a stop. The journal takes them in milliseconds; a cloud that does not gets them at the next start.
const LAST_REPORTS: Duration = Duration::from_secs(3);

/// Modules that have reported something.
#[derive(Default)]
pub(crate) struct Unsent {
    modules: Mutex<BTreeSet<ModuleName>>,
    /// The modules that are deployed since this was asked last.
    deployed: Mutex<Option<Vec<ModuleName>>>,
    bell: Notify,
}

impl Unsent {
    pub(super) fn add(&self, module: &ModuleName) {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).insert(module.clone());
        self.bell.notify_one();
    }

    /// These modules are deployed now.
    pub(super) fn deploy(&self, modules: Vec<ModuleName>) {
        *self.deployed.lock().unwrap_or_else(PoisonError::into_inner) = Some(modules);
        self.bell.notify_one();
    }

    fn take_deployed(&self) -> Option<Vec<ModuleName>> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take(&self) -> BTreeSet<ModuleName> {
        std::mem::take(&mut *self.modules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task.
pub(crate) struct SyncTask {
    pub(crate) clock: Clock,
    pub(crate) twins: Arc<Twins>,
    pub(crate) upstream: Arc<dyn UpstreamTwins>,
    pub(crate) events: mpsc::Receiver<UpstreamEvent>,
    /// True: nothing more is coming.
    pub(crate) closing: watch::Receiver<bool>,
}

impl SyncTask {
    /// Ends when `closing` is set, and what was reported is handed over or has had its time. A report that is under way then has the
    /// same time: one that is broken off may come twice. What was not taken is kept with the twin.
    pub(crate) async fn run(self) {
        let mut closing = self.closing.clone();
        let out_of_time = async {
            let _ = closing.wait_for(|is_closing| *is_closing).await; // an error: the agent is gone
            tokio::time::sleep(LAST_REPORTS).await;
        };
        tokio::select! {
            biased;
            () = self.work() => {}
            () = out_of_time => {
                tracing::warn!("upstream did not take all reported properties before the stop; the next start hands them over");
            }
        }
    }

    async fn work(mut self) {
        let mut sync = TwinSync::default();
        let mut ending = self.closing.clone();
        while !*self.closing.borrow_and_update() {
            if let Some(modules) = self.twins.unsent().take_deployed() {
                sync.deployed(modules);
            }
            self.twins.unsent().take().into_iter().for_each(|module| sync.reported(module));
            if let Some(step) = sync.next(self.clock.uptime()) {
                // What the cloud wants has time until the next start; the last reports do not.
                let until = matches!(step, SyncStep::Fetch(_)).then_some(&mut ending);
                tokio::select! {
                    biased;
                    () = self.carry_out(&mut sync, &step) => {}
                    () = closed(until) => {}
                }
                continue;
            }
            let unsent = self.twins.unsent().clone();
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.note(&mut sync, event).await,
                () = unsent.bell.notified() => {}
                () = sleep_until(self.clock, sync.next_due()) => {}
                changed = self.closing.changed() => if changed.is_err() { break },
            }
        }
        self.twins.unsent().take().into_iter().for_each(|module| sync.reported(module));
        for module in sync.unreported() {
            // One that is refused keeps no other away.
            if let Err(error) = self.report(module).await {
                tracing::warn!(%module, %error, "upstream does not take reported properties; the next start hands them over");
            }
        }
    }

    async fn note(&self, sync: &mut TwinSync, event: UpstreamEvent) {
        match event {
            UpstreamEvent::Connected => sync.connected(self.twins.deployed()),
            UpstreamEvent::DesiredChanged { module, patch_json } => {
                let merged = match CloudPatch::read(&patch_json) {
                    Ok(change) => self.merge(&module, change).await,
                    Err(error) => Err(error.to_string()),
                };
                match merged {
                    Ok(Merged::InForce | Merged::Known) => {}
                    Ok(Merged::Gap) => sync.gap(module),
                    Err(error) => {
                        tracing::warn!(%module, error, "cannot merge a change of the cloud; asking for the whole twin");
                        sync.gap(module);
                    }
                }
            }
        }
    }

    async fn merge(&self, module: &ModuleName, change: CloudPatch) -> Result<Merged, String> {
        let cell = self.twins.cell(module).await.map_err(|error| error.to_string())?;
        cell.merge_cloud_patch(change).await.map_err(|error| error.to_string())
    }

    async fn carry_out(&self, sync: &mut TwinSync, step: &SyncStep) {
        let result = match step {
            SyncStep::Fetch(module) => self.fetch(module).await,
            SyncStep::Report(module) => self.report(module).await,
        };
        match result {
            Ok(()) => sync.done(step, self.clock.uptime()),
            Err(error) => {
                let (what, module) = match step {
                    SyncStep::Fetch(module) => ("upstream does not tell a module's twin; asking again", module),
                    SyncStep::Report(module) => ("upstream does not take reported properties; they are kept", module),
                };
                tracing::warn!(%module, %error, "{what}");
                self.twins.note_retry(step);
                sync.failed(step, self.clock.uptime(), self.clock.jitter());
            }
        }
    }

    async fn fetch(&self, module: &ModuleName) -> Result<(), UpstreamError> {
        let Some(cloud) = self.upstream.twin(module).await? else { return Ok(()) };
        let cell = self.twins.cell(module).await.map_err(|error| UpstreamError(error.to_string()))?;
        match cell.take_cloud_twin(cloud).await {
            Ok(()) => Ok(()),
            // Trying again would not help: the next change in the cloud may.
            Err(super::TwinError::Limit(faults)) => {
                tracing::error!(%module, %faults, "the cloud's desired properties break a limit; those before stay in force");
                Ok(())
            }
            Err(error) => Err(UpstreamError(error.to_string())),
        }
    }

    async fn report(&self, module: &ModuleName) -> Result<(), UpstreamError> {
        let cell = self.twins.cell(module).await.map_err(|error| UpstreamError(error.to_string()))?;
        let twin = cell.twin();
        let Some(unreported) = twin.unreported() else { return Ok(()) };
        let reported = Reported {
            module: module.clone(),
            version: unreported.version,
            patch: unreported.patch,
            at: self.clock.utc(),
        };
        let begun = self.clock.uptime();
        self.upstream.report(&reported).await?;
        cell.counts.note_handed_over(self.clock.uptime().since(begun));
        cell.note(|now| now.upstream_took(twin.reported())).await;
        Ok(())
    }
}

/// Ends when that is set; none: never.
async fn closed(closing: Option<&mut watch::Receiver<bool>>) {
    match closing {
        Some(closing) => drop(closing.wait_for(|is_closing| *is_closing).await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use marram_core::{ports::BoxFuture, twin::CloudTwin};

    use super::{super::tests::NoDisk, *};

    /// What a cloud does with a question.
    #[derive(Clone, Copy, PartialEq)]
    enum Does {
        Answer,
        Refuse,
        Hang,
    }

    /// Says what it is asked: `get MODULE` or `MODULE`.
    struct Cloud {
        does: fn(&str) -> Does,
        asked: mpsc::UnboundedSender<String>,
    }

    impl Cloud {
        async fn ask(&self, what: String) -> Result<(), UpstreamError> {
            let does = (self.does)(&what);
            self.asked.send(what).unwrap();
            match does {
                Does::Answer => Ok(()),
                Does::Refuse => Err(UpstreamError("not this one".into())),
                Does::Hang => std::future::pending().await,
            }
        }
    }

    impl UpstreamTwins for Cloud {
        fn report<'a>(&'a self, reported: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
            Box::pin(self.ask(reported.module.to_string()))
        }

        fn twin<'a>(&'a self, module: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
            Box::pin(async move {
                self.ask(format!("get {module}")).await?;
                Ok(None)
            })
        }
    }

    struct World {
        twins: Arc<Twins>,
        asked: mpsc::UnboundedReceiver<String>,
        events: mpsc::Sender<UpstreamEvent>,
        closing: watch::Sender<bool>,
        task: Option<SyncTask>,
    }

    fn world(does: fn(&str) -> Does) -> World {
        let clock = Clock::start();
        let twins = Arc::new(Twins::new(Arc::new(NoDisk), clock, None));
        let (to_asked, asked) = mpsc::unbounded_channel();
        let (events, from_events) = mpsc::channel(EVENTS);
        let (closing, is_closing) = watch::channel(false);
        let upstream = Arc::new(Cloud { does, asked: to_asked });
        let task = SyncTask { clock, twins: twins.clone(), upstream, events: from_events, closing: is_closing };
        World { twins, asked, events, closing, task: Some(task) }
    }

    impl World {
        async fn report(&self, module: &str) {
            let cell = self.twins.cell(&ModuleName::new(module).unwrap()).await.unwrap();
            cell.report(r#"{"r":1}"#.into()).await.unwrap();
        }

        fn start(&mut self) -> tokio::task::JoinHandle<()> {
            tokio::spawn(self.task.take().unwrap().run())
        }

        fn all_asked(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
        }
    }

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_report_that_upstream_never_answers_holds_a_stop_up_for_three_seconds() {
        let mut world = world(|_| Does::Hang);
        world.report("a").await;
        let task = world.start();
        assert_eq!(world.asked.recv().await.unwrap(), "a");
        tokio::time::sleep(LONG).await;
        assert!(!task.is_finished(), "it has all the time that it takes, but for a stop");
        let begun = tokio::time::Instant::now();
        world.closing.send(true).unwrap();
        tokio::time::timeout(LONG, task).await.expect("it ends").unwrap();
        assert!(begun.elapsed() <= LAST_REPORTS + Duration::from_millis(10), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_the_cloud_never_answers_keeps_no_last_report_away() {
        let mut world = world(|what| if what.starts_with("get") { Does::Hang } else { Does::Answer });
        world.twins.deploy(vec![ModuleName::new("a").unwrap()]);
        world.events.send(UpstreamEvent::Connected).await.unwrap();
        let task = world.start();
        assert_eq!(world.asked.recv().await.unwrap(), "get a");
        world.report("b").await;
        world.closing.send(true).unwrap();
        tokio::time::timeout(LONG, task).await.expect("it ends").unwrap();
        assert!(world.all_asked().contains(&"b".to_owned()));
    }

    #[tokio::test]
    async fn at_a_stop_one_report_that_is_refused_keeps_no_other_away() {
        let mut world = world(|what| if what == "a" { Does::Refuse } else { Does::Answer });
        for module in ["a", "b", "c"] {
            world.report(module).await;
        }
        world.closing.send(true).unwrap();
        world.start().await.unwrap();
        assert_eq!(world.all_asked(), ["a", "b", "c"]);
        let unreported = |module: &str| {
            let cell = world.twins.cells.lock().unwrap()[&ModuleName::new(module).unwrap()].clone();
            cell.twin().unreported().is_some()
        };
        assert_eq!([unreported("a"), unreported("b"), unreported("c")], [true, false, false]);
    }
}
