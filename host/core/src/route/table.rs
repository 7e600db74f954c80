//! Finds the routes of a source, and of those the targets of a message (IoT Edge semantics, 3.4). Holds no queue.

use std::collections::BTreeMap;

use super::{BodyPlan, Condition, MessageFacts, Origin, Sink, Target, message::Numbered, source::source_key};
use crate::{
    deployment::{Deployment, RouteSpec},
    message::Message,
};

/// The routes of a deployment by the prefix that they look for. What a look-up costs depends on the parts of the source
/// and on the routes that it finds, hardly on how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// A trie of the prefixes' parts, each with its place among the nodes; the first node, if any, is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    below: BTreeMap<Box<str>, usize>,
    /// Places in the deployment's list.
    routes: Vec<usize>,
}

/// All that may receive a message of one source, by sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// In the order of the sinks; each sink once.
    pub sinks: Box<[Candidate]>,
    /// What the conditions together ask of the body.
    plan: BodyPlan,
}

/// A sink and the routes that lead there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The sink.
    pub sink: Sink,
    /// The most urgent first, of equals the one that stands first in the document; the first whose condition is true
    /// decides. Nothing stands behind one without a condition.
    pub choices: Box<[Choice]>,
}

/// One route to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its condition, if any, and where the values of its paths are in the plan.
    condition: Option<(Condition, Box<[usize]>)>,
    /// What it asks for.
    pub target: Target,
}

impl Table {
    /// The table of a deployment's routes.
    #[must_use]
    pub fn new(deployment: &Deployment) -> Self {
        let mut nodes = vec![Node::default()];
        for (place, spec) in deployment.routes.iter().enumerate() {
            let mut at = 0;
            for part in parts(spec.route.source.key()) {
                let next = nodes.len();
                at = *nodes[at].below.entry(part.into()).or_insert(next);
                if at == next {
                    nodes.push(Node::default());
                }
            }
            nodes[at].routes.push(place);
        }
        Self { nodes }
    }

    /// The places, in the deployment, of the routes whose source matches, in the order of the document.
    #[must_use]
    pub fn routes(&self, source: &str) -> Vec<usize> {
        let (key, mut found) = (source_key(source), Vec::new());
        let mut node = self.nodes.first();
        for part in parts(&key) {
            node = node.and_then(|node| self.nodes.get(*node.below.get(part)?));
            let Some(node) = node else { break };
            found.extend_from_slice(&node.routes);
        }
        found.sort_unstable();
        found
    }

    /// All that may receive a message from `source`. `deployment` is the one that the table was made of.
    #[must_use]
    pub fn candidates(&self, deployment: &Deployment, source: &str) -> Candidates {
        let mut by_sink: BTreeMap<&Sink, Vec<&RouteSpec>> = BTreeMap::new();
        for spec in self.routes(source).into_iter().filter_map(|place| deployment.routes.get(place)) {
            by_sink.entry(&spec.route.sink).or_default().push(spec);
        }
        for specs in by_sink.values_mut() {
            // Stable: equals stay in the order of the document.
            specs.sort_by_key(|spec| spec.priority);
            if let Some(last) = specs.iter().position(|spec| spec.route.condition.is_none()) {
                specs.truncate(last + 1);
            }
        }
        let conditions = by_sink.values().flatten().filter_map(|spec| spec.route.condition.as_ref());
        let (plan, slots) = BodyPlan::new(conditions);
        let mut slots = slots.into_iter();
        let mut choice = |spec: &RouteSpec| Choice {
            condition: spec.route.condition.clone().map(|condition| (condition, slots.next().unwrap_or_default())),
            target: target(deployment, spec),
        };
        let sinks = by_sink.into_iter().map(|(sink, specs)| Candidate {
            sink: sink.clone(),
            choices: specs.into_iter().map(&mut choice).collect(),
        });
        Candidates { sinks: sinks.collect(), plan }
    }
}

/// What stands between the slashes; the last one ends the key.
fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split_terminator('/')
}

fn target(deployment: &Deployment, spec: &RouteSpec) -> Target {
    Target {
        sink: spec.route.sink.clone(),
        priority: spec.priority,
        time_to_live: spec.time_to_live.or(deployment.time_to_live),
        send_timeout: spec.options.send_timeout,
        max_attempts: match spec.route.sink {
            Sink::Upstream => None,
            Sink::Input { .. } => spec.options.max_attempts,
        },
        durability: spec.options.durability,
    }
}

impl Candidates {
    /// Facts about a message that these candidates are chosen by.
    #[must_use]
    pub fn facts<'m>(&'m self, message: &'m Message, origin: &'m Origin) -> MessageFacts<'m> {
        MessageFacts::new(message, origin, &self.plan)
    }

    /// Whether every message of the source goes to all of the sinks, whatever it says.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        self.sinks.iter().all(|sink| sink.choices.first().is_some_and(|choice| choice.condition.is_none()))
    }
}

impl Candidate {
    /// The route that decides for this message, if any takes it.
    #[must_use]
    pub fn choose(&self, facts: &MessageFacts<'_>) -> Option<&Choice> {
        self.place(facts).map(|place| &self.choices[place])
    }

    /// Its place among the choices.
    #[must_use]
    pub fn place(&self, facts: &MessageFacts<'_>) -> Option<usize> {
        self.choices.iter().position(|choice| choice.takes(facts))
    }
}

impl Choice {
    fn takes(&self, facts: &MessageFacts<'_>) -> bool {
        let Some((condition, slots)) = &self.condition else { return true };
        condition.is_true(&Numbered { facts, slots })
    }
}
