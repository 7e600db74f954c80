//! Tries routes on messages that are written down as JSON: what `marram route eval` answers and `marram route explain` is
//! given. Reads no file.

use serde_json::{Map, Value, json};

use super::{Body, BodyPlan, Condition, Facts, Field, Found, Json, Origin, Route, RouteError, Sink, SourcePattern};

/// A message as JSON: `{"properties": {}, "systemProperties": {}, "body": any JSON}`, or `"bodyText": "…"` in place of
/// `body`. A property is a string, or null, which no real message has.
#[derive(Debug, Clone, Default, PartialEq)]
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
struct Line {
    condition: Option<String>,
    message: Sample,
    route: Option<String>,
    pattern: Option<String>,
    source: Option<String>,
}

/// Answers one line (`docs/routes.md` has the forms). Never fails: what is wrong with the line is an answer.
#[must_use]
pub fn answer(line: &str) -> Value {
    let line: Value = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(error) => return fault(error.column(), &format!("the line cannot be read: {error}")),
    };
    match Line::of(line) {
        Err(why) => fault(1, &why),
        Ok(line) => line.answer(),
    }
}

impl Line {
    fn of(line: Value) -> Result<Self, String> {
        let mut line = object("a line", line)?;
        Ok(Self {
            message: line.remove("message").map_or_else(|| Ok(Sample::default()), Sample::of)?,
            condition: text("condition", &mut line)?,
            route: text("route", &mut line)?,
            pattern: text("pattern", &mut line)?,
            source: text("source", &mut line)?,
        })
    }

    fn answer(self) -> Value {
        match self {
            Self { condition: Some(condition), message, route: None, pattern: None, source: None } => {
                evaluate(&condition, &message)
            }
            Self { route: Some(route), condition: None, pattern: None, source: None, .. } => read(&route),
            Self { pattern: Some(pattern), source: Some(source), condition: None, route: None, .. } => {
                json!({ "match": SourcePattern::new(&pattern).matches(&source) })
            }
            _ => fault(1, "a line holds `condition` and `message`, or `route`, or `pattern` and `source`"),
        }
    }
}

/// The object that `what` must be.
fn object(what: &str, value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("{what} must be an object, not {}", kind(&other))),
    }
}

/// The text under a key, if any; null is none.
fn text(key: &str, object: &mut Map<String, Value>) -> Result<Option<String>, String> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` must be a string, not {}", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn evaluate(condition: &str, sample: &Sample) -> Value {
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
        Self::of(serde_json::from_str(text).map_err(|error| format!("the message cannot be read: {error}"))?)
    }

    /// Null is a message without anything.
    fn of(message: Value) -> Result<Self, String> {
        if message.is_null() {
            return Ok(Self::default());
        }
        let mut message = object("a message", message)?;
        let mut properties = |key: &str| match message.remove(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(value) => object(&format!("`{key}`"), value),
        };
        let (properties, system_properties) = (properties("properties")?, properties("systemProperties")?);
        let body = message.remove("body").filter(|body| !body.is_null());
        Self { properties, system_properties, body, body_text: text("bodyText", &mut message)? }.checked()
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
