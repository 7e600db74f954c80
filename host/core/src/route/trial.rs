//! Tries routes on messages that are written down as JSON: what `marram route eval` answers and `marram route explain` is
//! given. Reads no file.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Body, BodyPlan, Condition, Facts, Field, Found, Json, Origin, Route, RouteError, Sink, SourcePattern};

/// A message as JSON: `{"properties": {}, "systemProperties": {}, "body": any JSON}`, or `"bodyText": "…"` in place of
/// `body`. A property is a string, or null, which no real message has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sample {
    properties: Map<String, Value>,
    system_properties: Map<String, Value>,
    body: Option<Value>,
    body_text: Option<String>,
}

/// The facts of a sample for one condition.
#[derive(Debug)]
pub struct SampleFacts<'s> {
    sample: &'s Sample,
    body: Body<'s>,
    /// Of each of the condition's paths in the plan.
    slots: &'s [usize],
}

/// One line of `marram route eval`.
#[derive(Deserialize)]
struct Line {
    condition: Option<String>,
    #[serde(default)]
    message: Sample,
    route: Option<String>,
    pattern: Option<String>,
    source: Option<String>,
}

/// Answers one line (`docs/routes.md` has the forms). Never fails: what is wrong with the line is an answer.
#[must_use]
pub fn answer(line: &str) -> Value {
    let line: Line = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(error) => return fault(error.column(), &format!("the line cannot be read: {error}")),
    };
    match line {
        Line { condition: Some(condition), message, route: None, pattern: None, source: None } => {
            evaluate(&condition, message)
        }
        Line { route: Some(route), condition: None, pattern: None, source: None, .. } => read(&route),
        Line { pattern: Some(pattern), source: Some(source), condition: None, route: None, .. } => {
            json!({ "match": SourcePattern::new(&pattern).matches(&source) })
        }
        _ => {
            let forms = "a line holds `condition` and `message`, or `route`, or `pattern` and `source`";
            fault(1, forms)
        }
    }
}

fn evaluate(condition: &str, message: Sample) -> Value {
    let sample = match message.checked() {
        Ok(sample) => sample,
        Err(why) => return fault(1, &why),
    };
    match Condition::parse(condition) {
        Ok(condition) => {
            let (plan, slots) = BodyPlan::sole(&condition);
            json!({ "result": condition.evaluate(&sample.facts(&plan, &slots)).to_string() })
        }
        Err(error) => error.to_answer(),
    }
}

fn read(route: &str) -> Value {
    let route = match Route::parse(route) {
        Ok(route) => route,
        Err(error) => return error.to_answer(),
    };
    let endpoint = match &route.sink {
        // IoT Edge's id of it.
        Sink::Upstream => "iothub".to_owned(),
        Sink::Input { module, input } => format!("{module}/{input}"),
    };
    json!({
        "source": route.source.to_string(),
        "condition": route.condition.as_ref().map_or("true", Condition::text),
        "sink": route.sink.to_string(),
        "endpoint": endpoint,
    })
}

impl RouteError {
    fn to_answer(&self) -> Value {
        fault(self.column, &self.message)
    }
}

fn fault(column: usize, message: &str) -> Value {
    json!({ "error": { "column": column, "message": message } })
}

impl Sample {
    /// Reads a sample.
    ///
    /// # Errors
    /// What is wrong with it, for its author.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str::<Self>(text).map_err(|error| format!("the message cannot be read: {error}"))?.checked()
    }

    /// With the system properties that the host sets on a message from `origin`, where the sample does not set them itself.
    #[must_use]
    pub fn sent_by(mut self, origin: &Origin) -> Self {
        for (name, value) in origin.all_system() {
            if field(&self.system_properties, name) == Field::Missing {
                self.system_properties.insert(name.into(), value.into());
            }
        }
        self
    }

    fn checked(mut self) -> Result<Self, String> {
        for (lead, properties) in [("properties", &self.properties), ("systemProperties", &self.system_properties)] {
            if let Some((name, value)) = properties.iter().find(|(_, value)| !value.is_string() && !value.is_null()) {
                return Err(format!("{lead}.{name}: a property is a string (or null), not {value}"));
            }
        }
        if let Some(body) = self.body.take() {
            if self.body_text.is_some() {
                return Err("`body` and `bodyText` stand for the same: write one of them".into());
            }
            self.body_text = Some(body.to_string());
        }
        Ok(self)
    }

    /// The facts for one condition, with what [`BodyPlan::sole`] says of it.
    #[must_use]
    pub fn facts<'s>(&'s self, plan: &'s BodyPlan, slots: &'s [usize]) -> SampleFacts<'s> {
        let system = |name| match field(&self.system_properties, name) {
            Field::Text(text) => Some(text),
            Field::Missing | Field::Null => None,
        };
        let json = Json::Decoded {
            text: self.body_text.as_deref().unwrap_or_default(),
            content_type: system("contentType"),
            content_encoding: system("contentEncoding"),
        };
        SampleFacts { sample: self, body: Body::new(plan, json), slots }
    }
}

fn field<'s>(properties: &'s Map<String, Value>, name: &str) -> Field<'s> {
    match properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, Value::String(text))) => Field::Text(text),
        Some(_) => Field::Null,
        None => Field::Missing,
    }
}

impl Facts for SampleFacts<'_> {
    fn property(&self, name: &str) -> Field<'_> {
        field(&self.sample.properties, name)
    }

    fn system(&self, name: &str) -> Field<'_> {
        field(&self.sample.system_properties, name)
    }

    fn body(&self, path: usize) -> &Found<'_> {
        self.slots.get(path).map_or(&Found::Unreadable, |slot| self.body.found(*slot))
    }

    fn body_fault(&self) -> Option<String> {
        self.body.fault().map(ToString::to_string)
    }
}
