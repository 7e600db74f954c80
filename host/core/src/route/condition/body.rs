//! Values of a JSON body: paths into it, and one pass over it that picks out all that the routes of a source ask for
//! (IoT Edge semantics, 3.10). Builds no tree of the body and keeps nothing that was not asked for.

use std::{borrow::Cow, cell::OnceCell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Condition, date::is_date_time};

/// `name[index].name…`: at most one index a segment, keys as written, case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPath {
    steps: Box<[Step]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

/// What was found at a path.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Found<'b> {
    /// There is no such key or index. Counts as null.
    #[default]
    Missing,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as a double.
    Number(f64),
    /// A string.
    Text(Cow<'b, str>),
    /// A string in the form of an ISO 8601 date and time: undefined, as in IoT Edge.
    DateTime,
    /// An object or an array: undefined.
    Container,
    /// The body cannot be read: undefined.
    Unreadable,
}

/// Why no path of a body has a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Only `application/json` is looked into.
    #[error("the content type is {}, not `application/json`", Shown(.0))]
    ContentType(Option<Box<str>>),
    /// Of these three only.
    #[error("the content encoding is {}, not `utf-8`, `utf-16` or `utf-32`", Shown(.0))]
    ContentEncoding(Option<Box<str>>),
    /// It is no JSON object.
    #[error("the body is not a JSON object: {0}")]
    Json(Box<str>),
}

/// The paths of several conditions, to be looked up in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPlan {
    /// A trie; the first is the root.
    nodes: Vec<Node>,
    slots: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Node {
    /// Where a value found here goes.
    slot: Option<usize>,
    /// Sorted by key.
    keys: Vec<(Box<str>, usize)>,
    /// Sorted by index.
    indices: Vec<(usize, usize)>,
}

/// A body, before it is known whether anybody asks.
#[derive(Debug, Clone)]
pub enum Json<'m> {
    /// As in a message: bytes, and the two properties that tell whether and how they are JSON.
    Encoded {
        /// The body.
        bytes: &'m [u8],
        /// Its media type.
        content_type: Option<&'m str>,
        /// Its encoding.
        content_encoding: Option<&'m str>,
    },
    /// Text that was decoded already, under the same two properties.
    Decoded {
        /// The body.
        text: &'m str,
        /// Its media type.
        content_type: Option<&'m str>,
        /// Its encoding.
        content_encoding: Option<&'m str>,
    },
}

/// A body that is read at most once, when the first value is asked for.
#[derive(Debug)]
pub struct Body<'m> {
    plan: &'m BodyPlan,
    json: Json<'m>,
    read: OnceCell<Result<Vec<Found<'m>>, Unreadable>>,
}

impl BodyPath {
    /// Reads a path, without `$body.`.
    ///
    /// # Errors
    /// The byte, and what is wrong there.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let (mut steps, mut at) = (Vec::new(), 0);
        for segment in text.split('.') {
            let (key, index) = match segment.split_once('[') {
                Some((key, index)) => (key, Some(index)),
                None => (segment, None),
            };
            if key.is_empty() || key.contains(']') {
                return Err((at, "a path into the body needs a name here, as in `$body.name[0].name`".into()));
            }
            if key.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err((at, format!("`{key}` cannot be a name in a path; an index is written `name[{key}]`")));
            }
            steps.push(Step::Key(key.into()));
            if let Some(index) = index {
                let digits = index.strip_suffix(']').filter(|digits| !digits.is_empty());
                let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                let why = "an index into the body is a number between `[` and `]`, one for each name";
                let digits = digits.ok_or_else(|| (at + key.len(), why.to_owned()))?;
                // Beyond what any array has: never found.
                steps.push(Step::Index(digits.parse().unwrap_or(usize::MAX)));
            }
            at += segment.len() + 1;
        }
        Ok(Self { steps: steps.into() })
    }
}

impl BodyPlan {
    /// A plan for these conditions; beside it, for each of them, the slots of its paths.
    #[must_use]
    pub fn new<'c>(conditions: impl IntoIterator<Item = &'c Condition>) -> (Self, Vec<Box<[usize]>>) {
        let mut plan = Self { nodes: vec![Node::default()], slots: 0 };
        let slots = conditions
            .into_iter()
            .map(|condition| condition.body_paths().iter().map(|path| plan.add(path)).collect())
            .collect();
        (plan, slots)
    }

    /// A plan for one condition, and the slots of its paths.
    #[must_use]
    pub fn sole(condition: &Condition) -> (Self, Box<[usize]>) {
        let (plan, mut slots) = Self::new([condition]);
        (plan, slots.pop().unwrap_or_default())
    }

    fn add(&mut self, path: &BodyPath) -> usize {
        let mut node = 0;
        for step in &path.steps {
            let next = self.nodes.len();
            let here = &mut self.nodes[node];
            let (place, known) = match step {
                Step::Key(key) => match here.keys.binary_search_by(|(known, _)| known.cmp(key)) {
                    Ok(place) => (place, Some(here.keys[place].1)),
                    Err(place) => (place, None),
                },
                Step::Index(index) => match here.indices.binary_search_by(|(known, _)| known.cmp(index)) {
                    Ok(place) => (place, Some(here.indices[place].1)),
                    Err(place) => (place, None),
                },
            };
            node = known.unwrap_or(next);
            if known.is_none() {
                match step {
                    Step::Key(key) => here.keys.insert(place, (key.clone(), next)),
                    Step::Index(index) => here.indices.insert(place, (*index, next)),
                }
                self.nodes.push(Node::default());
            }
        }
        *self.nodes[node].slot.get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Reads a text. Values borrow from it.
    fn read<'b>(&self, text: &'b str) -> Result<Vec<Found<'b>>, serde_json::Error> {
        let mut found = vec![Found::Missing; self.slots];
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Reader { plan: self, node: 0, root: true, found: &mut found }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found)
    }

    /// Forgets what was found below a node: a key that stands twice counts the last time.
    fn forget(&self, node: usize, found: &mut [Found<'_>]) {
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            let node = &self.nodes[node];
            if let Some(slot) = node.slot {
                found[slot] = Found::Missing;
            }
            below.extend(node.keys.iter().map(|(_, node)| node).chain(node.indices.iter().map(|(_, node)| node)));
        }
    }
}

impl<'m> Body<'m> {
    /// A body that nobody has asked for yet.
    #[must_use]
    pub fn new(plan: &'m BodyPlan, json: Json<'m>) -> Self {
        Self { plan, json, read: OnceCell::new() }
    }

    /// What is at the path of this slot of the plan.
    pub fn found(&self, slot: usize) -> &Found<'m> {
        match self.read() {
            Ok(found) => found.get(slot).unwrap_or(&Found::Unreadable),
            Err(_) => &Found::Unreadable,
        }
    }

    /// Why it cannot be read, if so.
    #[must_use]
    pub fn fault(&self) -> Option<&Unreadable> {
        self.read().as_ref().err()
    }

    /// Whether it was read, whether well or not.
    #[must_use]
    pub fn was_read(&self) -> bool {
        self.read.get().is_some()
    }

    fn read(&self) -> &Result<Vec<Found<'m>>, Unreadable> {
        self.read.get_or_init(|| self.json.read(self.plan))
    }
}

impl<'m> Json<'m> {
    fn read(&self, plan: &BodyPlan) -> Result<Vec<Found<'m>>, Unreadable> {
        let (Json::Encoded { content_type, content_encoding, .. }
        | Json::Decoded { content_type, content_encoding, .. }) = *self;
        if !content_type.is_some_and(|name| name.eq_ignore_ascii_case("application/json")) {
            return Err(Unreadable::ContentType(content_type.map(Into::into)));
        }
        let unknown = || Unreadable::ContentEncoding(content_encoding.map(Into::into));
        let encoding = content_encoding.and_then(Encoding::named).ok_or_else(unknown)?;
        let text = match *self {
            Json::Encoded { bytes, .. } => encoding.decode(bytes),
            Json::Decoded { text, .. } => text.into(),
        };
        let read = match text {
            Cow::Borrowed(text) => plan.read(text),
            Cow::Owned(text) => plan.read(&text).map(|found| found.into_iter().map(Found::into_owned).collect()),
        };
        read.map_err(|error| Unreadable::Json(error.to_string().into()))
    }
}

impl Found<'_> {
    fn into_owned<'o>(self) -> Found<'o> {
        match self {
            Found::Missing => Found::Missing,
            Found::Null => Found::Null,
            Found::Bool(value) => Found::Bool(value),
            Found::Number(value) => Found::Number(value),
            Found::Text(text) => Found::Text(text.into_owned().into()),
            Found::DateTime => Found::DateTime,
            Found::Container => Found::Container,
            Found::Unreadable => Found::Unreadable,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Utf8,
    Utf16,
    Utf32,
}

impl Encoding {
    fn named(name: &str) -> Option<Self> {
        let names = [("utf-8", Self::Utf8), ("utf-16", Self::Utf16), ("utf-32", Self::Utf32)];
        names.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| encoding)
    }

    /// Little-endian, as .NET's encodings of these names. What is malformed becomes U+FFFD.
    fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes),
            Self::Utf16 => {
                let (units, rest) = bytes.as_chunks::<2>();
                let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
                let odd = (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
                char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).chain(odd).collect()
            }
            Self::Utf32 => {
                let (units, rest) = bytes.as_chunks::<4>();
                let odd = (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
                let decode = |unit: &[u8; 4]| char::from_u32(u32::from_le_bytes(*unit));
                units.iter().map(|unit| decode(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).chain(odd).collect()
            }
        }
    }
}

/// Reads the value at a node of the plan.
struct Reader<'r, 'b> {
    plan: &'r BodyPlan,
    node: usize,
    /// Only an object is taken there.
    root: bool,
    found: &'r mut Vec<Found<'b>>,
}

impl<'b> Reader<'_, 'b> {
    fn put<E: de::Error>(self, value: Found<'b>) -> Result<(), E> {
        if self.root {
            return Err(E::custom("an object is needed"));
        }
        if let Some(slot) = self.plan.nodes[self.node].slot {
            self.found[slot] = value;
        }
        Ok(())
    }

    fn put_text<E: de::Error>(self, text: Cow<'b, str>) -> Result<(), E> {
        let value = if is_date_time(&text) { Found::DateTime } else { Found::Text(text) };
        self.put(value)
    }
}

impl<'b> DeserializeSeed<'b> for Reader<'_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Reader<'_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put(Found::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Found::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.put(Found::Number(value as f64))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Found::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.put(Found::Number(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'b str) -> Result<(), E> {
        self.put_text(text.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.put_text(text.to_owned().into())
    }

    fn visit_map<A: MapAccess<'b>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { plan, node, root, found } = self;
        let here = &plan.nodes[node];
        if let (Some(slot), false) = (here.slot, root) {
            found[slot] = Found::Container;
        }
        let mut seen = 0u64;
        while let Some(place) = entries.next_key_seed(Key(&here.keys))? {
            let Some(place) = place else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let node = here.keys[place].1;
            // A bit for each of the first keys; beyond them it is always forgotten.
            let bit = 1u64 << place.min(63);
            if seen & bit != 0 {
                plan.forget(node, found);
            }
            seen |= bit;
            entries.next_value_seed(Reader { plan, node, root: false, found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { plan, node, root, found } = self;
        if root {
            return Err(de::Error::custom("an object is needed"));
        }
        let here = &plan.nodes[node];
        if let Some(slot) = here.slot {
            found[slot] = Found::Container;
        }
        let mut wanted = here.indices.iter().peekable();
        for index in 0.. {
            let more = match wanted.next_if(|(next, _)| *next == index) {
                Some((_, node)) => items.next_element_seed(Reader { plan, node: *node, root: false, found })?.is_some(),
                None => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Finds a key among those wanted.
struct Key<'k>(&'k [(Box<str>, usize)]);

impl<'b> DeserializeSeed<'b> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'b>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok())
    }
}

/// A property's value for a message, or that there is none.
struct Shown<'s>(&'s Option<Box<str>>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "`{value}`"),
            None => f.write_str("not set"),
        }
    }
}
