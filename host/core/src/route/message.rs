//! What conditions may ask about an accepted message: its properties, its body, and what the host knows of its sender
//! (IoT Edge semantics, 3.9 and 5).

use super::{Body, BodyPlan, Facts, Field, Found, Json};
use crate::message::Message;

/// Who sent a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The device, if known.
    pub device: Option<Box<str>>,
    /// The module; none when the sender is no module here.
    pub module: Option<Box<str>>,
    /// The module's output; none when the host sent it on the module's behalf, as it does with changes of twins.
    pub output: Option<Box<str>>,
}

/// A message and its sender, for all conditions that are tried on it; the body is read for the first that asks.
#[derive(Debug)]
pub struct MessageFacts<'m> {
    message: &'m Message,
    origin: &'m Origin,
    body: Body<'m>,
}

/// The facts of a message for one condition, whose paths have these slots in the plan.
pub(super) struct Numbered<'f, 'm> {
    pub(super) facts: &'f MessageFacts<'m>,
    pub(super) slots: &'f [usize],
}

/// System properties that are not the sender's to set.
const OF_THE_HOST: [&str; 4] = ["connectionDeviceId", "connectionModuleId", "outputName", "edgeHubOriginInterface"];

impl Origin {
    /// The system properties that the host sets, with their values.
    pub(super) fn all_system(&self) -> impl Iterator<Item = (&'static str, &str)> {
        OF_THE_HOST.into_iter().filter_map(|name| Some((name, self.system(name)?)))
    }

    /// A system property that the host sets.
    fn system(&self, name: &str) -> Option<&str> {
        let [device, module, output, interface] = OF_THE_HOST;
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        if is(device) {
            self.device.as_deref()
        } else if is(module) {
            self.module.as_deref()
        } else if is(output) {
            self.output.as_deref()
        } else if is(interface) {
            self.module.is_some().then_some("internal")
        } else {
            None
        }
    }
}

impl<'m> MessageFacts<'m> {
    /// Facts about `message` from `origin`; `plan` tells what of the body will be asked for.
    #[must_use]
    pub fn new(message: &'m Message, origin: &'m Origin, plan: &'m BodyPlan) -> Self {
        let system = message.system();
        let json = Json::Encoded {
            bytes: &message.body,
            content_type: system.and_then(|system| system.content_type.as_deref()),
            content_encoding: system.and_then(|system| system.content_encoding.as_deref()),
        };
        Self { message, origin, body: Body::new(plan, json) }
    }

    /// Whether a condition has asked for the body.
    #[must_use]
    pub fn body_was_read(&self) -> bool {
        self.body.was_read()
    }

    fn system(&self, name: &str) -> Option<&str> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        let system = self.message.system();
        if is("contentType") {
            system?.content_type.as_deref()
        } else if is("contentEncoding") {
            system?.content_encoding.as_deref()
        } else if is("messageId") {
            system?.message_id.as_deref()
        } else if is("cid") {
            system?.correlation_id.as_deref()
        } else {
            self.origin.system(name)
        }
    }
}

impl Facts for Numbered<'_, '_> {
    fn property(&self, name: &str) -> Field<'_> {
        self.facts.message.property(name).map_or(Field::Missing, Field::Text)
    }

    fn system(&self, name: &str) -> Field<'_> {
        self.facts.system(name).map_or(Field::Missing, Field::Text)
    }

    fn body(&self, path: usize) -> &Found<'_> {
        self.slots.get(path).map_or(&Found::Unreadable, |slot| self.facts.body.found(*slot))
    }

    fn body_fault(&self) -> Option<String> {
        self.facts.body.fault().map(ToString::to_string)
    }
}
