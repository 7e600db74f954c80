//! `$edgeHub`: routes and how long messages live (IoT Edge semantics, 1.4). Which route takes a message is decided in
//! [`crate::route`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use super::{
    fields::{Field, Fields},
    findings::{Findings, shown},
    json::Node,
    values,
};
use crate::{
    deployment::{DEFAULT_PRIORITY, Durability, Overflow, QueueOptions, RouteOptions, RouteSpec},
    route::{Condition, Route, Sink},
};

/// What `$edgeHub` says.
#[derive(Default)]
pub(super) struct Hub {
    pub(super) routes: Vec<RouteSpec>,
    pub(super) time_to_live: Option<Duration>,
}

/// What a route is read with: what it inherits, and the names of the modules that it may lead to.
struct Deployed<'a> {
    /// What `$edgeHub` says of all routes.
    defaults: RouteOptions,
    names: &'a BTreeSet<String>,
    /// By their lower case: routes do not tell case apart, and a search for each route would take the square of the manifest.
    by_lower_case: BTreeMap<String, &'a str>,
}

/// IoT Edge's number for "no priority given"; tooling writes it back.
const NO_PRIORITY: u32 = 2_000_000_000;
/// `sendTimeout`. A sender that waits longer than a minute runs into its own deadline.
const SEND_TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

const OVERFLOWS: [(&str, Overflow); 3] = [
    ("reject-new", Overflow::RejectNew),
    ("drop-oldest", Overflow::DropOldest),
    ("drop-lowest-priority", Overflow::DropLowestPriority),
];
const ORDERINGS: [(&str, bool); 2] = [("fifo", false), ("none", true)];
const DRAINS: [(&str, bool); 2] = [("oldest-first", false), ("live-first", true)];
const DURABILITIES: [(&str, Durability); 3] =
    [("memory", Durability::Memory), ("crash", Durability::Crash), ("power", Durability::Power)];

/// Reads the desired properties of `$edgeHub`. `deployed` are the names of the modules.
pub(super) fn read(desired: &Field<'_>, deployed: &BTreeSet<String>, found: &mut Findings) -> Hub {
    let mut hub = Hub::default();
    let Some(mut fields) = desired.fields(found) else { return hub };
    let has_objects = read_schema_version(&mut fields, found);
    // Before the routes, wherever it stands.
    let mut defaults = RouteOptions::default();
    if let Some(field) = fields.optional("marram", found) {
        read_options(&field, &mut defaults, false, found);
    }
    if let Some(routes) = fields.required("routes", found) {
        let by_lower_case = deployed.iter().map(|name| (name.to_ascii_lowercase(), name.as_str())).collect();
        hub.routes = read_routes(&routes, has_objects, &Deployed { defaults, names: deployed, by_lower_case }, found);
    }
    if let Some(config) = fields.required("storeAndForwardConfiguration", found) {
        hub.time_to_live = read_store_and_forward(&config, found);
    }
    if let Some(field) = fields.optional("mqttBroker", found) {
        found.warn(&field.at, "there is no MQTT broker here: ignored");
    }
    if let Some(field) = fields.optional("integrity", found) {
        found.warn(&field.at, "the signature of a manifest is not verified by this version");
    }
    fields.warn_of_rest(found);
    hub
}

/// Whether routes may be objects: since 1.1. An unreadable version counts as the newest, so that no second fault follows.
fn read_schema_version(fields: &mut Fields<'_>, found: &mut Findings) -> bool {
    let Some(field) = fields.required("schemaVersion", found) else { return true };
    match values::schema_version(&field, found) {
        Some((1, minor @ 0..=3, _)) => minor >= 1,
        Some(_) => {
            found.fault(&field.at, "this version of $edgeHub's schema is not known (1.0, 1.1, 1.2 and 1.3 are)");
            true
        }
        None => true,
    }
}

fn read_store_and_forward(config: &Field<'_>, found: &mut Findings) -> Option<Duration> {
    let mut fields = config.fields(found)?;
    let seconds = fields
        .required("timeToLiveSecs", found)
        .and_then(|field| values::integer(&field, i64::from(i32::MIN)..=i64::from(i32::MAX), found));
    if let Some(limits) = fields.optional("storeLimits", found)
        && let Some(mut limits_fields) = limits.fields(found)
    {
        if let Some(size) = limits_fields.optional("maxSizeBytes", found) {
            values::integer(&size, 0..=i64::MAX, found);
        }
        limits_fields.warn_of_rest(found);
        found.note(&limits.at, "accepted: the message log is bounded by `messages.max-bytes` of marram.toml, and each queue by a share of it");
    }
    fields.warn_of_rest(found);
    if seconds == Some(0) {
        found.warn(&config.at, "`timeToLiveSecs` is 0: messages expire at once (a negative number means never)");
    }
    // Negative: never.
    u64::try_from(seconds?).ok().map(Duration::from_secs)
}

fn read_routes(routes: &Field<'_>, has_objects: bool, deployed: &Deployed<'_>, found: &mut Findings) -> Vec<RouteSpec> {
    let Some(entries) = routes.entries(found) else { return Vec::new() };
    let mut read = Vec::new();
    for (name, node) in entries {
        let field = Field { node, at: routes.at.key(name) };
        if name.trim().is_empty() {
            found.fault(&field.at, "the name of a route may not be empty");
        } else if name.contains(['.', '$', '#', ' ']) {
            found.warn(&field.at, "IoT Hub takes no route whose name contains `.`, `$`, `#` or a space");
        }
        let route = match node {
            // 1.0: so a route is deleted.
            Node::Null if !has_objects => None,
            Node::Text(text) if !has_objects && text.trim().is_empty() => None,
            Node::Text(_) => read_text(&field, deployed, found).map(|route| plain(name, route, deployed)),
            Node::Object(_) if has_objects => read_object(name, &field, deployed, found),
            Node::Object(_) => {
                let hint = "set `schemaVersion` of $edgeHub to \"1.1\" or newer";
                found.fault_hint(&field.at, "a route is an object only since schema 1.1", hint);
                None
            }
            _ => field.expected("a string or an object", found),
        };
        read.extend(route);
    }
    check_queues(routes, &read, found);
    read
}

/// Two routes into one endpoint that disagree about its queue: one of them would be ignored.
fn check_queues(routes: &Field<'_>, read: &[RouteSpec], found: &mut Findings) {
    let mut first: BTreeMap<&Sink, &RouteSpec> = BTreeMap::new();
    for spec in read {
        let other = *first.entry(&spec.route.sink).or_insert(spec);
        if other.options.queue != spec.options.queue {
            let message = format!(
                "`overflow`, `ordering`, `drain` and `expiredToDeadLetter` belong to the queue, and route `{}` into the same one says otherwise",
                shown(&other.name)
            );
            let hint = "write the same in all routes into one input, or nothing in them and it in `marram` of $edgeHub";
            found.fault_hint(&routes.at.key(&spec.name), message, hint);
        }
    }
}

/// A route with IoT Edge's defaults and those of its deployment.
fn plain(name: &str, route: Route, deployed: &Deployed<'_>) -> RouteSpec {
    let mut options = deployed.defaults.clone();
    if route.sink == Sink::Upstream {
        options.max_attempts = None;
    }
    RouteSpec { name: name.to_owned(), route, priority: DEFAULT_PRIORITY, time_to_live: None, options }
}

fn read_text(field: &Field<'_>, deployed: &Deployed<'_>, found: &mut Findings) -> Option<Route> {
    let text = field.text(found)?;
    if text.trim().is_empty() {
        found.fault(&field.at, "a route may not be empty");
        return None;
    }
    let (mut route, rest) = match Route::parse_with_rest(text) {
        Ok(read) => read,
        Err(error) => {
            found.fault(&field.at, error.to_string());
            return None;
        }
    };
    if let Some(rest) = rest {
        found.warn(&field.at, format!("what stands after the sink is ignored: `{}`", shown(rest)));
    }
    if !route.source.may_match() {
        let hint = "sources are `/messages/modules/MODULE/outputs/OUTPUT`, `/twinChangeNotifications` and what these begin with, such \
                    as `/messages/*` and `/*`";
        let message = format!("nothing has the source `{}`", shown(&route.source.to_string()));
        found.warn_hint(&field.at, message, Some(hint.into()));
    }
    if route.condition.as_ref().is_some_and(Condition::is_never_true) {
        found.warn(&field.at, "no message makes this condition true: its result is not true or false");
    }
    if let Sink::Input { module, .. } = &mut route.sink {
        match deployed.by_lower_case.get(&module.to_ascii_lowercase()) {
            // Two modules never differ in case alone, so one endpoint has one spelling: the module's own.
            Some(name) => *module = (*name).into(),
            None => {
                let message = format!("there is no module `{}` in this deployment to receive this", shown(module));
                let names = deployed.names.iter().map(String::as_str);
                let hint = found.nearest(module, names).map(|name| format!("did you mean `{name}`?"));
                found.warn_hint(&field.at, message, hint);
            }
        }
    }
    Some(route)
}

fn read_object(name: &str, field: &Field<'_>, deployed: &Deployed<'_>, found: &mut Findings) -> Option<RouteSpec> {
    let mut fields = field.fields(found)?;
    let route = fields.required("route", found).and_then(|field| read_text(&field, deployed, found));
    let priority = fields.not_null("priority", found).and_then(|field| read_priority(&field, found));
    let seconds = fields.not_null("timeToLiveSecs", found);
    let seconds = seconds.and_then(|field| values::integer(&field, 0..=u32::MAX, found)).unwrap_or(0);
    let options = fields.optional("marram", found);
    fields.warn_of_rest(found);
    let Some(route) = route else {
        // For what is wrong with it.
        options.inspect(|field| read_options(field, &mut RouteOptions::default(), false, found));
        return None;
    };
    let mut spec = plain(name, route, deployed);
    if let Some(field) = options {
        let upstream = spec.route.sink == Sink::Upstream;
        read_options(&field, &mut spec.options, upstream, found);
    }
    spec.priority = priority.unwrap_or(DEFAULT_PRIORITY);
    // 0: the deployment's.
    spec.time_to_live = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    Some(spec)
}

fn read_priority(field: &Field<'_>, found: &mut Findings) -> Option<u8> {
    match field.node {
        Node::Number(number) if number.as_u64() == Some(NO_PRIORITY.into()) => None,
        _ => values::integer(field, 0..=DEFAULT_PRIORITY - 1, found),
    }
}

/// What a route says of its endpoint's queue.
fn read_queue(fields: &mut Fields<'_>, queue: &mut QueueOptions, found: &mut Findings) {
    if let Some(field) = fields.optional("overflow", found)
        && let Some(overflow) = values::word(&field, "overflow policy", &OVERFLOWS, found)
    {
        queue.overflow = overflow;
    }
    if let Some(field) = fields.optional("ordering", found)
        && let Some(unordered) = values::word(&field, "ordering", &ORDERINGS, found)
    {
        queue.unordered = unordered;
    }
    if let Some(field) = fields.optional("expiredToDeadLetter", found) {
        match field.node {
            Node::Bool(wanted) => queue.expired_to_dead_letter = *wanted,
            _ => drop(field.expected::<()>("true or false", found)),
        }
    }
    if let Some(field) = fields.optional("drain", found)
        && let Some(live_first) = values::word(&field, "drain", &DRAINS, found)
    {
        queue.live_first = live_first;
    }
}

/// The `marram` object of a route, or of `$edgeHub` for all routes: what stands in it takes the place of what `options` has.
fn read_options(field: &Field<'_>, options: &mut RouteOptions, upstream: bool, found: &mut Findings) {
    let Some(mut fields) = field.fields(found) else { return };
    if let Some(field) = fields.optional("sendTimeout", found)
        && let Some(timeout) = values::duration(&field, SEND_TIMEOUT_BOUNDS, found)
    {
        options.send_timeout = timeout;
    }
    if let Some(field) = fields.optional("maxAttempts", found)
        && let Some(attempts) = values::integer(&field, 1..=u32::MAX, found)
    {
        if upstream {
            found.warn(&field.at, "ignored: attempts to reach $upstream have no limit");
        } else {
            options.max_attempts = Some(attempts);
        }
    }
    if let Some(field) = fields.optional("durability", found)
        && let Some(durability) = values::word(&field, "durability", &DURABILITIES, found)
    {
        options.durability = durability;
    }
    read_queue(&mut fields, &mut options.queue, found);
    fields.refuse_rest(found);
}
