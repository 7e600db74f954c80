//! The numbers of the host as a page for Prometheus: those of IoT Edge under its names, the others under `marram_`. Reads what the router
//! and the supervisor count, and counts nothing itself. `docs/metrics.md` tells people what each means.

mod listener;

use std::{collections::BTreeMap, sync::Arc};

use marram_core::{
    deployment::DEFAULT_PRIORITY,
    exposition::{Kind, Page},
    name::ModuleName,
    quantiles::Quantiles,
    route::{Sink, module_output},
    time::UtcMillis,
};

pub(crate) use self::listener::page as answer_with;
pub use self::listener::serve_metrics;
use crate::{
    Agent, ModuleError,
    counts::{OTHERS, Sender, SourceNumbers},
    endpoint::EndpointStats,
    methods::{EDGE_HUB, Methods, OPERATOR},
    router::Router,
    status::Status,
    supervisor::tally::ModuleNumbers,
    twins::TwinNumbers,
};

/// The number that stands for the priority of a route without one, in IoT Edge's labels.
const IOT_EDGE_DEFAULT_PRIORITY: &str = "2000000000";

/// What the supervisor knows.
pub(crate) struct Numbers {
    pub(crate) status: Status,
    /// With the version that the deployment gives each.
    pub(crate) modules: BTreeMap<ModuleName, (String, ModuleNumbers)>,
    /// Of this run of the host: another one than those before on this data folder.
    pub(crate) instance: u64,
}

impl Agent {
    /// All numbers, as a page of [`marram_core::exposition::CONTENT_TYPE`].
    ///
    /// # Errors
    /// The host is ending.
    pub async fn metrics(&self) -> Result<String, ModuleError> {
        let numbers = self.ask(|reply| crate::supervisor::Event::Numbers { reply }).await?;
        Ok(page(&numbers, self.router(), self.methods(), &self.twins().numbers(), self.now()))
    }
}

fn page(numbers: &Numbers, router: &Router, calls: &Methods, twins: &[TwinNumbers], now: UtcMillis) -> String {
    let status = &numbers.status;
    let instance = numbers.instance.to_string();
    let mut page = Page::new(&[("edge_device", &status.device_id), ("instance_number", &instance)]);
    let names = Names { device: &status.device_id };
    let sources = router.sources().numbers();
    received(&mut page, &names, &sources, &router.sizes());
    let queues = router.endpoints().into_iter().map(|endpoint| (endpoint.sink.clone(), endpoint.stats()));
    let queues: Vec<_> = queues.collect();
    sent(&mut page, &names, &queues);
    given_up(&mut page, &names, &sources, router);
    lengths(&mut page, &names, &queues, router);
    let running = status.modules.iter().filter(|module| matches!(&*module.status, "running" | "unhealthy")).count();
    let mut clients = page.metric("edgehub_connected_clients", Kind::Gauge, "Modules that run.");
    clients.count(&[], running as u64);
    reported(&mut page, &names, twins);
    retried(&mut page, &names, twins, &queues, router);
    methods(&mut page, &names, calls);
    modules(&mut page, numbers);
    own_of_queues(&mut page, &queues, now);
    own_of_host(&mut page, status);
    page.into_text()
}

/// Names as IoT Edge writes them in labels.
struct Names<'n> {
    device: &'n str,
}

impl Names<'_> {
    fn module(&self, module: &str) -> String {
        format!("{}/{module}", self.device)
    }

    /// `from` and `from_route_output`. What came from no module here has its source for a name; what is not counted apart, none.
    fn source<'s>(&self, sender: Option<&str>, source: &'s str) -> (String, &'s str) {
        match module_output(source) {
            Some((module, output)) => (self.module(module), output),
            None if source == OTHERS => (sender.map(|module| self.module(module)).unwrap_or_default(), ""),
            None => (source.to_owned(), ""),
        }
    }

    /// `to` and `to_route_input`.
    fn sink<'s>(&self, sink: &'s Sink) -> (String, &'s str) {
        match sink {
            Sink::Upstream => ("upstream".into(), ""),
            Sink::Input { module, input } => (self.module(module), input),
        }
    }

    /// `endpoint`.
    fn endpoint(&self, sink: &Sink) -> String {
        match sink {
            Sink::Upstream => "iothub".into(),
            Sink::Input { module, input } => format!("{}/{input}", self.module(module)),
        }
    }
}

fn priority(priority: u8) -> String {
    if priority == DEFAULT_PRIORITY { IOT_EDGE_DEFAULT_PRIORITY.into() } else { priority.to_string() }
}

type SizeEntry = (Sender, Arc<str>, Quantiles);
type SourceEntry = (Sender, Arc<str>, SourceNumbers);

/// What senders have handed over, and what was refused.
fn received(page: &mut Page, names: &Names<'_>, sources: &[SourceEntry], sizes: &[SizeEntry]) {
    let name = |entry: &SourceEntry| {
        let (id, output) = names.source(entry.0.as_deref(), &entry.1);
        (id, output.to_owned())
    };
    let mut messages =
        page.metric("edgehub_messages_received_total", Kind::Counter, "Messages accepted from their sender.");
    for entry in sources {
        let (id, output) = name(entry);
        messages.count(&[("route_output", &output), ("id", &id)], entry.2.messages);
    }
    let mut by_sender: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for entry in sources {
        let sum = by_sender.entry(name(entry).0).or_default();
        *sum = (sum.0 + entry.2.bytes, sum.1 + entry.2.messages);
    }
    let help = "Bodies and properties of messages accepted from their sender.";
    let recent = sizes.iter().map(|(sender, source, recent)| (names.source(sender.as_deref(), source).0, *recent));
    let recent: BTreeMap<String, Quantiles> = recent.collect();
    let mut sizes = page.metric("edgehub_message_size_bytes", Kind::Summary, help);
    for (id, (bytes, messages)) in &by_sender {
        sizes.summary(&[("id", id)], recent.get(id).copied().flatten(), *bytes, *messages);
    }
    let help = "Messages that were refused: their sender was told so, and they are stored nowhere.";
    let mut refused = page.metric("edgehub_messages_unack_total", Kind::Counter, help);
    for entry in sources {
        let (from, output) = name(entry);
        for (reason, count) in [("storage_failure", entry.2.not_stored), ("queue_full", entry.2.full)] {
            refused.count(&[("reason", reason), ("from", &from), ("from_route_output", &output)], count);
        }
    }
}

/// What was handled by its receiver.
fn sent(page: &mut Page, names: &Names<'_>, queues: &[(Sink, EndpointStats)]) {
    let help = "Messages that a module has handled or upstream has taken.";
    let mut sent = page.metric("edgehub_messages_sent_total", Kind::Counter, help);
    for (sink, stats) in queues {
        let (to, input) = names.sink(sink);
        for (source, of, count) in stats.handled.iter() {
            let (from, output) = names.source(None, source);
            let labels = [
                ("from", &*from),
                ("to", &to),
                ("from_route_output", output),
                ("to_route_input", input),
                ("priority", &priority(of)),
            ];
            sent.count(&labels, count);
        }
    }
}

fn given_up(page: &mut Page, names: &Names<'_>, sources: &[SourceEntry], router: &Router) {
    let help = "Messages that were given up; some of them are dead letters.";
    let mut dropped = page.metric("edgehub_messages_dropped_total", Kind::Counter, help);
    let mut write = |reason: &str, from: &str, output: &str, count: u64| {
        dropped.count(&[("reason", reason), ("from", from), ("from_route_output", output)], count);
    };
    for (sender, source, numbers) in sources {
        let (from, output) = names.source(sender.as_deref(), source);
        write("no_route", &from, output, numbers.no_route);
    }
    // Before the total, which rises first.
    let given_up = router.given_up();
    let mut removed = 0;
    for (source, reason, count) in given_up.iter() {
        let (from, output) = names.source(None, source);
        if reason == REMOVED {
            if from.is_empty() {
                continue; // among those below
            }
            removed += count;
        }
        write(reason, &from, output, count);
    }
    // Those that were in the log alone went unread; and of sources that are not told apart.
    write(REMOVED, "", "", router.endpoint_removed().saturating_sub(removed));
}

const REMOVED: &str = "endpoint_removed";

fn lengths(page: &mut Page, names: &Names<'_>, queues: &[(Sink, EndpointStats)], router: &Router) {
    let help = "Messages that wait or are out for delivery.";
    let mut lengths = page.metric("edgehub_queue_length", Kind::Gauge, help);
    for (sink, stats) in queues {
        let (endpoint, in_use) = (names.endpoint(sink), router.priorities(sink));
        let shown = (0..).zip(stats.len_of).filter(|(priority, len)| *len > 0 || in_use.contains(priority));
        shown.for_each(|(of, len)| lengths.count(&[("endpoint", &endpoint), ("priority", &priority(of))], len));
    }
}

/// Reported properties: stored here, and taken by upstream.
fn reported(page: &mut Page, names: &Names<'_>, twins: &[TwinNumbers]) {
    let both = |of: &TwinNumbers| [("edge_hub", of.stored), ("upstream", of.handed_over)];
    let of_module = |of: &TwinNumbers| {
        let id = names.module(of.module.as_str());
        both(of).into_iter().filter_map(move |(target, numbers)| Some((target, id.clone(), numbers?)))
    };
    let all: Vec<_> = twins.iter().flat_map(of_module).collect();
    let help = "Changes of reported properties that were stored here, and patches of them that upstream took.";
    let mut total = page.metric("edgehub_reported_properties_total", Kind::Counter, help);
    all.iter().for_each(|(target, id, of)| total.count(&[("target", target), ("id", id)], of.count));
    let help = "Time that these took.";
    let mut took = page.metric("edgehub_reported_properties_update_duration_seconds", Kind::Summary, help);
    for (target, id, of) in &all {
        took.summary_of_seconds(&[("target", target), ("id", id)], of.recent, of.millis, of.count);
    }
}

/// What failed and is made again, under the names that IoT Edge has for its operations.
fn retried(
    page: &mut Page,
    names: &Names<'_>,
    twins: &[TwinNumbers],
    queues: &[(Sink, EndpointStats)],
    router: &Router,
) {
    let mut retried: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for (sink, stats) in queues {
        match sink {
            Sink::Input { module, .. } => {
                *retried.entry((names.module(module), "SendMessage")).or_default() += stats.retried;
            }
            Sink::Upstream => {
                *retried.entry((names.module(EDGE_HUB), "SendMessageBatch")).or_default() += router.upstream_retries();
            }
        }
    }
    for of in twins {
        for (operation, count) in [("GetTwin", of.fetches_retried), ("UpdateReportedProperties", of.reports_retried)] {
            if count > 0 {
                retried.insert((names.module(of.module.as_str()), operation), count);
            }
        }
    }
    let help = "Operations that failed and are made again.";
    let mut total = page.metric("edgehub_operation_retry_total", Kind::Counter, help);
    retried.iter().for_each(|((id, operation), count)| total.count(&[("id", id), ("operation", operation)], *count));
}

/// Calls of methods, answered or not.
fn methods(page: &mut Page, names: &Names<'_>, calls: &Methods) {
    let pairs: Vec<_> = calls
        .numbers()
        .into_iter()
        .map(|of| {
            let from = if *of.from == *OPERATOR { "operator".to_owned() } else { names.module(&of.from) };
            (from, names.module(&of.to), of.calls)
        })
        .collect();
    let mut total = page.metric("edgehub_direct_methods_total", Kind::Counter, "Calls of methods of modules.");
    pairs.iter().for_each(|(from, to, calls)| total.count(&[("from", from), ("to", to)], calls.count));
    let help = "Time from a call of a method to its answer, or until the caller gave up.";
    let mut took = page.metric("edgehub_direct_method_duration_seconds", Kind::Summary, help);
    for (from, to, calls) in &pairs {
        took.summary_of_seconds(&[("from", from), ("to", to)], calls.recent, calls.millis, calls.count);
    }
    let help = "Calls of methods that wait for the module to run or to have time.";
    let mut waiting = page.metric("marram_methods_waiting", Kind::Gauge, help);
    calls.waiting().iter().for_each(|(name, calls)| waiting.count(&[("module_name", name.as_str())], *calls as u64));
    let help = "Calls of methods of `$edgeAgent`.";
    let mut agent = page.metric("edgeagent_direct_method_invocations_count", Kind::Counter, help);
    calls.agent_numbers().iter().for_each(|(name, calls)| agent.count(&[("method_name", name)], *calls));
}

fn modules(page: &mut Page, numbers: &Numbers) {
    let status = &numbers.status;
    let mut uptime =
        page.metric("edgeAgent_iotedged_uptime_seconds", Kind::Gauge, "Time since the start of the host process.");
    uptime.seconds(&[], status.uptime_ms);
    type Read = fn(&ModuleNumbers) -> u64;
    let times: [(_, _, Read); 2] = [
        ("edgeAgent_total_time_running_correctly_seconds", "Time in which the module was up.", |m| m.running),
        (
            "edgeAgent_total_time_expected_running_seconds",
            "Time in which the deployment wanted the module running.",
            |m| m.expected,
        ),
    ];
    for (name, help, read) in times {
        let mut time = page.metric(name, Kind::Gauge, help);
        numbers
            .modules
            .iter()
            .for_each(|(module, (_, of))| time.seconds(&[("module_name", module.as_str())], read(of)));
    }
    let counts: [(_, _, Read); 3] = [
        ("edgeAgent_module_start_total", "Instances that were started.", |m| m.starts),
        ("edgeAgent_module_stop_total", "Instances that were asked to end.", |m| m.stops),
        ("edgeAgent_module_prepare_update_total", "Updates whose preparation was begun.", |m| m.updates),
    ];
    for (name, help, read) in counts {
        let mut count = page.metric(name, Kind::Counter, help);
        for (module, (version, of)) in &numbers.modules {
            count.count(&[("module_name", module.as_str()), ("module_version", version)], read(of));
        }
    }
    let mut used = page.metric("edgeAgent_used_memory_bytes", Kind::Gauge, "Memory that the module's instance holds.");
    status.modules.iter().for_each(|m| used.count(&[("module_name", m.name.as_str())], m.memory_bytes));
    let mut most = page.metric("edgeAgent_total_memory_bytes", Kind::Gauge, "Most memory that the module may hold.");
    status.modules.iter().for_each(|m| most.count(&[("module_name", m.name.as_str())], m.memory_limit));
    let help = "Restarts of the module in the version that is deployed.";
    let mut restarts = page.metric("marram_module_restarts", Kind::Gauge, help);
    status.modules.iter().for_each(|m| restarts.count(&[("module_name", m.name.as_str())], m.restart_count.into()));
    let mut state = page.metric("marram_module_status", Kind::Gauge, "1 for the status that the module is in.");
    for module in &status.modules {
        state.count(&[("module_name", module.name.as_str()), ("status", &module.status)], 1);
    }
}

fn own_of_queues(page: &mut Page, queues: &[(Sink, EndpointStats)], now: UtcMillis) {
    type Read = fn(&EndpointStats) -> u64;
    let counted: [(_, _, _, Read); 5] = [
        ("marram_queue_bytes", Kind::Gauge, "Bytes that wait or are out for delivery.", |stats| stats.bytes as u64),
        ("marram_queue_max_bytes", Kind::Gauge, "Most bytes that the queue takes.", |stats| stats.max_bytes as u64),
        ("marram_queue_accepted_total", Kind::Counter, "Messages that came into the queue.", |stats| stats.accepted),
        ("marram_queue_delivered_total", Kind::Counter, "Messages that were handled.", |stats| stats.handled.total()),
        ("marram_queue_retried_total", Kind::Counter, "Deliveries that failed and are made again.", |s| s.retried),
    ];
    for (name, kind, help, read) in counted {
        let mut metric = page.metric(name, kind, help);
        queues.iter().for_each(|(sink, stats)| metric.count(&[("endpoint", &sink.queue_name())], read(stats)));
    }
    let help = "How long the oldest message waits, by the device's clock; 0 when none waits.";
    let mut oldest = page.metric("marram_queue_oldest_seconds", Kind::Gauge, help);
    for (sink, stats) in queues {
        let age = stats.oldest.map_or(0, |oldest| now.0.saturating_sub(oldest.0));
        oldest.seconds(&[("endpoint", &sink.queue_name())], age);
    }
    let help = "Messages that the queue has given up.";
    let mut dropped = page.metric("marram_queue_dropped_total", Kind::Counter, help);
    for (sink, stats) in queues {
        for (reason, count) in stats.given_up.totals() {
            dropped.count(&[("endpoint", &sink.queue_name()), ("reason", reason)], count);
        }
    }
}

fn own_of_host(page: &mut Page, status: &Status) {
    let log = &status.message_log;
    let gauges = [
        ("marram_message_log_bytes", "Bytes of the files of the message log.", log.bytes),
        ("marram_message_log_max_bytes", "Most bytes of the files of the message log.", log.max_bytes),
        ("marram_message_log_refuses", "1 while the message log takes nothing.", log.error.is_some().into()),
        ("marram_dead_letters", "Dead letters that are kept.", log.dead_letters),
        ("marram_upstream_refuses", "1 while upstream takes nothing.", status.upstream_error.is_some().into()),
        ("marram_deployment_version", "Version of the deployment in force; 0 = none.", status.deployment_version),
    ];
    for (name, help, value) in gauges {
        page.metric(name, Kind::Gauge, help).count(&[], value);
    }
    let counters = [
        ("marram_message_log_damaged_total", "Damaged places that were found in the message log.", log.damaged),
        ("marram_message_log_lost_total", "Messages that were lost by that, at most.", log.lost),
    ];
    for (name, help, value) in counters {
        page.metric(name, Kind::Counter, help).count(&[], value);
    }
    let mut build = page.metric("marram_build_info", Kind::Gauge, "1; the version of the host is a label.");
    build.count(&[("version", &status.version)], 1);
}
